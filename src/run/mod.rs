//! The drivers: they bring facts to [`decide`](crate::decide) and carry out what follows.
//!
//! A job ([`Job`]) runs one execution, which plays attempts on an executor; an attempt is a race between
//! the statement and its verdict. One monitor per process looks for all of them:
//!
//! - [`Job`] (`job`) runs an `execution`: what the server allows (`fit`, `climb`, `narrow`), slots (`slots`, `share`), then
//!   one `attempt` after the other, each a `race` per statement; the `recorder` gathers what the run returns
//! - an attempt plays on an `executor`: a session of our own (`owned_session`, held by a `session_guard`) or another
//!   client's (`external_backend`); what it plays is `work`; its rows stream through `rows`
//! - `committing`, `clearing`, `engagement` and `lost_answer`: what holds when an execution, or its line, is cut short
//! - `update`: the driver of the chunked update

mod attempt;
mod clearing;
mod climb;
mod committing;
mod engagement;
mod execution;
mod executor;
mod external_backend;
mod fit;
mod gatherer;
mod headcount;
mod held_slots;
mod job;
mod lost_answer;
mod monitor;
mod narrow;
mod owned_session;
mod race;
mod recorder;
mod rows;
#[cfg(test)]
mod scripted;
mod session_guard;
mod session_script;
mod share;
mod slots;
mod update;
mod work;

pub use headcount::{Builder, Headcount};
pub use job::Job;
pub use rows::Rows;
pub use update::{Batch, ChunkSize, Keys, Row, Update};
