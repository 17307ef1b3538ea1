//! Transactions on their way on one session, and what has been heard of each.
//!
//! In steady state a chunk takes one round trip: the COMMIT of one chunk travels with the BEGIN and the work of the next.
//! A COMMIT is sent only when the id of its transaction is known: without the id a lost answer could not be looked up.
//!
//! *Ahead*, COMMIT and the next chunk are sent while the server still works, which takes two things: the id is asked for
//! before the work, and answered while the server works; and the work changes every key or fails, so where the commit
//! took effect, whoever says so, all keys were changed, and where it did not, none.
//!
//! Answers may be heard in any order. They count in the order of the transactions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Class;
use super::action::Answer;
use super::chunk::Chunk;
use super::life::{Life, Mark};
use super::material::{Failed, Material};

/// A COMMIT.
enum Commit<F> {
    NotSent,
    Sent,
    Answered(Result<bool, F>),
}

/// A transaction on its way.
struct Flight<M: Material> {
    order: (u64, usize),
    /// Away with its work until that is answered for.
    chunk: Option<Box<Chunk<M>>>,
    /// The id, where it was sent ahead.
    id: Option<Result<u64, M::Failure>>,
    is_ahead: bool,
    worked: Option<Result<Answer, M::Failure>>,
    commit: Commit<M::Failure>,
    is_lasting: bool,
    /// When the server turned to it: the one before was committed.
    since: Option<Duration>,
}

/// A transaction that is over, as far as the session goes.
pub(super) enum Ended<M: Material> {
    /// COMMIT was sent, and answered so, or lost together with its work.
    Committed(Box<Chunk<M>>, Result<bool, M::Failure>),
    /// The work failed. `open`: no COMMIT behind it has ended the transaction.
    Failed { chunk: Box<Chunk<M>>, failure: M::Failure, is_ahead: bool, open: bool },
    /// One before it has to come first. Its transaction is open.
    Withdrawn(Box<Chunk<M>>),
}

pub(super) struct Pipeline<M: Material> {
    flights: VecDeque<Flight<M>>,
    /// Whether what is on its way is to be taken back.
    is_withdrawn: bool,
}

impl<M: Material> Pipeline<M> {
    pub(super) const fn new() -> Self {
        Self { flights: VecDeque::new(), is_withdrawn: false }
    }

    // --- What is sent -------------------------------------------------------------------------------------------------

    /// A chunk is about to be sent.
    pub(super) fn send(&mut self, chunk: &Chunk<M>, is_ahead: bool) {
        self.flights.push_back(Flight {
            order: chunk.order(),
            chunk: None,
            id: None,
            is_ahead,
            worked: None,
            commit: Commit::NotSent,
            is_lasting: true,
            since: None,
        });
    }

    /// COMMIT of the last one is about to be sent, if there is something to commit.
    pub(super) fn commit(&mut self, is_lasting: bool) -> bool {
        let Some(last) = self.flights.back_mut() else { return false };
        last.commit = Commit::Sent;
        last.is_lasting = is_lasting;
        if let (Some(chunk), false) = (&mut last.chunk, last.is_ahead) {
            chunk.state.on_commit_sent(is_lasting);
        }
        true
    }

    // --- What is heard ------------------------------------------------------------------------------------------------

