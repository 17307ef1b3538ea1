//! What a worker does next, seen from what it holds and what the feed has.

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};

use super::super::feed::Portion;
use super::super::labor::Labor;
use super::Worker;
use super::chunk::Chunk;

/// What a worker does next.
pub(super) enum Move<T> {
    Work(Box<Chunk<T>>),
    /// Claim a chunk of its own; with `wait`, wait for rows that others hold.
    Claim {
        wait: bool,
    },
    /// Nothing to work on at the moment, or enough for once: commit, and make all that was committed last.
    Settle,
    Leave,
}

impl<L: Labor> Worker<'_, L> {
    /// The next move. Chunks to be tried again come first; then the feed is asked.
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
        let Some(due) = self.again.last().map(|chunk| chunk.due) else { return self.settle_or_leave() };
        // No transaction stays open through a pause.
        if self.is_unsettled() && due > Instant::now() {
            return Move::Settle;
        }
        let cut_short = tokio::select! {
            biased;
            () = self.shop.stop.cancelled() => true,
            () = sleep_until(due) => false,
        };
        match self.again.pop() {
            Some(chunk) if !cut_short => Move::Work(Box::new(chunk)),
            left => {
                self.again.extend(left);
                self.settle_or_leave()
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
            Ok(Portion::Items(items)) => {
                let gathered = shop.labor.gather(items);
                Move::Work(Box::new(shop.chunk(gathered.items, gathered.twins, false)))
            }
            Ok(Portion::Claim) if self.nothing_free && self.is_unsettled() => Move::Settle,
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
        if self.is_unsettled() { Move::Settle } else { Move::Leave }
    }
}
