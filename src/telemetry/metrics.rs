//! Metrics: turns events into counters, gauges and histograms.
//!
//! The handles of a task are made once, by [`announce`](Observer::announce) or by its first event; after
//! that an event is a read lock, one hash of the task's name and an addition or two. Nothing is
//! allocated by us in steady state; the recorder behind may (the exporter's histograms take a block
//! of memory for every 64 samples between two scrapes).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use ::metrics::Recorder;

use super::handles::{ProcessHandles, Source, TaskHandles, unix_now};
use super::names::{Downgrade, SQLSTATE_CLASSES};
use crate::decide::attempt::Outcome;
use crate::decide::short_reason::ShortReason;
use crate::decide::verdict::Pool;
use crate::event::{
    AttemptFacts, ChunkEnd, ChunkFacts, Event, ExecutionFacts, FailReason, Observer, Scope, SqlState,
    UpdateFacts,
};

/// Counts events with a [`metrics`](::metrics) recorder. Shared by all tasks of a process.
pub struct Metrics {
    source: Source,
    process: ProcessHandles,
    tasks: RwLock<HashMap<Arc<str>, TaskHandles>>,
}

impl Metrics {
    /// Counts with the recorder that the process has installed by now. Without one nothing is
    /// counted: install it first.
    #[must_use]
    pub fn new() -> Self {
        Self::from_source(Source::Global)
    }

    /// Counts with this recorder, whatever the process has installed.
    #[must_use]
    pub fn with_recorder(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        Self::from_source(Source::Own(recorder))
    }

    fn from_source(source: Source) -> Self {
        source.describe_all();
        let process = ProcessHandles::new(&source);
        Self { source, process, tasks: RwLock::default() }
    }

    fn with_task(&self, scope: &Scope, count: impl FnOnce(&TaskHandles)) {
        {
            let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(task) = tasks.get(&scope.task) {
                return count(task);
            }
        }
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        let made = || TaskHandles::new(&self.source, &scope.task);
        count(tasks.entry(Arc::clone(&scope.task)).or_insert_with(made));
    }

    fn saw_pool(&self, pool: Option<Pool>) {
        if let Some(pool) = pool {
            let (used, size) = self.process.pool(&self.source);
            used.set(f64::from(pool.used));
            size.set(f64::from(pool.size));
        }
    }

    fn execution_ended(&self, task: &TaskHandles, facts: &ExecutionFacts) {
        let failed = match facts.end {
            Ok(outcome) if outcome.is_accepted() => None,
            Ok(_) => Some(FailReason::BelowMinimum),
            Err(reason) => Some(reason),
        };
        task.executions.increment(1);
        match failed {
            None => task.successful.increment(1),
            Some(reason) => task.failed.add(reason, 1),
        }
        if let Ok(outcome) = facts.end {
            task.outcomes.add(outcome, 1);
        } else if failed == Some(FailReason::BelowMinimum) {
            task.outcomes.add(Outcome::BelowMinimum, 1);
        }
        task.unjudged.increment(u64::from(facts.unjudged));
        if let Some(rung) = facts.rung {
            task.rungs.add(rung, 1);
        }
        if let Some(downgrade) = downgrade(facts) {
            task.downgrades.add(downgrade, 1);
        }
        task.attempts_used.record(f64::from(facts.attempts));
        task.achieved.record(f64::from(facts.achieved));
        task.duration.record(facts.took);

        let last = task.last_workers(&self.source);
        last.achieved.set(f64::from(facts.achieved));
        last.target.set(f64::from(facts.target));
        last.minimum.set(f64::from(facts.minimum));
        last.attempts.set(f64::from(facts.attempts));
        last.below_minimum.set(if failed == Some(FailReason::BelowMinimum) { 1.0 } else { 0.0 });
        last.finished_short.set(if facts.end == Ok(Outcome::FinishedShort) { 1.0 } else { 0.0 });
        last.lowered.set(if facts.lowered_to.is_some() { 1.0 } else { 0.0 });
        last.wasted.set(facts.wasted);
        self.run_ended(task, failed.is_none(), facts.took, facts.ended_at_unix);
    }

    fn update_ended(&self, task: &TaskHandles, facts: &UpdateFacts) {
        // One that only looks has done nothing of what the task is for.
        if !facts.dry_run {
            self.run_ended(task, facts.complete, facts.took, facts.ended_at_unix);
        }
    }

    fn run_ended(&self, task: &TaskHandles, ok: bool, took: std::time::Duration, at: f64) {
        let last = task.last_run(&self.source);
        last.timestamp.set(at);
        last.success.set(if ok { 1.0 } else { 0.0 });
        last.duration.set(took);
        if ok {
            task.last_success(&self.source).set(at);
        }
    }
}

impl Observer for Metrics {
    fn announce(&self, scope: &Scope) {
        self.with_task(scope, |_| ());
    }

