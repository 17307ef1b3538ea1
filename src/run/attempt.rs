//! One attempt: play its statements, keep or undo them, and say so.

use tokio::time::Instant;
use tracing::Span;

use super::committing::Committing;
use super::executor::{CommitError, Executor, PlanCapacity};
use super::race::{Entry, Finish, Race};
use super::recorder::ExecutionRecorder;
use crate::decide::attempt::{Attempts, Ended, Finished};
use crate::decide::counters::LaunchCounters;
use crate::decide::script::{Evidence, Requirement, Script};
use crate::decide::verdict::{ShortReason, Verdict, Window};
use crate::error::{Error, human};
use crate::event::{AttemptEnd, AttemptFacts, Event, Resolution, SqlState};
use crate::pg::Failure;
use crate::pg::session::Identity;
use crate::settings::Settings;

/// What an attempt came to.
pub(crate) struct Played<T> {
    pub(crate) ended: Ended,
    /// The result, when it is kept.
    pub(crate) value: Option<T>,
    /// Why it failed by itself.
    pub(crate) failure: Option<Failure>,
    /// Whether the monitor saw the pool.
    pub(crate) pool_seen: bool,
    /// Set when the value was handed over unfinished: the attempt ends when the value does.
    pub(crate) open: Option<OpenAttempt>,
    /// What the next attempt begins with: what ran before it stays.
    pub(crate) resume: Resume,
}

/// Where an attempt begins, and what is known of the statements before: they were kept, and so is what they lacked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resume {
    /// The statement to begin with.
    pub(crate) from: usize,
    evidence: Evidence,
    /// What the server had counted before the first of them.
    counted: Option<LaunchCounters>,
}

/// An accepted attempt whose rows still flow.
#[derive(Debug)]
pub(crate) struct OpenAttempt {
    pub(crate) span: Span,
    pub(crate) began: Instant,
    pub(crate) facts: AttemptFacts,
    pub(crate) window: Window,
    pub(crate) capacity: PlanCapacity,
    pub(crate) attempts: Attempts,
}

/// What an attempt is, and what it is judged by.
pub(crate) struct Course<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) capacity: &'a PlanCapacity,
    pub(crate) number: u32,
    pub(crate) requirement: Requirement,
    pub(crate) attempts: &'a Attempts,
    /// Workers that could have started at the last look before it.
    pub(crate) free: Option<u32>,
    pub(crate) resume: &'a Resume,
    pub(crate) committing: &'a Committing,
}

