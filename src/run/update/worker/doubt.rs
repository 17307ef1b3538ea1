//! Commits in doubt: COMMIT was sent, and its answer lost with the session.

use tokio::time::{Instant, sleep};

use super::super::labor::Labor;
use super::Worker;
use super::chunk::{Attempt, Chunk};
use super::line::Line;
use crate::decide::chunk::course::{Next, Replay, Status};
use crate::decide::chunk::survival::{Survival, fate};
use crate::event::Resolution;
use crate::pg::{Failure, xact};

impl<L: Labor> Worker<'_, L> {
    /// Asks what became of the transaction whose COMMIT was not answered.
    pub(super) async fn settle_doubt(&mut self) {
        let since = Instant::now();
        while let Some(line) = &self.line
            && let Some((chunk, failure)) = self.doubtful.take()
        {
            let status = match line.fate(&chunk, self.shop.labor.replay()).await {
                Ok(status) => status,
                Err(lost) => {
                    self.doubtful = Some((chunk, failure));
                    return self.lose(&lost);
                }
            };
            let in_time = self.shop.halt.end().is_none_or(|end| Instant::now() < end);
            let patient = in_time && since.elapsed() < self.shop.reconnect_wait;
            if let Some(pause) = self.on_status(chunk, status, patient, &failure) {
                sleep(pause).await;
            }
        }
    }

    /// What the server says of a chunk that was committed, or may be. Returns the pause before it is to be asked again.
    pub(super) fn on_status(
        &mut self,
        mut chunk: Chunk<L::Item>,
        status: Status,
        patient: bool,
        failure: &Failure,
    ) -> Option<std::time::Duration> {
        let next = chunk.course.on_status(status, patient, chunk.items.len(), fastrand::f64());
        if let Next::Ask(pause) = next {
            self.doubtful = Some((chunk, failure.clone()));
            return Some(pause);
        }
        if status == Status::Unknown {
            chunk.reread = true;
            chunk.counted.clone_from(&chunk.attempt.classes);
        }
        let resolution = match (status, next) {
            (_, Next::Unresolved) => None,
            (Status::Committed, _) => Some(Resolution::Committed),
            (Status::Aborted, _) => Some(Resolution::Aborted),
            _ => Some(Resolution::Reread),
        };
        if let Some(resolution) = resolution {
            chunk.attempt.span.in_scope(|| self.shop.books.resolved(resolution));
        }
        // It is of this server's life now: what the server says of it is true, or its rows are read here.
        chunk.attempt.life = self.line.as_ref().map(|line| std::sync::Arc::clone(&line.life));
        self.go_on(chunk, next, failure.clone());
        None
    }
}

impl<D> Line<D> {
    /// What became of the chunk's transaction, as far as this server can tell.
    ///
    /// # Errors
    /// When the session is lost.
    pub(super) async fn fate<T>(&self, chunk: &Chunk<T>, replay: Replay) -> Result<Status, Failure> {
        let Attempt { mark, life, .. } = &chunk.attempt;
        let (Some(xid), Some(life)) = (&mark.xid, life) else { return Ok(Status::Unknown) };
        let is_same = life.is_same(&self.life);
        let survival = self.life.survival(life, mark.written);
        if !is_same && survival == Survival::Gone {
            return Ok(Status::Aborted);
        }
        let status = match xact::status(&self.client, xid).await {
            Ok(status) => status,
            Err(failure) if failure.is_connection_lost() => return Err(failure),
            Err(_) => Status::Unknown,
        };
        Ok(if is_same { status } else { fate(survival, status, self.life.is_akin(life), replay) })
    }
}
