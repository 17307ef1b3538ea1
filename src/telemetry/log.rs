//! Log lines, after those of the Java executor that Headcount replaces.
//!
//! The level says who must act. ERROR: gave up, or lost work. WARN: something went wrong and was
//! dealt with. INFO: started, verdict, finished. DEBUG: attempts. TRACE: ticks. Fields first, then a
//! constant sentence, so that a line can be searched for by its words. The first line of a run names its
//! trace, where there is one.

use std::time::Duration;

use tracing::{Span, debug, error, info, trace, warn};

use super::{TARGET, leader_word, traceparent_of};
use crate::decide::admission::Admitted;
use crate::decide::attempt::Outcome;
use crate::decide::reservation::{Granted, Slots};
use crate::decide::verdict::{Pool, Verdict};
use crate::event::{
    AttemptEnd, AttemptFacts, CancelResult, ChunkEnd, ChunkFacts, Event, ExecutionFacts, Observer,
    Resolution, Scope, SqlState, UpdateFacts, UpdateOutcome,
};

/// Writes each event as a line to the process's `tracing` subscriber, target `headcount`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl Observer for Log {
    #[allow(clippy::too_many_lines, reason = "a table: one arm an event")]
    fn observe(&self, scope: &Scope, event: &Event) {
        let task = &*scope.task;
        match event {
            Event::ExecutionStarted { target, minimum, max_attempts } => {
                let traceparent = traceparent_of(&Span::current());
                info!(target: TARGET, task, target_workers = target, min_workers = minimum, max_attempts, traceparent, "started");
            }
            Event::TargetLowered { target, cause, .. } => {
                warn!(target: TARGET, task, target_workers = target, cause, "target lowered to what the plan can have");
            }
            Event::StartHindered { cause, waited } => {
                let waited_seconds = waited.as_secs_f64();
                warn!(target: TARGET, task, cause, waited_seconds, "cannot start yet; trying again");
            }
            Event::PlanBlocked { pid, by, waited } => {
                let waited_seconds = waited.as_secs_f64();
                info!(target: TARGET, task, pid, blocked_by = by, waited_seconds, "inspecting the plan waits for a lock");
            }
            Event::UpdateBlocked { pid, by, waited } => {
                let waited_seconds = waited.as_secs_f64();
                warn!(target: TARGET, task, pid, blocked_by = by, waited_seconds, "the update waits for a lock");
            }
            Event::BackendEngaged { pid, backend_start: _ } => {
                trace!(target: TARGET, task, pid, "backend engaged");
            }
            Event::BackendReleased { pid, backend_start: _ } => {
                trace!(target: TARGET, task, pid, "backend released");
            }
            Event::PlanInspected { planned, took } => {
                let took_seconds = took.as_secs_f64();
                debug!(target: TARGET, task, planned_workers = planned, took_seconds, "plan inspected");
            }
            Event::RungTaken { rung, ceiling, asked } => {
                let (rung, ceiling, given) = (rung.as_str(), ceiling.workers, ceiling.given);
                if asked.is_some() && ceiling <= given {
                    warn!(target: TARGET, task, rung, ceiling, "the ceiling could not be raised");
                } else {
                    debug!(target: TARGET, task, rung, ceiling, given, "what bounds the workers is known");
                }
            }
            Event::ReservationQueued { demand, ahead, waited } => {
                let waited_seconds = waited.as_secs_f64();
                info!(target: TARGET, task, demand, ahead, waited_seconds, "waiting in the queue for slots");
            }
            Event::ReservationShort { demand, again, slots, waited } => {
                let Slots { size, held, outsiders, .. } = slots;
                let waited_seconds = waited.as_secs_f64();
                if *again {
                    debug!(target: TARGET, task, demand, held, outsiders, size, waited_seconds, "still at the head of the queue");
                } else if slots.are_too_few_for(*demand) {
                    warn!(target: TARGET, task, minimum = demand, size, waited_seconds, "at the head of the queue, the pool is smaller than the minimum");
                } else {
                    info!(target: TARGET, task, demand, held, outsiders, size, waited_seconds, "at the head of the queue, waiting for free slots");
                }
            }
            Event::ReservationHindered { cause, waited } => {
                let waited_seconds = waited.as_secs_f64();
                warn!(target: TARGET, task, cause, waited_seconds, "slots cannot be asked for; trying again");
            }
            Event::ReservationEnded { demand, taken, end, waited, slots, .. } => {
                reservation_ended(task, *demand, *taken, *end, *waited, *slots);
            }
            Event::ReservationKept { taken } => {
                warn!(target: TARGET, task, taken, "slots are kept until the workers are gone");
            }
            Event::ReservationReleased { taken, held, early } => {
                let held_seconds = held.as_secs_f64();
                if *early {
                    warn!(target: TARGET, task, taken, held_seconds, "slots given back although workers are still there");
                } else {
                    debug!(target: TARGET, task, taken, held_seconds, "slots given back");
                }
            }
            Event::ReservationLost { taken } => {
                warn!(target: TARGET, task, taken, "slots lost with their connection");
            }
            Event::AdmissionStarted { attempt, required, pool, processes, autovacuum } => {
                let Pool { used, size } = pool;
                let free_processes = processes.map(Pool::free);
                debug!(target: TARGET, task, attempt, required_workers = required, pool_used = used, pool_size = size, free_processes, autovacuum, "waiting for room in the pool");
            }
            Event::AdmissionEnded { attempt, waited, end, .. } => {
                admitted(task, *attempt, *waited, *end);
            }
            Event::GatheringStarted { attempt, need } => {
                info!(target: TARGET, task, attempt, need, "gathering slots");
            }
            Event::SlotsHeld { attempt, held, need, before: _ } => {
                debug!(target: TARGET, task, attempt, held, need, "slots held");
            }
            Event::GatheringEnded { attempt, need, held, end, took, idle } => {
                let (end, took_seconds, idle_seconds) =
                    (end.as_str(), took.as_secs_f64(), idle.as_secs_f64());
                info!(target: TARGET, task, attempt, need, held, end, took_seconds, idle_seconds, "gathering is over");
            }
            Event::AttemptStarted { attempt, max_attempts, required, pid, backend_start: _ } => {
                debug!(target: TARGET, task, attempt, max_attempts, required_workers = required, pid, "attempt started");
            }
            Event::TickTaken { attempt, required, tick, pids } => {
                let (pool_used, pool_size) =
                    (tick.pool.map(|pool| pool.used), tick.pool.map(|pool| pool.size));
                trace!(target: TARGET, task, attempt, required_workers = required, workers = tick.workers, leader = leader_word(tick.leader),
                    ?pids, pool_used, pool_size, at_seconds = tick.at.as_secs_f64(), "workers seen");
            }
            Event::VerdictReached { attempt, statement, required, verdict, workers, after } => {
                verdict_reached(task, (*attempt, *statement), *required, *verdict, *workers, *after);
            }
            Event::LaunchShort { attempt, statement, short, after } => {
                let (reason, workers, needed) = (short.reason.as_str(), short.got, short.needed);
                let after_seconds = after.as_secs_f64();
                warn!(target: TARGET, task, attempt, statement, workers, needed, reason, after_seconds, "a later launch had too few workers");
            }
            Event::CancelAnswered { attempt, method, result } => {
                let (method, result) = (method.as_str(), *result);
                match result {
                    CancelResult::Sent => debug!(target: TARGET, task, attempt, method, "cancelled"),
                    CancelResult::Missed => {
                        debug!(target: TARGET, task, attempt, method, "nothing left to cancel");
                    }
                    CancelResult::Failed => {
                        warn!(target: TARGET, task, attempt, method, "could not cancel");
                    }
                    CancelResult::Denied => {
                        warn!(target: TARGET, task, attempt, method, "the monitor's role may not cancel (pg_signal_backend)");
                    }
                }
            }
            Event::WorkersDrained { attempt, waited, left } => {
                let waited_seconds = waited.as_secs_f64();
                if *left == 0 {
                    debug!(target: TARGET, task, attempt, waited_seconds, "workers are gone");
                } else {
                    warn!(target: TARGET, task, attempt, waited_seconds, left, "workers are still there");
                }
            }
            Event::CleanupEnded { attempt, took, ok } => {
                let took_seconds = took.as_secs_f64();
                if *ok {
                    debug!(target: TARGET, task, attempt, took_seconds, "cleaned up");
                } else {
                    error!(target: TARGET, task, attempt, took_seconds, "cleanup failed");
                }
            }
            Event::AttemptEnded(facts) => attempt_ended(task, facts),
            Event::RetryDelayed { attempt, waited } => {
                debug!(target: TARGET, task, attempt, waited_seconds = waited.as_secs_f64(), "retrying");
            }
            Event::SessionLost { sqlstate } => {
                warn!(target: TARGET, task, sqlstate = sqlstate.as_str(), "connection lost");
            }
            Event::SessionRestored { sqlstate } => {
                warn!(target: TARGET, task, sqlstate = sqlstate.as_str(), "connected again");
            }
            Event::CommitInDoubt => warn!(target: TARGET, task, "commit in doubt"),
            Event::CommitResolved { resolution } => {
                let word = resolution.as_str();
                match resolution {
                    Resolution::Committed | Resolution::Aborted | Resolution::Reread => {
                        warn!(target: TARGET, task, resolution = word, "commit resolved");
                    }
                    Resolution::Unresolved => {
                        error!(target: TARGET, task, resolution = word, "commit still in doubt");
                    }
                    Resolution::Unreplicated => {
                        warn!(target: TARGET, task, resolution = word, "committed, but perhaps not on a synchronous standby");
                    }
                }
            }
            Event::MonitorPolled { took, .. } => {
                trace!(target: TARGET, task, took_seconds = took.as_secs_f64(), "monitor polled");
            }
            Event::MonitorStarted { .. } => debug!(target: TARGET, task, "monitor connected"),
            Event::MonitorLost { cause } => {
                warn!(target: TARGET, task, cause, "monitor lost its connection");
            }
            Event::MonitorRestored { blind_for } => {
                warn!(target: TARGET, task, blind_seconds = blind_for.as_secs_f64(), "monitor connected again");
            }
            Event::ExecutionEnded(facts) => execution_ended(task, facts),
            Event::UpdateStarted { connections, keys } => {
                let traceparent = traceparent_of(&Span::current());
                info!(target: TARGET, task, connections, keys, traceparent, "update started");
            }
            Event::ChunkEnded(facts) => chunk_ended(task, facts),
            Event::UpdateEnded(facts) => update_ended(task, facts),
        }
    }
}

