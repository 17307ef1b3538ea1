//! Spans: `headcount.execution` > `headcount.attempt` > `headcount.monitor.tick`, beside the attempts
//! `headcount.reserve`, and `headcount.update` > `headcount.chunk`.
//!
//! A span belongs to a scope, so drivers make one with a function from here and `.instrument(..)` the
//! future. What is known at the start is given to the function; what comes later is said as an
//! [`Event`] and written onto the current span by [`SpanAttributes`], so that spans cannot tell
//! another story than metrics. Every field is declared here, since a span cannot grow one later.
//!
//! An attempt that was rejected and retried did its job: its status stays unset and it carries
//! `headcount.verdict` and `headcount.reason`. One that failed by itself is an error with `error.type`.
//! An execution is an error only when it ended without a result.
//!
//! Numbers are `i64` or `f64`: the exporter writes unsigned integers as text.

use tracing::field::Empty;
use tracing::{Level, Span, span};

use super::{TARGET, leader_word, query_summary, summary, trace_context};
use crate::decide::gathering::GatheringEnd;
use crate::decide::verdict::Tick;
use crate::event::{
    AttemptEnd, AttemptFacts, ChunkFacts, Event, ExecutionFacts, FailReason, Observer, Scope, SqlState,
    UpdateFacts,
};

/// Where statements go, in OpenTelemetry's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// Host name, address or socket directory.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// `database|schema`, or the database where the schema is not known.
    pub namespace: String,
}

/// One guarded execution of a task. Child of the span that is open here; where none is, of the trace
/// in the environment ([`trace_context`]).
#[must_use]
pub fn execution(task: &str) -> Span {
    let span = span!(
        target: TARGET, Level::INFO, "headcount.execution",
        otel.kind = "internal", otel.status_code = Empty, error.type = Empty,
        headcount.task = task,
        headcount.target_workers = Empty,
        headcount.min_workers = Empty,
        headcount.max_attempts = Empty,
        headcount.planned_workers = Empty,
        headcount.rung = Empty,
        headcount.ceiling = Empty,
        headcount.achieved_workers = Empty,
        headcount.attempts = Empty,
        headcount.outcome = Empty,
        headcount.target_met = Empty,
        headcount.lowered_to = Empty,
        headcount.short_launches = Empty,
        headcount.unjudged_statements = Empty,
        headcount.waited_seconds = Empty,
        headcount.ran_seconds = Empty,
        headcount.wasted_seconds = Empty,
    );
    join(span)
}

/// One attempt: child of the open span. `sql` is `None` when a caller's own code runs the statements.
/// Its text goes into the span only with `show_text`, since literals may be personal data.
#[must_use]
pub fn attempt(task: &str, attempt: u32, server: &Server, sql: Option<&str>, show_text: bool) -> Span {
    let span = span!(
        target: TARGET, Level::INFO, "headcount.attempt",
        otel.kind = "client", otel.status_code = Empty, error.type = Empty,
        db.system.name = "postgresql",
        db.namespace = server.namespace,
        db.operation.name = Empty,
        db.query.summary = Empty,
        db.query.text = Empty,
        db.response.status_code = Empty,
        server.address = server.address,
        server.port = i64::from(server.port),
        headcount.task = task,
        headcount.attempt = i64::from(attempt),
        headcount.required_workers = Empty,
        headcount.pid = Empty,
        headcount.workers = Empty,
        headcount.achieved_workers = Empty,
        headcount.short_launches = Empty,
        headcount.concurrent_unproven = Empty,
        headcount.launches_unproven = Empty,
        headcount.verdict = Empty,
        headcount.reason = Empty,
        headcount.verdict_seconds = Empty,
        headcount.accepted = Empty,
        headcount.ran_seconds = Empty,
        headcount.cancel_method = Empty,
        headcount.cancel_result = Empty,
        headcount.drain_seconds = Empty,
        headcount.cleanup_ok = Empty,
        headcount.resolution = Empty,
    );
    if let Some(sql) = sql.filter(|_| !span.is_disabled()) {
        span.record("db.operation.name", summary::operation(sql));
        span.record("db.query.summary", query_summary(sql));
        if show_text {
            span.record("db.query.text", sql);
        }
    }
    span
}

