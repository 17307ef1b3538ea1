//! One guarded execution: attempts until one is kept, none is left, or one fails for good.

use std::error::Error as _;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::attempt::{Course, OpenAttempt, Played, Resume, play, undo};
use super::clearing::cleared;
use super::committing::Committing;
use super::executor::{Executor, PlanCapacity};
use super::gatherer::{Gathered, Wish};
use super::monitor::{Observation, Seen};
use super::recorder::ExecutionRecorder;
use super::share::Shared;
use super::slots::{Slots, Wanted};
use crate::decide::admission::{Admission, Admitted};
use crate::decide::attempt::{Attempts, Next, Outcome, Pause};
use crate::decide::backoff::Backoff;
use crate::decide::gathering::HandOver;
use crate::decide::reservation::Granted;
use crate::decide::script::Requirement;
use crate::decide::tick;
use crate::error::Error;
use crate::event::{Event, FailReason, SqlState};
use crate::pg::Failure;
use crate::settings::{PlanShortfall, Policy, Settings};

/// Between two looks at a pool that has no room.
const ADMISSION_INTERVAL: Duration = Duration::from_millis(20);
/// Between two tries to gather what is guaranteed, where nothing can be held.
const NOTHING_HELD: Duration = Duration::from_secs(1);
/// How long one look may take where nobody waits for room.
const LOOK: Duration = Duration::from_secs(1);

/// What an execution came to.
pub(crate) struct Driven<T> {
    pub(crate) outcome: Outcome,
    pub(crate) value: Option<T>,
    /// Set when the value is handed over unfinished.
    pub(crate) open: Option<OpenAttempt>,
}

/// Drives an execution to its end, within the deadline and unless it is stopped.
pub(crate) async fn drive<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Driven<S::Value>, Error> {
    let (target, minimum) = (settings.target_workers, settings.minimum());
    recorder.observe(&Event::ExecutionStarted { target, minimum, max_attempts: settings.max_attempts });
    let committing = Committing::new(settings.cancel_grace);
    let interrupted = interrupted(settings, recorder.started(), stop, &committing);
    let driven = tokio::select! {
        biased;
        driven = attempts(executor, recorder, settings, &committing) => driven,
        error = interrupted => Err(error),
    };
    match driven {
        Ok(driven) if driven.open.is_some() => Ok(driven),
        Ok(driven) => {
            let end =
                if driven.outcome.is_accepted() { Ok(driven.outcome) } else { Err(FailReason::BelowMinimum) };
            recorder.end(end);
            Ok(driven)
        }
        Err(error) => {
            recorder.stop_clock();
            let cleared = cleared(executor, settings).await;
            recorder.fail(fail_reason(&error), &error);
            let error = error.with_history(recorder.execution(Outcome::BelowMinimum, None));
            let error = error.with_processes_left(cleared.left);
            Err(match cleared.cleanup {
                Ok(()) => error,
                Err(failure) => error.with_cleanup_failure(&failure),
            })
        }
    }
}

/// Waits for the deadline or a stop, and for the end of a COMMIT under way.
async fn interrupted(
    settings: &Settings,
    began: Instant,
    stop: &CancellationToken,
    committing: &Committing,
) -> Error {
    let error = tokio::select! {
        error = expired(settings.deadline, began) => error,
        () = stop.cancelled() => Error::stopped(),
    };
    committing.over().await;
    error
}

async fn expired(deadline: Option<Duration>, began: Instant) -> Error {
    match deadline {
        Some(deadline) => {
            sleep_until(began + deadline).await;
            Error::deadline(deadline)
        }
        None => std::future::pending().await,
    }
}