    pub(super) fn on_began(&mut self, id: Result<u64, M::Failure>) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.is_ahead && flight.id.is_none()) {
            flight.id = Some(id);
        }
    }

    pub(super) fn on_worked(&mut self, chunk: Box<Chunk<M>>, worked: Result<Answer, M::Failure>) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.order == chunk.order()) {
            (flight.chunk, flight.worked) = (Some(chunk), Some(worked));
        }
    }

    pub(super) fn on_committed(&mut self, committed: Result<bool, M::Failure>) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| matches!(flight.commit, Commit::Sent)) {
            flight.commit = Commit::Answered(committed);
        }
    }

    /// What was sent is to be taken back.
    pub(super) fn withdraw(&mut self) {
        self.is_withdrawn = !self.flights.is_empty();
    }

    // --- What that comes to -------------------------------------------------------------------------------------------

    /// The oldest transaction, if it is over. One that has been worked on, and not committed, stays: it is open.
    pub(super) fn next_ended(&mut self, life: &Arc<Life>, now: Duration) -> Option<Ended<M>> {
        let first = self.flights.front_mut()?;
        if let (true, Some(Ok(_)), None) = (first.is_ahead, &first.worked, &first.id) {
            return None;
        }
        let is_failed = matches!(first.worked, Some(Err(_))) || matches!(first.id, Some(Err(_)));
        first.worked.as_ref()?;
        match &first.commit {
            Commit::Sent => return None,
            Commit::NotSent if !is_failed && !self.is_withdrawn => {
                first.ripen(life);
                return None;
            }
            Commit::NotSent | Commit::Answered(_) => {}
        }
        let mut flight = self.flights.pop_front()?;
        let ended = flight.end(life, self.is_withdrawn)?;
        if let (Ended::Committed(_, Ok(_)), Some(next)) = (&ended, self.flights.front_mut()) {
            next.since = Some(now);
        }
        self.is_withdrawn &= !self.flights.is_empty();
        Some(ended)
    }

    /// Whether the last one was worked on, and its COMMIT is not sent.
    pub(super) fn is_open(&self) -> bool {
        self.flights.back().is_some_and(|last| {
            matches!((&last.worked, &last.commit), (Some(Ok(_)), Commit::NotSent)) && last.has_id()
        })
    }

    /// The one that is open, whose session is gone or going.
    pub(super) fn take_open(&mut self) -> Option<Box<Chunk<M>>> {
        if self.is_open() { self.flights.pop_back()?.chunk } else { None }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether a COMMIT is on its way.
    pub(super) fn is_committing(&self) -> bool {
        self.flights.iter().any(|flight| matches!(flight.commit, Commit::Sent))
    }

    /// The same, of one that waits for the disk, or for others.
    pub(super) fn is_committing_for_long(&self) -> bool {
        self.flights.iter().any(|flight| flight.is_lasting && matches!(flight.commit, Commit::Sent))
    }

    /// Whether COMMIT of the last one may be sent before its work is answered for.
    pub(super) fn may_commit_ahead(&self) -> bool {
        let (Some(last), 1) = (self.flights.back(), self.flights.len()) else { return false };
        let may_work = !matches!(last.worked, Some(Err(_)));
        !self.is_withdrawn
            && last.is_ahead
            && may_work
            && matches!(last.commit, Commit::NotSent)
            && last.has_id()
    }
}

impl<M: Material> Flight<M> {
    /// Whether what its fate will be known by is known.
    const fn has_id(&self) -> bool {
        !self.is_ahead || matches!(self.id, Some(Ok(_)))
    }

    /// The work is answered for, and nothing has failed.
    fn ripen(&mut self, life: &Arc<Life>) {
        let Some(chunk) = &mut self.chunk else { return };
        if chunk.state.is_worked() {
            return;
        }
        match (self.worked.replace(Ok(Answer::Whole(None))), &self.id) {
            (Some(Ok(Answer::Told(mark, classes))), _) => chunk.worked(mark, classes, life),
            (Some(Ok(Answer::Whole(written))), Some(Ok(xid))) => {
                let mark = Mark { xid: Some(*xid), written };
                chunk.worked(mark, vec![Class::Updated; chunk.items.len()], life);
            }
            _ => {}
        }
        chunk.attempt.began = self.since.unwrap_or(chunk.attempt.began);
    }

    fn end(&mut self, life: &Arc<Life>, is_withdrawn: bool) -> Option<Ended<M>> {
        let failure = match (&self.id, &self.worked) {
            (Some(Err(failure)), _) | (_, Some(Err(failure))) => Some(failure.clone()),
            _ => None,
        };
        let commit = std::mem::replace(&mut self.commit, Commit::NotSent);
        let is_ahead = self.is_ahead;
        let Commit::Answered(committed) = commit else {
            let chunk = self.chunk.take()?;
            return Some(match failure {
                _ if is_withdrawn => Ended::Withdrawn(chunk),
                Some(failure) => Ended::Failed { chunk, failure, is_ahead, open: true },
                None => Ended::Withdrawn(chunk),
            });
        };
        match failure {
            Some(failure) if !failure.leaves_commit_open() => {
                let chunk = self.chunk.take()?;
                Some(Ended::Failed { chunk, failure, is_ahead, open: false })
            }
            // Done, or lost together with the COMMIT behind it: then it counts as worked, and is in doubt.
            Some(failure) => {
                self.worked = Some(Ok(Answer::Whole(None)));
                self.ripen(life);
                let mut chunk = self.chunk.take()?;
                chunk.attempt.is_presumed = true;
                chunk.state.on_commit_sent(self.is_lasting);
                Some(Ended::Committed(chunk, Err(failure)))
            }
            None => {
                self.ripen(life);
                let mut chunk = self.chunk.take()?;
                if is_ahead {
                    chunk.state.on_commit_sent(self.is_lasting);
                }
                Some(Ended::Committed(chunk, committed))
            }
        }
    }
}