/// Plays one attempt to its end, cleanup included.
///
/// An error ends the whole execution: a leader that cannot be stopped, a commit whose fate is not
/// known, a cleanup that failed.
pub(crate) async fn play<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    course: &Course<'_>,
    lost: &mut Option<SqlState>,
) -> Result<Played<S::Value>, Error> {
    let Course { settings, number, requirement, resume: &Resume { from, .. }, committing, .. } = *course;
    let required = requirement.required;
    let mut facts = AttemptFacts::begun(number, required);
    let backend = if from == 0 { executor.begin(number).await } else { executor.resume(number, from).await };
    let Identity { pid, started: backend_start } = match backend {
        Ok(backend) => backend,
        Err(failure) => {
            facts.end = AttemptEnd::Failed(failure.event_sqlstate());
            let resume = if settings.transaction { Resume::default() } else { course.resume.clone() };
            return Ok(Played { resume, ..close(recorder, facts, Kept::Failed(failure)) });
        }
    };
    if let Some(sqlstate) = lost.take() {
        recorder.observe(&Event::SessionRestored { sqlstate });
    }
    let max_attempts = settings.max_attempts;
    recorder.observe(&Event::AttemptStarted { attempt: number, max_attempts, required, pid, backend_start });
    let counted = if from == 0 { executor.launch_counters(false).await } else { course.resume.counted };
    let began = Instant::now();
    let mut steps = Steps::new(course);
    let finish = steps.run(executor, recorder).await;
    let Steps { mut evidence, before, at, pool_seen, window, .. } = steps;
    facts.take(&evidence);
    let kept = match finish {
        Finish::Kept(value, verdict) if S::HANDS_OVER => Kept::Flowing(value, verdict),
        Finish::Kept(value, _) => {
            let _sent = committing.begin().await;
            match commit(executor, recorder, committing).await? {
                Ok(()) => Kept::Value(value, evidence.verdict()),
                Err(failure) => Kept::Failed(failure),
            }
        }
        Finish::Rejected(reason) => Kept::Nothing(reason),
        Finish::Failed(failure) => Kept::Failed(failure),
        Finish::Stuck { denied: true } => {
            return Err(Error::stuck(format!(
                "backend {pid} has too few workers and could not be stopped: the monitor's role may not signal it (any \
                 more); GRANT pg_signal_backend to that role"
            )));
        }
        Finish::Stuck { denied: false } => {
            let grace = human(settings.cancel_grace);
            return Err(Error::stuck(format!("backend {pid} did not end within {grace} of its termination")));
        }
    };
    // Wasted, if the attempt is not kept.
    facts.ran = recorder.ran(began);
    if let (Kept::Value(..), Some(before), true) = (&kept, counted, evidence.is_doubtful())
        && let Some(after) = executor.launch_counters(true).await
    {
        let is_capped = course.capacity.asks_beyond_pool(requirement.target < settings.target_workers);
        evidence.hear(after.since(before), requirement.target, is_capped);
        facts.take(&evidence);
    }
    facts.end = match &kept {
        Kept::Value(_, verdict) | Kept::Flowing(_, verdict) => AttemptEnd::Accepted(*verdict),
        Kept::Nothing(reason) => AttemptEnd::Rejected(*reason),
        Kept::Failed(failure) => AttemptEnd::Failed(failure.event_sqlstate()),
    };
    let mut resume = Resume::default();
    if !facts.end.is_accepted() {
        // Outside of a transaction what ran before is done, however its successor ended.
        let apart = !settings.transaction && executor.keeps_steps();
        let rejected = matches!(kept, Kept::Nothing(_)) && at > 0;
        let rewound = rejected && rewind(executor, recorder, settings, number).await;
        if apart || rewound {
            resume = Resume { from: at, evidence: before, counted };
        }
        if rewound {
            // The session goes on.
        } else if is_untouched(&kept, number, at, settings) {
            abandon(executor, recorder, settings, number).await;
        } else if let Err(uncleaned) = undo(executor, recorder, settings, number).await {
            recorder.observe(&Event::AttemptEnded(facts));
            return Err(match kept {
                // What failed first is what there is to correct.
                Kept::Failed(failure) => {
                    Error::sql("the statement", failure).with_cleanup_failure(&uncleaned)
                }
                _ => Error::uncleaned(uncleaned),
            });
        }
    }
    let kept = match (kept, window) {
        (Kept::Flowing(value, verdict), Some(window)) => {
            let ended = Ended::Finished(finished(&facts, verdict));
            let (capacity, attempts) = (course.capacity.clone(), course.attempts.clone());
            let open = Some(OpenAttempt { span: Span::current(), began, facts, window, capacity, attempts });
            return Ok(Played { ended, value: Some(value), failure: None, pool_seen, open, resume });
        }
        (kept, _) => kept,
    };
    Ok(Played { pool_seen, resume, ..close(recorder, facts, kept) })
}

/// The statements of one attempt, one after the other.
struct Steps<'a> {
    course: &'a Course<'a>,
    script: Script,
    /// The statement that runs, or ran last.
    at: usize,
    evidence: Evidence,
    /// The same without the statement that runs.
    before: Evidence,
    pool_seen: bool,
    /// Workers that could have started at the last look before the statement that runs.
    free: Option<u32>,
    /// Of the statement that ran last.
    window: Option<Window>,
}

impl<'a> Steps<'a> {
    fn new(course: &'a Course<'a>) -> Self {
        let script = Script::new(&course.capacity.statements, course.requirement.minimum);
        let Resume { from: at, evidence, .. } = course.resume.clone();
        let (before, free) = (evidence.clone(), course.free);
        Self { course, script, at, before, evidence, pool_seen: false, free, window: None }
    }

