//! Giving slots back: when the workers are gone, and not before.
//!
//! A grace bounds how long a caller waits for a cancelled statement; it does not make its workers go away.
//! One that the kernel holds in a read, or a server that nobody can ask for a while, outlasts any grace.
//! Slots given back then would promise the next of the fleet workers that do not exist. So an execution
//! that ends with leaders unaccounted for leaves its slots to a task that waits for them; the server takes
//! them back by itself should the process end before.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::hold::Hold;
use super::monitor::Monitor;
use super::reserve::Reserved;
use crate::decide::backoff::Backoff;
use crate::event::{CancelMethod, Event};
use crate::pg::Failure;
use crate::pg::session::Identity;

/// Between two looks at what does not leave.
const LOOK: Backoff = Backoff { first: Duration::from_millis(10), cap: Duration::from_secs(1) };
/// How long slots are kept at most. What has not left by then never will, and the slots are worth more to
/// the others, who see its workers as an outsider's.
const KEPT_LIMIT: Duration = Duration::from_hours(1);

/// A leader that was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Straggler {
    pub(crate) leader: Identity,
    /// Whether its backend may still run the statement, and start workers.
    pub(crate) runs: bool,
}

impl Straggler {
    /// How many of its processes are left.
    pub(crate) async fn left(self, monitor: &Monitor) -> Result<u32, Failure> {
        let (workers, backend) = monitor.left(self.leader).await?;
        Ok(workers + u32::from(backend && self.runs))
    }
}

impl Hold {
    /// The grace of that one is over. `left` of its processes were seen; `None` when nobody could look.
    pub(crate) fn leave_behind(&mut self, straggler: Straggler, left: Option<u32>) {
        if let Some(reserved) = &mut self.reserved
            && left != Some(0)
        {
            reserved.stragglers.push(straggler);
        }
    }

    /// Whether slots must outlast this execution.
    pub(crate) fn keeps_slots(&self) -> bool {
        self.reserved.as_ref().is_some_and(|reserved| !reserved.stragglers.is_empty())
    }

    /// Keeps the slots until nobody is left that was left behind, or the server has taken them back.
    pub(crate) async fn outlast(&mut self) {
        if !self.keeps_slots() {
            return;
        }
        let Some(reserved) = &mut self.reserved else { return };
        reserved.observe(&Event::ReservationKept { taken: reserved.taken() });
        // Over the limit they are dropped as they are, and say so.
        let _ = timeout(KEPT_LIMIT, see_off(reserved, &self.inner.monitor)).await;
    }
}

/// A server that does not answer is asked again.
async fn see_off(reserved: &mut Reserved, monitor: &Monitor) {
    let mut tries = 0;
    while let Some(&straggler) = reserved.stragglers.last() {
        if reserved.is_lost() {
            return;
        }
        if matches!(straggler.left(monitor).await, Ok(0)) {
            reserved.stragglers.pop();
            continue;
        }
        if straggler.runs {
            monitor.stop(straggler.leader, CancelMethod::Terminate).await;
        }
        tries += 1;
        sleep(LOOK.delay(tries, fastrand::f64())).await;
    }
}
