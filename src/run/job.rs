//! A job: its options, and the verbs that run it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::execution::{Driven, drive};
use super::executor::Executor;
use super::external_backend::ExternalBackend;
use super::headcount::Inner;
use super::owned_session::OwnedSession;
use super::recorder::ExecutionRecorder;
use super::rows::Rows;
use super::session_guard::{Cleanup, SessionGuard};
use super::work::{Closure, Nothing, Params, Query, Script, Statement, Work};
use crate::error::{Error, Source};
use crate::pg::plan::{self, Explanation, Manner};
use crate::report::Execution;
use crate::settings::{Minimum, PlanShortfall, Policy, Raise, Settings};
use crate::telemetry::spans;

/// A guarded query: what it demands, and how to run it.
///
/// The options are those of [`Settings`]; each verb validates them first. A job can be run again.
/// Every verb may be dropped at any await: the statement is then cancelled on the server, rolled
/// back, and the cleanup runs, in a task that [`Headcount::shutdown`](super::Headcount::shutdown)
/// waits for. [`stop`](Self::stop) does the same in the foreground, and returns the history.
#[derive(Clone)]
pub struct Job {
    inner: Arc<Inner>,
    settings: Settings,
    cleanup: Option<Cleanup>,
    stop: CancellationToken,
    since: Option<Instant>,
}

impl Job {
    pub(crate) fn new(inner: Arc<Inner>, settings: Settings) -> Self {
        Self { inner, settings, cleanup: None, stop: CancellationToken::new(), since: None }
    }

    /// The options, all of them.
    pub const fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Demands so many workers of all attempts but the last. Default 4.
    #[must_use]
    pub const fn target(mut self, workers: u32) -> Self {
        self.settings.target_workers = workers;
        self
    }

    /// Accepts the last attempt with so many workers. Default 2, or 1 where that is the target.
    #[must_use]
    pub const fn minimum(mut self, workers: u32) -> Self {
        self.settings.min_workers = Minimum::Workers(workers);
        self
    }

    /// Makes at most so many attempts. Default 5.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// Sets the timing of attempts. Default [`Policy::Prompt`].
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Says what to do when the plan cannot reach the target. Default [`PlanShortfall::Lower`].
    #[must_use]
    pub const fn plan_shortfall(mut self, shortfall: PlanShortfall) -> Self {
        self.settings.plan_shortfall = shortfall;
        self
    }

    /// Cancels a statement whose later launches are short, too; see [`Settings::every_launch`].
    #[must_use]
    pub const fn every_launch(mut self) -> Self {
        self.settings.every_launch = true;
        self
    }

