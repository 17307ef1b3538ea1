//! The executor of a statement that another client runs: only its pid is known to us.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Span;

use super::committing::Committing;
use super::executor::{Cleared, CommitError, Executor, PlanCapacity};
use super::fit::check_rights;
use super::monitor::Watch;
use super::recorder::ExecutionRecorder;
use super::session_guard::SessionGuard;
use super::slots::{Lease, LingeringBackend};
use crate::error::{Error, Source};
use crate::event::{CancelMethod, CancelResult, Resolution};
use crate::pg::Failure;
use crate::pg::session::Identity;
use crate::telemetry::spans;

/// Between two looks at workers that are leaving.
const LEAVING: Duration = Duration::from_millis(10);

/// A backend of somebody else's, and the future that runs on it.
pub(crate) struct ExternalBackend<F, T, E> {
    /// Where the cleanup runs; its session is opened only for that.
    guard: SessionGuard,
    leader: Identity,
    running: bool,
    /// When the statement began that the monitor saw last; 0 before that.
    statement: AtomicI64,
    work: F,
    result: PhantomData<fn() -> (T, E)>,
}

impl<F, T, E> ExternalBackend<F, T, E> {
    pub(crate) const fn new(guard: SessionGuard, pid: i32, work: F) -> Self {
        let leader = Identity { pid, started: 0 };
        Self { guard, leader, running: false, statement: AtomicI64::new(UNSEEN), work, result: PhantomData }
    }
}

/// No statement was seen.
const UNSEEN: i64 = 0;

impl<F, W, T, E> Executor for ExternalBackend<F, T, E>
where
    F: Fn() -> W,
    W: Future<Output = Result<T, E>>,
    E: Into<Source>,
{
    type Value = T;
    type Slots = Lease;

    fn span(&self, attempt: u32) -> Span {
        spans::attempt(&self.guard.settings.task, attempt, &self.guard.inner.server, None, false)
    }

    async fn connect(&mut self, recorder: &mut ExecutionRecorder) -> Result<(), Error> {
        self.guard.connect_monitor(|event| recorder.observe(event)).await
    }

    async fn inspect(&mut self, _recorder: &mut ExecutionRecorder) -> Result<PlanCapacity, Error> {
        check_rights(&self.guard, self.leader).await?;
        let monitor = &self.guard.inner.monitor;
        let found = monitor.identify(self.leader.pid).await;
        self.leader = found.map_err(|failure| Error::sql("looking the backend up", failure))?;
        self.guard.slots.led_by(self.leader.pid);
        Ok(PlanCapacity::default())
    }

    async fn check_capacity(
        &mut self,
        _capacity: &PlanCapacity,
        _required: u32,
        _recorder: &mut ExecutionRecorder,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn slots(&mut self) -> &mut Lease {
        &mut self.guard.slots
    }

    async fn begin(&mut self, attempt: u32) -> Result<Identity, Failure> {
        self.running = true;
        self.statement.store(UNSEEN, Relaxed);
        self.guard.slots.serve(self.leader.pid, attempt);
        Ok(self.leader)
    }

    async fn work(&self, _steps: Range<usize>) -> Result<T, Failure> {
        (self.work)().await.map_err(|error| Failure::from(error.into()))
    }

    fn saw(&self, statement: Option<i64>) {
        self.statement.store(statement.unwrap_or(UNSEEN), Relaxed);
    }

    fn watch(&self, interval: Duration) -> Watch {
        self.guard.inner.monitor.watch(self.leader, interval)
    }

    fn watch_pool(&self, interval: Duration) -> Watch {
        self.guard.inner.monitor.watch_pool(interval)
    }

    const SHARES_BACKEND: bool = true;

    async fn stop(&self, method: CancelMethod) -> CancelResult {
        stop_seen(&self.guard, self.leader, method, self.statement.load(Relaxed)).await
    }

    async fn commit(&mut self, _: &Committing) -> Result<bool, CommitError> {
        self.running = false;
        Ok(true)
    }

    async fn resolve(&mut self, _xid: &str) -> Resolution {
        Resolution::Unresolved
    }

    async fn abandon(&mut self, grace: Duration) -> u32 {
        let left = drained(&mut self.guard, self.leader, grace).await;
        self.running = false;
        left.unwrap_or(0)
    }

    async fn cleanup(&mut self) -> Option<Result<(), Failure>> {
        self.guard.cleanup().await
    }

    fn cleans_up(&self) -> bool {
        self.guard.cleans_up()
    }

    async fn clear_away(&mut self) -> Cleared {
        if !self.running {
            return self.guard.clear_away().await;
        }
        self.stop(CancelMethod::Cancel).await;
        let grace = self.guard.settings.cancel_grace;
        let left = drained(&mut self.guard, self.leader, grace).await;
        self.running = false;
        Cleared { cleanup: self.guard.cleanup().await.unwrap_or(Ok(())), left }
    }
}

impl<F, T, E> Drop for ExternalBackend<F, T, E> {
    fn drop(&mut self) {
        if self.running && tokio::runtime::Handle::try_current().is_ok() {
            let (inner, leader) = (self.guard.inner.clone(), self.leader);
            let statement = self.statement.load(Relaxed);
            let mut guard = self.guard.take();
            let tracker = inner.tracker.clone();
            tracker.spawn(async move {
                stop_seen(&guard, leader, CancelMethod::Cancel, statement).await;
                let grace = guard.settings.cancel_grace;
                drained(&mut guard, leader, grace).await;
                guard.cleanup().await;
                guard.slots.outlast().await;
            });
        }
    }
}

/// Stops the statement that was seen, and no other: its owner may have sent the next one.
async fn stop_seen(
    guard: &SessionGuard,
    leader: Identity,
    method: CancelMethod,
    statement: i64,
) -> CancelResult {
    if statement == UNSEEN {
        return CancelResult::Missed;
    }
    guard.inner.monitor.stop_statement(leader, method, Some(statement)).await
}

/// Waits until the leader's workers are gone, at most `grace`; returns how many are left, `None` where nobody could look.
async fn drained(guard: &mut SessionGuard, leader: Identity, grace: Duration) -> Option<u32> {
    // Its backend is its owner's, and stays.
    let lingering = LingeringBackend { leader, runs: false };
    let until = Instant::now() + grace;
    loop {
        let left = lingering.left(&guard.inner.monitor).await.ok();
        if left == Some(0) || Instant::now() >= until {
            guard.slots.leave_behind(lingering, left);
            return left;
        }
        sleep(LEAVING).await;
    }
}
