//! A night, as it is planned and as it went. Times are in milliseconds since its beginning.

use crate::decide::attempt::Outcome;

/// How the jobs of a fleet behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The origin: start, wait, look, cancel, sleep two seconds.
    Classic,
    /// Decide on evidence, start when there is room.
    Prompt,
    /// The same, after taking slots in a queue.
    Reserve,
}

impl Policy {
    pub const ALL: [Self; 3] = [Self::Classic, Self::Prompt, Self::Reserve];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Prompt => "prompt",
            Self::Reserve => "reserve",
        }
    }
}

/// A job as it is planned.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub arrives: u64,
    pub target: u32,
    pub minimum: u32,
    /// How long it would take without a worker.
    pub work: u64,
    pub priority: bool,
    /// When its process is killed, if it still runs.
    pub dies: Option<u64>,
}

/// Somebody who takes workers and asks nobody.
#[derive(Debug, Clone, Copy)]
pub struct Grab {
    pub at: u64,
    pub workers: u32,
    pub lasts: u64,
}

/// A night.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    pub pool: u32,
    pub jobs: Vec<Plan>,
    pub grabs: Vec<Grab>,
    pub reserve_wait: u64,
    pub degrade_after: Option<u64>,
    /// Gathers of each job, which run together and have its target in all; 0 counts as 1.
    pub gathers: u32,
    pub seed: u64,
    /// Put in by a test, to see it found.
    pub defect: Option<Defect>,
}

/// What could be wrong with a server, or a client.
#[allow(dead_code, reason = "only tests put one in")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The server keeps the locks of a client that died.
    LocksOutliveTheirClient,
    /// The server does not show the locks that are held, and grants them again.
    LocksAreShared,
    /// The server starts more workers than its pool has.
    PoolIsOverbooked,
    /// A client divides its slots among no Gathers: each may ask for all.
    EachGatherHasAll,
    /// A client gives its slots back when it cancels, not when the workers are gone.
    SlotsAreFreedEarly,
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// Slots are held for a process that is no more.
    SlotsOfTheDead,
    /// The server's table says something else than what a job was granted.
    SlotsAstray,
    /// Jobs were granted more slots than there are.
    MoreSlotsThanThePool,
    /// More workers run than the pool has.
    MoreWorkersThanThePool,
    /// A job has more workers than slots.
    WorkersWithoutSlots,
    /// Workers are left when all is over.
    WorkersWithoutEnd,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Ended(Outcome),
    Died,
}

/// What became of a job.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    pub end: End,
    /// From its arrival to the start of the attempt that was kept, or to its end.
    pub waited: u64,
    pub ended: u64,
    pub attempts: u32,
    /// Processes times milliseconds of attempts that were not kept.
    pub wasted: u64,
    /// The same of the one that was.
    pub useful: u64,
}

/// What became of a night.
#[derive(Debug)]
pub struct Night {
    pub fates: Vec<Fate>,
    /// The jobs in the order in which they joined the queue, and in which they left it with slots.
    pub joined: Vec<usize>,
    pub granted: Vec<usize>,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
}
