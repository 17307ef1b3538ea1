//! Chunks that were committed without waiting for the disk, until a flush has covered them.
//!
//! The flush is a transaction of its own, which waits for the disk. It writes a mark, since PostgreSQL does not
//! flush for a commit without a record in the log, which the commit of a chunk may well be: of an unlogged
//! table, or of rows that all hold the new value. In that transaction the server also says in which era it
//! is: a crash that a proxy kept from us would otherwise let us believe in a log that no longer has our chunks.

use futures_util::future::{join, join3};

use super::super::labor::Labor;
use super::Worker;
use super::chunk::Chunk;
use super::line::Line;
use crate::decide::chunk::course::Next;
use crate::decide::chunk::flush;
use crate::event::{Event, Resolution};
use crate::pg::Failure;
use crate::pg::era::Era;

/// Flushes in a row that may fail while the session lives: somebody may cancel one.
const FLUSHES: u32 = 3;

impl<L: Labor> Worker<'_, L> {
    /// Whether something is to be committed, or to be flushed.
    pub(super) const fn is_unsettled(&self) -> bool {
        self.open.is_some() || !self.held.is_empty()
    }

    /// Whether the chunks that are held have to be flushed before the next one.
    pub(super) fn is_flush_due(&self) -> bool {
        let keys = self.held.iter().map(Chunk::len).sum();
        self.held.first().is_some_and(|oldest| flush::is_due(keys, oldest.attempt.began.elapsed()))
    }

    /// Commits the open chunk, if any, and makes all that was committed last, in one round trip.
    pub(super) async fn settle(&mut self) {
        let commit = self.commit_next();
        let Some(line) = &self.line else { return };
        let committed = line.send_commit(commit.is_some());
        if !line.is_lazy && self.held.is_empty() {
            let committed = committed.await;
            self.on_commit(commit, committed).await;
            return;
        }
        // Polled in order: COMMIT is sent first.
        let (committed, flushed) = join(committed, flush(line)).await;
        let refused = self.on_commit(commit, committed).await;
        // After a COMMIT that was refused the mark may have met its transaction; there will be another.
        if !refused || flushed.is_ok() {
            self.on_flush(flushed);
        }
    }

    /// Makes all that was committed last, by whichever session. `false` when that could not be had.
    pub(super) async fn flush(&mut self) -> bool {
        let Some(line) = &self.line else { return false };
        // Who may not set a mark can do no more than hope.
        if !line.may_mark {
            return true;
        }
        let flushed = flush(line).await;
        let done = flushed.is_ok();
        self.on_flush(flushed);
        done && self.line.is_some()
    }

    fn on_flush(&mut self, flushed: Result<Era, Failure>) {
        match flushed {
            Ok(era) if self.line.as_ref().is_some_and(|line| line.era.is_same(&era)) => {
                self.flush_failures = 0;
                for mut chunk in std::mem::take(&mut self.held) {
                    chunk.course.on_flushed();
                    self.committed(&chunk);
                }
            }
            Ok(_) => self.lose(&Failure::lost("another server answers, or this one has crashed")),
            Err(failure) if failure.is_connection_lost() => self.lose(&failure),
            Err(failure) => {
                self.flush_failures += 1;
                // No flush is to be had: the rows are read again, which settles it.
                if self.flush_failures >= FLUSHES {
                    self.flush_failures = 0;
                    // A new one asks what it may do.
                    self.lose(&failure);
                    self.forget(&failure, false);
                }
            }
        }
    }

    /// What was committed in another era than that of the session may be gone.
    pub(super) fn check_held(&mut self) {
        let Some(line) = &self.line else { return };
        // They are in order: none is of an older era than the first.
        if self.held.first().is_none_or(|oldest| line.is_of(oldest)) {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let (kept, forgotten) = held.into_iter().partition(|chunk| line.is_of(chunk));
        self.held = forgotten;
        self.forget(&Failure::lost("the server crashed after the commit"), true);
        self.held = kept;
    }

    /// Whether the rows hold what was committed is read from the rows.
    fn forget(&mut self, failure: &Failure, crashed: bool) {
        // The last is tried first.
        for mut chunk in std::mem::take(&mut self.held).into_iter().rev() {
            let next = chunk.course.on_forgotten(crashed, fastrand::f64());
            chunk.reread = true;
            let resolution =
                if matches!(next, Next::Retry(_)) { Resolution::Reread } else { Resolution::Unresolved };
            chunk.attempt.span.in_scope(|| {
                self.shop.books.observe(&Event::CommitInDoubt);
                self.shop.books.resolved(resolution);
            });
            self.go_on(chunk, next, failure.clone());
        }
    }
}

/// Waits until all that was committed lasts. Readers of the log that do not ask for messages never see the mark
/// (manual, "Replication Management Functions").
async fn flush<D>(line: &Line<D>) -> Result<Era, Failure> {
    let Line { client, waiting, .. } = line;
    let mark = format!(
        "BEGIN; SET LOCAL synchronous_commit TO {waiting}; \
         SELECT pg_catalog.pg_logical_emit_message(true, 'headcount', '')"
    );
    // Polled in order: they are sent in this order. COMMIT does not say that something before it has failed.
    let (marked, era, committed) =
        join3(client.batch_execute(&mark), Era::now(client), client.batch_execute("COMMIT")).await;
    marked?;
    let era = era?;
    committed?;
    Ok(era)
}
