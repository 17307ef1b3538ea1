//! One guarded execution: attempts until one is kept, none is left, or one fails for good.

use std::error::Error as _;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::attempt::{OpenAttempt, Played, play};
use super::clearing::cleared;
use super::committing::Committing;
use super::ledger::Ledger;
use super::monitor::Sight;
use super::share::Shared;
use super::stage::{Reach, Stage};
use crate::decide::admission::Admission;
use crate::decide::attempt::{Attempts, Next, Outcome, Pause};
use crate::decide::backoff::Backoff;
use crate::decide::reservation::Granted;
use crate::error::Error;
use crate::event::{Event, FailReason, SqlState};
use crate::pg::Failure;
use crate::settings::{PlanShortfall, Policy, Settings};

/// Between two looks at a pool that has no room.
const ADMISSION_INTERVAL: Duration = Duration::from_millis(20);

/// What an execution came to.
pub(crate) struct Driven<T> {
    pub(crate) outcome: Outcome,
    pub(crate) value: Option<T>,
    /// Set when the value is handed over unfinished.
    pub(crate) open: Option<OpenAttempt>,
}

/// Drives an execution to its end, within the deadline and unless it is stopped.
pub(crate) async fn drive<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Driven<S::Value>, Error> {
    let (target, minimum) = (settings.target_workers, settings.minimum());
    ledger.observe(&Event::ExecutionStarted { target, minimum, max_attempts: settings.max_attempts });
    let committing = Committing::new(settings.cancel_grace);
    let interrupted = interrupted(settings, ledger.started(), stop, &committing);
    let driven = tokio::select! {
        biased;
        driven = attempts(stage, ledger, settings, &committing) => driven,
        error = interrupted => Err(error),
    };
    match driven {
        Ok(driven) if driven.open.is_some() => Ok(driven),
        Ok(driven) => {
            let end =
                if driven.outcome.is_accepted() { Ok(driven.outcome) } else { Err(FailReason::BelowMinimum) };
            ledger.end(end);
            Ok(driven)
        }
        Err(error) => {
            ledger.stop_clock();
            let cleared = cleared(stage, settings).await;
            ledger.fail(fail_reason(&error), &error);
            let error = error.with_history(ledger.execution(Outcome::BelowMinimum, None));
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

async fn attempts<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    settings: &Settings,
    committing: &Committing,
) -> Result<Driven<S::Value>, Error> {
    let reach = inspect(stage, ledger, settings).await?;
    let target = bar_within_reach(stage, ledger, settings, &reach).await?;
    let mut plan = Shared::unlimited(reach.clone());
    let mut attempts = Attempts::new(target, settings.minimum(), settings.max_attempts, settings.spacing());
    let mut lost: Option<SqlState> = None;
    let mut pause = Pause::UntilRoom;
    loop {
        let idle_since = Instant::now();
        if let Pause::For(delay) = pause {
            sleep(delay).await;
        }
        let ready = make_room(stage, ledger, settings, &reach, plan, &mut attempts).await?;
        let Some((within, reserved)) = ready else {
            return Ok(Driven { outcome: Outcome::BelowMinimum, value: None, open: None });
        };
        plan = within;
        let (number, bar) = attempts.begin();
        if number > 1 {
            ledger.observe(&Event::RetryDelayed {
                attempt: number,
                waited: idle_since.elapsed().saturating_sub(reserved),
            });
        }
        let span = stage.span(number);
        let playing = play(stage, ledger, settings, &plan.reach, (number, bar), &mut lost, committing);
        let played = playing.instrument(span).await?;
        let Played { ended, value, failure, pool_seen, open } = played;
        if let Some(sqlstate) =
            failure.as_ref().filter(|f| f.is_connection_lost()).and_then(Failure::event_sqlstate)
        {
            ledger.observe(&Event::SessionLost { sqlstate });
            lost = Some(sqlstate);
        }
        // Without admission nothing would wait for a pool that is seen to be full.
        let admission_sees = pool_seen && !settings.admission_wait.is_zero();
        match attempts.on_ended(ended, admission_sees, fastrand::f64()) {
            Next::Accept(outcome) => return Ok(Driven { outcome, value, open }),
            Next::Retry(next) => pause = next,
            Next::BelowMinimum => {
                return Ok(Driven { outcome: Outcome::BelowMinimum, value: None, open: None });
            }
            Next::Fail => {
                let failure = failure.unwrap_or_else(|| Failure::lost("no attempt is left"));
                return Err(Error::sql("the statement", failure));
            }
        }
    }
}

/// Learns what plan and server allow. A server that is away is asked again, as often as an attempt
/// would be made.
pub(super) async fn inspect<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    settings: &Settings,
) -> Result<Reach, Error> {
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        match stage.inspect(ledger).await {
            Err(error) if error.is_retryable() && tries < settings.max_attempts => {
                let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                ledger.observe(&Event::StartHindered { cause, waited: began.elapsed() });
                let backoff = Backoff::patient(settings.retry_delay, error.needs_longer());
                sleep(backoff.delay(tries, fastrand::f64())).await;
            }
            Err(error) => return Err(error),
            Ok(reach) => {
                if let Some(planned) = reach.planned {
                    ledger.observe(&Event::PlanInspected { planned });
                }
                return Ok(reach);
            }
        }
    }
}

