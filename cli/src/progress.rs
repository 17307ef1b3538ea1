//! Progress: what happens while it happens, for people.
//!
//! An [`Observer`] like any other, so what is shown here is what the metrics count. The lines follow the
//! Java executor that Headcount replaces: attempt i/n, pid, workers seen, cancelled, cleaned up, waiting,
//! on target. On a terminal a last line beneath them shows the present: workers against the target,
//! the pool, the time.

mod phrases;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use headcount::event::{Admitted, AttemptEnd, GatheringEnd, LeaderState, Pool, Scope, Verdict};
use headcount::{Event, Observer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::phrases::{admitted, cancelled, free, of, raised, reserved, resolved, slots_are, too_small};
use super::output::{say, time_text};

/// Tells a run's story on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    story: Mutex<Story>,
    bar: Option<ProgressBar>,
    indent: &'static str,
}

impl Progress {
    /// With a live line if standard error is a terminal. Each line begins with `indent`.
    pub(crate) fn new(indent: &'static str) -> Self {
        let bar = console_is_terminal().then(live_line);
        Self { story: Mutex::new(Story::default()), bar, indent }
    }

    /// Without a live line, for what has no workers to show.
    pub(crate) fn in_lines() -> Self {
        Self { story: Mutex::new(Story::default()), bar: None, indent: "" }
    }

    fn line(&self, text: &str) {
        let text = format!("{}{text}", self.indent);
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&text)),
            None => say(&text),
        }
    }
}

/// Whether somebody is watching.
pub(crate) fn console_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

fn live_line() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    // No colours: nothing for NO_COLOR to switch off.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

