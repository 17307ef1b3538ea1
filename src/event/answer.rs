//! What the server answered to whoever asked it to stop something, or for the fate of a commit.

pub use crate::decide::update::resolver::Resolution;

/// How a leader was asked to stop.
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

/// What came of a request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelResult {
    /// The signal was sent to the very backend that was meant.
    Sent,
    /// That backend was gone, or ran no statement any more: no signal was sent.
    Missed,
    /// The request could not be made.
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
