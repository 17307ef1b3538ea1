//! The recorder: what a run returns, gathered from its own events.
//!
//! It hears every event before the other observers do, so the result, the metrics and the log cannot
//! disagree.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::Span;

use crate::decide::attempt::Outcome;
use crate::decide::ceiling::{Ceiling, Rung};
use crate::decide::reservation::{Granted, Slots};
use crate::error::Error;
use crate::event::{
    AttemptEnd, AttemptFacts, Cause, Event, ExecutionFacts, FailReason, Observer, Observers, Resolution,
    Scope, SqlState,
};
use crate::report::{Attempt, Execution};

/// One execution's events: gathered here, handed on to the observers.
#[derive(Debug)]
pub(crate) struct ExecutionRecorder {
    scope: Scope,
    observers: Observers,
    started: Instant,
    /// What was asked for, before it was lowered.
    demanded: u32,
    target: u32,
    minimum: u32,
    planned: Option<u32>,
    lowered_to: Option<u32>,
    rung: Option<Rung>,
    ceiling: Option<Ceiling>,
    /// What the plans of the last attempt's statements could have.
    within: u32,
    waited_before: Duration,
    /// Slots that are held for the next attempt.
    gathered: u32,
    verdict_after: Option<Duration>,
    waited: Duration,
    /// For room in the pool, and since when it waits for that.
    room_wait: Duration,
    planning: Duration,
    unreplicated: bool,
    room_since: Option<Instant>,
    reserved_wait: Duration,
    reserved_slots: Option<u32>,
    attempts: Vec<Attempt>,
    open: Option<Open>,
    /// What it waits for, and since when, while it waits.
    idle: Option<(Idle, Instant)>,
    /// Its place in the queue for slots, while it has one.
    place: Option<Place>,
    ended: bool,
}

/// A wait that has not ended: if the execution does first, it counts as far as it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    /// For what the next attempt needs: a session, a lock of its plan, a pause, room in the pool.
    Start,
    /// In the fleet's queue for slots.
    Slots,
}

/// What is known of a place in the queue: if the execution ends first, so does the wait.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    demand: u32,
    ahead: u32,
    slots: Option<Slots>,
}

/// An attempt that has not ended: if the execution does first, it ends with it.
#[derive(Debug)]
struct Open {
    began: Instant,
    span: Span,
    facts: AttemptFacts,
    /// Set when the clock was stopped, or a COMMIT was left without an answer: to ask for its fate is a wait of ours,
    /// the server's leader does nothing meanwhile.
    ran: Option<Duration>,
}

impl ExecutionRecorder {
    pub(crate) fn new(task: &str, observers: Observers) -> Self {
        let scope = Scope { task: Arc::from(task) };
        observers.announce(&scope);
        Self {
            scope,
            observers,
            started: Instant::now(),
            demanded: 0,
            target: 0,
            minimum: 0,
            planned: None,
            lowered_to: None,
            rung: None,
            ceiling: None,
            within: 0,
            waited_before: Duration::ZERO,
            gathered: 0,
            verdict_after: None,
            waited: Duration::ZERO,
            room_wait: Duration::ZERO,
            planning: Duration::ZERO,
            unreplicated: false,
            room_since: None,
            reserved_wait: Duration::ZERO,
            reserved_slots: None,
            attempts: Vec::new(),
            open: None,
            idle: None,
            place: None,
            ended: false,
        }
    }

