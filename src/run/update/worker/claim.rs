//! Claims: chunks whose rows are had in the transaction that changes them.

use std::time::Duration;

use futures_util::future::join;
use tokio::time::{Instant, sleep};

use super::super::before::{cancel, unless_stopped};
use super::super::labor::{Ask, Labor, Taken, spelled};
use super::Worker;
use super::chunk::Chunk;
use crate::pg::Failure;
use crate::pg::update::Key;

/// What the next claim asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hunt {
    /// What is free.
    Free,
    /// Nothing was free: whether somebody has something.
    Look,
    /// Somebody had: to wait for it.
    Wait,
}

/// Between two looks where others are at work, or have just been.
const PAUSE: Duration = Duration::from_millis(50);
/// Looks in a row, with a pause after each, at one row that nobody has locked and nobody can lock.
const STUCK: u32 = 40;
/// Claims in a row that may fail for a reason that passes, before any row was had.
const CLAIMS: u32 = 100;
/// Somebody has the row (`lock_not_available`), or had it for too long (`query_canceled`).
const BUSY: [&str; 2] = ["55P03", "57014"];

impl Hunt {
    /// Whether nobody else should be kept waiting meanwhile.
    pub(super) fn may_wait(&self) -> bool {
        *self != Self::Free
    }
}

