//! Chunked updates against real servers.
//!
//! - `classes`: each key ends in one class; keys, types, duplicates, what cannot be
//! - `losses`: cut lines, killed backends, restarts; commits in doubt, in both directions
//! - `contention`: locks, deadlocks, serialization, constraints, races with other writers
//! - `sharing`: several processes claim from one query; stopped and killed runs are finished
//! - `streams`: millions of keys in bounded memory
//! - `batches`: the caller's own closure

mod batches;
mod classes;
mod contention;
mod losses;
mod sharing;
mod streams;
mod support;
