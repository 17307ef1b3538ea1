//! The totals of one update: every key in one class, every event to its observers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cause::Stops;
use super::chunk_work::spelled;
use super::keys::{Item, Refused};
use super::rejects::Rejects;
use crate::decide::update::Class;
use crate::decide::update::ending::{FailOn, Tally};
use crate::decide::update::gather::Twin;
use crate::error::Error;
use crate::event::{
    Cause, ChunkEnd, ChunkFacts, Event, FailReason, Observer, Observers, Resolution, RowCounts, Scope,
    SqlState, UpdateFacts, UpdateOutcome,
};
use crate::pg::Failure;
use crate::report::{InDoubt, KeyFailure, Updated};

/// Failures kept for the report, and keys kept of each; the file of rejects has all of them.
const FAILURES: usize = 100;
const FAILED_KEYS: usize = 100;

/// Shared by all workers of a run.
pub(crate) struct RunTotals {
    scope: Scope,
    observers: Observers,
    dry_run: bool,
    fail_on: Vec<FailOn>,
    started: Instant,
    page: Mutex<Page>,
}

#[derive(Default)]
struct Page {
    /// Why there is nothing to work on, until there is.
    never_began: Option<FailReason>,
    chunks: u64,
    failed_chunks: u64,
    retried_chunks: u64,
    reconnects: u64,
    rows: RowCounts,
    failed: u64,
    in_doubt: InDoubt,
    failures: Vec<KeyFailure>,
    rejects: Option<Rejects>,
    /// What stopped the run.
    error: Option<Cause>,
    /// The same where it is the input.
    broken: Option<Error>,
    /// Why a worker has no session any more. The others may well finish.
    line_down: Option<Cause>,
    /// The first item without a row.
    missing: Option<Item>,
    /// How many columns the key has.
    keys: usize,
    /// Items that workers had taken when they were stopped.
    left_behind: u64,
    ended: bool,
}

/// A chunk's end, as the worker knows it.
pub(crate) struct Closing<'a, T> {
    pub(crate) chunk: u64,
    pub(crate) attempt: u32,
    pub(crate) took: Duration,
    pub(crate) items: &'a [T],
    pub(crate) twins: &'a [Twin<T>],
}

impl RunTotals {
    /// Before anything that can fail: an update that could not begin is a run that failed.
    pub(crate) fn open(task: &str, observers: Observers, dry_run: bool, fail_on: Vec<FailOn>) -> Self {
        let scope = Scope { task: Arc::from(task) };
        observers.announce(&scope);
        let page = Page { never_began: Some(FailReason::Interrupted), ..Page::default() };
        Self { scope, observers, dry_run, fail_on, started: Instant::now(), page: Mutex::new(page) }
    }

    /// What is to be done is known: `total` keys, where they can be counted, of so many columns.
    pub(crate) fn begin(&self, connections: u32, total: Option<u64>, rejects: Option<Rejects>, keys: usize) {
        let mut page = self.page();
        page.never_began = None;
        page.rejects = rejects;
        page.keys = keys;
        drop(page);
        self.observe(&Event::UpdateStarted { connections, keys: total });
    }

    /// It cannot begin.
    pub(crate) fn give_up(&self, reason: FailReason, error: &Error) {
        let mut page = self.page();
        page.never_began = Some(reason);
        page.error = Some(error.cause());
        drop(page);
        self.end(UpdateOutcome::Incomplete, false);
    }

