//! Guarded parallel queries and chunked updates on PostgreSQL.
//!
//! PostgreSQL does not promise parallel workers: a plan with four workers silently runs with three, one or
//! none when the pool (`max_parallel_workers`) is busy. [`Headcount`] runs a statement and counts the
//! workers that really start. If there are too few, it cancels the statement, rolls it back, waits for free
//! slots and tries again.
//!
//! [`Update`] changes many rows in small transactions and survives lost connections: no change is lost,
//! none is made twice. [`Batch`] does the same with a closure of your own.
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
//! # Requirements
//!
//! - Unix, PostgreSQL 13 or later, and a tokio runtime with time and I/O enabled.
//! - Spans and log lines go to the current `tracing` subscriber, metrics to the global `metrics` recorder.
//!   The library installs neither by itself: the feature `exporters` has both for programs that need them.
//! - [`telemetry::SpanAttributes`] writes to [`tracing::Span::current`]: events are given to observers inside the
//!   library's own spans.
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
//!                  │         └──────────────│───────────┬──────────┘
//!                  │                        │           v
//!                  └────── attempts left ───┤       [`Outcome`]
//!                                           └── none left ──> below minimum
//! ```
//!
//! # Layers
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | `decide` | the pure core: facts and time in, decisions out | nothing else |
//! | [`event`] | what happened, and the observers that hear of it | `decide`'s value types |
//! | `pg` | PostgreSQL: connections, plans, `pg_stat_activity`, cancels | `decide`, `event` |
//! | [`telemetry`] | observers: metrics, spans, log lines, exporters | `decide`, `event` |
//! | [`server`] | questions to a server besides running work on it | `pg` |
//! | `run` | the drivers behind [`Headcount`], [`Job`], [`Rows`], [`Update`] and [`Batch`] | all of the above |
//! | [`settings`], `report`, `error`, `fix` | options, results, errors | each other and `decide`'s value types; all but `decide` may use them |
//!
//! Where to look:
//!
//! | question | file |
//! |---|---|
//! | When is an attempt short? | `decide/verdict.rs` (the rules are in its first lines) |
//! | Which SQL counts workers? | `workers!` in `pg/mod.rs` |
//! | What makes a cancel safe? | the SQL: `pg/cancel.rs`; nothing is sent meanwhile: `reject` in `run/race.rs` |
//! | How is a commit in doubt resolved? | the question: `pg/xact.rs`; what follows: `commit` in `run/attempt.rs` (of an update: `decide/update/resolver.rs`) |
//! | Where is exit code 5 decided? | `run` in `cli/src/update/mod.rs`, by what `Tally::end` in `decide/update/ending.rs` says |
//! | Where is wasted time fed? | measured: `play` in `run/attempt.rs`; counted: `attempt_ended` in `telemetry/metrics.rs` |
//! | Where to add a reason for a narrow plan? | `Facts` in `pg/plan/diagnose.rs`, and its word in `pg/plan/reason.rs` |
//! | Where is `sslmode=verify-full`? | `connector` and `checks` in `pg/tls.rs` |
//! | What orders the queue for slots? | the server, by an advisory lock: `pg/slots.rs` |
//! | Where to add an exporter? | `telemetry/exporters/mod.rs`; the command's option: `Exporters` in `cli/src/args.rs` |
//!
//! The command is a package of its own, `headcount-cli` in `cli/`. It uses this crate's public API only.
//!
//! # Invariants
//!
//! - No evidence, no cancel. After an attempt has reached the required number of workers, a later short launch
//!   rejects it only with [`Settings::every_launch`] or [`Settings::strict`].
//! - A request to cancel names one backend by pid and start time, and takes effect only while it runs a
//!   statement. Nothing is sent on that session until the request is answered. If the backend is another client's, the
//!   request names the statement, too. If a cancel does not end it in time, a request to terminate ends our own session.
//! - Rows of a rejected attempt never reach the caller, and nothing of it stays on the server. (Outside a transaction the
//!   statements of a script before the rejected one stay, and so does what the rejected one committed by itself.)
//! - Slots of the pool ([`Settings::reserve`]) are returned when the workers are gone. If the client dies, the
//!   server returns them.
//! - If the answer to a COMMIT is lost, its outcome is found by its transaction id. It is never repeated
//!   blindly.
//! - Too few workers is an [`Outcome`], not an error.
//! - The library prints nothing, and installs nothing global unless it is told to (`Telemetry::install`).

#[allow(unreachable_pub, reason = "tests/core and examples/fleet include it by path")]
mod decide;
mod error;
pub mod event;
mod fix;
mod pg;
mod report;
mod run;
pub mod server;
pub mod settings;
pub mod telemetry;

pub use decide::attempt::Outcome;
pub use decide::update::ending::FailOn;
pub use error::{Error, Refusal};
pub use event::{Event, Observer};
pub use fix::Fix;
pub use report::{Attempt, Ceiling, Execution, InDoubt, KeyFailure, Rung, UpdateOutcome, Updated};
pub use run::{Batch, Builder, ChunkSize, Headcount, Job, Keys, Row, Rows, Update};
pub use settings::{Minimum, PlanShortfall, Policy, Raise, Settings};

/// Checks that the README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
