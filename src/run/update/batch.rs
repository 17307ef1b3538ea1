//! Chunked work by a caller's own closure.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::chunk_work::Closure;
use super::item_source::ItemSource;
use super::options::{ChunkSize, Options, shared_options};
use super::totals::RunTotals;
use super::{Site, Supply, work_off};
use crate::decide::update::replay::Replay;
use crate::error::{Error, Source};
use crate::report::Updated;
use crate::telemetry::spans;

/// Runs your own closure on chunks of items, one transaction per chunk. Retries, lost connections and lost answers to
/// COMMIT are handled as in an [`Update`](super::Update).
///
/// ```no_run
/// # async fn job(headcount: &headcount::Headcount) -> Result<(), headcount::Error> {
/// use futures_util::{FutureExt, stream};
///
/// let invoices = stream::iter(1..=10_000_i64);
/// headcount.batch("invoices").run(invoices, |client, ids| {
///     async move {
///         client.execute("INSERT INTO sent SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING", &[&ids]).await.map(drop)
///     }
///     .boxed()
/// }).await?.complete()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Batch {
    site: Site,
    options: Options,
    replay: Replay,
}

impl Batch {
    pub(crate) fn new(site: &Site, task: &str) -> Self {
        Self { site: site.for_writing(), options: Options::new(task), replay: Replay::Unsafe }
    }

    shared_options!();

    /// Declares that the closure can safely run twice on the same items (it is idempotent), as with `INSERT ... ON
    /// CONFLICT DO NOTHING`, or an `UPDATE` that compares with the expected values. Then a chunk whose outcome is unknown
    /// is retried ([`InDoubt::reread`](crate::InDoubt::reread)).
    ///
    /// Off by default, because other work would be done twice. It is rarely needed: only if the answer to a COMMIT is
    /// lost and the server lost its record of it, too, in a crash or a failover.
    #[must_use]
    pub const fn replayable(mut self) -> Self {
        self.replay = Replay::Safe;
        self
    }

    /// Calls `work` once per chunk and attempt, inside a transaction that it must neither commit nor roll back. In the
    /// report, all items of a committed chunk count as `updated`.
    ///
    /// Side effects outside the transaction are repeated with each attempt. If the outcome of a chunk is unknown, its
    /// items fail ([`InDoubt::unresolved`](crate::InDoubt::unresolved)), unless the work is
    /// [`replayable`](Self::replayable).
    ///
    /// # Errors
    /// A bad option. Errors of the closure do not end the run: a chunk is retried if the chain of causes has a transient
    /// `tokio_postgres::Error`. Otherwise it is split, until the items that cause the failure stand alone and count as
    /// `failed`.
    pub async fn run<I, T, F, E>(&self, items: I, work: F) -> Result<Updated, Error>
    where
        I: Stream<Item = T> + Send + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a Client, &'a [T]) -> BoxFuture<'a, Result<(), E>>,
        E: Into<Source>,
    {
        self.options.validate()?;
        let work = Closure { work, replay: self.replay, types: PhantomData };
        let supply = Supply {
            source: ItemSource::stream(Box::pin(items.map(Ok)), size_of_val),
            total: None,
            countable: false,
            rejects: None,
            keys: 0,
        };
        let span = spans::update(&self.options.task);
        let stop = self.options.stop.child_token();
        let options = Options { stop, ..self.options.clone() };
        let working = async {
            let totals = RunTotals::open(&options.task, self.site.observers.clone(), false, Vec::new());
            // On the heap: the caller's own future stays small.
            let working = Box::pin(work_off(&work, &self.site, &options, &totals, supply));
            options.in_time(working, |limit| totals.deadline_passed(limit)).await
        };
        Ok(working.instrument(span).await)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("options", &self.options).finish_non_exhaustive()
    }
}
