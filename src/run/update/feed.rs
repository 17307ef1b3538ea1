//! Where chunks come from: a stream that all workers share, or claims.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use tokio::sync::Mutex;

use super::claims::Claims;
use crate::error::Error;

/// Items on their way to the workers.
pub(crate) enum Feed<T> {
    /// One after the other, whoever asks.
    Stream(Mutex<Flow<T>>),
    /// Each chunk claims its items inside its own transaction, until a claim has found that none is left.
    Claims(Claims),
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
            Self::Claims(claims) if claims.is_over() => return Ok(Portion::End),
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
            Self::Claims(claims) => claims.is_over(),
        }
    }

    /// What is known of the claims, where there are any.
    pub(crate) const fn as_claims(&self) -> Option<&Claims> {
        match self {
            Self::Stream(_) => None,
            Self::Claims(claims) => Some(claims),
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
