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

/// How transactions are seen to be pooled where there is no backend for a second session.
pub(super) const NONE_TO_SPARE: &str = "a session waits for the backend of another one";

const PROBE: &str = "headcount:probe";

/// What a proxy pools, and how that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Nothing: the session has a backend of its own. There may be no proxy.
    Nothing,
    Transactions(&'static str),
    Statements(&'static str),
}

impl Pooling {
    /// Whether the backend of a session at rest may be another's as well.
    pub(crate) fn shares_backends(self) -> bool {
        self != Self::Nothing
    }

    /// Opens a session and asks it.
    pub(crate) async fn at(endpoint: &Endpoint) -> Result<Self, Failure> {
        let (first, _driver) = endpoint.open(PROBE).await?;
        Self::of(&first, endpoint).await
    }

    /// Asks a session that is at rest.
    ///
    /// # Errors
    /// As of a server that is full (53300) where a proxy has no backend to spare for the question: it may pool
    /// sessions, and have few.
    pub(crate) async fn of(first: &Client, endpoint: &Endpoint) -> Result<Self, Failure> {
        let full = |_| Failure::found("53300", "a proxy has no backend to spare");
        let mine = timeout(PATIENCE, backend(first)).await.map_err(full)??;
        if backend_key::process_id(first).await == Some(mine) {
            return Ok(Self::Nothing);
        }
        let mut begun = Vec::new();
        for patience in BESIDE {
            let (session, other) = match timeout(patience, begin(endpoint)).await.map_err(full) {
                Ok(Ok(begun)) => begun,
                Ok(Err(failure)) if failure.refuses_to_begin() => {
                    return Ok(Self::Statements("no transaction can begin"));
                }
                // None to spare for another doubt.
                _ if !begun.is_empty() => return Ok(Self::Nothing),
                Ok(Err(failure)) | Err(failure) => return Err(failure),
            };
            begun.push(session);
            // While the transactions are open.
            let Ok(again) = timeout(PATIENCE, backend(first)).await else {
                return Ok(Self::Transactions(NONE_TO_SPARE));
            };
            if mine == other {
                return Ok(Self::Transactions("two sessions were given the same backend"));
            }
            if again? != mine {
                return Ok(Self::Transactions("a session was given another backend"));
            }
        }
        Ok(Self::Nothing)
    }
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