async fn attempts<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    committing: &Committing,
) -> Result<Driven<S::Value>, Error> {
    recorder.wait_to_start();
    executor.connect(recorder).await?;
    recorder.stop_waiting(Instant::now());
    let capacity = inspect(executor, recorder, settings).await?;
    let mut attempts =
        Attempts::new(settings.target_workers, settings.minimum(), settings.max_attempts, settings.spacing());
    if let Some(target) = lowered(executor, recorder, settings, &capacity).await? {
        attempts = attempts.lowered_to(target);
    }
    let mut plan = Shared::unlimited(capacity.clone());
    let mut lost: Option<SqlState> = None;
    let mut pause = Pause::UntilRoom;
    let mut resume = Resume::default();
    loop {
        let idle_since = Instant::now();
        if let Pause::For(delay) = pause {
            sleep(delay).await;
        }
        let ready = make_room(executor, recorder, settings, &capacity, plan, &mut attempts).await?;
        let Some(Ready { plan: within, reserved, free, held }) = ready else {
            return Ok(Driven { outcome: Outcome::BelowMinimum, value: None, open: None });
        };
        plan = within;
        let (number, required) = attempts.begin();
        if number > 1 {
            recorder.observe(&Event::RetryDelayed {
                attempt: number,
                waited: idle_since.elapsed().saturating_sub(reserved),
            });
        }
        let span = executor.span(number);
        let (target, minimum) = (attempts.target(), attempts.minimum());
        let requirement = Requirement { required, target, minimum };
        let course = Course {
            settings,
            capacity: &plan.capacity.with_held(held),
            number,
            requirement,
            attempts: &attempts,
            free,
            resume: &resume,
            committing,
        };
        let played = play(executor, recorder, &course, &mut lost).instrument(span).await?;
        let Played { ended, value, failure, pool_seen, open, resume: next } = played;
        resume = next;
        if let Some(sqlstate) =
            failure.as_ref().filter(|f| f.is_connection_lost()).and_then(Failure::event_sqlstate)
        {
            recorder.observe(&Event::SessionLost { sqlstate });
            lost = Some(sqlstate);
        }
        // Without admission nothing would wait for a pool that is seen to be full.
        let admission_sees = pool_seen && !settings.admission_wait.is_zero();
        match attempts.on_ended(ended, admission_sees, fastrand::f64()) {
            Next::Accept(outcome) => return Ok(Driven { outcome, value, open }),
            Next::Retry(next) => pause = next,
            Next::BelowMinimum => {
                if resume.from > 0 {
                    give_up(executor, recorder, settings, number).await?;
                }
                return Ok(Driven { outcome: Outcome::BelowMinimum, value: None, open: None });
            }
            Next::Fail => {
                let failure = failure.unwrap_or_else(|| Failure::lost("no attempt is left"));
                return Err(Error::sql("the statement", failure));
            }
        }
    }
}

/// What ran before the statement that was rejected last is rolled back, too.
async fn give_up<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    attempt: u32,
) -> Result<(), Error> {
    undo(executor, recorder, settings, attempt).await.map_err(Error::uncleaned)
}

/// Learns what plan and server allow. A server that is away is asked again, as often as an attempt
/// would be made.
pub(super) async fn inspect<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
) -> Result<PlanCapacity, Error> {
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let asked = Instant::now();
        match executor.inspect(recorder).await {
            Err(error) if error.is_retryable() && tries < settings.max_attempts => {
                let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                recorder.observe(&Event::StartHindered { cause, waited: began.elapsed() });
                let backoff = Backoff::patient(settings.retry_delay, error.needs_longer());
                sleep(backoff.delay(tries, fastrand::f64())).await;
            }
            Err(error) => return Err(error),
            Ok(capacity) => {
                recorder.observe(&Event::PlanInspected { planned: capacity.planned, took: asked.elapsed() });
                return Ok(capacity);
            }
        }
    }
}

/// What the caller accepts in place of the target when plan and pool cannot reach it; `None` where they can.
async fn lowered<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    capacity: &PlanCapacity,
) -> Result<Option<u32>, Error> {
    let target = settings.target_workers;
    if settings.ignores_shortfall() {
        return Ok(None);
    }
    let refuses = settings.plan_shortfall == PlanShortfall::Refuse && settings.minimum() > 0;
    if refuses && capacity.is_short_of(target) {
        executor.check_capacity(capacity, target, recorder).await?;
    }
    let Some(most) = capacity.most().filter(|&most| most < target) else { return Ok(None) };
    let asked = Instant::now();
    match executor.check_capacity(capacity, target, recorder).await {
        // Functions may have workers that the plan does not show.
        Ok(()) => Ok(None),
        Err(error) if error.refusal().is_none() => Err(error),
        Err(error) => {
            let cause = error.to_string();
            let cause = cause.strip_prefix("refused before running: ").unwrap_or(&cause).to_owned();
            recorder.observe(&Event::TargetLowered { target: most, cause, took: asked.elapsed() });
            Ok(Some(most))
        }
    }
}

/// What the next attempt starts with.
struct Ready {
    /// The plan within the slots.
    plan: Shared,
    /// How long it took to get them.
    reserved: Duration,
    /// Workers that could have started at the last look.
    free: Option<u32>,
    /// Slots that are held for it until it has its workers: its ceiling is higher by as many.
    held: u32,
}

