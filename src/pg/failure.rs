//! A failure as PostgreSQL or the driver reported it.
//!
//! `tokio_postgres::Error` prints its cause inside its own `Display`, and says nothing of class 08
//! when the socket broke. This type prints one clause, and knows its [`FailureClass`].

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::{ErrorPosition, Severity};

use crate::decide::failure::{FailureClass, Signal, classify};
use crate::decide::update::material::Failed;
use crate::error::Source;
use crate::event::SqlState;

/// A failed statement or session, without a password and without the statement's text.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    sqlstate: Option<String>,
    message: String,
    hint: Option<String>,
    class: FailureClass,
    lost: bool,
    /// Where in the text that was sent, in characters from 1.
    position: Option<u32>,
    /// The statement and the line of a script, in words.
    place: Option<String>,
    /// Why no server that was reached would do for work that writes.
    unfit: Option<Unfit>,
    /// Whether a statement that was sent names a prepared one which is not there: none that a routine runs.
    unprepared: bool,
}

/// Why a server that answers will not do for work that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unfit {
    /// `default_transaction_read_only` is on.
    ReadOnly,
    Standby,
}

/// `invalid_sql_statement_name`.
const NO_STATEMENT: &str = "26000";
const NOT_UTF8: &str = "22021";
const SQL_ASCII: &str = "text is sent and read as UTF-8; a database of encoding SQL_ASCII may hold other bytes, which \
     convert_from(convert_to(TEXT, 'SQL_ASCII'), 'LATIN1') reads, for example";

impl Failure {
    /// Whether somebody has taken the session's prepared statements (DEALLOCATE ALL, DISCARD).
    pub(crate) const fn is_unprepared(&self) -> bool {
        self.unprepared
    }

    /// No session was had in time, and nothing was heard.
    pub(crate) fn no_answer() -> Self {
        Self::lost("no answer in time")
    }

    fn new(message: impl Into<String>, class: FailureClass) -> Self {
        let message = message.into();
        Self {
            sqlstate: None,
            message,
            hint: None,
            class,
            lost: false,
            position: None,
            place: None,
            unfit: None,
            unprepared: false,
        }
    }

    /// The connection is gone and the driver said nothing more.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Self { lost: true, ..Self::new(message, classify(Signal::ConnectionLost)) }
    }

    /// The server was reached and will not do, for now: it may be promoted yet.
    pub(crate) fn unfit(message: impl Into<String>, why: Option<Unfit>) -> Self {
        Self { unfit: why, ..Self::lost(message) }
    }

    /// Why work that writes cannot begin on any server that there is.
    pub(crate) const fn why_unfit(&self) -> Option<Unfit> {
        self.unfit
    }

    /// Nothing was lost and no server said no: it is on our side, and trying again does not help.
    pub(crate) fn client(message: impl Into<String>) -> Self {
        Self::new(message, classify(Signal::Client))
    }

    /// What we found in the data and PostgreSQL has a code for.
    pub(crate) fn found(code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let class = classify(Signal::SqlState { code, message: &message, survived: true });
        Self { sqlstate: Some(code.to_owned()), ..Self::new(message, class) }
    }

    /// What it says, without its code.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The same, told with other words.
    pub(crate) fn saying(mut self, message: String) -> Self {
        (self.message, self.hint, self.unfit) = (message, None, None);
        self
    }

    /// Where in the text that was sent the server found it: characters, from 1.
    pub(crate) const fn position(&self) -> Option<u32> {
        self.position
    }

    /// The same of a text that was sent behind `prefix`.
    pub(crate) fn behind(mut self, prefix: &str) -> Self {
        let before = u32::try_from(prefix.chars().count()).unwrap_or(u32::MAX);
        self.position = self.position.and_then(|position| position.checked_sub(before));
        self
    }

    /// The same, with the place in a script where it happened.
    pub(crate) fn at(mut self, place: String) -> Self {
        self.place = Some(place);
        self
    }

    /// The server's SQLSTATE, if the server sent one.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// The SQLSTATE to show and count: what the server sent, else 08006 for a broken connection.
    pub(crate) fn shown_sqlstate(&self) -> Option<&str> {
        self.sqlstate().or_else(|| self.lost.then_some("08006"))
    }

    /// The same, for an event.
    pub(crate) fn event_sqlstate(&self) -> Option<SqlState> {
        self.shown_sqlstate().and_then(SqlState::new)
    }

    /// Whether the server refused a value, or the change, of this setting (guc.c): the message quotes its
    /// name in every language.
    pub(crate) fn is_about_setting(&self, name: &str) -> bool {
        matches!(
            self.sqlstate(),
            Some("22023" | "42704" | "42501" | "42602" | "55P02" | "42601" | "0A000" | "25001")
        ) && self.message.to_ascii_lowercase().contains(&name.to_ascii_lowercase())
    }

    /// Whether BEGIN was refused, which no server does: a proxy that pools statements does (`PgBouncer` with
    /// `pool_mode = statement`), as a protocol violation.
    pub(crate) fn refuses_to_begin(&self) -> bool {
        self.sqlstate() == Some("08P01")
    }

    /// Whether the server has a text that is not UTF-8. In a database of encoding `SQL_ASCII` it may have any, names
    /// included, and converts none.
    pub(crate) fn is_not_utf8(&self) -> bool {
        self.sqlstate() == Some(NOT_UTF8)
    }

    /// Whether a proxy does not take the options of a session's start, all or some (`PgBouncer`: "unsupported startup
    /// parameter: options").
    pub(crate) fn refuses_options(&self) -> bool {
        self.sqlstate() == Some("08P01") && self.message.contains("startup parameter")
    }

    pub(crate) const fn class(&self) -> FailureClass {
        self.class
    }

    pub(crate) const fn is_connection_lost(&self) -> bool {
        self.class.is_session_lost()
    }

    pub(crate) const fn is_retryable(&self) -> bool {
        self.class.is_retryable()
    }
}

