//! What was counted on a server that another one may replace.
//!
//! A commit that was answered, and flushed, is on that server's disk. A standby that is promoted may not have it. So what
//! was counted is kept for a while, to be looked after on the next server: its keys, and what the fate of its
//! transaction is known by ([`Survival`](crate::decide::chunk::survival::Survival)). Keys take memory, and a standby lags
//! by seconds rather than by hours, so there is a bound. Of what is older, only numbers are kept: it is told if it
//! may be gone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::decide::chunk::Class;
use crate::decide::chunk::survival::{Lsn, Survival};
use crate::pg::era::Life;
use crate::pg::update::Mark;

/// Bytes of keys kept, together.
const KEPT: usize = 8 << 20;
/// What a chunk takes beside its keys.
const BESIDE: usize = 200;
/// Chunks of several workers are counted in about the order of their commits. So many later, order is certain.
const LATER: usize = 300;
/// Chunks whose keys are forgotten are added up, so many at a time.
const SUMMED: u32 = 1_000;

/// A chunk that was counted.
#[derive(Debug)]
pub(crate) struct Counted<K> {
    /// On which server.
    pub(crate) life: Arc<Life>,
    pub(crate) mark: Mark,
    /// The keys that counted as done, and as what.
    pub(crate) kept: K,
    pub(crate) done: Done,
    pub(crate) bytes: usize,
}

/// Keys that counted as done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) updated: u64,
    /// Their places: few, as a rule.
    pub(crate) already: Vec<u32>,
}

impl Done {
    pub(crate) fn of(classes: &[Class]) -> Self {
        let done = classes.iter().filter(|class| matches!(class, Class::Updated | Class::Already));
        let already = done.clone().zip(0..).filter(|(class, _)| **class == Class::Already);
        let already: Vec<u32> = already.map(|(_, place)| place).collect();
        Self { updated: done.count() as u64 - already.len() as u64, already }
    }

    /// The class of each.
    pub(crate) fn classes(&self) -> Vec<Class> {
        let mut classes = vec![Class::Updated; self.updated as usize + self.already.len()];
        self.already.iter().for_each(|&place| classes[place as usize] = Class::Already);
        classes
    }
}

/// Keys of many chunks that are not kept.
#[derive(Debug)]
pub(crate) struct Sum {
    life: Arc<Life>,
    /// The commits of all of them stand before it in the log.
    until: Option<Lsn>,
    chunks: u32,
    pub(crate) updated: u64,
    pub(crate) already: u64,
}

/// Shared by the workers of a run.
#[derive(Debug)]
pub(crate) struct Past<K> {
    pages: Mutex<Pages<K>>,
    /// Whether something was counted on another server than the last one.
    behind: AtomicBool,
}

#[derive(Debug)]
struct Pages<K> {
    last: Option<Arc<Life>>,
    counted: VecDeque<Counted<K>>,
    bytes: usize,
    sums: Vec<Sum>,
}

impl<K> Past<K> {
    pub(crate) fn new() -> Self {
        let pages = Pages { last: None, counted: VecDeque::new(), bytes: 0, sums: Vec::new() };
        Self { pages: Mutex::new(pages), behind: AtomicBool::new(false) }
    }

    /// A session was had.
    pub(crate) fn meets(&self, life: &Arc<Life>) {
        let mut pages = self.pages();
        let is_known = pages.last.as_ref().is_some_and(|last| last.is_same(life));
        let has_any = !pages.counted.is_empty() || !pages.sums.is_empty();
        if !is_known && has_any {
            self.behind.store(true, Ordering::Relaxed);
        }
        if !is_known {
            pages.last = Some(Arc::clone(life));
        }
    }

    pub(crate) fn keep(&self, counted: Counted<K>) {
        let mut pages = self.pages();
        if pages.last.as_ref().is_some_and(|last| !last.is_same(&counted.life)) {
            self.behind.store(true, Ordering::Relaxed);
        }
        pages.bytes += counted.bytes + BESIDE;
        pages.counted.push_back(counted);
        while pages.bytes > KEPT {
            pages.sum_up_first();
        }
    }

    /// Whether something has to be looked after.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    /// All that was counted elsewhere than on this server. What stays is to be kept again.
    pub(crate) fn take(&self, life: &Life) -> (Vec<Counted<K>>, Vec<Sum>) {
        let mut pages = self.pages();
        self.behind.store(false, Ordering::Relaxed);
        let counted = std::mem::take(&mut pages.counted).into_iter();
        let (here, elsewhere): (Vec<_>, Vec<_>) = counted.partition(|counted| counted.life.is_same(life));
        pages.counted = here.into();
        pages.bytes = pages.counted.iter().map(|counted| counted.bytes + BESIDE).sum();
        let sums = std::mem::take(&mut pages.sums).into_iter();
        let (here, sums) = sums.partition(|sum| sum.life.is_same(life));
        pages.sums = here;
        (elsewhere, sums)
    }

    /// How many keys were counted elsewhere than on the last server, and not looked after: updated, and already.
    pub(crate) fn unseen(&self) -> (u64, u64) {
        let pages = self.pages();
        let is_elsewhere = |life: &Arc<Life>| pages.last.as_ref().is_some_and(|last| !last.is_same(life));
        let counted = pages.counted.iter().filter(|counted| is_elsewhere(&counted.life));
        let counted = counted.map(|counted| (counted.done.updated, counted.done.already.len() as u64));
        let sums = pages.sums.iter().filter(|sum| is_elsewhere(&sum.life));
        let sums = sums.map(|sum| (sum.updated, sum.already));
        counted.chain(sums).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Another server, the same sums.
    pub(crate) fn keep_sum(&self, mut sum: Sum, life: &Arc<Life>) {
        sum.life = Arc::clone(life);
        self.pages().sums.insert(0, sum);
    }

    fn pages(&self) -> MutexGuard<'_, Pages<K>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Pages<K> {
    fn sum_up_first(&mut self) {
        let Some(first) = self.counted.pop_front() else { return };
        self.bytes -= first.bytes + BESIDE;
        let later = self.counted.iter().take(LATER).map(|counted| counted.mark.written);
        let until = later.max().flatten();
        let already = first.done.already.len() as u64;
        match self.sums.last_mut() {
            Some(sum) if sum.chunks < SUMMED && sum.life.is_same(&first.life) => {
                sum.until = sum.until.max(until);
                sum.chunks += 1;
                sum.updated += first.done.updated;
                sum.already += already;
            }
            _ => {
                let Done { updated, .. } = first.done;
                self.sums.push(Sum { life: first.life, until, chunks: 1, updated, already });
            }
        }
    }
}

impl Sum {
    /// Whether this server certainly has them.
    pub(crate) fn has_survived(&self, now: &Life) -> bool {
        now.survival(&self.life, self.until) == Survival::Told
    }
}

impl<K> Counted<K> {
    /// What this server can say of it.
    pub(crate) fn survival(&self, now: &Life) -> Survival {
        match now.survival(&self.life, self.mark.written) {
            // The rows were others' work, somewhere before in the log.
            Survival::Gone if self.mark.xid.is_none() => Survival::Unknown,
            survival => survival,
        }
    }
}
