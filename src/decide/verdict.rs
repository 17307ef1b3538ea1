//! The verdict: what the ticks prove about one attempt of one statement.
//!
//! Each launch is judged by itself ([`launch`](super::launch)); this says what the launches mean for the
//! attempt, in this order:
//!
//! 1. A launch of at least the required number, or launches alive together that have it:
//!    [`Verdict::Enough`]. A launch that is proven short: [`Verdict::Short`], at once.
//! 2. No worker: short only when there was no room (a slot of the pool and a process of the server), without
//!    interruption, up to now, for the longer of `launch_wait` and a tenth of the active time. A Gather may be reached late: a sort or a function call
//!    can run serially for minutes first, and waiting for a lock is not active time. Where room cannot be
//!    seen, a plan with launches is short after `launch_wait` of active time.
//! 3. The statement ended first: [`Verdict::FinishedEarly`].
//! 4. No evidence, no cancel: a blind monitor keeps the verdict open; if the statement ends while it is
//!    blind, [`Verdict::Unverified`].
//!
//! After "enough" the sampling goes on. A later launch that is proven short is a [`Shortfall`], never hidden: it cancels the
//! statement only with `every_launch` (`run/race.rs`) or `strict` (`run/attempt.rs`). The policy `classic` counts once.
//!
//! ```text
//!              tick: a launch has enough
//!   Open ───────────────────────────────> Enough ── tick: a later launch is short ──> Shortfall
//!    │  ├── tick: evidence of too few ───> Short(reason)
//!    │  ├── the statement ended ─────────> FinishedEarly
//!    └──┴── ... while blind ─────────────> Unverified
//! ```

mod ending;
mod judging;

use std::collections::HashMap;
use std::time::Duration;

use super::launch::{Demand, Launch, PendingLaunches, Shortfall};
use super::pace::Outlook;
use super::room::{Lately, Room};
pub use super::short_reason::ShortReason;
pub use super::tick::{LeaderState, Pool, Tick};

/// What the ticks prove about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The required workers were reached.
    Enough,
    /// Fewer workers than what is required, proven.
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
        /// Workers that show up no more than this apart belong to one launch.
        settle: Duration,
        /// Active time without one worker, while there is no room or it is not seen, before that is blamed.
        launch_wait: Duration,
    },
    /// Fixed timing: no look before `wait`, short at the first look at or after `window`.
    Classic {
        /// Time before the first look.
        wait: Duration,
        /// Time from the start to the end of the window.
        window: Duration,
    },
}

/// What a tick brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The verdict; once.
    Verdict(Verdict),
    /// A later launch was short, after the verdict "enough".
    LaterLaunch(Shortfall),
}

/// Collects the ticks of one attempt of one statement until they prove something, and what comes after.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "facts that were seen, each by itself")]
pub struct Window {
    pub(super) demand: Demand,
    patience: Patience,
    /// Whether more than one launch may come.
    several: bool,
    pending: PendingLaunches,
    /// Workers of the last ticks, and when each was seen last: one that is away for a tick is no new one.
    known: HashMap<i32, Duration>,
    launch: Option<Launch>,
    lately: Lately,
    /// The most workers seen at once.
    most: u32,
    /// What a launch was found to have, or several together.
    reached: u32,
    active: Duration,
    /// Active time without a worker and without room, up to now.
    lack_so_far: Duration,
    /// The longest such time.
    longest_lack: Duration,
    /// The workers of each launch that was seen, as far as they were told apart.
    seen: Vec<u32>,
    /// The fewest slots that were free at a look.
    fewest_free: Option<u32>,
    /// Active time without a worker, up to now.
    alone: Duration,
    /// All active time without a worker.
    alone_in_total: Duration,
    /// When a worker was seen last.
    seen_at: Option<Duration>,
    /// When a worker was last seen, or had just left, while there was no room for another.
    full_beside_worker_at: Option<Duration>,
    /// Whether it had no worker for long after a launch beside which there was no room: the next one may have found none.
    alone_after_full: bool,
    last: Option<Tick>,
    launched: bool,
    shortfall: Option<Shortfall>,
    short_launches: u32,
    /// What was lacking where a launch had less than what was required.
    condemned: Option<ShortReason>,
    concurrent_unproven: bool,
    /// Whether a launch without room around it is explained by a small one of the plan.
    mistakable: bool,
    /// The smallest launch that the attempt was accepted with, below the target, where there may have been no room for more.
    accepted: Option<u32>,
    /// Whether there was room for more around one that it was accepted with.
    accepted_with_room: bool,
    blind: bool,
    saw_pool: bool,
    saw_no_room: bool,
    /// Whether there was room at some look, or it was not seen.
    saw_room: bool,
    /// Whether surely no slot was free just before the statement began.
    began_full: bool,
    /// What was lacking at some tick without a worker.
    lack_without_worker: Option<ShortReason>,
    /// Why a launch of the plan had no worker, if it came at all.
    suspicion: Option<ShortReason>,
    launches_unproven: bool,
    /// Whether a launch that the plan has for certain, and that is no small part of it, was never seen.
    unmet: bool,
    verdict: Option<Verdict>,
}

