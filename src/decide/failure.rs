//! What a failure means for a retry.
//!
//! A SQLSTATE alone does not say whether trying again can help, and a broken socket brings none at
//! all: the driver reports "closed" or an I/O error, and it is we who count that as class 08. The
//! classes follow the manual, appendix A ("PostgreSQL Error Codes"), and what real servers were
//! seen to send. An unknown code is never retried: a wrong guess there repeats a mistake at night.

/// What is known of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal<'a> {
    /// The server said so: five characters, and the primary message.
    SqlState {
        /// For example `57P01`.
        code: &'a str,
        /// The primary message, in the server's language.
        message: &'a str,
    },
    /// The connection broke, or was refused, without a word from the server.
    ConnectionLost,
    /// The client could not read the answer or build the request.
    Client,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// A new transaction on the same session may succeed: 40001, 40P01, 55P03 and a parallel worker
    /// that died while it started.
    NewTransaction,
    /// The session is gone: class 08, 57P01, 57P02, 57P05, or the socket broke.
    NewSession,
    /// The server is short of something, or still starting: as [`Self::NewSession`], after a longer wait.
    NewSessionLater,
    /// No retry can help.
    Never,
}

impl FailureClass {
    /// Whether another try can succeed without a change by somebody.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        !matches!(self, Self::Never)
    }

    /// Whether the session cannot be used any more.
    #[must_use]
    pub const fn is_session_lost(self) -> bool {
        matches!(self, Self::NewSession | Self::NewSessionLater)
    }
}

/// Sorts a failure into its class.
#[must_use]
pub fn classify(signal: Signal<'_>) -> FailureClass {
    match signal {
        Signal::ConnectionLost => FailureClass::NewSession,
        Signal::Client => FailureClass::Never,
        Signal::SqlState { code, message } => match code {
            "40001" | "40P01" | "55P03" => FailureClass::NewTransaction,
            "55000" if message.contains("failed to initialize") => FailureClass::NewTransaction,
            "57P01" | "57P02" | "57P05" => FailureClass::NewSession,
            "57P03" | "53300" | "53000" | "53200" | "53400" => FailureClass::NewSessionLater,
            _ if code.starts_with("08") => FailureClass::NewSession,
            _ => FailureClass::Never,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str, expected: FailureClass) {
        assert_eq!(classify(Signal::SqlState { code, message: "" }), expected, "{code}");
    }

    #[test]
    fn each_documented_sqlstate_has_its_class() {
        for code in ["40001", "40P01", "55P03"] {
            check(code, FailureClass::NewTransaction);
        }
        for code in ["08000", "08001", "08003", "08004", "08006", "57P01", "57P02", "57P05"] {
            check(code, FailureClass::NewSession);
        }
        for code in ["57P03", "53300", "53000", "53200", "53400"] {
            check(code, FailureClass::NewSessionLater);
        }
        for code in ["22012", "23505", "25006", "28P01", "42P01", "42601", "53100", "58030", "57014", "XX000"]
        {
            check(code, FailureClass::Never);
        }
    }

    #[test]
    fn object_not_in_prerequisite_state_is_transient_only_for_a_worker_that_died_while_starting() {
        check("55000", FailureClass::Never);
        let dying = Signal::SqlState { code: "55000", message: "parallel worker failed to initialize" };
        assert_eq!(classify(dying), FailureClass::NewTransaction);
    }

    #[test]
    fn a_broken_socket_counts_as_a_lost_connection() {
        assert_eq!(classify(Signal::ConnectionLost), FailureClass::NewSession);
        assert!(FailureClass::NewSession.is_retryable() && FailureClass::NewSession.is_session_lost());
    }

    #[test]
    fn what_the_client_could_not_encode_is_never_retried() {
        assert_eq!(classify(Signal::Client), FailureClass::Never);
    }
}
