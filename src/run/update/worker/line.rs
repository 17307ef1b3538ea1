//! The worker's session: had, lost, and had again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::super::labor::Labor;
use super::chunk::Chunk;
use super::{Shop, Worker};
use crate::decide::backoff::Backoff;
use crate::event::{Event, SqlState};
use crate::pg::Failure;
use crate::pg::era::Era;

/// Pauses between tries to get a session.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(5) };

/// A session, ready for work.
pub(super) struct Line<D> {
    pub(super) client: Client,
    pub(super) driver: JoinHandle<()>,
    pub(super) desk: D,
    pub(super) era: Arc<Era>,
    pub(super) may_mark: bool,
    /// How a commit waits that is to last: `synchronous_commit`.
    pub(super) waiting: String,
    /// Whether the session's commits are answered before they are on the disk (manual, "Asynchronous Commit").
    pub(super) is_lazy: bool,
}

impl<D> Drop for Line<D> {
    fn drop(&mut self) {
        // Dropping the client sends Terminate; a driver stuck on a dead line must not outlive us.
        if self.client.is_closed() {
            self.driver.abort();
        }
    }
}

impl<D> Line<D> {
    async fn open<L: Labor<Desk = D>>(shop: &Shop<'_, L>) -> Result<Self, Failure> {
        let (client, driver) = shop.endpoint.open(&format!("headcount:{}", shop.task)).await?;
        let (era, waiting, may_mark) = Era::ready(&client).await?;
        let is_lazy = may_mark && shop.labor.may_be_repeated();
        if is_lazy {
            client.batch_execute("SET synchronous_commit TO off").await?;
        }
        let desk = shop.labor.prepare(&client).await?;
        Ok(Self { client, driver, desk, era: Arc::new(era), may_mark, waiting, is_lazy })
    }

    /// Commits, if there is something to commit; answers when.
    pub(super) async fn send_commit(&self, any: bool) -> Result<Instant, Failure> {
        if any {
            self.client.batch_execute("COMMIT").await?;
        }
        Ok(Instant::now())
    }

    /// Whether the server has lived on since the chunk's transaction.
    pub(super) fn is_of<T>(&self, chunk: &Chunk<T>) -> bool {
        chunk.attempt.era.as_ref().is_some_and(|era| era.is_same(&self.era))
    }
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
        loop {
            if self.is_needless(self.lost.is_some()).await {
                return Err(None);
            }
            let opened = timeout(deadline.saturating_duration_since(Instant::now()), Line::open(shop));
            let opened = tokio::select! {
                biased;
                () = shop.stop.cancelled(), if !self.is_bound() => return Err(None),
                opened = opened => opened,
            };
            let failure = match opened.unwrap_or_else(|_| Err(Failure::lost("no answer in time"))) {
                Ok(line) => {
                    self.line = Some(line);
                    if let Some(lost) = self.lost.take() {
                        shop.books.reconnected(lost);
                    }
                    return Ok(());
                }
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
        self.doubtful.is_some() || !self.held.is_empty() || self.again.iter().any(|chunk| chunk.reread)
    }

    pub(super) fn is_line_closed(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.client.is_closed())
    }

    pub(super) fn lose(&mut self, failure: &Failure) {
        if self.line.take().is_some() {
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
