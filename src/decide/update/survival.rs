//! What a server knows of commits that it, or the one whose place it has taken, answered in an earlier life.
//!
//! After a crash a transaction's id may belong to another transaction, and after an asynchronous failover a commit that
//! was on the old primary's disk is not there. `pg_xact_status` alone would mislead. The write-ahead log tells more: a
//! server's recovery has ended somewhere in it, and all before that end is there, and nothing after. So one position
//! in the log decides, the one between a chunk's work and its COMMIT:
//!
//! - The recovery ended before: the COMMIT is not there. That is certain, whatever became of the id.
//! - It ended after: the work is there, and with it the id, which no other transaction can have got. So what
//!   `pg_xact_status` says is said of this transaction.
//!
//! This assumes that one log continues the other: the same system, and the same timeline, or the next one on a
//! server that was a streaming standby until it was promoted. Two failovers in a row, a restored backup or another cluster
//! under the same name prove nothing.
//!
//! One thing does not show: that the log has ended twice since, a crash before another crash, say, and no session in
//! between. The first may have lost the commit, and the second ended behind it, on a log that has grown since and
//! given the id to somebody else. A commit that was flushed is not affected. Of one that was not, "aborted" is believed,
//! since it is true either way. "Committed" is no proof ([`fate`]): the rows are read again or, where that could do the
//! work twice, the chunk is unresolved.

use std::fmt;
use std::str::FromStr;

use super::resolver::Status;

/// A position in the write-ahead log (`pg_lsn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl FromStr for Lsn {
    type Err = ();

    /// Two hexadecimal numbers with a slash between.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (high, low) = text.split_once('/').ok_or(())?;
        let part = |text| u32::from_str_radix(text, 16).map(u64::from).map_err(drop);
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// What a server's log is, as far as it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Which cluster it belongs to (`pg_control_system`).
    pub system: Option<u64>,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// Where the last recovery has ended: after a crash, or as a standby. `None` where there was none since the start.
    pub recovered: Option<Lsn>,
    /// Whether it was a streaming standby in this life.
    pub streamed: bool,
    /// Where it was when it was asked.
    pub at: Option<Lsn>,
}

/// What can be said of an earlier life's commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// What the server says of its id is said of this transaction; of one that was not flushed, see the module.
    Told,
    /// It did not survive.
    Gone,
    /// Nothing is certain.
    Unknown,
}

/// Compares the log of the life in which the chunk was `written` with the present one.
#[must_use]
pub fn survival(before: &History, now: &History, written: Option<Lsn>) -> Survival {
    let (Some(was), Some(is), Some(written)) = (before.timeline, now.timeline, written) else {
        return Survival::Unknown;
    };
    if before.system.is_none() || before.system != now.system {
        return Survival::Unknown;
    }
    let end = match (is.checked_sub(was), now.recovered) {
        // It was shut down in order, and started again.
        (Some(0), None) => now.at,
        // A recovery from before says nothing of what came after.
        (Some(0), end) if end == before.recovered => None,
        (Some(0), end) => end,
        (Some(1), end) if now.streamed => end,
        _ => None,
    };
    match end {
        Some(end) if end >= written => Survival::Told,
        Some(_) if now.recovered.is_some() => Survival::Gone,
        _ => Survival::Unknown,
    }
}

/// What became of a commit of an earlier life that no flush has covered, where the present server `says` so of its id.
/// `akin`: both are of one cluster, as far as they tell.
#[must_use]
pub const fn fate(survival: Survival, says: Status, akin: bool) -> Status {
    match (survival, says) {
        (Survival::Gone, _) => Status::Aborted,
        // The log may have ended twice since, and what is committed or in progress here be another transaction.
        (Survival::Told, Status::Committed | Status::InProgress) => Status::Unknown,
        (Survival::Told, status) => status,
        // Of the same cluster only that it is not there is certain: the id may be another transaction's.
        (Survival::Unknown, Status::Aborted) if akin => Status::Aborted,
        (Survival::Unknown, _) => Status::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: History =
        History { system: Some(7), timeline: Some(1), recovered: None, streamed: false, at: Some(Lsn(100)) };

    fn check(now: &History, written: u64, expected: Survival) {
        assert_eq!(survival(&OURS, now, Some(Lsn(written))), expected, "{now:?}");
    }

    #[test]
    fn a_recovery_that_ended_before_the_commit_has_lost_it_and_one_that_ended_after_tells() {
        let crashed = History { recovered: Some(Lsn(200)), at: Some(Lsn(250)), ..OURS };
        check(&crashed, 200, Survival::Told);
        check(&crashed, 201, Survival::Gone);
        let promoted = History { timeline: Some(2), streamed: true, ..crashed };
        check(&promoted, 200, Survival::Told);
        check(&promoted, 201, Survival::Gone);
    }

    #[test]
    fn a_server_that_was_shut_down_in_order_has_lost_nothing() {
        let restarted = History { at: Some(Lsn(300)), ..OURS };
        check(&restarted, 299, Survival::Told);
        // An older copy of it.
        check(&restarted, 301, Survival::Unknown);
    }

    #[test]
    fn what_is_no_continuation_of_the_same_log_proves_nothing() {
        let promoted = History {
            timeline: Some(2),
            recovered: Some(Lsn(200)),
            streamed: true,
            at: Some(Lsn(210)),
            ..OURS
        };
        for stranger in [
            History { system: Some(8), ..promoted.clone() },
            History { system: None, ..promoted.clone() },
            History { timeline: Some(3), ..promoted.clone() },
            History { timeline: None, ..promoted.clone() },
            // Promoted, and crashed since: where its own timeline began is not known any more.
            History { streamed: false, ..promoted.clone() },
            History { recovered: None, ..promoted.clone() },
        ] {
            check(&stranger, 100, Survival::Unknown);
            check(&stranger, 205, Survival::Unknown);
        }
        assert_eq!(survival(&OURS, &promoted, None), Survival::Unknown);
        // Both sessions came after one and the same recovery.
        let before = History { recovered: Some(Lsn(50)), ..OURS };
        assert_eq!(survival(&before, &before, Some(Lsn(90))), Survival::Unknown);
    }

    #[test]
    fn of_a_commit_of_an_earlier_life_only_that_it_is_not_there_is_believed() {
        use Status::{Aborted, Committed, InProgress, Unknown};
        for says in [Committed, Aborted, InProgress, Unknown] {
            assert_eq!(fate(Survival::Gone, says, true), Aborted);
            let expected = if says == Aborted { Aborted } else { Unknown };
            for survival in [Survival::Told, Survival::Unknown] {
                assert_eq!(fate(survival, says, true), expected);
            }
            assert_eq!(fate(Survival::Unknown, says, false), Unknown);
        }
    }

    #[test]
    fn positions_are_read_and_written_as_the_server_does() {
        for (text, position) in [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX)]
        {
            assert_eq!(text.parse(), Ok(Lsn(position)));
            assert_eq!(Lsn(position).to_string(), text);
        }
        for nonsense in ["", "0", "/", "x/0", "0/1FFFFFFFF"] {
            assert!(nonsense.parse::<Lsn>().is_err(), "{nonsense}");
        }
    }
}