fn reservation_ended(
    task: &str,
    demand: u32,
    taken: u32,
    end: Granted,
    waited: Duration,
    slots: Option<Slots>,
) {
    let (held, outsiders) = (slots.map(|slots| slots.held), slots.and_then(|slots| slots.outsiders));
    let waited_seconds = waited.as_secs_f64();
    match end {
        Granted::Full => info!(target: TARGET, task, taken, waited_seconds, "slots reserved"),
        Granted::Degraded => {
            warn!(target: TARGET, task, demand, taken, held, outsiders, waited_seconds, "fewer slots reserved than demanded");
        }
        Granted::GaveUp if slots.is_some_and(|slots| slots.are_too_few_for(demand)) => {
            let size = slots.map(|slots| slots.size);
            warn!(target: TARGET, task, minimum = demand, size, waited_seconds, "no slots within the longest wait: the pool is smaller than the minimum");
        }
        Granted::GaveUp => {
            warn!(target: TARGET, task, demand, held, outsiders, waited_seconds, "no slots within the longest wait");
        }
        Granted::Interrupted => {
            warn!(target: TARGET, task, demand, held, outsiders, waited_seconds, "left the queue for slots");
        }
    }
}

fn admitted(task: &str, attempt: u32, waited: Duration, end: Admitted) {
    let waited_seconds = waited.as_secs_f64();
    match end {
        Admitted::Room => debug!(target: TARGET, task, attempt, waited_seconds, "the pool has room"),
        Admitted::Gathered => info!(target: TARGET, task, attempt, waited_seconds, "slots gathered"),
        Admitted::Unseen => debug!(target: TARGET, task, attempt, waited_seconds, "the pool cannot be seen"),
        Admitted::TimedOut => {
            warn!(target: TARGET, task, attempt, waited_seconds, "the pool still has too little room; starting all the same");
        }
    }
}

