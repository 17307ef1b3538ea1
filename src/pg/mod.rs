//! The PostgreSQL edge: the only place that knows `tokio-postgres`.
//!
//! One capability a file, its SQL beside its row type.

pub mod connect;
pub mod embedded;
pub(crate) mod failure;
pub mod plan;

pub(crate) use failure::Failure;
