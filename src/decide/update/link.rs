//! The worker's session: had, lost, and had again; and what becomes of it when the run is stopped.
//!
//! What was not to be committed is cancelled at once: it may wait for a lock for hours. A COMMIT under way may not be
//! cancelled: that could end its wait for a synchronous standby and nothing else. It has the *grace* to be
//! answered. After that the connection is given up, and with it everything that waits on it; as much time again is left
//! to ask another session what became of it.

use std::sync::Arc;
use std::time::Duration;

use super::action::Session;
use super::life::Life;
use super::material::Failed;
use crate::decide::backoff::Backoff;

/// Pauses between tries to get a session.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(5) };
/// Between two requests to cancel: the first may come between two statements.
const CANCEL_AGAIN: Duration = Duration::from_millis(250);

/// How the session stands.
enum State {
    /// There is none. Exits: opening.
    Down,
    /// One is asked for. Exits: up; pausing.
    Opening,
    /// None was had. Exits: down, at that time.
    Pausing(Duration),
    /// Exits: leaving.
    Up(Session),
    /// It is of no use any more, and answers are awaited. Exits: down.
    Leaving(Session),
}

/// What there is to do about the session.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    /// Nothing: it can be worked on.
    Work,
    /// Open one until then.
    Open(Duration),
    /// Wait.
    Wait,
    /// Give it up.
    Disconnect,
    /// Nothing more can be had: the run was stopped, and has had its time.
    NoTime,
}

/// What a run that is stopped does to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Nothing,
    /// Cancel what it does.
    Cancel,
    /// Its time is over.
    Abandon,
    /// Nothing is on its way: what is open is to be taken back.
    TakeBack,
    /// It may be hit by a cancel that comes late: it does nothing more.
    Leave,
}

pub(super) struct Link<F> {
    state: State,
    /// Messages that are not answered.
    waiting: u32,
    /// When a session has to be had.
    deadline: Option<Duration>,
    tries: u32,
    last: Option<F>,
    /// What the last session was lost with.
    pub(super) lost: Option<F>,
    is_abandoned: bool,
    /// Whether the session was had when the run was stopped already: it is there to ask what became of something.
    is_late: bool,
    is_cancelled: bool,
    cancel_at: Duration,
}

