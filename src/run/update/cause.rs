//! What stopped a run.

use crate::error::Error;
use crate::event::{Cause, SqlState};
use crate::pg::Failure;

/// What can stop a run.
pub(crate) trait Stops {
    fn cause(&self) -> Cause;
}

impl Stops for Failure {
    fn cause(&self) -> Cause {
        Cause { sqlstate: self.event_sqlstate(), message: self.to_string() }
    }
}

impl Stops for Error {
    fn cause(&self) -> Cause {
        Cause { sqlstate: self.sqlstate().and_then(SqlState::new), message: self.chain() }
    }
}

impl Stops for String {
    fn cause(&self) -> Cause {
        Cause { sqlstate: None, message: self.clone() }
    }
}

impl Stops for &str {
    fn cause(&self) -> Cause {
        Cause { sqlstate: None, message: (*self).to_owned() }
    }
}
