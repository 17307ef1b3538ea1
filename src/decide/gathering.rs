//! Gathering: slots of a pool that others never leave alone, taken one by one as they become free, and held until there
//! are enough.
//!
//! A *placeholder* is a session of ours whose statement sleeps in exactly one parallel worker: it holds one slot of the
//! pool. Once as many are held as the statement wants workers, it starts. Where the server has processes left, it starts
//! while they still hold, with its own ceiling raised by as many (`max_parallel_workers` is each session's own): its
//! workers find room whatever others do, and the placeholders go when they are seen. Until then the pool is exceeded. Where
//! processes are scarce, the placeholders go first, and others may be quicker.
//!
//! ```text
//!            room, or none for `after`                     enough are held
//!   waiting ──────────────────────────> gathering ──────────────────────────> Start(hand over)
//!      ^                                 │  ^  └── a slot is free: Hold(n)
//!      └── as long as it had held ── LetGo └── a try found the slot taken: a pause, then again
//! ```
//!
//! Room that is seen is held, too, before the statement starts: among others it is there for moments.
//!
//! Held slots are idle. So they are held no longer than `at_most`, then given back for as long; and `leave` processes are
//! left alone, and as many slots where others than queries need some (autovacuum, from 19 on).
//!
//! A role that does not see the pool cannot see whether it has room either. It sees its own workers, so it gathers at
//! once, and tries for all that is missing each time.

use std::time::Duration;

use super::tick::Pool;

/// Between two tries after one that found its slot taken: twice as long after each, up to the second. Each such try leaves a
/// line in the server's log.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What one look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The pool as sessions without a ceiling of their own have it; `None` where it is not seen.
    pub pool: Option<Pool>,
    /// The server's processes; with the pool.
    pub processes: Option<Pool>,
    /// Slots in all as a placeholder's session has it; where known.
    pub size: Option<u32>,
    /// How many processes the server may have beyond those of a full pool, by its settings; where known.
    pub beyond: Option<u32>,
    /// Placeholders whose worker is seen.
    pub held: u32,
    /// Placeholders that were begun and whose worker is not seen yet.
    pub trying: u32,
}

/// How the slots that are held become the statement's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandOver {
    /// It starts while they are held, with its ceiling raised by as many. They go when its workers are seen.
    WhileHeld,
    /// They go first: there are too few processes for both.
    AfterCancel,
}

/// How a gathering ended.
///
/// ```no_run
/// # fn log(event: &headcount::Event) {
/// use headcount::Event;
/// use headcount::event::GatheringEnd;
///
/// if let Event::GatheringEnded { end: GatheringEnd::LetGo, held, .. } = event {
///     println!("{held} slots were held for too long and given back");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GatheringEnd {
    /// Enough slots were held, and the statement has got them.
    HandedOver(HandOver),
    /// They were held for as long as is allowed, and given back.
    LetGo,
    /// The time to wait for room is over.
    TimedOut,
    /// The execution ended first.
    Interrupted,
    /// The server could not be asked.
    Failed,
}

impl GatheringEnd {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 6] = [
        Self::HandedOver(HandOver::WhileHeld),
        Self::HandedOver(HandOver::AfterCancel),
        Self::LetGo,
        Self::TimedOut,
        Self::Interrupted,
        Self::Failed,
    ];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandedOver(HandOver::WhileHeld) => "while_held",
            Self::HandedOver(HandOver::AfterCancel) => "after_cancel",
            Self::LetGo => "let_go",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

/// What to do after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look again.
    Wait,
    /// Begin so many placeholders.
    Hold(u32),
    /// Enough slots are held.
    Start(HandOver),
    /// End all placeholders; there is a rest now.
    LetGo,
    /// What is left to others is all that there is.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until room has been lacking for long enough.
    Waiting,
    /// Since the first slot was held, if one was.
    Gathering(Option<Duration>),
    /// Until then.
    Resting(Duration),
}

/// How long to wait and to hold, and what to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Time without room before it begins; between two gatherings, too.
    pub after: Duration,
    /// The longest time that slots are held idle.
    pub at_most: Duration,
    /// Processes that are left to others.
    pub leave: u32,
    /// Slots of the pool that are left to others.
    pub leave_slots: u32,
}

/// One wait for slots, from the first look without room to the start.
#[derive(Debug, Clone, Copy)]
pub struct Gathering {
    need: u32,
    bounds: Bounds,
    phase: Phase,
    /// Since when there has been too little room.
    lacking: Option<Duration>,
    failures: u32,
    next_try: Duration,
}

impl Gathering {
    /// Wants `need` slots, at least 1.
    #[must_use]
    pub const fn new(need: u32, bounds: Bounds) -> Self {
        let need = if need == 0 { 1 } else { need };
        Self { need, bounds, phase: Phase::Waiting, lacking: None, failures: 0, next_try: Duration::ZERO }
    }

    /// Wants so many from now on, at least 1.
    pub const fn wants(&mut self, need: u32) {
        self.need = if need == 0 { 1 } else { need };
    }

