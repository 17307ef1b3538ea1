//! What a worker does next, seen from what it holds and what the feed has.

use futures_util::FutureExt;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::super::feed::Portion;
use super::super::labor::Labor;
use super::Worker;
use super::chunk::Chunk;
use crate::error::Error;

/// What a worker does next.
pub(super) enum Move<T> {
    Work(Box<Chunk<T>>),
    /// Claim a chunk of its own.
    Claim,
    /// Nothing to work on at the moment, or enough for once: commit, and make all that was committed last.
    Settle,
    Leave,
}

impl<L: Labor> Worker<'_, L> {
    /// The next move. Chunks at hand come first; then the feed is asked.
    pub(super) async fn next(&mut self) -> Move<L::Item> {
        if self.is_flush_due() {
            Move::Settle
        } else if !self.again.is_empty() {
            self.try_again().await
        } else if self.shop.stop.is_cancelled() {
            self.settle_or_leave()
        } else {
            self.ask_feed().await
        }
    }

    async fn try_again(&mut self) -> Move<L::Item> {
        loop {
            let stopped = self.shop.stop.is_cancelled();
            // What may have taken effect is read again, whoever stops the run; else its keys would be in no class.
            let next = self.again.iter().rposition(|chunk| !stopped || chunk.reread);
            let Some(next) = next else { return self.settle_or_leave() };
            let due = self.again[next].due;
            // No transaction stays open through a pause.
            if self.is_unsettled() && due > Instant::now() {
                return Move::Settle;
            }
            tokio::select! {
                biased;
                () = self.shop.stop.cancelled(), if !stopped => {}
                () = sleep_until(due) => return Move::Work(Box::new(self.again.remove(next))),
            }
        }
    }

    async fn ask_feed(&mut self) -> Move<L::Item> {
        let shop = self.shop;
        let portion = if self.is_unsettled() {
            match shop.feed.next(self.sizer.next()).now_or_never() {
                Some(portion) => portion,
                // Whoever holds rows locked, or has something to report, does not wait for keys.
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
            Ok(Portion::Items(items)) => Move::Work(Box::new(self.put_together(items))),
            Ok(Portion::Claim) if self.hunt.may_wait() && self.is_unsettled() => Move::Settle,
            Ok(Portion::Claim) => Move::Claim,
            Ok(Portion::End) => self.settle_or_leave(),
            Err(error) => {
                self.feed_broke(error);
                self.settle_or_leave()
            }
        }
    }

    /// The next chunk, if its keys are there already: put together while the server works on another.
    pub(super) async fn look_ahead(&self) -> Option<Chunk<L::Item>> {
        // What is to be sent goes first.
        yield_now().await;
        if self.shop.stop.is_cancelled() || !self.again.is_empty() {
            return None;
        }
        match self.shop.feed.next(self.sizer.next()).now_or_never()? {
            Ok(Portion::Items(items)) => Some(self.put_together(items)),
            Ok(Portion::Claim | Portion::End) => None,
            Err(error) => {
                self.feed_broke(error);
                None
            }
        }
    }

    fn put_together(&self, items: Vec<L::Item>) -> Chunk<L::Item> {
        let gathered = self.shop.labor.gather(items);
        self.shop.chunk(gathered.items, gathered.twins, false)
    }

    fn feed_broke(&self, error: Error) {
        self.shop.books.input_broke(error);
        self.shop.stop.cancel();
    }

    const fn settle_or_leave(&self) -> Move<L::Item> {
        if self.is_unsettled() { Move::Settle } else { Move::Leave }
    }
}
