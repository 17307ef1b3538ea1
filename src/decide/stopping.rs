//! How a statement that was proven short is stopped: by a cancel, then by the end of its session.
//!
//! A cancel takes effect only while a statement runs, so one that comes between two statements is made again soon. A
//! signal that was sent is given more time. A request to terminate ends a session of our own whatever it does. A backend
//! that runs statements of another client, too, is never terminated for one that has ended by itself.
//!
//! ```text
//!   ask(cancel) ── sent, missed or failed ──> wait ── ended ─────────────────> rejected, kept or failed
//!        ^                                     │ └─── missed again and again, another client's ──> over
//!        └── grace not over ───────────────────┘
//!   ask(terminate) <── grace over, once; then ─────────────────────────────────> stuck
//! ```

use std::time::Duration;

/// How a statement was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelMethod {
    /// `pg_cancel_backend`.
    Cancel,
    /// `pg_terminate_backend`, when a cancel was not enough.
    Terminate,
}

impl CancelMethod {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 2] = [Self::Cancel, Self::Terminate];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Terminate => "terminate",
        }
    }
}

/// The result of a request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelResult {
    /// The signal was sent, to the right backend.
    Sent,
    /// The backend was gone, or ran another statement or none: no signal was sent.
    Missed,
    /// The request failed.
    Failed,
    /// The server refused it: the monitor's role may not signal that backend, or may not any more.
    Denied,
}

impl CancelResult {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 4] = [Self::Sent, Self::Missed, Self::Failed, Self::Denied];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Missed => "missed",
            Self::Failed => "failed",
            Self::Denied => "denied",
        }
    }
}

/// Between two requests to cancel, when the leader was between two statements at the first one.
const AGAIN: Duration = Duration::from_millis(20);
/// The same when the signal was sent: a statement that ended at that moment left it without effect, and
/// a closure may have sent its next one since. And where it was denied: a right comes back late, if at all.
const SIGNALLED: Duration = Duration::from_millis(500);
/// Requests that may miss another client's statement before it is taken for ended.
const MISSES: u32 = 3;

/// What follows the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for the statement's end until then, and ask again.
    WaitUntil(Duration),
    /// It has ended by itself: what the backend runs now is none of ours to stop.
    Over,
}

/// The requests that were made of one statement.
#[derive(Debug, Clone, Copy)]
pub struct Stopping {
    method: CancelMethod,
    grace: Duration,
    /// When the method's time is over.
    until: Duration,
    /// Whether the backend runs statements of another client.
    shares_backend: bool,
    sent: bool,
    denied: bool,
    missed: u32,
}

impl Stopping {
    /// From `now` on. Each method has `grace`. `shares_backend`: it runs statements of another client.
    #[must_use]
    pub const fn new(now: Duration, grace: Duration, shares_backend: bool) -> Self {
        let until = now.saturating_add(grace);
        Self {
            method: CancelMethod::Cancel,
            grace,
            until,
            shares_backend,
            sent: false,
            denied: false,
            missed: 0,
        }
    }

    /// What to ask for now; `None` when nothing stops it.
    pub fn ask(&mut self, now: Duration) -> Option<CancelMethod> {
        if now >= self.until && self.method == CancelMethod::Cancel {
            self.method = CancelMethod::Terminate;
            self.until = now.saturating_add(self.grace);
        }
        (now < self.until).then_some(self.method)
    }

    /// The request was answered.
    pub fn on_answer(&mut self, now: Duration, result: CancelResult) -> Next {
        self.sent |= result == CancelResult::Sent;
        self.denied = result == CancelResult::Denied;
        self.missed += u32::from(result == CancelResult::Missed);
        if self.shares_backend && !self.sent && self.missed >= MISSES {
            return Next::Over;
        }
        let patience = match result {
            CancelResult::Sent | CancelResult::Denied => SIGNALLED,
            CancelResult::Missed | CancelResult::Failed => AGAIN,
        };
        Next::WaitUntil(self.until.min(now.saturating_add(patience)))
    }

    /// Whether the last request was refused for want of a right.
    #[must_use]
    pub const fn was_denied(&self) -> bool {
        self.denied
    }

    /// Whether a signal was sent: an error of the statement's is its effect then.
    #[must_use]
    pub const fn was_sent(&self) -> bool {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_cancel_comes_before_the_end_of_the_session_and_each_has_its_grace() {
        let mut stopping = Stopping::new(ms(100), GRACE, false);
        assert_eq!(stopping.ask(ms(100)), Some(CancelMethod::Cancel));
        assert_eq!(stopping.on_answer(ms(110), CancelResult::Sent), Next::WaitUntil(ms(610)));
        assert_eq!(stopping.ask(ms(5_099)), Some(CancelMethod::Cancel));
        assert_eq!(stopping.on_answer(ms(5_099), CancelResult::Failed), Next::WaitUntil(ms(5_100)));
        assert_eq!(stopping.ask(ms(5_100)), Some(CancelMethod::Terminate));
        assert_eq!(stopping.ask(ms(10_099)), Some(CancelMethod::Terminate));
        assert_eq!(stopping.ask(ms(10_100)), None, "it is stuck");
    }

    #[test]
    fn a_request_between_two_statements_is_made_again_soon() {
        let mut stopping = Stopping::new(ms(0), GRACE, false);
        for at in [0, 20, 40, 60] {
            assert_eq!(stopping.on_answer(ms(at), CancelResult::Missed), Next::WaitUntil(ms(at + 20)));
        }
        assert!(!stopping.was_sent());
    }

    #[test]
    fn a_request_that_is_denied_is_made_again_at_leisure_and_remembered() {
        let mut stopping = Stopping::new(ms(0), GRACE, false);
        assert_eq!(stopping.on_answer(ms(10), CancelResult::Denied), Next::WaitUntil(ms(510)));
        assert!(stopping.was_denied() && !stopping.was_sent());
        stopping.on_answer(ms(510), CancelResult::Sent);
        assert!(!stopping.was_denied());
    }

    #[test]
    fn the_backend_of_another_client_is_left_alone_when_the_statement_has_ended() {
        let mut stopping = Stopping::new(ms(0), GRACE, true);
        let answers = [CancelResult::Missed; 3].map(|result| stopping.on_answer(ms(0), result));
        assert_eq!(answers[2], Next::Over);
        let mut hit = Stopping::new(ms(0), GRACE, true);
        hit.on_answer(ms(0), CancelResult::Sent);
        let answers = [CancelResult::Missed; 3].map(|result| hit.on_answer(ms(0), result));
        assert!(hit.was_sent() && !answers.contains(&Next::Over), "its effect may still come");
    }
}