    /// Looks at `at`, since the wait began.
    #[must_use]
    pub fn on_look(&mut self, at: Duration, look: Look) -> Step {
        let most = self.most(look);
        if most == 0 {
            return Step::Nothing;
        }
        // More than may be held is not waited for: the statement finds the rest, or it does not.
        let need = self.need.min(most);
        let has_room = look.pool.is_some_and(|pool| pool.free() + look.held >= need);
        if has_room {
            self.lacking = None;
        }
        let lacking = if has_room { at } else { *self.lacking.get_or_insert(at) };
        // Who does not see the pool has nothing to wait for, nor who sees room.
        let is_lacking = look.pool.is_some() && !has_room;
        match self.phase {
            Phase::Resting(until) if at < until && !has_room => return Step::Wait,
            Phase::Waiting if is_lacking && at.saturating_sub(lacking) < self.bounds.after => {
                return Step::Wait;
            }
            Phase::Resting(_) | Phase::Waiting => self.phase = Phase::Gathering(None),
            Phase::Gathering(_) => {}
        }
        if look.held >= need {
            return Step::Start(self.hand_over(look));
        }
        if let Phase::Gathering(since) = &mut self.phase {
            if look.held > 0 {
                let since = *since.get_or_insert(at);
                if at.saturating_sub(since) >= self.bounds.at_most {
                    self.phase = Phase::Resting(at + self.bounds.at_most.max(self.bounds.after));
                    return Step::LetGo;
                }
            } else {
                *since = None;
            }
        }
        match next(look, need) {
            0 => Step::Wait,
            _ if at < self.next_try => Step::Wait,
            more => Step::Hold(more),
        }
    }

    /// A placeholder had no worker: somebody was quicker.
    pub fn on_taken(&mut self, at: Duration) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.next_try = at + pause;
    }

    /// A placeholder has its worker.
    pub const fn on_held(&mut self) {
        self.failures = 0;
    }

    /// The statement has started with what was held. Should it be short all the same, the next gathering begins after
    /// the wait that each begins with.
    pub const fn on_started(&mut self, at: Duration) {
        self.phase = Phase::Resting(at.saturating_add(self.bounds.after));
        self.lacking = None;
    }

    /// The most slots that may be held.
    fn most(&self, look: Look) -> u32 {
        let Look { pool, processes, size, .. } = look;
        let slots = pool.map(|pool| pool.size).or(size).unwrap_or(u32::MAX);
        let all = processes.map_or(u32::MAX, |processes| processes.size);
        slots.saturating_sub(self.bounds.leave_slots).min(all.saturating_sub(self.bounds.leave))
    }

    /// Where processes are not seen, there are those that the settings allow beyond the pool's.
    fn hand_over(&self, look: Look) -> HandOver {
        let enough = self.need.saturating_add(self.bounds.leave);
        let free = look.processes.map(Pool::free).or(look.beyond);
        if free.is_some_and(|free| free >= enough) { HandOver::WhileHeld } else { HandOver::AfterCancel }
    }
}

