//! Giving slots back: when the workers are gone, and not before.
//!
//! A grace bounds how long a caller waits for a cancelled statement; it does not make its workers go away.
//! One that the kernel holds in a read, or a server that nobody can ask for a while, outlasts any grace.
//! Slots given back then would promise the next of the fleet workers that do not exist. So an execution
//! that ends with leaders unaccounted for leaves its slots to a task that waits for them; the server takes
//! them back by itself should the process end before.

use std::time::Duration;

use tokio::time::sleep;

use crate::decide::backoff::Backoff;
use crate::event::CancelMethod;
use crate::pg::Failure;
use crate::pg::session::Identity;
use crate::run::monitor::Monitor;

/// Between two looks at what does not leave.
const LOOK: Backoff = Backoff { first: Duration::from_millis(10), cap: Duration::from_secs(1) };
/// How long slots are kept at most. What has not left by then never will, and the slots are worth more to
/// the others, who see its workers as an outsider's.
pub(super) const KEPT_LIMIT: Duration = Duration::from_hours(1);

/// A leader that was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LingeringBackend {
    pub(crate) leader: Identity,
    /// Whether its backend may still run the statement, and start workers.
    pub(crate) runs: bool,
}

impl LingeringBackend {
    /// How many of its processes are left.
    pub(crate) async fn left(self, monitor: &Monitor) -> Result<u32, Failure> {
        let (workers, backend) = monitor.left(self.leader).await?;
        Ok(workers + u32::from(backend && self.runs))
    }
}

/// Waits until all of them are gone, or the slots are lost. A server that does not answer is asked again.
pub(super) async fn see_off(
    lingering: &mut Vec<LingeringBackend>,
    are_lost: impl Fn() -> bool,
    monitor: &Monitor,
) {
    let mut tries = 0;
    while let Some(&backend) = lingering.last() {
        if are_lost() {
            return;
        }
        if matches!(backend.left(monitor).await, Ok(0)) {
            lingering.pop();
            continue;
        }
        if backend.runs {
            monitor.stop(backend.leader, CancelMethod::Terminate).await;
        }
        tries += 1;
        sleep(LOOK.delay(tries, fastrand::f64())).await;
    }
}
