//! How a run that is stopped ends in time, whatever it waits for.
//!
//! What was not to be committed is cancelled at once: it may wait for a lock for hours. A COMMIT under way may not be
//! cancelled: that could end its wait for a synchronous standby and nothing else. It has the *grace* to be
//! answered. After that the connection is given up, and with it everything that waits on it; as much time again is left
//! to ask another session what became of it.
//!
//! Each session has a guard, which does that from outside. So no wait in a worker needs a limit of its own: a
//! connection that is given up answers all that was asked of it, as one does that has broken.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::{CancelToken, Client};
use tokio_util::sync::CancellationToken;

use crate::pg::Failure;
use crate::pg::connect::Endpoint;

/// Between two requests to cancel: the first may come between two statements.
const AGAIN: Duration = Duration::from_millis(250);

/// The caller's word to stop, and how long that may take.
#[derive(Debug, Clone)]
pub(crate) struct Halt {
    stop: CancellationToken,
    grace: Duration,
    asked: Arc<OnceLock<Instant>>,
}

impl Halt {
    pub(crate) fn new(stop: &CancellationToken, grace: Duration) -> Self {
        Self { stop: stop.clone(), grace, asked: Arc::default() }
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// When all has to be over, once it is asked for.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.is_asked().then(|| self.since() + 2 * self.grace)
    }

    /// Waits until then.
    pub(crate) async fn over(&self) {
        self.stop.cancelled().await;
        sleep_until(self.since() + 2 * self.grace).await;
    }

    /// Whoever notices first sets the clock.
    fn since(&self) -> Instant {
        *self.asked.get_or_init(Instant::now)
    }
}

/// What is on its way on a session.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<Way>>);

#[derive(Debug, Default)]
struct Way {
    commits: u32,
    is_cancelled: bool,
}

/// A COMMIT on its way.
#[derive(Debug)]
pub(super) struct Commit<'a>(&'a UnderWay);

impl UnderWay {
    /// A COMMIT that waits for the disk, or for others, is about to be sent.
    ///
    /// # Errors
    /// When the session was told to cancel what it does: that might hit the COMMIT.
    pub(super) fn commit(&self) -> Result<Commit<'_>, Failure> {
        let mut way = self.lock();
        if way.is_cancelled {
            return Err(Failure::lost("the run is stopped"));
        }
        way.commits += 1;
        Ok(Commit(self))
    }

    /// Whether the session was told to cancel what it does, and is of no use any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.lock().is_cancelled
    }

    /// Returns whether to cancel.
    fn cancel(&self) -> bool {
        let mut way = self.lock();
        way.is_cancelled |= way.commits == 0;
        way.is_cancelled
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        self.0.lock().commits -= 1;
    }
}

/// Guards a session until the task is aborted.
pub(super) fn guard(
    halt: &Halt,
    endpoint: &Endpoint,
    client: &Client,
    under_way: &UnderWay,
    driver: AbortHandle,
) -> JoinHandle<()> {
    let (halt, endpoint, token) = (halt.clone(), endpoint.clone(), client.cancel_token());
    let under_way = under_way.clone();
    // One that is had when the run is stopped already is there to ask what became of something.
    let asks = halt.is_asked();
    tokio::spawn(async move {
        if asks {
            halt.over().await;
        } else {
            halt.stop.cancelled().await;
            let until = halt.since() + halt.grace;
            cancel(&endpoint, &token, &under_way, until).await;
        }
        driver.abort();
    })
}

async fn cancel(endpoint: &Endpoint, token: &CancelToken, under_way: &UnderWay, until: Instant) {
    while Instant::now() < until {
        if under_way.cancel() {
            let _ = timeout(AGAIN, endpoint.cancel_by(token)).await;
        }
        sleep(AGAIN.min(until.saturating_duration_since(Instant::now()))).await;
    }
}
