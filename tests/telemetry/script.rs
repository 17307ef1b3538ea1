//! The script: every event once, as a short attempt and then a good one would bring them.

use std::sync::Arc;
use std::time::Duration;

use headcount::event::Admitted;
use headcount::event::Shortfall;
use headcount::event::{
    AttemptEnd, AttemptFacts, CancelMethod, CancelResult, Cause, ChunkEnd, ChunkFacts, ExecutionFacts,
    FailReason, Resolution, RowCounts, Scope, SqlState, UpdateFacts, UpdateOutcome,
};
use headcount::event::{Granted, Slots};
use headcount::event::{LeaderState, Pool, ShortReason, Tick, Verdict};
use headcount::telemetry::Metrics;
use headcount::telemetry::exporters::{Options, Telemetry, prometheus};
use headcount::{Ceiling, Event, Observer, Outcome, Rung};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const POOL: Pool = Pool { used: 6, size: 8 };
pub(crate) const PROCESSES: Pool = Pool { used: 7, size: 16 };
pub(crate) const SLOTS: Slots =
    Slots { pool: 8, size: 8, held: 4, outsiders: Some(2), priority_waits: false };
pub(crate) const NOW: f64 = 1_800_000_000.5;

pub(crate) fn scope(task: &str) -> Scope {
    Scope { task: task.into() }
}

pub(crate) fn ended(end: Result<Outcome, FailReason>, achieved: u32) -> Event {
    Event::ExecutionEnded(ExecutionFacts {
        end,
        cause: end.is_err().then(|| Cause {
            sqlstate: SqlState::new("42P01"),
            message: "the statement failed: no such table (SQLSTATE 42P01)".to_owned(),
        }),
        target: 4,
        minimum: 2,
        achieved,
        rung: Some(Rung::Wait),
        lowered_to: (end == Ok(Outcome::Lowered)).then_some(achieved),
        short_launches: u32::from(end == Ok(Outcome::FinishedShort)),
        unjudged: 0,
        attempts: 2,
        took: 1250 * MS,
        waited: 400 * MS,
        ran: 700 * MS,
        wasted: 150 * MS,
        ended_at_unix: NOW,
    })
}

fn ceiling() -> Ceiling {
    Ceiling {
        workers: 8,
        given: 8,
        processes: 16,
        of_role: None,
        of_database: None,
        of_others: Some(8),
        role: "batch".to_owned(),
    }
}

pub(crate) fn attempt_started(attempt: u32) -> Event {
    Event::AttemptStarted {
        attempt,
        max_attempts: 5,
        required: 4,
        pid: 4711,
        backend_start: 1_750_000_000_000_000,
    }
}

pub(crate) fn attempt_ended(attempt: u32, end: AttemptEnd, workers: u32) -> Event {
    Event::AttemptEnded(AttemptFacts {
        end,
        workers,
        achieved: workers,
        ran: 150 * MS,
        ..AttemptFacts::begun(attempt, 4)
    })
}

pub(crate) fn verdict(attempt: u32, verdict: Verdict, workers: u32) -> Event {
    Event::VerdictReached { attempt, statement: None, required: 4, verdict, workers, after: 130 * MS }
}

pub(crate) fn chunk(end: ChunkEnd) -> Event {
    let rows = RowCounts { updated: 97, already: 1, stale: 1, missing: 1, failed: 0 };
    let rows = if end == ChunkEnd::Committed { rows } else { RowCounts::default() };
    Event::ChunkEnded(ChunkFacts { chunk: 1, attempt: 1, end, size: 100, rows, took: 3 * MS, keys: None })
}

pub(crate) fn sample(workers: u32) -> Tick {
    Tick { at: 20 * MS, workers, leader: LeaderState::Active, pool: Some(POOL), processes: Some(PROCESSES) }
}

