//! What keeps a private server from running.

use std::error::Error as StdError;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// Why a private server does not run. `Display` is one clause without the cause.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Kind);

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("{what}: {problem}")]
    Unusable { what: &'static str, problem: String },
    #[error("{doing}")]
    Failed { doing: String, source: Source },
    #[error("{0}")]
    Stuck(&'static str),
}

impl Error {
    /// This machine lacks something that its owner can provide.
    pub(super) fn unusable(what: &'static str, problem: impl Into<String>) -> Self {
        Self(Kind::Unusable { what, problem: problem.into() })
    }

    pub(super) fn failed(doing: impl Into<String>, source: impl Into<Source>) -> Self {
        Self(Kind::Failed { doing: doing.into(), source: source.into() })
    }

    pub(super) const fn stuck(what: &'static str) -> Self {
        Self(Kind::Stuck(what))
    }

    /// Whether it is for the owner of this machine to mend: no programs, no account.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self.0, Kind::Unusable { .. })
    }
}
