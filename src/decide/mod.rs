//! The pure core: what the facts prove, and what to do next.
//!
//! Nothing here awaits, reads a clock, draws a random number, logs or counts, and nothing here names
//! another part of the crate. Facts and time go in through `on_*`; one closed enum comes out. That is
//! what makes a night of retries a table in a test. Time is a [`Duration`](std::time::Duration) since
//! a moment the caller chose, so a test can say "140 ms" and a fleet can live in virtual time.

pub mod admission;
pub mod attempt;
pub mod backoff;
pub mod ceiling;
pub mod counters;
pub mod failure;
pub mod gathering;
pub mod guarantee;
pub mod launch;
mod matching;
pub mod pace;
pub mod reservation;
pub mod room;
pub mod script;
pub mod short_reason;
pub mod stopping;
pub mod tick;
pub mod update;
pub mod verdict;
