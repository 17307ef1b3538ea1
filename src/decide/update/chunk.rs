//! A chunk on its way: its items, the state of its attempts, the transaction under way.

use std::sync::Arc;
use std::time::Duration;

use super::Class;
use super::chunk_state::ChunkState;
use super::gather::Twin;
use super::life::{Life, Mark};
use super::material::Material;

/// Items that share a transaction.
pub struct Chunk<M: Material> {
    /// From 1. The halves of a chunk share its number.
    pub number: u64,
    /// The place of the first item among those that were given the number.
    pub(super) offset: usize,
    /// What is worked on, each key once.
    pub items: Vec<M::Item>,
    /// Later lines of the same keys.
    pub twins: Vec<Twin<M::Item>>,
    pub(super) state: ChunkState,
    /// No new attempt before.
    pub(super) due: Duration,
    pub(super) is_claimed: bool,
    /// It may have taken effect: what is in its rows is to be read, whoever wrote it.
    pub(super) reread: bool,
    /// What a transaction that may have taken effect has made of its keys; empty where there was none.
    pub(super) counted: Vec<Class>,
    /// The transaction under way.
    pub attempt: Attempt<M::Scope>,
}

/// One transaction of a chunk.
#[derive(Debug, Clone, Default)]
pub struct Attempt<S> {
    /// The caller's own.
    pub scope: S,
    pub(super) began: Duration,
    /// Up to the answer to COMMIT, or to the end.
    pub took: Option<Duration>,
    pub(super) mark: Mark,
    /// Which server gave the id; in another one's life it says nothing by itself.
    pub(super) life: Option<Arc<Life>>,
    /// One an item, once the work is done.
    pub classes: Vec<Class>,
    /// Whether they are true only if it took effect: the answer to the work was lost.
    pub(super) is_presumed: bool,
}

impl<M: Material> Chunk<M> {
    /// Transactions begun for it.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.state.attempt()
    }

    /// How many keys it answers for.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.items.len() + self.twins.len()
    }

    /// Where it stands among the others: of duplicate keys the later line is the last word.
    pub(super) const fn order(&self) -> (u64, usize) {
        (self.number, self.offset)
    }

    /// Whether its rows, ours while a transaction lasted, have to be claimed anew before they are worked on.
    pub(super) const fn is_to_be_claimed(&self) -> bool {
        self.is_claimed && !self.reread
    }

    pub(super) fn is_of(&self, life: &Life) -> bool {
        self.attempt.life.as_ref().is_some_and(|own| own.is_same(life))
    }

    pub(super) fn begin(&mut self, now: Duration) {
        self.state.on_begin();
        self.attempt = Attempt { began: now, ..Attempt::default() };
    }

    /// It is rolled back, by our own will, or for no fault of its own.
    pub(super) fn withdraw(&mut self) {
        self.state.on_withdrawn();
        self.attempt = Attempt::default();
    }

    /// Its work succeeded, in a transaction of that server's life.
    pub(super) fn worked(&mut self, mark: Mark, classes: Vec<Class>, life: &Arc<Life>) {
        self.state.on_worked(mark.xid.is_some());
        self.attempt.mark = mark;
        self.attempt.life = Some(Arc::clone(life));
        self.attempt.classes = classes;
        // What it may have changed before is changed: by this run.
        for (class, counted) in self.attempt.classes.iter_mut().zip(&self.counted) {
            if (*class, *counted) == (Class::Already, Class::Updated) {
                *class = Class::Updated;
            }
        }
    }

    /// It may have taken effect: its rows are to be read.
    pub(super) fn read_again(&mut self) {
        self.reread = true;
        if self.attempt.is_presumed {
            self.counted.clear();
        } else {
            self.counted.clone_from(&self.attempt.classes);
        }
    }

    /// An attempt ends.
    pub(super) fn ended(&mut self, now: Duration) {
        let began = self.attempt.began;
        self.attempt.took.get_or_insert_with(|| now.saturating_sub(began));
    }

    /// Two halves in the place of a chunk; the lower first.
    pub(super) fn halves(self, now: Duration) -> [Self; 2] {
        let Self { number, offset, mut items, twins, state, is_claimed, reread, mut counted, .. } = self;
        let middle = items.len().div_ceil(2);
        let upper = items.split_off(middle);
        let upper_counted = counted.split_off(middle.min(counted.len()));
        let (low, mut high): (Vec<_>, Vec<_>) = twins.into_iter().partition(|twin| twin.of < middle);
        for twin in &mut high {
            twin.of -= middle;
        }
        let parts = [(offset, items, low, counted), (offset + middle, upper, high, upper_counted)];
        parts.map(|(offset, items, twins, counted)| Self {
            number,
            offset,
            state: state.half(items.len()),
            items,
            twins,
            due: now,
            is_claimed,
            reread,
            counted,
            attempt: Attempt::default(),
        })
    }
}
