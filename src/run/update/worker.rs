//! One connection's work: chunk after chunk, each in a transaction, through losses.
//!
//! In steady state a chunk takes one round trip: the COMMIT of one chunk travels with the BEGIN and the
//! work of the next. A COMMIT is sent only when the answer to its work is there, and with it the
//! transaction's id: without the id a lost answer could not be looked up.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::books::{Books, Closing};
use super::feed::{Feed, Portion};
use super::labor::{Labor, Request};
use crate::decide::backoff::Backoff;
use crate::decide::chunk::Class;
use crate::decide::chunk::blame::blame;
use crate::decide::chunk::course::{Course, Fault, Next, Status};
use crate::decide::chunk::gather::Twin;
use crate::decide::chunk::size::Sizer;
use crate::event::{Event, Resolution, SqlState};
use crate::pg::connect::Endpoint;
use crate::pg::update::Answer;
use crate::pg::{Failure, xact};
use crate::telemetry::spans::{self, Server};

/// What a run's workers share.
pub(crate) struct Shop<'a, L: Labor> {
    pub(crate) labor: &'a L,
    pub(crate) feed: &'a Feed<L::Item>,
    pub(crate) books: &'a Books,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) server: &'a Server,
    pub(crate) task: &'a str,
    pub(crate) span: &'a Span,
    /// No new chunk once it is cancelled.
    pub(crate) stop: &'a CancellationToken,
    pub(crate) sizer: Sizer,
    pub(crate) max_attempts: u32,
    pub(crate) retry: Backoff,
    pub(crate) reconnect_wait: Duration,
    pub(crate) keys: usize,
}

/// A session, ready for work.
struct Line<D> {
    client: Client,
    driver: tokio::task::JoinHandle<()>,
    desk: D,
}

impl<D> Drop for Line<D> {
    fn drop(&mut self) {
        // Dropping the client sends Terminate; a driver stuck on a dead line must not outlive us.
        if self.client.is_closed() {
            self.driver.abort();
        }
    }
}

struct Chunk<T> {
    number: u64,
    items: Vec<T>,
    twins: Vec<Twin<T>>,
    course: Course,
    /// No new attempt before.
    due: Instant,
    claimed: bool,
    attempt: Attempt,
}

/// The transaction under way.
struct Attempt {
    span: Span,
    began: Instant,
    xid: Option<String>,
    classes: Vec<Class>,
}

/// What a worker does next.
enum Move<T> {
    Work(Box<Chunk<T>>),
    /// Claim a chunk of its own; with `wait`, wait for rows that others hold.
    Claim {
        wait: bool,
    },
    /// Nothing to work on at the moment, but a transaction to commit.
    Settle,
    Leave,
}

pub(crate) struct Worker<'a, L: Labor> {
    shop: &'a Shop<'a, L>,
    line: Option<Line<L::Desk>>,
    /// What the last session was lost with.
    lost: Option<SqlState>,
    sizer: Sizer,
    /// Worked, COMMIT not sent.
    open: Option<Chunk<L::Item>>,
    /// COMMIT sent, answer lost.
    doubtful: Option<(Chunk<L::Item>, Failure)>,
    /// To be tried again.
    again: Vec<Chunk<L::Item>>,
    /// The last claim found nothing that is free.
    nothing_free: bool,
    claim_failures: u32,
}

impl<'a, L: Labor> Worker<'a, L> {
    pub(crate) fn new(shop: &'a Shop<'a, L>) -> Self {
        Self {
            shop,
            line: None,
            lost: None,
            sizer: shop.sizer,
            open: None,
            doubtful: None,
            again: Vec::new(),
            nothing_free: false,
            claim_failures: 0,
        }
    }

    /// Works until nothing is left, the run is stopped, or no session can be had any more.
    pub(crate) async fn run(mut self) {
        loop {
            if let Err(failure) = self.ensure_line().await {
                self.leave_off(failure.as_ref());
                return;
            }
            if self.doubtful.is_some() {
                self.settle_doubt().await;
                continue;
            }
            match self.next().await {
                Move::Leave => {
                    self.leave_off(None);
                    return;
                }
                Move::Settle => {
                    let commit = self.open.take().map(sent);
                    if let Some(line) = &self.line {
                        let committed = send_commit(&line.client, commit.is_some()).await;
                        self.on_commit(commit, committed);
                    }
                }
                Move::Work(chunk) => self.work(*chunk).await,
                Move::Claim { wait } => self.claim(wait).await,
            }
        }
    }

