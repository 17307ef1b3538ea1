//! What comes before the first chunk: a session, the look-up of the table, the opening of the keys.
//!
//! Any of it may take long: a server that restarts, a lock on the table, a slow query for the keys, a pipe without a
//! line yet. None of it changes a row. So a run that is stopped breaks it off, where a chunk would be finished.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join3;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::chunk_work::TableUpdate;
use super::keys::{Opened, Source, Spool, Wanted, named};
use super::options::Options;
use super::totals::RunTotals;
use super::{Site, Update};
use crate::decide::backoff::Backoff;
use crate::error::{Error, Refusal};
use crate::event::Event;
use crate::fix::Fix;
use crate::pg::Failure;
use crate::pg::connect::Endpoint;
use crate::pg::pooling::Pooling;
use crate::pg::privileges::check_functions;
use crate::pg::session::{OLDEST, Session};
use crate::pg::silence;
use crate::pg::update::{Rights, Statements, Table, keep_exact, refuse, refuse_locks};

/// The first version with `client_connection_check_interval`.
const NOTICES_CUTS: i32 = 140_000;
/// Between two questions to a proxy that has no backend to spare.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long to wait until a request to cancel is on its way.
const CANCEL: Duration = Duration::from_secs(1);

/// What it takes to hear from a server whether it has a session to give.
const CONNECTING: Duration = Duration::from_millis(250);

/// Does the work unless the run is stopped, now or before: then the work is dropped, and there is `None`.
pub(super) async fn unless_stopped<T, E>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, E>>,
) -> Result<Option<T>, E> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(None),
        done = work => done.map(Some),
    }
}

/// Has the server cancel what a session waits for that is about to be dropped: it may notice that late by itself.
pub(super) async fn cancel(endpoint: &Endpoint, client: &Client) {
    if !matches!(timeout(CANCEL, endpoint.cancel(client)).await, Ok(Ok(()))) {
        tracing::debug!("the request to cancel was not delivered");
    }
}

impl Update {
    /// A session, what is to be done, and the query that keys come from, given that and whether they are claimed
    /// from it. Nothing is at stake yet, so a line that breaks is no reason to give up.
    pub(super) async fn ready(
        &self,
        totals: &RunTotals,
        query: Option<&(String, bool)>,
    ) -> Result<(Session, TableUpdate, Option<String>), Error> {
        let backoff = Backoff { first: Duration::from_millis(50), cap: Duration::from_secs(1) };
        // All tries together have no more time than one has.
        let deadline = Instant::now() + self.options.reconnect_wait;
        let (mut tries, mut known) = (0, false);
        loop {
            tries += 1;
            let pause = backoff.delay(tries, fastrand::f64());
            let ready = match open_session(&self.site, &self.options, totals, deadline, known).await {
                Ok(session) => {
                    known = true;
                    let (identity, owns_backend) = (session.identity, session.owns_backend);
                    tokio::select! {
                        biased;
                        found = self.look_up(session, query) => found,
                        lost = silence::lost_answer(&self.site.endpoint, identity), if owns_backend => {
                            Err(Error::sql("looking up the table", lost))
                        }
                    }
                }
                Err(error) => Err(error),
            };
            match ready {
                Err(error)
                    if error.is_connection_lost()
                        && tries < self.options.max_attempts
                        // A last try that is cut short would say nothing of why.
                        && Instant::now() + pause + CONNECTING < deadline =>
                {
                    tracing::debug!(%error, "the look-up is tried again");
                    sleep(pause).await;
                }
                ready => return ready,
            }
        }
    }

    async fn look_up(
        &self,
        session: Session,
        query: Option<&(String, bool)>,
    ) -> Result<(Session, TableUpdate, Option<String>), Error> {
        let Self { site, options, wish, .. } = self;
        // Before anything is set that may stay behind in another's session.
        refuse_pooling(&session, site, options).await?;
        let client = session.client();
        if session.version < OLDEST {
            let explanation =
                format!("the server is PostgreSQL {}; 13 is the oldest", session.version / 10_000);
            return Err(Error::refused(
                Refusal::ServerTooOld,
                explanation,
                vec![Fix::advice("upgrade the server")],
            ));
        }
        // What does not depend on each other's answer is asked together: the way may be long.
        let found =
            join3(keep_exact(client), check_functions(client), Table::find(client, &wish.table)).await;
        found.0.map_err(|failure| Error::sql("readying the session", failure))?;
        found.1?;
        let mut table = found.2?;
        let (incomparable, spelled_out, rights) = join3(
            table.incomparable(client),
            wish.spell_out(client, &table),
            Rights::of(client, wish, &table),
        )
        .await;
        table.compare_as_texts(&incomparable?);
        let (wish, rights) = (spelled_out?, rights?);
        rights.check(&table, self.dry_run)?;
        let statements = Statements::write(&wish, &table)?;
        let undone = wish.is_undone_by_itself(client, &table).await?;
        let claims = query.is_some_and(|(_, claims)| *claims);
        let query = match query {
            Some((query, _)) => Some(named(client, query, &statements.inputs).await?),
            None => None,
        };
        if let (true, Some(query)) = (claims, &query) {
            refuse_locks(client, query).await?;
        }
        // Others may claim what a crash takes back before it is looked at again.
        let may_be_lazy = undone && !self.dry_run && !claims;
        let work = TableUpdate {
            statements: if claims { statements.beside_a_query() } else { statements },
            keys: wish.key.len(),
            dry: self.dry_run,
            has_triggers: table.has_triggers.into(),
            may_be_lazy,
            // An older server does not notice that the line is cut while it waits for a lock: a COMMIT that has come
            // behind would stay in doubt for as long.
            may_go_ahead: may_be_lazy && session.version >= NOTICES_CUTS,
            claims: query.clone().filter(|_| claims),
            hides_rows: rights.hides_rows,
        };
        // What the server thinks of the statements is known before the first chunk. The session plans as it likes: it
        // may run the query for the keys, which may join as it likes.
        let prepared = work.statements(client).await;
        prepared.map_err(|failure| Error::sql("preparing the update", failure))?;
        Ok((session, work, query))
    }