fn verdict_reached(
    task: &str,
    (attempt, statement): (u32, Option<u32>),
    required: u32,
    verdict: Verdict,
    workers: u32,
    after: Duration,
) {
    let after_seconds = after.as_secs_f64();
    match verdict {
        Verdict::Enough => {
            info!(target: TARGET, task, attempt, statement, required_workers = required, workers, after_seconds, "enough workers");
        }
        Verdict::Short(reason) => {
            let reason = reason.as_str();
            warn!(target: TARGET, task, attempt, statement, required_workers = required, workers, reason, after_seconds, "too few workers");
        }
        Verdict::FinishedEarly => {
            info!(target: TARGET, task, attempt, statement, required_workers = required, workers, after_seconds, "finished before the verdict");
        }
        Verdict::Unverified => {
            warn!(target: TARGET, task, attempt, statement, required_workers = required, workers, after_seconds, "finished while the monitor was blind");
        }
    }
}

fn attempt_ended(task: &str, facts: &AttemptFacts) {
    let AttemptFacts { attempt, required, end, workers, ran, .. } = *facts;
    let ran_seconds = ran.as_secs_f64();
    match end {
        AttemptEnd::Accepted(verdict) => {
            let verdict = verdict.as_str();
            debug!(target: TARGET, task, attempt, required_workers = required, workers, verdict, ran_seconds, "attempt accepted");
        }
        AttemptEnd::Rejected(reason) => {
            let reason = reason.as_str();
            debug!(target: TARGET, task, attempt, required_workers = required, workers, reason, ran_seconds, "attempt rejected");
        }
        AttemptEnd::Failed(sqlstate) => {
            let sqlstate = sqlstate.as_ref().map(SqlState::as_str);
            warn!(target: TARGET, task, attempt, required_workers = required, workers, sqlstate, ran_seconds, "attempt failed");
        }
    }
}

