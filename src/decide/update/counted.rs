//! What was counted on a server that another one may replace.
//!
//! A commit that was answered, and flushed, is on that server's disk. A standby that is promoted may not have it. So what
//! was counted is kept for a while, to be looked after on the next server: its keys, and what the fate of its
//! transaction is known by ([`Survival`]). Keys take memory, and a standby lags
//! by seconds rather than by hours, so there is a bound. Of what is older, only numbers are kept: it is told if it
//! may be gone.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Class;
use super::life::{Life, Mark};
use super::survival::{Lsn, Survival};

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
pub struct Counted<K> {
    /// Its number, and the place of its first item there.
    pub order: (u64, usize),
    /// On which server.
    pub life: Arc<Life>,
    /// What the fate of its transaction is known by.
    pub mark: Mark,
    /// The keys that counted as done.
    pub kept: K,
    /// As what.
    pub done: Done,
    /// What the keys take.
    pub bytes: usize,
}

/// Keys that counted as done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// How many were changed.
    pub updated: u64,
    /// The places of those that were found changed: few, as a rule.
    already: Vec<u32>,
}

impl Done {
    /// From the classes of all keys.
    #[must_use]
    pub fn of(classes: &[Class]) -> Self {
        let done = classes.iter().filter(|class| matches!(class, Class::Updated | Class::Already));
        let already = done.clone().zip(0..).filter(|(class, _)| **class == Class::Already);
        let already: Vec<u32> = already.map(|(_, place)| place).collect();
        Self { updated: done.count() as u64 - already.len() as u64, already }
    }

    /// The class of each.
    #[must_use]
    pub fn classes(&self) -> Vec<Class> {
        let mut classes = vec![Class::Updated; self.updated as usize + self.already.len()];
        self.already.iter().for_each(|&place| classes[place as usize] = Class::Already);
        classes
    }

    /// How many were found changed.
    #[must_use]
    pub const fn already(&self) -> u64 {
        self.already.len() as u64
    }
}

/// Keys of many chunks that are not kept.
#[derive(Debug)]
pub struct Sum {
    life: Arc<Life>,
    /// The commits of all of them stand before it in the log.
    until: Option<Lsn>,
    chunks: u32,
    /// How many were changed.
    pub updated: u64,
    /// How many were found changed.
    pub already: u64,
}

/// Shared by the workers of a run.
#[derive(Debug)]
pub struct Past<K> {
    last: Option<Arc<Life>>,
    counted: VecDeque<Counted<K>>,
    bytes: usize,
    sums: Vec<Sum>,
    /// Whether something was counted on another server than the last one.
    is_behind: bool,
    /// Chunks that a worker has taken, and asks the server after.
    asked: usize,
}

impl<K> Past<K> {
    /// Nothing is counted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: None, counted: VecDeque::new(), bytes: 0, sums: Vec::new(), is_behind: false, asked: 0 }
    }

    /// A session was had.
    pub fn meets(&mut self, life: &Arc<Life>) {
        if self.last.as_ref().is_some_and(|last| last.is_same(life)) {
            return;
        }
        self.is_behind |= !self.counted.is_empty() || !self.sums.is_empty();
        self.last = Some(Arc::clone(life));
    }

    /// A chunk was counted.
    pub fn keep(&mut self, counted: Counted<K>) {
        self.is_behind |= self.last.as_ref().is_some_and(|last| !last.is_same(&counted.life));
        self.bytes += counted.bytes + BESIDE;
        self.counted.push_back(counted);
        while self.bytes > KEPT {
            self.sum_up_first();
        }
    }

    /// Whether something has to be looked after.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether all that was counted is on the last server, as far as is known. Until then a row that is found as it was
    /// may have been counted before.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        !self.is_behind && self.asked == 0
    }

    /// The server is asked after so many of what was taken.
    pub const fn asks(&mut self, chunks: usize) {
        self.asked += chunks;
    }

    /// Its answer is there, or lost.
    pub const fn answered(&mut self, chunks: usize) {
        self.asked -= chunks;
    }

    /// All that was counted elsewhere than on this server. What stays is to be kept again.
    pub fn take(&mut self, life: &Life) -> (Vec<Counted<K>>, Vec<Sum>) {
        self.is_behind = false;
        let counted = std::mem::take(&mut self.counted).into_iter();
        let (here, elsewhere): (Vec<_>, Vec<_>) = counted.partition(|counted| counted.life.is_same(life));
        self.counted = here.into();
        self.bytes = self.counted.iter().map(|counted| counted.bytes + BESIDE).sum();
        let sums = std::mem::take(&mut self.sums).into_iter();
        let (here, sums) = sums.partition(|sum| sum.life.is_same(life));
        self.sums = here;
        (elsewhere, sums)
    }

    /// How many keys were counted elsewhere than on the last server, and not looked after: updated, and already.
    #[must_use]
    pub fn unseen(&self) -> (u64, u64) {
        let is_elsewhere = |life: &Arc<Life>| self.last.as_ref().is_some_and(|last| !last.is_same(life));
        let counted = self.counted.iter().filter(|counted| is_elsewhere(&counted.life));
        let counted = counted.map(|counted| (counted.done.updated, counted.done.already()));
        let sums = self.sums.iter().filter(|sum| is_elsewhere(&sum.life));
        let sums = sums.map(|sum| (sum.updated, sum.already));
        counted.chain(sums).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Another server, the same sums.
    pub fn keep_sum(&mut self, mut sum: Sum, life: &Arc<Life>) {
        sum.life = Arc::clone(life);
        self.sums.insert(0, sum);
    }

    fn sum_up_first(&mut self) {
        let Some(first) = self.counted.pop_front() else { return };
        self.bytes -= first.bytes + BESIDE;
        let later = self.counted.iter().take(LATER).map(|counted| counted.mark.written);
        let until = later.max().flatten();
        let already = first.done.already();
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

impl<K> Default for Past<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl Sum {
    /// Whether this server certainly has them.
    #[must_use]
    pub fn has_survived(&self, now: &Life) -> bool {
        now.survival(&self.life, self.until) == Survival::Told
    }
}
