//! SIGINT, SIGTERM and SIGHUP: the first one is a request, the second one an order.
//!
//! After the first, what is under way is stopped or dropped, which cancels it on the server; the command then
//! waits, within bounds, until that is done. Whoever sends a second signal has waited long enough: the process
//! leaves at once, and the server notices by itself that its client is gone.
//!
//! Under `nohup` a SIGHUP is to be ignored. Who catches one cannot ask any more whether it was, so it is caught
//! only where the kernel tells before.

use std::future::Future;
use std::io;
use std::pin::pin;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output;

/// The signals, caught from the moment that this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Option<Signal>,
}

impl Signals {
    /// Must be called inside a runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        let hang_up = if hang_up_counts() { Some(signal(SignalKind::hangup())?) } else { None };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up,
        })
    }

    /// Waits for a signal; returns the exit code that stands for it.
    pub(crate) async fn next(&mut self) -> u8 {
        let hung_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = hung_up => 129,
        }
    }

    /// Does the work unless a signal comes first; then the work is dropped, and the exit code returned.
    pub(crate) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T, u8> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            code = self.next() => Err(code),
        }
    }

    /// Puts things in order; a signal meanwhile ends the process at once.
    pub(crate) async fn or_leave<T>(&mut self, order: impl Future<Output = T>) -> T {
        // Not dropped before the end: that would say of what is under way that it is over.
        let mut order = pin!(order);
        match self.unless(&mut order).await {
            Ok(done) => done,
            Err(code) => {
                output::say(
                    "headcount: left at once, before all was in order; look what took effect before you run it again",
                );
                std::process::exit(code.into())
            }
        }
    }
}

/// Whether it is known that SIGHUP is not ignored (`proc_pid_status(5)`; other systems do not say).
fn hang_up_counts() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A mask in which signal n is bit n - 1.
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (SignalKind::hangup().as_raw_value() - 1);
    mask.is_some_and(|mask| mask & bit == 0)
}
