//! Reservation: who of a fleet takes which slots of the pool, and when to stop waiting.
//!
//! Executors that only watch and retry fight: each takes what is free, all are short, all are cancelled,
//! and the pool did nothing for anybody. So a fleet forms a queue: an execution takes *slots* for all workers that may
//! start, and at least for its target; all at once, or none. Only the head of the queue may take. That is first come, first
//! served: a job that wants much waits at the head until enough is free, and nobody smaller of the same
//! priority slips past it. The price is that slots may be idle meanwhile; backfilling would fill them,
//! and let the big jobs wait for ever.
//!
//! Who has priority stands in a queue of its own, and the other one yields to it: many of these starve the others. Workers of others than
//! the fleet hold no slots, yet occupy the pool: they are subtracted from what is free.
//!
//! ```text
//!   queued ── head ──> on_look ── enough is free ──────────────────────> Take(demand)
//!     │                 │  ^  ├── patience over, the minimum is free ──> Take(what is free)
//!     │                 └──┘  └── the wait is over ───────────────────> GiveUp
//!     └── the wait is over ───────────────────────────────────────────> GiveUp
//! ```
//!
//! A pool may shrink while somebody waits, and grow again. One that is smaller than the demand is taken as a
//! whole, since no wait gives more; one that is smaller than the minimum is not: an attempt could not succeed there.
//!
//! The queue itself and the slots live in the server (as advisory locks); a slot is a
//! promise among the fleet and no guarantee of PostgreSQL's, so watching and retrying stay on behind it.

use std::time::Duration;

/// The slots as one look saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Slots {
    /// Slots of the pool, as the session that asks is configured.
    pub pool: u32,
    /// Slots of the fleet: all of the pool, or a part of it.
    pub size: u32,
    /// Slots held, by executions of this fleet.
    pub held: u32,
    /// Workers that run without a slot; `None` where the pool cannot be seen, which counts as none.
    pub outsiders: Option<u32>,
    /// Whether somebody with priority waits.
    pub priority_waits: bool,
}

impl Slots {
    /// Slots that the fleet has left, as far as the pool has room for them: outsiders may use what is not the
    /// fleet's, and nobody is in their way there.
    #[must_use]
    pub fn free(self) -> u32 {
        let room = self.pool.saturating_sub(self.held).saturating_sub(self.outsiders.unwrap_or(0));
        self.size.saturating_sub(self.held).min(room)
    }

    /// Whether the demand exceeds the fleet's size.
    #[must_use]
    pub const fn are_too_few_for(self, demand: u32) -> bool {
        self.size < demand
    }

    /// Whether the same kinds are in the way as in another look (members, outsiders, priority), and the pool has the same
    /// size.
    #[must_use]
    pub fn is_short_as(self, other: Self) -> bool {
        let reason = |slots: Self| {
            (slots.size, slots.held > 0, slots.outsiders.is_some_and(|n| n > 0), slots.priority_waits)
        };
        reason(self) == reason(other)
    }
}

/// One leader's workers, and the slots that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Parallel workers that it has now.
    pub workers: u32,
    /// Slots held for it; 0 for an outsider.
    pub slots: u32,
}

/// Workers that no slot stands for: those of outsiders, and those that a member has beyond its slots.
pub fn outsiders(leaders: impl IntoIterator<Item = Use>) -> u32 {
    leaders.into_iter().map(|leader| leader.workers.saturating_sub(leader.slots)).sum()
}

/// What a statement may start at once, as far as its plan says.
///
/// Slots stand for workers, so a statement must not have more workers than slots. PostgreSQL has no limit
/// for a statement, only one for each Gather (`max_parallel_workers_per_gather`), and a plan may have several
/// that run together. So where the slots are fewer than the plan's workers, they are divided among its Gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanWorkers {
    /// Workers of all Gathers together; `None` where there is no plan to know it from.
    pub workers: Option<u32>,
    /// Gathers that may have workers at the same time; 0 counts as 1.
    pub gathers: u32,
    /// The pool as its own session has it, where a setting of the session, its role or its database
    /// (`max_parallel_workers`) hides the server's: the server holds each leader to its own.
    pub own_pool: Option<u32>,
}

impl PlanWorkers {
    /// The slots to take: for all workers that may start, and at least for the `target`. The target alone would
    /// not do for several Gathers: divided among them, it is out of reach when they run one after the other.
    #[must_use]
    pub fn demand(self, target: u32) -> u32 {
        self.workers.map_or(target, |workers| workers.max(target))
    }

