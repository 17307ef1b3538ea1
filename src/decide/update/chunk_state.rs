//! One chunk's state, from its first transaction to its end.
//!
//! ```text
//!             begin             worked             commit_sent
//!  pending ---------> in flight --------> worked -------------> committing ----> committed
//!     ^                   |                  |                   |  |             ^   ^
//!     |      failed       |                  |     answer lost,  |  | not lasting |   |
//!     +-------------------+------------------+     something     |  +-------> held    |
//!     |                                            was written   v             ^   |  |
//!     |                                                          |  committed  |   |  |
//!     +-------------------------------------------------------- in doubt ------+   |  |
//!     |           aborted, or unknown (the rows are read again)       flushed      |  |
//!     +----------------------------------------------------------------------------+--+
//!                 the server crashed before the flush (the rows are read again)
//! ```
//! Where COMMIT is sent behind work that changes all or nothing, before that is answered for, only the two together
//! can be lost: then the chunk counts as worked, and is in doubt.
//!
//! From *failed* a chunk also goes to *split* (it is replaced by its halves) and *given up*. A chunk whose fate cannot be
//! learned is read again only where that cannot do its work twice ([`Replay`]). Else it is *unresolved*. So is one that
//! cannot be read again: its keys did not fail, they may hold what they are to hold.
//!
//! *Held*: the COMMIT took effect, and may yet be lost. It did not wait for the disk (manual, "Asynchronous Commit"); or
//! somebody cancelled its wait for a synchronous standby; or its answer was lost, and nobody knows what it
//! has waited for. So it counts only when a later flush has covered it; what that means for many chunks is
//! [`flush`](super::flush). One that wrote nothing is held, too, where its COMMIT does not wait: what it has read may be
//! lost as well.

use std::time::Duration;

use super::fault_scope::FaultScope;
use super::replay::Replay;
use super::resolver::Status;
use crate::decide::backoff::Backoff;
use crate::decide::failure::FailureClass;

/// What failed, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What it means for a retry.
    pub class: FailureClass,
    /// Whom it is to be blamed on when no retry can help.
    pub scope: FaultScope,
}

/// Why what was committed cannot be made to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFlush {
    /// The server refuses the flush.
    Refused,
    /// The flush is on the disk. A synchronous standby does not have it: the wait for it was cancelled, again and again.
    Unreplicated,
}

/// What to do with the chunk now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Its classes count.
    Done,
    /// It took effect, and may be gone after a crash: hold it until the next flush.
    Hold,
    /// Begin a new transaction after this pause.
    Retry(Duration),
    /// Ask for the transaction's status after this pause, on the session that there is then.
    Ask(Duration),
    /// Replace it by its halves ([`ChunkState::half`]).
    Split,
    /// Report its keys and go on with other chunks.
    GiveUp,
    /// The same, since nobody knows whether it took effect, or whether that lasts, and its rows may not, or cannot, be
    /// read again.
    Unresolved,
    /// Report its keys and stop the run: no chunk can succeed.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Exits: in flight.
    Pending,
    /// The work was sent. Exits: worked; pending, split or over when it fails.
    InFlight,
    /// The transaction's id is known, COMMIT is not sent. Exits: committing; as in flight when it fails.
    Worked { wrote: bool },
    /// COMMIT was sent. Exits: over; held; in doubt when the answer is lost; as in flight when COMMIT fails.
    Committing { wrote: bool, lasting: bool },
    /// The answer to COMMIT was lost. Exits: over (unresolved); held; pending or split.
    InDoubt { asked: u32, lasting: bool },
    /// Committed, not flushed; `lasting` on this server's disk. Exits: over; pending or split when a crash came first.
    Held { lasting: bool },
    /// Committed, split or given up. No exit.
    Over,
}

/// What the halves of a chunk may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halves {
    /// As much as the chunk: it was halved at its first failure.
    Fresh,
    /// It was tried as often as a chunk may be: each half is tried once.
    Spent {
        /// Whether each try costs a session. Else a key that stands alone is worth some patience.
        lost: bool,
    },
}

/// One chunk's state and budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkState {
    state: State,
    attempt: u32,
    /// What this chunk may take, and what the run allows any.
    budget: u32,
    max_attempts: u32,
    retry: Backoff,
    halves: Halves,
    /// Whether it may have taken effect before this attempt.
    unsure: bool,
}

/// Pauses between questions about a transaction in progress.
const ASK: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(1) };

impl ChunkState {
    /// A chunk with a budget of transactions (at least 1) and the pauses between them.
    #[must_use]
    pub fn new(max_attempts: u32, retry: Backoff) -> Self {
        let budget = max_attempts.max(1);
        let (state, halves) = (State::Pending, Halves::Fresh);
        Self { state, attempt: 0, budget, max_attempts: budget, retry, halves, unsure: false }
    }

    /// The same for one that may have taken effect already.
    #[must_use]
    pub const fn unsure(self) -> Self {
        Self { unsure: true, ..self }
    }

    /// The state of a half with so many keys.
    #[must_use]
    pub fn half(&self, keys: usize) -> Self {
        let half = Self { unsure: self.unsure, ..Self::new(self.max_attempts, self.retry) };
        match self.halves {
            Halves::Fresh => half,
            Halves::Spent { lost: false } if keys == 1 => half,
            Halves::Spent { .. } => Self { budget: 1, ..half },
        }
    }