    async fn next(&mut self) -> Move<L::Item> {
        let shop = self.shop;
        let stopped = shop.stop.is_cancelled();
        if let Some(chunk) = self.again.last() {
            // No transaction stays open through a pause.
            if self.open.is_some() && chunk.due > Instant::now() {
                return Move::Settle;
            }
            let pause = tokio::time::sleep_until(chunk.due);
            let cut_short = tokio::select! {
                biased;
                () = shop.stop.cancelled() => true,
                () = pause => false,
            };
            if !cut_short && let Some(chunk) = self.again.pop() {
                return Move::Work(Box::new(chunk));
            }
            return self.settle_or_leave();
        }
        if stopped {
            return self.settle_or_leave();
        }
        let portion = if self.open.is_some() {
            match shop.feed.next(self.sizer.next()).now_or_never() {
                Some(portion) => portion,
                // Whoever holds rows locked does not wait for keys.
                None => return Move::Settle,
            }
        } else {
            tokio::select! {
                biased;
                () = shop.stop.cancelled() => return Move::Leave,
                portion = shop.feed.next(self.sizer.next()) => portion,
            }
        };
        match portion {
            Ok(Portion::Items(items)) => {
                let gathered = shop.labor.gather(items);
                Move::Work(Box::new(self.chunk(gathered.items, gathered.twins, false)))
            }
            Ok(Portion::Claim) if self.nothing_free && self.open.is_some() => Move::Settle,
            Ok(Portion::Claim) => Move::Claim { wait: self.nothing_free },
            Ok(Portion::End) => self.settle_or_leave(),
            Err(error) => {
                shop.books.stopped_by(&error);
                shop.stop.cancel();
                self.settle_or_leave()
            }
        }
    }

    const fn settle_or_leave(&self) -> Move<L::Item> {
        if self.open.is_some() { Move::Settle } else { Move::Leave }
    }

    fn chunk(&self, items: Vec<L::Item>, twins: Vec<Twin<L::Item>>, claimed: bool) -> Chunk<L::Item> {
        let course = Course::new(self.shop.max_attempts, self.shop.retry);
        let number = self.shop.books.number();
        Chunk { number, items, twins, course, due: Instant::now(), claimed, attempt: Attempt::none() }
    }

    /// Commits the open chunk and works on the next, in one round trip.
    async fn work(&mut self, mut chunk: Chunk<L::Item>) {
        let shop = self.shop;
        let commit = self.open.take().map(sent);
        self.begin(&mut chunk);
        let Some(line) = &self.line else { return };
        let work = shop.labor.work(&line.client, &line.desk, &chunk.items);
        // Polled in order: COMMIT is sent first.
        let (committed, worked) = join(send_commit(&line.client, commit.is_some()), work).await;
        self.on_commit(commit, committed);
        self.on_work(chunk, worked).await;
    }

    /// Commits the open chunk and claims the next, in one round trip; works on it in a second.
    async fn claim(&mut self, wait: bool) {
        let shop = self.shop;
        let Some(line) = &self.line else { return };
        let began = Instant::now();
        let commit = self.open.take().map(sent);
        let given_up = shop.books.given_up();
        let size = if wait { 1 } else { self.sizer.next() };
        let claim = shop.labor.claim(&line.client, &line.desk, Request { size, wait, given_up: &given_up });
        // Waiting for others' rows may be broken off; a COMMIT under way may not.
        let claim = async {
            tokio::select! {
                biased;
                () = shop.stop.cancelled(), if wait => None,
                claimed = claim => Some(claimed),
            }
        };
        let (committed, claimed) = join(send_commit(&line.client, commit.is_some()), claim).await;
        self.on_commit(commit, committed);
        match claimed {
            // Its transaction ends with its session.
            None => self.line = None,
            Some(Ok((items, _))) if items.is_empty() => {
                self.claim_failures = 0;
                self.nothing_free = true;
                self.roll_back().await;
                if wait {
                    shop.feed.claims_are_over();
                }
            }
            Some(Ok((items, answer))) => {
                self.claim_failures = 0;
                self.nothing_free = false;
                let mut chunk = self.chunk(items, Vec::new(), true);
                self.begin(&mut chunk);
                chunk.attempt.began = began;
                self.on_work(chunk, answer).await;
            }
            Some(Err(failure)) => self.claim_failed(failure).await,
        }
    }

    /// No rows were had, so there is nothing to report but the failure itself.
    async fn claim_failed(&mut self, failure: Failure) {
        let shop = self.shop;
        self.claim_failures += 1;
        if failure.is_connection_lost() {
            self.lose(&failure);
        } else {
            self.roll_back().await;
        }
        if failure.is_retryable() && self.claim_failures < shop.max_attempts {
            sleep(shop.retry.delay(self.claim_failures, fastrand::f64())).await;
        } else {
            shop.books.stopped_by(&format!("claiming rows failed: {failure}"));
            shop.stop.cancel();
        }
    }

