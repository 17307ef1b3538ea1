//! What comes of a chunk's work and of its COMMIT, and what its course says to that.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::labor::Labor;
use super::chunk::{Attempt, Chunk};
use super::{Shop, Worker};
use crate::decide::chunk::Class;
use crate::decide::chunk::blame::blame;
use crate::decide::chunk::course::{Fault, Next};
use crate::event::Event;
use crate::pg::Failure;
use crate::pg::update::Answer;

impl<L: Labor> Worker<'_, L> {
    pub(super) async fn on_work(&mut self, mut chunk: Chunk<L::Item>, worked: Result<Answer, Failure>) {
        match worked {
            Ok(Answer { xid, classes }) => {
                self.pace.on_worked(classes.iter().all(|class| *class == Class::Updated));
                chunk.course.on_worked(xid.is_some());
                chunk.attempt.xid = xid;
                chunk.attempt.era = self.line.as_ref().map(|line| Arc::clone(&line.era));
                chunk.attempt.classes = classes;
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
        committed: Result<Instant, Failure>,
    ) -> bool {
        let Some(mut chunk) = chunk else { return false };
        match committed {
            Ok(at) => {
                let took = at.saturating_duration_since(chunk.attempt.began);
                chunk.attempt.took = Some(took);
                self.sizer.on_committed(chunk.items.len() as u32, took);
                match chunk.course.on_committed() {
                    Next::Hold => self.held.push(chunk),
                    _ => self.committed(&chunk),
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
    pub(super) fn committed(&self, chunk: &Chunk<L::Item>) {
        let Shop { books, labor, .. } = *self.shop;
        let Attempt { classes, span, .. } = &chunk.attempt;
        span.in_scope(|| books.committed(&chunk.closing(), classes, |item| labor.show(item)));
        self.let_go(&chunk.items);
    }

    pub(super) fn on_failure(&mut self, mut chunk: Chunk<L::Item>, failure: Failure) {
        if failure.is_connection_lost() {
            self.lose(&failure);
        }
        let blame = failure.sqlstate().map_or(L::OWN_FAILURE, |code| blame(Some(code)));
        let fault = Fault { class: failure.class(), blame };
        let next = chunk.course.on_failed(fault, chunk.items.len(), fastrand::f64());
        self.go_on(chunk, next, failure);
    }

    /// Carries out what the chunk's course says after a failure.
    pub(super) fn go_on(&mut self, mut chunk: Chunk<L::Item>, next: Next, failure: Failure) {
        let shop = self.shop;
        let span = chunk.attempt.span.clone();
        span.in_scope(|| match next {
            Next::Done => self.committed(&chunk),
            Next::Hold => self.held.push(chunk),
            Next::Ask(_) => {
                shop.books.observe(&Event::CommitInDoubt);
                self.doubtful = Some((chunk, failure));
            }
            Next::Retry(pause) => {
                shop.books.retried(&chunk.closing(), &failure);
                self.sizer.on_retried();
                chunk.due = Instant::now() + pause;
                chunk.attempt = Attempt::none();
                self.keep(chunk);
            }
            Next::Split => {
                shop.books.retried(&chunk.closing(), &failure);
                // The last is taken first.
                shop.halves(chunk).into_iter().rev().for_each(|half| self.keep(half));
            }
            Next::GiveUp => self.give_up(&chunk, &failure),
            Next::Stop => {
                shop.books.stopped_by(&failure);
                self.give_up(&chunk, &failure);
                shop.stop.cancel();
            }
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
