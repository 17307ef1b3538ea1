//! The ceiling: how many parallel workers the server may run when a session launches one more.
//!
//! `max_parallel_workers` is not the pool's size. It is each session's own: at each launch the value of the *leader* is
//! compared with the number of parallel workers that run in the whole cluster (bgworker.c,
//! `RegisterDynamicBackgroundWorker`). Any user may set it. So a session whose ceiling is above that of the others finds
//! room where they find none, as long as the server has processes left (`max_worker_processes`), which is what is
//! really finite.

use serde::Serialize;

/// Processes that are left to replication, extensions and autovacuum, where nobody says another number.
pub const LEAVE: u32 = 2;

/// How an execution comes by its workers, the surest way first.
///
/// ```no_run
/// # fn report(run: &headcount::Execution<u64>) {
/// use headcount::Rung;
///
/// if run.rung == Some(Rung::Wait) {
///     println!("others can take its workers: `headcount doctor` shows how to keep some free");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rung {
    /// The role has a ceiling of its own, above that of the others (ALTER ROLE): slots that they cannot take.
    Role,
    /// The session raised its own ceiling above that of its role: workers beyond the pool.
    Ceiling,
    /// It holds slots that others leave, one by one, until there are enough ([`Settings::gather`](crate::Settings::gather)).
    Gather,
    /// It reserves slots in the queue of a fleet.
    Queue,
    /// It waits for room, and is tried again when others were quicker.
    Wait,
}

impl Rung {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 5] = [Self::Role, Self::Ceiling, Self::Gather, Self::Queue, Self::Wait];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Ceiling => "ceiling",
            Self::Gather => "gather",
            Self::Queue => "queue",
            Self::Wait => "wait",
        }
    }
}

/// How far a session raises its own ceiling of parallel workers.
///
/// ```no_run
/// # fn job(headcount: &headcount::Headcount) {
/// let job = headcount.task("close_day").ceiling(headcount::Raise::Auto);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raise {
    /// As far as it may.
    Auto,
    /// To so many workers in all, those of others included; 1 to 1024.
    To(u32),
}

/// The ceiling of one session, and what it is made of.
///
/// ```no_run
/// # fn report(run: &headcount::Execution<u64>) {
/// if let Some(ceiling) = &run.ceiling {
///     println!("{} workers of all sessions together, {} processes", ceiling.workers, ceiling.processes);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ceiling {
    /// `max_parallel_workers` of the session, as the statement runs with it.
    pub workers: u32,
    /// The same without what the execution sets: what the role, the database or the server give it.
    pub given: u32,
    /// `max_worker_processes`: what no ceiling reaches beyond.
    pub processes: u32,
    /// What ALTER ROLE set for the role, if it did.
    pub of_role: Option<u32>,
    /// What ALTER DATABASE set for everybody in the database, if it did.
    pub of_database: Option<u32>,
    /// The ceiling of sessions that nobody set anything for, in whatever database has the highest: of another role than
    /// ours. `None` where it cannot be known, since a setting of the role or the database hides the server's.
    pub of_others: Option<u32>,
    /// The role that logged in, quoted.
    #[serde(skip)]
    pub role: String,
}

impl Ceiling {
    /// The rung that an execution stands on with it.
    #[must_use]
    pub fn rung(&self, target: u32, gathers: bool, reserves: bool) -> Rung {
        if gathers {
            return Rung::Gather;
        }
        if reserves {
            return Rung::Queue;
        }
        if self.workers > self.given {
            return Rung::Ceiling;
        }
        let apart = self.of_role.is_some_and(|own| match self.of_others {
            Some(others) => own > others,
            // One below what is demanded was not set for this.
            None => own >= target,
        });
        if apart { Rung::Role } else { Rung::Wait }
    }

    /// Slots that others leave free for this session, by their ceilings; `None` where those are not known.
    #[must_use]
    pub fn kept_free(&self) -> Option<u32> {
        let own = self.given.min(self.processes);
        self.of_others.map(|others| own.saturating_sub(others))
    }

    /// What to have set, so that `workers` slots stay free from everybody who keeps to the ceiling of the others.
    #[must_use]
    pub fn propose(&self, workers: u32, leave: u32) -> Proposal {
        let Some(others) = self.of_others else { return Proposal::Unknown };
        // More than there are is no more than all.
        let others = others.min(self.processes);
        let most = self.processes.saturating_sub(leave);
        if self.kept_free().is_some_and(|free| free >= workers) {
            Proposal::Stands
        } else if others.saturating_add(workers) <= most {
            Proposal::Raise { own: others + workers }
        } else if most > workers {
            Proposal::Divide { others: most - workers, own: most }
        } else {
            Proposal::Processes { processes: others.saturating_add(workers).saturating_add(leave) }
        }
    }