impl Observer for Progress {
    fn observe(&self, _: &Scope, event: &Event) {
        let mut story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = story.tell(event) {
            self.line(&line);
        }
        let Some(bar) = &self.bar else { return };
        if matches!(event, Event::ExecutionEnded(_)) {
            bar.finish_and_clear();
        } else {
            bar.set_message(story.present());
            bar.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const RECONNECTING: &str = "trying to connect";
const HEAD: &str = "next in the queue for slots";
const TOO_SMALL: &str = "waiting for a larger pool";

/// What has been told so far.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that were told, each by itself")]
struct Story {
    target: u32,
    minimum: u32,
    attempt: u32,
    max_attempts: u32,
    workers: u32,
    best: u32,
    pool: Option<Pool>,
    doing: &'static str,
    locked: bool,
    /// Whether the pool was seen to have too little room before this attempt.
    lacks_room: bool,
    /// Whether the plan can have less than was demanded.
    lowered: bool,
    /// Whether this attempt has its verdict.
    judged: bool,
    /// Whether the monitor is away.
    blind: bool,
    since: Instant,
}

impl Default for Story {
    fn default() -> Self {
        Self {
            target: 0,
            minimum: 0,
            attempt: 0,
            max_attempts: 0,
            workers: 0,
            best: 0,
            pool: None,
            doing: "connecting",
            locked: false,
            lacks_room: false,
            lowered: false,
            judged: false,
            blind: false,
            since: Instant::now(),
        }
    }
}

impl Story {
    /// The line for an event, if it is worth one.
    #[allow(clippy::too_many_lines, reason = "a table: one arm an event")]
    fn tell(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::ExecutionStarted { target, minimum, max_attempts } => {
                *self = Self {
                    target: *target,
                    minimum: *minimum,
                    max_attempts: *max_attempts,
                    blind: self.blind,
                    ..Self::default()
                };
                self.doing = "inspecting the plan";
                None
            }
            Event::StartHindered { cause, .. } => {
                let news = std::mem::replace(&mut self.doing, RECONNECTING) != RECONNECTING;
                news.then(|| format!("cannot start yet: {cause}; trying again"))
            }
            Event::PlanBlocked { by, .. } => {
                Some(format!("inspecting the plan waits for a lock that backend {by} holds or waits for"))
            }
            Event::PlanInspected { planned: Some(planned), .. } => {
                Some(format!("planned: at most {planned} workers"))
            }
            Event::RungTaken { ceiling, asked: Some(asked), .. } => Some(raised(ceiling, *asked)),
            Event::TargetLowered { target, cause, .. } => {
                self.target = *target;
                self.minimum = self.minimum.min(*target);
                self.lowered = true;
                Some(format!("target lowered to {target}, which is all that the plan can have: {cause}"))
            }
            Event::ReservationQueued { demand, ahead, .. } => {
                self.doing = "in the queue for slots";
                let others = if *ahead == 1 { "other is" } else { "others are" };
                Some(format!("in the queue for {demand} slots: {ahead} {others} before this one"))
            }
            Event::ReservationShort { demand, slots, .. } => {
                let (doing, missing) = if slots.are_too_few_for(*demand) {
                    (TOO_SMALL, too_small(*demand, *slots))
                } else {
                    (HEAD, format!("{demand} {} needed, {}", slots_are(*demand), free(*slots)))
                };
                let before = std::mem::replace(&mut self.doing, doing);
                (before != doing).then(|| format!("next in the queue: {missing}"))
            }
            Event::ReservationHindered { cause, .. } => {
                self.doing = "trying to reserve slots";
                Some(format!("slots cannot be asked for: {cause}; trying again"))
            }
            Event::ReservationEnded { demand, taken, end, waited, slots, .. } => {
                Some(reserved(*demand, *taken, *end, *waited, *slots))
            }
            Event::ReservationKept { taken } => {
                self.doing = "waiting for its workers to leave";
                Some(format!("{taken} {} kept until its workers are gone", slots_are(*taken)))
            }
            Event::ReservationReleased { taken, early: true, .. } => {
                Some(format!("{taken} {} given back although workers are still there", slots_are(*taken)))
            }
            Event::ReservationLost { taken } => {
                Some(format!("the connection that held {taken} slots broke; others may take them"))
            }
            Event::AdmissionStarted { required, pool, processes, autovacuum, .. } => {
                self.lacks_room = true;
                self.doing = "waiting for room";
                self.pool = Some(*pool);
                Some(match processes {
                    Some(processes) if processes.used > processes.size => format!(
                        "waiting: {} processes of the server are in use, and {} at most may be (max_worker_processes less \
                         what is left to others, --leave)",
                        processes.used, processes.size
                    ),
                    Some(processes) if processes.free() < pool.free() => format!(
                        "waiting: {} of {} processes of the server are in use (max_worker_processes), {required} are needed",
                        processes.used, processes.size
                    ),
                    _ => {
                        let vacuum = match autovacuum {
                            0 => String::new(),
                            some => format!(" ({some} by autovacuum)"),
                        };
                        format!(
                            "waiting: {} of {} slots of the pool are in use{vacuum}, {required} are needed",
                            pool.used, pool.size
                        )
                    }
                })
            }
            Event::AdmissionEnded { waited, end, pool, processes, .. } => {
                let gathered = *end == Admitted::Gathered && !std::mem::take(&mut self.lacks_room);
                if gathered {
                    return None;
                }
                self.pool = pool.or(self.pool);
                admitted(*waited, *end, *pool, *processes)
            }
            Event::GatheringStarted { need, .. } => {
                self.doing = "gathering slots";
                // Where there is room it takes a moment.
                self.lacks_room.then(|| {
                    format!("gathering {need} {} one by one", if *need == 1 { "slot" } else { "slots" })
                })
            }
            Event::GatheringEnded { need, held, end: GatheringEnd::LetGo, took, .. } => {
                self.doing = "waiting for room";
                Some(format!("held {held} of {need} slots for {}, given back for as long", time_text(*took)))
            }
            Event::AttemptStarted { attempt, max_attempts, pid, .. } => {
                (self.attempt, self.max_attempts, self.workers) = (*attempt, *max_attempts, 0);
                (self.locked, self.judged) = (false, false);
                self.doing = "running";
                let Self { target, minimum, best, .. } = self;
                Some(format!(
                    "attempt {attempt}/{max_attempts}: target {target}, minimum {minimum}, best so far {best}, pid {pid}"
                ))
            }
            Event::TickTaken { tick, .. } => {
                self.workers = tick.workers;
                self.pool = tick.pool.or(self.pool);
                let locked = tick.leader == LeaderState::WaitingForLock;
                let news = locked && !self.locked;
                self.locked = locked;
                self.doing = if locked { "waiting for a lock" } else { "running" };
                news.then(|| "waiting for a lock; this time does not count".to_owned())
            }
            Event::VerdictReached { statement, required, verdict, workers, after, .. } => {
                self.best = self.best.max(*workers);
                self.judged = true;
                Some(format!("{}{}", of(*statement), self.verdict(*required, *verdict, *workers, *after)))
            }
            Event::LaunchShort { statement, short, after, .. } => Some(format!(
                "{}a later launch had {} of {} workers after {} ({})",
                of(*statement),
                short.got,
                short.needed,
                time_text(*after),
                short.reason.as_str()
            )),
            Event::CancelAnswered { method, result, .. } => {
                self.doing = "cancelling";
                cancelled(*method, *result)
            }
            Event::WorkersDrained { left, .. } if *left > 0 => {
                Some(format!("{left} of its processes are still there"))
            }
            Event::CleanupEnded { took, ok, .. } => Some(if *ok {
                format!("cleaned up in {}", time_text(*took))
            } else {
                "the cleanup failed".to_owned()
            }),
            Event::AttemptEnded(facts) => {
                self.doing = match facts.end {
                    AttemptEnd::Accepted(_) => "done",
                    _ if facts.attempt >= self.max_attempts => "giving up",
                    AttemptEnd::Rejected(_) | AttemptEnd::Failed(_) => "between attempts",
                };
                match facts.end {
                    AttemptEnd::Failed(Some(sqlstate)) => {
                        Some(format!("failed (SQLSTATE {})", sqlstate.as_str()))
                    }
                    _ => None,
                }
            }
            Event::SessionLost { sqlstate } => {
                Some(format!("connection lost (SQLSTATE {})", sqlstate.as_str()))
            }
            Event::SessionRestored { .. } => Some("connected again".to_owned()),
            Event::CommitInDoubt => {
                Some("the answer to COMMIT was lost; asking what became of it".to_owned())
            }
            Event::CommitResolved { resolution } => Some(resolved(*resolution).to_owned()),
            Event::MonitorPolled { pool, .. } => {
                self.pool = pool.or(self.pool);
                None
            }
            Event::MonitorLost { cause } => {
                self.blind = true;
                let then = if self.judged { "" } else { "; no verdict until it can" };
                Some(format!("the monitor cannot see ({cause}){then}"))
            }
            Event::MonitorRestored { .. } => {
                self.blind = false;
                Some("the monitor sees again".to_owned())
            }
            Event::ExecutionEnded(_) if self.blind => Some("the monitor did not come back".to_owned()),
            _ => None,
        }
    }

    fn verdict(&self, required: u32, verdict: Verdict, workers: u32, after: Duration) -> String {
        let after = time_text(after);
        match verdict {
            Verdict::Enough if workers >= self.target && self.lowered => {
                format!("workers seen {workers}: all that its plan can use, after {after}")
            }
            Verdict::Enough if workers >= self.target => {
                format!("workers seen {workers}: on target after {after}")
            }
            Verdict::Enough if required < self.minimum => {
                format!("workers seen {workers}: what its plan can have, after {after}")
            }
            Verdict::Enough => format!("workers seen {workers}: the minimum is reached after {after}"),
            Verdict::Short(reason) => {
                let pool = self
                    .pool
                    .map(|pool| format!(", pool {}/{} in use", pool.used, pool.size))
                    .unwrap_or_default();
                format!(
                    "workers seen {workers} of {required}: too few after {after} ({}{pool})",
                    reason.as_str()
                )
            }
            Verdict::FinishedEarly => {
                format!("workers seen {workers}: finished after {after}, before a verdict")
            }
            Verdict::Unverified => {
                format!("workers seen {workers}: finished after {after} while the monitor could not see it")
            }
        }
    }

    /// The live line.
    fn present(&self) -> String {
        let pool = self.pool.map(|pool| format!(" · pool {}/{}", pool.used, pool.size)).unwrap_or_default();
        format!(
            "attempt {}/{} · workers {}/{}{pool} · {} · {}",
            self.attempt.max(1),
            self.max_attempts,
            self.workers,
            self.target,
            time_text(self.since.elapsed()),
            self.doing
        )
    }
}

#[cfg(test)]
mod tests {
    use headcount::event::{AttemptFacts, ExecutionFacts};

    use super::*;

    #[test]
    fn the_live_line_speaks_of_another_attempt_only_while_there_may_be_one() {
        let mut story = Story::default();
        story.tell(&Event::ExecutionStarted { target: 4, minimum: 2, max_attempts: 2 });
        let mut after = |attempt, end| {
            let facts = AttemptFacts { end, workers: 4, ..AttemptFacts::begun(attempt, 4) };
            story.tell(&Event::AttemptEnded(facts));
            story.present()
        };
        assert!(after(1, AttemptEnd::Failed(None)).ends_with("between attempts"));
        assert!(after(2, AttemptEnd::Accepted(Verdict::Enough)).ends_with("done"));
        assert!(after(2, AttemptEnd::Failed(None)).ends_with("giving up"));
    }

    #[test]
    fn a_monitor_that_is_lost_after_the_verdict_holds_none_up_and_at_the_end_it_is_said_that_it_stayed_away()
    {
        let mut story = Story::default();
        let lost = Event::MonitorLost { cause: "closed".to_owned() };
        let mut tell = |event: &Event| story.tell(event).unwrap_or_default();
        let start = |attempt| Event::AttemptStarted {
            attempt,
            max_attempts: 2,
            required: 4,
            pid: 7,
            backend_start: 0,
        };
        tell(&start(1));
        assert_eq!(tell(&lost), "the monitor cannot see (closed); no verdict until it can");
        assert_eq!(tell(&Event::MonitorRestored { blind_for: Duration::ZERO }), "the monitor sees again");
        tell(&Event::VerdictReached {
            statement: None,
            attempt: 1,
            required: 4,
            verdict: Verdict::Enough,
            workers: 4,
            after: Duration::ZERO,
        });
        assert_eq!(tell(&lost), "the monitor cannot see (closed)");
        let ended = || {
            Event::ExecutionEnded(ExecutionFacts {
                cause: None,
                rung: None,
                lowered_to: None,
                short_launches: 0,
                unjudged: 0,
                end: Ok(headcount::Outcome::OnTarget),
                target: 4,
                minimum: 2,
                achieved: 4,
                attempts: 1,
                took: Duration::ZERO,
                waited: Duration::ZERO,
                ran: Duration::ZERO,
                wasted: Duration::ZERO,
                ended_at_unix: 0.0,
            })
        };
        assert_eq!(tell(&ended()), "the monitor did not come back");
        tell(&Event::MonitorRestored { blind_for: Duration::ZERO });
        assert_eq!(tell(&ended()), "");
    }
}
