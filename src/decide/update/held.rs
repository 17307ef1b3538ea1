//! Chunks that were committed and may yet be lost, until a flush has covered them; and when no flush is to be had.
//!
//! When to flush is [`flush`].

use std::time::Duration;

use super::action::{Flush, Session};
use super::chunk::Chunk;
use super::chunk_state::NoFlush;
use super::flush;
use super::life::Life;
use super::material::{Failed, Material};

/// Flushes in a row that may fail while the session lives: somebody may cancel one, or its wait for a standby.
const FLUSHES: u32 = 3;

/// What a flush came to.
pub(super) enum Flushed<F> {
    /// All that is held lasts.
    Lasts,
    /// It is to be made again.
    Again,
    /// The session is of no use.
    Lose(F),
    /// No flush is to be had.
    Never {
        why: NoFlush,
        failure: F,
        /// Whether the session is of no use, either.
        lose: bool,
    },
}

/// The oldest first.
pub(super) struct Held<M: Material> {
    chunks: Vec<Box<Chunk<M>>>,
    keys: usize,
    failures: u32,
    lost: u32,
}

impl<M: Material> Held<M> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), keys: 0, failures: 0, lost: 0 }
    }

    pub(super) fn push(&mut self, chunk: Box<Chunk<M>>) {
        self.keys += chunk.len();
        self.chunks.push(chunk);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether they have to be flushed before there is more.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        let age = |oldest: &Chunk<M>| now.saturating_sub(oldest.attempt.began);
        self.chunks.first().is_some_and(|oldest| flush::is_due(self.keys, age(oldest)))
    }

    pub(super) fn take(&mut self) -> Vec<Box<Chunk<M>>> {
        self.keys = 0;
        std::mem::take(&mut self.chunks)
    }

    /// Those that were committed in another life than this one.
    pub(super) fn take_elsewhere(&mut self, life: &Life) -> Vec<Box<Chunk<M>>> {
        // They are in order: none is of an older life than the first.
        if self.chunks.first().is_none_or(|oldest| oldest.is_of(life)) {
            return Vec::new();
        }
        let (here, elsewhere): (Vec<_>, _) = self.take().into_iter().partition(|chunk| chunk.is_of(life));
        for chunk in here {
            self.push(chunk);
        }
        elsewhere
    }

    /// `most`: how many sessions in a row may be lost over a flush.
    pub(super) fn on_flush(
        &mut self,
        flushed: Result<Flush, M::Failure>,
        session: &Session,
        most: u32,
    ) -> Flushed<M::Failure> {
        let why = if session.has_standby { NoFlush::Unreplicated } else { NoFlush::Refused };
        let failure = match flushed {
            Ok(Flush { life_id, .. }) if !session.life.is_in(&life_id) => {
                return Flushed::Lose(M::Failure::lost("another server answers, or this one has crashed"));
            }
            Ok(Flush { waited: true, .. }) => {
                (self.failures, self.lost) = (0, 0);
                return Flushed::Lasts;
            }
            Ok(_) => M::Failure::unreplicated(),
            // Somebody may end each session that waits.
            Err(failure) if failure.is_lost() => {
                self.lost += 1;
                if self.lost < most {
                    return Flushed::Lose(failure);
                }
                self.lost = 0;
                return Flushed::Never { why, failure, lose: true };
            }
            Err(failure) => failure,
        };
        self.failures += 1;
        if session.may_mark && self.failures < FLUSHES {
            return Flushed::Again;
        }
        self.failures = 0;
        // A new session asks what it may do.
        Flushed::Never { why, failure, lose: why == NoFlush::Refused }
    }
}
