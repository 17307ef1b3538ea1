//! The PostgreSQL edge: the only place that knows `tokio-postgres`.
//!
//! One capability a file, its SQL beside its row type.

pub mod connect;
mod dsn;
pub mod embedded;
pub(crate) mod failure;
mod lookup;
mod parameters;
mod passfile;
pub(crate) mod plan;
mod service;
mod tls;

pub(crate) use failure::Failure;
