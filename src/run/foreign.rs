//! The stage of a statement that another client runs: only its pid is known to us.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Span;

use super::committing::Committing;
use super::fit::check_rights;
use super::hold::Hold;
use super::ledger::Ledger;
use super::monitor::Watch;
use super::queue::Grant;
use super::release::Straggler;
use super::reserve::Wanted;
use super::stage::{Cleared, CommitError, Reach, Stage};
use crate::decide::reservation::Launch;
use crate::error::{Error, Source};
use crate::event::{CancelMethod, CancelResult, Resolution};
use crate::pg::Failure;
use crate::pg::session::Identity;
use crate::telemetry::spans;

/// Between two looks at workers that are leaving.
const LEAVING: Duration = Duration::from_millis(10);

/// A backend of somebody else's, and the future that runs on it.
pub(crate) struct Foreign<F, T, E> {
    /// Where the cleanup runs; its session is opened only for that.
    hold: Hold,
    leader: Identity,
    running: bool,
    work: F,
    result: PhantomData<fn() -> (T, E)>,
}

impl<F, T, E> Foreign<F, T, E> {
    pub(crate) const fn new(hold: Hold, pid: i32, work: F) -> Self {
        Self { hold, leader: Identity { pid, started: 0 }, running: false, work, result: PhantomData }
    }
}

impl<F, W, T, E> Stage for Foreign<F, T, E>
where
    F: Fn() -> W,
    W: Future<Output = Result<T, E>>,
    E: Into<Source>,
{
    type Value = T;

    fn span(&self, attempt: u32) -> Span {
        spans::attempt(&self.hold.settings.task, attempt, &self.hold.inner.server, None, false)
    }

    async fn inspect(&mut self, _ledger: &mut Ledger) -> Result<Reach, Error> {
        check_rights(&self.hold, self.leader).await?;
        let monitor = &self.hold.inner.monitor;
        let found = monitor.identify(self.leader.pid).await;
        self.leader = found.map_err(|failure| Error::sql("looking the backend up", failure))?;
        Ok(Reach::default())
    }

    async fn check_reach(&mut self, _reach: &Reach, _bar: u32, _ledger: &mut Ledger) -> Result<(), Error> {
        Ok(())
    }

    async fn reserve(
        &mut self,
        launch: Launch,
        target: u32,
        ledger: &mut Ledger,
    ) -> Result<Option<Grant>, Error> {
        self.hold.reserve(Wanted { launch, target, leader: self.leader.pid }, ledger).await
    }

    fn has_lost_slots(&self) -> bool {
        self.hold.has_lost_slots()
    }

    fn insist(&mut self) -> bool {
        self.hold.insist()
    }

    fn narrow(&mut self, share: u32) {
        self.hold.narrow(share);
    }

    async fn begin(&mut self, attempt: u32) -> Result<Identity, Failure> {
        self.running = true;
        self.hold.serve(self.leader.pid, attempt);
        Ok(self.leader)
    }

    async fn work(&self, _steps: Range<usize>) -> Result<T, Failure> {
        (self.work)().await.map_err(|error| Failure::from(error.into()))
    }

    fn watch(&self, interval: Duration) -> Watch {
        self.hold.inner.monitor.watch(self.leader, interval)
    }

    fn watch_pool(&self, interval: Duration) -> Watch {
        self.hold.inner.monitor.watch_pool(interval)
    }

    const STOPS_ONE_STATEMENT: bool = true;

    async fn stop(&self, method: CancelMethod, statement: Option<i64>) -> CancelResult {
        self.hold.inner.monitor.stop_statement(self.leader, method, statement).await
    }

    async fn commit(&mut self, _: &Committing) -> Result<(), CommitError> {
        self.running = false;
        Ok(())
    }

    async fn resolve(&mut self, _xid: &str) -> Resolution {
        Resolution::Unresolved
    }

    async fn abandon(&mut self, grace: Duration) -> u32 {
        let left = drained(&mut self.hold, self.leader, grace).await;
        self.running = false;
        left.unwrap_or(0)
    }

    async fn cleanup(&mut self) -> Option<Result<(), Failure>> {
        self.hold.cleanup().await
    }

    fn cleans_up(&self) -> bool {
        self.hold.cleans_up()
    }

    async fn clear_away(&mut self) -> Cleared {
        if !self.running {
            return self.hold.clear_away().await;
        }
        self.stop(CancelMethod::Cancel, None).await;
        let grace = self.hold.settings.cancel_grace;
        let left = drained(&mut self.hold, self.leader, grace).await;
        self.running = false;
        Cleared { cleanup: self.hold.cleanup().await.unwrap_or(Ok(())), left }
    }
}

impl<F, T, E> Drop for Foreign<F, T, E> {
    fn drop(&mut self) {
        if self.running && tokio::runtime::Handle::try_current().is_ok() {
            let (inner, leader) = (self.hold.inner.clone(), self.leader);
            let mut hold = self.hold.take();
            let tracker = inner.tracker.clone();
            tracker.spawn(async move {
                inner.monitor.stop(leader, CancelMethod::Cancel).await;
                let grace = hold.settings.cancel_grace;
                drained(&mut hold, leader, grace).await;
                hold.cleanup().await;
                hold.outlast().await;
            });
        }
    }
}

/// Waits until the leader's workers are gone, at most `grace`; returns how many are left, `None` where nobody could look.
async fn drained(hold: &mut Hold, leader: Identity, grace: Duration) -> Option<u32> {
    // Its backend is its owner's, and stays.
    let straggler = Straggler { leader, runs: false };
    let until = Instant::now() + grace;
    loop {
        let left = straggler.left(&hold.inner.monitor).await.ok();
        if left == Some(0) || Instant::now() >= until {
            hold.leave_behind(straggler, left);
            return left;
        }
        sleep(LEAVING).await;
    }
}
