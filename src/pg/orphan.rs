//! The query of a client that died: stopped from outside, by somebody who was told its backend.
//!
//! Servers since 14 notice by themselves (`client_connection_check_interval`); an older one runs the query
//! on until it writes to its client, and its workers stay with it. Nobody reads its result any more, but
//! the rule of `pg/cancel.rs` still holds: only that backend, and a cancel only while it runs something.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::connect::Endpoint;
use super::session::{Identity, Session};
use super::{Failure, activity, cancel};
use crate::Error;
use crate::decide::backoff::Backoff;
use crate::event::{CancelMethod, CancelResult};

/// Between two tries to get a session.
const CONNECT: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(2) };
/// How long to try: what killed the client may have hit the server, too.
const CONNECT_LIMIT: Duration = Duration::from_mins(1);
/// Between two looks at a backend that runs nothing: it reads the end of its connection and leaves, or
/// reads a statement that was still under way.
const LEAVING: Duration = Duration::from_millis(50);
/// Between two requests to cancel.
const SIGNALLED: Duration = Duration::from_millis(500);

/// Cancels what the backend `pid` that started at `backend_start` (microseconds since the Unix epoch) runs,
/// and waits until it and its workers are gone. After `grace` it is terminated if it ran something at the
/// last request, and waited for once more. One that stays and runs nothing belongs to a proxy, and is left alone.
///
/// Returns how many processes are left: 0 or, after twice `grace`, what PostgreSQL could not stop.
///
/// # Errors
/// When no session can be had within a minute, or the role may not cancel that backend.
pub async fn stop(endpoint: &Endpoint, pid: i32, backend_start: i64, grace: Duration) -> Result<u32, Error> {
    let session = connect(endpoint).await.map_err(|failure| Error::connect(endpoint.describe(), failure))?;
    let leader = Identity { pid, started: backend_start };
    let stopped = async {
        match stop_by(CancelMethod::Cancel, &session, leader, grace).await? {
            (left, CancelResult::Sent) if left > 0 => {
                Ok(stop_by(CancelMethod::Terminate, &session, leader, grace).await?.0)
            }
            (left, _) => Ok(left),
        }
    };
    stopped.await.map_err(|failure| Error::sql("stopping the orphaned query", failure))
}

/// Asks until nothing is left, at most `grace`; returns what is left, and the last answer.
async fn stop_by(
    method: CancelMethod,
    session: &Session,
    leader: Identity,
    grace: Duration,
) -> Result<(u32, CancelResult), Failure> {
    let until = Instant::now() + grace;
    loop {
        let result = cancel::stop(session.client(), leader, method, None).await?;
        let (workers, backend) = activity::left(session, leader).await?;
        let left = workers + u32::from(backend);
        if left == 0 || Instant::now() >= until {
            return Ok((left, result));
        }
        sleep(if result == CancelResult::Sent { SIGNALLED } else { LEAVING }).await;
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Session, Failure> {
    let until = Instant::now() + CONNECT_LIMIT;
    let mut tries = 0;
    loop {
        tries += 1;
        match Session::stand_by(endpoint, "headcount:watchdog").await {
            Err(failure) if failure.is_retryable() && Instant::now() < until => {
                sleep(CONNECT.delay(tries, fastrand::f64())).await;
            }
            opened => return opened,
        }
    }
}
