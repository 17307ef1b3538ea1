//! Chunks that were committed without waiting for the disk, until a flush has covered them.
//!
//! The flush is one more commit, that of the open chunk if there is one, which waits for the disk. In its
//! transaction the server also says in which era it is: a crash that a proxy kept from us would otherwise
//! let us believe in a log that no longer has our chunks.

use futures_util::future::join3;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::super::labor::Labor;
use super::Worker;
use super::chunk::Chunk;
use crate::decide::chunk::course::Next;
use crate::decide::chunk::flush;
use crate::event::{Event, Resolution};
use crate::pg::Failure;
use crate::pg::era::Era;

/// Something to commit, where no chunk is at hand: a commit that wrote nothing would flush nothing. Readers
/// of the log that do not ask for messages never see it (manual, "Replication Management Functions").
const MARK: &str = "BEGIN; SELECT pg_catalog.pg_logical_emit_message(true, 'headcount', '')";

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

    /// Commits the open chunk, if any, and makes all that was committed last. May take two turns.
    pub(super) async fn settle(&mut self) {
        // A commit that wrote nothing flushes nothing.
        let alone =
            self.open.as_ref().is_some_and(|chunk| self.held.is_empty() || chunk.attempt.xid.is_none());
        let open = self.open.take().map(|mut chunk| {
            chunk.course.on_commit_sent(true);
            chunk
        });
        let Some(line) = &self.line else { return };
        if alone {
            let committed = line.client.batch_execute("COMMIT").await;
            self.on_commit(open, committed.map(|()| Instant::now()).map_err(Failure::from));
        } else {
            let flushed = flush_all(&line.client, open.is_none()).await;
            self.on_flush(open, flushed);
        }
    }

    fn on_flush(&mut self, open: Option<Chunk<L::Item>>, flushed: Result<(Instant, Era), Failure>) {
        match flushed {
            Ok((at, era)) => {
                self.on_commit(open, Ok(at));
                if self.line.as_ref().is_some_and(|line| line.era.is_same(&era)) {
                    for mut chunk in std::mem::take(&mut self.held) {
                        chunk.course.on_flushed();
                        self.committed(&chunk);
                    }
                } else {
                    self.lose(&Failure::lost("another server answers, or this one has crashed"));
                }
            }
            Err(failure) if open.is_some() => self.on_commit(open, Err(failure)),
            Err(failure) if failure.is_connection_lost() => self.lose(&failure),
            // Not even a mark may be set: the rows are read again, which settles it.
            Err(failure) => self.forget(&failure),
        }
    }

    /// A new session: what was committed in another era may be gone.
    pub(super) fn check_held(&mut self) {
        let Some(line) = &self.line else { return };
        let held = std::mem::take(&mut self.held);
        let (kept, forgotten) = held.into_iter().partition(|chunk| line.is_of(chunk));
        self.held = forgotten;
        self.forget(&Failure::lost("the server crashed after the commit"));
        self.held = kept;
    }

    /// Whether the rows hold what was committed is read from the rows.
    fn forget(&mut self, failure: &Failure) {
        // The last is tried first.
        for mut chunk in std::mem::take(&mut self.held).into_iter().rev() {
            let next = chunk.course.on_forgotten(fastrand::f64());
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

/// Commits, and learns in which era; with `mark`, in a transaction of its own.
async fn flush_all(client: &Client, mark: bool) -> Result<(Instant, Era), Failure> {
    let mark = async { if mark { client.batch_execute(MARK).await } else { Ok(()) } };
    // Polled in order: they are sent in this order. COMMIT does not say that something before it has failed.
    let (marked, era, committed) = join3(mark, Era::now(client), client.batch_execute("COMMIT")).await;
    marked?;
    let era = era?;
    committed?;
    Ok((Instant::now(), era))
}
