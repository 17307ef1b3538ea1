//! What a failure means for a retry.
//!
//! A SQLSTATE alone does not say whether trying again can help, and a broken socket brings none at
//! all: the driver reports "closed" or an I/O error, and it is we who count that as class 08. The
//! classes follow the manual, appendix A ("PostgreSQL Error Codes"), and what real servers were
//! seen to send. The severity has its say, too: only FATAL ends a session. A leader passes on the error of a parallel
//! worker that was terminated as its own, 57P01 with the severity ERROR, and lives. An unknown code is never retried: a wrong guess there repeats a mistake at night.

/// What is known of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal<'a> {
    /// The server said so: five characters, and the primary message.
    SqlState {
        /// For example `57P01`.
        code: &'a str,
        /// The primary message, in the server's language.
        message: &'a str,
        /// Whether the session lives on: the severity was ERROR, and neither FATAL nor unknown.
        survived: bool,
    },
    /// The connection broke, or was refused, without a word from the server.
    ConnectionLost,
    /// The client could not read the answer or build the request.
    Client,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// A new transaction on the same session may succeed: 40001, 40P01, 55P03, a parallel worker that died, and
    /// what stands below where the session survived it.
    NewTransaction,
    /// The server is short of something (53000, 53200...) and the session survived: as
    /// [`Self::NewTransaction`], after a longer wait.
    NewTransactionLater,
    /// The session is gone: class 08, 57P01, 57P02, 57P05, 25P03, 25P04, or the socket broke.
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

    /// Whether the cause takes longer to pass: the server is short of something, or still starting.
    #[must_use]
    pub const fn needs_longer(self) -> bool {
        matches!(self, Self::NewTransactionLater | Self::NewSessionLater)
    }

    /// The same failure where the session lives on.
    const fn survived(self) -> Self {
        match self {
            Self::NewSession => Self::NewTransaction,
            Self::NewSessionLater => Self::NewTransactionLater,
            class => class,
        }
    }
}

/// Sorts a failure into its class.
#[must_use]
pub fn classify(signal: Signal<'_>) -> FailureClass {
    match signal {
        Signal::ConnectionLost => FailureClass::NewSession,
        Signal::Client => FailureClass::Never,
        Signal::SqlState { code, message, survived } => {
            let class = by_code(code, message);
            if survived { class.survived() } else { class }
        }
    }
}

/// What `PgBouncer` refuses, and will go on to.
const REFUSED: [&str; 4] =
    ["unsupported startup parameter", "authentication failed", "no such user", "no such database"];

fn by_code(code: &str, message: &str) -> FailureClass {
    match code {
        "40001" | "40P01" | "55P03" => FailureClass::NewTransaction,
        "55000" if message.contains("failed to initialize") => FailureClass::NewTransaction,
        // Shut down, crashed; idle, idle in a transaction, or in one, for longer than allowed.
        "57P01" | "57P02" | "57P05" | "25P03" | "25P04" => FailureClass::NewSession,
        "57P03" | "53300" | "53000" | "53200" => FailureClass::NewSessionLater,
        // A proxy's word for everything (`PgBouncer`, whose messages are English everywhere): of what it says, this stays.
        "08P01" if REFUSED.iter().any(|words| message.contains(words)) => FailureClass::Never,
        _ if code.starts_with("08") => FailureClass::NewSession,
        _ => FailureClass::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str, expected: FailureClass) {
        let signal = Signal::SqlState { code, message: "", survived: false };
        assert_eq!(classify(signal), expected, "{code}");
    }

    #[test]
    fn each_documented_sqlstate_has_its_class() {
        for code in ["40001", "40P01", "55P03"] {
            check(code, FailureClass::NewTransaction);
        }
        for code in ["08000", "08001", "08003", "08004", "08006", "57P01", "57P02", "57P05", "25P03", "25P04"]
        {
            check(code, FailureClass::NewSession);
        }
        for code in ["57P03", "53300", "53000", "53200"] {
            check(code, FailureClass::NewSessionLater);
        }
        // 53400 is temp_file_limit's, and repeats.
        for code in [
            "22012", "23505", "25006", "28P01", "42P01", "42601", "53100", "53400", "58030", "57014", "XX000",
        ] {
            check(code, FailureClass::Never);
        }
    }

    #[test]
    fn what_a_proxy_refuses_for_good_is_not_asked_for_again_and_a_server_that_it_cannot_reach_is() {
        let class =
            |message| classify(Signal::SqlState { code: "08P01", message, survived: false }).is_retryable();
        for message in [
            "unsupported startup parameter: options",
            "unsupported startup parameter in options: work_mem",
            "\"trust\" authentication failed",
            "password authentication failed for user \"batch\"",
            "no such user: batch",
            "no such database: sales",
        ] {
            assert!(!class(message), "{message}");
        }
        for message in
            ["server login has been failing, try again later (server_login_retry)", "query_wait_timeout"]
        {
            assert!(class(message), "{message}");
        }
    }

    #[test]
    fn object_not_in_prerequisite_state_is_transient_only_for_a_worker_that_died_while_starting() {
        check("55000", FailureClass::Never);
        let message = "parallel worker failed to initialize";
        let dying = Signal::SqlState { code: "55000", message, survived: true };
        assert_eq!(classify(dying), FailureClass::NewTransaction);
    }

    #[test]
    fn a_session_that_survived_is_not_lost_whatever_the_code_says() {
        let survived = |code| classify(Signal::SqlState { code, message: "", survived: true });
        for (code, expected) in [
            ("57P01", FailureClass::NewTransaction),
            ("08001", FailureClass::NewTransaction),
            ("53200", FailureClass::NewTransactionLater),
            ("40P01", FailureClass::NewTransaction),
            ("42P01", FailureClass::Never),
        ] {
            assert_eq!(survived(code), expected, "{code}");
            assert!(!survived(code).is_session_lost(), "{code}");
        }
        assert!(survived("53200").is_retryable() && survived("53200").needs_longer());
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
