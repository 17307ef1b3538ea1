//! The fate of a transaction whose COMMIT was sent and whose answer was lost.
//!
//! The server remembers it: `pg_xact_status(xid8)` (13+; manual, "Transaction ID and Snapshot
//! Information Functions"). The id must be known before COMMIT is sent. It forgets with time (NULL),
//! and a standby promoted meanwhile may never have known: then the caller must look at its data. A crash
//! may even give the id to another transaction; see [`life`](super::life).

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::Failure;
use super::connect::Endpoint;
use super::life::LifeId;
use super::session::Session;
use crate::decide::backoff::Backoff;
use crate::decide::update::resolver::{Resolution, Status, resolved};

/// Between two questions about a transaction that is still in progress, or a server that is away.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(1) };

/// What a session says of its transaction when its work has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransactionState {
    /// Whether it is inside a transaction block.
    pub(crate) in_block: bool,
    /// The transaction's id; `None` if it wrote nothing.
    pub(crate) id: Option<String>,
    /// Whether its COMMIT waits for a synchronous standby.
    pub(crate) replicates: bool,
}

impl TransactionState {
    /// Asks the session. Fails inside a transaction that is aborted, where COMMIT itself would roll back and not say
    /// so.
    ///
    /// Outside a transaction block `now()` is `statement_timestamp()` (postgres.c); inside one it is earlier.
    /// tokio-postgres does not expose the transaction status that the protocol has.
    pub(crate) async fn of(client: &Client) -> Result<Self, Failure> {
        const ASK: &str = "SELECT pg_catalog.now() <> pg_catalog.statement_timestamp(), \
             pg_catalog.pg_current_xact_id_if_assigned()::text, \
             pg_catalog.current_setting('synchronous_standby_names') <> '' \
               AND pg_catalog.current_setting('synchronous_commit') NOT IN ('local', 'off')";
        let messages = client.simple_query(ASK).await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let field = |column| row.and_then(|row| row.get(column));
        Ok(Self {
            in_block: field(0) == Some("t"),
            id: field(1).map(str::to_owned),
            replicates: field(2) == Some("t"),
        })
    }
}

/// Asks for that transaction's fate on new sessions until it is known, at most `patience`. `life_id`: the
/// server's life (from one start to the next) in which the transaction id was assigned.
///
/// [`Resolution::Unresolved`] when the server does not know, or does not answer in time; or when it
/// crashed since, and "committed" may speak of another transaction that was given the same id.
pub(crate) async fn resolve(
    endpoint: &Endpoint,
    xid: &str,
    life_id: Option<&LifeId>,
    patience: Duration,
) -> Resolution {
    let deadline = Instant::now() + patience;
    let mut tries = 0;
    loop {
        match ask(endpoint, xid, life_id).await {
            Ok((says, is_same)) => {
                if let Some(resolution) = resolved(says, is_same) {
                    return resolution;
                }
            }
            Err(failure) if !failure.is_retryable() => return Resolution::Unresolved,
            Err(_) => {}
        }
        tries += 1;
        let delay = BACKOFF.delay(tries, fastrand::f64());
        if Instant::now() + delay >= deadline {
            return Resolution::Unresolved;
        }
        sleep(delay).await;
    }
}

/// The status, and whether the server has lived on since the id was given.
async fn ask(endpoint: &Endpoint, xid: &str, life_id: Option<&LifeId>) -> Result<(Status, bool), Failure> {
    let session = Session::open(endpoint, "headcount:in-doubt").await?;
    let now = LifeId::now(session.client()).await?;
    Ok((status(session.client(), xid).await?, life_id.is_some_and(|life_id| life_id.is_same(&now))))
}

/// What this server says of the transaction.
pub(crate) async fn status(client: &Client, xid: &str) -> Result<Status, Failure> {
    const STATUS: &str = "SELECT pg_catalog.pg_xact_status($1::text::xid8)";
    let answer = client.query_typed(STATUS, &[(&xid, Type::TEXT)]).await;
    let rows = match answer.map_err(Failure::from) {
        Ok(rows) => rows,
        // "transaction ID is in the future": a promoted standby that never heard of it.
        Err(failure) if failure.sqlstate() == Some("22023") => return Ok(Status::Unknown),
        Err(failure) => return Err(failure),
    };
    Ok(read(rows.first().and_then(|row| row.get(0))))
}

/// What this server says of each of these transactions.
///
/// # Errors
/// When the session is lost.
pub(crate) async fn statuses(client: &Client, xids: &[u64]) -> Result<Vec<Status>, Failure> {
    const STATUSES: &str = "SELECT pg_catalog.pg_xact_status(x.id::xid8) \
                            FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS x(id, n) ORDER BY x.n";
    let xids: Vec<String> = xids.iter().map(u64::to_string).collect();
    match client.query_typed(STATUSES, &[(&xids, Type::TEXT_ARRAY)]).await.map_err(Failure::from) {
        Ok(rows) => return Ok(rows.iter().map(|row| read(row.get(0))).collect()),
        Err(failure) if failure.is_connection_lost() => return Err(failure),
        Err(_) => {}
    }
    // One unknown id makes the whole query fail: ask one by one.
    let mut statuses = Vec::new();
    for xid in &xids {
        statuses.push(match status(client, xid).await {
            Ok(status) => status,
            Err(failure) if failure.is_connection_lost() => return Err(failure),
            Err(_) => Status::Unknown,
        });
    }
    Ok(statuses)
}

fn read(status: Option<&str>) -> Status {
    match status {
        Some("committed") => Status::Committed,
        Some("aborted") => Status::Aborted,
        Some(_) => Status::InProgress,
        None => Status::Unknown,
    }
}
