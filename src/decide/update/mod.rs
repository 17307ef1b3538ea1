//! The worker of a chunked update, without I/O and without a runtime: facts and time go in, actions come out.
//!
//! The obvious way to survive a lost connection is to send the chunk again. It is wrong exactly once: when the connection
//! breaks between COMMIT and its answer, the chunk may have taken effect. So a chunk walks through states
//! ([`chunk_state`]), and the one that matters is *in doubt*: nothing is sent again before the server said what became of
//! the transaction; after a crash or a failover, [`survival`] says what its word is worth.
//!
//! ```text
//!             Fact                                              Action
//!   answers, losses, --> Worker::on --+-- link       session     --> Connect, Disconnect, Cancel, Abandon, BreakOff
//!   signals, time                     +-- pipeline   in flight   --> SendBegin, SendWork, SendCommit, RollBack
//!                                     +-- held       committed   --> Flush
//!                                     +-- resolver   in doubt    --> AskFate
//!                                     +-- queue      at hand     --> Feed
//!                                     +-- hunt       claims      --> Claim, Look
//!                                     +-- what the run hears     --> Report, Done
//! ```
//!
//! - [`Worker`](worker::Worker) is one connection's. It owns each chunk, lends it to whoever sends its work, and gets it
//!   back with the answer. Every message is answered by one fact, also when its session is lost. So nothing is forgotten,
//!   and a session is replaced only when all that was sent on the last one is answered for.
//! - The parts (link, [`pipeline`], [`held`], [`resolver`], [`queue`]) each own their fields and say one thing. The
//!   worker alone combines them. [`Shared`](shared::Shared) is what the workers of a run have in common.
//! - Messages of one session are carried out by the server in the order in which they were sent. Their answers may be
//!   heard in any order; they count in the order of the transactions.
//! - A chunk whose whole work is one message in its own transaction is a flight of the same pipeline, with the commit
//!   among its work: as many as the window allows may be under way.
//! - [`Replay`](replay::Replay) says what may be done twice. Of unsafe work an unknown fate is *unresolved*, never done
//!   again.
//!
//! Beside that: what to put into a chunk ([`gather`]), how large it should be ([`size`]), when many commits are to be made
//! lasting at once ([`flush`]), when the next one may be sent before an answer ([`gate`]), whose fault a failure is
//! ([`fault_scope`]), and whether what it all came to counts as done ([`ending`]).
//!
//! Tested in `tests/core/effects` against a model world that counts real effects.

pub mod action;
pub mod chunk;
pub mod chunk_state;
pub mod claims;
pub mod counted;
pub mod ending;
pub mod fault_scope;
pub mod flush;
pub mod gate;
pub mod gather;
mod held;
pub mod life;
mod link;
pub mod material;
mod pipeline;
mod queue;
pub mod replay;
pub mod resolver;
pub mod shared;
pub mod size;
pub mod survival;
pub mod worker;

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