    /// Transactions begun, since the last one that took effect.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether a COMMIT was sent whose fate is not known.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        matches!(self.state, State::InDoubt { .. })
    }

    /// Whether its work is done, and COMMIT not sent.
    #[must_use]
    pub const fn is_worked(&self) -> bool {
        matches!(self.state, State::Worked { .. })
    }

    /// Whether a COMMIT of something was sent, and not answered.
    #[must_use]
    pub const fn is_committing(&self) -> bool {
        matches!(self.state, State::Committing { wrote: true, .. })
    }

    /// Its work is about to be sent.
    pub fn on_begin(&mut self) {
        debug_assert_eq!(self.state, State::Pending);
        self.attempt += 1;
        self.state = State::InFlight;
    }

    /// Its work succeeded; `wrote` says whether the transaction has an id. One without wrote nothing, and is never in
    /// doubt.
    pub fn on_worked(&mut self, wrote: bool) {
        debug_assert_eq!(self.state, State::InFlight);
        self.state = State::Worked { wrote };
    }

    /// It is rolled back, by us, which costs no attempt: another chunk goes first, or the run is stopped.
    pub fn on_withdrawn(&mut self) {
        debug_assert!(!matches!(self.state, State::InDoubt { .. } | State::Held { .. } | State::Over));
        self.attempt = self.attempt.saturating_sub(1);
        self.state = State::Pending;
    }

    /// COMMIT is about to be sent; a `lasting` one is answered when it is on the disk.
    pub fn on_commit_sent(&mut self, lasting: bool) {
        let State::Worked { wrote } = self.state else {
            debug_assert!(false, "COMMIT without work: {:?}", self.state);
            return;
        };
        self.state = State::Committing { wrote, lasting };
    }

    /// COMMIT was answered. `waited`: nobody cancelled its wait for a synchronous standby, as far as it had to wait.
    pub fn on_committed(&mut self, waited: bool) -> Next {
        match self.state {
            // Where nothing was written, others may have written what was read, and not wait for the disk either.
            State::Committing { wrote, lasting } if !lasting || (wrote && !waited) => self.hold(lasting),
            state => {
                debug_assert!(matches!(state, State::Committing { .. }), "{state:?}");
                self.over(Next::Done)
            }
        }
    }

    /// What was committed up to now is on the disk, and where else it has to be.
    pub fn on_flushed(&mut self) -> Next {
        debug_assert!(matches!(self.state, State::Held { .. }));
        self.over(Next::Done)
    }

    /// No flush is to be had while the session, or the server, lives.
    pub fn on_unflushed(&mut self, why: NoFlush, replay: Replay, keys: usize, draw: f64) -> Next {
        let State::Held { lasting } = self.state else {
            debug_assert!(false, "nothing to be flushed: {:?}", self.state);
            return Next::Unresolved;
        };
        match (why, replay) {
            // As far as can be known without one.
            (NoFlush::Refused, _) if lasting => self.over(Next::Done),
            (NoFlush::Refused, Replay::Safe) => self.read_again(keys, false, draw),
            _ => self.over(Next::Unresolved),
        }
    }

    /// The work, the COMMIT or the session failed. `keys` is the size of the chunk, `draw` is in `0.0..1.0`.
    pub fn on_failed(&mut self, fault: Fault, keys: usize, draw: f64) -> Next {
        let lost = fault.class.is_session_lost();
        match self.state {
            State::Committing { wrote: true, lasting } if lost => {
                self.state = State::InDoubt { asked: 0, lasting };
                Next::Ask(Duration::ZERO)
            }
            State::InDoubt { .. } | State::Held { .. } => self.over(Next::Unresolved),
            _ if fault.class.is_retryable() => self.retry(keys, lost, draw),
            _ if fault.scope == FaultScope::Run => self.over(Next::Stop),
            _ if keys > 1 => self.over(Next::Split),
            _ => self.give_up(),
        }
    }

    /// The server said what became of the transaction: of one in doubt, or of one that was committed on a server that
    /// has crashed since, or has been replaced. `patient`: whether one in progress may still be waited for.
    pub fn on_status(
        &mut self,
        status: Status,
        replay: Replay,
        patient: bool,
        keys: usize,
        draw: f64,
    ) -> Next {
        let (asked, lasting) = match self.state {
            State::InDoubt { asked, lasting } => (asked, lasting),
            // It had succeeded: that a crash has it worked on again is nobody's failure.
            State::Held { .. } => {
                self.attempt = 0;
                (0, true)
            }
            state => {
                debug_assert!(false, "a status that nobody asked for: {state:?}");
                return Next::Unresolved;
            }
        };
        match (status, replay) {
            // What it has waited for is not known.
            (Status::Committed, _) => self.hold(lasting),
            (Status::InProgress, _) if patient => {
                self.state = State::InDoubt { asked: asked.saturating_add(1), lasting };
                Next::Ask(ASK.delay(asked + 1, draw))
            }
            (Status::Aborted, _) => self.retry(keys, true, draw),
            (Status::Unknown, Replay::Safe) => self.read_again(keys, true, draw),
            (Status::InProgress, _) | (Status::Unknown, Replay::Unsafe) => self.over(Next::Unresolved),
        }
    }

    const fn hold(&mut self, lasting: bool) -> Next {
        self.state = State::Held { lasting };
        Next::Hold
    }

    fn retry(&mut self, keys: usize, lost: bool, draw: f64) -> Next {
        if self.attempt < self.budget {
            self.state = State::Pending;
            return Next::Retry(self.retry.delay(self.attempt.max(1), draw));
        }
        if keys > 1 {
            self.halves = Halves::Spent { lost };
            return self.over(Next::Split);
        }
        self.give_up()
    }

    /// Nobody knows whether it took effect.
    fn read_again(&mut self, keys: usize, lost: bool, draw: f64) -> Next {
        self.unsure = true;
        self.retry(keys, lost, draw)
    }

    const fn give_up(&mut self) -> Next {
        self.over(if self.unsure { Next::Unresolved } else { Next::GiveUp })
    }

    const fn over(&mut self, next: Next) -> Next {
        self.state = State::Over;
        next
    }
}
