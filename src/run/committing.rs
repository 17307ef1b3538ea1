//! A COMMIT under way has its say before an execution is cut short.
//!
//! What took effect must not be told as undone, so a deadline or a stop waits until the fate of a COMMIT that was
//! sent is known. It does not wait for ever: from then on the answer may take the time of a cancel, and asking for
//! the fate of a lost one ten seconds. What is not known then is in doubt, and is told as that.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::pg::Failure;

/// How long an execution that is cut short asks what became of its COMMIT.
const ANSWER: Duration = Duration::from_secs(10);

/// Whether one is under way, and whether somebody waits for its end.
#[derive(Debug)]
pub(crate) struct Committing {
    under_way: Mutex<()>,
    hurry: CancellationToken,
    grace: Duration,
}

impl Committing {
    /// None is. The answer to one may take `grace` once somebody waits.
    pub(crate) fn new(grace: Duration) -> Self {
        Self { under_way: Mutex::default(), hurry: CancellationToken::new(), grace }
    }

    /// From before it is sent until its fate is known, or known not to be known.
    pub(crate) async fn begin(&self) -> MutexGuard<'_, ()> {
        self.under_way.lock().await
    }

    /// Waits until none is under way, and has it hurry.
    pub(crate) async fn over(&self) {
        self.hurry.cancel();
        let _ = self.under_way.lock().await;
    }

    /// The answer of a server, or `None` when it is late.
    pub(crate) async fn answer<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.within(self.grace, work).await
    }

    /// The fate of a COMMIT, or `None` when it cannot be learned in time.
    pub(crate) async fn fate<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.within(ANSWER, work).await
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let late = async {
            self.hurry.cancelled().await;
            sleep(limit).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = late => None,
        }
    }
}

/// What a script that left its transaction open is told: nobody will ever commit it.
pub(super) fn left_open() -> Failure {
    Failure::found(
        "25000",
        "it left a transaction open, and what it did there was rolled back: end it with COMMIT",
    )
}

/// What a closure is told that ended the transaction that it was to run in.
pub(super) fn ended_ours() -> Failure {
    Failure::found(
        "25000",
        "it ended the transaction that it was given, so nobody can say what of it is kept: leave COMMIT and ROLLBACK \
         to headcount",
    )
}