fn execution_ended(task: &str, facts: &ExecutionFacts) {
    let ExecutionFacts { end, target, minimum, achieved, attempts, .. } = *facts;
    let sqlstate = facts.cause.as_ref().and_then(|cause| cause.sqlstate.as_ref()).map(SqlState::as_str);
    let cause = facts.cause.as_ref().map(|cause| cause.message.as_str());
    // One list of fields for the three levels of the end.
    macro_rules! line {
        ($level:ident, $outcome:expr, $sentence:literal) => {
            $level!(target: TARGET, task, outcome = $outcome.as_str(), sqlstate, error = cause, target_workers = target,
                min_workers = minimum, best = achieved, attempts, took_seconds = facts.took.as_secs_f64(),
                waited_seconds = facts.waited.as_secs_f64(), wasted_seconds = facts.wasted.as_secs_f64(), $sentence)
        };
    }
    match end {
        Ok(outcome) if !outcome.is_accepted() => line!(error, outcome, "gave up below the minimum"),
        Ok(outcome @ Outcome::FinishedShort) => line!(error, outcome, "finished below the minimum"),
        Ok(outcome @ Outcome::Lowered) => line!(warn, outcome, "finished with what the plan could have"),
        Ok(outcome) if achieved >= target => line!(info, outcome, "finished on target"),
        Ok(outcome) => line!(warn, outcome, "finished below the target"),
        Err(reason) => line!(error, reason, "gave up"),
    }
}

fn chunk_ended(task: &str, facts: &ChunkFacts) {
    let ChunkFacts { chunk, attempt, end, size, took, .. } = *facts;
    let (took_seconds, keys) = (took.as_secs_f64(), facts.keys.as_deref());
    match end {
        ChunkEnd::Committed => {
            debug!(target: TARGET, task, chunk, attempt, size, took_seconds, "chunk committed");
        }
        ChunkEnd::Retried(sqlstate) => {
            let sqlstate = sqlstate.as_str();
            warn!(target: TARGET, task, chunk, attempt, size, keys, sqlstate, took_seconds, "chunk is tried again");
        }
        ChunkEnd::Failed(sqlstate) => {
            let sqlstate = sqlstate.as_str();
            error!(target: TARGET, task, chunk, attempt, size, keys, sqlstate, took_seconds, "chunk given up");
        }
    }
}

fn update_ended(task: &str, facts: &UpdateFacts) {
    let UpdateFacts { complete, outcome, never_began, rows, chunks, failed_chunks, took, .. } = *facts;
    let sqlstate = facts.cause.as_ref().and_then(|cause| cause.sqlstate.as_ref()).map(SqlState::as_str);
    let error = facts.cause.as_ref().map(|cause| cause.message.as_str());
    if let Some(reason) = never_began {
        let (reason, took_seconds) = (reason.as_str(), took.as_secs_f64());
        error!(target: TARGET, task, reason, sqlstate, error, took_seconds, "update could not begin");
        return;
    }
    macro_rules! line {
        ($level:ident, $sentence:literal) => {
            $level!(target: TARGET, task, outcome = outcome.as_str(), updated = rows.updated, already = rows.already,
                stale = rows.stale, missing = rows.missing, failed = rows.failed, chunks, failed_chunks, sqlstate, error,
                took_seconds = took.as_secs_f64(), $sentence)
        };
    }
    match outcome {
        _ if complete => line!(info, "update finished"),
        UpdateOutcome::Empty => line!(error, "update had no keys"),
        UpdateOutcome::AllMissing => line!(error, "update found none of its keys"),
        UpdateOutcome::AllStale => line!(error, "update found no row as expected"),
        UpdateOutcome::SomeMissing => line!(error, "update did not find all of its keys"),
        UpdateOutcome::SomeStale => line!(error, "update did not find all rows as expected"),
        _ => line!(error, "update is incomplete"),
    }
}
