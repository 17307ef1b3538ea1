//! One round trip: COMMIT of the chunk before, BEGIN and the work of the next.

use futures_util::future::{join, join3};
use tokio::time::{Instant, sleep};

use super::super::feed::Feed;
use super::super::labor::{Ask, Labor, Request};
use super::Worker;
use super::chunk::{Attempt, Chunk};
use crate::pg::Failure;
use crate::pg::update::Answer;

impl<L: Labor> Worker<'_, L> {
    /// The open chunk, whose COMMIT is about to be sent.
    pub(super) fn commit_next(&mut self) -> Option<Chunk<L::Item>> {
        let mut chunk = self.open.take()?;
        chunk.course.on_commit_sent(self.line.as_ref().is_none_or(|line| !line.is_lazy));
        // The next claim, which travels with the COMMIT, must know it.
        if let Some(xid) = &chunk.attempt.xid {
            self.shop.feed.commits(xid);
        }
        Some(chunk)
    }

    /// Commits the open chunk and works on the next, in one round trip.
    pub(super) async fn work(&mut self, mut chunk: Chunk<L::Item>) {
        let shop = self.shop;
        let commit = self.commit_next();
        shop.begin(&mut chunk);
        let Some(line) = &self.line else { return };
        let work = shop.labor.work(&line.client, &line.desk, &chunk.items);
        // Polled in order: COMMIT is sent first, and while the server works the next chunk is put together.
        let commit_sent = line.send_commit(commit.is_some());
        let (committed, worked, ahead) = join3(commit_sent, work, self.look_ahead()).await;
        let first = self.again.len();
        let refused = self.on_commit(commit, committed).await;
        let second = self.again.len();
        if (refused || second > first) && self.line.is_some() {
            self.withdraw(chunk).await;
        } else {
            self.on_work(chunk, worked).await;
        }
        // The last is next. What comes again keeps its order, and goes before what is new.
        self.again[first..].rotate_left(second - first);
        self.again.splice(0..0, ahead);
    }

    /// Takes back the work on a chunk whose predecessor has to come again: of duplicate keys the later line is
    /// the last word.
    async fn withdraw(&mut self, mut chunk: Chunk<L::Item>) {
        self.roll_back().await;
        chunk.course.on_withdrawn();
        chunk.attempt = Attempt::none();
        self.again.push(chunk);
    }

    /// Commits the open chunk and claims the next, in one round trip; works on it in a second.
    pub(super) async fn claim(&mut self, wait: bool) {
        let began = Instant::now();
        let ask = if wait { Ask::Locked } else { Ask::Free(self.sizer.next()) };
        match self.claim_these(ask).await {
            None => {}
            Some(Ok((items, _))) if items.is_empty() => {
                self.claim_failures = 0;
                self.nothing_free = true;
                self.roll_back().await;
                // What was found done may be another's, and not yet on the disk.
                if wait && self.flush().await {
                    self.shop.feed.claims_are_over();
                }
            }
            Some(Ok((items, answer))) => {
                self.claim_failures = 0;
                self.nothing_free = false;
                let mut chunk = self.shop.chunk(items, Vec::new(), true);
                self.shop.begin(&mut chunk);
                chunk.attempt.began = began;
                self.on_work(chunk, answer).await;
            }
            Some(Err(failure)) => self.claim_failed(failure).await,
        }
    }

    /// The same for a chunk that was claimed before, and whose rows are free since its transaction ended. What others
    /// have taken is theirs.
    pub(super) async fn claim_again(&mut self, mut chunk: Chunk<L::Item>) {
        self.shop.begin(&mut chunk);
        let had = std::mem::take(&mut chunk.items);
        let claimed = self.claim_these(Ask::Again(&had)).await;
        match claimed {
            None => {
                chunk.items = had;
                chunk.course.on_withdrawn();
                self.again.push(chunk);
            }
            Some(Ok((items, _))) if items.is_empty() => self.roll_back().await,
            Some(Ok((items, answer))) => {
                chunk.items = items;
                self.on_work(chunk, answer).await;
            }
            Some(Err(failure)) => {
                chunk.items = had;
                self.on_work(chunk, Err(failure)).await;
            }
        }
    }

    /// Items, locked and worked on. `None` when there is no transaction for them: the COMMIT before was refused, or the
    /// wait was broken off.
    async fn claim_these(
        &mut self,
        ask: Ask<'_, L::Item>,
    ) -> Option<Result<(Vec<L::Item>, Result<Answer, Failure>), Failure>> {
        let shop = self.shop;
        let wait = matches!(ask, Ask::Locked);
        let (Feed::Claims(claims), true) = (shop.feed, self.line.is_some()) else { return None };
        let commit = self.commit_next();
        let line = self.line.as_ref()?;
        let given_up = shop.books.given_up();
        let request = Request { ask, given_up: &given_up, claims };
        let claim = shop.labor.claim(&line.client, &line.desk, request);
        // Waiting for others' rows may be broken off; a COMMIT under way may not.
        let claim = async {
            tokio::select! {
                biased;
                () = shop.stop.cancelled(), if wait => None,
                claimed = claim => Some(claimed),
            }
        };
        let (committed, claimed) = join(line.send_commit(commit.is_some()), claim).await;
        if claimed.is_none() {
            // Its transaction ends with its session.
            self.line = None;
        }
        if self.on_commit(commit, committed).await {
            self.roll_back().await;
            return None;
        }
        claimed
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
}
