//! Fleets on real servers: separate processes that share a pool through reservation.
//!
//! - `queue`: six jobs on a pool for one and a half, order, priority, giving up, two clusters, fifty processes
//! - `crashes`: `kill -9` of a holder and of the head of the queue, a signal while queued
//! - `stragglers`: workers that outlast every grace keep the slots; so does a monitor that cannot look
//! - `outsiders`: workers without a slot shrink a reservation
//! - `shares`: fewer slots than the plan may start workers are divided among its Gathers; pools that change their size
//! - `spaces`: fleets with keys or databases of their own, and databases that cannot be used
//! - `watch`: `headcount watch` shows who has what, once, as lines and live on a terminal
//! - `proxy`: `PgBouncer` in transaction mode is refused with the fix, and works with `--monitor-dsn`
//! - `busy`: an update behind a pool of transactions that has no backend to spare
//! - `lab`: the servers, the command and the looks that they share

#![allow(missing_docs, clippy::pedantic, reason = "tests")]

mod busy;
mod crashes;
mod lab;
#[allow(dead_code, reason = "other tests break it in more ways")]
#[path = "../live/harness/proxy.rs"]
mod line;
mod outsiders;
mod proxy;
mod queue;
mod shares;
mod spaces;
#[path = "../live/harness/stopped.rs"]
mod stopped;
mod stragglers;
#[path = "../servers/versions.rs"]
mod versions;
mod watch;