impl Window {
    /// Slots that were free just before the statement began, if that is known.
    #[must_use]
    pub fn with_free(mut self, free: Option<u32>) -> Self {
        self.lately = Lately::begin(free);
        self.began_full = free == Some(0);
        self
    }

    /// The fewest slots that were free at one of the last looks: what the next statement may find.
    #[must_use]
    pub fn least_free(&self) -> Option<u32> {
        self.lately.least_free()
    }

    /// A window for one attempt of a statement.
    #[must_use]
    pub fn new(demand: Demand, patience: Patience) -> Self {
        let pending = PendingLaunches::new(demand.planned.clone());
        Self {
            several: demand.is_of_unknown() || pending.has_several(),
            demand,
            patience,
            pending,
            known: HashMap::new(),
            launch: None,
            lately: Lately::default(),
            most: 0,
            reached: 0,
            active: Duration::ZERO,
            lack_so_far: Duration::ZERO,
            longest_lack: Duration::ZERO,
            seen: Vec::new(),
            fewest_free: None,
            alone: Duration::ZERO,
            alone_in_total: Duration::ZERO,
            seen_at: None,
            full_beside_worker_at: None,
            alone_after_full: false,
            last: None,
            launched: false,
            shortfall: None,
            short_launches: 0,
            condemned: None,
            concurrent_unproven: false,
            mistakable: false,
            accepted: None,
            accepted_with_room: false,
            blind: false,
            saw_pool: false,
            saw_no_room: false,
            saw_room: false,
            began_full: false,
            lack_without_worker: None,
            suspicion: None,
            launches_unproven: false,
            unmet: false,
            verdict: None,
        }
    }

    /// Workers demanded of it, as its plan can have them.
    #[must_use]
    pub const fn target(&self) -> u32 {
        self.demand.target
    }

    /// How long it was at work: waiting for a lock is not.
    #[must_use]
    pub const fn active(&self) -> Duration {
        self.active
    }

    /// The most workers seen at once.
    #[must_use]
    pub const fn most_workers(&self) -> u32 {
        self.most
    }

    /// The most workers that are known to have been at work for one launch, or at once: some may have left before the last
    /// of a launch were seen.
    #[must_use]
    pub fn reached(&self) -> u32 {
        self.most.max(self.reached)
    }

    /// Workers achieved, measured against the target: of a statement with launches that were proven short, the
    /// smallest share of what each needed; else what was reached.
    #[must_use]
    #[allow(dead_code, reason = "for the models of the tests and the example")]
    pub fn achieved(&self) -> u32 {
        self.shortfall.map_or(self.reached(), |short| short.of_target(self.demand.target))
    }

