//! A night, as it is planned and as it went. Times are in milliseconds since its beginning.

use headcount::Outcome;

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
    pub seed: u64,
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
    /// The most slots held, and workers used, at any time.
    pub most_held: u32,
    pub most_used: u32,
    /// Slots held by jobs that were dead, ever.
    pub held_by_the_dead: u32,
}