    fn observe(&self, scope: &Scope, event: &Event) {
        match event {
            Event::ReservationEnded { taken, end, waited, .. } => {
                self.process.reserved(&self.source).increment(f64::from(*taken));
                self.with_task(scope, |task| {
                    task.reserved_wait.record(*waited);
                    task.reservations.add(*end, 1);
                });
            }
            Event::ReservationReleased { taken, .. } | Event::ReservationLost { taken } => {
                self.process.reserved(&self.source).decrement(f64::from(*taken));
            }
            Event::AdmissionStarted { pool, .. } => self.saw_pool(Some(*pool)),
            Event::AdmissionEnded { waited, pool, .. } => {
                self.saw_pool(*pool);
                self.with_task(scope, |task| task.admission.record(*waited));
            }
            Event::SlotsHeld { held, before, .. } => {
                self.process.gathered(&self.source).increment(f64::from(*held) - f64::from(*before));
            }
            Event::GatheringEnded { end, took, idle, .. } => self.with_task(scope, |task| {
                task.gatherings.add(*end, 1);
                task.gathering.record(*took);
                task.gathered_idle.record(*idle);
            }),
            Event::VerdictReached { verdict, after, .. } => self.with_task(scope, |task| {
                if let Some(seconds) = task.verdict.get(verdict.as_str()) {
                    seconds.record(*after);
                }
            }),
            Event::LaunchShort { short, .. } => {
                self.with_task(scope, |task| task.short_launches.add(short.reason, 1));
            }
            Event::CancelAnswered { method, result, .. } => self.process.cancels.add((*method, *result), 1),
            Event::CleanupEnded { ok, .. } => self.with_task(scope, |task| task.cleanups.add(*ok, 1)),
            Event::AttemptEnded(facts) => self.with_task(scope, |task| attempt_ended(task, facts)),
            Event::RetryDelayed { waited, .. } => {
                self.with_task(scope, |task| task.retry_delay.record(*waited));
            }
            Event::SessionRestored { sqlstate } => {
                self.with_task(scope, |task| task.reconnects.add(sqlstate_class(*sqlstate), 1));
            }
            Event::CommitResolved { resolution } => {
                self.with_task(scope, |task| task.in_doubt.add(*resolution, 1));
            }
            Event::MonitorPolled { took, pool } => {
                self.process.ticks_ok.increment(1);
                self.process.tick.record(*took);
                self.saw_pool(*pool);
            }
            // One before it may have ended without a connection.
            Event::MonitorStarted { .. } => self.process.blind_since.set(0.0),
            Event::MonitorLost { .. } => {
                self.process.ticks_lost.increment(1);
                self.process.blind_since.set(unix_now());
            }
            Event::MonitorRestored { blind_for } => {
                self.process.blind.record(*blind_for);
                self.process.blind_since.set(0.0);
            }
            Event::ExecutionEnded(facts) => self.with_task(scope, |task| self.execution_ended(task, facts)),
            Event::ChunkEnded(facts) => self.with_task(scope, |task| chunk_ended(task, facts)),
            Event::UpdateEnded(facts) => self.with_task(scope, |task| self.update_ended(task, facts)),
            // Counted by the events that end them: slots that are kept stay in the gauge until they are released.
            Event::ExecutionStarted { .. }
            | Event::ReservationQueued { .. }
            | Event::ReservationShort { .. }
            | Event::ReservationHindered { .. }
            | Event::ReservationKept { .. }
            | Event::GatheringStarted { .. }
            | Event::AttemptStarted { .. }
            | Event::CommitInDoubt
            | Event::SessionLost { .. }
            | Event::UpdateStarted { .. } => self.announce(scope),
            // What they say is in the verdict, the pool's gauge and the length of the attempt.
            Event::PlanInspected { .. }
            | Event::RungTaken { .. }
            | Event::StartHindered { .. }
            | Event::PlanBlocked { .. }
            | Event::UpdateBlocked { .. }
            | Event::BackendEngaged { .. }
            | Event::BackendReleased { .. }
            | Event::TargetLowered { .. }
            | Event::TickTaken { .. }
            | Event::WorkersDrained { .. } => (),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Metrics").field("tasks", &tasks.keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

fn attempt_ended(task: &TaskHandles, facts: &AttemptFacts) {
    let reason = facts.end.reason().map_or("none", ShortReason::as_str);
    task.attempts.add((facts.end.verdict().as_str(), reason), 1);
    if !facts.end.is_accepted() {
        task.wasted.record(facts.ran);
    }
}

fn chunk_ended(task: &TaskHandles, facts: &ChunkFacts) {
    task.chunks.add(facts.end.as_str(), 1);
    match facts.end {
        ChunkEnd::Committed => {
            task.chunk_duration.record(facts.took);
            task.chunk_rows.record(f64::from(facts.size));
            task.rows.add("updated", facts.rows.updated);
            task.rows.add("already", facts.rows.already);
            task.rows.add("stale", facts.rows.stale);
            task.rows.add("missing", facts.rows.missing);
            task.rows.add("failed", facts.rows.failed);
        }
        ChunkEnd::Retried(_) => (),
        ChunkEnd::Failed(_) => task.rows.add("failed", u64::from(facts.size)),
    }
}

/// The downgrade of an execution with a result whose workers are known. A statement that ended before
/// a worker was seen proves nothing: it may have been quicker than the monitor.
fn downgrade(facts: &ExecutionFacts) -> Option<Downgrade> {
    match facts.end {
        Ok(Outcome::OnTarget | Outcome::Lowered | Outcome::AboveMinimum | Outcome::FinishedShort) => {
            Some(Downgrade::of(facts.achieved, facts.target))
        }
        Ok(Outcome::FinishedEarly) if facts.achieved > 0 => Some(Downgrade::of(facts.achieved, facts.target)),
        Ok(Outcome::FinishedEarly | Outcome::Unverified | Outcome::BelowMinimum) | Err(_) => None,
    }
}

fn sqlstate_class(sqlstate: SqlState) -> &'static str {
    SQLSTATE_CLASSES.into_iter().find(|class| *class == sqlstate.class()).unwrap_or("other")
}
