//! Where chunks come from: a stream that all workers share, or claims.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::rejects::Backlog;
use crate::error::Error;

/// How long items that are there wait for those that would make a chunk of them.
const LINGER: Duration = Duration::from_millis(200);
/// A chunk gets no further items once it has so many bytes.
const CHUNK_BYTES: usize = 16 << 20;

/// Items on their way to the workers.
pub(crate) struct ItemSource<T> {
    source: Source<T>,
    /// What is to be read by others before there is more.
    backlog: Option<Arc<Backlog>>,
}

enum Source<T> {
    /// One after the other, whoever asks.
    Stream(Mutex<Flow<T>>),
    /// Each chunk claims its items inside its own transaction, until a claim has found that none is left.
    Claims,
}

pub(crate) type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>;

/// Items read ahead stay here, so that a reader who is dropped loses none.
struct Flow<T> {
    items: Items<T>,
    weigh: fn(&T) -> usize,
    ahead: Vec<T>,
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    end: Option<End>,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// With an error: nobody knows what would have followed.
    Broken,
}

/// What a worker gets.
pub(crate) enum Portion<T> {
    Items(Vec<T>),
    Claim,
    End,
}

impl<T> Flow<T> {
    /// Reads one more; `false` at the end.
    async fn read(&mut self) -> Result<bool, Error> {
        match self.items.next().await {
            Some(Ok(item)) => {
                self.bytes += (self.weigh)(&item);
                self.ahead.push(item);
                self.since.get_or_insert_with(Instant::now);
                Ok(true)
            }
            None => {
                self.end = Some(End::Whole);
                Ok(false)
            }
            Some(Err(error)) => {
                self.end = Some(End::Broken);
                Err(error)
            }
        }
    }

    /// The first items of those read ahead, so many at most.
    fn take(&mut self, size: usize) -> Vec<T> {
        let rest = self.ahead.split_off(size.min(self.ahead.len()));
        let taken = std::mem::replace(&mut self.ahead, rest);
        self.bytes = self.ahead.iter().map(self.weigh).sum();
        // Those that were not wanted yet have waited long enough.
        self.since = self.since.filter(|_| !self.ahead.is_empty());
        taken
    }
}

impl<T> ItemSource<T> {
    /// `weigh` says about how many bytes an item has.
    pub(crate) fn stream(items: Items<T>, weigh: fn(&T) -> usize) -> Self {
        let flow = Flow { items, weigh, ahead: Vec::new(), bytes: 0, since: None, end: None };
        Self { source: Source::Stream(Mutex::new(flow)), backlog: None }
    }

    pub(crate) fn claims() -> Self {
        Self { source: Source::Claims, backlog: None }
    }

    /// The same, that gives nothing while a backlog is large.
    pub(crate) fn held_by(self, backlog: Option<Arc<Backlog>>) -> Self {
        Self { backlog, ..self }
    }

    /// The next items: `size` of them unless the stream ends or breaks, is slow, or has great ones. Can be dropped
    /// at any await.
    pub(crate) async fn next(&self, size: u32) -> Result<Portion<T>, Error> {
        if let Some(backlog) = &self.backlog {
            backlog.is_small().await;
        }
        let flow = match &self.source {
            Source::Stream(flow) => flow,
            Source::Claims => return Ok(Portion::Claim),
        };
        let mut flow = flow.lock().await;
        let size = size as usize;
        while flow.ahead.len() < size && flow.bytes < CHUNK_BYTES && flow.end.is_none() {
            // What is there takes no timer.
            let read = match (flow.read().now_or_never(), flow.since) {
                (Some(read), _) => Ok(read),
                (None, None) => Ok(flow.read().await),
                (None, Some(since)) => timeout_at(since + LINGER, flow.read()).await,
            };
            match read {
                Ok(read) => read?,
                Err(_) => break,
            };
        }
        let items = flow.take(size);
        Ok(if items.is_empty() { Portion::End } else { Portion::Items(items) })
    }

    /// Whether the stream has ended, and nothing of it is left, as far as that can be known without waiting for whoever
    /// reads it.
    pub(crate) fn is_exhausted(&self) -> bool {
        match &self.source {
            Source::Stream(flow) => {
                flow.try_lock().is_ok_and(|flow| flow.end == Some(End::Whole) && flow.ahead.is_empty())
            }
            Source::Claims => false,
        }
    }

    /// Whether chunks claim their items.
    pub(crate) const fn is_claimed(&self) -> bool {
        matches!(self.source, Source::Claims)
    }

    /// Counts what is left: read ahead, and with `read_on` also the rest of the stream. `None` where nobody knows.
    pub(crate) async fn left(&self, read_on: bool) -> Option<u64> {
        let flow = match &self.source {
            Source::Stream(flow) => flow,
            Source::Claims => return None,
        };
        let mut flow = flow.lock().await;
        let mut left = flow.take(usize::MAX).len() as u64;
        while read_on && flow.end.is_none() {
            left += u64::from(flow.read().await.ok()?);
            flow.take(usize::MAX);
        }
        (flow.end == Some(End::Whole)).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn source(items: impl Stream<Item = Result<u64, Error>> + Send + 'static) -> ItemSource<u64> {
        ItemSource::stream(Box::pin(items), |item| *item as usize)
    }

    async fn portion(source: &ItemSource<u64>, size: u32) -> Vec<u64> {
        match source.next(size).await.unwrap() {
            Portion::Items(items) => items,
            Portion::Claim | Portion::End => Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn items_do_not_wait_for_long_for_those_that_would_fill_a_chunk() {
        let slow = stream::iter([0, 0, 150, 1000, 0]).then(async |pause| {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok(pause)
        });
        let (source, began) = (source(slow), Instant::now());
        let mut got = Vec::new();
        for _ in 0..3 {
            got.push((portion(&source, 100).await, began.elapsed().as_millis()));
        }
        assert_eq!(got, [(vec![0, 0, 150], 200), (vec![1000, 0], 1150), (vec![], 1150)]);
    }

    #[tokio::test]
    async fn a_chunk_of_great_items_is_small() {
        let great = CHUNK_BYTES as u64 / 2;
        let source = source(stream::iter([great, great, great, 1]).map(Ok));
        assert_eq!(portion(&source, 100).await, [great, great]);
        assert_eq!(portion(&source, 100).await, [great, 1]);
    }

    #[tokio::test]
    async fn what_is_left_is_counted_or_nobody_knows() {
        let all = || stream::iter(1..=10).map(Ok);
        let left = source(all());
        portion(&left, 3).await;
        assert_eq!(left.left(true).await, Some(7));
        let unread = source(all());
        portion(&unread, 3).await;
        assert_eq!(unread.left(false).await, None);
        let broken = source(all().chain(stream::iter([Err(Error::configuration("keys", "bad")), Ok(1)])));
        portion(&broken, 3).await;
        assert_eq!(broken.left(true).await, None);
        let broke = source(stream::iter([Ok(1), Err(Error::configuration("keys", "bad"))]));
        assert!(broke.next(3).await.is_err() && !broke.is_exhausted());
        assert_eq!(broke.left(true).await, None);
    }
}
