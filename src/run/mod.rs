//! The drivers: they bring facts to [`decide`](crate::decide) and carry out what follows.
//!
//! A job ([`Job`]) runs one execution, which plays attempts on a stage; an attempt is a race between
//! the statement and its verdict. One monitor per process looks for all of them.

mod attempt;
mod clearing;
mod climb;
mod committing;
mod execution;
mod fit;
mod foreign;
mod headcount;
mod hold;
mod job;
mod leader;
mod ledger;
mod monitor;
mod narrow;
mod queue;
mod race;
mod release;
mod reserve;
mod rows;
#[cfg(test)]
mod scripted;
mod share;
mod stage;
mod update;
mod updater;
mod work;

pub use headcount::{Builder, Headcount};
pub use job::Job;
pub use rows::Rows;
pub use update::{Batch, ChunkSize, Keys, Row, Update};
pub use updater::Updater;