    /// The fewest slots that leave each Gather `minimum` workers.
    #[must_use]
    pub fn floor(self, minimum: u32) -> u32 {
        minimum.saturating_mul(self.gathers.max(1))
    }

    /// The most workers that each Gather may ask for, so that all of them stay within `taken` slots of a `pool`;
    /// `None` where the plan cannot have more, and where nobody can: the server keeps to the whole of its pool.
    /// Should the pool grow later, workers beyond the slots count as outsiders.
    #[must_use]
    pub fn share(self, taken: u32, pool: u32) -> Option<u32> {
        let pool = self.own_pool.unwrap_or(pool);
        let fits = taken >= pool || self.workers.is_some_and(|workers| workers <= taken);
        (!fits).then(|| taken / self.gathers.max(1))
    }
}

/// How a wait for slots ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Granted {
    /// As many slots as were demanded, or all that the fleet has.
    Full,
    /// Fewer, but at least the minimum: `degrade_after` or the longest wait was over.
    Degraded,
    /// None: the longest wait passed.
    GaveUp,
    /// None: the execution ended first, by its deadline, a stop or a failure.
    Interrupted,
}

impl Granted {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 4] = [Self::Full, Self::Degraded, Self::GaveUp, Self::Interrupted];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Degraded => "degraded",
            Self::GaveUp => "gave_up",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What to do after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Take so many slots, all or none; if somebody was quicker, look again.
    Take(u32),
    /// Look again.
    Wait,
    /// Leave the queue, without slots.
    GiveUp,
}

/// One execution's wish for slots.
#[derive(Debug, Clone, Copy)]
pub struct Reservation {
    plan: PlanWorkers,
    target: u32,
    minimum: u32,
    priority: bool,
    limit: Duration,
    degrade_after: Option<Duration>,
}

impl Reservation {
    /// Wants slots for all that `plan` may start, or all where there are fewer, and waits at most `limit` for
    /// them, in the queue and at its head. After `degrade_after`, and when the limit is reached, what is free is
    /// enough at its head if it leaves each Gather `minimum` workers, or is the whole of a pool that has so many.
    #[must_use]
    pub fn new(
        plan: PlanWorkers,
        target: u32,
        minimum: u32,
        limit: Duration,
        degrade_after: Option<Duration>,
    ) -> Self {
        Self { plan, target, minimum: minimum.min(target), priority: false, limit, degrade_after }
    }

    /// Stands in the queue that goes first.
    #[must_use]
    pub const fn with_priority(mut self, priority: bool) -> Self {
        self.priority = priority;
        self
    }

    /// Whether it stands in the queue that goes first.
    #[must_use]
    #[allow(dead_code, reason = "for the models of the tests and the example")]
    pub const fn has_priority(&self) -> bool {
        self.priority
    }

    /// What its statement may start.
    #[must_use]
    pub const fn plan(&self) -> PlanWorkers {
        self.plan
    }

    /// Slots that it wants.
    #[must_use]
    pub fn demand(&self) -> u32 {
        self.plan.demand(self.target)
    }

    /// Slots that it waits for where there are `size`, which may change while it waits. More than `size` when that
    /// is less than the minimum of workers: then it waits for the pool to grow.
    #[must_use]
    pub fn demand_of(&self, size: u32) -> u32 {
        self.demand().min(size).max(self.minimum)
    }

    /// The fewest slots that it takes where there are `size`.
    fn floor_of(&self, size: u32) -> u32 {
        self.plan.floor(self.minimum).min(self.demand_of(size))
    }

    /// The longest that it may still stand in the queue, `waited` after the wait began.
    #[must_use]
    pub const fn left(&self, waited: Duration) -> Duration {
        self.limit.saturating_sub(waited)
    }

    /// A look from the head of the queue, `waited` after the wait began.
    #[must_use]
    pub fn on_look(&self, waited: Duration, slots: Slots) -> Move {
        let over = waited >= self.limit;
        if slots.priority_waits && !self.priority {
            return if over { Move::GiveUp } else { Move::Wait };
        }
        let free = slots.free();
        let patient = !over && self.degrade_after.is_none_or(|patience| waited < patience);
        let demand = self.demand_of(slots.size);
        if free >= demand {
            Move::Take(demand)
        } else if !patient && free >= self.floor_of(slots.size) {
            Move::Take(free)
        } else if over {
            Move::GiveUp
        } else {
            Move::Wait
        }
    }

