//! The PostgreSQL edge: the only place that knows `tokio-postgres`.
//!
//! One capability a file, its SQL beside its row type.

pub(crate) mod cancel;
pub mod connect;
pub mod doctor;
mod dsn;
pub mod embedded;
pub(crate) mod era;
pub(crate) mod failure;
pub mod fleet;
mod lookup;
mod parameters;
mod passfile;
pub mod plan;
pub(crate) mod privileges;
mod service;
pub(crate) mod session;
pub(crate) mod slots;
mod tls;
pub(crate) mod update;
pub(crate) mod workers;
pub(crate) mod xact;

pub(crate) use failure::Failure;
