//! An answer that does not arrive to a guarded statement ([`silence`](crate::pg::silence)): its monitor sees it.

use std::future::Future;
use std::time::Duration;

use super::monitor::{Monitor, Observation, Seen};
use super::session_guard::SessionGuard;
use crate::decide::verdict::LeaderState;
use crate::pg::Failure;
use crate::pg::session::Identity;
use crate::pg::silence::{LOST_ANSWER, UNANSWERED};

/// How often to look whether it does.
const LOOK: Duration = Duration::from_secs(2);

/// What the session's server answers; a failure as of a lost line when it must have answered and nothing has arrived.
pub(super) async fn answered<T>(
    guard: &SessionGuard,
    asked: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(leader) = guard.leader() else { return asked.await };
    tokio::select! {
        biased;
        answer = asked => answer,
        lost = lost_answer(&guard.inner.monitor, leader) => {
            guard.give_up_line();
            Err(lost)
        }
    }
}

/// Ends when the leader has waited for its client, or been gone, for so long that its answer must be lost.
async fn lost_answer(monitor: &Monitor, leader: Identity) -> Failure {
    let mut watch = monitor.watch_quietly(leader, LOOK);
    let mut silent = None;
    loop {
        silent = match watch.next().await {
            Observation::Seen(Seen { at, leader, .. })
                if matches!(leader.state, LeaderState::Idle | LeaderState::Gone) =>
            {
                Some(silent.unwrap_or(at))
            }
            Observation::Seen(_) | Observation::Blind => None,
        };
        if silent.is_some_and(|since| since.elapsed() >= UNANSWERED) {
            return Failure::lost(LOST_ANSWER);
        }
    }
}
