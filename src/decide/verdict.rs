//! The verdict: what the ticks prove about one attempt.
//!
//! A Gather registers all its workers in one go and nothing joins later (parallel.c, nodeGather.c),
//! so a count that stands still below the bar is final. But the Gather may be reached late: a sort or
//! a function call can run serially for minutes first. Waiting a fixed time would cancel those, and
//! would let the truly short ones burn that time. So the window asks for evidence, in this order:
//!
//! 1. workers >= bar: [`Verdict::Enough`], at once.
//! 2. Some workers, below the bar: short when the most seen has not grown for `settle`; or at once,
//!    confirmed by a second tick, when the pool has no free slot, since then nothing more can start.
//!    A count that a smaller Gather of the plan explains in full proves nothing while there is room.
//! 3. No worker: while each tick showed room for the bar, the Gather was not reached, keep waiting.
//!    With a pool that was full at some tick, or cannot be seen: short after `launch_wait` of active
//!    time. Waiting for a lock is not active time.
//! 4. The statement ended first: [`Verdict::FinishedEarly`].
//! 5. No evidence, no cancel: a blind monitor keeps the verdict open; if the statement ends while
//!    it is blind, [`Verdict::Unverified`].
//!
//! A count that returns to zero starts over: CREATE TABLE AS builds the TOAST index of its table with
//! a worker that lives a few milliseconds, and that is not the launch.
//!
//! ```text
//!              tick: workers >= bar
//!   Open ───────────────────────────────> Enough
//!    │  ├── tick: evidence of too few ───> Short(reason)
//!    │  ├── the statement ended ─────────> FinishedEarly
//!    └──┴── ... while blind ─────────────> Unverified
//! ```

use std::time::Duration;

/// The leader as one tick saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaderState {
    /// It runs a statement.
    Active,
    /// It runs a statement that waits for a lock (`wait_event_type = 'Lock'`).
    WaitingForLock,
    /// It runs no statement: the statement has not arrived yet, has ended, or a closure pauses.
    Idle,
    /// No backend has that pid and start time.
    Gone,
}

/// The server's pool of parallel workers: `least(max_parallel_workers, max_worker_processes)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Pool {
    /// Parallel workers running now, of everybody, ours included.
    pub used: u32,
    /// Slots in all.
    pub size: u32,
}

impl Pool {
    /// Slots that nobody uses.
    #[must_use]
    pub const fn free(self) -> u32 {
        self.size.saturating_sub(self.used)
    }

    /// Whether a leader that has `own` workers already could have `bar`.
    #[must_use]
    pub const fn has_room_for(self, bar: u32, own: u32) -> bool {
        self.free() + own >= bar
    }
}

/// One sample of the monitor for one leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Since the attempt began.
    pub at: Duration,
    /// Parallel workers whose `leader_pid` is the leader.
    pub workers: u32,
    /// The leader's own state.
    pub leader: LeaderState,
    /// The pool, if the monitor's role may see it.
    pub pool: Option<Pool>,
}

/// Why an attempt was short. The word is the metric label, the span attribute and what people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortReason {
    /// The pool was seen without room for the bar.
    PoolExhausted,
    /// Fewer started than the bar, and the pool was not seen to be full.
    UnderLaunched,
    /// Not one worker started in the time given, and the pool cannot be seen.
    NoLaunch,
}

impl ShortReason {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 3] = [Self::PoolExhausted, Self::UnderLaunched, Self::NoLaunch];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PoolExhausted => "pool_exhausted",
            Self::UnderLaunched => "under_launched",
            Self::NoLaunch => "no_launch",
        }
    }
}

/// What the ticks prove about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The bar was reached.
    Enough,
    /// Fewer workers than the bar, proven.
    Short(ShortReason),
    /// The statement ended before anything was proven.
    FinishedEarly,
    /// The statement ended while the monitor could not see.
    Unverified,
}

impl Verdict {
    /// The words of all verdicts, for counters that exist as 0 from the start.
    pub const WORDS: [&'static str; 4] = ["enough", "short", "finished_early", "unverified"];

    /// The word for labels, attributes and people; the reason of a short one is a word of its own.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enough => "enough",
            Self::Short(_) => "short",
            Self::FinishedEarly => "finished_early",
            Self::Unverified => "unverified",
        }
    }

    /// The reason of a short verdict.
    #[must_use]
    pub const fn reason(self) -> Option<ShortReason> {
        match self {
            Self::Short(reason) => Some(reason),
            _ => None,
        }
    }
}

/// How long to look before a count is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Decide as soon as the evidence allows.
    Prompt {
        /// A count below the bar is final when the most seen has not grown for this long.
        settle: Duration,
        /// Active time without one worker before a pool that is full or unseen is blamed.
        launch_wait: Duration,
    },
    /// The origin's timing: no look before `wait`, short at the first look at or after `window`.
    Classic {
        /// Time before the first look.
        wait: Duration,
        /// Time from the start to the end of the window.
        window: Duration,
    },
}

