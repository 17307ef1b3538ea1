//! Admission: whether to start an attempt now.
//!
//! Free workers counted beforehand guarantee nothing, somebody may take them first. But starting into
//! a pool that is visibly full is a wasted attempt. So admission waits, at most `limit`, and the
//! verdict judges afterwards. A pool that cannot be seen is never taken for an empty one.
//!
//! The slot of a worker that has ended is free only once the postmaster has noticed, a moment after the worker has left
//! `pg_stat_activity`. So room that was not there before is believed when it has stayed for that long.

use std::time::Duration;

use super::verdict::Pool;

/// Why the wait ended. An attempt starts in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Admitted {
    /// The pool has room for what is required.
    Room,
    /// The pool cannot be seen: nothing to wait for.
    Unseen,
    /// The limit passed and the pool still has too little room.
    TimedOut,
    /// As many slots as it takes are held for it.
    Gathered,
}

impl Admitted {
    /// The word for attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Unseen => "unseen",
            Self::TimedOut => "timed_out",
            Self::Gathered => "gathered",
        }
    }
}

/// How long it may take until the slot of a worker that is seen no more is free.
const NOTICED: Duration = Duration::from_millis(50);

/// One wait for room.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    required: u32,
    wish: u32,
    floor: u32,
    limit: Duration,
    /// When workers were still there that have left since.
    full_at: Option<Duration>,
    /// Whether the last look showed too little room.
    lacks_room: bool,
}

impl Admission {
    /// Waits for `required` free slots, at most `limit`.
    #[must_use]
    pub const fn new(required: u32, limit: Duration) -> Self {
        Self { required, wish: required, floor: 0, limit, full_at: None, lacks_room: false }
    }

    /// Waits for `wish` slots first, where that is more: what a plan may have at once. Its Gathers may as well run one
    /// after the other, so that is waited for a tenth of the limit at most.
    #[must_use]
    pub const fn with_wish(mut self, wish: u32) -> Self {
        self.wish = if wish > self.required { wish } else { self.required };
        self
    }

    /// Waits, too, for a pool that has less than `minimum` slots in all: no attempt can succeed there, and a pool
    /// that has shrunk may grow again. Default 0.
    #[must_use]
    pub const fn with_floor(mut self, minimum: u32) -> Self {
        self.floor = minimum;
        self
    }

    /// Our own workers have just left.
    #[must_use]
    pub const fn after_an_attempt(mut self) -> Self {
        self.full_at = Some(Duration::ZERO);
        self
    }

    /// Whether the last look showed too little room: else it waits only for what it saw to last.
    #[must_use]
    pub const fn lacks_room(&self) -> bool {
        self.lacks_room
    }

    /// The slots that it waits for.
    #[must_use]
    pub const fn required(&self) -> u32 {
        self.required
    }

