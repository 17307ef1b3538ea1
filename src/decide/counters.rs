//! What the server itself counted: workers that queries of a database asked for, and workers that it launched.
//!
//! Servers from 18 add both up for each database (`pg_stat_database.parallel_workers_to_launch` and `_launched`),
//! when a query ends: a cancelled one never gets there, and CREATE INDEX and VACUUM are not counted. A launch never
//! has more workers than it asked for. So where both grew alike, no query of the database lacked a worker, ours
//! included; where they did not, one did, and it was ours if nobody else was there.

/// The counters of one database at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchCounters {
    /// Workers that queries asked for.
    pub to_launch: i64,
    /// Workers that were launched.
    pub launched: i64,
    /// Sessions that the database has had.
    pub sessions: i64,
    /// Other sessions in the database.
    pub others: i32,
    /// Those among them that were not idle, or not seen to be.
    pub busy: i32,
    /// When the last of the others began or ended something, in microseconds since 1970 by the server's clock.
    pub changed: i64,
    /// When this was read, by the same clock.
    pub at: i64,
}

/// What two readings say of the queries between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Every launch was whole.
    AllLaunched,
    /// Launches of ours lacked workers.
    Short {
        /// Workers that were launched.
        launched: u32,
        /// Workers that were asked for.
        asked: u32,
    },
    /// Nothing for certain.
    Unknown,
}

impl LaunchCounters {
    /// Whether nobody else ran anything between the readings: all others were there at both, and idle all the time.
    const fn is_alone_since(self, before: Self) -> bool {
        let are_the_same = self.others == before.others && self.sessions == before.sessions;
        are_the_same && self.busy == 0 && before.busy == 0 && self.changed < before.at
    }

    /// What happened since an earlier reading.
    #[must_use]
    pub fn since(self, before: Self) -> Told {
        let (asked, launched) = (self.to_launch - before.to_launch, self.launched - before.launched);
        // They were reset meanwhile, or nothing with workers has ended.
        if asked <= 0 || launched < 0 || launched > asked {
            return Told::Unknown;
        }
        if launched == asked {
            return Told::AllLaunched;
        }
        match (u32::try_from(launched), u32::try_from(asked)) {
            (Ok(launched), Ok(asked)) if self.is_alone_since(before) => Told::Short { launched, asked },
            _ => Told::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: LaunchCounters =
        LaunchCounters { to_launch: 10, launched: 8, sessions: 7, others: 0, busy: 0, changed: 0, at: 1000 };

    fn told(before: (i64, i64, i32), after: (i64, i64, i32)) -> Told {
        let counters =
            |(to_launch, launched, busy)| LaunchCounters { to_launch, launched, others: 1, busy, ..ALONE };
        counters(after).since(counters(before))
    }

    #[test]
    fn sessions_that_are_idle_all_the_time_are_nobody() {
        let before = LaunchCounters { others: 3, changed: 900, ..ALONE };
        let after = LaunchCounters { to_launch: 18, launched: 13, at: 2000, ..before };
        assert_eq!(after.since(before), Told::Short { launched: 5, asked: 8 });
        assert_eq!(
            LaunchCounters { changed: 1500, ..after }.since(before),
            Told::Unknown,
            "one ran something"
        );
        assert_eq!(LaunchCounters { others: 2, ..after }.since(before), Told::Unknown, "one has gone");
        assert_eq!(LaunchCounters { busy: 1, ..after }.since(before), Told::Unknown);
        assert_eq!(after.since(LaunchCounters { busy: 1, ..before }), Told::Unknown);
    }

    #[test]
    fn counters_that_grew_alike_clear_everybody() {
        assert_eq!(told((10, 8, 3), (14, 12, 5)), Told::AllLaunched);
    }

    #[test]
    fn a_difference_is_ours_only_where_nobody_else_ran_anything() {
        assert_eq!(told((10, 8, 0), (18, 13, 0)), Told::Short { launched: 5, asked: 8 });
        assert_eq!(told((10, 8, 1), (18, 13, 0)), Told::Unknown);
        assert_eq!(told((10, 8, 0), (18, 13, 1)), Told::Unknown);
    }

    #[test]
    fn a_session_that_came_and_went_between_may_be_whom_workers_were_refused() {
        let before = ALONE;
        let after = LaunchCounters { to_launch: 18, launched: 13, ..before };
        assert_eq!(after.since(before), Told::Short { launched: 5, asked: 8 });
        assert_eq!(LaunchCounters { sessions: 8, ..after }.since(before), Told::Unknown);
    }

    #[test]
    fn counters_that_were_reset_or_stood_still_tell_nothing() {
        assert_eq!(told((10, 8, 0), (4, 4, 0)), Told::Unknown);
        assert_eq!(told((10, 8, 0), (10, 8, 0)), Told::Unknown);
    }
}