/// The wait for slots of the pool: child of the open span.
#[must_use]
pub fn reserve(task: &str, demand: u32) -> Span {
    span!(
        target: TARGET, Level::INFO, "headcount.reserve",
        otel.kind = "internal",
        headcount.task = task,
        headcount.demand = i64::from(demand),
        headcount.taken_slots = Empty,
        headcount.ahead = Empty,
        headcount.outsiders = Empty,
        headcount.granted = Empty,
        headcount.waited_seconds = Empty,
    )
}

/// The gathering of slots: child of the open span.
#[must_use]
pub fn gather(task: &str, need: u32) -> Span {
    span!(
        target: TARGET, Level::INFO, "headcount.gather",
        otel.kind = "internal",
        headcount.task = task,
        headcount.needed_slots = i64::from(need),
        headcount.held_slots = Empty,
        headcount.gathering = Empty,
    )
}

/// Writes onto its span how a gathering ended.
pub fn record_gathering(span: &Span, held: u32, end: GatheringEnd) {
    span.record("headcount.held_slots", i64::from(held));
    span.record("headcount.gathering", end.as_str());
}

/// One look of the monitor at one attempt: made before the poll, filled by [`record_tick`] after it.
#[must_use]
pub fn tick(attempt: &Span) -> Span {
    span!(
        target: TARGET, parent: attempt, Level::DEBUG, "headcount.monitor.tick",
        otel.kind = "internal",
        headcount.workers = Empty,
        headcount.leader_state = Empty,
        headcount.pool_used = Empty,
        headcount.pool_size = Empty,
        headcount.processes_used = Empty,
        headcount.processes_size = Empty,
    )
}

/// Writes what the poll saw onto its span. A tick without an answer stays empty.
pub fn record_tick(span: &Span, tick: &Tick) {
    if span.is_disabled() {
        return;
    }
    span.record("headcount.workers", i64::from(tick.workers));
    span.record("headcount.leader_state", leader_word(tick.leader));
    if let Some(pool) = tick.pool {
        span.record("headcount.pool_used", i64::from(pool.used));
        span.record("headcount.pool_size", i64::from(pool.size));
    }
    if let Some(processes) = tick.processes {
        span.record("headcount.processes_used", i64::from(processes.used));
        span.record("headcount.processes_size", i64::from(processes.size));
    }
}

/// One chunked update of a task; its parent as in [`execution`].
#[must_use]
pub fn update(task: &str) -> Span {
    let span = span!(
        target: TARGET, Level::INFO, "headcount.update",
        otel.kind = "internal", otel.status_code = Empty, error.type = Empty,
        headcount.task = task,
        headcount.connections = Empty,
        headcount.complete = Empty,
        headcount.chunks = Empty,
        headcount.failed_chunks = Empty,
        headcount.updated = Empty,
        headcount.already = Empty,
        headcount.stale = Empty,
        headcount.missing = Empty,
    );
    join(span)
}

/// One transaction of a chunk of `size` keys: child of `update`, whose task may run elsewhere.
#[must_use]
pub fn chunk(update: &Span, task: &str, chunk: u64, size: u32, server: &Server, sql: &str) -> Span {
    let span = span!(
        target: TARGET, parent: update, Level::INFO, "headcount.chunk",
        otel.kind = "client", otel.status_code = Empty, error.type = Empty,
        db.system.name = "postgresql",
        db.namespace = server.namespace,
        db.operation.name = Empty,
        db.operation.batch.size = Empty,
        db.query.summary = Empty,
        db.response.status_code = Empty,
        server.address = server.address,
        server.port = i64::from(server.port),
        headcount.task = task,
        headcount.chunk = i64::try_from(chunk).unwrap_or(i64::MAX),
        headcount.attempt = Empty,
        headcount.result = Empty,
        headcount.updated = Empty,
        headcount.already = Empty,
        headcount.stale = Empty,
        headcount.missing = Empty,
        headcount.resolution = Empty,
    );
    if !span.is_disabled() {
        span.record("db.operation.name", summary::operation(sql));
        span.record("db.query.summary", query_summary(sql));
        // The convention: a batch of one is no batch.
        if size != 1 {
            span.record("db.operation.batch.size", i64::from(size));
        }
    }
    span
}