    /// What `taken` of `size` slots amount to.
    #[must_use]
    pub fn granted(&self, taken: u32, size: u32) -> Granted {
        if taken >= self.demand_of(size) { Granted::Full } else { Granted::Degraded }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn slots(held: u32, outsiders: u32) -> Slots {
        Slots { pool: 12, size: 6, held, outsiders: Some(outsiders), priority_waits: false }
    }

    fn plan(workers: Option<u32>, gathers: u32) -> PlanWorkers {
        PlanWorkers { workers, gathers, own_pool: None }
    }

    /// A plan that may have so many workers in one Gather.
    fn one(workers: u32) -> PlanWorkers {
        plan(Some(workers), 1)
    }

    fn check(waited: u64, slots: Slots, expected: Move) {
        let wish = Reservation::new(one(4), 4, 2, HOUR, Some(Duration::from_mins(10)));
        assert_eq!(wish.on_look(Duration::from_secs(waited), slots), expected, "{slots:?}");
    }

    #[test]
    fn it_takes_all_that_it_wants_or_waits() {
        check(0, slots(2, 0), Move::Take(4));
        check(0, slots(3, 0), Move::Wait);
    }

    #[test]
    fn outsiders_are_subtracted() {
        let whole = |held, outsiders| Slots { pool: 6, ..slots(held, outsiders) };
        check(0, whole(1, 1), Move::Take(4));
        check(0, whole(1, 2), Move::Wait);
        check(0, whole(6, 6), Move::Wait);
    }

    #[test]
    fn outsiders_in_the_rest_of_the_pool_are_in_nobodys_way() {
        // Six of twelve are the fleet's.
        check(0, slots(2, 6), Move::Take(4));
        check(0, slots(2, 7), Move::Wait);
        check(0, slots(0, 8), Move::Take(4));
        check(0, slots(3, 0), Move::Wait);
    }

    #[test]
    fn a_pool_that_cannot_be_seen_has_no_outsiders() {
        check(0, Slots { outsiders: None, ..slots(2, 0) }, Move::Take(4));
    }

    #[test]
    fn after_its_patience_the_minimum_is_enough() {
        check(599, slots(4, 0), Move::Wait);
        check(600, slots(3, 0), Move::Take(3));
        check(600, slots(4, 0), Move::Take(2));
        check(600, slots(5, 0), Move::Wait);
    }

    #[test]
    fn at_the_end_of_the_wait_it_takes_the_minimum_or_gives_up() {
        let wish = Reservation::new(one(4), 4, 2, HOUR, None);
        assert_eq!(wish.on_look(Duration::from_secs(3599), slots(4, 0)), Move::Wait);
        assert_eq!(wish.on_look(HOUR, slots(4, 0)), Move::Take(2));
        assert_eq!(wish.on_look(HOUR, slots(5, 0)), Move::GiveUp);
    }

    #[test]
    fn who_has_priority_goes_first() {
        let contested = Slots { priority_waits: true, ..slots(0, 0) };
        check(0, contested, Move::Wait);
        check(3600, contested, Move::GiveUp);
        let first = Reservation::new(one(4), 4, 2, HOUR, None).with_priority(true);
        assert_eq!(first.on_look(Duration::ZERO, contested), Move::Take(4));
    }

    #[test]
    fn workers_beyond_their_leaders_slots_are_outsiders_too() {
        let leader = |workers, slots| Use { workers, slots };
        assert_eq!(outsiders([leader(4, 4), leader(0, 4), leader(3, 2), leader(2, 0)]), 3);
    }

    #[test]
    fn the_demand_follows_the_size_of_the_pool() {
        let wish = Reservation::new(one(8), 8, 4, HOUR, None);
        assert_eq!(wish.on_look(Duration::ZERO, slots(2, 0)), Move::Wait);
        assert_eq!(
            (wish.on_look(Duration::ZERO, slots(0, 0)), wish.granted(6, 6)),
            (Move::Take(6), Granted::Full)
        );
        let grown = Slots { size: 12, ..slots(2, 0) };
        assert_eq!(
            (wish.on_look(Duration::ZERO, grown), wish.granted(6, 12)),
            (Move::Take(8), Granted::Degraded)
        );
    }

    #[test]
    fn a_pool_that_shrinks_below_the_minimum_is_waited_for_and_never_taken() {
        let of = |size, held| Slots { size, ..slots(held, 0) };
        check(0, of(3, 0), Move::Take(3));
        check(0, of(2, 0), Move::Take(2));
        for size in [0, 1] {
            check(0, of(size, 0), Move::Wait);
            check(3599, of(size, 0), Move::Wait);
            check(3600, of(size, 0), Move::GiveUp);
        }
        check(3599, of(4, 0), Move::Take(4));
    }

    #[test]
    fn a_pool_too_small_for_the_minimum_of_each_gather_is_taken_as_a_whole() {
        let two = plan(Some(8), 2);
        let wish = Reservation::new(two, 4, 4, HOUR, Some(Duration::ZERO));
        let of = |size, held| wish.on_look(Duration::ZERO, Slots { size, ..slots(held, 0) });
        assert_eq!([of(8, 0), of(7, 0), of(4, 0)], [8, 7, 4].map(Move::Take));
        assert_eq!([of(9, 2), of(7, 1), of(3, 0)], [Move::Wait; 3]);
    }

    #[test]
    fn slots_that_do_not_suffice_are_divided_among_the_gathers() {
        let two = plan(Some(8), 2);
        assert_eq!((two.demand(4), two.floor(2)), (8, 4));
        assert_eq!([8, 7, 4, 1].map(|taken| two.share(taken, 16)), [None, Some(3), Some(2), Some(0)]);
        let one = plan(Some(4), 1);
        assert_eq!((one.demand(2), one.floor(2), one.share(4, 16), one.share(2, 16)), (4, 2, None, Some(2)));
        let unknown = PlanWorkers::default();
        assert_eq!((unknown.demand(4), unknown.floor(2), unknown.share(4, 16)), (4, 2, Some(4)));
    }

    #[test]
    fn the_gathers_of_who_has_the_whole_pool_share_nothing() {
        let two = plan(Some(8), 2);
        assert_eq!([two.share(6, 6), two.share(6, 7), two.share(5, 6)], [None, Some(3), Some(2)]);
        assert_eq!(PlanWorkers::default().share(6, 6), None);
    }

    #[test]
    fn who_has_a_pool_of_its_own_is_held_to_that() {
        let larger = PlanWorkers { own_pool: Some(12), ..plan(Some(8), 2) };
        assert_eq!([larger.share(6, 6), larger.share(8, 8)], [Some(3), None]);
        let smaller = PlanWorkers { own_pool: Some(4), ..plan(Some(8), 2) };
        assert_eq!([smaller.share(4, 6), smaller.share(3, 6)], [None, Some(1)]);
    }

    /// Often none, so that pools which are free as a whole are among the cases.
    fn few() -> impl Strategy<Value = u32> {
        prop_oneof![Just(0), 0u32..1025]
    }

    proptest! {
        #[test]
        fn workers_never_outnumber_slots(
            each in proptest::collection::vec(1u32..64, 1..6), taken in 0u32..128, others in 0u32..4,
            own_pool in proptest::option::of(0u32..130),
        ) {
            let plan = PlanWorkers { own_pool, ..plan(Some(each.iter().sum()), each.len() as u32) };
            let limit = plan.share(taken, taken + others).unwrap_or(u32::MAX);
            // The server starts no more than the pool of the leader's session has.
            let pool = own_pool.unwrap_or(taken + others);
            prop_assert!(each.iter().map(|&own| own.min(limit)).sum::<u32>().min(pool) <= taken);
        }

        #[test]
        fn it_never_takes_what_is_not_free_nor_less_than_its_minimum_nor_more_than_it_wants(
            workers in proptest::option::of(0u32..1100), gathers in 0u32..4, target in 0u32..1100,
            minimum in 0u32..1100, size in 0u32..1025, held in few(),
            outsiders in proptest::option::of(few()), priority: bool, priority_waits: bool,
            rest in few(), waited in 0u64..10_000, limit in 0u64..10_000, patience in proptest::option::of(0u64..10_000),
        ) {
            let secs = Duration::from_secs;
            let plan = plan(workers, gathers);
            let wish = Reservation::new(plan, target, minimum, secs(limit), patience.map(secs))
                .with_priority(priority);
            let slots = Slots { pool: size + rest, size, held, outsiders, priority_waits };
            match wish.on_look(secs(waited), slots) {
                Move::Take(taken) => {
                    let demand = plan.demand(target);
                    let minimum = minimum.min(target);
                    prop_assert!(taken == 0 || held + taken <= size && held + taken + outsiders.unwrap_or(0) <= slots.pool);
                    prop_assert!(taken <= slots.free() && taken <= demand && taken >= minimum);
                    // Less than the minimum of each Gather only where that is all there is.
                    prop_assert!(taken == size || taken >= plan.floor(minimum).min(demand));
                    prop_assert!(priority || !priority_waits);
                }
                Move::Wait => prop_assert!(waited < limit, "no wait is longer than its limit"),
                Move::GiveUp => prop_assert!(waited >= limit, "nobody gives up early"),
            }
        }
    }
}