/// Collects the ticks of one attempt until they prove something.
#[derive(Debug, Clone)]
pub struct Window {
    bar: u32,
    patience: Patience,
    smaller_launches: Vec<u32>,
    /// The most workers since the count last stood at zero, and when it last grew.
    peak: u32,
    grown_at: Duration,
    /// The most workers seen at once in the whole attempt.
    most: u32,
    active: Duration,
    last: Option<Tick>,
    saw_pool: bool,
    saw_no_room: bool,
    exhausted_ticks: u32,
    blind: bool,
    verdict: Option<Verdict>,
}

/// Ticks in a row that must show a pool without a free slot: the rows of `pg_stat_activity` are not
/// consistent with each other, so one tick alone may be off.
const CONFIRMING_TICKS: u32 = 2;

impl Window {
    /// A window that demands `bar` workers. `launches` are the plan's `Workers Planned`, one a Gather;
    /// empty when there was no plan to inspect.
    #[must_use]
    pub fn new(bar: u32, patience: Patience, launches: &[u32]) -> Self {
        Self {
            bar,
            patience,
            smaller_launches: launches.iter().copied().filter(|&planned| planned < bar).collect(),
            peak: 0,
            grown_at: Duration::ZERO,
            most: 0,
            active: Duration::ZERO,
            last: None,
            saw_pool: false,
            saw_no_room: false,
            exhausted_ticks: 0,
            blind: false,
            verdict: None,
        }
    }

    /// The most workers seen at once.
    #[must_use]
    pub const fn most_workers(&self) -> u32 {
        self.most
    }

    /// The verdict, once there is one. It never changes.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The monitor lost its connection, or its right to see.
    pub const fn on_blind(&mut self) {
        self.blind = true;
        self.last = None;
        self.exhausted_ticks = 0;
    }

    /// The statement ended. Settles the verdict if nothing was proven before.
    pub fn on_end(&mut self) -> Verdict {
        let ended = if self.blind { Verdict::Unverified } else { Verdict::FinishedEarly };
        *self.verdict.get_or_insert(ended)
    }

    /// One sample, in order of time. Returns the verdict on the tick that brings it, and only then.
    pub fn on_tick(&mut self, tick: Tick) -> Option<Verdict> {
        self.blind = false;
        self.most = self.most.max(tick.workers);
        if self.verdict.is_some() {
            return None;
        }
        self.note(tick);
        self.verdict = match self.patience {
            Patience::Prompt { settle, launch_wait } => self.prompt(tick, settle, launch_wait),
            Patience::Classic { wait, window } => self.classic(tick, wait, window),
        };
        self.verdict
    }

    /// Takes the tick into the counts the rules speak of.
    fn note(&mut self, tick: Tick) {
        if let Some(last) = self.last
            && last.leader == LeaderState::Active
            && tick.leader == LeaderState::Active
        {
            self.active += tick.at.saturating_sub(last.at);
        }
        self.last = Some(tick);
        if tick.workers == 0 {
            self.peak = 0;
        } else if tick.workers > self.peak {
            self.peak = tick.workers;
            self.grown_at = tick.at;
        }
        self.saw_pool |= tick.pool.is_some();
        self.saw_no_room |= tick.pool.is_some_and(|pool| !pool.has_room_for(self.bar, tick.workers));
        let exhausted = tick.workers > 0 && tick.pool.is_some_and(|pool| pool.free() == 0);
        self.exhausted_ticks = if exhausted { self.exhausted_ticks + 1 } else { 0 };
    }

    fn prompt(&self, tick: Tick, settle: Duration, launch_wait: Duration) -> Option<Verdict> {
        if tick.workers >= self.bar {
            return Some(Verdict::Enough);
        }
        if tick.workers > 0 {
            let settled = tick.at.saturating_sub(self.grown_at) >= settle && !self.is_smaller_gather(tick);
            let nothing_more_can_start = self.exhausted_ticks >= CONFIRMING_TICKS;
            return (settled || nothing_more_can_start).then(|| self.short());
        }
        let doubtful = self.saw_no_room || tick.pool.is_none();
        // Of a leader that runs nothing at this moment there is nothing to stop.
        let active = tick.leader == LeaderState::Active;
        (doubtful && active && self.active >= launch_wait).then(|| self.short())
    }

    fn classic(&self, tick: Tick, wait: Duration, window: Duration) -> Option<Verdict> {
        if tick.at < wait {
            return None;
        }
        if tick.workers >= self.bar {
            return Some(Verdict::Enough);
        }
        (tick.at >= window).then(|| self.short())
    }

    /// A Gather that was planned below the bar, fully launched, while the pool always had room.
    fn is_smaller_gather(&self, tick: Tick) -> bool {
        tick.pool.is_some() && !self.saw_no_room && self.smaller_launches.contains(&self.peak)
    }

    const fn short(&self) -> Verdict {
        Verdict::Short(if self.saw_no_room {
            ShortReason::PoolExhausted
        } else if self.peak == 0 && !self.saw_pool {
            ShortReason::NoLaunch
        } else {
            ShortReason::UnderLaunched
        })
    }
}
