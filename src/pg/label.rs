//! What a session says of itself, in `application_name`: the one thing that each role sees of every session.
//!
//! A log line, a dashboard, `pg_stat_activity` and `headcount watch` all read it, so what a job demands and
//! which attempt runs is said there instead of guessed from outside. A leader's name begins with
//! `headcount:<task>` (`headcount:rollup want=4 try=2`): that much is a contract, and match on it with `LIKE`.
//! A session that stands in the queue, or holds slots, says for whom
//! (`want=4 for=4711 try=1 headcount:rollup`), and its task comes last because it is the one to be cut. A backend
//! that a proxy lends to leaders says so while it runs none (`headcount:rollup want=4 pooled`).

/// The server cuts a name after so many bytes.
const LONGEST: usize = 63;
/// The word of a backend that is a proxy's.
const POOLED: &str = "pooled";

/// A leader's name: its task, and as many of the other words as are known and fit. None is ever cut: half
/// a number would be another number.
pub(crate) fn leading(task: &str, demand: Option<u32>, attempt: Option<u32>) -> String {
    let mut name = format!("headcount:{task}");
    let words = [demand.map(|demand| format!(" want={demand}")), attempt.map(|n| format!(" try={n}"))];
    for word in words.into_iter().flatten() {
        if name.len() + word.len() <= LONGEST {
            name.push_str(&word);
        }
    }
    name
}

/// A leader's name between its transactions, where its backend is a proxy's; as it is where there is no room.
pub(crate) fn pooled(leading: &str) -> String {
    let word = if leading.len() + POOLED.len() < LONGEST { POOLED } else { "" };
    format!("{leading} {word}").trim_end().to_owned()
}

/// The name of a session that waits for slots, or holds them, for a leader.
pub(crate) fn serving(demand: u32, leader: i32, attempt: u32, task: &str) -> String {
    format!("want={demand} for={leader} try={attempt} headcount:{task}")
}

/// The name of a session that holds a slot, or none but the right to, until enough are held for a leader.
pub(crate) fn holding(slots: u32, leader: i32, task: &str) -> String {
    format!("hold={slots} for={leader} headcount:{task}")
}

/// A name, read; `None` is what it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label<'a> {
    pub(super) task: Option<&'a str>,
    pub(super) demand: Option<u32>,
    pub(super) leader: Option<i32>,
    pub(super) attempt: Option<u32>,
    pub(super) pooled: bool,
    /// It holds a slot idle for that leader.
    pub(super) holds: bool,
}

/// Reads what [`leading`], [`pooled`], [`serving`] or [`holding`] wrote.
pub(super) fn read(name: &str) -> Label<'_> {
    let word = |key: &str| name.split(' ').find_map(|word| word.strip_prefix(key));
    Label {
        task: word("headcount:"),
        demand: word("want=").and_then(|digits| digits.parse().ok()),
        leader: word("for=").and_then(|digits| digits.parse().ok()),
        attempt: word("try=").and_then(|digits| digits.parse().ok()),
        pooled: name.split(' ').any(|word| word == POOLED),
        holds: word("hold=").is_some_and(|digits| digits != "0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_was_written_and_anything_else_says_nothing() {
        let nothing =
            Label { task: None, demand: None, leader: None, attempt: None, pooled: false, holds: false };
        let leader = Label { task: Some("rollup"), demand: Some(4), attempt: Some(2), ..nothing };
        assert_eq!(read(&leading("rollup", Some(4), Some(2))), leader);
        assert_eq!(read(&serving(4, 4711, 2, "rollup")), Label { leader: Some(4711), ..leader });
        let at_rest = Label { demand: None, attempt: None, ..leader };
        assert_eq!(read(&leading("rollup", None, None)), at_rest);
        let lent = Label { pooled: true, attempt: None, ..leader };
        assert_eq!(read(&pooled(&leading("rollup", Some(4), None))), lent);
        let holder = Label { leader: Some(4711), holds: true, task: Some("rollup"), ..nothing };
        assert_eq!(read(&holding(1, 4711, "rollup")), holder);
        assert_eq!(read(&holding(0, 4711, "rollup")), Label { holds: false, ..holder });
        assert_eq!(read("psql"), nothing);
    }

    #[test]
    fn a_leaders_words_are_left_out_before_they_are_cut() {
        let task = "x".repeat(52);
        assert_eq!(leading(&task, Some(1024), Some(100)), format!("headcount:{task}"));
        let task = "x".repeat(43);
        assert_eq!(leading(&task, Some(1024), Some(1)), format!("headcount:{task} want=1024"));
        for length in 1..=52 {
            assert!(leading(&"x".repeat(length), Some(1024), Some(100)).len() <= LONGEST);
        }
    }

    #[test]
    fn a_word_that_does_not_fit_is_left_out() {
        for length in 1..=53 {
            let name = pooled(&leading(&"x".repeat(length), None, None));
            assert_eq!((name.len() <= LONGEST, name.ends_with(" pooled")), (true, length <= 46), "{name}");
        }
    }

    #[test]
    fn the_fixed_part_of_a_servants_name_survives_the_cut() {
        let longest = serving(1024, 4_194_304, 100, &"x".repeat(52));
        assert!(longest[..LONGEST].starts_with("want=1024 for=4194304 try=100 headcount:x"));
    }
}
