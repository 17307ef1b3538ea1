//! The crate's vocabulary: what happened, in the past tense.
//!
//! Drivers say one thing, `observe(&event)`. Metrics, span attributes, log lines, progress and the
//! report are observers of it, so they cannot disagree. An [`Observer`] is synchronous, infallible
//! and cheap; it is called on the job's own task.

use std::sync::Arc;
use std::time::Duration;

use crate::decide::admission::Admitted;
use crate::decide::attempt::Outcome;
use crate::decide::reservation::{Granted, Slots};
use crate::decide::verdict::{Pool, ShortReason, Tick, Verdict};

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
        /// The most workers that the plan can have at once.
        planned: u32,
    },
    /// The plan cannot reach the target, and the caller accepts less (`plan_shortfall = lower`).
    TargetLowered {
        /// The target from now on.
        target: u32,
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
    /// The pool has no room for the bar; the wait for it began.
    AdmissionStarted {
        /// The attempt that waits.
        attempt: u32,
        /// Workers it must reach.
        bar: u32,
        /// The pool at that moment.
        pool: Pool,
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
        bar: u32,
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
        bar: u32,
        /// The sample.
        tick: Tick,
    },
    /// The ticks proved something, or the statement ended.
    VerdictReached {
        /// The attempt it belongs to.
        attempt: u32,
        /// Workers it had to reach.
        bar: u32,
        /// What was proven.
        verdict: Verdict,
        /// The most workers seen at once so far.
        workers: u32,
        /// Statement start to verdict.
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
    /// The monitor polled the server (for all its watches at once).
    MonitorPolled {
        /// Round trip.
        took: Duration,
        /// The pool, where it is seen.
        pool: Option<Pool>,
    },
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
    /// A chunked update is over.
    UpdateEnded(UpdateFacts),
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptFacts {
    /// From 1.
    pub attempt: u32,
    /// Workers it had to reach.
    pub bar: u32,
    /// How it ended.
    pub end: AttemptEnd,
    /// The most workers seen at once.
    pub workers: u32,
    /// Leader time: statement start to its end.
    pub ran: Duration,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Its result is kept.
    Accepted(Verdict),
    /// It was short and its result, if any, is gone.
    Rejected(ShortReason),
    /// It failed by itself; with the SQLSTATE, unless the failure was the client's own.
    Failed(Option<SqlState>),
}

impl AttemptEnd {
    /// The value of the `verdict` label.
    #[must_use]
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::Accepted(verdict) => verdict.as_str(),
            Self::Rejected(_) => "short",
            Self::Failed(_) => "failed",
        }
    }

    /// The value of the `reason` label; `none` unless the attempt was short.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Accepted(Verdict::Short(reason)) | Self::Rejected(reason) => reason.as_str(),
            Self::Accepted(_) | Self::Failed(_) => "none",
        }
    }

    /// Whether the attempt's result is kept.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted(_))
    }
}

/// What an execution came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExecutionFacts {
    /// Its outcome, or why there is none.
    pub end: Result<Outcome, FailReason>,
    /// Workers demanded of all attempts but the last.
    pub target: u32,
    /// Workers demanded of the last attempt.
    pub minimum: u32,
    /// The most workers seen in the accepted attempt, else in the best one.
    pub achieved: u32,
    /// Attempts begun.
    pub attempts: u32,
    /// From start to end.
    pub took: Duration,
    /// Time spent waiting for a session, for a lock of the plan, for room, and between attempts.
    pub waited: Duration,
    /// Leader time of the accepted attempt.
    pub ran: Duration,
    /// Leader time of all others.
    pub wasted: Duration,
    /// When it ended: seconds since the Unix epoch.
    pub ended_at_unix: f64,
}

/// What one transaction of a chunk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkFacts {
    /// From 1, in the order of the keys.
    pub chunk: u64,
    /// Transactions begun for it, this one included.
    pub attempt: u32,
    /// How this one ended.
    pub end: ChunkEnd,
    /// Keys in the chunk.
    pub size: u32,
    /// What became of them; all zero unless committed.
    pub rows: RowCounts,
    /// From the first byte sent to the known end.
    pub took: Duration,
}

/// How one transaction of a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    /// It took effect.
    Committed,
    /// It left nothing behind and is tried again.
    Retried(SqlState),
    /// It is given up; its keys are reported.
    Failed(SqlState),
}

impl ChunkEnd {
    /// The words, for counters that exist as 0 from the start.
    pub const WORDS: [&'static str; 3] = ["committed", "retried", "failed"];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Retried(_) => "retried",
            Self::Failed(_) => "failed",
        }
    }

    /// What the transaction failed with.
    #[must_use]
    pub const fn sqlstate(self) -> Option<SqlState> {
        match self {
            Self::Committed => None,
            Self::Retried(sqlstate) | Self::Failed(sqlstate) => Some(sqlstate),
        }
    }
}

