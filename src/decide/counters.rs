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
    /// Other sessions in the database.
    pub others: u32,
    /// Sessions that the database has had.
    pub sessions: i64,
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
    /// Whether nobody else was there at both readings, and nobody has come and gone between them.
    const fn is_alone_since(self, before: Self) -> bool {
        self.others == 0 && before.others == 0 && self.sessions == before.sessions
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

    fn told(before: (i64, i64, u32), after: (i64, i64, u32)) -> Told {
        let counters =
            |(to_launch, launched, others)| LaunchCounters { to_launch, launched, others, sessions: 7 };
        counters(after).since(counters(before))
    }

    #[test]
    fn counters_that_grew_alike_clear_everybody() {
        assert_eq!(told((10, 8, 3), (14, 12, 5)), Told::AllLaunched);
    }

    #[test]
    fn a_difference_is_ours_only_where_nobody_else_was_there() {
        assert_eq!(told((10, 8, 0), (18, 13, 0)), Told::Short { launched: 5, asked: 8 });
        assert_eq!(told((10, 8, 1), (18, 13, 0)), Told::Unknown);
        assert_eq!(told((10, 8, 0), (18, 13, 1)), Told::Unknown);
    }

    #[test]
    fn a_session_that_came_and_went_between_may_be_whom_workers_were_refused() {
        let before = LaunchCounters { to_launch: 10, launched: 8, others: 0, sessions: 7 };
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