    /// When the execution began.
    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// All telemetry of an execution passes through here.
    pub(crate) fn observe(&mut self, event: &Event) {
        self.take(event);
        self.observers.observe(&self.scope, event);
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::ExecutionStarted { target, minimum, .. } => {
                (self.demanded, self.target) = (*target, *target);
                self.minimum = *minimum;
            }
            Event::PlanInspected { planned, took } => {
                self.planned = planned.or(self.planned);
                self.planning += *took;
            }
            Event::RungTaken { rung, ceiling, .. } => {
                (self.rung, self.ceiling) = (Some(*rung), Some(ceiling.clone()));
            }
            Event::TargetLowered { target, took, .. } => {
                self.planning += *took;
                self.target = *target;
                self.minimum = self.minimum.min(*target);
                self.lowered_to = Some(*target);
            }
            Event::StartHindered { waited, .. } | Event::PlanBlocked { waited, .. } => {
                self.wait(Idle::Start, *waited);
            }
            Event::ReservationQueued { demand, ahead, waited } => {
                self.wait(Idle::Slots, *waited);
                let place = self.place.get_or_insert(Place { ahead: *ahead, ..Place::default() });
                place.demand = *demand;
            }
            Event::ReservationShort { demand, slots, waited, .. } => {
                self.wait(Idle::Slots, *waited);
                let place = self.place.get_or_insert_default();
                (place.demand, place.slots) = (*demand, Some(*slots));
            }
            Event::ReservationEnded { end: Granted::Interrupted, .. } => self.place = None,
            Event::ReservationEnded { taken, waited, .. } => {
                self.place = None;
                self.wait(Idle::Slots, *waited);
                self.wait(Idle::Start, Duration::ZERO);
                self.reserved_slots = Some(*taken);
            }
            Event::AdmissionStarted { .. } => {
                self.room_since = Some(Instant::now());
                self.wait(Idle::Start, Duration::ZERO);
            }
            Event::AdmissionEnded { waited, .. } => {
                self.found_room();
                self.waited_before = *waited;
                self.wait(Idle::Start, *waited);
            }
            Event::AttemptStarted { attempt, required, .. } => {
                self.stop_waiting(Instant::now());
                let facts = AttemptFacts::begun(*attempt, *required);
                self.open = Some(Open { began: Instant::now(), span: Span::current(), facts, ran: None });
            }
            Event::TickTaken { tick, .. } => {
                if let Some(open) = &mut self.open {
                    open.facts.workers = open.facts.workers.max(tick.workers);
                    open.facts.achieved = open.facts.workers;
                }
            }
            Event::VerdictReached { after, .. } => self.verdict_after = Some(*after),
            Event::AttemptEnded(facts) => {
                self.open = None;
                self.wait(Idle::Start, Duration::ZERO);
                self.record(facts);
            }
            Event::CommitInDoubt => self.stop_attempt_clock(),
            Event::CommitResolved { resolution: Resolution::Unreplicated } => self.unreplicated = true,
            Event::ExecutionEnded(_) => self.ended = true,
            _ => {}
        }
    }

    fn record(&mut self, facts: &AttemptFacts) {
        self.within = facts.within;
        self.attempts.push(Attempt {
            attempt: facts.attempt,
            required_workers: facts.required,
            verdict: facts.end.verdict(),
            reason: facts.end.reason(),
            sqlstate: match facts.end {
                AttemptEnd::Failed(code) => code.map(|code| code.as_str().to_owned()),
                AttemptEnd::Accepted(_) | AttemptEnd::Rejected(_) => None,
            },
            workers: facts.workers,
            achieved: facts.achieved,
            short_launches: facts.short_launches,
            short_reason: facts.short_reason,
            unjudged_statements: facts.unjudged,
            concurrent_unproven: facts.concurrent_unproven,
            launches_unproven: facts.launches_unproven,
            verdict_after: self.verdict_after.take(),
            waited: std::mem::take(&mut self.waited_before),
            gathered: std::mem::take(&mut self.gathered),
            ran: facts.ran,
            accepted: facts.end.is_accepted(),
        });
    }

    /// The history so far, with an outcome.
    pub(crate) fn execution<T>(&self, outcome: Outcome, value: Option<T>) -> Execution<T> {
        let accepted = self.attempts.iter().find(|attempt| attempt.accepted);
        let best = self.attempts.iter().map(|attempt| attempt.achieved).max();
        let achieved = accepted.map(|attempt| attempt.achieved).or(best).unwrap_or(0);
        let lowered_to = self.lowered_to.or_else(|| (outcome == Outcome::Lowered).then_some(self.within));
        let ran = accepted.map_or(Duration::ZERO, |attempt| attempt.ran);
        let wasted =
            self.attempts.iter().filter(|attempt| !attempt.accepted).map(|attempt| attempt.ran).sum();
        Execution {
            task: self.scope.task.to_string(),
            outcome,
            target_met: !matches!(outcome, Outcome::BelowMinimum | Outcome::Unverified)
                && achieved >= self.target
                && lowered_to.is_none(),
            demanded_workers: self.demanded,
            target_workers: self.target,
            lowered_to,
            short_launches: accepted.map_or(0, |attempt| attempt.short_launches),
            unjudged_statements: accepted.map_or(0, |attempt| attempt.unjudged_statements),
            min_workers: self.minimum,
            planned_workers: self.planned,
            rung: self.rung,
            ceiling: self.ceiling.clone(),
            achieved_workers: achieved,
            attempt_count: u32::try_from(self.attempts.len()).unwrap_or(u32::MAX),
            value,
            waited: self.waited,
            room_wait: self.room_wait,
            planning: self.planning,
            unreplicated: self.unreplicated,
            reserved_wait: self.reserved_wait,
            reserved_slots: self.reserved_slots,
            ran,
            wasted,
            attempts: self.attempts.clone(),
        }
    }

    /// It waits for this, and has so for that long. What it waited for before ended then; a wait goes on until
    /// an attempt starts, so that connecting for one counts, too.
    fn wait(&mut self, what: Idle, waited: Duration) {
        if self.idle.is_some_and(|(idle, _)| idle == what) {
            return;
        }
        let now = Instant::now();
        let since = now.checked_sub(waited).unwrap_or(now);
        self.stop_waiting(since);
        self.idle = Some((what, since));
    }

    /// From now on it waits for what it needs to start.
    pub(crate) fn wait_to_start(&mut self) {
        self.wait(Idle::Start, Duration::ZERO);
    }

    /// From now on it waits for room in the pool.
    pub(crate) fn wait_for_room(&mut self) {
        self.room_since.get_or_insert_with(Instant::now);
        self.wait(Idle::Start, Duration::ZERO);
    }

    fn found_room(&mut self) {
        self.room_wait += self.room_since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// So many slots are held for the next attempt.
    pub(crate) const fn gathered(&mut self, slots: u32) {
        self.gathered = slots;
    }

    /// What it waited for is there since then.
    pub(crate) fn stop_waiting(&mut self, until: Instant) {
        let Some((idle, since)) = self.idle.take() else { return };
        let waited = until.saturating_duration_since(since);
        match idle {
            Idle::Start => self.waited += waited,
            Idle::Slots => self.reserved_wait += waited,
        }
    }

    /// What is under way counts until now: what clears it away is neither leader time nor a wait. A wait for slots
    /// ends with that.
    pub(crate) fn stop_clock(&mut self) {
        if let (Some(Place { demand, ahead, slots }), Some((Idle::Slots, since))) = (self.place, self.idle) {
            let (end, waited) = (Granted::Interrupted, since.elapsed());
            self.observe(&Event::ReservationEnded { demand, taken: 0, ahead, end, waited, slots });
        }
        self.found_room();
        self.stop_waiting(Instant::now());
        self.stop_attempt_clock();
    }

    fn stop_attempt_clock(&mut self) {
        if let Some(open) = &mut self.open {
            open.ran.get_or_insert_with(|| open.began.elapsed());
        }
    }

    /// Leader time so far of the attempt under way, which began then.
    pub(crate) fn ran(&self, began: Instant) -> Duration {
        self.open.as_ref().and_then(|open| open.ran).unwrap_or_else(|| began.elapsed())
    }

    /// Says that the attempt under way is over without a result: the deadline passed, the caller gave
    /// up, or it could not be brought to an end.
    fn end_attempt(&mut self) {
        if let Some(Open { began, span, mut facts, ran }) = self.open.take() {
            facts.ran = ran.unwrap_or_else(|| began.elapsed());
            span.in_scope(|| self.observe(&Event::AttemptEnded(facts)));
        }
    }

    /// Says that the execution is over; once.
    pub(crate) fn end(&mut self, end: Result<Outcome, FailReason>) {
        self.end_with(end, None);
    }

    /// The same of one that ends with an error.
    pub(crate) fn fail(&mut self, reason: FailReason, error: &Error) {
        let sqlstate = error.sqlstate().and_then(SqlState::new);
        self.end_with(Err(reason), Some(Cause { sqlstate, message: error.chain() }));
    }

    fn end_with(&mut self, end: Result<Outcome, FailReason>, cause: Option<Cause>) {
        if self.ended {
            return;
        }
        self.end_attempt();
        let history = self.execution::<()>(end.unwrap_or(Outcome::BelowMinimum), None);
        let facts = ExecutionFacts {
            end,
            cause,
            target: self.target,
            minimum: self.minimum,
            achieved: history.achieved_workers,
            rung: history.rung,
            lowered_to: history.lowered_to,
            short_launches: history.short_launches,
            unjudged: history.unjudged_statements,
            attempts: history.attempt_count,
            took: self.started.elapsed(),
            waited: history.waited,
            ran: history.ran,
            wasted: history.wasted,
            ended_at_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64()),
        };
        self.observe(&Event::ExecutionEnded(facts));
    }
}

