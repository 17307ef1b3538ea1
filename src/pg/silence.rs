//! An answer that does not arrive, on a line that stays open: what lies between may keep it up when it carries nothing
//! any more. TCP tells nobody then, but the server shows whether it has done what it was asked.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{sleep, timeout};

use super::Failure;
use super::activity::{self, Doing};
use super::connect::Endpoint;
use super::session::{Identity, Session};

/// How long a backend that does nothing may leave its client without an answer.
pub(crate) const UNANSWERED: Duration = Duration::from_secs(10);
/// How long a message may be without an answer until somebody looks what the server does; then between two looks.
pub(crate) const LOOK_AFTER: Duration = Duration::from_secs(5);
/// What is said then.
pub(crate) const LOST_ANSWER: &str = "the server has done what it was asked, and its answer did not arrive";

/// Ends when the backend has waited for its client, or been gone, for so long that its answer must be lost. It is looked
/// at from sessions of their own. Where it is not known yet when the backend started (0), one that is not there may be a
/// proxy's, and proves nothing.
pub(crate) async fn lost_answer(endpoint: &Endpoint, backend: Identity) -> Failure {
    let mut silent = Duration::ZERO;
    loop {
        sleep(LOOK_AFTER).await;
        silent = match timeout(LOOK_AFTER, look(endpoint, backend)).await {
            Ok(Ok(Doing::Nothing)) => silent + LOOK_AFTER,
            _ => Duration::ZERO,
        };
        if silent >= UNANSWERED {
            tracing::debug!(LOST_ANSWER);
            return Failure::lost(LOST_ANSWER);
        }
    }
}

/// What the backend does, asked on a session of its own.
pub(crate) fn look(endpoint: &Endpoint, backend: Identity) -> BoxFuture<'_, Result<Doing, Failure>> {
    Box::pin(async move {
        let session = Session::stand_by(endpoint, "headcount:monitor").await?;
        activity::doing(&session, backend).await
    })
}
