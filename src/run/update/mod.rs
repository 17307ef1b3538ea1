//! Chunked updates: thousands of rows, a transaction per chunk, through lost connections.
//!
//! [`Update`] is a table, a key and new values; [`Batch`] is the same machine around a caller's own
//! closure. Each connection has a [`driver`], which carries out what the machine of
//! [`decide::update`](crate::decide::update) says. All take their chunks from one source and add to the same totals.

mod batch;
mod before;
mod cause;
mod chunk_work;
mod connection;
mod context;
mod driver;
mod item_source;
mod keys;
mod options;
mod packed;
mod rejects;
mod totals;

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use self::batch::Batch;
use self::before::unless_stopped;
use self::chunk_work::{ChunkWork, TableUpdate};
use self::context::RunContext;
use self::driver::drive;
use self::item_source::ItemSource;
use self::keys::{Item, Source, Wanted, marked};
pub use self::keys::{Keys, Row};
pub use self::options::ChunkSize;
use self::options::{Options, shared_options};
use self::rejects::Rejects;
use self::totals::RunTotals;
use super::execution::fail_reason;
use crate::decide::update::ending::FailOn;
use crate::decide::update::shared::Shared;
use crate::error::Error;
use crate::event::{FailReason, Observers};
use crate::pg::connect::Endpoint;
use crate::pg::update::{Assign, Wish};
use crate::report::Updated;
use crate::telemetry::spans::{self, Server};

/// Where the work goes, and who hears of it.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) endpoint: Endpoint,
    pub(crate) server: Server,
    pub(crate) observers: Observers,
}

impl Site {
    fn for_writing(&self) -> Self {
        Self { endpoint: self.endpoint.for_writing(), ..self.clone() }
    }
}

/// An update of many rows of one table, a transaction per chunk.
///
/// Each key ends in one class: *updated*; *already* (its row holds the new values, whatever is expected);
/// *stale* (its row holds neither the new nor the expected values); *missing*; or *failed*. Values are
/// texts that the server casts to the column's type; `None` is NULL. What is meant for all rows is read by the server
/// once, before anything is changed: `now` is one moment. In a value of one key it would be another one at each attempt:
/// that key fails.
///
/// A key must have one row, and keeps it: what is set is no part of the key. One that is NULL, or has a NULL, fails. Where no unique index proves that there is
/// one row, each chunk is checked, and a key with more rows fails. Keys are told apart as they are written, integers
/// and UUIDs by their value. A key that occurs again finds what the first has left: the new value, or not the expected
/// one. One that occurs again with other values fails, if the first is among the million keys before it; further apart
/// it finds what the first has left, too, and overwrites it where nothing is [expected](Self::expect).
///
/// What counts, in the report, the files and the telemetry, outlives a crash of the server: it was flushed as
/// the session's `synchronous_commit` asks for (`off` is taken for `on`). Where an updated row no longer holds
/// what is [expected](Self::expect) (another value is set in that column, or it is the
/// [version](Self::version)) and no trigger has a say in that, chunks are committed without waiting for the disk, and
/// flushed together: every 10,000 keys or 100 ms, before a wait, and at the end. Those that a restart of the server has
/// caught in between are looked after. Elsewhere that could change a row twice, so each chunk waits for the disk.
///
/// Of a commit whose answer is lost the server is asked what became of it, and of one that a crash or a failover has put
/// in doubt, its write-ahead log. Where neither tells, the rows are compared again; the keys that had been changed are
/// *already* then ([`InDoubt::reread`](crate::InDoubt::reread)). That is not done where triggers have a say in what an
/// update does, also ones that came while it ran, since they might do it twice: such keys fail
/// ([`InDoubt::unresolved`](crate::InDoubt::unresolved)). Where a standby takes over that lacks what had been counted, it
/// is done again ([`InDoubt::replaced`](crate::InDoubt::replaced)).
///
/// The future of [`run`](Self::run) may be dropped at any await: what is in flight is rolled back by the
/// server, or has taken effect. Running the same update again finishes the rest: rows that were done
/// are *already*.
///
/// ```no_run
/// # async fn job(headcount: &headcount::Headcount) -> Result<(), headcount::Error> {
/// use headcount::Keys;
///
/// let update = headcount.update("orders").key(["id"]).set("status", "submitted").expect("status", "new");
/// let report = update.run(Keys::file("submitted.csv")).await?.complete()?;
/// println!("{} updated, {} were done before", report.updated, report.already);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Update {
    site: Site,
    options: Options,
    wish: Wish,
    rejects: Option<PathBuf>,
    dry_run: bool,
    /// What was said of it.
    fail_on: Option<Vec<FailOn>>,
}

impl Update {
    pub(crate) fn new(site: &Site, table: &str) -> Self {
        let wish = Wish { table: table.to_owned(), ..Wish::default() };
        let options = Options::new("update");
        Self { site: site.clone(), options, wish, rejects: None, dry_run: false, fail_on: None }
    }