impl<F: Failed> Link<F> {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Down,
            waiting: 0,
            deadline: None,
            tries: 0,
            last: None,
            lost: None,
            is_abandoned: false,
            is_late: false,
            is_cancelled: false,
            cancel_at: Duration::ZERO,
        }
    }

    pub(super) const fn session(&self) -> Option<&Session> {
        match &self.state {
            State::Up(session) => Some(session),
            _ => None,
        }
    }

    /// The session that there is, or whose answers are awaited.
    pub(super) const fn last_session(&self) -> Option<&Session> {
        match &self.state {
            State::Up(session) | State::Leaving(session) => Some(session),
            _ => None,
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        self.session().is_some()
    }

    /// Of the session that there is, or whose answers are awaited.
    pub(super) fn life(&self) -> Option<Arc<Life>> {
        self.last_session().map(|session| Arc::clone(&session.life))
    }

    // --- Messages -----------------------------------------------------------------------------------------------------

    pub(super) const fn on_sent(&mut self) {
        self.waiting += 1;
    }

    pub(super) const fn on_answered(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Whether an answer is awaited.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    // --- To be had ----------------------------------------------------------------------------------------------------

    /// `end`: when all has to be over.
    pub(super) fn need(&mut self, now: Duration, wait: Duration, end: Option<Duration>) -> Need {
        let is_over = end.is_some_and(|end| now >= end);
        match self.state {
            State::Up(_) => Need::Work,
            State::Leaving(_) if self.is_waiting() => Need::Wait,
            State::Leaving(_) => {
                self.state = State::Down;
                Need::Disconnect
            }
            _ if is_over => Need::NoTime,
            State::Opening => Need::Wait,
            State::Pausing(until) if now < until => Need::Wait,
            State::Pausing(_) | State::Down => {
                self.state = State::Opening;
                let deadline = *self.deadline.get_or_insert(now + wait);
                Need::Open(end.map_or(deadline, |end| end.min(deadline)))
            }
        }
    }

    /// Whether there is none, and none is asked for.
    pub(super) const fn is_down(&self) -> bool {
        matches!(self.state, State::Down | State::Opening | State::Pausing(_))
    }

    /// Whether one is to be asked for next.
    pub(super) const fn is_pausing(&self) -> bool {
        matches!(self.state, State::Pausing(_))
    }

    /// What the last one was lost with, if there was one.
    pub(super) fn on_connected(&mut self, session: Session, is_late: bool) -> Option<F> {
        self.state = State::Up(session);
        (self.waiting, self.tries, self.deadline, self.last) = (0, 0, None, None);
        (self.is_abandoned, self.is_cancelled, self.is_late) = (false, false, is_late);
        self.lost.take()
    }

    /// # Errors
    /// When no session is to be had.
    pub(super) fn on_not_connected(&mut self, failure: Option<F>, now: Duration, draw: f64) -> Result<(), F> {
        // A try that had no time left says nothing of why.
        let failure = failure.or_else(|| self.last.take()).unwrap_or_else(|| F::lost("no answer in time"));
        self.tries += 1;
        let left = self.deadline.unwrap_or(now).saturating_sub(now);
        match RECONNECT.delay_within(left, self.tries, draw) {
            Some(pause) if failure.may_pass() => {
                self.state = State::Pausing(now + pause);
                self.last = Some(failure);
                Ok(())
            }
            _ => Err(failure),
        }
    }

    // --- To be lost ---------------------------------------------------------------------------------------------------

    /// Gives it up. Returns whether there was one.
    pub(super) fn leave(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Down) {
            State::Up(session) => {
                self.state = State::Leaving(session);
                true
            }
            other => {
                self.state = other;
                false
            }
        }
    }

    /// Whether a cancel was sent that may come late.
    pub(super) const fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    /// Whether its connection is to be given up now, so that what is on its way is answered.
    pub(super) const fn abandon(&mut self) -> bool {
        !std::mem::replace(&mut self.is_abandoned, true)
    }

    /// `since`: when the caller wanted the run to end. `is_bound`: whether a COMMIT that may not be cancelled is under way.
    pub(super) fn stop(&mut self, now: Duration, since: Duration, grace: Duration, is_bound: bool) -> Stop {
        if !self.is_up() {
            return Stop::Nothing;
        }
        let time = if self.is_late { grace * 2 } else { grace };
        match (self.is_waiting(), self.is_cancelled) {
            (true, _) if now >= since + time => {
                if self.abandon() {
                    Stop::Abandon
                } else {
                    Stop::Nothing
                }
            }
            (true, false) if self.is_late || is_bound => Stop::Nothing,
            (true, false) => {
                (self.is_cancelled, self.cancel_at) = (true, now + CANCEL_AGAIN);
                Stop::Cancel
            }
            (true, true) if now >= self.cancel_at => {
                self.cancel_at = now + CANCEL_AGAIN;
                Stop::Cancel
            }
            (true, true) => Stop::Nothing,
            (false, true) => Stop::Leave,
            (false, false) if !self.is_late => {
                self.is_late = true;
                Stop::TakeBack
            }
            (false, false) => Stop::Nothing,
        }
    }

    /// When time itself is a fact; `halted`: when the caller wanted the run to end, and the grace.
    pub(super) fn wakes_at(&self, halted: Option<(Duration, Duration)>) -> Option<Duration> {
        let end = halted.map(|(since, grace)| since + grace * 2);
        match &self.state {
            State::Pausing(until) => Some(end.map_or(*until, |end| end.min(*until))),
            State::Opening => end,
            State::Up(_) if self.is_waiting() && !self.is_abandoned => {
                let (since, grace) = halted?;
                let over = since + if self.is_late { grace * 2 } else { grace };
                Some(if self.is_cancelled { over.min(self.cancel_at) } else { over })
            }
            _ => None,
        }
    }
}
