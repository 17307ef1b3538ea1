//! The crate's vocabulary: what happened, in the past tense.
//!
//! Drivers say one thing, `observe(&event)`. Metrics, span attributes, log lines, progress and the
//! report are observers of it, so they cannot disagree. An [`Observer`] is synchronous, infallible
//! and cheap; it is called on the job's own task.

mod answer;
mod execution;
mod observer;
mod sqlstate;
mod update;

use std::time::Duration;

pub use crate::decide::admission::Admitted;
pub use crate::decide::ceiling::{Ceiling, Raise, Rung};
pub use crate::decide::launch::Shortfall;
pub use crate::decide::reservation::{Granted, Slots};
pub use crate::decide::verdict::{LeaderState, Pool, ShortReason, Tick, Verdict};

pub use self::answer::{CancelMethod, CancelResult, Resolution};
pub use self::execution::{AttemptEnd, AttemptFacts, AttemptVerdict, Cause, ExecutionFacts, FailReason};
pub use self::observer::{Observer, Observers, Scope};
pub use self::sqlstate::SqlState;
pub use self::update::{ChunkEnd, ChunkFacts, RowCounts, UpdateFacts, UpdateOutcome};

/// One fact. Inside the crate every observer matches it without a wildcard.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A guarded execution began.
    ExecutionStarted {
        /// Workers demanded of all attempts but the last.
        target: u32,
        /// Workers demanded of the last attempt.
        minimum: u32,
        /// Attempts allowed.
        max_attempts: u32,
    },
    /// Nothing can start yet, which is tried again: the server gave no session, the monitor's first one
    /// included (too many connections, starting up, away), or the inspection failed in a way that may pass. Sent
    /// for each failure.
    StartHindered {
        /// What the server or the driver said.
        cause: String,
        /// Time since the first try began.
        waited: Duration,
    },
    /// The plan cannot be inspected yet: the leader waits for a lock. Sent once for each inspection, and not for a
    /// wait of less than a quarter of a second.
    PlanBlocked {
        /// The leader.
        pid: i32,
        /// A backend that holds the lock, or waits for it before the leader.
        by: i32,
        /// Time since planning began.
        waited: Duration,
    },
    /// From now on a backend may run something of this execution: its inspection,
    /// its wait for slots, an attempt, its cleanup.
    BackendEngaged {
        /// Its process id on the server.
        pid: i32,
        /// When it started, as in [`AttemptStarted`](Self::AttemptStarted).
        backend_start: i64,
    },
    /// Nothing of this execution runs on that backend any more, or it was told to end.
    BackendReleased {
        /// Its process id on the server.
        pid: i32,
        /// When it started.
        backend_start: i64,
    },
    /// The plan was inspected.
    PlanInspected {
        /// The most workers that the plan can have at once; `None` where there was no plan to inspect.
        planned: Option<u32>,
        /// How long it took, a wait for a lock of the plan included.
        took: Duration,
    },
    /// What bounds the session's workers is known, and so is the way by which it comes by them.
    RungTaken {
        /// The way.
        rung: Rung,
        /// The session's ceiling.
        ceiling: Ceiling,
        /// How far it was to be raised.
        asked: Option<Raise>,
    },
    /// The plan cannot reach the target, and the caller accepts less (`plan_shortfall = lower`).
    TargetLowered {
        /// The target from now on.
        target: u32,
        /// Why the plan cannot have more, as a clause.
        cause: String,
        /// How long it took to find out why.
        took: Duration,
    },
    /// It waits in the queue of its fleet for slots of the pool; sent again when its place changes.
    ReservationQueued {
        /// Slots wanted.
        demand: u32,
        /// Executions before it; the first of them is at the head.
        ahead: u32,
        /// Time waited so far.
        waited: Duration,
    },
    /// It is at the head of the queue, and too few slots are free; sent again when that changes.
    ReservationShort {
        /// Slots waited for. More than there are where the pool has shrunk below the minimum of workers, which it is
        /// then.
        demand: u32,
        /// Whether only numbers changed since it was last sent: the members, the outsiders, or those with
        /// priority that are in the way are still so, and the pool has the same size.
        again: bool,
        /// What the look saw.
        slots: Slots,
        /// Time waited so far.
        waited: Duration,
    },
    /// Slots cannot be asked for now, which is tried again until the longest wait is over; sent again when the
    /// cause changes. Who lost its connection stands at the end of the queue then.
    ReservationHindered {
        /// Why, as the server or the line says it.
        cause: String,
        /// Time waited so far.
        waited: Duration,
    },
    /// The wait for slots is over.
    ReservationEnded {
        /// Slots wanted; as in [`ReservationShort`](Self::ReservationShort).
        demand: u32,
        /// Slots taken.
        taken: u32,
        /// Executions that were before it when its place was first seen; 0 when it never was.
        ahead: u32,
        /// How the wait ended.
        end: Granted,
        /// Time waited, in the queue and at its head.
        waited: Duration,
        /// The last look before; `None` when it never came to the head.
        slots: Option<Slots>,
    },
    /// The execution is over and some of its workers are not, as far as is known: it keeps its slots until they are.
    ReservationKept {
        /// Slots kept.
        taken: u32,
    },
    /// The workers are gone and the slots are given back.
    ReservationReleased {
        /// Slots given back.
        taken: u32,
        /// Time held.
        held: Duration,
        /// Whether some workers were not gone: the longest time to wait for that, an hour, was over, or the
        /// process ended.
        early: bool,
    },
    /// The connection that held the slots broke, so the server gave them to others.
    ReservationLost {
        /// Slots lost.
        taken: u32,
    },
    /// The pool has no room for what is required; the wait for it began.
    AdmissionStarted {
        /// The attempt that waits.
        attempt: u32,
        /// Workers it must reach.
        required: u32,
        /// The pool at that moment.
        pool: Pool,
        /// The server's processes for workers of any kind, where they are seen.
        processes: Option<Pool>,
        /// How many of the pool autovacuum has, which takes workers from PostgreSQL 19 on.
        autovacuum: u32,
    },
    /// The wait for room ended; also sent, with a wait of about zero, when there was room at once.
    AdmissionEnded {
        /// The attempt that may start.
        attempt: u32,
        /// Time waited.
        waited: Duration,
        /// Why the wait ended.
        end: Admitted,
        /// The pool, where it is seen.
        pool: Option<Pool>,
    },
    /// The statement is about to be sent.
    AttemptStarted {
        /// From 1.
        attempt: u32,
        /// Attempts allowed.
        max_attempts: u32,
        /// Workers it must reach.
        required: u32,
        /// The leader's process id on the server.
        pid: i32,
        /// When that backend started (`pg_stat_activity.backend_start`), in microseconds since the Unix
        /// epoch: a pid alone may soon be another backend's.
        backend_start: i64,
    },
    /// One sample of the monitor reached its attempt.
    TickTaken {
        /// The attempt it belongs to.
        attempt: u32,
        /// Workers it must reach.
        required: u32,
        /// The sample.
        tick: Tick,
    },
    /// The ticks proved something, or the statement ended.
    VerdictReached {
        /// The attempt it belongs to.
        attempt: u32,
        /// The statement of a script, from 1; `None` where there is only one.
        statement: Option<u32>,
        /// Workers it had to reach.
        required: u32,
        /// What was proven.
        verdict: Verdict,
        /// The most workers seen at once so far.
        workers: u32,
        /// Statement start to verdict.
        after: Duration,
    },
    /// A later launch of a statement was proven short, after the verdict "enough". It is not cancelled for that,
    /// unless every launch counts ([`Settings::every_launch`](crate::Settings::every_launch)).
    LaunchShort {
        /// The attempt it belongs to.
        attempt: u32,
        /// The statement of a script, from 1; `None` where there is only one.
        statement: Option<u32>,
        /// What was lacking, and how much.
        short: Shortfall,
        /// Statement start to the proof.
        after: Duration,
    },
    /// The server answered a request to stop the leader.
    CancelAnswered {
        /// The attempt it was sent for; 0 when an abandoned execution was cleared away.
        attempt: u32,
        /// How it was asked.
        method: CancelMethod,
        /// What came of it.
        result: CancelResult,
    },
    /// The last worker of a rejected attempt is gone, or the wait for it ran out.
    WorkersDrained {
        /// The attempt it belongs to.
        attempt: u32,
        /// Time waited.
        waited: Duration,
        /// Workers still there when the wait ran out; 0 when all are gone.
        left: u32,
    },
    /// The cleanup action ran.
    CleanupEnded {
        /// The attempt it cleaned up after.
        attempt: u32,
        /// Time it took.
        took: Duration,
        /// Whether it succeeded.
        ok: bool,
    },
    /// An attempt is over, its cleanup included.
    AttemptEnded(AttemptFacts),
    /// The pause before the next attempt is over (admission included).
    RetryDelayed {
        /// The attempt that comes next.
        attempt: u32,
        /// Time from the end of the last attempt.
        waited: Duration,
    },
    /// The session with the server broke.
    SessionLost {
        /// The SQLSTATE; 08006 when the connection broke without one.
        sqlstate: SqlState,
    },
    /// A new session took the place of a lost one.
    SessionRestored {
        /// The SQLSTATE that the old one was lost with.
        sqlstate: SqlState,
    },
    /// COMMIT was sent and its answer was lost.
    CommitInDoubt,
    /// The fate of a commit in doubt was learned, or given up on.
    CommitResolved {
        /// What it was.
        resolution: Resolution,
    },
    /// A commit in doubt took effect, and was to wait for a synchronous standby: whether that has it is not known, since
    /// the wait may have been cut short with the session (manual, "Synchronous Replication"). A failover may undo it.
    CommitUnreplicated,
    /// The monitor polled the server (for all its watches at once).
    MonitorPolled {
        /// Round trip.
        took: Duration,
        /// The pool, where it is seen.
        pool: Option<Pool>,
    },
    /// A monitor connected for the first time, and sees.
    MonitorStarted,
    /// The monitor's connection broke; verdicts stay open until it is back.
    MonitorLost {
        /// What the driver said.
        cause: String,
    },
    /// The monitor is back.
    MonitorRestored {
        /// How long it could not see.
        blind_for: Duration,
    },
    /// A guarded execution is over.
    ExecutionEnded(ExecutionFacts),
    /// A chunked update began.
    UpdateStarted {
        /// Sessions that work on it.
        connections: u32,
        /// Keys to come, where their number is known.
        keys: Option<u64>,
    },
    /// A chunk's transaction is over: committed, to be tried again, or given up.
    ChunkEnded(ChunkFacts),
    /// A chunked update is over; without [`UpdateStarted`](Self::UpdateStarted) before if it could not begin.
    UpdateEnded(UpdateFacts),
}
