//! Claims: chunks whose rows are had in the transaction that changes them.

use futures_util::future::join;
use tokio::time::{Instant, sleep};

use super::super::claims::Claims;
use super::super::labor::{Ask, Labor};
use super::Worker;
use super::chunk::Chunk;
use crate::pg::Failure;
use crate::pg::update::{Answer, Key};

/// What the next claim asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hunt {
    /// What is free; so many looks in a row met neither a row nor a lock.
    Free { quiet: u32 },
    /// Nothing was free: whether somebody has something.
    Look { quiet: u32 },
    /// Somebody had: to wait for it.
    Wait,
}

/// Looks in a row that must meet nothing. With a `LIMIT` in the query, what a look sees may be done by
/// others at that moment, and more come into sight.
const QUIET: u32 = 2;
/// Somebody has the row (`lock_not_available`).
const LOCKED: &str = "55P03";

impl Hunt {
    /// Whether nobody else should be kept waiting meanwhile.
    pub(super) const fn may_wait(self) -> bool {
        !matches!(self, Self::Free { .. })
    }
}

type Taken<T> = Result<(Vec<T>, Result<Answer, Failure>), Failure>;

impl<L: Labor> Worker<'_, L> {
    /// Commits the open chunk and claims the next, in one round trip; works on it in a second.
    pub(super) async fn claim(&mut self) {
        let began = Instant::now();
        let ask = match self.hunt {
            Hunt::Free { .. } => Ask::Free(self.sizer.next()),
            Hunt::Look { .. } => Ask::Unlocked,
            Hunt::Wait => Ask::WaitedFor,
        };
        let Some(taken) = self.claim_these(ask).await else { return };
        match taken {
            Ok((items, _)) if items.is_empty() => {
                self.claim_failures = 0;
                self.roll_back().await;
                self.nothing_found().await;
            }
            Ok((items, answer)) => {
                self.claim_failures = 0;
                self.hunt = Hunt::Free { quiet: 0 };
                let mut chunk = self.shop.chunk(items, Vec::new(), true);
                self.shop.begin(&mut chunk);
                chunk.attempt.began = began;
                self.on_work(chunk, answer).await;
            }
            Err(failure) if self.hunt.may_wait() && failure.sqlstate() == Some(LOCKED) => {
                self.hunt = if self.hunt == Hunt::Wait { Hunt::Free { quiet: 0 } } else { Hunt::Wait };
                self.roll_back().await;
            }
            Err(failure) => self.claim_failed(failure).await,
        }
    }

    async fn nothing_found(&mut self) {
        self.hunt = match self.hunt {
            Hunt::Free { quiet } => Hunt::Look { quiet },
            Hunt::Look { quiet } if quiet + 1 >= QUIET => {
                // What was found done may be another's, and not yet on the disk.
                if self.flush().await {
                    self.shop.feed.as_claims().into_iter().for_each(Claims::are_over);
                }
                Hunt::Free { quiet: 0 }
            }
            Hunt::Look { quiet } => Hunt::Free { quiet: quiet + 1 },
            Hunt::Wait => Hunt::Free { quiet: 0 },
        };
    }

    /// The same for a chunk that was claimed before, and whose rows are free since its transaction ended. What others
    /// have done is theirs.
    pub(super) async fn claim_again(&mut self, mut chunk: Chunk<L::Item>) {
        let cause = chunk.condemned.take();
        if cause.is_none() {
            self.shop.begin(&mut chunk);
        }
        let had = std::mem::take(&mut chunk.items);
        let ask = if cause.is_some() { Ask::Hold(&had) } else { Ask::Again(&had) };
        let taken = self.claim_these(ask).await;
        match taken {
            None => {
                chunk.items = had;
                match cause {
                    None => chunk.course.on_withdrawn(),
                    Some(_) => chunk.condemned = cause,
                }
                self.again.push(chunk);
            }
            Some(taken) => {
                self.let_go(chunk.is_to_be_claimed(), &had);
                let (items, answer) = taken.unwrap_or_else(|failure| (had, Err(failure)));
                chunk.items = items;
                match cause {
                    Some(cause) => self.on_held(chunk, cause, answer).await,
                    None if chunk.items.is_empty() => self.roll_back().await,
                    None => self.on_work(chunk, answer).await,
                }
            }
        }
    }

    /// A chunk that is to be given up was had once more, as far as it is still to be updated: nobody is at work on it.
    async fn on_held(&mut self, chunk: Chunk<L::Item>, cause: Failure, held: Result<Answer, Failure>) {
        if let Err(failure) = held
            && failure.is_connection_lost()
        {
            self.lose(&failure);
            return self.condemn(chunk, cause);
        }
        if !chunk.items.is_empty() {
            self.give_up(&chunk, &cause);
        }
        self.roll_back().await;
    }

    /// Gives a claimed chunk up, as soon as its rows are had once more.
    pub(super) fn condemn(&mut self, mut chunk: Chunk<L::Item>, cause: Failure) {
        chunk.condemned = Some(cause);
        chunk.due = Instant::now();
        self.keep(chunk);
    }

    /// Will try a chunk again; nobody else of this process is to claim its rows.
    pub(super) fn keep(&mut self, chunk: Chunk<L::Item>) {
        if chunk.is_to_be_claimed()
            && let Some(claims) = self.shop.feed.as_claims()
        {
            claims.keep(self.keys_of(&chunk.items));
        }
        self.again.push(chunk);
    }

    /// Undoes that.
    pub(super) fn let_go(&self, kept: bool, items: &[L::Item]) {
        if kept && let Some(claims) = self.shop.feed.as_claims() {
            claims.release(&self.keys_of(items));
        }
    }

    pub(super) fn keys_of(&self, items: &[L::Item]) -> Vec<Key> {
        let Self { shop, .. } = self;
        let key = |item| shop.labor.show(item).map(|item| item.fields[..shop.keys].to_vec());
        items.iter().filter_map(key).collect()
    }

    /// Items, locked and worked on. `None` when there is no transaction for them: the COMMIT before was refused, or the
    /// wait was broken off.
    async fn claim_these(&mut self, ask: Ask<'_, L::Item>) -> Option<Taken<L::Item>> {
        let shop = self.shop;
        let claims = shop.feed.as_claims()?;
        self.line.as_ref()?;
        let commit = self.commit_next();
        let line = self.line.as_ref()?;
        let waits = ask.waits();
        let claim = shop.labor.claim(&line.client, &line.desk, ask, claims);
        // Waiting for others' rows may be broken off; a COMMIT under way may not.
        let claim = async {
            tokio::select! {
                biased;
                () = shop.stop.cancelled(), if waits => None,
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
        // Somebody cancelled the statement, or it took too long: as good a reason to try again as a deadlock.
        let transient = failure.is_retryable() || failure.sqlstate() == Some("57014");
        if transient && self.claim_failures < shop.max_attempts {
            sleep(shop.retry.delay(self.claim_failures, fastrand::f64())).await;
        } else {
            shop.books.stopped_by(&format!("claiming rows failed: {failure}"));
            shop.stop.cancel();
        }
    }
}
