//! Whether a proxy gives the transactions of one session to several backends.
//!
//! It hides well: one idle client gets the same backend every time. So a second session is begun beside the first one,
//! and holds a transaction open; meanwhile the first one is asked for its backend again. With one of its own it cannot have
//! changed, and nobody else can have it. Only simple queries are sent: prepared ones would fail there first.
//!
//! Where the session's key names the backend that answers ([`backend_key`]), nobody
//! lends backends, and a second session is not needed.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::Endpoint;
use super::{Failure, backend_key};

/// How long a session behind a proxy may wait for a backend before that is taken for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

const PROBE: &str = "headcount:probe";

/// Opens a session and asks [`shares_its_backend`].
pub(crate) async fn shares_backends(endpoint: &Endpoint) -> Result<bool, Failure> {
    let (first, _driver) = endpoint.open(PROBE).await?;
    shares_its_backend(&first, endpoint).await
}

/// Whether the backend of this session, at rest, may be another's as well: a proxy pools transactions, or statements.
///
/// # Errors
/// As of a server that is full (53300) where a proxy has no backend to spare for the question: it may pool
/// sessions, and have few.
pub(crate) async fn shares_its_backend(first: &Client, endpoint: &Endpoint) -> Result<bool, Failure> {
    let full = |_| Failure::found("53300", "a proxy has no backend to spare");
    let mine = timeout(PATIENCE, backend(first)).await.map_err(full)??;
    if backend_key::process_id(first).await == Some(mine) {
        return Ok(false);
    }
    let second = async {
        let (second, _driver) = endpoint.open(PROBE).await?;
        second.batch_execute("BEGIN").await?;
        let other = backend(&second).await?;
        Ok((second, other))
    };
    match timeout(PATIENCE, second).await.map_err(full)? {
        // While the transaction is open.
        Ok((_begun, other)) => match timeout(PATIENCE, backend(first)).await {
            Ok(again) => Ok(mine == other || again? != mine),
            Err(_) => Ok(true),
        },
        Err(failure) if Failure::refuses_to_begin(&failure) => Ok(true),
        Err(failure) => Err(failure),
    }
}

async fn backend(client: &Client) -> Result<i32, Failure> {
    let messages = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    row.ok_or_else(|| Failure::client("the server did not say which backend this is"))
}
