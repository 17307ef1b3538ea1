//! How a command ends: its exit code, and one clear line for what went wrong.
//!
//! Scripts branch on the code, people read the line; both come from the same value, so they cannot
//! disagree. The chain of causes is printed once: a library's error says one clause and its source
//! says the next.

use std::fmt;

use headcount::{Error, Fix, Outcome};

use super::names;
use super::panics::Panic;

/// Done and kept, with any outcome that has no code of its own.
pub(crate) const DONE: u8 = 0;
/// The SQL, the connection or a commit failed for good, or the deadline passed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or configuration; clap's own.
pub(crate) const USAGE: u8 = 2;
/// Fewer workers than the minimum.
pub(crate) const BELOW_MINIMUM: u8 = 3;
/// Refused before running.
pub(crate) const REFUSED: u8 = 4;
/// An update does not count as complete; chosen in [`update`](super::update), by what
/// [`Updated::is_complete`](headcount::Updated::is_complete) says.
pub(crate) const INCOMPLETE: u8 = 5;

/// It is done, but what it had to print could not be written to standard output.
pub(crate) const UNWRITTEN: u8 = 6;

/// Done and kept, with fewer workers than the minimum: not to be repeated.
pub(crate) const FINISHED_SHORT: u8 = 7;

/// The code of an execution that ended without an error.
pub(crate) const fn code_of(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::BelowMinimum => BELOW_MINIMUM,
        Outcome::FinishedShort => FINISHED_SHORT,
        _ => DONE,
    }
}

/// A panic, a bug of this program: Rust's own code for it.
pub(crate) const PANICKED: u8 = 101;

/// Why a command has no result.
#[derive(Debug)]
pub(crate) enum Failed {
    /// What was typed, or stands in a job file, is not valid.
    Usage(String),
    /// The library's error, and what else would help.
    Library { error: Box<Error>, fixes: Vec<Fix> },
    /// A signal came, and everything was put in order; with the exit code, and the error that has the
    /// history if something was under way.
    Interrupted(u8, Option<Box<Error>>),
    /// A mistake of this program's own.
    Panicked(Panic),
}

impl Failed {
    pub(crate) fn usage(problem: impl Into<String>) -> Self {
        Self::Usage(problem.into())
    }

    /// Adds what else would help.
    pub(crate) fn with_fix(mut self, fix: Fix) -> Self {
        if let Self::Library { fixes, .. } = &mut self {
            fixes.push(fix);
        }
        self
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Library { error, .. } if error.is_configuration() => USAGE,
            Self::Library { error, .. } if error.refusal().is_some() => REFUSED,
            Self::Library { .. } => FAILED,
            Self::Interrupted(code, _) => *code,
            Self::Panicked(_) => PANICKED,
        }
    }

    /// The word for programs; the same as the metrics' where they have one.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Usage(_) => "configuration",
            Self::Interrupted(..) => "interrupted",
            Self::Panicked(_) => "panicked",
            Self::Library { error, .. } if error.is_configuration() => "configuration",
            Self::Library { error, .. } if error.refusal().is_some() => "refused",
            Self::Library { error, .. } if error.is_deadline() => "deadline",
            Self::Library { error, .. } if error.is_in_doubt() => "in_doubt",
            Self::Library { error, .. } if error.is_connection_lost() => "connection",
            Self::Library { .. } => "sql",
        }
    }

    /// How it ended, for people.
    pub(crate) const fn ended(&self) -> &'static str {
        match self {
            Self::Interrupted(143, _) => "terminated",
            Self::Interrupted(129, _) => "stopped by SIGHUP",
            Self::Interrupted(..) => "interrupted",
            Self::Usage(_) | Self::Library { .. } | Self::Panicked(_) => "failed",
        }
    }

    /// The library's error, where there is one.
    pub(crate) fn error(&self) -> Option<&Error> {
        match self {
            Self::Library { error, .. } | Self::Interrupted(_, Some(error)) => Some(error),
            Self::Usage(_) | Self::Interrupted(_, None) | Self::Panicked(_) => None,
        }
    }

    /// Processes of the statement that did not end in time.
    pub(crate) fn processes_left(&self) -> u32 {
        self.error().map_or(0, Error::processes_left)
    }

    /// Whether it is known that nothing of it runs any more, or how much does.
    pub(crate) fn is_end_seen(&self) -> bool {
        self.error().is_none_or(Error::is_end_seen)
    }

    /// What to change, one sentence each.
    pub(crate) fn fixes(&self) -> Vec<&Fix> {
        match self {
            Self::Library { error, fixes } => error.fixes().iter().chain(fixes).collect(),
            Self::Usage(_) | Self::Interrupted(..) | Self::Panicked(_) => Vec::new(),
        }
    }
}

impl From<Panic> for Failed {
    fn from(panic: Panic) -> Self {
        Self::Panicked(panic)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Library { error: Box::new(error), fixes: Vec::new() }
    }
}

/// The whole chain of causes in one line.
impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uncleaned = self.error().and_then(Error::cleanup_failure);
        match self {
            Self::Usage(problem) => f.write_str(problem)?,
            Self::Panicked(panic) => f.write_str(&panic.line())?,
            Self::Interrupted(..) if uncleaned.is_some() => f.write_str(self.ended())?,
            Self::Interrupted(..) if self.processes_left() > 0 || !self.is_end_seen() => {
                f.write_str(self.ended())?;
            }
            Self::Interrupted(..) => write!(f, "{}; nothing of it is running any more", self.ended())?,
            Self::Library { error, .. } => f.write_str(&names::chain(error))?,
        }
        match self.processes_left() {
            0 if !self.is_end_seen() => f.write_str("; nobody could see whether it still runs")?,
            0 => {}
            left => write!(f, "; {left} of its processes did not end in time")?,
        }
        match uncleaned {
            // Why was just said.
            Some(_) if self.error().is_some_and(Error::is_cleanup) => {
                f.write_str("; what it removes is still there")
            }
            Some(why) => write!(f, "; the cleanup failed, so what it removes is still there: {why}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_workers_have_codes_of_their_own() {
        assert_eq!(code_of(Outcome::OnTarget), 0);
        assert_eq!(code_of(Outcome::BelowMinimum), 3);
        assert_eq!(code_of(Outcome::FinishedShort), 7, "it is done, and must not be repeated");
    }
}
