//! The crate's one public error.
//!
//! Too few workers is not an error: it is an [`Outcome`](crate::Outcome). Errors are: a bad option, a
//! server that cannot be reached, SQL that fails, a run that was refused before it began, and a commit
//! whose outcome could not be found out.
//!
//! `Display` is one lower-case clause without the cause; [`source`](std::error::Error::source) has
//! the cause. Neither ever contains a password.

use std::error::Error as StdError;
use std::fmt;

use crate::fix::Fix;
use crate::pg::Failure;
use crate::report::{Execution, Updated};

/// A cause of any type, as [`std::error::Error::source`] returns it.
pub(crate) type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What is done when nothing failed but the cleanup.
const CLEANUP: &str = "the cleanup";

/// Why a run failed. Its kind can be asked for with the `is_*` methods; [`chain`](Self::chain) is the whole message.
///
/// ```
/// use headcount::server::Endpoint;
///
/// let error = Endpoint::from_dsn("postgres://batch@localhost:port/sales").unwrap_err();
/// assert!(error.is_configuration() && !error.is_retryable());
/// ```
pub struct Error {
    kind: Box<Kind>,
    history: Option<Box<Execution<()>>>,
    cleanup_failure: Option<String>,
    /// `None`: nobody could look.
    processes_left: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("{field}: {problem}")]
    Configuration { field: String, problem: String },
    #[error("cannot connect to {server}")]
    Connect { server: String, source: Failure },
    #[error("{doing} failed")]
    Sql { doing: &'static str, source: Failure },
    #[error("refused before running: {explanation}")]
    Refused { refusal: Refusal, explanation: String, fixes: Vec<Fix> },
    #[error("the deadline of {} passed", human(*.0))]
    Deadline(std::time::Duration),
    #[error("it was stopped")]
    Stopped,
    #[error("the commit of transaction {xid} was sent but its fate could not be learned")]
    InDoubt { xid: String, source: Source },
    #[error("{0}")]
    Stuck(String),
    #[error("{}: {} of {} workers, below the minimum of {}", .0.task, .0.achieved_workers, .0.target_workers, .0.min_workers)]
    BelowMinimum(Execution<()>),
    #[error("{0}")]
    Incomplete(String),
    #[error("{doing}")]
    Other { doing: String, source: Source },
}

/// Why a run was refused before its first attempt. [`as_str`](Self::as_str) is the metric label.
///
/// ```no_run
/// # fn report(error: &headcount::Error) {
/// if error.refusal() == Some(headcount::Refusal::PlanTooNarrow) {
///     error.fixes().iter().for_each(|fix| println!("{fix}"));
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The server is older than PostgreSQL 13, which has no `leader_pid`.
    ServerTooOld,
    /// The monitor's role may not see the statement's row in `pg_stat_activity`.
    BlindMonitor,
    /// The monitor's role may not cancel the statement (`pg_signal_backend`).
    MayNotCancel,
    /// The session does not show whether it runs a statement (`track_activities = off`).
    UntrackedActivity,
    /// The plan, or the size of the pool, can never reach the required number of workers.
    PlanTooNarrow,
    /// The session is read-only: the server is a standby, or a setting of the role, the database or the server.
    ReadOnly,
    /// The role lacks the privilege to read or change the columns of an update.
    MayNotUpdate,
    /// A proxy is in transaction mode, which keeps no session state, or in statement mode, which allows no transaction
    /// (`PgBouncer`'s `pool_mode`).
    PooledConnection,
    /// Nothing can guarantee the workers ([`Settings::guarantee`](crate::Settings::guarantee)).
    NoGuarantee,
}

impl Refusal {
    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerTooOld => "server_too_old",
            Self::BlindMonitor => "blind_monitor",
            Self::MayNotCancel => "may_not_cancel",
            Self::UntrackedActivity => "untracked_activity",
            Self::PlanTooNarrow => "plan_too_narrow",
            Self::ReadOnly => "read_only",
            Self::MayNotUpdate => "may_not_update",
            Self::PooledConnection => "pooled_connection",
            Self::NoGuarantee => "no_guarantee",
        }
    }
}