    pub(super) async fn open(source: Source, wanted: &Wanted) -> Result<Option<Opened>, Error> {
        Ok(match source {
            Source::File(path) => Some(Opened::file(&path, wanted).await?),
            Source::Reader(reader) => Some(Opened::reader(reader, wanted).await?),
            Source::Stdin => Some(Opened::stdin(wanted).await?),
            Source::Rows(rows) => Some(Opened::rows(rows, wanted.inputs.len()).await?),
            Source::Query(_) | Source::Claims(_) => None,
        })
    }

    /// Fetches the keys; a connection that is lost meanwhile costs only the query. `None` when the run is stopped.
    pub(super) async fn spool(
        &self,
        totals: &RunTotals,
        mut session: Session,
        query: &str,
        inputs: &[String],
    ) -> Result<Option<Spool>, Error> {
        let Self { site, options, .. } = self;
        let backoff = Backoff::up_to(self.options.retry_delay);
        let (mut tries, mut exact) = (0, true);
        loop {
            let filled = async {
                if !exact {
                    keep_exact(session.client()).await?;
                }
                Spool::fill(session.client(), query, inputs).await
            };
            let failure = match unless_stopped(&options.stop, filled).await {
                Ok(Some(spool)) => {
                    session.close().await;
                    return Ok(Some(spool));
                }
                Ok(None) => {
                    cancel(&site.endpoint, session.client()).await;
                    return Ok(None);
                }
                Err(failure) => failure,
            };
            if failure.sqlstate().is_none() && !failure.is_connection_lost() {
                return Err(Error::configuration("keys", failure.to_string()));
            }
            if !failure.is_retryable() || tries >= options.max_attempts {
                return Err(Error::sql("the query for the keys", failure));
            }
            tries += 1;
            tracing::debug!(error = %failure, "the query for the keys is tried again");
            let again = async {
                sleep(backoff.delay(tries, fastrand::f64())).await;
                open_session(site, options, totals, Instant::now() + options.reconnect_wait, true).await
            };
            let Some(opened) = unless_stopped(&options.stop, again).await? else { return Ok(None) };
            session = opened;
            exact = false;
        }
    }
}

/// A session, as patiently as any later one: a server may be restarting. `known`: it was reached before.
async fn open_session(
    site: &Site,
    options: &Options,
    totals: &RunTotals,
    deadline: Instant,
    known: bool,
) -> Result<Session, Error> {
    let backoff = Backoff { first: Duration::from_millis(50), cap: Duration::from_secs(5) };
    let began = Instant::now();
    let mut failures = 0;
    let mut last = None;
    loop {
        let name = format!("headcount:{}", options.task);
        let opened = timeout_at(deadline, Session::open(&site.endpoint, &name)).await;
        // A try that had no time left says nothing of why.
        let failure = match opened.unwrap_or_else(|_| Err(last.take().unwrap_or_else(Failure::no_answer))) {
            Ok(session) => return Ok(session),
            Err(failure) => failure,
        };
        if let Some(why) = failure.why_unfit() {
            let (server, why_not) = (site.endpoint.describe(), failure.message());
            let problem = format!("there is nothing to write to at {server}: {why_not}");
            return Err(refuse(why, problem, site.endpoint.user()));
        }
        failures += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        // A server that refuses connections from the start is more likely a wrong address.
        let hopeless = (failure.sqlstate().is_none() && !known) || !failure.is_retryable();
        match backoff.delay_within(left, failures, fastrand::f64()) {
            Some(pause) if !hopeless && !options.stop.is_cancelled() => {
                totals.observe(&Event::StartHindered { cause: failure.to_string(), waited: began.elapsed() });
                sleep(pause).await;
            }
            _ => return Err(Error::connect(site.endpoint.describe(), failure)),
        }
        last = Some(failure);
    }
}

/// Refuses a proxy that gives each transaction another backend: the statements that a session prepared may be
/// another's there, of the same name. One that has no backend to spare for the question is asked until it has, and in the
/// end refused as well.
async fn refuse_pooling(session: &Session, site: &Site, options: &Options) -> Result<(), Error> {
    if session.owns_backend {
        return Ok(());
    }
    let client = session.client();
    let deadline = Instant::now() + options.reconnect_wait;
    let server = site.endpoint.describe();
    let explanation = loop {
        match Pooling::of(client, &site.endpoint).await {
            Ok(pooling) if pooling.shares_backends() => {
                break format!(
                    "a proxy at {server} pools transactions or statements, and an update prepares its statements in a session"
                );
            }
            Ok(_) => return Ok(()),
            Err(failure) if client.is_closed() => return Err(Error::connect(server, failure)),
            Err(failure) if Instant::now() >= deadline => {
                break format!(
                    "a proxy at {server} has no backend to spare, so it cannot be told whether it pools transactions ({failure})"
                );
            }
            Err(failure) => tracing::debug!(error = %failure, "whether a proxy pools is asked again"),
        }
        sleep(ASK_AGAIN.min(deadline.saturating_duration_since(Instant::now()))).await;
    };
    let fix = Fix::advice(
        "set `endpoint` to connect to the server directly, or to a pool with pool_mode = session",
    );
    Err(Error::refused(Refusal::PooledConnection, explanation, vec![fix]))
}
