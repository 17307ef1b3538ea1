//! The guarantee: which way of getting workers can hold against others who never leave room, or why none can.
//!
//! Three can. The highest that may be used is used, since each is cheaper than the next:
//!
//! - [`Rung::Role`](super::ceiling::Rung::Role): others keep below a ceiling that the role's own exceeds by as many.
//! - [`Rung::Ceiling`](super::ceiling::Rung::Ceiling): the session raises its own, and the server has processes for all that
//!   the others may start, and for these.
//! - [`Rung::Gather`](super::ceiling::Rung::Gather): slots are held until there are enough. The pool must have as many. Where
//!   the server has no processes for the statement beside them, an attempt may fail, and another follows.
//!
//! Waiting and reserving do not hold: neither keeps outsiders from a slot.

use super::ceiling::Ceiling;

/// What the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground<'a> {
    /// Of the session, before anything is raised.
    pub ceiling: &'a Ceiling,
    /// Workers that are to be had.
    pub need: u32,
    /// Processes that are left to others.
    pub leave: u32,
    /// Slots of the pool that gathering leaves to others.
    pub leave_slots: u32,
    /// Whether what was set for the role or the database may be exceeded.
    pub above_role: bool,
    /// Whether slots can be held: not through a proxy that pools transactions.
    pub may_gather: bool,
}

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guarantee {
    /// Nothing is to be done.
    Role,
    /// Raise the session's ceiling as far as it may.
    Ceiling,
    /// Gather slots where there is no room.
    Gather,
    /// Nothing does, for these reasons.
    Nothing(Obstacles),
}

/// Why each way cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obstacles {
    /// How many workers others leave to the role by their ceilings; `None` where those are not known.
    pub kept_free: Option<u32>,
    /// Why raising the ceiling does not help.
    pub raising: Raising,
    /// Why gathering does not.
    pub gathering: GatheringObstacle,
}

/// Why the ceiling cannot be raised far enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raising {
    /// What was set for the role or the database is too low.
    OfRole(u32),
    /// The server has too few processes beside what others may start: so many are needed.
    Processes(u32),
}

/// Why not enough slots can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatheringObstacle {
    /// A proxy that pools transactions lies before the server.
    Pooled,
    /// Without what is left to others, the session's pool has too few slots.
    Slots(u32),
}

/// Which way holds.
#[must_use]
pub fn guarantee(ground: &Ground<'_>) -> Guarantee {
    let Ground { ceiling, need, leave, leave_slots, above_role, may_gather } = *ground;
    let kept_free = ceiling.kept_free();
    if kept_free.is_some_and(|free| free >= need) {
        return Guarantee::Role;
    }
    // What all others may start together.
    let others = ceiling.of_others.unwrap_or(ceiling.given).min(ceiling.processes);
    let wanted = others.saturating_add(need);
    let most = ceiling.processes.saturating_sub(leave);
    let own = ceiling.of_role.or(ceiling.of_database).filter(|_| !above_role);
    let raising = match own {
        _ if most < wanted => Some(Raising::Processes(wanted.saturating_add(leave))),
        Some(own) if own < wanted => Some(Raising::OfRole(own)),
        _ => None,
    };
    let Some(raising) = raising else { return Guarantee::Ceiling };
    let slots = ceiling.given.saturating_sub(leave_slots).min(most);
    let gathering = match may_gather {
        false => GatheringObstacle::Pooled,
        true if slots < need => GatheringObstacle::Slots(slots),
        true => return Guarantee::Gather,
    };
    Guarantee::Nothing(Obstacles { kept_free, raising, gathering })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::ceiling::ceiling;

    fn ground(ceiling: &Ceiling) -> Ground<'_> {
        Ground { ceiling, need: 4, leave: 2, leave_slots: 0, above_role: false, may_gather: true }
    }

    #[test]
    fn what_others_leave_to_the_role_is_the_surest() {
        let kept = Ceiling { of_role: Some(8), of_others: Some(4), ..ceiling(8, 8) };
        assert_eq!(guarantee(&ground(&kept)), Guarantee::Role);
        let too_few = Ceiling { of_others: Some(5), ..kept };
        assert_eq!(guarantee(&ground(&too_few)), Guarantee::Gather);
    }

    #[test]
    fn the_ceiling_is_raised_where_there_are_processes_for_all() {
        assert_eq!(guarantee(&ground(&ceiling(6, 12))), Guarantee::Ceiling);
        assert_eq!(guarantee(&ground(&ceiling(6, 11))), Guarantee::Gather, "two are left to others");
        assert_eq!(guarantee(&ground(&ceiling(8, 8))), Guarantee::Gather, "the server's defaults");
    }

    #[test]
    fn what_was_set_for_the_role_is_exceeded_only_where_that_is_allowed() {
        let own = Ceiling { of_role: Some(6), of_others: None, ..ceiling(6, 24) };
        assert_eq!(guarantee(&ground(&own)), Guarantee::Gather);
        assert_eq!(guarantee(&Ground { above_role: true, ..ground(&own) }), Guarantee::Ceiling);
    }

    #[test]
    fn where_nothing_holds_each_way_says_why() {
        let small = ceiling(3, 8);
        let obstacles = |may_gather, leave_slots, ceiling: &Ceiling| match guarantee(&Ground {
            may_gather,
            leave_slots,
            leave: 3,
            ..ground(ceiling)
        }) {
            Guarantee::Nothing(obstacles) => obstacles,
            holds => panic!("{holds:?}"),
        };
        assert_eq!(
            obstacles(true, 0, &small),
            Obstacles {
                kept_free: Some(0),
                raising: Raising::Processes(10),
                gathering: GatheringObstacle::Slots(3)
            }
        );
        let few = ceiling(6, 6);
        assert_eq!(obstacles(true, 0, &few).gathering, GatheringObstacle::Slots(3), "of six processes");
        let all = ceiling(5, 8);
        assert_eq!(obstacles(true, 2, &all).gathering, GatheringObstacle::Slots(3));
        assert_eq!(obstacles(false, 0, &all).gathering, GatheringObstacle::Pooled);
    }
}