impl Error {
    /// An option is out of its bounds, or a text could not be read as one.
    pub(crate) fn configuration(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Kind::Configuration { field: field.into(), problem: problem.into() }.into()
    }

    /// A setting of the run is wrong, as the server or this library finds.
    pub(crate) fn setting(name: &str, problem: impl Into<String>) -> Self {
        Self::configuration(format!("settings.{name}"), problem)
    }

    /// The same, of what was read from that variable.
    pub(crate) fn blamed_on(self, variable: &str) -> Self {
        match *self.kind {
            Kind::Configuration { field, problem } => {
                Self::configuration(variable, format!("{field}: {problem}"))
            }
            _ => self,
        }
    }

    /// No session could be had. `server` is `host:port/database`, never with a password.
    pub(crate) fn connect(server: impl Into<String>, source: Failure) -> Self {
        Kind::Connect { server: server.into(), source }.into()
    }

    pub(crate) fn refused(refusal: Refusal, explanation: impl Into<String>, fixes: Vec<Fix>) -> Self {
        Kind::Refused { refusal, explanation: explanation.into(), fixes }.into()
    }

    pub(crate) fn deadline(limit: std::time::Duration) -> Self {
        Kind::Deadline(limit).into()
    }

    pub(crate) fn stopped() -> Self {
        Kind::Stopped.into()
    }

    pub(crate) fn in_doubt(xid: impl Into<String>, source: impl Into<Source>) -> Self {
        Kind::InDoubt { xid: xid.into(), source: source.into() }.into()
    }

    pub(crate) fn stuck(what: impl Into<String>) -> Self {
        Kind::Stuck(what.into()).into()
    }

    pub(crate) fn below_minimum(run: Execution<()>) -> Self {
        Self { history: Some(Box::new(run.clone())), ..Kind::BelowMinimum(run).into() }
    }

    pub(crate) fn incomplete(report: &Updated) -> Self {
        let Updated { task, outcome, keys, failed, stale, missing, left, .. } = report;
        let left = left.map(|left| format!(", {left} left")).unwrap_or_default();
        let why = report.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        Kind::Incomplete(format!(
            "{task}: {}, of {keys} keys {failed} failed, {stale} stale, {missing} missing{left}{why}",
            outcome.as_str().replace('_', " ")
        ))
        .into()
    }

    pub(crate) fn other(doing: impl Into<String>, source: impl Into<Source>) -> Self {
        Kind::Other { doing: doing.into(), source: source.into() }.into()
    }

    /// A statement failed. `doing` completes "... failed".
    pub(crate) fn sql(doing: &'static str, source: Failure) -> Self {
        Kind::Sql { doing, source }.into()
    }

    /// Nothing failed but the cleanup after an attempt that was rejected.
    pub(crate) fn uncleaned(source: Failure) -> Self {
        let told = source.to_string();
        Self { cleanup_failure: Some(told), ..Self::sql(CLEANUP, source) }
    }

    /// Whether only the cleanup after a rejected attempt failed; [`cleanup_failure`](Self::cleanup_failure) says why.
    #[must_use]
    pub fn is_cleanup(&self) -> bool {
        matches!(*self.kind, Kind::Sql { doing: CLEANUP, .. })
    }

    /// The attempts before the error, if there were any.
    #[must_use]
    pub fn history(&self) -> Option<&Execution<()>> {
        self.history.as_deref()
    }

    pub(crate) fn with_history(mut self, history: Execution<()>) -> Self {
        self.history = Some(Box::new(history));
        self
    }

    /// Why the cleanup failed, if it did, as this error or after it. What it undoes is still there.
    #[must_use]
    pub fn cleanup_failure(&self) -> Option<&str> {
        self.cleanup_failure.as_deref()
    }

    pub(crate) fn with_cleanup_failure(mut self, failure: &Failure) -> Self {
        self.cleanup_failure = Some(failure.to_string());
        self
    }

