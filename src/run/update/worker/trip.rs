//! One round trip: COMMIT of the chunk before, BEGIN and the work of the next.

use futures_util::future::{join, join3};
use tokio::time::{Instant, sleep};

use super::super::labor::{Labor, Request};
use super::Worker;
use super::chunk::{Attempt, Chunk};
use crate::pg::Failure;

impl<L: Labor> Worker<'_, L> {
    /// The open chunk, whose COMMIT is about to be sent.
    pub(super) fn commit_next(&mut self) -> Option<Chunk<L::Item>> {
        let mut chunk = self.open.take()?;
        chunk.course.on_commit_sent(self.line.as_ref().is_none_or(|line| !line.is_lazy));
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
        self.on_commit(commit, committed);
        let second = self.again.len();
        if second > first && worked.is_ok() && self.line.is_some() {
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
        let shop = self.shop;
        let commit = self.commit_next();
        let Some(line) = &self.line else { return };
        let began = Instant::now();
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
        let (committed, claimed) = join(line.send_commit(commit.is_some()), claim).await;
        self.on_commit(commit, committed);
        match claimed {
            // Its transaction ends with its session.
            None => self.line = None,
            Some(Ok((items, _))) if items.is_empty() => {
                self.claim_failures = 0;
                self.nothing_free = true;
                self.roll_back().await;
                // What was found done may be another's, and not yet on the disk.
                if wait && self.flush().await {
                    shop.feed.claims_are_over();
                }
            }
            Some(Ok((items, answer))) => {
                self.claim_failures = 0;
                self.nothing_free = false;
                let mut chunk = shop.chunk(items, Vec::new(), true);
                shop.begin(&mut chunk);
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
}
