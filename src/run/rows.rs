//! Rows of an accepted attempt, streamed.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use tokio_postgres::Row;
use tracing::{Instrument, Span};

use super::attempt::{OpenAttempt, commit};
use super::committing::Committing;
use super::leader::Leader;
use super::ledger::Ledger;
use super::monitor::{Sight, Watch};
use super::race::DECIDED_INTERVAL;
use super::stage::Stage;
use super::work::{Flow, Nothing};
use crate::decide::attempt::Outcome;
use crate::error::Error;
use crate::event::{AttemptEnd, Event, FailReason};
use crate::pg::Failure;
use crate::report::Execution;

/// The rows of an accepted attempt. Dropped before [`finish`](Self::finish), the statement is
/// cancelled and rolled back.
pub struct Rows {
    leader: Leader<Nothing>,
    flow: Flow,
    ledger: Ledger,
    /// `None` once the attempt had ended before the rows were handed over.
    open: Option<OpenAttempt>,
    outcome: Outcome,
    span: Span,
    watch: Option<Watch>,
    count: u64,
}

impl Rows {
    pub(crate) fn new(
        leader: Leader<Nothing>,
        flow: Flow,
        ledger: Ledger,
        open: Option<OpenAttempt>,
        outcome: Outcome,
        span: Span,
    ) -> Self {
        let watch = open.as_ref().map(|open| open.span.in_scope(|| leader.watch(DECIDED_INTERVAL)));
        Self { leader, flow, ledger, open, outcome, span, watch, count: 0 }
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// The statement failed, or the connection was lost.
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        self.look();
        if let Some(row) = self.flow.held.pop_front() {
            self.count += 1;
            return Ok(Some(row));
        }
        let Some(stream) = self.flow.stream.as_mut() else { return Ok(None) };
        match stream.next().await {
            Some(Ok(row)) => {
                self.count += 1;
                Ok(Some(row))
            }
            Some(Err(error)) => Err(self.fail(error.into())),
            None => {
                self.flow.stream = None;
                Ok(None)
            }
        }
    }

    /// Reads what is left, commits, and returns the final figures with the number of rows.
    ///
    /// # Errors
    /// As [`next`](Self::next); and a commit that failed or is in doubt.
    pub async fn finish(mut self) -> Result<Execution<u64>, Error> {
        while self.next().await?.is_some() {}
        let Some(mut open) = self.open.take() else {
            return Ok(self.ledger.execution(self.outcome, Some(self.count)));
        };
        let span = self.span.clone();
        // Nobody but its caller cuts this short.
        let committing = Committing::new(Duration::ZERO);
        let commit = Box::pin(commit(&mut self.leader, &mut self.ledger, &committing));
        match commit.instrument(open.span.clone()).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(self.fail(failure)),
            Err(error) => {
                span.in_scope(|| self.ledger.end(Err(FailReason::InDoubt)));
                return Err(error.with_history(self.ledger.execution(self.outcome, None)));
            }
        }
        open.facts.ran = self.ledger.ran(open.began);
        open.span.in_scope(|| self.ledger.observe(&Event::AttemptEnded(open.facts)));
        span.in_scope(|| self.ledger.end(Ok(self.outcome)));
        Ok(self.ledger.execution(self.outcome, Some(self.count)))
    }

    /// Takes in what the monitor saw meanwhile.
    fn look(&mut self) {
        let (Some(watch), Some(open)) = (self.watch.as_mut(), self.open.as_mut()) else { return };
        while let Some(Sight::Seen { workers, .. }) = watch.try_next() {
            open.facts.workers = open.facts.workers.max(workers);
        }
    }

    fn fail(&mut self, failure: Failure) -> Error {
        let reason = if failure.is_connection_lost() { FailReason::Connection } else { FailReason::Sql };
        let span = self.span.clone();
        if let Some(mut open) = self.open.take() {
            open.facts.end = AttemptEnd::Failed(failure.event_sqlstate());
            open.facts.ran = open.began.elapsed();
            open.span.in_scope(|| self.ledger.observe(&Event::AttemptEnded(open.facts)));
        }
        span.in_scope(|| self.ledger.end(Err(reason)));
        Error::sql("reading the rows", failure).with_history(self.ledger.execution(self.outcome, None))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("count", &self.count)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}
