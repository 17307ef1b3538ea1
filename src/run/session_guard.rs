//! A session that never goes away with a statement still running.
//!
//! A dropped future, a deadline, a signal: whatever ends an attempt, the statement is cancelled on
//! the server, rolled back, its workers are gone, and the cleanup has run. `Drop` cannot wait, so it
//! hands the session to a task that does, and [`Headcount::shutdown`](super::Headcount::shutdown)
//! waits for those tasks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::engagement::Engagement;
use super::executor::Cleared;
use super::headcount::Inner;
use super::held_slots::HeldSlots;
use super::monitor::Patience;
use super::session_script::{SessionScript, literal};
use super::slots::{Lease, LingeringBackend};
use crate::decide::backoff::Backoff;
use crate::error::{Error, Source};
use crate::event::{CancelMethod, CancelResult, Event};
use crate::pg::session::{self, Identity, Session};
use crate::pg::{Failure, label};
use crate::settings::{Raise, Settings};

/// Between two looks at a leader that is leaving.
const LEAVING: Duration = Duration::from_millis(10);
/// Between two tries to get a session for the cleanup.
const RETURN: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(2) };

/// A cleanup action of the caller's.
pub(crate) type CleanupFn = dyn for<'a> Fn(&'a Client) -> BoxFuture<'a, Result<(), Source>> + Send + Sync;

/// What undoes a rejected attempt.
#[derive(Clone)]
pub(crate) enum Cleanup {
    Nothing,
    Sql(Arc<str>),
    Action(Arc<CleanupFn>),
}

/// What is lost when the guard is dropped now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Busy {
    /// Nothing.
    #[default]
    No,
    /// What runs between `begin` and a commit or a completed undo.
    Attempt,
    /// A cleanup that was begun.
    Cleanup,
}

/// A session on loan to one execution.
pub(crate) struct SessionGuard {
    pub(crate) inner: Arc<Inner>,
    pub(crate) settings: Arc<Settings>,
    cleanup: Cleanup,
    session: Option<Session>,
    /// The backend that may still run something of ours.
    leader: Option<Identity>,
    /// The backend that the observers know of: the leader, or where the cleanup runs.
    engaged: Engagement,
    /// Given back when this is dropped: after everything was cleared away.
    pub(super) slots: Lease,
    /// Slots that are held until the leader has its workers.
    pub(super) held_slots: HeldSlots,
    /// How far the session's ceiling is raised.
    pub(super) raise: Option<Raise>,
    busy: Busy,
    /// The last leader that nobody saw go.
    unseen: Option<LingeringBackend>,
    /// True in the copy of the task that clears away: dropping that starts no further task.
    last: bool,
}

impl SessionGuard {
    pub(crate) fn new(inner: Arc<Inner>, settings: Arc<Settings>, cleanup: Cleanup) -> Self {
        Self {
            engaged: Engagement::new(inner.clone(), settings.task.as_str().into()),
            slots: Lease::new(inner.clone(), settings.clone()),
            held_slots: HeldSlots::default(),
            raise: settings.ceiling,
            inner,
            settings,
            cleanup,
            session: None,
            leader: None,
            busy: Busy::No,
            unseen: None,
            last: false,
        }
    }

    /// Connects the monitor, unless it has been connected before; as patiently as an attempt is retried.
    pub(crate) async fn connect_monitor(&self, say: impl FnMut(&Event)) -> Result<(), Error> {
        let Settings { max_attempts: attempts, retry_delay, .. } = *self.settings;
        self.inner.connect(Patience { attempts, retry_delay }, say).await
    }

    /// The session; connects, or takes one that is idle, when there is none.
    pub(crate) async fn session(&mut self) -> Result<&mut Session, Failure> {
        let open = self.session.take().filter(|session| !session.is_closed());
        let session = match open.or_else(|| self.inner.idle_session()) {
            Some(session) => session,
            None => Session::lead(&self.inner.endpoint, &self.application_name(None)).await?,
        };
        Ok(self.session.insert(session))
    }

    /// The session's client; a failure if it was lost.
    pub(crate) fn client(&self) -> Result<&Client, Failure> {
        let session = self.session.as_ref().ok_or_else(|| Failure::lost("the session is gone"))?;
        Ok(session.client())
    }

