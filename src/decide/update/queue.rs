//! Chunks at hand: to be tried again, and one that was put together ahead of time.

use std::time::Duration;

use super::chunk::Chunk;
use super::material::Material;

pub(super) struct Queue<M: Material> {
    /// To be tried again, in the order of the input: of duplicate keys the later line is the last word.
    again: Vec<Box<Chunk<M>>>,
    /// Not tried yet.
    fresh: Option<Box<Chunk<M>>>,
}

/// What comes next of the chunks at hand.
pub(super) enum Next<M: Material> {
    Now(Box<Chunk<M>>),
    /// Not before.
    Later,
    Nothing,
}

impl<M: Material> Queue<M> {
    pub(super) const fn new() -> Self {
        Self { again: Vec::new(), fresh: None }
    }

    pub(super) fn put_back(&mut self, chunk: Box<Chunk<M>>) {
        let place = self.again.partition_point(|other| other.order() < chunk.order());
        self.again.insert(place, chunk);
    }

    pub(super) fn put_fresh(&mut self, chunk: Box<Chunk<M>>) {
        self.fresh = Some(chunk);
    }

    /// Whether something is to be tried again.
    pub(super) const fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    pub(super) const fn has_fresh(&self) -> bool {
        self.fresh.is_some()
    }

    /// Whether something is to be read again, whoever stops the run; else its keys would be in no class.
    pub(super) fn has_reread(&self) -> bool {
        self.again.iter().any(|chunk| chunk.reread)
    }

    pub(super) fn take_fresh(&mut self) -> Option<Box<Chunk<M>>> {
        self.fresh.take()
    }

    /// The next one; of a run that is `closed` only what is to be read again.
    pub(super) fn next(&mut self, closed: bool, now: Duration) -> Next<M> {
        match self.again.iter().position(|chunk| !closed || chunk.reread) {
            Some(place) if self.again[place].due > now => Next::Later,
            Some(place) => Next::Now(self.again.remove(place)),
            None if closed || self.has_again() => Next::Nothing,
            None => self.fresh.take().map_or(Next::Nothing, Next::Now),
        }
    }

    /// When the next one is due.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        self.again.iter().map(|chunk| chunk.due).filter(|due| *due > now).min()
    }

    pub(super) fn drain(&mut self) -> Vec<Box<Chunk<M>>> {
        let mut all = std::mem::take(&mut self.again);
        all.extend(self.fresh.take());
        all
    }
}