    async fn run<S: Executor>(
        &mut self,
        executor: &mut S,
        recorder: &mut ExecutionRecorder,
    ) -> Finish<S::Value> {
        let count = executor.steps();
        loop {
            let mut quiet = self.unjudged_from(self.at, count);
            if !self.course.settings.transaction {
                // One by one: each is done when it has ended.
                quiet = quiet.min(self.at + 1);
            }
            let (next, finish) = if quiet > self.at && count > 1 {
                (quiet, self.run_unjudged(executor, quiet).await)
            } else {
                (self.at + 1, self.run_one(executor, recorder, count).await)
            };
            match finish {
                Finish::Kept(..) if next < count => {
                    self.at = next;
                    self.before = self.evidence.clone();
                }
                finish => return finish,
            }
        }
    }

    /// Where the statements end, from that one on, that are known not to be judged.
    fn unjudged_from(&self, from: usize, count: usize) -> usize {
        let Course { capacity, requirement, .. } = self.course;
        let is_judged = |place: &usize| {
            let known = capacity.statement(*place);
            !known.certain || self.script.demand(*place, &known, *requirement).is_some()
        };
        (from..count).find(is_judged).unwrap_or(count)
    }

    async fn run_unjudged<S: Executor>(&mut self, executor: &S, until: usize) -> Finish<S::Value> {
        self.free = None;
        for place in self.at..until {
            self.evidence.unjudged += u32::from(self.course.capacity.statement(place).explained);
        }
        match executor.work(self.at..until).await {
            Ok(value) => Finish::Kept(value, Verdict::FinishedEarly),
            Err(failure) => Finish::Failed(failure),
        }
    }

    async fn run_one<S: Executor>(
        &mut self,
        executor: &mut S,
        recorder: &mut ExecutionRecorder,
        count: usize,
    ) -> Finish<S::Value> {
        let Course { settings, capacity, number, requirement, .. } = *self.course;
        let (at, alone) = (self.at, count == 1);
        let mut known = capacity.statement(at);
        if !alone && !known.certain {
            match executor.inspect_step(at).await {
                Ok(now) => known = now,
                Err(failure) => return Finish::Failed(failure),
            }
        }
        let Some(demand) = self.script.demand(at, &known, requirement) else {
            return self.run_unjudged(executor, at + 1).await;
        };
        // A savepoint to come back to, unless the statement itself goes back behind it.
        let marked = !alone && executor.keeps_steps() && executor.outlives(at);
        if marked && let Err(failure) = executor.mark().await {
            return Finish::Failed(failure);
        }
        executor.make_way().await;
        let statement = (!alone).then(|| u32::try_from(at + 1).unwrap_or(u32::MAX));
        let entry = Entry { attempt: number, statement, demand, free: self.free, known, settings, capacity };
        let mut race = Race::new(entry);
        let finish = race.run(&*executor, at..at + 1, recorder).await;
        executor.give_way();
        self.pool_seen |= race.pool_seen;
        self.evidence.take(&race.window, requirement.target);
        self.free = race.window.least_free();
        let short = race.window.condemned().or(race.window.suspicion());
        self.window = Some(race.window);
        match (finish, short) {
            (Finish::Kept(_, Verdict::Short(reason)), _) if settings.strict => Finish::Rejected(reason),
            (Finish::Kept(..), Some(reason)) if settings.strict => Finish::Rejected(reason),
            (Finish::Kept(value, verdict), _) if marked => match executor.unmark().await {
                Ok(()) => Finish::Kept(value, verdict),
                Err(failure) => Finish::Failed(failure),
            },
            (finish, _) => finish,
        }
    }
}