/// Keys by what became of them; each is in exactly one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCounts {
    /// Changed by us.
    pub updated: u64,
    /// Held the new value before.
    pub already: u64,
    /// Held neither the expected value nor the new one.
    pub stale: u64,
    /// No row has the key.
    pub missing: u64,
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: Self) {
        self.updated += other.updated;
        self.already += other.already;
        self.stale += other.stale;
        self.missing += other.missing;
    }
}

/// What a chunked update came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateFacts {
    /// Whether each key ended in a class; else some chunks were given up, or the run was stopped.
    pub complete: bool,
    /// Keys by class.
    pub rows: RowCounts,
    /// Chunks committed.
    pub chunks: u64,
    /// Chunks given up.
    pub failed_chunks: u64,
    /// From start to end.
    pub took: Duration,
    /// When it ended: seconds since the Unix epoch.
    pub ended_at_unix: f64,
}

/// Why an execution has no result. The word is the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailReason {
    /// Fewer workers than the minimum.
    BelowMinimum,
    /// A statement failed for good, or the cleanup did.
    Sql,
    /// No session could be had or kept.
    Connection,
    /// Refused before the first attempt.
    Refused,
    /// The deadline passed.
    Deadline,
    /// A COMMIT was sent and its fate is not known.
    InDoubt,
    /// The caller gave up: the future was dropped, or a signal came.
    Interrupted,
}

impl FailReason {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 7] = [
        Self::BelowMinimum,
        Self::Sql,
        Self::Connection,
        Self::Refused,
        Self::Deadline,
        Self::InDoubt,
        Self::Interrupted,
    ];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BelowMinimum => "below_minimum",
            Self::Sql => "sql",
            Self::Connection => "connection",
            Self::Refused => "refused",
            Self::Deadline => "deadline",
            Self::InDoubt => "in_doubt",
            Self::Interrupted => "interrupted",
        }
    }
}

/// How a leader was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelMethod {
    /// `pg_cancel_backend`.
    Cancel,
    /// `pg_terminate_backend`, when a cancel was not enough.
    Terminate,
}

impl CancelMethod {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 2] = [Self::Cancel, Self::Terminate];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Terminate => "terminate",
        }
    }
}

/// What came of a request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelResult {
    /// The signal was sent to the very backend that was meant.
    Sent,
    /// That backend was gone, or ran no statement any more: no signal was sent.
    Missed,
    /// The request could not be made.
    Failed,
}

impl CancelResult {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 3] = [Self::Sent, Self::Missed, Self::Failed];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Missed => "missed",
            Self::Failed => "failed",
        }
    }
}

/// The fate of a commit whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// `pg_xact_status` said committed.
    Committed,
    /// `pg_xact_status` said aborted.
    Aborted,
    /// The server no longer knew; the rows were read again.
    Reread,
    /// Nothing could be learned.
    Unresolved,
}

impl Resolution {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 4] = [Self::Committed, Self::Aborted, Self::Reread, Self::Unresolved];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Reread => "reread",
            Self::Unresolved => "unresolved",
        }
    }
}

/// A SQLSTATE: five ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// What we call a connection that broke without a word: `connection_failure`.
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// What stands for a failure of the client's own: `internal_error`.
    pub const INTERNAL: Self = Self(*b"XX000");

    /// `None` unless it is five ASCII letters or digits.
    #[must_use]
    pub fn new(code: &str) -> Option<Self> {
        let bytes: [u8; 5] = code.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }

    /// The five characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The class, its first two characters: a low-cardinality label.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose event it is.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The configured task name; the only free text that becomes a label.
    pub task: Arc<str>,
}

/// Receives every event of the executions it was given to.
pub trait Observer: Send + Sync {
    /// A task was configured, and may run later: the moment to export its counters as 0.
    fn announce(&self, _scope: &Scope) {}

    /// Something happened. Called on the job's own task: do not block.
    fn observe(&self, scope: &Scope, event: &Event);
}

/// Hands each event to several observers, in order.
#[derive(Clone, Default)]
pub struct Observers(Arc<[Arc<dyn Observer>]>);

impl Observers {
    /// The observers in the order in which they hear of an event.
    #[must_use]
    pub fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self(observers.into())
    }
}

impl std::fmt::Debug for Observers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Observers({})", self.0.len())
    }
}

impl Observer for Observers {
    fn announce(&self, scope: &Scope) {
        self.0.iter().for_each(|observer| observer.announce(scope));
    }

    fn observe(&self, scope: &Scope, event: &Event) {
        self.0.iter().for_each(|observer| observer.observe(scope, event));
    }
}
