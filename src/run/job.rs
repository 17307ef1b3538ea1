//! A job: its options, and the methods that run it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

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

/// A guarded query: its options, and the methods that run it. Made by [`Headcount::task`](super::Headcount::task).
///
/// The options are those of [`Settings`]; they are validated when the job runs. A job can run several times.
///
/// The future of every method may be dropped at any await. Then the statement is cancelled on the server and
/// rolled back, and the cleanup runs, in a task that [`Headcount::shutdown`](super::Headcount::shutdown)
/// waits for. A token given to [`stop`](Self::stop) does the same while the call waits, and the call returns the history.
///
/// ```no_run
/// # async fn job(headcount: &headcount::Headcount) -> Result<(), headcount::Error> {
/// let job = headcount.task("rollup").target(8).minimum(4).set("work_mem", "256MB").cleanup("DROP TABLE IF EXISTS part");
/// let run = job.execute("CREATE TABLE part AS SELECT region, sum(price) FROM orders GROUP BY 1", &[]).await?;
/// assert!(run.achieved_workers >= 4);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Job {
    inner: Arc<Inner>,
    settings: Settings,
    cleanup: Option<Cleanup>,
    stop: CancellationToken,
}

impl Job {
    pub(crate) fn new(inner: Arc<Inner>, settings: Settings) -> Self {
        Self { inner, settings, cleanup: None, stop: CancellationToken::new() }
    }

    /// All options, to read or change.
    pub const fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Sets the number of workers that all attempts but the last must have; 1 to 1024. Default 4.
    #[must_use]
    pub const fn target(mut self, workers: u32) -> Self {
        self.settings.target_workers = workers;
        self
    }

    /// Sets the number of workers that the last attempt must have; 0 to the target. Default 2, or 1 with a target of 1.
    #[must_use]
    pub const fn minimum(mut self, workers: u32) -> Self {
        self.settings.min_workers = Minimum::Workers(workers);
        self
    }

    /// Sets the maximum number of attempts; 1 to 100. Default 5.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// Sets how attempts are judged and timed. Default [`Policy::Prompt`].
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Sets what to do if the plan cannot reach the target. Default [`PlanShortfall::Lower`].
    #[must_use]
    pub const fn plan_shortfall(mut self, shortfall: PlanShortfall) -> Self {
        self.settings.plan_shortfall = shortfall;
        self
    }

    /// Cancels and retries also if a later launch is short; see [`Settings::every_launch`].
    #[must_use]
    pub const fn every_launch(mut self) -> Self {
        self.settings.every_launch = true;
        self
    }

