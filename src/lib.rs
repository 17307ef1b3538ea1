//! PostgreSQL batch work that finishes on time, and shows what happened.
//!
//! PostgreSQL promises no parallel workers: a plan that asks for four silently runs with three, one or
//! none when the pool (`max_parallel_workers`) is busy. [`Headcount`] runs a statement, watches how
//! many workers really started, and below the target cancels, cleans up, waits and retries.
//!
//! ```no_run
//! # async fn job() -> Result<(), headcount::Error> {
//! use headcount::Headcount;
//!
//! let headcount = Headcount::connect("postgres://batch@localhost/sales").await?;
//! let run = headcount.task("rollup").target(4).minimum(2)
//!     .execute("CREATE TABLE rollup AS SELECT region, count(*) FROM orders GROUP BY region", &[]).await?;
//! println!("{} with {} workers", run.outcome.as_str(), run.achieved_workers);
//! # Ok(())
//! # }
//! ```
//!
//! # One execution
//!
//! ```text
//!  inspect ──> admission ──> attempt ──> race: statement against ticks
//!     │            ^                        │
//!     │            │         ┌──────────────┼───────────────┬──────────────┐
//!     v            │       enough         short       finished early   unverified
//!  refused         │         │              │               │              │
//!                  │       COMMIT     cancel, drain,        └── COMMIT ────┘
//!                  │         │          clean up                   │
//!                  │         v              │                      v
//!                  └── attempts left ───────┤                  [`Outcome`]
//!                                           └── none left ──> below minimum
//! ```
//!
//! # Layers
//!
//! | folder | what it is | may name |
//! |---|---|---|
//! | `decide` | the pure core: facts and time in, one closed enum out | nothing else |
//! | [`event`] | the vocabulary: what happened, and who wants to hear of it | `decide`'s value types |
//! | `pg` | the PostgreSQL edge: connections, plans, `pg_stat_activity`, cancels | `decide`, `event` |
//! | [`telemetry`] | observers: metrics, spans, log lines, exporters | `decide`, `event` |
//! | [`server`] | what a server can be asked besides running work on it | `pg` |
//! | `run` | the drivers behind [`Headcount`], [`Job`] and [`Rows`] | all of the above |
//!
//! The command is a package of its own, `headcount-cli` in `cli/`: it has nothing but this crate's public API.
//!
//! # Invariants
//!
//! - No evidence, no cancel. An attempt that reached its required workers is never rejected.
//! - A request to stop names one backend by pid and start time, while it runs something; nothing is
//!   sent on that session until the request is answered.
//! - Rows of a rejected attempt never reach the caller, and nothing of it stays on the server.
//! - Slots of the pool ([`Settings::reserve`]) are given back when the workers are gone, and by the server
//!   when the client is.
//! - A commit whose answer was lost is resolved by its transaction id and never replayed blindly.
//! - Too few workers is an [`Outcome`] with a history, not an error.
//! - The library prints nothing and installs nothing global.

#[allow(unreachable_pub, reason = "its tests and the fleet example build it alone")]
mod decide;
mod error;
pub mod event;
mod pg;
mod report;
mod run;
pub mod server;
pub mod settings;
pub mod telemetry;

pub use decide::attempt::Outcome;
pub use decide::chunk::ending::FailOn;
pub use error::{Error, Refusal};
pub use event::{Event, Observer};
pub use report::{Attempt, Ceiling, Execution, InDoubt, KeyFailure, Rung, UpdateOutcome, Updated};
pub use run::{Batch, Builder, ChunkSize, Headcount, Job, Keys, Row, Rows, Update, Updater};
pub use settings::{Minimum, PlanShortfall, Policy, Raise, Settings};

/// The README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
