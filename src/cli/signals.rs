//! SIGINT and SIGTERM: the first one is a request, the second one an order.
//!
//! After the first, what is under way is stopped or dropped, which cancels it on the server; the command then
//! waits, within bounds, until that is done. Whoever sends a second signal has waited long enough: the process
//! leaves at once, and the server notices by itself that its client is gone.

use std::future::Future;
use std::io;
use std::pin::pin;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, caught from the moment that this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Must be called inside a runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal; returns the exit code that stands for it.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
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
            Err(code) => std::process::exit(code.into()),
        }
    }
}
