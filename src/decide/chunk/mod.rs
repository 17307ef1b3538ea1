//! A stream of keys, a transaction per chunk, and what becomes of each key.
//!
//! The obvious way to survive a lost connection is to send the chunk again. It is wrong exactly once:
//! when the connection breaks between COMMIT and its answer, the chunk may have taken effect. So a
//! chunk walks through states ([`course::Course`]), and the one that matters is *in doubt*: nothing is
//! sent again before the server said what became of the transaction; after a crash or a failover, [`survival`] says what
//! its word is worth. Beside that: what to put into a chunk ([`gather`]), how large it should be ([`size`]), when many
//! commits are to be made lasting at once ([`flush`]), when the next one may be sent before an answer ([`pace`]),
//! whom a failure is to be blamed on ([`blame`]), and whether what it all came to counts as done ([`ending`]).

pub mod blame;
pub mod course;
pub mod ending;
pub mod flush;
pub mod gather;
pub mod pace;
pub mod size;
pub mod survival;

/// What became of a key. Each key ends in exactly one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Changed by us.
    Updated,
    /// Held the new value before. Comes first: a row with the new value is never stale.
    Already,
    /// Holds neither the expected value nor the new one.
    Stale,
    /// No row has the key.
    Missing,
    /// Given up: its transaction failed for good, or its fate could not be learned.
    Failed,
}

impl Class {
    /// All of them.
    #[allow(dead_code, reason = "for the models of the tests and the example")]
    pub const ALL: [Self; 5] = [Self::Updated, Self::Already, Self::Stale, Self::Missing, Self::Failed];

    /// The word for labels, files and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Updated => "updated",
            Self::Already => "already",
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}