    /// Rolls a statement back that was short at any launch; see [`Settings::strict`].
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.settings.strict = true;
        self
    }

    /// Raises the session's own ceiling of workers; see [`Settings::ceiling`].
    #[must_use]
    pub const fn ceiling(mut self, raise: Raise) -> Self {
        self.settings.ceiling = Some(raise);
        self
    }

    /// Takes slots of the pool first, in a queue that all executions with this option share; see
    /// [`Settings::reserve`].
    #[must_use]
    pub const fn reserve(mut self) -> Self {
        self.settings.reserve = true;
        self
    }

    /// Waits at most so long for slots. Default 1 h.
    #[must_use]
    pub const fn reserve_wait(mut self, limit: Duration) -> Self {
        self.settings.reserve_wait = limit;
        self
    }

    /// Is content with the minimum after so long a wait for slots. Default: only at its end.
    #[must_use]
    pub const fn degrade_after(mut self, patience: Duration) -> Self {
        self.settings.degrade_after = Some(patience);
        self
    }

    /// Stands in the queue for slots that goes first.
    #[must_use]
    pub const fn priority(mut self) -> Self {
        self.settings.priority = true;
        self
    }

    /// Shares so many slots with its fleet. Default: the server's pool.
    #[must_use]
    pub const fn pool_size(mut self, slots: u32) -> Self {
        self.settings.pool_size = Some(slots);
        self
    }

    /// Bounds the whole execution, from its call or from [`since`](Self::since). Default: no bound.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = Some(deadline);
        self
    }

    /// Sets a server setting for the statement's transaction (`SET LOCAL`).
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.settings.push((name.into(), value.into()));
        self
    }

    /// Runs outside a transaction block: VACUUM, CREATE INDEX CONCURRENTLY.
    #[must_use]
    pub const fn no_transaction(mut self) -> Self {
        self.settings.transaction = false;
        self
    }

    /// SQL that undoes what a rejected attempt did outside its transaction.
    #[must_use]
    pub fn cleanup(mut self, sql: impl Into<String>) -> Self {
        self.settings.cleanup = Some(sql.into());
        self
    }

    /// The same as the caller's own action, inside a transaction of its own. Takes the place of
    /// [`cleanup`](Self::cleanup).
    #[must_use]
    pub fn cleanup_with<F, E>(mut self, action: F) -> Self
    where
        F: for<'a> Fn(&'a Client) -> BoxFuture<'a, Result<(), E>> + Send + Sync + 'static,
        E: Into<Source> + 'static,
    {
        self.cleanup = Some(Cleanup::Action(Arc::new(move |client| {
            let action = action(client);
            Box::pin(async move { action.await.map_err(Into::into) })
        })));
        self
    }

    /// Cancelling the token stops an execution in good order: the statement is cancelled, rolled back and
    /// cleaned up after, and the error ([`Error::is_stopped`]) has the history so far. A result that is there
    /// already is kept. Rows that flow are beyond it: they are stopped by dropping them.
    #[must_use]
    pub fn stop(mut self, token: CancellationToken) -> Self {
        self.stop = token;
        self
    }

    /// Counts the execution from that moment and not from its call: its deadline and its duration. What passed since
    /// is time waited. For a caller who connected for this job alone, and whose deadline bounds both.
    #[must_use]
    pub fn since(mut self, began: Instant) -> Self {
        self.since = Some(began);
        self
    }

    /// How many workers a statement, or each of several, can have with this job's settings, and why not more. Nothing
    /// is run.
    ///
    /// EXPLAIN takes the statement's locks, and waits for them as long as it must: what it waits for is said
    /// ([`Event::PlanBlocked`](crate::Event)). Dropped, it is cancelled on the server.
    ///
    /// # Errors
    /// A bad option, no session, or SQL that is wrong.
    pub async fn explain(&self, sql: &str, params: Params<'_>) -> Result<Explanation, Error> {
        self.settings.validate()?;
        // Also what runs outside of one is explained in a transaction: nothing of it stays.
        let settings = Settings { transaction: true, ..self.settings.clone() };
        let guard = SessionGuard::new(self.inner.clone(), Arc::new(settings), Cleanup::Nothing);
        Box::pin(OwnedSession::new(guard, Nothing).explain(sql, params)).await
    }

    /// Runs one statement with parameters; the value is the number of rows.
    ///
    /// Parameters cost nothing in parallelism; a row limit would, and is never used.
    ///
    /// # Errors
    /// A bad option, a refusal, a failing statement or cleanup, the deadline, a commit in doubt.
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<Execution<u64>, Error> {
        self.refuse_flaw(sql, true)?;
        self.run(Statement { sql, params, trace_comment: self.settings.trace_comment }).await
    }

    /// Runs one or several statements without parameters, in one transaction; the value is the number
    /// of rows of the last one. With [`no_transaction`](Self::no_transaction) each is a transaction of its
    /// own: what ran before a cancel or an error stays, unless the cleanup undoes it.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_script(&self, sql: &str) -> Result<Execution<u64>, Error> {
        self.refuse_flaw(sql, false)?;
        let Settings { trace_comment, transaction, .. } = self.settings;
        self.run(Script::new(sql, trace_comment, !transaction)).await
    }

    /// Runs one statement and streams its rows, which are held back until the verdict.
    ///
    /// Up to 256 rows are held here; the rest waits in the socket, and the server with it. The value
    /// is there unless the outcome is `below_minimum`. Read the rows with [`Rows::next`], and end with
    /// [`Rows::finish`], which commits and returns the final figures. Rows that were dropped unread
    /// are rolled back. A connection lost while rows flow is an error: they have reached the caller.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Execution<Rows>, Error> {
        self.refuse_flaw(sql, true)?;
        let (settings, cleanup) = self.validated()?;
        refuse_recall(&settings, "rows are handed over at the verdict and cannot be taken back")?;
        let span = spans::execution(&settings.task);
        let work = Query::new(sql, params, settings.trace_comment);
        let mut recorder = self.recorder(&settings.task);
        let mut leader =
            OwnedSession::new(SessionGuard::new(self.inner.clone(), settings.clone(), cleanup), work);
        let driven = Box::pin(drive(&mut leader, &mut recorder, &settings, &self.stop))
            .instrument(span.clone())
            .await?;
        let execution = recorder.execution(driven.outcome, None::<()>);
        let rows = driven
            .value
            .map(|flow| Rows::new(leader.rest(), flow, recorder, driven.open, driven.outcome, span));
        Ok(execution.with_value(rows))
    }

    /// Runs the caller's own closure on a session, inside a transaction unless
    /// [`no_transaction`](Self::no_transaction) was said. It is called once an attempt; do not commit
    /// in it. Its plan is not inspected.
    ///
    /// # Errors
    /// As [`execute`](Self::execute). An error of the closure is retried if a `tokio_postgres::Error`
    /// is in its chain of causes and is transient.
    pub async fn guard<F, T, E>(&self, work: F) -> Result<Execution<T>, Error>
    where
        F: for<'a> Fn(&'a Client) -> BoxFuture<'a, Result<T, E>>,
        E: Into<Source>,
    {
        self.run(Closure::new(work)).await
    }

    /// Guards any other client's future, given the pid of the backend it runs on. `work` is called
    /// once an attempt and answers for its own transaction: after a rejection its statement has
    /// failed with 57014, and nothing is rolled back or cleaned up but by the job's cleanup. A request to cancel names
    /// the statement that was short: the client's next one is never hit.
    ///
    /// A client that asks for rows with a limit gets no workers at all (asyncpg's `fetchrow`, JDBC's `fetchSize` and
    /// `maxRows`, a cursor): let it fetch all of them.
    ///
    /// # Errors
    /// As [`execute`](Self::execute); refused when the monitor may not see or stop that backend.
    pub async fn watch<F, W, T, E>(&self, pid: i32, work: F) -> Result<Execution<T>, Error>
    where
        F: Fn() -> W,
        W: Future<Output = Result<T, E>>,
        E: Into<Source>,
    {
        let (settings, cleanup) = self.validated()?;
        if settings.strict {
            refuse_recall(&settings, "the transaction of another client's backend is not ours to roll back")?;
        }
        if settings.ceiling.is_some() {
            let why =
                "the session of another client's backend is not ours to set: SET max_parallel_workers there";
            return Err(Error::configuration("ceiling", why));
        }
        let span = spans::execution(&settings.task);
        let guard = SessionGuard::new(self.inner.clone(), settings.clone(), cleanup);
        self.play(ExternalBackend::new(guard, pid, work), &settings).instrument(span).await
    }

    async fn run<W: Work>(&self, work: W) -> Result<Execution<W::Value>, Error> {
        let (settings, cleanup) = self.validated()?;
        let span = spans::execution(&settings.task);
        let guard = SessionGuard::new(self.inner.clone(), settings.clone(), cleanup);
        self.play(OwnedSession::new(guard, work), &settings).instrument(span).await
    }

    async fn play<S: Executor>(
        &self,
        mut executor: S,
        settings: &Settings,
    ) -> Result<Execution<S::Value>, Error> {
        let mut recorder = self.recorder(&settings.task);
        // Boxed: the state of all that may happen is 20 KB, too much for a caller's stack.
        let Driven { outcome, value, .. } =
            Box::pin(drive(&mut executor, &mut recorder, settings, &self.stop)).await?;
        Ok(recorder.execution(outcome, value))
    }

    /// What cannot run as it is typed is told before anything is sent.
    fn refuse_flaw(&self, sql: &str, parameters: bool) -> Result<(), Error> {
        let flaw = plan::flaw(sql, Manner::of(self.settings.transaction), parameters);
        flaw.map_or(Ok(()), |problem| Err(Error::configuration("sql", problem)))
    }

    fn recorder(&self, task: &str) -> ExecutionRecorder {
        let recorder = ExecutionRecorder::new(task, self.inner.observers.clone());
        match self.since {
            Some(began) => recorder.since(began.into()),
            None => recorder,
        }
    }

    fn validated(&self) -> Result<(Arc<Settings>, Cleanup), Error> {
        self.settings.validate()?;
        let cleanup = match (&self.cleanup, &self.settings.cleanup) {
            (Some(cleanup), _) => cleanup.clone(),
            (None, Some(sql)) => Cleanup::Sql(sql.as_str().into()),
            (None, None) => Cleanup::Nothing,
        };
        Ok((Arc::new(self.settings.clone()), cleanup))
    }
}

/// Refuses what would take a result back that is out of our hands.
fn refuse_recall(settings: &Settings, why: &str) -> Result<(), Error> {
    let field = match settings {
        Settings { strict: true, .. } => "strict",
        Settings { every_launch: true, .. } => "every_launch",
        _ => return Ok(()),
    };
    Err(Error::configuration(field, why.to_owned()))
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only if a service may spawn the futures of a job.
    #[allow(dead_code, reason = "compiling it is the test")]
    fn the_verbs_of_a_job_may_be_spawned(job: &Job) {
        fn spawnable<T: Send>(_: T) {}
        spawnable(job.execute("", &[&1_i32]));
        spawnable(job.execute_script(""));
        spawnable(job.query("", &[]));
        spawnable(job.guard(|client| Box::pin(client.query_one("", &[]))));
        spawnable(job.watch(1, || async { Ok::<_, Error>(()) }));
    }
}
