//! Commits in doubt: COMMIT was sent, and its answer lost with the session.

use tokio::time::{Instant, sleep};

use super::super::labor::Labor;
use super::Worker;
use crate::decide::chunk::course::{Next, Status};
use crate::event::Resolution;
use crate::pg::xact;

impl<L: Labor> Worker<'_, L> {
    /// Asks what became of the transaction whose COMMIT was not answered.
    pub(super) async fn settle_doubt(&mut self) {
        let since = Instant::now();
        while let Some((mut chunk, failure)) = self.doubtful.take() {
            let (Some(line), Some(xid)) = (&self.line, chunk.attempt.xid.clone()) else { return };
            let status = match xact::status(&line.client, &xid).await {
                // Another era gives the same ids to other transactions; only that ours is not there is certain.
                Ok(Status::Committed | Status::InProgress) if !line.is_of(&chunk) => Status::Unknown,
                Ok(status) => status,
                Err(lost) if lost.is_connection_lost() => {
                    self.doubtful = Some((chunk, failure));
                    return self.lose(&lost);
                }
                Err(_) => Status::Unknown,
            };
            let patient = since.elapsed() < self.shop.reconnect_wait;
            let next = chunk.course.on_status(status, patient, fastrand::f64());
            if let Next::Ask(pause) = next {
                self.doubtful = Some((chunk, failure));
                sleep(pause).await;
                continue;
            }
            chunk.reread |= status == Status::Unknown;
            let resolution = match status {
                Status::Committed => Resolution::Committed,
                Status::Aborted => Resolution::Aborted,
                Status::InProgress => Resolution::Unresolved,
                Status::Unknown if matches!(next, Next::Retry(_)) => Resolution::Reread,
                Status::Unknown => Resolution::Unresolved,
            };
            chunk.attempt.span.in_scope(|| self.shop.books.resolved(resolution));
            self.go_on(chunk, next, failure);
        }
    }
}
