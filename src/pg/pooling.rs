//! Whether a proxy gives the transactions of one session to several backends.
//!
//! It hides well: one idle client gets the same backend every time. So other sessions are begun beside the first one,
//! and hold a transaction open; meanwhile the first one is asked for its backend again. With one of its own it cannot have
//! changed, and nobody else can have it. Only simple queries are sent: prepared ones would fail there first.
//!
//! Where the session's key names the backend that answers ([`backend_key`]), nobody lends backends, and no other
//! session is needed.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::Endpoint;
use super::{Failure, backend_key};

/// How long a session behind a proxy may wait for a backend before that is taken for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sessions that are begun beside the first one, and how long each may wait. One would do, if nobody else used
/// the backend of the first just then.
const BESIDE: [Duration; 3] = [PATIENCE, Duration::from_secs(1), Duration::from_secs(1)];

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
    let mut begun = Vec::new();
    for patience in BESIDE {
        let (session, other) = match timeout(patience, begin(endpoint)).await.map_err(full) {
            Ok(Ok(begun)) => begun,
            Ok(Err(failure)) if failure.refuses_to_begin() => return Ok(true),
            // None to spare for another doubt.
            _ if !begun.is_empty() => return Ok(false),
            Ok(Err(failure)) | Err(failure) => return Err(failure),
        };
        begun.push(session);
        // While the transactions are open.
        let Ok(again) = timeout(PATIENCE, backend(first)).await else { return Ok(true) };
        if mine == other || again? != mine {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A session in a transaction, and its backend.
async fn begin(endpoint: &Endpoint) -> Result<(Client, i32), Failure> {
    let (client, _driver) = endpoint.open(PROBE).await?;
    client.batch_execute("BEGIN").await?;
    let backend = backend(&client).await?;
    Ok((client, backend))
}

async fn backend(client: &Client) -> Result<i32, Failure> {
    let messages = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    row.ok_or_else(|| Failure::client("the server did not say which backend this is"))
}