impl Failure {
    fn read(error: &tokio_postgres::Error) -> Self {
        if let Some(server) = error.as_db_error() {
            let code = server.code().code();
            // A proxy may leave it out, and then the code alone must do.
            let survived = server.parsed_severity() == Some(Severity::Error);
            let class = classify(Signal::SqlState { code, message: server.message(), survived });
            return Self {
                sqlstate: Some(code.to_owned()),
                hint: server.hint().or_else(|| (code == NOT_UTF8).then_some(SQL_ASCII)).map(str::to_owned),
                lost: class.is_session_lost(),
                unprepared: code == NO_STATEMENT && server.where_().is_none(),
                position: match server.position() {
                    Some(ErrorPosition::Original(position)) => Some(*position),
                    _ => None,
                },
                ..Self::new(server.message(), class)
            };
        }
        let cause = StdError::source(error);
        // What cannot be sent, such as a NUL, is an I/O error to the driver, too.
        let broken = |cause: &(dyn StdError + 'static)| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() != std::io::ErrorKind::InvalidInput)
        };
        let lost = error.is_closed() || cause.is_some_and(broken);
        let class = classify(if lost { Signal::ConnectionLost } else { Signal::Client });
        // Where there is a cause, the driver's own text is only its preface.
        let message = cause.map_or_else(|| error.to_string(), ToString::to_string);
        Self { lost, ..Self::new(message, class) }
    }
}

/// The error of a caller's own closure: what PostgreSQL said, wherever it is in the chain of causes.
impl From<Source> for Failure {
    fn from(error: Source) -> Self {
        let error = match error.downcast::<tokio_postgres::Error>() {
            Ok(error) => return (*error).into(),
            Err(error) => error,
        };
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&*error);
        while let Some(inner) = cause {
            if let Some(server) = inner.downcast_ref::<tokio_postgres::Error>() {
                return Self { message: error.to_string(), ..Self::read(server) };
            }
            cause = inner.source();
        }
        Self::client(error.to_string())
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::read(&error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(code) = self.shown_sqlstate() {
            write!(f, " (SQLSTATE {code})")?;
        }
        if let Some(place) = &self.place {
            write!(f, ", {place}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Failure {}

impl Failed for Failure {
    fn lost(message: &str) -> Self {
        Self::lost(message)
    }

    fn unreplicated() -> Self {
        Self::found("01000", "canceling wait for synchronous replication")
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn class(&self) -> FailureClass {
        self.class
    }

    fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }
}