impl<L: Labor> Worker<'_, L> {
    /// Commits the open chunk and claims the next, in one round trip; works on it in a second.
    pub(super) async fn claim(&mut self) {
        let began = Instant::now();
        let ask = match self.hunt {
            Hunt::Free => Ask::Free(self.sizer.next()),
            Hunt::Look => Ask::Unlocked,
            Hunt::Wait => Ask::WaitedFor,
        };
        let Some(taken) = self.claim_these(ask).await else { return };
        match taken {
            Ok((items, _)) if items.is_empty() => {
                self.claim_failures = 0;
                self.roll_back().await;
                match self.hunt {
                    Hunt::Free => self.hunt = Hunt::Look,
                    Hunt::Wait => self.hunt = Hunt::Free,
                    Hunt::Look => self.nothing_found().await,
                }
            }
            Ok((items, answer)) => {
                self.claim_failures = 0;
                self.stuck = (None, 0);
                self.hunt = Hunt::Free;
                let mut chunk = self.shop.chunk(items, Vec::new(), true);
                self.shop.begin(&mut chunk);
                chunk.attempt.began = began;
                self.on_work(chunk, answer).await;
            }
            Err(failure)
                if self.hunt.may_wait() && failure.sqlstate().is_some_and(|code| BUSY.contains(&code)) =>
            {
                self.hunt = if self.hunt == Hunt::Wait { Hunt::Free } else { Hunt::Wait };
                self.roll_back().await;
            }
            Err(failure) => self.claim_failed(failure).await,
        }
    }

    /// A look met neither a row nor a lock. Nothing is left if nobody of us is at work and no row is to be seen.
    async fn nothing_found(&mut self) {
        self.hunt = Hunt::Free;
        let (Some(claims), Some(line)) = (self.shop.feed.as_claims(), &self.line) else { return };
        let at_work = claims.is_anybody_at_work();
        let given_up = claims.given_up();
        let left = self.shop.labor.left(&line.client, &line.desk, &given_up);
        let Some(left) = unless_stopped(self.shop.stop, left).await.transpose() else {
            return self.break_off().await;
        };
        match left {
            Ok(None) if !at_work => {
                // What was found done may be another's, and not yet on the disk.
                if self.flush().await {
                    claims.are_over();
                }
            }
            Ok(left) => {
                let again = left.is_some() && left == self.stuck.0;
                self.stuck = (left, if again && !at_work { self.stuck.1 + 1 } else { 0 });
                if let (Some(key), STUCK..) = &self.stuck {
                    let problem = "can be seen and not be claimed: a row-level security policy withholds it";
                    self.shop.books.stopped_by(&format!("{} {problem}", spelled(key)));
                    self.shop.stop.cancel();
                }
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = self.shop.stop.cancelled() => {}
                }
            }
            Err(failure) => self.claim_failed(failure).await,
        }
    }

    /// The same for a chunk that was claimed before, and whose rows are free since its transaction ended. What others
    /// have done is theirs.
    pub(super) async fn claim_again(&mut self, mut chunk: Chunk<L::Item>) {
        self.shop.begin(&mut chunk);
        let had = std::mem::take(&mut chunk.items);
        match self.claim_these(Ask::Again(&had)).await {
            None => {
                chunk.items = had;
                chunk.course.on_withdrawn();
                self.again.push(chunk);
            }
            Some(Ok((items, answer))) => {
                let ours = self.keys_of(&items);
                let mut theirs = self.keys_of(&had);
                theirs.retain(|key| !ours.contains(key));
                self.shop.feed.as_claims().into_iter().for_each(|claims| claims.let_go(&theirs));
                chunk.items = items;
                if chunk.items.is_empty() {
                    self.roll_back().await;
                } else {
                    self.on_work(chunk, answer).await;
                }
            }
            Some(Err(failure)) => {
                chunk.items = had;
                self.on_work(chunk, Err(failure)).await;
            }
        }
    }

    /// Will try a chunk again; nobody else of this process is to claim its rows.
    pub(super) fn keep(&mut self, chunk: Chunk<L::Item>) {
        if chunk.is_to_be_claimed()
            && let Some(claims) = self.shop.feed.as_claims()
        {
            claims.wait(self.keys_of(&chunk.items));
        }
        self.again.push(chunk);
    }

    /// Others may have the rows.
    pub(super) fn let_go(&self, items: &[L::Item]) {
        if let Some(claims) = self.shop.feed.as_claims() {
            claims.let_go(&self.keys_of(items));
        }
    }

    pub(super) fn keys_of(&self, items: &[L::Item]) -> Vec<Key> {
        let Self { shop, .. } = self;
        let key = |item| shop.labor.show(item).map(|item| item.fields[..shop.keys].to_vec());
        items.iter().filter_map(key).collect()
    }

    /// Items, locked and worked on. `None` when there is no transaction for them: the COMMIT before was refused, or the
    /// wait was broken off.
    async fn claim_these(&mut self, ask: Ask<'_, L::Item>) -> Option<Result<Taken<L::Item>, Failure>> {
        let shop = self.shop;
        let claims = shop.feed.as_claims()?;
        self.line.as_ref()?;
        let commit = self.commit_next();
        let line = self.line.as_ref()?;
        let again = matches!(ask, Ask::Again(_));
        // Waiting for locks may be broken off; a COMMIT under way may not.
        let claim = shop.labor.claim(&line.client, &line.desk, ask, claims, shop.stop);
        let (committed, claimed) = join(line.send_commit(commit.is_some()), claim).await;
        let claimed = claimed.transpose();
        if claimed.is_none() {
            self.break_off().await;
        }
        if self.on_commit(commit, committed).await {
            self.roll_back().await;
            if let Some(Ok((items, _))) = &claimed
                && !again
            {
                self.let_go(items);
            }
            return None;
        }
        claimed
    }

    /// Leaves a statement that waits, and its session: the transaction ends with it.
    async fn break_off(&mut self) {
        if let Some(line) = self.line.take() {
            cancel(self.shop.endpoint, &line.client).await;
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
        // Nothing was had, so nothing is lost by another try.
        let tries = if failure.is_connection_lost() { shop.max_attempts } else { CLAIMS };
        if failure.may_pass() && self.claim_failures < tries {
            tokio::select! {
                () = sleep(shop.retry.delay(self.claim_failures, fastrand::f64())) => {}
                () = shop.stop.cancelled() => {}
            }
        } else {
            shop.books.stopped_by(&format!("claiming rows failed: {failure}"));
            shop.stop.cancel();
        }
    }
}