/// A recorder that is dropped open belongs to a future that was dropped.
impl Drop for ExecutionRecorder {
    fn drop(&mut self) {
        self.stop_clock();
        let panics = std::thread::panicking();
        self.end(Err(if panics { FailReason::Panicked } else { FailReason::Interrupted }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// How waits for slots ended, and after how long.
    #[derive(Default)]
    struct Ends(Mutex<Vec<(Granted, u32, Duration)>>);

    impl Observer for Ends {
        fn observe(&self, _: &Scope, event: &Event) {
            if let Event::ReservationEnded { end, ahead, waited, .. } = event {
                self.0.lock().unwrap().push((*end, *ahead, *waited));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_the_queue_that_is_cut_short_counts_as_far_as_it_went() {
        let pause = Duration::from_secs(2);
        let ends = Arc::new(Ends::default());
        let mut recorder = ExecutionRecorder::new("rollup", Observers::new(vec![ends.clone()]));
        tokio::time::sleep(pause).await;
        recorder.observe(&Event::ReservationQueued { demand: 4, ahead: 1, waited: pause });
        tokio::time::sleep(pause).await;
        let slots = Slots { pool: 6, size: 6, held: 4, outsiders: None, priority_waits: false };
        recorder.observe(&Event::ReservationShort { demand: 4, again: false, slots, waited: 2 * pause });
        tokio::time::sleep(pause).await;
        recorder.stop_clock();
        tokio::time::sleep(pause).await;
        let history = recorder.execution::<()>(Outcome::BelowMinimum, None);
        assert_eq!((history.reserved_wait, history.waited), (3 * pause, Duration::ZERO));
        drop(recorder);
        assert_eq!(
            *ends.0.lock().unwrap(),
            [(Granted::Interrupted, 1, 3 * pause)],
            "once, as a wait of its own"
        );
    }
}