    /// A look at the pool and at the server's processes, `waited` after the wait began. `None` means: look again.
    #[must_use]
    pub fn on_look(
        &mut self,
        waited: Duration,
        pool: Option<Pool>,
        processes: Option<Pool>,
    ) -> Option<Admitted> {
        let Some(pool) = pool else { return Some(Admitted::Unseen) };
        // Processes that run something else do not become workers: what is there for workers is what they have
        // now and what is free.
        let for_workers = processes.map_or(u32::MAX, |processes| processes.free().saturating_add(pool.used));
        let free = processes.map_or(u32::MAX, Pool::free).min(pool.free());
        // More than there is is never free: a requirement above that asks for all of it, if that is enough.
        let required = if waited < self.limit / 10 { self.wish } else { self.required };
        self.lacks_room = free < required.min(pool.size).min(for_workers).max(self.floor);
        if self.lacks_room {
            self.full_at = Some(waited);
        }
        let is_lasting = self.full_at.is_none_or(|full_at| waited.saturating_sub(full_at) >= NOTICED);
        match self.lacks_room {
            false if is_lasting || waited >= self.limit => Some(Admitted::Room),
            true if waited >= self.limit => Some(Admitted::TimedOut),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(waited: u64, pool: Option<(u32, u32)>, expected: Option<Admitted>) {
        let mut admission = Admission::new(4, Duration::from_mins(1));
        let pool = pool.map(|(used, size)| Pool { used, size });
        assert_eq!(admission.on_look(Duration::from_secs(waited), pool, None), expected);
    }

    #[test]
    fn room_for_the_bar_admits_at_once() {
        check(0, Some((4, 8)), Some(Admitted::Room));
    }

    #[test]
    fn one_slot_too_few_waits_until_the_limit() {
        check(0, Some((5, 8)), None);
        check(59, Some((5, 8)), None);
        check(60, Some((5, 8)), Some(Admitted::TimedOut));
    }

    #[test]
    fn a_bar_above_the_pools_size_waits_for_the_whole_pool_and_no_longer() {
        check(0, Some((1, 3)), None);
        check(0, Some((0, 3)), Some(Admitted::Room));
    }

    #[test]
    fn a_pool_below_the_minimum_is_waited_for_until_it_grows() {
        let mut admission = Admission::new(4, Duration::from_mins(1)).with_floor(2);
        let mut look =
            |waited, size| admission.on_look(Duration::from_secs(waited), Some(Pool { used: 0, size }), None);
        assert_eq!([look(0, 1), look(59, 0)], [None; 2]);
        assert_eq!([look(60, 1), look(61, 2)], [Some(Admitted::TimedOut), Some(Admitted::Room)]);
    }

    #[test]
    fn processes_that_serve_others_are_not_waited_for_and_free_ones_are() {
        let mut admission = Admission::new(4, Duration::from_mins(1)).with_floor(2);
        let mut look = |pool, processes| {
            let seen = |(used, size)| Some(Pool { used, size });
            admission.on_look(Duration::ZERO, seen(pool), seen(processes))
        };
        // One of four processes is the launcher of logical replication.
        assert_eq!(look((0, 4), (1, 4)), Some(Admitted::Room));
        assert_eq!(look((1, 8), (2, 4)), None, "a worker of somebody else's will leave its process");
        assert_eq!(look((0, 8), (7, 8)), None, "one process is below the minimum");
    }

    #[test]
    fn what_a_plan_may_have_at_once_is_waited_for_a_while() {
        let mut admission = Admission::new(4, Duration::from_mins(1)).with_wish(8);
        let mut look =
            |waited, used| admission.on_look(Duration::from_secs(waited), Some(Pool { used, size: 8 }), None);
        assert_eq!([look(0, 0), look(0, 4), look(5, 4)], [Some(Admitted::Room), None, None]);
        assert_eq!([look(6, 4), look(6, 5)], [Some(Admitted::Room), None]);
    }

    #[test]
    fn room_that_was_not_there_before_is_believed_when_it_stays() {
        let look = |admission: &mut Admission, at, used| {
            admission.on_look(Duration::from_millis(at), Some(Pool { used, size: 8 }), None)
        };
        let mut admission = Admission::new(4, Duration::from_mins(1));
        let looks = [(0, 8), (20, 0), (40, 5), (60, 0), (80, 0), (90, 0)];
        let ends = looks.map(|(at, used)| look(&mut admission, at, used));
        assert_eq!(ends, [None, None, None, None, None, Some(Admitted::Room)]);
        let mut next = Admission::new(4, Duration::from_mins(1)).after_an_attempt();
        assert_eq!([0, 40].map(|at| look(&mut next, at, 0)), [None, None]);
        assert!(!next.lacks_room(), "nothing is said of a wait for room");
        assert_eq!(look(&mut next, 50, 0), Some(Admitted::Room));
    }

    #[test]
    fn an_unseen_pool_is_not_waited_for() {
        check(0, None, Some(Admitted::Unseen));
    }
}
