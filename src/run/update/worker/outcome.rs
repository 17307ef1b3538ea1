//! What comes of a chunk's work and of its COMMIT, and what its course says to that.

use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::super::labor::Labor;
use super::super::past::{Counted, Done};
use super::chunk::{Attempt, Chunk};
use super::line::Committed;
use super::{Shop, Worker};
use crate::decide::chunk::Class;
use crate::decide::chunk::blame::blame;
use crate::decide::chunk::course::{Fault, Next, Replay};
use crate::event::{Event, Resolution};
use crate::pg::Failure;
use crate::pg::update::Answer;

/// `query_canceled`.
const CANCELLED: &str = "57014";

/// Why nobody knows what became of a chunk, or whether it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// No server says whether it was committed, and it may not be done twice.
    Forgotten,
    /// Nor could its rows be read again.
    Unread,
    /// There was no session to ask on.
    NobodyAsked,
    /// It is committed, and may not be on the disk.
    Unflushed,
    /// It is committed, and may not be where a synchronous standby has to have it.
    Unreplicated,
    /// It was counted, on a server that another one has replaced.
    Replaced,
}

impl Unresolved {
    /// What the keys are reported with (`statement_completion_unknown`).
    pub(super) fn failure(self, cause: &Failure) -> Failure {
        let what = match self {
            Self::Forgotten => {
                "whether its COMMIT took effect is not known, and what it does may not be done twice; look at the rows"
            }
            Self::Unread | Self::NobodyAsked => {
                "whether its COMMIT took effect is not known; look at the rows"
            }
            Self::Unflushed => "it is committed, and may not last: it could not be flushed",
            Self::Unreplicated => {
                "it is committed on this server only: the wait for the synchronous standby was cancelled, and a failover may undo it"
            }
            Self::Replaced => {
                "it was committed; another server has taken over since, and whether it is there is not known; look at the rows"
            }
        };
        Failure::found("40003", format!("{what} ({cause})"))
    }
}

