//! Observers: metrics, spans, log lines, and where they are sent.
//!
//! Drivers say one thing, [`observe`](crate::Observer::observe). What becomes of it is decided here,
//! and only here is a metric named. The library installs no recorder and no subscriber: [`Metrics`]
//! counts with the recorder it is given or finds, [`SpanAttributes`] and [`Log`] speak to whatever
//! subscriber the process has. Only a program of its own (feature `exporters`) installs both, with
//! [`exporters::Telemetry`].

#[cfg(feature = "exporters")]
pub mod exporters;
mod handles;
mod log;
mod metrics;
pub mod names;
#[cfg(feature = "prometheus-registry")]
mod registry;
pub mod spans;
mod summary;
mod trace;

pub use self::log::Log;
pub use self::metrics::Metrics;
pub use self::spans::SpanAttributes;
pub use self::summary::query_summary;
pub use self::trace::{TraceContext, sql_comment, trace_context, trace_id_of, traceparent_of};

use crate::decide::verdict::LeaderState;

/// The target of every span and log line of the crate: what a filter is set on.
pub const TARGET: &str = "headcount";

/// The word for attributes and people.
const fn leader_word(leader: LeaderState) -> &'static str {
    match leader {
        LeaderState::Active => "active",
        LeaderState::WaitingForLock => "waiting_for_lock",
        LeaderState::Idle => "idle",
        LeaderState::Gone => "gone",
    }
}