    shared_options!();

    /// The columns that name a row.
    #[must_use]
    pub fn key<I: IntoIterator<Item: Into<String>>>(mut self, columns: I) -> Self {
        self.wish.key = columns.into_iter().map(Into::into).collect();
        self
    }

    /// A new value for all rows.
    #[must_use]
    pub fn set<'v>(mut self, column: &str, value: impl Into<Option<&'v str>>) -> Self {
        let value = Assign::Value(value.into().map(str::to_owned));
        self.wish.set.push((column.to_owned(), value));
        self
    }

    /// A new value per key, from this column of the input.
    #[must_use]
    pub fn set_from(mut self, column: &str, input: &str) -> Self {
        self.wish.set.push((column.to_owned(), Assign::Input(input.to_owned())));
        self
    }

    /// Only rows that hold this value are updated.
    #[must_use]
    pub fn expect<'v>(mut self, column: &str, value: impl Into<Option<&'v str>>) -> Self {
        let value = Assign::Value(value.into().map(str::to_owned));
        self.wish.expect.push((column.to_owned(), value));
        self
    }

    /// The same with a value per key, from this column of the input: an optimistic lock on a version that
    /// was read before is `.expect_from("version", "version").version("version")`.
    #[must_use]
    pub fn expect_from(mut self, column: &str, input: &str) -> Self {
        self.wish.expect.push((column.to_owned(), Assign::Input(input.to_owned())));
        self
    }

    /// A column that grows by one with each change: an integer or numeric. NULL counts as 0.
    #[must_use]
    pub fn version(mut self, column: &str) -> Self {
        self.wish.version = Some(column.to_owned());
        self
    }

    /// Writes the keys that are stale, missing or failed to this file, with class, line and reason. It can be the
    /// input of the next run. An existing file is replaced. A pipe is waited for: nothing is changed before
    /// somebody reads it, and no further chunk is begun while he is a mebibyte behind.
    #[must_use]
    pub fn rejects(mut self, path: impl Into<PathBuf>) -> Self {
        self.rejects = Some(path.into());
        self
    }

    /// Changes nothing: says how each key would be classed. In metrics it is no run of its task: neither its last
    /// one nor its last success.
    #[must_use]
    pub const fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// What counts as a failure although no key failed. By default: there is no key, or no row has any of the keys.
    /// Where the keys are a query's, it may well have none; that counts as a failure only if it is said here.
    #[must_use]
    pub fn fail_on(mut self, what: impl IntoIterator<Item = FailOn>) -> Self {
        self.fail_on = Some(what.into_iter().collect());
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// A bad option, a table or column that does not exist, a value or keys that cannot be read, no session, a proxy
    /// that pools transactions:
    /// nothing was changed. All but a bad option is a run that failed, to those who watch. Whatever happens later is in the report.
    pub async fn run(&self, keys: Keys) -> Result<Updated, Error> {
        self.options.validate()?;
        self.check_wish(&keys)?;
        let span = spans::update(&self.options.task);
        // It stops at the caller's word, and when its time is over.
        let options = Options { stop: self.options.stop.child_token(), ..self.options.clone() };
        // What changes nothing may look at a standby.
        let site = if self.dry_run { self.site.clone() } else { self.site.for_writing() };
        let update = Self { site, options, ..self.clone() };
        // On the heap: the caller's own future stays small.
        Box::pin(update.run_inside(keys)).instrument(span).await
    }

    /// What counts as a failure where the keys come from there.
    fn fails_on(&self, source: &Source) -> Vec<FailOn> {
        let usual: &[FailOn] = match source {
            // There may well be nothing to do.
            Source::Query(_) | Source::Claims(_) => &[FailOn::AllMissing],
            _ => &[FailOn::AllMissing, FailOn::Empty],
        };
        self.fail_on.clone().unwrap_or_else(|| usual.to_vec())
    }

    fn check_wish(&self, keys: &Keys) -> Result<(), Error> {
        let needed = |field, problem: &str| Err(Error::configuration(field, problem));
        if self.wish.key.is_empty() {
            return needed("key", "name at least one column");
        }
        if self.wish.set.is_empty() {
            return needed("set", "name at least one column and its new value");
        }
        if let (Some(rejects), Some(file)) = (&self.rejects, keys.file_name()) {
            Rejects::check(rejects, file)?;
        }
        if self.dry_run && matches!(keys.source, Source::Claims(_)) {
            return needed(
                "dry_run",
                "rows are claimed in order to change them; give the query as keys instead",
            );
        }
        Ok(())
    }

    async fn run_inside(&self, keys: Keys) -> Result<Updated, Error> {
        let Self { site, options, .. } = self;
        let fail_on = self.fails_on(&keys.source);
        let totals = RunTotals::open(&options.task, site.observers.clone(), self.dry_run, fail_on);
        let working = Box::pin(async {
            match Box::pin(self.prepare(&totals, keys)).await {
                Ok(Some((work, supply))) => {
                    let report = work_off(&work, site, options, &totals, supply).await;
                    totals.broken_before_anything(&report).map_or(Ok(report), Err)
                }
                // Nobody knows how many keys there are.
                Ok(None) => Ok(totals.close(false, None, |_, _| None)),
                Err(error) => {
                    totals.give_up(why_never_began(&error, options), &error);
                    Err(error)
                }
            }
        });
        options.in_time(working, |limit| totals.deadline_passed(limit)).await
    }

    /// What is to be done, and what with; `None` when the run is stopped. Nothing is changed by it.
    async fn prepare(
        &self,
        totals: &RunTotals,
        keys: Keys,
    ) -> Result<Option<(TableUpdate, Supply<Item>)>, Error> {
        let Self { wish, options, .. } = self;
        let query = match &keys.source {
            Source::Query(query) => Some((query.clone(), false)),
            Source::Claims(query) => Some((query.clone(), true)),
            _ => None,
        };
        let stop = &options.stop;
        let Some((session, work, query)) =
            unless_stopped(stop, Box::pin(self.ready(totals, query.as_ref()))).await?
        else {
            return Ok(None);
        };
        let statements = &work.statements;
        let wanted = Wanted {
            inputs: statements.inputs.clone(),
            key_types: statements.parts.key.iter().map(|key| key.type_oid).collect(),
            times: statements.times.clone(),
        };
        let inputs = &wanted.inputs;
        let opened = match (keys.source, query) {
            (Source::Query(_), Some(query)) => {
                let Some(spool) = Box::pin(self.spool(totals, session, &query, inputs)).await? else {
                    return Ok(None);
                };
                Some(spool.open(inputs.len())?)
            }
            // Its place on the server is needed for the work.
            (other, _) => {
                session.close().await;
                let Some(opened) = unless_stopped(stop, Self::open(other, &wanted)).await? else {
                    return Ok(None);
                };
                opened
            }
        };
        let (total, countable) =
            opened.as_ref().map_or((None, false), |opened| (opened.total, opened.countable));
        let rejects = match &self.rejects {
            None => None,
            Some(path) => match unless_stopped(stop, Rejects::create(path, inputs)).await? {
                None => return Ok(None),
                created => created,
            },
        };
        let source = match opened {
            None => ItemSource::claims(),
            Some(opened) => ItemSource::stream(marked(opened.items, &wanted), Item::weight),
        };
        let source = source.held_by(rejects.as_ref().and_then(Rejects::backlog));
        let supply = Supply { source, total, countable, rejects, keys: wish.key.len() };
        Ok(Some((work, supply)))
    }
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update")
            .field("wish", &self.wish)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The same words as of an execution.
fn why_never_began(error: &Error, options: &Options) -> FailReason {
    if options.stop.is_cancelled() { FailReason::Interrupted } else { fail_reason(error) }
}

/// What a run works on.
struct Supply<T> {
    source: ItemSource<T>,
    /// How many items, where that is known.
    total: Option<u64>,
    /// Whether reading on to the end is quick.
    countable: bool,
    rejects: Option<Rejects>,
    keys: usize,
}

/// Begins, lets the workers work, and closes the totals.
async fn work_off<W: ChunkWork>(
    work: &W,
    site: &Site,
    options: &Options,
    totals: &RunTotals,
    supply: Supply<W::Item>,
) -> Updated {
    let Supply { source, total, countable, rejects, keys } = supply;
    let span = tracing::Span::current();
    totals.begin(options.connections, total, rejects, keys);
    // Stops at the caller's word, and at ours.
    let closing = options.stop.child_token();
    let settings = options.settings(W::OWN_FAILURE);
    let shared = Mutex::new(Shared::new(source.is_claimed()));
    let run = RunContext {
        work,
        source: &source,
        totals,
        endpoint: &site.endpoint,
        server: &site.server,
        task: &options.task,
        span: &span,
        closing: &closing,
        halted: &options.stop,
        settings: &settings,
        shared: &shared,
        began: Instant::now(),
    };
    join_all((0..options.connections).map(|_| drive(&run))).await;
    // Who was the last to count had not heard that another server has taken over.
    if run.is_behind() {
        drive(&run).await;
    }
    // No session was to be had in which to look after it.
    if run.is_behind() {
        let (updated, already) = run.shared().past.unseen();
        totals.forget(updated, already);
    }
    let claims_are_over = source.is_claimed() && run.shared().is_exhausted();
    let left = if claims_are_over { Some(0) } else { source.left(countable).await };
    let exhausted = claims_are_over || run.shared().is_exhausted();
    totals.finish_rejects(&closing).await;
    totals.close(exhausted, left, |item, all| work.hint(item, all))
}