    /// Its time is over.
    pub(crate) fn deadline_passed(&self, limit: Duration) {
        let mut page = self.page();
        page.never_began = page.never_began.map(|_| FailReason::Deadline);
        page.error.get_or_insert_with(|| Error::deadline(limit).cause());
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The crate's one telemetry verb.
    pub(crate) fn observe(&self, event: &Event) {
        self.observers.observe(&self.scope, event);
    }

    /// A chunk took effect.
    pub(crate) fn committed<'i, T>(
        &self,
        closing: &Closing<'i, T>,
        classes: &[Class],
        show: impl Fn(&'i T) -> Option<&'i Item>,
    ) {
        let mut page = self.page();
        let twins = closing.twins.iter().map(|twin| {
            let class = twin.class(classes.get(twin.of).copied().unwrap_or(Class::Failed));
            (&twin.item, class)
        });
        let own = closing.items.iter().zip(classes).map(|(item, class)| (item, *class));
        let mut rows = RowCounts::default();
        for (item, class) in own.chain(twins) {
            match class {
                Class::Updated => rows.updated += 1,
                Class::Already => rows.already += 1,
                Class::Stale => rows.stale += 1,
                Class::Missing => rows.missing += 1,
                Class::Failed => rows.failed += 1,
            }
            if class == Class::Updated {
                continue;
            }
            let Some(item) = show(item) else { continue };
            match class {
                // Of a chunk that took effect, what was set apart before is all that has failed.
                Class::Failed => page.refuse(item),
                // What is done already needs nobody's attention.
                Class::Already | Class::Updated => {}
                Class::Stale | Class::Missing => {
                    if let Some(rejects) = &mut page.rejects {
                        rejects.write(item, class, "");
                    }
                    if class == Class::Missing && page.missing.is_none() {
                        page.missing = Some(item.clone());
                    }
                }
            }
        }
        page.chunks += 1;
        page.failed += rows.failed;
        page.rows += rows;
        drop(page);
        self.ended(closing, ChunkEnd::Committed, rows, None);
    }

    /// Keys that were counted may be gone with their server, and will count anew.
    pub(crate) fn uncount(&self, updated: u64, already: u64) {
        let mut page = self.page();
        page.rows.updated -= updated;
        page.rows.already -= already;
        page.chunks -= 1;
        page.in_doubt.replaced += updated + already;
    }

    /// The same, and nobody remembers which they are, or can look after them.
    pub(crate) fn forget(&self, updated: u64, already: u64) {
        let keys = updated + already;
        if keys == 0 {
            return;
        }
        let mut page = self.page();
        page.rows.updated -= updated;
        page.rows.already -= already;
        page.failed += keys;
        page.in_doubt.replaced += keys;
        drop(page);
        self.stopped_by(&format!(
            "another server has taken over, and may not have {keys} keys that were done; run the same again"
        ));
    }

    /// An attempt at a chunk left nothing behind, and its keys come again, whole or in halves.
    pub(crate) fn retried(
        &self,
        chunk: u64,
        attempt: u32,
        size: usize,
        took: Duration,
        keys: Option<Arc<str>>,
        failure: &Failure,
    ) {
        // One that had taken effect and was forgotten begins to count anew.
        if attempt <= 1 {
            self.page().retried_chunks += 1;
        }
        let (end, rows) = (ChunkEnd::Retried(sqlstate(failure)), RowCounts::default());
        self.observe(&Event::ChunkEnded(ChunkFacts {
            chunk,
            attempt,
            end,
            size: size as u32,
            rows,
            took,
            keys,
        }));
    }

    /// A chunk is given up.
    pub(crate) fn failed<'i, T>(
        &self,
        closing: &Closing<'i, T>,
        failure: &Failure,
        keys: Option<Arc<str>>,
        show: impl Fn(&'i T) -> Option<&'i Item>,
    ) {
        let mut page = self.page();
        let reason = failure.to_string();
        let (refused, twins) = closing.twins.iter().partition::<Vec<_>, _>(|twin| twin.contradicts);
        let twins = twins.into_iter().map(|twin| &twin.item);
        let items: Vec<&Item> = closing.items.iter().chain(twins).filter_map(&show).collect();
        refused.into_iter().filter_map(|twin| show(&twin.item)).for_each(|item| page.refuse(item));
        if let Some(rejects) = &mut page.rejects {
            for item in &items {
                rejects.write(item, Class::Failed, &reason);
            }
        }
        page.failed += (closing.items.len() + closing.twins.len()) as u64;
        page.failed_chunks += 1;
        page.keep(items.iter().copied().take(FAILED_KEYS), failure.shown_sqlstate(), &reason);
        drop(page);
        self.ended(closing, ChunkEnd::Failed(sqlstate(failure)), RowCounts::default(), keys);
    }

    fn ended<T>(&self, closing: &Closing<'_, T>, end: ChunkEnd, rows: RowCounts, keys: Option<Arc<str>>) {
        let size = (closing.items.len() + closing.twins.len()) as u32;
        let Closing { chunk, attempt, took, .. } = *closing;
        self.observe(&Event::ChunkEnded(ChunkFacts { chunk, attempt, end, size, rows, took, keys }));
    }

    pub(crate) fn resolved(&self, resolution: Resolution) {
        let mut page = self.page();
        match resolution {
            Resolution::Committed => page.in_doubt.committed += 1,
            Resolution::Aborted => page.in_doubt.aborted += 1,
            Resolution::Reread => page.in_doubt.reread += 1,
            Resolution::Unresolved | Resolution::Unreplicated => page.in_doubt.unresolved += 1,
        }
        drop(page);
        self.observe(&Event::CommitResolved { resolution });
    }

    pub(crate) fn reconnected(&self, lost: SqlState) {
        self.page().reconnects += 1;
        self.observe(&Event::SessionRestored { sqlstate: lost });
    }

    /// What stopped the run; the first one counts.
    pub(crate) fn stopped_by(&self, what: &impl Stops) {
        self.page().error.get_or_insert_with(|| what.cause());
    }

    /// The keys cannot be read to their end.
    pub(crate) fn input_broke(&self, error: Error) {
        let mut page = self.page();
        page.error.get_or_insert_with(|| error.cause());
        page.broken.get_or_insert(error);
    }

    /// What was wrong with the input, where nothing had been done before that was found.
    pub(crate) fn broken_before_anything(&self, report: &Updated) -> Option<Error> {
        self.page().broken.take().filter(|_| report.keys == 0 && report.in_doubt == InDoubt::default())
    }

    /// A worker gave up on getting a session.
    pub(crate) fn line_down(&self, failure: &Failure) {
        let message = format!("no session with the server: {failure}");
        self.page().line_down.get_or_insert(Cause { sqlstate: failure.event_sqlstate(), message });
    }

    /// A stopped worker leaves items that it had taken.
    pub(crate) fn left_behind(&self, items: usize) {
        self.page().left_behind += items as u64;
    }

    /// Writes what is held back of the rejects.
    pub(crate) async fn finish_rejects(&self, stop: &CancellationToken) {
        let rejects = self.page().rejects.take();
        if let Some(rejects) = rejects
            && let Err(problem) = rejects.finish(stop).await
        {
            self.stopped_by(&format!("the file of rejects is incomplete: {problem}"));
        }
    }

    /// Closes the totals. `exhausted`: whether every key was dealt with, as far as is known.
    /// `hint`: what to say of keys without a row, given the first of them, and whether there are no others.
    pub(crate) fn close(
        &self,
        exhausted: bool,
        left: Option<u64>,
        hint: impl Fn(&Item, bool) -> Option<String>,
    ) -> Updated {
        let mut page = self.page();
        let exhausted = exhausted && page.left_behind == 0;
        if !exhausted && page.error.is_none() {
            page.error = page.line_down.take();
        }
        let RowCounts { updated, already, stale, missing, .. } = page.rows;
        let unfinished = !exhausted || page.error.is_some();
        let tally = Tally { done: updated + already, stale, missing, failed: page.failed, unfinished };
        let (outcome, complete) = tally.end(&self.fail_on);
        let report = Updated {
            task: self.scope.task.to_string(),
            outcome,
            complete,
            dry_run: self.dry_run,
            keys: updated + already + stale + missing + page.failed,
            updated,
            already,
            stale,
            missing,
            failed: page.failed,
            left: left.map(|left| left + page.left_behind),
            chunks: page.chunks,
            failed_chunks: page.failed_chunks,
            retried_chunks: page.retried_chunks,
            reconnects: page.reconnects,
            in_doubt: page.in_doubt,
            failures: page.failures.clone(),
            error: page.error.as_ref().map(|cause| cause.message.clone()),
            sqlstate: page.error.as_ref().and_then(|cause| Some(cause.sqlstate?.as_str().to_owned())),
            hint: page.missing.as_ref().and_then(|item| hint(item, outcome == UpdateOutcome::AllMissing)),
            took: self.started.elapsed(),
        };
        drop(page);
        self.end(outcome, complete);
        report
    }

    fn end(&self, outcome: UpdateOutcome, complete: bool) {
        let mut page = self.page();
        if std::mem::replace(&mut page.ended, true) {
            return;
        }
        let first = page.failures.first().map(|failure| Cause {
            sqlstate: failure.sqlstate.as_deref().and_then(SqlState::new),
            message: failure.reason.clone(),
        });
        let facts = UpdateFacts {
            complete,
            outcome,
            dry_run: self.dry_run,
            never_began: page.never_began,
            cause: page.error.clone().or(first),
            rows: RowCounts { failed: page.failed, ..page.rows },
            chunks: page.chunks,
            failed_chunks: page.failed_chunks,
            took: self.started.elapsed(),
            ended_at_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64()),
        };
        drop(page);
        self.observe(&Event::UpdateEnded(facts));
    }
}

