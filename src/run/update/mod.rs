//! Chunked updates: thousands of rows, a transaction per chunk, through lost connections.
//!
//! [`Update`] is a table, a key and new values; [`Batch`] is the same machine around a caller's own
//! closure. Both run workers ([`worker`]), one per connection, that take chunks from one feed
//! and write into one set of books.

mod batch;
mod books;
mod claims;
mod feed;
mod keys;
mod labor;
mod options;
mod rejects;
mod worker;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use self::batch::Batch;
use self::books::Books;
use self::feed::Feed;
use self::keys::{Item, Opened, Source, Spool, named};
pub use self::keys::{Keys, Row};
use self::labor::{Labor, TableUpdate};
pub use self::options::ChunkSize;
use self::options::{Options, shared_options};
use self::rejects::Rejects;
use self::worker::{Shop, Worker};
use super::execution::fail_reason;
use crate::decide::backoff::Backoff;
use crate::error::{Error, Refusal};
use crate::event::{FailReason, Observers};
use crate::pg::Failure;
use crate::pg::connect::Endpoint;
use crate::pg::pooling::Pooling;
use crate::pg::session::{OLDEST, Session};
use crate::pg::update::{Assign, Statements, Table, Wish, keep_exact, refuse_locks};
use crate::report::Updated;
use crate::telemetry::spans::{self, Server};

/// Where the work goes, and who hears of it.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) endpoint: Endpoint,
    pub(crate) server: Server,
    pub(crate) observers: Observers,
}

/// An update of many rows of one table, a transaction per chunk.
///
/// Each key ends in one class: *updated*; *already* (its row holds the new values, whatever is expected);
/// *stale* (its row holds neither the new nor the expected values); *missing*; or *failed*. Values are
/// texts that the server casts to the column's type; `None` is NULL. What is meant for all rows is read by the server
/// once, before anything is changed: `now` is one moment.
///
/// A key must have one row, and keeps it: what is set is no part of the key. Where no unique index proves that there is
/// one row, each chunk is checked, and a key with more rows fails. Keys are told apart as they are written. Of
/// duplicates within a chunk, the second takes its class from the first, and fails if it asks for other values.
/// Duplicates further apart are not looked for; they find what the first has left: the new value, or not the expected
/// one. Without [`expect`](Self::expect), with values of their own and on one connection, the later one wins.
///
/// What counts, in the report, the files and the telemetry, outlives a crash of the server: it was flushed as
/// the session's `synchronous_commit` asks for (`off` is taken for `on`). Where an updated row no longer holds
/// what is [expected](Self::expect) (another value is set in that column, or it is the
/// [version](Self::version)) and no trigger has a say in that, chunks are committed without waiting for the disk, and
/// flushed together: every 10,000 keys or 100 ms, before a wait, and at the end. Those that a restart of the server has
/// caught in between are compared again; the keys that had been changed are *already* then (see
/// [`InDoubt::reread`](crate::InDoubt::reread)). Elsewhere that could change a row twice, so each chunk waits
/// for the disk.
///
/// The future of [`run`](Self::run) may be dropped at any await: what is in flight is rolled back by the
/// server, or has taken effect. Running the same update again finishes the rest: rows that were done
/// are *already*.
#[derive(Clone)]
pub struct Update {
    site: Site,
    options: Options,
    wish: Wish,
    rejects: Option<PathBuf>,
    dry_run: bool,
}

