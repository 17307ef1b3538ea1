//! Answers of the server: to a request to cancel, and to the question for the outcome of a commit.

pub use crate::decide::update::resolver::Resolution;

/// How a statement was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelMethod {
    /// `pg_cancel_backend`.
    Cancel,
    /// `pg_terminate_backend`, when a cancel was not enough.
    Terminate,
}

impl CancelMethod {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 2] = [Self::Cancel, Self::Terminate];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Terminate => "terminate",
        }
    }
}

/// The result of a request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelResult {
    /// The signal was sent, to the right backend.
    Sent,
    /// The backend was gone, or ran no statement any more: no signal was sent.
    Missed,
    /// The request failed.
    Failed,
}

impl CancelResult {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 3] = [Self::Sent, Self::Missed, Self::Failed];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Missed => "missed",
            Self::Failed => "failed",
        }
    }
}
