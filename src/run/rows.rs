//! Rows of an accepted attempt, streamed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_postgres::Row;
use tracing::{Instrument, Span};

use super::attempt::{OpenAttempt, commit, finished};
use super::clearing::cleared;
use super::committing::Committing;
use super::executor::Executor;
use super::monitor::{Observation, Watch};
use super::owned_session::OwnedSession;
use super::recorder::ExecutionRecorder;
use super::work::{Flow, Nothing};
use crate::decide::attempt::Outcome;
use crate::decide::pace::LONGEST;
use crate::decide::script::Evidence;
use crate::decide::verdict::News;
use crate::error::Error;
use crate::event::{AttemptEnd, CancelMethod, Event, FailReason, SqlState};
use crate::pg::Failure;
use crate::report::Execution;

/// The rows of an accepted attempt; made by [`Job::query`](crate::Job::query).
///
/// Read them with [`next`](Self::next), then call [`finish`](Self::finish) to commit. If they are dropped before, the
/// statement is cancelled and rolled back.
///
/// ```no_run
/// # async fn job(headcount: &headcount::Headcount) -> Result<(), headcount::Error> {
/// let run = headcount.task("report").query("SELECT region, count(*) FROM orders GROUP BY 1", &[]).await?;
/// let mut rows = run.required()?;
/// while let Some(row) = rows.next().await? {
///     println!("{}: {}", row.get::<_, String>(0), row.get::<_, i64>(1));
/// }
/// rows.finish().await?;
/// # Ok(())
/// # }
/// ```
pub struct Rows {
    leader: OwnedSession<Nothing>,
    flow: Flow,
    recorder: ExecutionRecorder,
    /// `None` once the attempt had ended before the rows were handed over.
    open: Option<OpenAttempt>,
    outcome: Outcome,
    span: Span,
    watch: Option<Watch>,
    count: u64,
    deadline: Option<Deadline>,
}

/// The end of the whole execution's time.
///
/// Who reads finds it in [`Rows::next`], and puts things in order. Nobody may be reading, and the server then waits in
/// a write that no cancel ends, or holds the locks of a statement that is done: so the backend is terminated when the
/// grace is over, whatever its caller does.
struct Deadline {
    at: Instant,
    limit: Duration,
    /// Taken by whoever stops the backend, or commits on it.
    hand: Arc<Mutex<()>>,
    timer: AbortHandle,
}

impl Deadline {
    fn new(leader: &OwnedSession<Nothing>, began: Instant) -> Option<Self> {
        let limit = leader.guard.settings.deadline?;
        let (inner, backend) = (leader.guard.inner.clone(), leader.guard.leader()?);
        let (at, hand) = (began + limit, Arc::new(Mutex::new(())));
        let (late, held) = (at + leader.guard.settings.cancel_grace, hand.clone());
        let timer = tokio::spawn(async move {
            sleep_until(late).await;
            let _held = held.lock().await;
            inner.monitor.stop(backend, CancelMethod::Terminate).await;
        });
        Some(Self { at, limit, hand, timer: timer.abort_handle() })
    }

    fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl Rows {
    pub(crate) fn new(
        leader: OwnedSession<Nothing>,
        flow: Flow,
        recorder: ExecutionRecorder,
        open: Option<OpenAttempt>,
        outcome: Outcome,
        span: Span,
    ) -> Self {
        let watch = open.as_ref().map(|open| open.span.in_scope(|| leader.watch(LONGEST)));
        if let Some(watch) = &watch {
            watch.pace(LONGEST, true);
        }
        let deadline = open.as_ref().and_then(|_| Deadline::new(&leader, recorder.started()));
        Self { leader, flow, recorder, open, outcome, span, watch, count: 0, deadline }
    }

    /// Returns the next row, or `None` after the last.
    ///
    /// # Errors
    /// The statement failed, the connection was lost, or the deadline passed. The statement is rolled back, although
    /// some of its rows have reached the caller.
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        self.look();
        if let Some(limit) = self.expired() {
            return Err(self.give_up(limit).await);
        }
        if let Some(row) = self.flow.held.pop_front() {
            self.count += 1;
            return Ok(Some(row));
        }
        let Some(stream) = self.flow.stream.as_mut() else { return Ok(None) };
        let next = match &self.deadline {
            Some(Deadline { at, limit, .. }) => timeout_at(*at, stream.next()).await.map_err(|_| *limit),
            None => Ok(stream.next().await),
        };
        let next = match (next, self.expired()) {
            // Stopped by the deadline's own timer, or about to be.
            (Err(limit), _) | (Ok(Some(Err(_))), Some(limit)) => return Err(self.give_up(limit).await),
            (Ok(next), _) => next,
        };
        match next {
            Some(Ok(row)) => {
                self.count += 1;
                Ok(Some(row))
            }
            Some(Err(error)) => Err(self.fail(error.into())),
            None => {
                self.flow.stream = None;
                Ok(None)
            }
        }
    }