    /// Whether nobody has cancelled a wait of the session for a synchronous standby since it was last asked.
    pub(crate) fn has_waited(&self) -> bool {
        self.session.as_ref().is_none_or(|session| !session.heard.take_unreplicated())
    }

    /// What the session says of itself. One that is kept for other jobs demands nothing when this is over.
    fn application_name(&self, attempt: Option<u32>) -> String {
        let demands = attempt.is_some() || !self.inner.keeps_sessions();
        label::leading(&self.settings.task, demands.then_some(self.settings.target_workers), attempt)
    }

    /// Nothing arrives on the session's line any more.
    pub(crate) fn give_up_line(&self) {
        self.session.iter().for_each(Session::give_up);
    }

    /// Nobody knows what it is at: it is of no use to the next.
    pub(crate) fn lose_session(&mut self) {
        self.session = None;
    }

    /// The leader of the current attempt.
    pub(crate) const fn leader(&self) -> Option<Identity> {
        self.leader
    }

    /// Begins a transaction with the statement's settings: that of an attempt, or one that only looks.
    pub(crate) async fn begin(&mut self, attempt: Option<u32>) -> Result<Identity, Failure> {
        let dialled = self.session().await?.identity;
        let start = self.script().start(self.application_name(attempt));
        self.leader = Some(dialled);
        self.busy = Busy::Attempt;
        self.engaged.begin(dialled);
        match session::begin(self.client()?, &start, dialled).await {
            Ok(identity) => {
                // Not always the backend that was dialled: a proxy may give another to each transaction.
                self.leader = Some(identity);
                self.engaged.begin(identity);
                self.slots.led_by(identity.pid);
                if let Some(attempt) = attempt {
                    self.slots.serve(identity.pid, attempt);
                }
                Ok(identity)
            }
            Err(failure) => {
                self.abandon(self.settings.cancel_grace).await;
                Err(failure)
            }
        }
    }