fn join(span: Span) -> Span {
    if Span::current().is_none()
        && !span.is_disabled()
        && let Some(context) = trace_context()
    {
        context.adopt(&span);
    }
    span
}

/// Writes events onto the current span. Stateless: the driver observes inside the span's scope.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpanAttributes;

impl Observer for SpanAttributes {
    fn observe(&self, _: &Scope, event: &Event) {
        let span = Span::current();
        if span.is_disabled() {
            return;
        }
        match event {
            Event::ExecutionStarted { target, minimum, max_attempts } => {
                span.record("headcount.target_workers", i64::from(*target));
                span.record("headcount.min_workers", i64::from(*minimum));
                span.record("headcount.max_attempts", i64::from(*max_attempts));
            }
            Event::TargetLowered { target, .. } => {
                span.record("headcount.target_workers", i64::from(*target));
                span.record("headcount.lowered_to", i64::from(*target));
            }
            Event::PlanInspected { planned, .. } => {
                if let Some(planned) = planned {
                    span.record("headcount.planned_workers", i64::from(*planned));
                }
            }
            Event::RungTaken { rung, ceiling, .. } => {
                span.record("headcount.rung", rung.as_str());
                span.record("headcount.ceiling", i64::from(ceiling.workers));
            }
            Event::ReservationEnded { taken, ahead, end, waited, slots, .. } => {
                span.record("headcount.ahead", i64::from(*ahead));
                span.record("headcount.taken_slots", i64::from(*taken));
                span.record("headcount.granted", end.as_str());
                span.record("headcount.waited_seconds", waited.as_secs_f64());
                if let Some(outsiders) = slots.and_then(|slots| slots.outsiders) {
                    span.record("headcount.outsiders", i64::from(outsiders));
                }
            }
            Event::AttemptStarted { required, pid, .. } => {
                span.record("headcount.required_workers", i64::from(*required));
                span.record("headcount.pid", i64::from(*pid));
            }
            Event::VerdictReached { verdict, workers, after, .. } => {
                span.record("headcount.verdict", verdict.as_str());
                if let Some(reason) = verdict.reason() {
                    span.record("headcount.reason", reason.as_str());
                }
                span.record("headcount.workers", i64::from(*workers));
                span.record("headcount.verdict_seconds", after.as_secs_f64());
            }
            Event::CancelAnswered { method, result, .. } => {
                span.record("headcount.cancel_method", method.as_str());
                span.record("headcount.cancel_result", result.as_str());
            }
            Event::WorkersDrained { waited, .. } => {
                span.record("headcount.drain_seconds", waited.as_secs_f64());
            }
            Event::CleanupEnded { ok, .. } => {
                span.record("headcount.cleanup_ok", *ok);
            }
            Event::AttemptEnded(facts) => attempt_ended(&span, facts),
            Event::CommitResolved { resolution } => {
                span.record("headcount.resolution", resolution.as_str());
            }
            Event::ExecutionEnded(facts) => execution_ended(&span, facts),
            Event::UpdateStarted { connections, keys: _ } => {
                span.record("headcount.connections", i64::from(*connections));
            }
            Event::ChunkEnded(facts) => chunk_ended(&span, facts),
            Event::UpdateEnded(facts) => update_ended(&span, facts),
            // Told by the spans' own times, by the ticks' spans, or by the end of the attempt.
            Event::ReservationQueued { .. }
            | Event::StartHindered { .. }
            | Event::PlanBlocked { .. }
            | Event::UpdateBlocked { .. }
            | Event::BackendEngaged { .. }
            | Event::BackendReleased { .. }
            | Event::ReservationShort { .. }
            | Event::ReservationHindered { .. }
            | Event::ReservationKept { .. }
            | Event::ReservationReleased { .. }
            | Event::ReservationLost { .. }
            | Event::AdmissionStarted { .. }
            | Event::AdmissionEnded { .. }
            | Event::GatheringStarted { .. }
            | Event::SlotsHeld { .. }
            | Event::GatheringEnded { .. }
            | Event::TickTaken { .. }
            | Event::LaunchShort { .. }
            | Event::RetryDelayed { .. }
            | Event::SessionLost { .. }
            | Event::SessionRestored { .. }
            | Event::CommitInDoubt
            | Event::MonitorPolled { .. }
            | Event::MonitorStarted { .. }
            | Event::MonitorLost { .. }
            | Event::MonitorRestored { .. } => (),
        }
    }
}

