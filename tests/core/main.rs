//! The pure core: no server, no runtime, no sleeping.
//!
//! - `origin`: the four scenarios of the Java executor, tick by tick, under both policies
//! - `verdict`: each rule of the verdict as a claim, and its properties
//! - `recorded`: what the monitor saw of real statements, and what it was taken for
//! - `attempts`: bars, outcomes, pauses and their bounds
//! - `chunks`: the chunk machine, step by step
//! - `effects`: the update against a model of its effects, on a line that breaks at every point
//! - `pools`: statements with several Gathers beside rivals, against what they really got
//! - `gathers`: slots of a pool that others never leave alone, held one by one
//! - `fleet`: whole nights of jobs in virtual time: order, deadlock, starvation, the slots of the dead

#![allow(missing_docs, clippy::pedantic, reason = "tests")]

mod attempts;
mod chunks;
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the core has nothing else of the crate, so it is tested alone"
)]
#[path = "../../src/decide/mod.rs"]
mod decide;
mod effects;
mod fleet;
mod gathers;
mod origin;
mod pools;
mod recorded;
mod ticks;
mod verdict;
