//! What a worker works with, and does not look into: items, failures, spans.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use super::Class;
use super::gather::Twin;
use crate::decide::failure::FailureClass;

/// The types of one kind of work, and what the worker needs to be done with them.
pub trait Material {
    /// A line of the input.
    type Item;
    /// What names the row of an item, where rows are claimed.
    type Key: Clone + Eq + Hash;
    /// Items that may be needed once more, in few bytes.
    type Kept;
    /// What went wrong.
    type Failure: Failed;
    /// The caller's own of one attempt, such as a span.
    type Scope: Clone + Default;

    /// The keys of items, where rows are claimed.
    fn keys(&self, items: &[Self::Item]) -> Vec<Self::Key>;

    /// Keeps the items that count as done, and says how many bytes they take. `None` where nothing is done.
    fn keep(&self, items: Vec<Self::Item>, classes: &[Class]) -> Option<(Self::Kept, usize)>;

    /// The same items.
    fn restore(&self, kept: Self::Kept) -> Vec<Self::Item>;

    /// Which keys a chunk is about, for people.
    fn label(&self, items: &[Self::Item], twins: &[Twin<Self::Item>]) -> Option<Arc<str>>;
}

/// A failure, as far as it matters here.
pub trait Failed: Clone + Debug {
    /// The session is gone, and nobody said why.
    fn lost(message: &str) -> Self;

    /// A flush is on the disk, and its wait for a synchronous standby was cancelled.
    fn unreplicated() -> Self;

    /// For people.
    fn message(&self) -> String;

    /// What it means for a retry.
    fn class(&self) -> FailureClass;

    /// The code, if the server sent one.
    fn sqlstate(&self) -> Option<&str>;

    /// Whether the session is gone.
    fn is_lost(&self) -> bool {
        self.class().is_session_lost()
    }

    /// Whether another try may succeed where nothing was at stake: also after a cancel, whoever it was meant for.
    fn may_pass(&self) -> bool {
        self.class().is_retryable() || self.sqlstate() == Some(CANCELLED)
    }

    /// Whether a COMMIT that failed so may have taken effect all the same: nobody answered, or who answered speaks of
    /// the connection. That may be a proxy, which says ERROR where a server would say FATAL.
    fn leaves_commit_open(&self) -> bool {
        self.is_lost()
            || self.sqlstate().is_none_or(|code| code.starts_with("08") || code.starts_with("57P0"))
    }
}

/// `query_canceled`.
pub const CANCELLED: &str = "57014";
