//! Where a server is, and questions to it besides running work on it.
//!
//! - [`Endpoint`]: a connection string, read as libpq reads it
//! - [`explain`]: how many workers a statement can get, and why not more
//! - [`doctor`]: whether the role and the server are fit for the work
//! - [`fleet`]: who uses the workers of the pool, who holds slots, and who waits for some
//! - [`check`]: whether an SQL text can run as one script, checked without a server
//! - [`stop`]: cancels the query of a client that died

pub use crate::pg::connect::{Endpoint, ServerFacts};
pub use crate::pg::orphan::stop;
pub use crate::pg::plan::{
    Diagnosis, Explanation, Plan, Reason, ReasonKind, Setting, Statement, check, explain,
};
pub use crate::pg::{doctor, fleet};