impl Page {
    /// One that was not even looked for.
    fn refuse(&mut self, item: &Item) {
        // Within a chunk others find that it contradicts.
        let (sqlstate, reason) = item.refused.unwrap_or(Refused::Contradicts).why();
        if let Some(rejects) = &mut self.rejects {
            rejects.write(item, Class::Failed, reason);
        }
        self.keep([item], Some(sqlstate), reason);
    }

    fn keep<'a>(&mut self, items: impl IntoIterator<Item = &'a Item>, sqlstate: Option<&str>, reason: &str) {
        if self.failures.len() >= FAILURES {
            return;
        }
        let (mut keys, mut lines) = (Vec::new(), Vec::new());
        for item in items {
            keys.push(spelled(&item.fields[..self.keys]));
            lines.extend((item.line > 0).then_some(item.line));
        }
        let (sqlstate, reason) = (sqlstate.map(str::to_owned), reason.to_owned());
        self.failures.push(KeyFailure { keys, lines, sqlstate, reason });
    }
}

/// What is dropped open belongs to a future that was dropped.
impl Drop for RunTotals {
    fn drop(&mut self) {
        self.end(UpdateOutcome::Incomplete, false);
    }
}

/// What events count a failure under; the client's own failures have no code.
fn sqlstate(failure: &Failure) -> SqlState {
    failure.event_sqlstate().unwrap_or(SqlState::INTERNAL)
}
