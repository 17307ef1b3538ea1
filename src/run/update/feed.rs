//! Where chunks come from: a stream that all workers share, or claims.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, StreamExt};
use tokio::sync::Mutex;

use crate::error::Error;

/// Items on their way to the workers.
pub(crate) enum Feed<T> {
    /// One after the other, whoever asks.
    Stream(Mutex<Flow<T>>),
    /// Each chunk claims its items inside its own transaction, until a claim has found that none is left.
    Claims(Claims),
}

/// What is known of the claims.
#[derive(Default)]
pub(crate) struct Claims {
    over: AtomicBool,
    /// The run's transactions that took effect or may have, as `xmin` has them: four bytes a chunk.
    own: std::sync::Mutex<HashSet<u32>>,
}

impl Claims {
    /// Whether a row with this `xmin` was changed by this run.
    pub(crate) fn is_own(&self, xmin: u32) -> bool {
        self.own().contains(&xmin)
    }

    fn own(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>;

/// Items read ahead stay here, so that a reader who is dropped loses none.
pub(crate) struct Flow<T> {
    items: Items<T>,
    ahead: Vec<T>,
    ended: bool,
}

/// What a worker gets.
pub(crate) enum Portion<T> {
    Items(Vec<T>),
    Claim,
    End,
}

impl<T> Feed<T> {
    pub(crate) fn stream(items: Items<T>) -> Self {
        Self::Stream(Mutex::new(Flow { items, ahead: Vec::new(), ended: false }))
    }

    pub(crate) fn claims() -> Self {
        Self::Claims(Claims::default())
    }

    /// The next items, `size` of them unless the stream ends or breaks. Can be dropped at any await.
    pub(crate) async fn next(&self, size: u32) -> Result<Portion<T>, Error> {
        let flow = match self {
            Self::Stream(flow) => flow,
            Self::Claims(claims) if claims.over.load(Ordering::Relaxed) => return Ok(Portion::End),
            Self::Claims(_) => return Ok(Portion::Claim),
        };
        let mut flow = flow.lock().await;
        let size = size as usize;
        while flow.ahead.len() < size && !flow.ended {
            match flow.items.next().await {
                Some(Ok(item)) => flow.ahead.push(item),
                None => flow.ended = true,
                Some(Err(error)) => {
                    flow.ended = true;
                    return Err(error);
                }
            }
        }
        if flow.ahead.is_empty() {
            return Ok(Portion::End);
        }
        let keep = size.min(flow.ahead.len());
        let rest = flow.ahead.split_off(keep);
        Ok(Portion::Items(std::mem::replace(&mut flow.ahead, rest)))
    }

    /// Whether the stream has ended and nothing of it is left.
    pub(crate) async fn is_exhausted(&self) -> bool {
        match self {
            Self::Stream(flow) => {
                let flow = flow.lock().await;
                flow.ended && flow.ahead.is_empty()
            }
            Self::Claims(claims) => claims.over.load(Ordering::Relaxed),
        }
    }

    /// A claim that waited for others' rows found none.
    pub(crate) fn claims_are_over(&self) {
        if let Self::Claims(claims) = self {
            claims.over.store(true, Ordering::Relaxed);
        }
    }

    /// The COMMIT of a claimed chunk is about to be sent; `xid` is its transaction's id with the epoch (`xid8`).
    pub(crate) fn commits(&self, xid: &str) {
        if let Self::Claims(claims) = self
            && let Ok(xid) = xid.parse::<u64>()
        {
            claims.own().insert(xid as u32);
        }
    }

    /// The server may give the same ids to others.
    pub(crate) fn era_ended(&self) {
        if let Self::Claims(claims) = self {
            claims.own().clear();
        }
    }

    /// Counts what is left: read ahead, and with `read_on` also the rest of the stream.
    pub(crate) async fn left(&self, read_on: bool) -> u64 {
        let Self::Stream(flow) = self else { return 0 };
        let mut flow = flow.lock().await;
        let mut left = flow.ahead.len() as u64;
        while read_on && !flow.ended {
            match flow.items.next().await {
                Some(Ok(_)) => left += 1,
                _ => flow.ended = true,
            }
        }
        left
    }
}
