//! Events: what happened, in the past tense.
//!
//! Everything that happens in a run is one [`Event`]. Metrics, span attributes, log lines, progress and the
//! report are all made from events, so they cannot disagree. An [`Observer`] is synchronous, infallible and
//! cheap; it is called on the job's own task.

mod execution;
mod observer;
mod sqlstate;
mod update;

use std::sync::Arc;
use std::time::Duration;

pub use crate::decide::admission::Admitted;
pub use crate::decide::ceiling::{Ceiling, Raise, Rung};
pub use crate::decide::gathering::{GatheringEnd, HandOver};
pub use crate::decide::launch::Shortfall;
pub use crate::decide::reservation::{Granted, Slots};
pub use crate::decide::stopping::{CancelMethod, CancelResult};
pub use crate::decide::update::resolver::Resolution;
pub use crate::decide::verdict::{LeaderState, Pool, ShortReason, Tick, Verdict};

pub use self::execution::{AttemptEnd, AttemptFacts, AttemptVerdict, Cause, ExecutionFacts, FailReason};
pub use self::observer::{Observer, Observers, Scope};
pub use self::sqlstate::SqlState;
pub use self::update::{ChunkEnd, ChunkFacts, RowCounts, UpdateFacts, UpdateOutcome};

/// One thing that happened. Inside the crate every observer matches it without a wildcard.
///
/// ```
/// use headcount::Event;
///
/// let lost = |event: &Event| matches!(event, Event::MonitorLost { .. } | Event::SessionLost { .. });
/// assert!(!lost(&Event::CommitInDoubt));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A guarded execution began.
    ExecutionStarted {
        /// Workers that all attempts but the last need.
        target: u32,
        /// Workers that the last attempt needs.
        minimum: u32,
        /// Maximum number of attempts.
        max_attempts: u32,
    },
    /// The start failed and is retried: no session could be opened (too many connections, the server is starting or
    /// unreachable), or the inspection of the plan failed with a transient error. Sent for each failure.
    StartHindered {
        /// The error message.
        cause: String,
        /// Time since the first try began.
        waited: Duration,
    },
    /// The inspection of the plan waits for a lock. Sent once per inspection, after a quarter of a second.
    PlanBlocked {
        /// The process id of the backend that waits.
        pid: i32,
        /// A backend that holds the lock, or is before it in the lock's queue.
        by: i32,
        /// Time since planning began.
        waited: Duration,
    },
    /// A session of a chunked update waits for a lock. Sent once for each wait of five seconds or more; not behind a proxy
    /// that pools transactions.
    UpdateBlocked {
        /// The process id of the backend that waits.
        pid: i32,
        /// A backend that holds the lock, or is before it in the lock's queue.
        by: i32,
        /// Time that it has waited.
        waited: Duration,
    },
    /// From now on this backend may run something of this execution: the inspection, the wait for slots, an attempt
    /// or the cleanup.
    BackendEngaged {
        /// Its process id on the server.
        pid: i32,
        /// When it started, as in [`AttemptStarted`](Self::AttemptStarted).
        backend_start: i64,
    },
    /// Nothing of this execution runs on that backend any more, or it was terminated.
    BackendReleased {
        /// Its process id on the server.
        pid: i32,
        /// When it started.
        backend_start: i64,
    },
    /// The plan was inspected.
    PlanInspected {
        /// The most workers that the plan can use at once; `None` if there was no plan to inspect.
        planned: Option<u32>,
        /// Duration, including waits for locks.
        took: Duration,
    },
    /// The session's limit of workers is known, and so is how it gets its workers.
    RungTaken {
        /// How it gets its workers.
        rung: Rung,
        /// The session's limit (`max_parallel_workers`), and where it comes from.
        ceiling: Ceiling,
        /// What [`Settings::ceiling`](crate::Settings::ceiling) asked for.
        asked: Option<Raise>,
    },
    /// The plan cannot reach the target, so the target was lowered
    /// ([`PlanShortfall::Lower`](crate::PlanShortfall::Lower)).
    TargetLowered {
        /// The new target.
        target: u32,
        /// Why the plan cannot use more workers, as a clause.
        cause: String,
        /// Time it took to find out why.
        took: Duration,
    },
    /// The execution waits in the queue for slots. Sent again when its place changes.
    ReservationQueued {
        /// Slots it asks for.
        demand: u32,
        /// Executions before it; the first of them is at the head.
        ahead: u32,
        /// Time waited so far.
        waited: Duration,
    },
    /// The execution is at the head of the queue, but too few slots are free. Sent again when that changes.
    ReservationShort {
        /// Slots it waits for. If the pool has shrunk below the minimum of workers, this is the minimum.
        demand: u32,
        /// Whether only numbers changed since the last one: the same kind of sessions is in the way, and the pool has
        /// the same size.
        again: bool,
        /// The slots, as last seen.
        slots: Slots,
        /// Time waited so far.
        waited: Duration,
    },
    /// Slots cannot be asked for at the moment. It is retried until the maximum wait is over. Sent again when the
    /// cause changes. An execution that lost its connection joins the end of the queue.
    ReservationHindered {
        /// The error message.
        cause: String,
        /// Time waited so far.
        waited: Duration,
    },
    /// The wait for slots is over.
    ReservationEnded {
        /// Slots it asked for; as in [`ReservationShort`](Self::ReservationShort).
        demand: u32,
        /// Slots reserved.
        taken: u32,
        /// Executions before it when its place was first seen; 0 if it never was.
        ahead: u32,
        /// How the wait ended.
        end: Granted,
        /// Time waited, in the queue and at its head.
        waited: Duration,
        /// The slots, as last seen; `None` if it never came to the head of the queue.
        slots: Option<Slots>,
    },
    /// The execution is over, but some of its workers may still run: it keeps its slots until they are gone.
    ReservationKept {
        /// Slots kept.
        taken: u32,
    },
    /// The slots were returned.
    ReservationReleased {
        /// Slots returned.
        taken: u32,
        /// Time they were held.
        held: Duration,
        /// Whether some workers were still there: the wait for them ended after an hour, or the process ended.
        early: bool,
    },
    /// The connection that held the slots broke, so the server returned them.
    ReservationLost {
        /// Slots lost.
        taken: u32,
    },
    /// The pool has too few free slots; the wait for them began.
    AdmissionStarted {
        /// The attempt that waits.
        attempt: u32,
        /// Workers it needs.
        required: u32,
        /// The pool at that moment.
        pool: Pool,
        /// The server's worker processes (`max_worker_processes`), if they can be seen.
        processes: Option<Pool>,
        /// Workers of the pool that autovacuum uses (PostgreSQL 19 and later).
        autovacuum: u32,
    },
    /// The wait for free slots ended. Also sent, with a wait of about zero, if there was none.
    AdmissionEnded {
        /// The attempt that may start.
        attempt: u32,
        /// Time waited.
        waited: Duration,
        /// Why the wait ended.
        end: Admitted,
        /// The pool, if it can be seen.
        pool: Option<Pool>,
        /// The processes of the server that can run workers (`max_worker_processes`), if they can be seen.
        processes: Option<Pool>,
    },
    /// The pool had too little room for [`Settings::gather_after`](crate::Settings::gather_after): slots are gathered from now on,
    /// one by one.
    GatheringStarted {
        /// The attempt that waits.
        attempt: u32,
        /// Slots it needs.
        need: u32,
    },
    /// The number of slots that are held idle has changed.
    SlotsHeld {
        /// The attempt that waits.
        attempt: u32,
        /// Slots held now.
        held: u32,
        /// Slots held before.
        before: u32,
        /// Slots it needs.
        need: u32,
    },
    /// A gathering is over, and no slot is held idle any more.
    GatheringEnded {
        /// The attempt that waited.
        attempt: u32,
        /// Slots it needed.
        need: u32,
        /// Slots that were held when it ended.
        held: u32,
        /// How it ended.
        end: GatheringEnd,
        /// Time since it began.
        took: Duration,
        /// Slot time: the sum, over the slots, of the time that each was held idle.
        idle: Duration,
    },
    /// The statement is about to be sent.
    AttemptStarted {
        /// Its number, from 1.
        attempt: u32,
        /// Maximum number of attempts.
        max_attempts: u32,
        /// Workers it needs.
        required: u32,
        /// The process id of the backend that runs the statement.
        pid: i32,
        /// When that backend started (`pg_stat_activity.backend_start`), in microseconds since the Unix
        /// epoch: a pid alone may soon be another backend's.
        backend_start: i64,
    },
    /// The monitor took a sample of the attempt.
    TickTaken {
        /// The attempt it belongs to.
        attempt: u32,
        /// Workers it needs.
        required: u32,
        /// The sample.
        tick: Tick,
        /// The pids of the workers.
        pids: Arc<[i32]>,
    },
    /// The samples proved enough workers or too few, or the statement ended.
    VerdictReached {
        /// The attempt it belongs to.
        attempt: u32,
        /// The statement of a script, from 1; `None` if there is only one.
        statement: Option<u32>,
        /// Workers it needed.
        required: u32,
        /// The verdict.
        verdict: Verdict,
        /// The most workers seen at once so far.
        workers: u32,
        /// Time from the start of the statement to the verdict.
        after: Duration,
    },
    /// A later launch of a statement was proven short, after the verdict "enough". The statement is cancelled for that
    /// only with [`Settings::every_launch`](crate::Settings::every_launch).
    LaunchShort {
        /// The attempt it belongs to.
        attempt: u32,
        /// The statement of a script, from 1; `None` if there is only one.
        statement: Option<u32>,
        /// What was missing, and how much.
        short: Shortfall,
        /// Time from the start of the statement to the proof.
        after: Duration,
    },
    /// The server answered a request to cancel or terminate.
    CancelAnswered {
        /// The attempt it was sent for; 0 if the execution had been dropped.
        attempt: u32,
        /// The kind of request.
        method: CancelMethod,
        /// Its result.
        result: CancelResult,
    },
    /// The last worker of a rejected attempt is gone, or the wait for it ended.
    WorkersDrained {
        /// The attempt it belongs to.
        attempt: u32,
        /// Time waited.
        waited: Duration,
        /// Workers still there; 0 if all are gone.
        left: u32,
    },
    /// The cleanup ended.
    CleanupEnded {
        /// The attempt that it followed.
        attempt: u32,
        /// Duration.
        took: Duration,
        /// Whether it succeeded.
        ok: bool,
    },
    /// An attempt is over, including its cleanup.
    AttemptEnded(AttemptFacts),
    /// The pause before the next attempt is over, including the wait for free slots.
    RetryDelayed {
        /// The next attempt.
        attempt: u32,
        /// Time from the end of the last attempt.
        waited: Duration,
    },
    /// A session was lost.
    SessionLost {
        /// The SQLSTATE; 08006 if the connection broke without one.
        sqlstate: SqlState,
    },
    /// A new session replaced a lost one.
    SessionRestored {
        /// The SQLSTATE with which the old one was lost.
        sqlstate: SqlState,
    },
    /// COMMIT was sent and its answer was lost.
    CommitInDoubt,
    /// The outcome of such a commit was found out, or the search for it ended; or a commit waited in vain for its synchronous
    /// standby.
    CommitResolved {
        /// The outcome.
        resolution: Resolution,
    },
    /// The monitor polled the server, for all attempts that it watches.
    MonitorPolled {
        /// Round-trip time.
        took: Duration,
        /// The pool, if it can be seen.
        pool: Option<Pool>,
    },
    /// A monitor connected for the first time.
    MonitorStarted {
        /// The server's `server_version_num`: `130_023` is 13.23.
        server_version: u32,
    },
    /// The monitor's connection broke. No verdict is reached until it is back.
    MonitorLost {
        /// The error message.
        cause: String,
    },
    /// The monitor is connected again.
    MonitorRestored {
        /// Time without a connection.
        blind_for: Duration,
    },
    /// A guarded execution is over.
    ExecutionEnded(ExecutionFacts),
    /// A chunked update began.
    UpdateStarted {
        /// Sessions that work in parallel.
        connections: u32,
        /// Number of keys, if it is known.
        keys: Option<u64>,
    },
    /// A transaction of a chunk is over: committed, to be retried, or given up.
    ChunkEnded(ChunkFacts),
    /// A chunked update is over. If it could not begin, there was no [`UpdateStarted`](Self::UpdateStarted).
    UpdateEnded(UpdateFacts),
}
