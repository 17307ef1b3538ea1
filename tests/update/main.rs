//! Chunked updates against real servers.
//!
//! - `classes`: each key ends in one class; keys, types, duplicates, what cannot be
//! - `values`: what a value is, when it is the same, and who else has a say
//! - `losses`: cut lines, killed backends, restarts; commits in doubt, in both directions
//! - `ahead`: chunks whose COMMIT is sent before their work is answered for
//! - `endings`: what counts as done; deadlines; what is refused before anything is changed
//! - `failover`: a standby takes over, without what it never received
//! - `contention`: locks, deadlocks, serialization, constraints, races with other writers
//! - `sharing`: several processes claim from one query; stopped and killed runs are finished
//! - `claims`: claims that fail, are tried again, and come back
//! - `sessions`: one that is never had, says nothing any more, or that a trigger makes another of
//! - `signals`: a signal while a chunk waits for a row
//! - `triggers`: what triggers and policies refuse, and what triggers make unrepeatable
//! - `inputs`: files, pipes, standard input: each row is worked on, or refused with its line
//! - `streams`: millions of keys in bounded memory
//! - `batches`: the caller's own closure
//!
//! The central claims are tried on each version (see `versions`), the others on one.

mod ahead;
mod batches;
mod claims;
mod classes;
mod contention;
mod endings;
mod failover;
mod inputs;
mod losses;
mod sessions;
mod sharing;
mod signals;
mod streams;
mod support;
mod triggers;
mod values;
#[path = "../servers/versions.rs"]
mod versions;
