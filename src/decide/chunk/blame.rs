//! Whom a failure that no retry can help is to be blamed on.
//!
//! A violated constraint or a value that does not parse belongs to one key among the hundred of a
//! chunk, and the other ninety-nine should not suffer for it: the chunk is halved until the key stands
//! alone. A missing table or a missing right belongs to all keys alike: every further chunk would
//! fail the same way, so the run stops.

/// Who has to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Some of the chunk's keys, or what a trigger thinks of them.
    Keys,
    /// The statement, the role or the server: no chunk can succeed.
    Run,
}

/// Sorts a SQLSTATE (appendix A of the manual) that is not retryable; `None`: the client's own failure.
#[must_use]
pub fn blame(sqlstate: Option<&str>) -> Blame {
    match sqlstate.unwrap_or_default().get(..2).unwrap_or_default() {
        // Cardinality, data, constraint, triggered action, trigger functions, WITH CHECK OPTION, RAISE.
        "21" | "22" | "23" | "27" | "09" | "38" | "39" | "44" | "P0" => Blame::Keys,
        // A statement that took too long may do with fewer keys. One damaged page is not the table.
        "57" | "XX" => Blame::Keys,
        _ => Blame::Run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_constraints_are_the_keys_fault_and_the_rest_is_not() {
        for code in ["22P02", "22001", "23505", "23514", "P0001", "44000", "57014", "21000"] {
            assert_eq!(blame(Some(code)), Blame::Keys, "{code}");
        }
        for code in ["42501", "42P01", "25006", "28P01", "53100", "0A000", "3F000"] {
            assert_eq!(blame(Some(code)), Blame::Run, "{code}");
        }
        assert_eq!(blame(None), Blame::Run);
    }
}