/// How many placeholders to begin. Where the pool is not seen, all are tried now and then.
fn next(look: Look, need: u32) -> u32 {
    let Look { pool, processes, held, trying, .. } = look;
    let missing = need.saturating_sub(held + trying);
    let Some(pool) = pool else { return if trying == 0 { missing } else { 0 } };
    let free = processes.map_or(u32::MAX, Pool::free).min(pool.free());
    missing.min(free.saturating_sub(trying))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { after: Duration::from_secs(2), at_most: Duration::from_secs(10), leave: 2, leave_slots: 0 };

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn look(used: u32, held: u32, trying: u32) -> Look {
        let (pool, processes) = (Pool { used, size: 6 }, Pool { used: used + 1, size: 16 });
        Look { pool: Some(pool), processes: Some(processes), size: None, beyond: None, held, trying }
    }

    #[test]
    fn room_that_is_seen_is_held_at_once() {
        let mut gathering = Gathering::new(4, BOUNDS);
        assert_eq!(gathering.on_look(ms(0), look(2, 0, 0)), Step::Hold(4));
        assert_eq!(gathering.on_look(ms(5), look(5, 3, 1)), Step::Wait);
        assert_eq!(gathering.on_look(ms(10), look(6, 4, 0)), Step::Start(HandOver::WhileHeld));
    }

    #[test]
    fn it_begins_after_a_while_without_room_and_takes_what_becomes_free() {
        let mut gathering = Gathering::new(4, BOUNDS);
        assert_eq!(gathering.on_look(ms(100), look(6, 0, 0)), Step::Wait);
        assert_eq!(gathering.on_look(ms(1_900), look(5, 0, 0)), Step::Wait, "it has not waited for long");
        assert_eq!(gathering.on_look(ms(2_100), look(6, 0, 0)), Step::Wait, "nothing is free");
        assert_eq!(gathering.on_look(ms(2_110), look(5, 0, 0)), Step::Hold(1));
        assert_eq!(gathering.on_look(ms(2_115), look(5, 0, 1)), Step::Wait, "that slot is being taken");
        assert_eq!(gathering.on_look(ms(2_120), look(4, 1, 0)), Step::Hold(2));
        assert_eq!(gathering.on_look(ms(2_130), look(6, 4, 0)), Step::Start(HandOver::WhileHeld));
    }

    #[test]
    fn where_processes_are_scarce_the_slots_are_given_back_first() {
        let mut gathering = Gathering::new(4, Bounds { after: Duration::ZERO, ..BOUNDS });
        let scarce = Look { processes: Some(Pool { used: 5, size: 8 }), ..look(4, 4, 0) };
        assert_eq!(gathering.on_look(ms(0), scarce), Step::Start(HandOver::AfterCancel));
        for (beyond, how) in
            [(None, HandOver::AfterCancel), (Some(5), HandOver::AfterCancel), (Some(6), HandOver::WhileHeld)]
        {
            let unseen = Look { pool: None, processes: None, size: None, beyond, held: 4, trying: 0 };
            let mut gathering = Gathering::new(4, BOUNDS);
            assert_eq!(gathering.on_look(ms(0), unseen), Step::Start(how), "by the settings");
        }
    }

    #[test]
    fn processes_that_are_left_to_others_are_not_taken() {
        let look = |used, held| Look { processes: Some(Pool { used, size: 5 }), ..look(held, held, 0) };
        let mut gathering = Gathering::new(4, Bounds { after: Duration::ZERO, ..BOUNDS });
        assert_eq!(gathering.on_look(ms(0), look(1, 0)), Step::Hold(3), "of five");
        assert_eq!(
            gathering.on_look(ms(10), look(4, 3)),
            Step::Start(HandOver::AfterCancel),
            "all that may be"
        );
        let mut gathering = Gathering::new(4, Bounds { after: Duration::ZERO, ..BOUNDS });
        assert_eq!(gathering.on_look(ms(0), look(4, 0)), Step::Hold(1), "the last that is free");
        let mut gathering = Gathering::new(4, Bounds { leave: 5, ..BOUNDS });
        assert_eq!(gathering.on_look(ms(0), look(0, 0)), Step::Nothing);
    }

    #[test]
    fn slots_that_are_left_to_others_are_not_taken() {
        let mut gathering = Gathering::new(6, Bounds { after: Duration::ZERO, leave_slots: 2, ..BOUNDS });
        assert_eq!(gathering.on_look(ms(10), look(1, 0, 0)), Step::Hold(4), "of six slots");
        assert_eq!(gathering.on_look(ms(20), look(5, 4, 0)), Step::Start(HandOver::WhileHeld));
    }

    #[test]
    fn idle_slots_are_held_for_so_long_and_then_given_back_for_as_long() {
        let mut gathering = Gathering::new(4, BOUNDS);
        let _ = gathering.on_look(ms(0), look(6, 0, 0));
        assert_eq!(gathering.on_look(ms(2_000), look(5, 0, 0)), Step::Hold(1));
        assert_eq!(gathering.on_look(ms(2_100), look(6, 1, 0)), Step::Wait);
        assert_eq!(gathering.on_look(ms(12_100), look(6, 1, 0)), Step::LetGo);
        assert_eq!(gathering.on_look(ms(22_000), look(5, 0, 0)), Step::Wait);
        assert_eq!(gathering.on_look(ms(22_100), look(5, 0, 0)), Step::Hold(1));
    }

    #[test]
    fn a_slot_that_somebody_else_took_is_tried_for_again_after_a_pause_that_grows() {
        let mut gathering = Gathering::new(4, Bounds { after: Duration::ZERO, ..BOUNDS });
        let mut at = ms(0);
        for pause in [20, 40, 80, 160, 200, 200] {
            assert_eq!(gathering.on_look(at, look(5, 0, 0)), Step::Hold(1));
            gathering.on_taken(at);
            assert_eq!(gathering.on_look(at + ms(pause - 1), look(5, 0, 0)), Step::Wait);
            at += ms(pause);
        }
        gathering.on_held();
        gathering.on_taken(at);
        assert_eq!(gathering.on_look(at + ms(20), look(5, 0, 0)), Step::Hold(1));
    }

    #[test]
    fn of_an_unseen_pool_all_that_is_missing_is_tried_for_now_and_then() {
        let mut gathering = Gathering::new(3, BOUNDS);
        let unseen =
            |held, trying| Look { pool: None, processes: None, size: None, beyond: None, held, trying };
        assert_eq!(gathering.on_look(ms(0), unseen(0, 0)), Step::Hold(3));
        assert_eq!(gathering.on_look(ms(5), unseen(1, 2)), Step::Wait);
        gathering.on_taken(ms(10));
        assert_eq!(gathering.on_look(ms(10), unseen(1, 0)), Step::Wait);
        assert_eq!(gathering.on_look(ms(30), unseen(1, 0)), Step::Hold(2));
    }
}