fn attempt_ended(span: &Span, facts: &AttemptFacts) {
    span.record("headcount.verdict", facts.end.verdict().as_str());
    if let Some(reason) = facts.end.reason() {
        span.record("headcount.reason", reason.as_str());
    }
    span.record("headcount.workers", i64::from(facts.workers));
    span.record("headcount.achieved_workers", i64::from(facts.achieved));
    span.record("headcount.short_launches", i64::from(facts.short_launches));
    if facts.concurrent_unproven {
        span.record("headcount.concurrent_unproven", true);
    }
    if facts.launches_unproven {
        span.record("headcount.launches_unproven", true);
    }
    span.record("headcount.accepted", facts.end.is_accepted());
    span.record("headcount.ran_seconds", facts.ran.as_secs_f64());
    if let AttemptEnd::Failed(Some(sqlstate)) = facts.end {
        failed(span, sqlstate);
    }
}

/// `error.type` is the SQLSTATE too: the convention's first choice where the server sends a code.
fn failed(span: &Span, sqlstate: SqlState) {
    span.record("db.response.status_code", sqlstate.as_str());
    error(span, sqlstate.as_str());
}

fn error(span: &Span, kind: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}

fn execution_ended(span: &Span, facts: &ExecutionFacts) {
    match facts.end {
        Ok(outcome) => {
            span.record("headcount.outcome", outcome.as_str());
            if !outcome.is_accepted() {
                error(span, outcome.as_str());
            }
        }
        Err(reason) => error(span, reason.as_str()),
    }
    let met = facts.end.is_ok() && facts.achieved >= facts.target && facts.lowered_to.is_none();
    span.record("headcount.target_met", met);
    span.record("headcount.short_launches", i64::from(facts.short_launches));
    span.record("headcount.unjudged_statements", i64::from(facts.unjudged));
    span.record("headcount.achieved_workers", i64::from(facts.achieved));
    span.record("headcount.attempts", i64::from(facts.attempts));
    span.record("headcount.waited_seconds", facts.waited.as_secs_f64());
    span.record("headcount.ran_seconds", facts.ran.as_secs_f64());
    span.record("headcount.wasted_seconds", facts.wasted.as_secs_f64());
}

fn chunk_ended(span: &Span, facts: &ChunkFacts) {
    span.record("headcount.attempt", i64::from(facts.attempt));
    span.record("headcount.result", facts.end.as_str());
    rows(span, facts.rows);
    if let Some(sqlstate) = facts.end.sqlstate() {
        failed(span, sqlstate);
    }
}

fn update_ended(span: &Span, facts: &UpdateFacts) {
    span.record("headcount.complete", facts.complete);
    span.record("headcount.chunks", signed(facts.chunks));
    span.record("headcount.failed_chunks", signed(facts.failed_chunks));
    rows(span, facts.rows);
    if !facts.complete {
        error(span, facts.never_began.map_or(facts.outcome.as_str(), FailReason::as_str));
    }
}

fn rows(span: &Span, rows: crate::event::RowCounts) {
    span.record("headcount.updated", signed(rows.updated));
    span.record("headcount.already", signed(rows.already));
    span.record("headcount.stale", signed(rows.stale));
    span.record("headcount.missing", signed(rows.missing));
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
