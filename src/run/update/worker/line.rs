//! The worker's session: had, lost, and had again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::super::labor::Labor;
use super::chunk::Chunk;
use super::halt::{UnderWay, guard};
use super::{Shop, Worker};
use crate::decide::backoff::Backoff;
use crate::event::{Event, SqlState};
use crate::pg::Failure;
use crate::pg::era::{Era, Life, Ready};
use crate::pg::heard::Heard;
use crate::pg::session::{Identity, tidy};
use crate::pg::update::Remnant;

/// Pauses between tries to get a session.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(5) };

/// A session, ready for work.
#[allow(clippy::struct_excessive_bools, reason = "what the server and the labor say, each for itself")]
pub(super) struct Line<D> {
    pub(super) client: Client,
    pub(super) driver: JoinHandle<()>,
    pub(super) desk: D,
    pub(super) life: Arc<Life>,
    pub(super) may_mark: bool,
    /// Whether its commits wait for a standby.
    pub(super) has_standby: bool,
    /// How a commit waits that is to last: `synchronous_commit`.
    pub(super) waiting: String,
    /// Whether the session's commits are answered before they are on the disk (manual, "Asynchronous Commit").
    pub(super) is_lazy: bool,
    pub(super) heard: Heard,
    pub(super) under_way: UnderWay,
    identity: Identity,
    lent: bool,
    guard: JoinHandle<()>,
}

impl<D> Drop for Line<D> {
    fn drop(&mut self) {
        self.guard.abort();
        // Dropping the client sends Terminate; a driver stuck on a dead line must not outlive us.
        if self.client.is_closed() {
            self.driver.abort();
        }
    }
}

impl<D> Line<D> {
    async fn open<L: Labor<Desk = D>>(shop: &Shop<'_, L>) -> Result<Self, Failure> {
        let heard = Heard::default();
        let (client, driver) = shop.endpoint.open_heard(&format!("headcount:{}", shop.task), &heard).await?;
        let Ready { life, waiting, has_standby, may_mark, identity, lent } = Era::ready(&client).await?;
        let is_lazy = may_mark && shop.labor.may_be_lazy();
        if is_lazy {
            client.batch_execute("SET synchronous_commit TO off").await?;
        }
        let desk = shop.labor.prepare(&client).await?;
        let (life, under_way) = (Arc::new(life), UnderWay::default());
        let guard = guard(shop.halt, shop.endpoint, &client, &under_way, driver.abort_handle());
        Ok(Self {
            client,
            driver,
            desk,
            life,
            may_mark,
            has_standby,
            waiting,
            is_lazy,
            heard,
            under_way,
            identity,
            lent,
            guard,
        })
    }

    /// Ends it. A proxy's backend is left as it was had.
    pub(super) async fn close(self) {
        if self.lent && !self.client.is_closed() {
            tidy(&self.client).await;
        }
    }

    /// Commits, if there is something to commit.
    pub(super) async fn send_commit(&self, any: bool) -> Result<Committed, Failure> {
        if any {
            // One that waits for nobody leaves nothing undone when it is cancelled.
            let _under_way = if self.is_lazy { None } else { Some(self.under_way.commit()?) };
            self.client.batch_execute("COMMIT").await?;
            let waited = self.is_lazy || !self.heard.take_unreplicated();
            return Ok(Committed { at: Instant::now(), waited });
        }
        Ok(Committed { at: Instant::now(), waited: true })
    }

    /// Whether the server has lived on since the chunk's transaction.
    pub(super) fn is_of<T>(&self, chunk: &Chunk<T>) -> bool {
        chunk.attempt.life.as_ref().is_some_and(|life| life.is_same(&self.life))
    }
}

/// A COMMIT that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed {
    pub(super) at: Instant,
    /// Nobody cancelled its wait for a synchronous standby.
    pub(super) waited: bool,
}

