//! Whether a server, and the monitor's role on it, are fit for guarding a statement.

use super::session_guard::SessionGuard;
use crate::error::{Error, Refusal};
use crate::fix::Fix;
use crate::pg::session::{Identity, OLDEST};

/// Refuses a server that has no `leader_pid`.
pub(crate) fn check_version(version: i32) -> Result<(), Error> {
    if version >= OLDEST {
        return Ok(());
    }
    let explanation = format!(
        "PostgreSQL {} has no pg_stat_activity.leader_pid, which counts workers; 13 or later is needed",
        version / 10_000
    );
    Err(Error::refused(
        Refusal::ServerTooOld,
        explanation,
        vec![Fix::advice("upgrade the server to 13 or later")],
    ))
}

/// Refuses a monitor that may not see or stop the leader. One that cannot ask now is not refused:
/// it is blind, and the verdict stays open.
pub(crate) async fn check_rights(guard: &SessionGuard, leader: Identity) -> Result<(), Error> {
    match guard.inner.monitor.rights_over(leader).await {
        Ok(Some(rights)) => rights.check(),
        Ok(None) => Err(Error::refused(
            Refusal::BlindMonitor,
            format!(
                "the monitor's server has no backend {}: it is not the server that runs the statement",
                leader.pid
            ),
            vec![Fix::advice("let `monitor` lead to the same server")],
        )),
        Err(_) => Ok(()),
    }
}