/// The target, or what the caller accepts in its place when plan and pool cannot reach it.
async fn bar_within_reach<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    settings: &Settings,
    reach: &Reach,
) -> Result<u32, Error> {
    let target = settings.target_workers;
    let Some(most) = reach.most().filter(|&most| most < target) else { return Ok(target) };
    match settings.plan_shortfall {
        _ if settings.policy == Policy::Classic => return Ok(target),
        PlanShortfall::Ignore => return Ok(target),
        PlanShortfall::Refuse => stage.check_reach(reach, target, ledger).await?,
        PlanShortfall::Lower if most < settings.minimum() => {
            stage.check_reach(reach, settings.minimum(), ledger).await?;
        }
        PlanShortfall::Lower => match stage.check_reach(reach, target, ledger).await {
            Err(error) if error.refusal().is_none() => return Err(error),
            Err(_) => {
                ledger.observe(&Event::TargetLowered { target: most });
                return Ok(most);
            }
            Ok(()) => {}
        },
    }
    Ok(target)
}

/// Waits for what the next attempt needs: slots, if any are asked for, and room in the pool. The plan within the
/// slots, and the time that it took to get them; `None` when there were none.
async fn make_room<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    settings: &Settings,
    reach: &Reach,
    mut plan: Shared,
    attempts: &mut Attempts,
) -> Result<Option<(Shared, Duration)>, Error> {
    let mut reserved = Duration::ZERO;
    loop {
        let reserving = Instant::now();
        if let Some(grant) = stage.reserve(reach.launch(), attempts.target(), ledger).await? {
            if grant.end == Granted::GaveUp {
                return Ok(None);
            }
            plan = match plan.under(grant, stage, ledger, settings).await {
                Ok(plan) => plan,
                // More slots make another plan, and there is time left to wait for them.
                Err(error)
                    if error.refusal().is_some() && grant.end == Granted::Degraded && stage.insist() =>
                {
                    plan = Shared::unlimited(reach.clone());
                    reserved += reserving.elapsed();
                    continue;
                }
                Err(error) => return Err(error),
            };
            attempts.within(plan.bar(grant.taken));
        }
        reserved += reserving.elapsed();
        let next = attempts.current() + 1;
        admit(stage, ledger, settings, next, attempts.bar(next), &plan.reach).await;
        // Others may have taken the slots while it waited for room.
        if !stage.has_lost_slots() {
            return Ok(Some((plan, reserved)));
        }
    }
}

/// Waits until the pool has room for the bar, at most `admission_wait`.
async fn admit<S: Stage>(
    stage: &S,
    ledger: &mut Ledger,
    settings: &Settings,
    attempt: u32,
    bar: u32,
    reach: &Reach,
) {
    if bar == 0 || settings.admission_wait.is_zero() || settings.policy == Policy::Classic {
        return;
    }
    // Who ignores what the pool cannot give is not to wait for it.
    let minimum = if settings.plan_shortfall == PlanShortfall::Ignore { 0 } else { settings.minimum() };
    let admission = Admission::new(bar, settings.admission_wait).with_floor(minimum.min(bar));
    let began = Instant::now();
    let mut watch = stage.watch_pool(ADMISSION_INTERVAL);
    let mut announced = false;
    loop {
        let pool = match watch.next().await {
            Sight::Seen { pool, .. } => pool.map(|pool| reach.resize(pool)),
            Sight::Blind => None,
        };
        let waited = began.elapsed();
        if let Some(end) = admission.on_look(waited, pool) {
            ledger.observe(&Event::AdmissionEnded { attempt, waited, end, pool });
            return;
        }
        if let (false, Some(pool)) = (announced, pool) {
            ledger.observe(&Event::AdmissionStarted { attempt, bar, pool });
            announced = true;
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