    /// The proposal as it is typed, by who may alter the role; `None` where there is nothing to type.
    #[must_use]
    pub fn typed(&self, proposal: Proposal) -> Option<String> {
        let Self { role, .. } = self;
        match proposal {
            Proposal::Raise { own } => Some(format!("ALTER ROLE {role} SET max_parallel_workers = {own};")),
            Proposal::Divide { others, own } => Some(format!(
                "ALTER ROLE ALL SET max_parallel_workers = {others}; \
                 ALTER ROLE {role} SET max_parallel_workers = {own};"
            )),
            Proposal::Processes { processes } => Some(format!(
                "ALTER SYSTEM SET max_worker_processes = {processes}; -- restart the server, then ask again"
            )),
            Proposal::Stands | Proposal::Unknown => None,
        }
    }
}

/// What a DBA can do for a role once, so that its jobs find their workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposal {
    /// It is so already.
    Stands,
    /// The processes have room for workers beyond the pool: the role gets a higher ceiling.
    Raise {
        /// The role's.
        own: u32,
    },
    /// They have not: the others get a lower ceiling, and the role one that leaves some processes.
    Divide {
        /// Of everybody, in all databases.
        others: u32,
        /// The role's.
        own: u32,
    },
    /// There are too few processes for both: the server needs more.
    Processes {
        /// `max_worker_processes`.
        processes: u32,
    },
    /// What the others have is not known.
    Unknown,
}

/// Of a role that nobody set anything for.
#[cfg(test)]
pub(super) fn ceiling(given: u32, processes: u32) -> Ceiling {
    Ceiling {
        workers: given,
        given,
        processes,
        of_role: None,
        of_database: None,
        of_others: Some(given),
        role: "batch".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn typed(ceiling: &Ceiling, workers: u32) -> String {
        ceiling.typed(ceiling.propose(workers, 2)).unwrap_or_default()
    }

    #[test]
    fn where_processes_have_room_the_role_is_raised_and_nobody_loses_anything() {
        assert_eq!(typed(&ceiling(6, 16), 4), "ALTER ROLE batch SET max_parallel_workers = 10;");
    }

    #[test]
    fn where_they_have_none_the_others_are_lowered() {
        assert_eq!(
            typed(&ceiling(8, 8), 4),
            "ALTER ROLE ALL SET max_parallel_workers = 2; ALTER ROLE batch SET max_parallel_workers = 6;"
        );
    }

    #[test]
    fn where_nothing_is_left_for_the_others_the_server_needs_more_processes() {
        assert!(typed(&ceiling(8, 8), 6).starts_with("ALTER SYSTEM SET max_worker_processes = 16;"));
    }

    #[test]
    fn each_rung_is_told_by_what_was_set() {
        let plain = ceiling(6, 16);
        assert_eq!([plain.rung(4, false, false), plain.rung(4, false, true)], [Rung::Wait, Rung::Queue]);
        assert_eq!(plain.rung(4, true, true), Rung::Gather);
        assert_eq!(Ceiling { workers: 14, ..plain.clone() }.rung(4, false, false), Rung::Ceiling);
        let role = |own: u32, of_others| Ceiling {
            of_role: Some(own),
            given: own,
            workers: own,
            of_others,
            ..plain.clone()
        };
        assert_eq!((role(10, None).rung(4, false, false), role(10, None).kept_free()), (Rung::Role, None));
        assert_eq!(
            (role(10, Some(6)).rung(4, false, false), role(10, Some(6)).kept_free()),
            (Rung::Role, Some(4))
        );
        assert_eq!(role(10, Some(6)).propose(4, 2), Proposal::Stands);
        assert_eq!(
            (role(5, Some(6)).rung(4, false, false), role(5, Some(6)).kept_free()),
            (Rung::Wait, Some(0))
        );
        assert_eq!(role(0, None).rung(4, false, false), Rung::Wait, "it was not set for this");
    }

    #[test]
    fn a_ceiling_above_the_processes_is_none() {
        assert_eq!(typed(&ceiling(1000, 16), 4), typed(&ceiling(16, 16), 4));
    }

    proptest! {
        #[test]
        fn what_is_proposed_keeps_the_slots_free_and_leaves_processes(
            given in 0u32..40, processes in 0u32..60, workers in 1u32..20, leave in 0u32..6,
        ) {
            let before = ceiling(given, processes);
            let after = match before.propose(workers, leave) {
                Proposal::Stands | Proposal::Unknown => before.clone(),
                Proposal::Raise { own } => Ceiling { of_role: Some(own), given: own, ..before.clone() },
                Proposal::Divide { others, own } => {
                    Ceiling { of_role: Some(own), of_others: Some(others), given: own, ..before.clone() }
                }
                Proposal::Processes { processes: more } => {
                    prop_assert!(more > processes);
                    return Ok(());
                }
            };
            prop_assert_eq!(after.propose(workers, leave), Proposal::Stands);
            prop_assert!(after.given.saturating_add(leave) <= processes || after == before);
        }
    }
}
