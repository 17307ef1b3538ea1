//! Chunks that were committed and may yet be lost, until a flush has covered them.
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
use super::outcome::Unresolved;
use crate::decide::chunk::course::{Next, NoFlush};
use crate::decide::chunk::flush;
use crate::event::{Event, Resolution};
use crate::pg::Failure;
use crate::pg::era::Era;

/// Flushes in a row that may fail while the session lives: somebody may cancel one, or its wait for a standby.
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
        if self.held.is_empty() && !line.is_lazy {
            let committed = committed.await;
            self.on_commit(commit, committed).await;
            return;
        }
        // Polled in order: COMMIT is sent first.
        let (committed, flushed) = join(committed, flush(line)).await;
        // The warning may be heard after both are answered.
        let waited = committed.as_ref().is_ok_and(|committed| committed.waited);
        let refused = self.on_commit(commit, committed).await;
        // After a COMMIT that was refused the mark may have met its transaction; there will be another.
        if !refused || flushed.is_ok() {
            self.on_flush(flushed.map(|flush| Flush { waited: flush.waited && waited, ..flush }));
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
        let done = flushed.as_ref().is_ok_and(|flush| flush.waited);
        self.on_flush(flushed);
        done && self.line.is_some()
    }

    fn on_flush(&mut self, flushed: Result<Flush, Failure>) {
        let Some(line) = &self.line else { return };
        match flushed {
            Ok(Flush { era, waited: true }) if line.life.is_in(&era) => {
                (self.flush_failures, self.flushes_lost) = (0, 0);
                for mut chunk in std::mem::take(&mut self.held) {
                    chunk.course.on_flushed();
                    self.committed(chunk);
                }
            }
            Ok(Flush { era, .. }) if line.life.is_in(&era) => self.on_no_flush(&unwaited()),
            Ok(_) => self.lose(&Failure::lost("another server answers, or this one has crashed")),
            Err(failure) if failure.is_connection_lost() => {
                self.flushes_lost += 1;
                let why = self.why_not();
                self.lose(&failure);
                // Somebody may end each session that waits.
                if self.flushes_lost >= self.shop.max_attempts {
                    self.flushes_lost = 0;
                    self.unflushed(why, &failure);
                }
            }
            Err(failure) => self.on_no_flush(&failure),
        }
    }

    /// A flush that the session has survived.
    fn on_no_flush(&mut self, failure: &Failure) {
        self.flush_failures += 1;
        let may_mark = self.line.as_ref().is_some_and(|line| line.may_mark);
        if may_mark && self.flush_failures < FLUSHES {
            return;
        }
        self.flush_failures = 0;
        let why = self.why_not();
        if why == NoFlush::Refused {
            // A new one asks what it may do.
            self.lose(failure);
        }
        self.unflushed(why, failure);
    }

    fn why_not(&self) -> NoFlush {
        match &self.line {
            Some(line) if line.has_standby => NoFlush::Unreplicated,
            _ => NoFlush::Refused,
        }
    }

    /// No flush is to be had of what is held.
    fn unflushed(&mut self, why: NoFlush, failure: &Failure) {
        // The last is tried first.
        for mut chunk in std::mem::take(&mut self.held).into_iter().rev() {
            let next = chunk.course.on_unflushed(why, chunk.items.len(), fastrand::f64());
            let span = chunk.attempt.span.clone();
            span.in_scope(|| self.shop.books.observe(&Event::CommitInDoubt));
            if next == Next::Unresolved {
                let what = match why {
                    NoFlush::Refused => Unresolved::Unflushed,
                    NoFlush::Unreplicated => Unresolved::Unreplicated,
                };
                self.unresolved(&chunk, what, failure);
                continue;
            }
            let is_done = next == Next::Done;
            if !is_done {
                chunk.reread = true;
                chunk.counted.clone_from(&chunk.attempt.classes);
            }
            let resolution = if is_done { Resolution::Committed } else { Resolution::Reread };
            span.in_scope(|| self.shop.books.resolved(resolution));
            self.go_on(chunk, next, failure.clone());
        }
    }

    /// What was committed in another life of the server than that of the session may be gone. `false` when the session is
    /// lost over it.
    pub(super) async fn check_held(&mut self) -> bool {
        let Some(line) = &self.line else { return false };
        // They are in order: none is of an older life than the first.
        if self.held.first().is_none_or(|oldest| line.is_of(oldest)) {
            return true;
        }
        let crashed = Failure::lost("the server crashed after the commit");
        let mut held = std::mem::take(&mut self.held);
        let replay = self.shop.labor.replay();
        // The last is tried first.
        while let Some(line) = &self.line
            && let Some(chunk) = held.pop()
        {
            let fate = if line.is_of(&chunk) { None } else { Some(line.fate(&chunk, replay).await) };
            match fate {
                None => self.held.push(chunk),
                Some(Ok(status)) => {
                    chunk.attempt.span.in_scope(|| self.shop.books.observe(&Event::CommitInDoubt));
                    self.on_status(chunk, status, false, &crashed);
                }
                Some(Err(lost)) => {
                    held.push(chunk);
                    self.held.splice(0..0, held);
                    self.lose(&lost);
                    return false;
                }
            }
        }
        true
    }
}

/// A flush that was answered.
struct Flush {
    era: Era,
    /// Nobody cancelled its wait for a synchronous standby.
    waited: bool,
}

fn unwaited() -> Failure {
    Failure::found("01000", "canceling wait for synchronous replication")
}

/// Waits until all that was committed lasts. Readers of the log that do not ask for messages never see the mark
/// (manual, "Replication Management Functions").
async fn flush<D>(line: &Line<D>) -> Result<Flush, Failure> {
    let Line { client, waiting, .. } = line;
    let _under_way = line.under_way.commit()?;
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
    Ok(Flush { era, waited: !line.heard.take_unreplicated() })
}