    /// Rolls back a statement if any of its launches was short; see [`Settings::strict`].
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.settings.strict = true;
        self
    }

    /// Gathers slots of a busy pool until there are enough; see [`Settings::gather`].
    #[must_use]
    pub const fn gather(mut self) -> Self {
        self.settings.gather = true;
        self
    }

    /// Starts only where enough workers can be had whatever others do; see [`Settings::guarantee`].
    #[must_use]
    pub const fn guarantee(mut self) -> Self {
        self.settings.guarantee = true;
        self
    }

    /// Raises `max_parallel_workers` of the statement's session; see [`Settings::ceiling`].
    #[must_use]
    pub const fn ceiling(mut self, raise: Raise) -> Self {
        self.settings.ceiling = Some(raise);
        self
    }

    /// Reserves slots of the pool first, in a queue that all executions with this option share; see
    /// [`Settings::reserve`].
    #[must_use]
    pub const fn reserve(mut self) -> Self {
        self.settings.reserve = true;
        self
    }

    /// Sets the maximum wait for slots. Default 1 h. See [`Settings::reserve_wait`].
    #[must_use]
    pub const fn reserve_wait(mut self, limit: Duration) -> Self {
        self.settings.reserve_wait = limit;
        self
    }

    /// Accepts slots for the minimum after this wait. Default: at the end of `reserve_wait`. See
    /// [`Settings::degrade_after`].
    #[must_use]
    pub const fn degrade_after(mut self, patience: Duration) -> Self {
        self.settings.degrade_after = Some(patience);
        self
    }

    /// Joins the priority queue, which is served first.
    #[must_use]
    pub const fn priority(mut self) -> Self {
        self.settings.priority = true;
        self
    }

    /// Sets the number of slots that all executions share. Default: the server's pool. See [`Settings::pool_size`].
    #[must_use]
    pub const fn pool_size(mut self, slots: u32) -> Self {
        self.settings.pool_size = Some(slots);
        self
    }

    /// Sets the time limit of the whole execution, from its call. Connecting counts. Default: none.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = Some(deadline);
        self
    }

    /// Adds a server setting for the statement's transaction (`SET LOCAL`).
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.settings.push((name.into(), value.into()));
        self
    }

    /// Runs outside a transaction block, for VACUUM and CREATE INDEX CONCURRENTLY.
    #[must_use]
    pub const fn no_transaction(mut self) -> Self {
        self.settings.transaction = false;
        self
    }

    /// Sets SQL that undoes what a rollback does not. It runs after each attempt that is not accepted.
    #[must_use]
    pub fn cleanup(mut self, sql: impl Into<String>) -> Self {
        self.settings.cleanup = Some(sql.into());
        self
    }

    /// Sets a closure as the cleanup, which runs in a transaction of its own. It replaces [`cleanup`](Self::cleanup).
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

    /// Sets a token that stops the execution: when it is cancelled, the statement is cancelled, rolled back and
    /// cleaned up, and the call returns an error ([`Error::is_stopped`]) with the history so far. A result that is
    /// complete is kept. It does not stop [`Rows`] that were handed over: drop those.
    #[must_use]
    pub fn stop(mut self, token: CancellationToken) -> Self {
        self.stop = token;
        self
    }

    /// Returns how many workers a statement, or each of several, can get with this job's settings, and why not more.
    /// Nothing is executed.
    ///
    /// EXPLAIN takes the statement's locks, and waits for them without a limit; [`Event::PlanBlocked`](crate::Event)
    /// reports such a wait. If the future is dropped, it is cancelled on the server.
    ///
    /// # Errors
    /// A bad option, a connection error, or SQL that is wrong.
    pub async fn explain(&self, sql: &str, params: Params<'_>) -> Result<Explanation, Error> {
        self.settings.validate()?;
        // Also what runs outside of one is explained in a transaction: nothing of it stays.
        let settings = Settings { transaction: true, ..self.settings.clone() };
        let guard = SessionGuard::new(self.inner.clone(), Arc::new(settings), Cleanup::Nothing);
        guard.connect_monitor(|event| guard.observe(event)).await?;
        Box::pin(OwnedSession::new(guard, Nothing).explain(sql, params)).await
    }

    /// Runs one statement with parameters. The value is the number of rows.
    ///
    /// Parameters do not prevent parallel plans.
    ///
    /// # Errors
    /// A bad option, a refusal, a connection error, a failed statement or cleanup, the deadline, or a commit whose
    /// outcome is unknown. Too few workers is no error: check [`Execution::outcome`].
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<Execution<u64>, Error> {
        self.refuse_flaw(sql, true)?;
        self.run(Statement { sql, params, trace_comment: self.settings.trace_comment }).await
    }

    /// Runs one or several statements without parameters, in one transaction. The value is the number of rows of
    /// the last one.
    ///
    /// With [`no_transaction`](Self::no_transaction) each statement is a transaction of its own: what ran before a
    /// cancel or an error stays, unless the cleanup undoes it.
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
    /// Read the rows with [`Rows::next`]. Then call [`Rows::finish`], which commits and returns the final report; rows
    /// that are dropped before are rolled back. The value is `None` if the outcome is `below_minimum`.
    ///
    /// Up to 256 rows are held back in memory; the rest waits in the socket, and the server waits too. A connection
    /// that is lost after the verdict is an error, not a retry, since rows have reached the caller.
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

    /// Runs your own closure on a session, inside a transaction unless [`no_transaction`](Self::no_transaction) is
    /// set. The closure is called once per attempt and must not commit. No plan is inspected.
    ///
    /// # Errors
    /// As [`execute`](Self::execute). An error of the closure is retried if its chain of causes has a transient
    /// `tokio_postgres::Error`.
    pub async fn guard<F, T, E>(&self, work: F) -> Result<Execution<T>, Error>
    where
        F: for<'a> Fn(&'a Client) -> BoxFuture<'a, Result<T, E>>,
        E: Into<Source>,
    {
        self.run(Closure::new(work)).await
    }

    /// Guards a statement that another client runs, given the pid of its backend. `work` is called once per attempt.
    ///
    /// The client is responsible for its transaction: after a rejected attempt its statement has failed with 57014, and
    /// Headcount runs only the job's cleanup. A cancel names the statement that was short, so it never hits the client's
    /// next one.
    ///
    /// The client must fetch all rows: with a row limit or a cursor (asyncpg's `fetchrow`, JDBC's `fetchSize` and
    /// `maxRows`) PostgreSQL starts no workers.
    ///
    /// # Errors
    /// As [`execute`](Self::execute). Refused if the monitor may not see or cancel that backend.
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
        if settings.gather || settings.guarantee {
            let option = if settings.gather { "gather" } else { "guarantee" };
            let why = "the session of another client's backend is not ours to set";
            return Err(Error::configuration(option, why));
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
        ExecutionRecorder::new(task, self.inner.observers.clone())
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