    /// Reads the remaining rows, commits, and returns the final report. Its value is the number of rows.
    ///
    /// # Errors
    /// As [`next`](Self::next); also a commit that failed, or whose outcome is unknown.
    pub async fn finish(mut self) -> Result<Execution<u64>, Error> {
        while self.next().await?.is_some() {}
        let Some(mut open) = self.open.take() else {
            return Ok(self.recorder.execution(self.outcome, Some(self.count)));
        };
        let span = self.span.clone();
        let deadline = self.deadline.take();
        // A backend that is about to be stopped is not asked to commit.
        let hand = deadline.as_ref().map(|deadline| deadline.hand.clone());
        let _hand = match &hand {
            Some(hand) => Some(hand.lock().await),
            None => None,
        };
        let committing = Committing::new(self.leader.guard.settings.cancel_grace);
        let commit = Box::pin(commit(&mut self.leader, &mut self.recorder, &committing));
        // Who has no deadline is cut short by nobody but its caller.
        let hurry = async {
            match &deadline {
                Some(deadline) => sleep_until(deadline.at).await,
                None => std::future::pending().await,
            }
            committing.over().await;
            std::future::pending().await
        };
        let committed = tokio::select! {
            biased;
            committed = commit.instrument(open.span.clone()) => committed,
            never = hurry => never,
        };
        match committed {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(self.fail(failure)),
            Err(error) => {
                span.in_scope(|| self.recorder.fail(FailReason::InDoubt, &error));
                return Err(error.with_history(self.recorder.execution(self.outcome, None)));
            }
        }
        self.settle(&mut open);
        open.facts.ran = self.recorder.ran(open.began);
        open.span.in_scope(|| self.recorder.observe(&Event::AttemptEnded(open.facts)));
        span.in_scope(|| self.recorder.end(Ok(self.outcome)));
        Ok(self.recorder.execution(self.outcome, Some(self.count)))
    }

    /// Takes in what the monitor saw meanwhile.
    fn look(&mut self) {
        let (Some(watch), Some(open)) = (self.watch.as_mut(), self.open.as_mut()) else { return };
        while let Some(observation) = watch.try_next() {
            let Observation::Seen(mut seen) = observation else {
                open.window.on_blind();
                continue;
            };
            seen.pool = seen.pool.map(|pool| open.capacity.resize_for(&open.capacity.statement(0), pool));
            let news = open.window.on_tick(seen.tick(open.began), &seen.leader.workers);
            if let Some(News::LaterLaunch(short)) = news {
                let (attempt, after) = (open.facts.attempt, open.began.elapsed());
                let told = Event::LaunchShort { attempt, statement: None, short, after };
                open.span.in_scope(|| self.recorder.observe(&told));
            }
        }
    }

    /// The outcome, with what was seen while the rows flowed.
    fn settle(&mut self, open: &mut OpenAttempt) {
        open.window.on_end();
        let mut evidence = Evidence::default();
        evidence.take(&open.window, open.attempts.target());
        open.facts.take(&evidence);
        let verdict = evidence.verdict();
        open.facts.end = AttemptEnd::Accepted(verdict);
        self.outcome = open.attempts.outcome(finished(&open.facts, verdict));
    }

    /// The limit that has passed, while the statement is not over.
    fn expired(&self) -> Option<Duration> {
        let deadline = self.deadline.as_ref().filter(|_| self.open.is_some())?;
        deadline.has_passed().then_some(deadline.limit)
    }

    /// Stops what still runs, and puts things in order.
    async fn give_up(&mut self, limit: Duration) -> Error {
        self.flow = Flow::default();
        self.recorder.stop_clock();
        let settings = self.leader.guard.settings.clone();
        let span = self.span.clone();
        let deadline = self.deadline.take();
        let cleared = {
            let _hand = match &deadline {
                Some(deadline) => Some(deadline.hand.lock().await),
                None => None,
            };
            cleared(&mut self.leader, &settings).instrument(span.clone()).await
        };
        self.close(None);
        let error = Error::deadline(limit);
        span.in_scope(|| self.recorder.fail(FailReason::Deadline, &error));
        let error = error.with_history(self.recorder.execution(self.outcome, None));
        let error = error.with_processes_left(cleared.left);
        match cleared.cleanup {
            Ok(()) => error,
            Err(failure) => error.with_cleanup_failure(&failure),
        }
    }

    /// Says that the attempt is over without a result.
    fn close(&mut self, sqlstate: Option<SqlState>) {
        if let Some(mut open) = self.open.take() {
            open.facts.end = AttemptEnd::Failed(sqlstate);
            open.facts.ran = self.recorder.ran(open.began);
            open.span.in_scope(|| self.recorder.observe(&Event::AttemptEnded(open.facts)));
        }
    }

    fn fail(&mut self, failure: Failure) -> Error {
        let reason = if failure.is_connection_lost() { FailReason::Connection } else { FailReason::Sql };
        let span = self.span.clone();
        self.close(failure.event_sqlstate());
        let error = Error::sql("reading the rows", failure);
        span.in_scope(|| self.recorder.fail(reason, &error));
        error.with_history(self.recorder.execution(self.outcome, None))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("count", &self.count)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}