    fn begin(&self, chunk: &mut Chunk<L::Item>) {
        let Shop { span, task, server, labor, .. } = *self.shop;
        chunk.course.on_begin();
        let size = chunk.items.len() as u32;
        let span = spans::chunk(span, task, chunk.number, size, server, labor.sql());
        chunk.attempt = Attempt { span, began: Instant::now(), xid: None, classes: Vec::new() };
    }

    async fn on_work(&mut self, mut chunk: Chunk<L::Item>, worked: Result<Answer, Failure>) {
        match worked {
            Ok(Answer { xid, classes }) => {
                chunk.course.on_worked(xid.is_some());
                chunk.attempt.xid = xid;
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

    fn on_commit(&mut self, chunk: Option<Chunk<L::Item>>, committed: Result<Instant, Failure>) {
        let Some(mut chunk) = chunk else { return };
        match committed {
            Ok(at) => {
                chunk.course.on_committed();
                self.committed(&chunk, at);
            }
            // Whatever is no word of the server's leaves open what the server did.
            Err(failure) if failure.sqlstate().is_none() => {
                self.on_failure(chunk, Failure::lost(failure.to_string()));
            }
            Err(failure) => self.on_failure(chunk, failure),
        }
    }

    fn committed(&mut self, chunk: &Chunk<L::Item>, at: Instant) {
        let shop = self.shop;
        let took = at.saturating_duration_since(chunk.attempt.began);
        self.sizer.on_committed(chunk.items.len() as u32, took);
        let closing = Closing { took, ..chunk.closing() };
        let classes = &chunk.attempt.classes;
        chunk.attempt.span.in_scope(|| shop.books.committed(&closing, classes, |item| shop.labor.show(item)));
    }

    fn on_failure(&mut self, mut chunk: Chunk<L::Item>, failure: Failure) {
        if failure.is_connection_lost() {
            self.lose(&failure);
        }
        let blame = failure.sqlstate().map_or(L::OWN_FAILURE, |code| blame(Some(code)));
        let fault = Fault { class: failure.class(), blame };
        let next = chunk.course.on_failed(fault, chunk.items.len(), fastrand::f64());
        self.go_on(chunk, next, failure);
    }

    /// Carries out what the chunk's course says after a failure.
    fn go_on(&mut self, mut chunk: Chunk<L::Item>, next: Next, failure: Failure) {
        let shop = self.shop;
        let span = chunk.attempt.span.clone();
        span.in_scope(|| match next {
            Next::Done => self.committed(&chunk, Instant::now()),
            Next::Ask(_) => {
                shop.books.observe(&Event::CommitInDoubt);
                self.doubtful = Some((chunk, failure));
            }
            Next::Retry(pause) => {
                shop.books.retried(&chunk.closing(), &failure);
                self.sizer.on_retried();
                chunk.due = Instant::now() + pause;
                chunk.attempt = Attempt::none();
                self.again.push(chunk);
            }
            Next::Split => {
                shop.books.retried(&chunk.closing(), &failure);
                self.split(chunk);
            }
            Next::GiveUp => self.give_up(&chunk, &failure),
            Next::Stop => {
                shop.books.stopped_by(&failure);
                self.give_up(&chunk, &failure);
                shop.stop.cancel();
            }
        });
    }

    fn give_up(&self, chunk: &Chunk<L::Item>, failure: &Failure) {
        let Shop { books, labor, keys, stop, .. } = *self.shop;
        if !books.failed(&chunk.closing(), failure, chunk.claimed, keys, |item| labor.show(item)) {
            books.stopped_by(&"too many keys failed to go on claiming");
            stop.cancel();
        }
    }

    /// Two halves in the place of a chunk, each with a budget of its own.
    fn split(&mut self, chunk: Chunk<L::Item>) {
        let Chunk { number, mut items, twins, claimed, .. } = chunk;
        let middle = items.len().div_ceil(2);
        let upper = items.split_off(middle);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        for twin in twins {
            if twin.of < middle {
                low.push(twin);
            } else {
                high.push(Twin { of: twin.of - middle, ..twin });
            }
        }
        for (items, twins) in [(upper, high), (items, low)] {
            let course = Course::new(self.shop.max_attempts, self.shop.retry);
            let due = Instant::now();
            self.again.push(Chunk { number, items, twins, course, due, claimed, attempt: Attempt::none() });
        }
    }

    /// Asks what became of the transaction whose COMMIT was not answered.
    async fn settle_doubt(&mut self) {
        let since = Instant::now();
        while let Some((mut chunk, failure)) = self.doubtful.take() {
            let (Some(line), Some(xid)) = (&self.line, chunk.attempt.xid.clone()) else { return };
            let status = match xact::status(&line.client, &xid).await {
                Ok(status) => status,
                Err(lost) if lost.is_connection_lost() => {
                    self.doubtful = Some((chunk, failure));
                    return self.lose(&lost);
                }
                Err(_) => Status::Unknown,
            };
            let patient = since.elapsed() < self.shop.reconnect_wait;
            let next = chunk.course.on_status(status, patient, fastrand::f64());
            if let Next::Ask(pause) = next {
                self.doubtful = Some((chunk, failure));
                sleep(pause).await;
                continue;
            }
            let resolution = match status {
                Status::Committed => Resolution::Committed,
                Status::Aborted => Resolution::Aborted,
                Status::InProgress => Resolution::Unresolved,
                Status::Unknown if matches!(next, Next::Retry(_)) => Resolution::Reread,
                Status::Unknown => Resolution::Unresolved,
            };
            chunk.attempt.span.in_scope(|| self.shop.books.resolved(resolution));
            self.go_on(chunk, next, failure);
        }
    }

    async fn roll_back(&mut self) {
        if let Some(line) = &self.line
            && let Err(error) = line.client.batch_execute("ROLLBACK").await
        {
            self.lose(&error.into());
        }
    }

    fn lose(&mut self, failure: &Failure) {
        if self.line.take().is_some() {
            let sqlstate = failure.event_sqlstate().unwrap_or(SqlState::CONNECTION_FAILURE);
            self.lost = Some(sqlstate);
            self.shop.books.observe(&Event::SessionLost { sqlstate });
        }
    }

    /// A session, however often it takes, at most `reconnect_wait`. The error is `None` when there is no
    /// need for one any more.
    async fn ensure_line(&mut self) -> Result<(), Option<Failure>> {
        if self.line.as_ref().is_some_and(|line| line.client.is_closed()) {
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
            let idle = self.again.is_empty() && self.doubtful.is_none();
            let stopped = self.doubtful.is_none() && shop.stop.is_cancelled();
            if stopped || (idle && self.lost.is_some() && shop.feed.is_exhausted().await) {
                return Err(None);
            }
            let opened = timeout(deadline.saturating_duration_since(Instant::now()), open_line(shop)).await;
            let opened = opened.unwrap_or_else(|_| Err(Failure::lost("no answer in time")));
            let failure = match opened {
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
            let pause = RECONNECT.delay(failures, fastrand::f64());
            if !failure.is_retryable() || Instant::now() + pause >= deadline {
                return Err(Some(failure));
            }
            // The first session of a worker is not worth a wait when others finish without it.
            let idle = self.again.is_empty() && self.doubtful.is_none();
            if idle && shop.feed.is_exhausted().await {
                return Err(None);
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = shop.stop.cancelled(), if self.doubtful.is_none() => {}
            }
        }
    }

    /// Reports what is still at hand: as failed where no session can be had, else as left.
    fn leave_off(mut self, failure: Option<&Failure>) {
        let shop = self.shop;
        if let Some(failure) = failure {
            shop.books.line_down(failure);
        }
        if let Some((chunk, lost)) = self.doubtful.take() {
            chunk.attempt.span.in_scope(|| {
                shop.books.resolved(Resolution::Unresolved);
                self.give_up(&chunk, &lost);
            });
        }
        for chunk in std::mem::take(&mut self.again) {
            match failure {
                Some(failure) => self.give_up(&chunk, failure),
                None => shop.books.left_behind(chunk.items.len() + chunk.twins.len()),
            }
        }
    }
}

/// Pauses between tries to get a session.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(5) };

async fn open_line<L: Labor>(shop: &Shop<'_, L>) -> Result<Line<L::Desk>, Failure> {
    let (client, driver) = shop.endpoint.open(&format!("headcount:{}", shop.task)).await?;
    let desk = shop.labor.prepare(&client).await?;
    Ok(Line { client, driver, desk })
}

/// COMMIT is about to be sent.
fn sent<T>(mut chunk: Chunk<T>) -> Chunk<T> {
    chunk.course.on_commit_sent();
    chunk
}

/// Commits, if there is something to commit; answers when.
async fn send_commit(client: &Client, any: bool) -> Result<Instant, Failure> {
    if any {
        client.batch_execute("COMMIT").await?;
    }
    Ok(Instant::now())
}

impl<T> Chunk<T> {
    fn closing(&self) -> Closing<'_, T> {
        Closing {
            chunk: self.number,
            attempt: self.course.attempt(),
            took: self.attempt.began.elapsed(),
            items: &self.items,
            twins: &self.twins,
        }
    }
}

impl Attempt {
    fn none() -> Self {
        Self { span: Span::none(), began: Instant::now(), xid: None, classes: Vec::new() }
    }
}