    /// Processes of the statement, leader included, that still ran when the call returned, although they were cancelled
    /// and, after [`Settings::cancel_grace`](crate::Settings::cancel_grace), terminated. Usually 0; more means a backend
    /// that does not react. Nothing of its transaction can be committed.
    #[must_use]
    pub const fn processes_left(&self) -> u32 {
        match self.processes_left {
            Some(left) => left,
            None => 0,
        }
    }

    /// Whether [`processes_left`](Self::processes_left) is known: `false` if the server did not answer any more.
    #[must_use]
    pub const fn is_end_seen(&self) -> bool {
        self.processes_left.is_some()
    }

    pub(crate) const fn with_processes_left(mut self, left: Option<u32>) -> Self {
        self.processes_left = left;
        self
    }

    /// Whether an option, a connection string or a server setting was wrong. No statement was run.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(*self.kind, Kind::Configuration { .. })
    }

    /// The option, parameter or argument that was wrong, of a configuration error; `settings.NAME` for a server setting.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match &*self.kind {
            Kind::Configuration { field, .. } => Some(field),
            _ => None,
        }
    }

    /// Why the run was refused before its first attempt, if it was.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match *self.kind {
            Kind::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// What to change, if the run was refused.
    #[must_use]
    pub fn fixes(&self) -> &[Fix] {
        match &*self.kind {
            Kind::Refused { fixes, .. } => fixes,
            _ => &[],
        }
    }

    /// Whether it could not connect, or lost its connection (SQLSTATE class 08, 57P01, 57P02, 57P05, 25P03, 25P04, or
    /// no answer at all).
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        match &*self.kind {
            Kind::Connect { .. } => true,
            Kind::Sql { source, .. } => source.is_connection_lost(),
            _ => false,
        }
    }

    /// Whether the same call may succeed later, without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match &*self.kind {
            Kind::Connect { source, .. } | Kind::Sql { source, .. } => source.is_retryable(),
            _ => false,
        }
    }

    /// Whether that takes longer: the server is short of something, or still starting.
    pub(crate) fn needs_longer(&self) -> bool {
        match &*self.kind {
            Kind::Connect { source, .. } | Kind::Sql { source, .. } => source.class().needs_longer(),
            _ => false,
        }
    }

    /// Whether no attempt reached the workers that it required ([`Execution::required`]).
    #[must_use]
    pub fn is_below_minimum(&self) -> bool {
        matches!(*self.kind, Kind::BelowMinimum(_))
    }

    /// Whether a chunked update does not count as done ([`Updated::complete`]).
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        matches!(*self.kind, Kind::Incomplete(_))
    }

    /// Whether the deadline passed.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        matches!(*self.kind, Kind::Deadline(_))
    }

    /// Whether the caller's token was cancelled; see [`Job::stop`](crate::Job::stop).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(*self.kind, Kind::Stopped)
    }

    /// Whether a COMMIT was sent whose outcome is unknown. Check whether it took effect before you repeat the call.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(*self.kind, Kind::InDoubt { .. })
    }

    /// The error and its causes in one line, for a log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(inner) = cause {
            line.push_str(": ");
            line.push_str(&inner.to_string());
            cause = inner.source();
        }
        // A server's message may have several lines; the reader's `grep` has one.
        line.trim_end().replace('\n', "; ")
    }

    /// The server's SQLSTATE; 08006 if there is none because the connection was lost or refused.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match &*self.kind {
            Kind::Connect { source, .. } | Kind::Sql { source, .. } => source.shown_sqlstate(),
            _ => None,
        }
    }
}

/// A duration as people write it: `10ms`, `1.5s`, `2h`.
pub(crate) fn human(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        _ if time.subsec_nanos() > 0 => format!("{time:?}"),
        0 => "0s".to_owned(),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self { kind: Box::new(kind), history: None, cleanup_failure: None, processes_left: Some(0) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Error").field(&self.kind).finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.kind.source()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_written_as_people_write_them() {
        let written =
            [0, 10, 1500, 45_000, 60_000, 7_200_000, 86_400_000].map(|ms| human(Duration::from_millis(ms)));
        assert_eq!(written, ["0s", "10ms", "1.5s", "45s", "1m", "2h", "1d"]);
    }
}
