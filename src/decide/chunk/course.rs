//! One chunk's course, from its first transaction to its end.
//!
//! ```text
//!             begin             worked             commit_sent
//!  pending ---------> in flight --------> worked -------------> committing ----> committed
//!     ^                   |                  |                   |  |             ^   ^
//!     |      failed       |                  |     answer lost,  |  | not flushed |   |
//!     +-------------------+------------------+     something     |  +-------> held    |
//!     |                                            was written   v                 |  |
//!     +-------------------------------------------------------- in doubt ----------|--+
//!     |           aborted, or unknown (the rows are read again)       status       |
//!     +----------------------------------------------------------------------------+
//!                 the server crashed before the flush (the rows are read again)
//! ```
//! Where COMMIT is sent behind work that changes all or nothing, before that is answered for, only the two together
//! can be lost: then the chunk counts as worked, and is in doubt.
//!
//! From *failed* a chunk also goes to *split* (it is replaced by its halves) and *given up*.
//!
//! *Held*: a COMMIT that does not wait for the disk (manual, "Asynchronous Commit") is answered sooner, and a
//! crash may take the chunk back. So it counts only when a later flush has covered it; what that means for
//! many chunks is [`flush`](super::flush).

use std::time::Duration;

use super::blame::Blame;
use crate::decide::backoff::Backoff;
use crate::decide::failure::FailureClass;

/// What failed, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What it means for a retry.
    pub class: FailureClass,
    /// Whom it is to be blamed on when no retry can help.
    pub blame: Blame,
}

/// What the server says of a transaction (`pg_xact_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It took effect.
    Committed,
    /// It left nothing behind.
    Aborted,
    /// Its backend has not noticed yet that the client is gone, or is just committing.
    InProgress,
    /// Too old, or this server never knew it (a standby that was promoted).
    Unknown,
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
    /// Ask for the transaction's status after this pause, on a new session.
    Ask(Duration),
    /// Replace it by its halves.
    Split,
    /// Report its keys and go on with other chunks.
    GiveUp,
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
    /// The answer to COMMIT was lost. Exits: over (committed, or given up); held; pending.
    InDoubt { asked: u32, lasting: bool },
    /// Committed, not flushed. Exits: over; pending when a crash came first.
    Held,
    /// Committed, split or given up. No exit.
    Over,
}

/// One chunk's state and budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    state: State,
    attempt: u32,
    max_attempts: u32,
    retry: Backoff,
}

/// Pauses between questions about a transaction in progress.
const ASK: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(1) };

impl Course {
    /// A chunk with a budget of transactions (at least 1) and the pauses between them.
    #[must_use]
    pub fn new(max_attempts: u32, retry: Backoff) -> Self {
        Self { state: State::Pending, attempt: 0, max_attempts: max_attempts.max(1), retry }
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

    /// Its work is about to be sent.
    pub fn on_begin(&mut self) {
        debug_assert_eq!(self.state, State::Pending);
        self.attempt += 1;
        self.state = State::InFlight;
    }

    /// Its work succeeded; `wrote` says whether the transaction has an id. One without wrote nothing, and
    /// whether it "commits" makes no difference.
    pub fn on_worked(&mut self, wrote: bool) {
        debug_assert_eq!(self.state, State::InFlight);
        self.state = State::Worked { wrote };
    }

    /// It is rolled back so that another chunk goes first, which costs no attempt.
    pub fn on_withdrawn(&mut self) {
        debug_assert!(matches!(self.state, State::Worked { .. } | State::InFlight));
        self.attempt = self.attempt.saturating_sub(1);
        self.state = State::Pending;
    }

    /// COMMIT is about to be sent; a `lasting` one is answered when it is on the disk.
    pub fn on_commit_sent(&mut self, lasting: bool) {
        let State::Worked { wrote } = self.state else {
            debug_assert!(false, "COMMIT without work: {:?}", self.state);
            return;
        };
        // Of nothing written, nothing can be lost.
        self.state = State::Committing { wrote, lasting: lasting || !wrote };
    }

    /// COMMIT was answered.
    pub fn on_committed(&mut self) -> Next {
        debug_assert!(matches!(self.state, State::Committing { .. }));
        self.took_effect(matches!(self.state, State::Committing { lasting: true, .. }))
    }

    /// What was committed up to now is on the disk.
    pub fn on_flushed(&mut self) -> Next {
        debug_assert_eq!(self.state, State::Held);
        self.over(Next::Done)
    }

    /// The server crashed, or was replaced by another, before what was committed is known to be on the disk; or, if
    /// not `crashed`, no flush was to be had.
    pub fn on_forgotten(&mut self, crashed: bool, draw: f64) -> Next {
        debug_assert_eq!(self.state, State::Held);
        // It had succeeded: that a crash has it worked on again is nobody's failure.
        if crashed {
            self.attempt = 0;
        }
        self.retry(draw)
    }

    /// The work, the COMMIT or the session failed. `keys` is the size of the chunk, `draw` is in `0.0..1.0`.
    pub fn on_failed(&mut self, fault: Fault, keys: usize, draw: f64) -> Next {
        let lost = fault.class.is_session_lost();
        match self.state {
            State::Committing { wrote: true, lasting } if lost => {
                self.state = State::InDoubt { asked: 0, lasting };
                Next::Ask(Duration::ZERO)
            }
            State::InDoubt { .. } => self.over(Next::GiveUp),
            _ if fault.class.is_retryable() => self.retry(draw),
            _ if fault.blame == Blame::Run => self.over(Next::Stop),
            _ if keys > 1 => self.over(Next::Split),
            _ => self.over(Next::GiveUp),
        }
    }

    /// The server said what became of the transaction. `patient`: whether one in progress may still be
    /// waited for.
    pub fn on_status(&mut self, status: Status, patient: bool, draw: f64) -> Next {
        let State::InDoubt { asked, lasting } = self.state else {
            debug_assert!(false, "a status that nobody asked for: {:?}", self.state);
            return Next::GiveUp;
        };
        match status {
            Status::Committed => self.took_effect(lasting),
            Status::InProgress if patient => {
                self.state = State::InDoubt { asked: asked.saturating_add(1), lasting };
                Next::Ask(ASK.delay(asked + 1, draw))
            }
            Status::InProgress => self.over(Next::GiveUp),
            // Working on the rows again is reading them: what took effect holds the new value.
            Status::Aborted | Status::Unknown => self.retry(draw),
        }
    }

    const fn took_effect(&mut self, lasting: bool) -> Next {
        if lasting {
            return self.over(Next::Done);
        }
        self.state = State::Held;
        Next::Hold
    }

    fn retry(&mut self, draw: f64) -> Next {
        if self.attempt >= self.max_attempts {
            return self.over(Next::GiveUp);
        }
        self.state = State::Pending;
        Next::Retry(self.retry.delay(self.attempt.max(1), draw))
    }

    const fn over(&mut self, next: Next) -> Next {
        self.state = State::Over;
        next
    }
}