    /// Which workers are still to come, as far as the plan goes.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        let Some(at_once) = self.demand.at_once else { return Outlook::Growth };
        let planned = self.demand.planned.as_deref().unwrap_or_default();
        let all: u32 = planned.iter().map(|launch| launch.workers).sum();
        if all == at_once && self.most >= all && planned.iter().all(|launch| launch.once) {
            return Outlook::Nothing;
        }
        let workers = self.last.map_or(0, |tick| tick.workers);
        if workers < at_once { Outlook::Growth } else { Outlook::Launches }
    }

    /// The launch that was proven short with the smallest share of what it needed.
    #[must_use]
    pub const fn shortfall(&self) -> Option<Shortfall> {
        self.shortfall
    }

    /// Whether such a launch has what this attempt requires all the same: the last attempt requires only the minimum.
    #[must_use]
    pub const fn accepts(&self, short: Shortfall) -> bool {
        short.got > 0 && short.got >= self.demand.required
    }

    /// What was lacking where a launch was proven to have less than this attempt requires.
    #[must_use]
    pub const fn condemned(&self) -> Option<ShortReason> {
        self.condemned
    }

    /// Launches that were proven short.
    #[must_use]
    pub const fn short_launches(&self) -> u32 {
        self.short_launches
    }

    /// Whether "enough" rests on several launches that were alive together without room left, while the plan may
    /// have more at once: each of them may lack a worker.
    #[must_use]
    pub const fn is_concurrent_unproven(&self) -> bool {
        self.concurrent_unproven
    }

    /// The verdict, once there is one. It never changes.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The monitor lost its connection, or its right to see.
    pub fn on_blind(&mut self) {
        self.blind = true;
        self.last = None;
        self.lack_so_far = Duration::ZERO;
        self.lately.clear();
        if let Some(launch) = &mut self.launch {
            launch.doubt();
        }
    }

    /// The statement ended. Settles the verdict if nothing was proven before.
    pub fn on_end(&mut self) -> Verdict {
        self.judge_end();
        let ended = if self.blind { Verdict::Unverified } else { Verdict::FinishedEarly };
        *self.verdict.get_or_insert(ended)
    }

    /// One sample, in order of time, with the pids of the leader's workers. Returns what it brought.
    pub fn on_tick(&mut self, tick: Tick, pids: &[i32]) -> Option<News> {
        self.blind = false;
        self.saw_pool |= tick.pool.is_some();
        let required = self.demand.required;
        self.saw_no_room |= tick.pool.is_some_and(|pool| !pool.has_room_for(required, tick.workers));
        let news = match self.patience {
            Patience::Prompt { settle, launch_wait } => self.prompt(tick, pids, settle, launch_wait),
            Patience::Classic { wait, window } => {
                self.most = self.most.max(tick.workers);
                self.classic(tick, wait, window).map(News::Verdict)
            }
        };
        self.last = Some(tick);
        if let Some(News::Verdict(verdict)) = news {
            self.verdict = Some(verdict);
        }
        news
    }

    fn prompt(&mut self, tick: Tick, pids: &[i32], settle: Duration, launch_wait: Duration) -> Option<News> {
        let room = Room::seen(tick.pool, tick.processes);
        self.add_time(&tick, room, settle);
        let (new, met) = self.new_workers(tick.at, pids, settle);
        self.assign(tick, (&new, met), room, settle);
        if let Some(launch) = &mut self.launch {
            launch.look(pids);
        }
        self.most = self.most.max(self.at_once(&tick));
        let short =
            self.judge_launch(tick.at, settle).or_else(|| self.judge_absence(&tick, room, launch_wait));
        self.lately.note(&tick, room, settle);
        if self.verdict.is_none() && self.has_enough(&tick, room) {
            if let Some(short) = short {
                self.record_shortfall(short);
            }
            return Some(News::Verdict(Verdict::Enough));
        }
        match (self.verdict, short?) {
            (None, short) => {
                self.record_shortfall(short);
                Some(News::Verdict(Verdict::Short(short.reason)))
            }
            (Some(Verdict::Enough), short) => {
                self.record_shortfall(short);
                Some(News::LaterLaunch(short))
            }
            (Some(_), _) => None,
        }
    }

    /// Active time: waiting for a lock is none.
    fn add_time(&mut self, tick: &Tick, room: Room, settle: Duration) {
        let lacks = tick.workers == 0 && room.lack().is_some();
        if tick.leader == LeaderState::Active {
            self.lack_without_worker = room.lack().filter(|_| lacks).or(self.lack_without_worker);
            self.saw_room |= room.lack().is_none();
            self.fewest_free = self.fewest_free.into_iter().chain(tick.free()).min();
        }
        if let Some(last) = self.last
            && last.leader == LeaderState::Active
            && tick.leader == LeaderState::Active
        {
            let passed = tick.at.saturating_sub(last.at);
            self.active += passed;
            self.lack_so_far += passed;
            self.alone += passed;
            self.alone_in_total += if tick.workers == 0 { passed } else { Duration::ZERO };
        }
        if tick.workers > 0 {
            self.alone = Duration::ZERO;
            self.seen_at = Some(tick.at);
            self.full_beside_worker_at = room.lack().map(|_| tick.at).or(self.full_beside_worker_at);
        }
        if !lacks {
            self.lack_so_far = Duration::ZERO;
        }
        self.longest_lack = self.longest_lack.max(self.lack_so_far);
        // The slots of those that have just gone may not be free yet, and others have taken what else there was.
        if tick.workers == 0 && self.lately.least_left(tick) == Some(0) {
            self.full_beside_worker_at = Some(tick.at);
        }
        self.alone_after_full |= self.alone >= settle.max(self.active / 10) && self.was_left_crowded(settle);
    }

    /// A launch that has had no worker at all.
    fn judge_absence(&mut self, tick: &Tick, room: Room, launch_wait: Duration) -> Option<Shortfall> {
        // Of a leader that runs nothing at this moment there is nothing to stop.
        if tick.workers > 0 || tick.leader != LeaderState::Active || self.demand.required == 0 {
            return None;
        }
        let lacking = room.lack().filter(|_| self.lack_so_far >= launch_wait.max(self.active / 10));
        let sure = self.verdict.is_none();
        let is_known = self.pending.is_known();
        let awaited = match self.pending.largest(|launch| sure || launch.heavy) {
            None if is_known || self.launched || !self.demand.expects_workers => return None,
            known => known.unwrap_or(self.demand.target).min(self.demand.target),
        };
        let reason = match (lacking, room) {
            (Some(reason), _) => reason,
            (None, Room::Unseen) if is_known && !self.launched && self.active >= launch_wait => {
                ShortReason::NoLaunch
            }
            _ => return None,
        };
        // Told once: what did not come is no longer awaited.
        self.lack_so_far = Duration::ZERO;
        self.pending.forget_largest();
        Some(Shortfall { reason, got: 0, needed: awaited })
    }

    /// What a launch had: those that have left again count, unless they may be those of a launch before, which has left it
    /// too few slots.
    pub(super) fn had(&self, launch: &Launch) -> u32 {
        if self.several && !launch.had_room() { launch.peak } else { launch.size }
    }

    /// Workers that are at work together. Where several launches may come, the last workers of one may still be seen while
    /// those of the next begin: those of different launches are together if they still are when the last is complete.
    fn at_once(&self, tick: &Tick) -> u32 {
        let may_be_two = |launch: &&Launch| self.several && !launch.is_complete() && !launch.had_room();
        let begun = self.launch.as_ref().filter(may_be_two);
        begun.map_or(tick.workers, Launch::at_work)
    }

    fn has_enough(&mut self, tick: &Tick, room: Room) -> bool {
        let required = self.demand.required;
        let launch = self.launch.as_ref().map_or(0, |launch| self.had(launch));
        if self.at_once(tick) < required && launch < required {
            return false;
        }
        if let Some(launch) = &mut self.launch {
            launch.accepted = true;
        }
        // Those that left again before all were there were workers of it, too.
        self.reached = self.reached.max(required);
        let most = self.demand.at_once.unwrap_or(u32::MAX);
        self.concurrent_unproven = launch < required && room.lack().is_some() && tick.workers < most;
        true
    }

    fn record_shortfall(&mut self, short: Shortfall) {
        self.short_launches += 1;
        if !self.accepts(short) {
            self.condemned.get_or_insert(short.reason);
        }
        let target = self.demand.target;
        if self.shortfall.is_none_or(|worst| short.of_target(target) < worst.of_target(target)) {
            self.shortfall = Some(short);
        }
    }

    fn classic(&self, tick: Tick, wait: Duration, window: Duration) -> Option<Verdict> {
        if self.verdict.is_some() || tick.at < wait {
            return None;
        }
        if tick.workers >= self.demand.required {
            return Some(Verdict::Enough);
        }
        (tick.at >= window).then_some(Verdict::Short(if self.saw_no_room {
            ShortReason::PoolExhausted
        } else if tick.workers == 0 && !self.saw_pool {
            ShortReason::NoLaunch
        } else {
            ShortReason::UnderLaunched
        }))
    }
}