impl Update {
    pub(crate) fn new(site: Site, table: &str) -> Self {
        let wish = Wish { table: table.to_owned(), ..Wish::default() };
        Self { site, options: Options::new("update"), wish, rejects: None, dry_run: false }
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

    /// A column that grows by one with each change.
    #[must_use]
    pub fn version(mut self, column: &str) -> Self {
        self.wish.version = Some(column.to_owned());
        self
    }

    /// Writes the keys that were not updated to this file, with class, line and reason. It can be the
    /// input of the next run. An existing file is replaced.
    #[must_use]
    pub fn rejects(mut self, path: impl Into<PathBuf>) -> Self {
        self.rejects = Some(path.into());
        self
    }

    /// Changes nothing: says how each key would be classed.
    #[must_use]
    pub const fn dry_run(mut self) -> Self {
        self.dry_run = true;
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
        // On the heap: the caller's own future stays small.
        Box::pin(self.run_inside(keys)).instrument(span).await
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
        let books = Books::open(&options.task, site.observers.clone());
        match self.prepare(keys).await {
            Ok((labor, supply)) => Ok(work_off(&labor, site, options, &books, supply).await),
            Err(error) => {
                books.give_up(why_never_began(&error, options));
                Err(error)
            }
        }
    }

    /// What is to be done, and what with. Nothing is changed by it.
    async fn prepare(&self, keys: Keys) -> Result<(TableUpdate, Supply<Item>), Error> {
        let Self { wish, .. } = self;
        let query = match &keys.source {
            Source::Query(query) => Some((query.clone(), false)),
            Source::Claims(query) => Some((query.clone(), true)),
            _ => None,
        };
        let (session, labor, query) = self.ready(query.as_ref()).await?;
        let inputs = labor.statements.inputs.clone();
        let opened = match (keys.source, query) {
            (Source::Query(_), Some(query)) => {
                Some(self.spool(session, &query, &inputs).await?.open(inputs.len())?)
            }
            // Its place on the server is needed for the work.
            (other, _) => {
                drop(session);
                Self::open(other, &inputs, wish.key.len()).await?
            }
        };
        let (total, countable) =
            opened.as_ref().map_or((None, false), |opened| (opened.total, opened.countable));
        let supply = Supply {
            feed: opened.map_or_else(Feed::claims, |opened| Feed::stream(opened.items)),
            total,
            countable,
            rejects: self.rejects.as_deref().map(|path| Rejects::create(path, &inputs)).transpose()?,
            dry_run: self.dry_run,
            keys: wish.key.len(),
        };
        Ok((labor, supply))
    }

    /// A session, what is to be done, and the query that keys come from, given that and whether they are claimed
    /// from it. Nothing is at stake yet, so a line that breaks is no reason to give up.
    async fn ready(
        &self,
        query: Option<&(String, bool)>,
    ) -> Result<(Session, TableUpdate, Option<String>), Error> {
        let backoff = Backoff { first: Duration::from_millis(50), cap: Duration::from_secs(1) };
        for tries in 1..self.options.max_attempts {
            match self.look_up(query).await {
                Err(error) if error.is_connection_lost() => {
                    tracing::debug!(%error, "the look-up is tried again");
                    sleep(backoff.delay(tries, fastrand::f64())).await;
                }
                ready => return ready,
            }
        }
        self.look_up(query).await
    }

    async fn look_up(
        &self,
        query: Option<&(String, bool)>,
    ) -> Result<(Session, TableUpdate, Option<String>), Error> {
        let Self { site, options, wish, .. } = self;
        // A server may be restarting.
        let session = open_session(site, options).await?;
        if session.version < OLDEST {
            let explanation =
                format!("the server is PostgreSQL {}; 13 is the oldest", session.version / 10_000);
            return Err(Error::refused(
                Refusal::ServerTooOld,
                explanation,
                vec!["-- upgrade the server".into()],
            ));
        }
        refuse_pooling(session.client(), site).await?;
        let mut table = Table::find(session.client(), &wish.table).await?;
        table.probe_equality(session.client()).await?;
        let wish = wish.spell_out(session.client(), &table).await?;
        let statements = Statements::write(&wish, &table)?;
        let undone = wish.is_undone_by_itself(session.client(), &table).await?;
        let claims = query.is_some_and(|(_, claims)| *claims);
        let query = match query {
            Some((query, _)) => Some(named(session.client(), query, &statements.inputs).await?),
            None => None,
        };
        if let (true, Some(query)) = (claims, &query) {
            refuse_locks(session.client(), query).await?;
        }
        let labor = TableUpdate {
            statements,
            keys: wish.key.len(),
            dry: self.dry_run,
            // Others may claim what a crash takes back before it is looked at again.
            may_be_repeated: undone && !self.dry_run && !claims,
            claims: query.clone().filter(|_| claims),
        };
        // What the server thinks of the statements is known before the first chunk.
        let prepared = labor.prepare(session.client()).await;
        prepared.map_err(|failure| Error::sql("preparing the update", failure))?;
        Ok((session, labor, query))
    }

    async fn open(source: Source, inputs: &[String], keys: usize) -> Result<Option<Opened>, Error> {
        Ok(match source {
            Source::File(path) => Some(Opened::file(&path, inputs, keys).await?),
            Source::Reader(reader) => Some(Opened::reader(reader, inputs, keys).await?),
            Source::Stdin => Some(Opened::reader(Box::new(std::io::stdin()), inputs, keys).await?),
            Source::Rows(rows) => Some(Opened::rows(rows, inputs.len())),
            Source::Query(_) | Source::Claims(_) => None,
        })
    }

    /// Fetches the keys; a connection that is lost meanwhile costs only the query.
    async fn spool(&self, mut session: Session, query: &str, inputs: &[String]) -> Result<Spool, Error> {
        let backoff = Backoff::up_to(self.options.retry_delay);
        let mut tries = 0;
        loop {
            match Spool::fill(session.client(), query, inputs).await {
                Ok(spool) => return Ok(spool),
                Err(failure) if failure.is_retryable() && tries < self.options.max_attempts => {
                    tries += 1;
                    tracing::debug!(error = %failure, "the query for the keys is tried again");
                    sleep(backoff.delay(tries, fastrand::f64())).await;
                    session = open_session(&self.site, &self.options).await?;
                }
                Err(failure) => return Err(Error::sql("the query for the keys", failure)),
            }
        }
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

/// The same words as of an execution, but for what was asked for and is not there: that is refused.
fn why_never_began(error: &Error, options: &Options) -> FailReason {
    if options.stop.is_cancelled() {
        FailReason::Interrupted
    } else if error.is_configuration() {
        FailReason::Refused
    } else {
        fail_reason(error)
    }
}

/// The first session, as patiently as any later one.
async fn open_session(site: &Site, options: &Options) -> Result<Session, Error> {
    let deadline = Instant::now() + options.reconnect_wait;
    let backoff = Backoff { first: Duration::from_millis(50), cap: Duration::from_secs(5) };
    let mut failures = 0;
    loop {
        let failure: Failure =
            match Session::open(&site.endpoint, &format!("headcount:{}", options.task)).await {
                Ok(session) => match keep_exact(session.client()).await {
                    Ok(()) => return Ok(session),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
        failures += 1;
        let pause = backoff.delay(failures, fastrand::f64());
        // A server that refuses connections from the start is more likely a wrong address.
        let hopeless = failure.sqlstate().is_none() || !failure.is_retryable();
        if hopeless || options.stop.is_cancelled() || Instant::now() + pause >= deadline {
            return Err(Error::connect(site.endpoint.describe(), failure));
        }
        sleep(pause).await;
    }
}

/// Refuses a proxy that gives each transaction another backend: the statements that a session prepared may be
/// another's there, of the same name. A proxy that has no backend to spare for the question cannot be asked.
async fn refuse_pooling(client: &Client, site: &Site) -> Result<(), Error> {
    if !Pooling::of(client, &site.endpoint).await.is_ok_and(Pooling::shares_backends) {
        return Ok(());
    }
    Err(Error::refused(
        Refusal::PooledConnection,
        format!(
            "a proxy at {} pools transactions or statements, and an update prepares its statements in a session",
            site.endpoint.describe()
        ),
        vec!["-- let --dsn lead to the server itself, or to a pool with pool_mode = session".to_owned()],
    ))
}

/// What a run works on.
struct Supply<T> {
    feed: Feed<T>,
    /// How many items, where that is known.
    total: Option<u64>,
    /// Whether reading on to the end is quick.
    countable: bool,
    rejects: Option<Rejects>,
    dry_run: bool,
    keys: usize,
}

/// Begins, lets the workers work, and closes the books.
async fn work_off<L: Labor>(
    labor: &L,
    site: &Site,
    options: &Options,
    books: &Books,
    supply: Supply<L::Item>,
) -> Updated {
    let Supply { feed, total, countable, rejects, dry_run, keys } = supply;
    let span = tracing::Span::current();
    books.begin(options.connections, total, rejects);
    // Stops at the caller's word, and at ours.
    let halt = options.stop.child_token();
    let shop = Shop {
        labor,
        feed: &feed,
        books,
        endpoint: &site.endpoint,
        server: &site.server,
        task: &options.task,
        span: &span,
        stop: &halt,
        sizer: options.sizer(),
        max_attempts: options.max_attempts,
        retry: Backoff::up_to(options.retry_delay),
        reconnect_wait: options.reconnect_wait,
        keys,
    };
    join_all((0..options.connections).map(|_| Worker::new(&shop).run())).await;
    let exhausted = feed.is_exhausted().await;
    let left = if countable || exhausted { Some(feed.left(countable).await) } else { None };
    books.close(exhausted, left, dry_run)
}