/// Whether nothing was done that a cleanup could undo: outside of a transaction the very first statement found what it
/// wanted to make. What is there is not ours, and to drop it would be a loss.
fn is_untouched<T>(kept: &Kept<T>, number: u32, at: usize, settings: &Settings) -> bool {
    const DUPLICATES: [&str; 4] = ["42P06", "42P07", "42710", "42723"];
    let Kept::Failed(failure) = kept else { return false };
    let exists = failure.sqlstate().is_some_and(|code| DUPLICATES.contains(&code));
    exists && !settings.transaction && number == 1 && at == 0
}

/// What is kept of an attempt.
enum Kept<T> {
    Value(T, Verdict),
    Flowing(T, Verdict),
    Nothing(ShortReason),
    Failed(Failure),
}

fn close<T>(recorder: &mut ExecutionRecorder, facts: AttemptFacts, kept: Kept<T>) -> Played<T> {
    recorder.observe(&Event::AttemptEnded(facts));
    let (ended, value, failure) = match kept {
        Kept::Value(value, verdict) | Kept::Flowing(value, verdict) => {
            (Ended::Finished(finished(&facts, verdict)), Some(value), None)
        }
        Kept::Nothing(reason) => (Ended::Rejected(reason, facts.workers), None, None),
        Kept::Failed(failure) => (Ended::Failed(failure.class()), None, Some(failure)),
    };
    Played { ended, value, failure, pool_seen: false, open: None, resume: Resume::default() }
}

pub(super) const fn finished(facts: &AttemptFacts, verdict: Verdict) -> Finished {
    let AttemptFacts { achieved, within, launches_unproven: unproven, .. } = *facts;
    Finished { verdict, achieved, short: facts.short_launches > 0, unproven, within }
}

/// Commits, and resolves a commit in doubt. The inner failure means that it did not take effect.
pub(crate) async fn commit<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    committing: &Committing,
) -> Result<Result<(), Failure>, Error> {
    match executor.commit(committing).await {
        Ok(waited) => {
            if !waited {
                recorder.observe(&Event::CommitResolved { resolution: Resolution::Unreplicated });
            }
            Ok(Ok(()))
        }
        Err(CommitError::Failed(failure)) => Ok(Err(failure)),
        Err(CommitError::InDoubt { xid, cause }) => {
            recorder.observe(&Event::CommitInDoubt);
            let fate = committing.fate(executor.resolve(&xid)).await;
            let resolution = match fate.unwrap_or(Resolution::Unresolved) {
                // Its wait for a standby was cut off with the answer: nobody knows whether the standby has it.
                Resolution::Committed if executor.waits_for_standbys() => Resolution::Unreplicated,
                resolution => resolution,
            };
            recorder.observe(&Event::CommitResolved { resolution });
            match resolution {
                Resolution::Committed | Resolution::Unreplicated => Ok(Ok(())),
                Resolution::Aborted => Ok(Err(cause)),
                Resolution::Reread | Resolution::Unresolved => Err(Error::in_doubt(xid, cause)),
            }
        }
    }
}

/// Goes back to before the rejected statement, while what ran before it stays; `false` where that cannot be.
async fn rewind<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    attempt: u32,
) -> bool {
    if !executor.keeps_steps() {
        return false;
    }
    let began = Instant::now();
    let Some(left) = executor.rewind(settings.cancel_grace).await else { return false };
    recorder.observe(&Event::WorkersDrained { attempt, waited: began.elapsed(), left });
    true
}

/// Rolls back, and waits for the workers to leave.
async fn abandon<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    attempt: u32,
) {
    let began = Instant::now();
    let left = executor.abandon(settings.cancel_grace).await;
    recorder.observe(&Event::WorkersDrained { attempt, waited: began.elapsed(), left });
}

/// Rolls back, waits for the workers to leave, and runs the cleanup action, which may fail.
pub(super) async fn undo<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    attempt: u32,
) -> Result<(), Failure> {
    abandon(executor, recorder, settings, attempt).await;
    let began = Instant::now();
    let Some(cleaned) = executor.cleanup().await else { return Ok(()) };
    recorder.observe(&Event::CleanupEnded { attempt, took: began.elapsed(), ok: cleaned.is_ok() });
    cleaned
}