impl<L: Labor> Worker<'_, L> {
    /// A session, however often it takes, at most `reconnect_wait`. The error is `None` when there is no
    /// need for one any more.
    pub(super) async fn ensure_line(&mut self) -> Result<(), Option<Failure>> {
        if self.is_line_closed() {
            self.lose(&Failure::lost("the connection was closed"));
        }
        if self.line.is_some() {
            return Ok(());
        }
        if let Some(chunk) = self.open.take() {
            self.on_failure(chunk, Failure::lost("the connection was closed"));
        }
        let shop = self.shop;
        let deadline = Instant::now() + shop.reconnect_wait;
        let mut failures = 0;
        let mut last = None;
        loop {
            if self.is_needless(self.lost.is_some()).await {
                return Err(None);
            }
            let deadline = shop.halt.end().map_or(deadline, |end| end.min(deadline));
            let opened = timeout(deadline.saturating_duration_since(Instant::now()), Line::open(shop));
            let opened = tokio::select! {
                biased;
                () = shop.stop.cancelled(), if !self.is_bound() => return Err(None),
                opened = opened => opened,
                () = shop.halt.over() => return Err(Some(Failure::lost("the run was stopped, and had no more time"))),
            };
            // A try that had no time left says nothing of why.
            let failure = match opened.unwrap_or_else(|_| Err(last.take().unwrap_or_else(Failure::no_answer)))
            {
                Ok(line) => match self.end_remnant(&line).await {
                    Ok(()) => {
                        shop.past.meets(&line.life);
                        self.line = Some(line);
                        if let Some(lost) = self.lost.take() {
                            shop.books.reconnected(lost);
                        }
                        return Ok(());
                    }
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            failures += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let pause = match RECONNECT.delay_within(left, failures, fastrand::f64()) {
                Some(pause) if failure.may_pass() => pause,
                _ => return Err(Some(failure)),
            };
            // The first session of a worker is not worth a wait when others finish without it.
            if self.is_needless(true).await {
                return Err(None);
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = shop.stop.cancelled(), if !self.is_bound() => {}
            }
            last = Some(failure);
        }
    }

    /// Whether nobody needs the session: the run is stopped, or others finish what there is. A commit in
    /// doubt always needs one, and what is not flushed, or to be read again.
    async fn is_needless(&self, others_may_finish: bool) -> bool {
        if self.is_bound() {
            return false;
        }
        self.shop.stop.is_cancelled()
            || (others_may_finish && self.again.is_empty() && self.shop.feed.is_exhausted().await)
    }

    fn is_bound(&self) -> bool {
        self.doubtful.is_some()
            || !self.held.is_empty()
            || self.again.iter().any(|chunk| chunk.reread)
            || self.shop.past.is_behind()
    }

    /// Ends the session that was lost, where the server still has it.
    async fn end_remnant(&mut self, line: &Line<L::Desk>) -> Result<(), Failure> {
        if let Some(remnant) = &self.remnant {
            let xid = self.doubtful.as_ref().and_then(|(chunk, _)| chunk.attempt.mark.xid.as_deref());
            remnant.end(&line.client, xid).await?;
            self.remnant = None;
        }
        Ok(())
    }

    /// Gives up a session that is of no use any more, or that may be none any more. Whatever was open is rolled back.
    pub(super) fn put_down(&mut self) {
        let Some(line) = self.line.take() else { return };
        self.remnant = Some(Remnant { identity: line.identity, lent: line.lent });
    }

    pub(super) fn is_line_closed(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.client.is_closed())
    }

    pub(super) fn lose(&mut self, failure: &Failure) {
        if self.line.is_some() {
            self.put_down();
            let sqlstate = failure.event_sqlstate().unwrap_or(SqlState::CONNECTION_FAILURE);
            self.lost = Some(sqlstate);
            self.shop.books.observe(&Event::SessionLost { sqlstate });
        }
    }

    pub(super) async fn roll_back(&mut self) {
        if let Some(line) = &self.line
            && let Err(error) = line.client.batch_execute("ROLLBACK").await
        {
            self.lose(&error.into());
        }
    }
}
