//! Where a server is, and what to ask it besides running work on it.
//!
//! - [`Endpoint`]: a connection string, read as libpq reads it
//! - [`explain`]: how many workers a statement can get, and why not more
//! - [`doctor`]: whether role and server are fit for the work
//! - [`fleet`]: who has the workers of the pool, who holds slots, who waits
//! - [`check`]: whether a text can be run as one, without asking a server
//! - [`stop`]: ends the query of a client that died

pub use crate::pg::connect::{Endpoint, ServerFacts};
pub use crate::pg::orphan::stop;
pub use crate::pg::plan::{
    Diagnosis, Explanation, Plan, Reason, ReasonKind, Setting, Statement, check, explain,
};
pub use crate::pg::{doctor, fleet};