pub(crate) fn script() -> Vec<Event> {
    let lost = SqlState::CONNECTION_FAILURE;
    let short = ShortReason::PoolExhausted;
    vec![
        Event::ExecutionStarted { target: 4, minimum: 2, max_attempts: 5 },
        Event::BackendEngaged { pid: 4711, backend_start: 1 },
        Event::StartHindered { cause: "sorry, too many clients already".to_owned(), waited: 10 * MS },
        Event::PlanBlocked { pid: 4711, by: 815, waited: 250 * MS },
        Event::UpdateBlocked { pid: 4711, by: 815, waited: 5_000 * MS },
        Event::BackendReleased { pid: 4711, backend_start: 1 },
        Event::RungTaken { rung: Rung::Wait, ceiling: ceiling(), asked: None },
        Event::PlanInspected { planned: Some(4), took: 10 * MS },
        Event::ReservationQueued { demand: 4, ahead: 2, waited: Duration::ZERO },
        Event::ReservationHindered { cause: "no connection".to_owned(), waited: 80 * MS },
        Event::ReservationShort { demand: 4, again: false, slots: SLOTS, waited: 100 * MS },
        Event::ReservationEnded {
            demand: 4,
            taken: 2,
            ahead: 2,
            end: Granted::Degraded,
            waited: 200 * MS,
            slots: Some(SLOTS),
        },
        Event::AdmissionStarted {
            attempt: 1,
            required: 4,
            pool: POOL,
            processes: Some(PROCESSES),
            autovacuum: 0,
        },
        Event::TargetLowered { target: 4, cause: "the table is small".to_owned(), took: 2 * MS },
        Event::LaunchShort {
            attempt: 1,
            statement: Some(3),
            short: Shortfall { reason: short, got: 1, needed: 4 },
            after: 900 * MS,
        },
        Event::AdmissionEnded {
            attempt: 1,
            waited: 400 * MS,
            end: Admitted::TimedOut,
            pool: Some(POOL),
            processes: None,
        },
        attempt_started(1),
        Event::MonitorPolled { took: MS, pool: Some(POOL) },
        Event::TickTaken { attempt: 1, required: 4, tick: sample(2), pids: [21, 22].into() },
        verdict(1, Verdict::Short(short), 2),
        Event::CancelAnswered { attempt: 1, method: CancelMethod::Cancel, result: CancelResult::Sent },
        Event::WorkersDrained { attempt: 1, waited: 5 * MS, left: 0 },
        Event::CleanupEnded { attempt: 1, took: MS, ok: true },
        attempt_ended(1, AttemptEnd::Rejected(short), 2),
        Event::RetryDelayed { attempt: 2, waited: 250 * MS },
        Event::SessionLost { sqlstate: lost },
        Event::SessionRestored { sqlstate: lost },
        Event::MonitorStarted { server_version: 180_000 },
        Event::MonitorLost { cause: "connection closed".to_owned() },
        Event::MonitorRestored { blind_for: 50 * MS },
        verdict(2, Verdict::Enough, 4),
        attempt_ended(2, AttemptEnd::Accepted(Verdict::Enough), 4),
        Event::CommitInDoubt,
        Event::CommitResolved { resolution: Resolution::Committed },
        Event::CommitResolved { resolution: Resolution::Unreplicated },
        ended(Ok(Outcome::OnTarget), 4),
        Event::ReservationKept { taken: 2 },
        Event::ReservationReleased { taken: 2, held: 900 * MS, early: false },
        Event::UpdateStarted { connections: 2, keys: Some(5000) },
        chunk(ChunkEnd::Retried(lost)),
        chunk(ChunkEnd::Committed),
        chunk(ChunkEnd::Failed(lost)),
        Event::UpdateEnded(UpdateFacts {
            complete: false,
            outcome: UpdateOutcome::Incomplete,
            dry_run: false,
            never_began: None,
            cause: cause("23514", "it violates a check constraint"),
            rows: RowCounts { updated: 97, already: 1, stale: 1, missing: 1, failed: 1 },
            chunks: 1,
            failed_chunks: 1,
            took: 10 * MS,
            ended_at_unix: NOW,
        }),
    ]
}

#[allow(clippy::unnecessary_wraps, reason = "as it stands in the facts")]
fn cause(code: &str, message: &str) -> Option<Cause> {
    Some(Cause { sqlstate: SqlState::new(code), message: message.to_owned() })
}

/// An update in which no key failed.
pub(crate) fn update_ended(outcome: UpdateOutcome, complete: bool) -> Event {
    Event::UpdateEnded(UpdateFacts {
        complete,
        outcome,
        dry_run: false,
        never_began: None,
        cause: None,
        rows: RowCounts::default(),
        chunks: 0,
        failed_chunks: 0,
        took: MS,
        ended_at_unix: NOW,
    })
}

/// An update that found no server.
pub(crate) fn never_began() -> Event {
    Event::UpdateEnded(UpdateFacts {
        complete: false,
        outcome: UpdateOutcome::Incomplete,
        dry_run: false,
        never_began: Some(FailReason::Connection),
        cause: cause("08006", "cannot connect to db:5432/sales: refused"),
        rows: RowCounts::default(),
        chunks: 0,
        failed_chunks: 0,
        took: MS,
        ended_at_unix: NOW,
    })
}

pub(crate) fn feed(metrics: &Metrics, events: &[Event]) {
    for event in events {
        metrics.observe(&scope("rollup"), event);
    }
}

pub(crate) fn rendered(events: &[Event]) -> String {
    let recorder = Arc::new(prometheus::recorder().unwrap());
    let handle = recorder.handle();
    let metrics = Metrics::with_recorder(recorder);
    metrics.announce(&scope("rollup"));
    feed(&metrics, events);
    handle.render()
}

pub(crate) fn good() -> Event {
    ended(Ok(Outcome::OnTarget), 4)
}

/// The value of one series, without its sign: `name{label="word"}`.
pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

pub(crate) fn silent(_: &str) -> Option<String> {
    None
}

pub(crate) async fn start(configure: impl FnOnce(&mut Options)) -> Telemetry {
    let mut options = Options::new("rollup");
    configure(&mut options);
    Telemetry::start(options, silent).await.unwrap()
}

pub(crate) fn observe(telemetry: &Telemetry, task: &str, events: &[Event]) {
    for observer in telemetry.observers() {
        observer.announce(&scope(task));
        for event in events {
            observer.observe(&scope(task), event);
        }
    }
}