    /// What is set for the statement on its session.
    fn script(&self) -> SessionScript<'_> {
        // A backend of one's own is told once, when the session begins; a proxy's may be somebody else's next.
        let pooled = self.session.as_ref().is_some_and(|session| session.lent && session.version >= 140_000);
        let (worker_limit, beyond) = (self.slots.worker_limit(), self.held_slots.beyond);
        SessionScript { settings: &self.settings, worker_limit, raise: self.raise, beyond, pooled }
    }

    /// Takes back what was set for the session.
    pub(crate) async fn unset(&self) {
        let script = self.script().unset();
        if let (Ok(client), false) = (self.client(), script.is_empty()) {
            // A session that is lost keeps nothing.
            let _ =
                timeout(self.settings.cancel_grace, client.batch_execute(script.trim_start_matches("; ")))
                    .await;
        }
    }

    /// Nothing is left to undo, and nothing is lost any more when this is dropped.
    pub(super) fn rest(&mut self) {
        self.busy = Busy::No;
        self.engaged.end();
    }

    /// Asks the server to stop the leader, and awaits the answer.
    pub(crate) async fn stop(&self, method: CancelMethod) -> CancelResult {
        match self.leader {
            Some(leader) => self.inner.monitor.stop(leader, method).await,
            None => CancelResult::Missed,
        }
    }

    /// Rolls back and waits until the leader's workers are gone, at most `grace`; a session that was
    /// lost may have left its backend running, which is terminated. Returns how many are left.
    pub(crate) async fn abandon(&mut self, grace: Duration) -> u32 {
        let Some(leader) = self.leader else { return 0 };
        let rolled_back = self.roll_back(grace).await;
        self.see_off(leader, rolled_back, grace).await
    }

    /// Rolls back what only looked, and has left no workers. A session that was lost is left as by
    /// [`abandon`](Self::abandon).
    pub(crate) async fn look_away(&mut self, grace: Duration) {
        let Some(leader) = self.leader else { return };
        if self.roll_back(grace).await {
            self.rest();
        } else {
            self.see_off(leader, false, grace).await;
        }
    }

    async fn roll_back(&self, grace: Duration) -> bool {
        let Ok(client) = self.client() else { return false };
        let end = format!("ROLLBACK{}", self.script().unset());
        matches!(timeout(grace, client.batch_execute(&end)).await, Ok(Ok(())))
    }

    async fn see_off(&mut self, leader: Identity, rolled_back: bool, grace: Duration) -> u32 {
        if !rolled_back {
            self.session = None;
            self.stop(CancelMethod::Terminate).await;
        }
        let lingering = LingeringBackend { leader, runs: !rolled_back };
        let until = Instant::now() + grace;
        loop {
            // No answer: the server itself is away, and its backends with it, or soon back.
            let left = lingering.left(&self.inner.monitor).await.ok();
            if left == Some(0) || Instant::now() >= until {
                self.rest();
                self.unseen = left.is_none().then_some(lingering);
                self.slots.leave_behind(lingering, left);
                return left.unwrap_or(0);
            }
            sleep(LEAVING).await;
        }
    }

    /// Whether there is a cleanup action.
    pub(crate) const fn cleans_up(&self) -> bool {
        !matches!(self.cleanup, Cleanup::Nothing)
    }

    /// Makes a point in the transaction to come back to. Outside of one each statement is such a point.
    pub(crate) async fn mark(&self) -> Result<(), Failure> {
        self.savepoint("SAVEPOINT headcount_statement").await
    }

    /// The point is no longer needed.
    pub(crate) async fn unmark(&self) -> Result<(), Failure> {
        self.savepoint("RELEASE SAVEPOINT headcount_statement").await
    }

    async fn savepoint(&self, sql: &str) -> Result<(), Failure> {
        if self.settings.transaction {
            self.client()?.batch_execute(sql).await?;
        }
        Ok(())
    }

    /// Goes back to the point and waits until the leader's workers are gone, at most `grace`; `None` when the session
    /// cannot go on. Returns how many workers are left.
    pub(crate) async fn rewind(&mut self, grace: Duration) -> Option<u32> {
        const BACK: &str = "ROLLBACK TO SAVEPOINT headcount_statement; RELEASE SAVEPOINT headcount_statement";
        let leader = self.leader?;
        if !matches!(timeout(grace, self.savepoint(BACK)).await, Ok(Ok(()))) {
            return None;
        }
        let lingering = LingeringBackend { leader, runs: false };
        let until = Instant::now() + grace;
        loop {
            let left = lingering.left(&self.inner.monitor).await.ok();
            if left == Some(0) || Instant::now() >= until {
                return left.or(Some(0));
            }
            sleep(LEAVING).await;
        }
    }

    /// Goes on in the session, as that attempt.
    pub(crate) async fn resume(&mut self, attempt: u32) -> Result<Identity, Failure> {
        let leader = self.leader.ok_or_else(|| Failure::lost("the session is gone"))?;
        let name = literal(&self.application_name(Some(attempt)));
        let local = self.settings.transaction;
        let said = format!("SELECT pg_catalog.set_config('application_name', {name}, {local})");
        let told = match self.client() {
            Ok(client) => client.batch_execute(&said).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = told {
            self.abandon(self.settings.cancel_grace).await;
            return Err(failure);
        }
        self.slots.serve(leader.pid, attempt);
        Ok(leader)
    }

    /// Runs the cleanup action in a transaction of its own, on a new session if need be, within its limit.
    pub(crate) async fn cleanup(&mut self) -> Option<Result<(), Failure>> {
        let cleanup = self.cleanup.clone();
        if matches!(cleanup, Cleanup::Nothing) {
            return None;
        }
        let limit = self.settings.cleanup_limit;
        self.busy = Busy::Cleanup;
        let cleaned = timeout(limit, self.clean_until(&cleanup, Instant::now() + limit)).await;
        if cleaned.is_err() {
            self.break_off().await;
        }
        let expired = |_| Err(Failure::client(format!("it did not end within {limit:?} and was broken off")));
        let cleaned = cleaned.unwrap_or_else(expired);
        self.rest();
        Some(cleaned)
    }

    /// Tries again what may succeed later.
    async fn clean_until(&mut self, cleanup: &Cleanup, until: Instant) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            let cleaned = self.clean(cleanup).await;
            tries += 1;
            let delay = RETURN.delay(tries, fastrand::f64());
            match cleaned {
                Err(failure) if failure.is_retryable() && Instant::now() + delay < until => {
                    sleep(delay).await;
                }
                cleaned => return cleaned,
            }
        }
    }

    /// Cancels the cleanup that the session is at, and gives the session up. Behind a proxy nobody knows
    /// which backend that is, so it is the session that is named.
    async fn break_off(&mut self) {
        let Some(session) = self.session.take() else { return };
        let ended = async {
            self.inner.endpoint.cancel(session.client()).await?;
            Ok::<_, Failure>(session.client().batch_execute("ROLLBACK").await?)
        };
        let _ = timeout(self.settings.cancel_grace, ended).await;
    }

    async fn clean(&mut self, cleanup: &Cleanup) -> Result<(), Failure> {
        let backend = self.session().await?.identity;
        self.engaged.begin(backend);
        let client = self.client()?;
        if !self.settings.transaction {
            // A function of the statement's may have left one set. A script that goes on keeps its own.
            client.batch_execute("RESET ROLE").await?;
        }
        let cleaned = match cleanup {
            Cleanup::Nothing => Ok(()),
            // Several statements in one simple query are one transaction already.
            Cleanup::Sql(sql) => client.batch_execute(sql).await.map_err(Failure::from),
            Cleanup::Action(action) => match client.batch_execute("BEGIN").await {
                Err(error) => Err(error.into()),
                Ok(()) => match action(client).await {
                    Ok(()) => client.batch_execute("COMMIT").await.map_err(Failure::from),
                    Err(error) => Err(error.into()),
                },
            },
        };
        if cleaned.is_err() {
            // Whatever state the session is in, nothing more is run on it.
            self.session = None;
        }
        cleaned
    }

    /// Stops whatever is under way: cancel, roll back, drain, clean up. A cleanup that was under way is begun
    /// again.
    pub(crate) async fn clear_away(&mut self) -> Cleared {
        let mut cleared = Cleared::NOTHING;
        match self.busy {
            Busy::No => return cleared,
            Busy::Cleanup => self.break_off().await,
            Busy::Attempt => {
                let result = self.stop(CancelMethod::Cancel).await;
                self.observe(&Event::CancelAnswered { attempt: 0, method: CancelMethod::Cancel, result });
                let began = Instant::now();
                let left = self.abandon(self.settings.cancel_grace).await;
                self.observe(&Event::WorkersDrained { attempt: 0, waited: began.elapsed(), left });
                cleared.left = Some(left);
            }
        }
        // The cleanup may take long.
        self.held_slots.let_go().await;
        // A server that was away may be back, and what was lost with it is gone.
        if let Some(lingering) = self.unseen {
            cleared.left = lingering.left(&self.inner.monitor).await.ok();
        }
        let began = Instant::now();
        if let Some(cleaned) = self.cleanup().await {
            self.observe(&Event::CleanupEnded { attempt: 0, took: began.elapsed(), ok: cleaned.is_ok() });
            cleared.cleanup = cleaned;
        }
        cleared
    }

    pub(crate) fn observe(&self, event: &Event) {
        self.engaged.observe(event);
    }

    /// Moves everything out; what is left has nothing to undo.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
            cleanup: self.cleanup.clone(),
            session: self.session.take(),
            leader: self.leader.take(),
            engaged: self.engaged.take(),
            slots: self.slots.take(),
            held_slots: std::mem::take(&mut self.held_slots),
            raise: self.raise,
            busy: std::mem::take(&mut self.busy),
            unseen: self.unseen.take(),
            last: true,
        }
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if self.busy == Busy::No && (self.last || !self.slots.must_outlast()) {
            if let Some(session) = self.session.take()
                && self.settings.transaction
            {
                self.inner.return_session(session);
            }
            return;
        }
        // Without a runtime, or with one that shuts down and drops what it is given, there is nothing to
        // wait in: the socket closes, and the server notices that (14+).
        if !self.last && tokio::runtime::Handle::try_current().is_ok() {
            let mut rest = self.take();
            let tracker = self.inner.tracker.clone();
            tracker.spawn(async move {
                // Nobody is left to be told; the observers were.
                rest.clear_away().await;
                rest.slots.outlast().await;
            });
        }
    }
}
