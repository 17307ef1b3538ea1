//! What the workers of a run have in common, and how the run hears of what they did.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::chunk_work::{ChunkWork, spelled};
use super::item_source::{ItemSource, Portion};
use super::totals::{Closing, RunTotals};
use crate::decide::update::action::{Fed, Moment, Reason, Report, Retried};
use crate::decide::update::chunk::Chunk;
use crate::decide::update::resolver::Unresolved;
use crate::decide::update::shared::Shared;
use crate::decide::update::worker::Settings;
use crate::event::{Event, SqlState};
use crate::pg::Failure;
use crate::pg::connect::Endpoint;
use crate::telemetry::spans::{self, Server};

pub(super) struct RunContext<'a, W: ChunkWork> {
    pub(super) work: &'a W,
    pub(super) source: &'a ItemSource<W::Item>,
    pub(super) totals: &'a RunTotals,
    pub(super) endpoint: &'a Endpoint,
    pub(super) server: &'a Server,
    pub(super) task: &'a str,
    pub(super) span: &'a Span,
    /// No new chunk once it is cancelled.
    pub(super) closing: &'a CancellationToken,
    /// The caller's own word.
    pub(super) halted: &'a CancellationToken,
    pub(super) settings: &'a Settings,
    pub(super) shared: &'a Mutex<Shared<W>>,
    pub(super) began: Instant,
}

impl<W: ChunkWork> RunContext<'_, W> {
    // --- Time ---------------------------------------------------------------------------------------------------------

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn at(&self, now: Duration) -> Instant {
        self.began + now
    }

    pub(super) fn moment(&self, is_cut: bool) -> Moment {
        Moment { now: self.now(), draw: fastrand::f64(), is_cut }
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared<W>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something was counted on a server that another one has replaced since.
    pub(super) fn is_behind(&self) -> bool {
        self.shared().past.is_behind()
    }

    // --- Chunks -------------------------------------------------------------------------------------------------------

    /// The next items; with `wait`, once they are there.
    pub(super) async fn feed(&self, size: u32, wait: bool) -> Fed<W> {
        let portion = self.source.next(size);
        let portion = if wait { Some(portion.await) } else { portion.now_or_never() };
        self.shared().is_exhausted |= self.source.is_exhausted();
        match portion {
            None => Fed::Nothing,
            Some(Ok(Portion::Items(items))) => Fed::Items(self.work.gather(items)),
            Some(Ok(Portion::Claim)) => Fed::Claim,
            Some(Ok(Portion::End)) => Fed::End,
            Some(Err(error)) => {
                self.totals.input_broke(error);
                self.closing.cancel();
                Fed::End
            }
        }
    }

    /// Opens an attempt's span.
    pub(super) fn enter(&self, chunk: &mut Chunk<W>) {
        if chunk.attempt.scope.is_none() {
            let size = chunk.items.len() as u32;
            chunk.attempt.scope =
                Some(spans::chunk(self.span, self.task, chunk.number, size, self.server, self.work.sql()));
        }
    }

    // --- What the run hears -------------------------------------------------------------------------------------------

    pub(super) fn report(&self, report: Report<W>) {
        let Self { totals, work, .. } = *self;
        let show = |item| work.show(item);
        match report {
            Report::Count(chunk) => {
                let Chunk { attempt, .. } = &*chunk;
                inside(attempt.scope.as_ref(), || totals.committed(&closing(&chunk), &attempt.classes, show));
                self.shared().keep(work, *chunk);
            }
            Report::Retried(Retried { number, attempts, size, took, label, scope, failure }) => {
                inside(scope.as_ref(), || totals.retried(number, attempts, size, took, label, &failure));
            }
            Report::GaveUp(chunk, failure) => self.gave_up(&chunk, &failure),
            Report::Unresolved(chunk, why, failure) => self.gave_up(&chunk, &unresolved(why, &failure)),
            Report::InDoubt(scope) => inside(scope.as_ref(), || totals.observe(&Event::CommitInDoubt)),
            Report::Resolved(scope, resolution) => inside(scope.as_ref(), || totals.resolved(resolution)),
            Report::SessionLost(failure) => {
                totals.observe(&Event::SessionLost { sqlstate: lost_with(&failure) });
            }
            Report::Reconnected(failure) => totals.reconnected(lost_with(&failure)),
            Report::NoSession(failure) => totals.line_down(&failure),
            Report::LeftBehind(keys) => totals.left_behind(keys),
            Report::Uncount { updated, already } => totals.uncount(updated, already),
            Report::Forget { updated, already } => totals.forget(updated, already),
            Report::Stopped(reason) => self.stopped(reason),
        }
    }

    fn gave_up(&self, chunk: &Chunk<W>, failure: &Failure) {
        let Self { totals, work, .. } = *self;
        let show = |item| work.show(item);
        let label = work.label(&chunk.items, &chunk.twins);
        inside(chunk.attempt.scope.as_ref(), || totals.failed(&closing(chunk), failure, label, show));
    }

    /// A session waits for a lock.
    pub(super) fn blocked(&self, pid: i32, by: i32, waited: Duration) {
        self.totals.observe(&Event::UpdateBlocked { pid, by, waited });
    }

    fn stopped(&self, reason: Reason<W>) {
        match reason {
            Reason::Failure(failure) => self.totals.stopped_by(&failure),
            Reason::Claiming(failure) => self.totals.stopped_by(&format!("claiming rows failed: {failure}")),
            Reason::Stuck(key) => {
                let problem = "can be seen and not be claimed: a row-level security policy withholds it";
                self.totals.stopped_by(&format!("{} {problem}", spelled(&key)));
            }
            Reason::GivenUp => self.totals.stopped_by(&"too many keys failed to go on claiming"),
        }
        self.closing.cancel();
    }
}

/// In an attempt's span, if there is one.
fn inside(scope: Option<&Span>, tell: impl FnOnce()) {
    match scope {
        Some(span) => span.in_scope(tell),
        None => tell(),
    }
}

/// What the totals want to know at an attempt's end.
fn closing<W: ChunkWork>(chunk: &Chunk<W>) -> Closing<'_, W::Item> {
    Closing {
        chunk: chunk.number,
        attempt: chunk.attempts(),
        took: chunk.attempt.took.unwrap_or_default(),
        items: &chunk.items,
        twins: &chunk.twins,
    }
}

fn lost_with(failure: &Failure) -> SqlState {
    failure.event_sqlstate().unwrap_or(SqlState::CONNECTION_FAILURE)
}

/// What keys are reported with of which nobody knows what became of them (`statement_completion_unknown`).
fn unresolved(why: Unresolved, cause: &Failure) -> Failure {
    let what = match why {
        Unresolved::Forgotten => {
            "whether its COMMIT took effect is not known, and what it does may not be done twice; look at the rows"
        }
        Unresolved::Unread | Unresolved::NobodyAsked => {
            "whether its COMMIT took effect is not known; look at the rows"
        }
        Unresolved::Unflushed => "it is committed, and may not last: it could not be flushed",
        Unresolved::Unreplicated => {
            "it is committed on this server only: the wait for the synchronous standby was cancelled, and a failover may undo it"
        }
        Unresolved::Replaced => {
            "it was committed; another server has taken over since, and whether it is there is not known; look at the rows"
        }
    };
    Failure::found("40003", format!("{what} ({cause})"))
}
