//! Whom a failure that no retry can help is to be blamed on.
//!
//! A violated constraint or a value that does not parse belongs to one key among the hundred of a chunk, and the other
//! ninety-nine should not suffer for it: the chunk is halved until the key stands alone. A missing table or a missing
//! right belongs to all keys alike: every further chunk would fail the same way, so the run stops.
//!
//! The SQLSTATE does not tell the two apart. A trigger raises whatever code it likes; 42501 is a missing right and a
//! policy's `WITH CHECK`; 54000 is a limit of the server and a value too long for its index. So a code that is not known
//! to be about data is nobody's at first. The chunk is halved all the same, and only when many keys in a row
//! have failed so, each alone and without one success in between, is it the run's ([`Streak`]).

/// Who has to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultScope {
    /// Some of the chunk's keys, or what a trigger thinks of them.
    Keys,
    /// Some of the keys, or all there are.
    Unclear,
    /// The run: no chunk can succeed.
    Run,
}

/// Sorts a SQLSTATE (appendix A of the manual) that is not retryable; `None`: the client's own failure.
#[must_use]
pub fn fault_scope(sqlstate: Option<&str>) -> FaultScope {
    let Some(code) = sqlstate else { return FaultScope::Run };
    match code.get(..2).unwrap_or_default() {
        // Cardinality, data, constraint, triggered action, trigger functions, WITH CHECK OPTION, RAISE.
        "21" | "22" | "23" | "27" | "09" | "38" | "39" | "44" | "P0" => FaultScope::Keys,
        // A statement that took too long may do with fewer keys. One damaged page is not the table.
        "57" | "XX" => FaultScope::Keys,
        _ => FaultScope::Unclear,
    }
}

/// Keys in a row that must fail alone, with a code that is nobody's, before the run is to be blamed.
pub const ROW: u32 = 100;

/// Counts such keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streak(u32);

impl Streak {
    /// A key was given up, with a failure of this sort. Returns whether the run is to be blamed for it.
    pub const fn on_given_up(&mut self, scope: FaultScope) -> bool {
        match scope {
            FaultScope::Run => true,
            // Says nothing of the others.
            FaultScope::Keys => false,
            FaultScope::Unclear => {
                self.0 = self.0.saturating_add(1);
                self.0 >= ROW
            }
        }
    }

    /// A chunk succeeded: others can.
    pub const fn on_success(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_constraints_are_the_keys_fault_and_other_codes_are_nobodys_at_first() {
        for code in ["22P02", "22001", "23505", "23514", "P0001", "44000", "57014", "21000"] {
            assert_eq!(fault_scope(Some(code)), FaultScope::Keys, "{code}");
        }
        for code in ["42501", "42P01", "25006", "53100", "0A000", "3F000", "54000", "20000", "U0001", ""] {
            assert_eq!(fault_scope(Some(code)), FaultScope::Unclear, "{code}");
        }
        assert_eq!(fault_scope(None), FaultScope::Run);
    }

    #[test]
    fn many_keys_in_a_row_that_fail_alone_are_the_runs_fault_and_one_success_clears_it() {
        let mut streak = Streak::default();
        assert!((1..ROW).all(|_| !streak.on_given_up(FaultScope::Unclear)));
        assert!(!streak.on_given_up(FaultScope::Keys), "a bad value says nothing of the others");
        assert!(streak.on_given_up(FaultScope::Unclear));
        streak.on_success();
        assert!(!streak.on_given_up(FaultScope::Unclear));
        assert!(Streak::default().on_given_up(FaultScope::Run));
    }
}