impl<L: Labor> Worker<'_, L> {
    pub(super) async fn on_work(&mut self, mut chunk: Chunk<L::Item>, worked: Result<Answer, Failure>) {
        match worked {
            Ok(Answer { mark, classes }) => {
                self.pace.on_worked(classes.iter().all(|class| *class == Class::Updated));
                chunk.course.on_worked(mark.xid.is_some());
                chunk.attempt.mark = mark;
                chunk.attempt.life = self.line.as_ref().map(|line| Arc::clone(&line.life));
                chunk.attempt.classes = classes;
                chunk.settle_counted();
                self.open = Some(chunk);
            }
            Err(failure) => {
                if !failure.is_connection_lost() {
                    self.roll_back().await;
                }
                self.on_failure(chunk, failure);
            }
        }
    }

    /// Returns whether the server has refused to commit: the session has no transaction then.
    pub(super) async fn on_commit(
        &mut self,
        chunk: Option<Chunk<L::Item>>,
        committed: Result<Committed, Failure>,
    ) -> bool {
        let Some(mut chunk) = chunk else { return false };
        match committed {
            Ok(Committed { at, waited }) => {
                let took = at.saturating_duration_since(chunk.attempt.began);
                chunk.attempt.took = Some(took);
                self.sizer.on_committed(chunk.items.len() as u32, took);
                self.shop.streak.lock().unwrap_or_else(PoisonError::into_inner).on_success();
                match chunk.course.on_committed(waited) {
                    Next::Hold => self.held.push(chunk),
                    _ => self.committed(chunk),
                }
                false
            }
            Err(failure) if failure.leaves_commit_open() => {
                let lost =
                    if failure.is_connection_lost() { failure } else { Failure::lost(failure.to_string()) };
                self.on_failure(chunk, lost);
                false
            }
            Err(failure) => {
                // A COMMIT that is cancelled before it begins leaves the transaction open.
                self.roll_back().await;
                self.on_failure(chunk, failure);
                true
            }
        }
    }

    /// The chunk took effect, and lasts.
    pub(super) fn committed(&self, chunk: Chunk<L::Item>) {
        let Shop { books, labor, past, .. } = *self.shop;
        let Attempt { classes, span, .. } = &chunk.attempt;
        span.in_scope(|| books.committed(&chunk.closing(), classes, |item| labor.show(item)));
        self.let_go(&chunk.items);
        let Chunk { items, attempt: Attempt { mark, life, classes, .. }, .. } = chunk;
        if let (Some(life), Some((kept, bytes))) = (life, labor.keep(items, &classes)) {
            past.keep(Counted { life, mark, kept, done: Done::of(&classes), bytes });
        }
    }

    pub(super) fn on_failure(&mut self, mut chunk: Chunk<L::Item>, failure: Failure) {
        let mut innocent = self.was_cancelled(&chunk, &failure);
        if failure.is_connection_lost() {
            self.lose(&failure);
            // It was sent behind a COMMIT, and lost with that.
            innocent |= self.doubtful.is_some();
        }
        if innocent {
            return self.take_back(chunk);
        }
        let blame = failure.sqlstate().map_or(L::OWN_FAILURE, |code| blame(Some(code)));
        let fault = Fault { class: failure.class(), blame };
        let mut next = chunk.course.on_failed(fault, chunk.items.len(), fastrand::f64());
        if next == Next::GiveUp && !failure.is_retryable() {
            let mut streak = self.shop.streak.lock().unwrap_or_else(PoisonError::into_inner);
            if streak.on_given_up(blame) {
                next = Next::Stop;
            }
        }
        self.go_on(chunk, next, failure);
    }

    /// Whether it failed since the run is stopped: it is left then, and has not failed.
    fn was_cancelled(&self, chunk: &Chunk<L::Item>, failure: &Failure) -> bool {
        if !self.shop.halt.is_asked() {
            return false;
        }
        let cancelled = failure.sqlstate() == Some(CANCELLED);
        cancelled || (failure.is_connection_lost() && !chunk.reread && !chunk.course.is_committing())
    }

    /// Carries out what the chunk's course says after a failure.
    pub(super) fn go_on(&mut self, mut chunk: Chunk<L::Item>, next: Next, failure: Failure) {
        let shop = self.shop;
        let span = chunk.attempt.span.clone();
        span.in_scope(|| match next {
            Next::Done => self.committed(chunk),
            Next::Hold => self.held.push(chunk),
            Next::Ask(_) => {
                shop.books.observe(&Event::CommitInDoubt);
                self.doubtful = Some((chunk, failure));
            }
            Next::Retry(pause) => {
                shop.books.retried(&chunk.closing(), &failure, |item| shop.labor.show(item));
                self.sizer.on_retried();
                chunk.due = Instant::now() + pause;
                chunk.attempt = Attempt::none();
                self.keep(chunk);
            }
            Next::Split => {
                shop.books.retried(&chunk.closing(), &failure, |item| shop.labor.show(item));
                // The last is taken first.
                chunk.halves().into_iter().rev().for_each(|half| self.keep(half));
            }
            Next::GiveUp => self.give_up(&chunk, &failure),
            Next::Unresolved => self.unresolved(&chunk, self.forgotten(), &failure),
            Next::Stop => {
                shop.books.stopped_by(&failure);
                if chunk.reread {
                    self.unresolved(&chunk, self.forgotten(), &failure);
                } else {
                    self.give_up(&chunk, &failure);
                }
                shop.stop.cancel();
            }
        });
    }

    /// What to say where no server has said what became of it.
    fn forgotten(&self) -> Unresolved {
        match self.shop.labor.replay() {
            Replay::Safe => Unresolved::Unread,
            Replay::Unsafe => Unresolved::Forgotten,
        }
    }

    /// Nobody knows what became of the chunk, or whether it lasts.
    pub(super) fn unresolved(&self, chunk: &Chunk<L::Item>, why: Unresolved, failure: &Failure) {
        chunk.attempt.span.in_scope(|| {
            self.shop.books.resolved(Resolution::Unresolved);
            self.give_up(chunk, &why.failure(failure));
        });
    }

    pub(super) fn give_up(&self, chunk: &Chunk<L::Item>, failure: &Failure) {
        let Shop { books, labor, feed, stop, .. } = *self.shop;
        books.failed(&chunk.closing(), failure, |item| labor.show(item));
        if let Some(claims) = feed.as_claims()
            && !claims.give_up(self.keys_of(&chunk.items))
        {
            books.stopped_by(&"too many keys failed to go on claiming");
            stop.cancel();
        }
    }
}