/// Waits for what the next attempt needs: slots, if any are asked for, and room in the pool; `None` when there were no
/// slots.
async fn make_room<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    capacity: &PlanCapacity,
    mut plan: Shared,
    attempts: &mut Attempts,
) -> Result<Option<Ready>, Error> {
    let mut reserved = Duration::ZERO;
    loop {
        let reserving = Instant::now();
        let wanted = Wanted { plan: capacity.plan_workers(), target: attempts.target() };
        if let Some(grant) = executor.slots().reserve(wanted, recorder).await? {
            if grant.end == Granted::GaveUp {
                return Ok(None);
            }
            plan = match plan.under(grant, executor, recorder, (settings, attempts.minimum())).await {
                Ok(plan) => plan,
                // More slots make another plan, and there is time left to wait for them.
                Err(error)
                    if error.refusal().is_some()
                        && grant.end == Granted::Degraded
                        && executor.slots().insist() =>
                {
                    plan = Shared::unlimited(capacity.clone());
                    reserved += reserving.elapsed();
                    continue;
                }
                Err(error) => return Err(error),
            };
            attempts.within(plan.required(grant.taken));
        }
        reserved += reserving.elapsed();
        let next = attempts.current() + 1;
        let required = attempts.required(next);
        let minimum = if settings.ignores_shortfall() { 0 } else { attempts.minimum() };
        let admission =
            Admission::new(required, settings.admission_wait).with_wish(plan.capacity.at_once(required));
        let admission = if next > 1 { admission.after_an_attempt() } else { admission };
        let admission = admission.with_floor(minimum.min(required));
        let admitted = admit(executor, recorder, settings, next, admission, &plan.capacity).await?;
        let Some((free, held)) = admitted else { return Ok(None) };
        // Others may have taken the slots while it waited for room.
        if !executor.slots().are_lost() {
            return Ok(Some(Ready { plan, reserved, free, held }));
        }
    }
}

/// Waits until there is room for what the plan can have at once, at most `admission_wait`, or gathers it. Returns how many
/// workers could have started at the last look, if there was one, and how many slots are held while it starts; `None` where
/// what is guaranteed could not be gathered.
async fn admit<S: Executor>(
    executor: &mut S,
    recorder: &mut ExecutionRecorder,
    settings: &Settings,
    attempt: u32,
    mut admission: Admission,
    capacity: &PlanCapacity,
) -> Result<Option<(Option<u32>, u32)>, Error> {
    let required = admission.required();
    executor.ungather().await;
    if required == 0 || settings.policy == Policy::Classic {
        return Ok(Some((None, 0)));
    }
    let room = |observation| match observation {
        Observation::Seen(Seen { pool, processes, autovacuum, .. }) => (
            pool.map(|pool| capacity.resize(pool)),
            processes.map(|all| if capacity.raised { settings.left_of(all) } else { all }),
            autovacuum,
        ),
        Observation::Blind => (None, None, 0),
    };
    let began = Instant::now();
    let mut watch = executor.watch_pool(ADMISSION_INTERVAL);
    if settings.admission_wait.is_zero() {
        let Ok(look) = timeout(LOOK, watch.next()).await else { return Ok(Some((None, 0))) };
        let (pool, processes, _) = room(look);
        return Ok(Some((tick::free(pool, processes), 0)));
    }
    let (mut announced, mut gathers) = (false, capacity.gathers_slots);
    loop {
        let (pool, processes, autovacuum) = room(watch.next().await);
        let waited = began.elapsed();
        let end = admission.on_look(waited, pool, processes);
        if let (false, Some(end)) = (gathers, end) {
            recorder.observe(&Event::AdmissionEnded { attempt, waited, end, pool, processes });
            return Ok(Some((tick::free(pool, processes), 0)));
        }
        if let (false, true, Some(pool)) = (announced, admission.lacks_room(), pool) {
            recorder.observe(&Event::AdmissionStarted { attempt, required, pool, processes, autovacuum });
            announced = true;
        }
        if gathers {
            let (pool_size, need) = (capacity.pool_size, capacity.to_gather(required));
            let need = pool_size.map_or(need, |size| need.min(size.max(required)));
            let wish = Wish { attempt, need, enough: required, pool: pool_size, leader: 0 };
            recorder.wait_for_room();
            let left = settings.admission_wait.saturating_sub(waited);
            let gathered = executor.gather(wish, left).await?;
            let waited = began.elapsed();
            let (end, free, held) = match gathered {
                Gathered::Held(slots, HandOver::WhileHeld) => (Admitted::Gathered, Some(slots), slots),
                Gathered::Held(slots, _) => (Admitted::Gathered, Some(slots), 0),
                Gathered::Nothing if !settings.guarantee => {
                    gathers = false;
                    continue;
                }
                Gathered::Nothing if waited < settings.admission_wait => {
                    sleep(NOTHING_HELD).await;
                    continue;
                }
                Gathered::Nothing | Gathered::TimedOut => (Admitted::TimedOut, None, 0),
            };
            recorder.gathered(free.unwrap_or(0));
            recorder.observe(&Event::AdmissionEnded { attempt, waited, end, pool, processes });
            if free.is_none() && settings.guarantee {
                recorder.stop_waiting(Instant::now());
                return Ok(None);
            }
            return Ok(Some((free, held)));
        }
    }
}

/// What a run without a result is counted under.
pub(super) fn fail_reason(error: &Error) -> FailReason {
    if error.is_configuration() {
        FailReason::Configuration
    } else if error.refusal().is_some() {
        FailReason::Refused
    } else if error.is_deadline() {
        FailReason::Deadline
    } else if error.is_stopped() {
        FailReason::Interrupted
    } else if error.is_in_doubt() {
        FailReason::InDoubt
    } else if error.is_connection_lost() {
        FailReason::Connection
    } else {
        FailReason::Sql
    }
}
