//! Whether a proxy gives the transactions of one session to several backends.
//!
//! It hides well: one idle client gets the same backend every time. So other sessions are begun beside the first one,
//! and hold a transaction open; meanwhile the first one is asked for its backend again. With one of its own it cannot have
//! changed, and nobody else can have it, not even in between: a backend counts its transactions. So a session that waits
//! in vain for a backend while the first one rests proves that the first one keeps its own. Only simple queries are
//! sent: prepared ones would fail there first.
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
    /// sessions, and have few, or transactions, and be busy. That is no answer.
    pub(crate) async fn of(first: &Client, endpoint: &Endpoint) -> Result<Self, Failure> {
        let full = |_| Failure::found("53300", "a proxy has no backend to spare");
        let mut mine = timeout(PATIENCE, turn(first)).await.map_err(full)??;
        if backend_key::process_id(first).await == Some(mine.backend) {
            return Ok(Self::Nothing);
        }
        let mut begun = Vec::new();
        for patience in BESIDE {
            let other = match timeout(patience, begin(endpoint)).await {
                Ok(Ok((session, other))) => {
                    begun.push(session);
                    Some(other)
                }
                Ok(Err(failure)) if failure.refuses_to_begin() => {
                    return Ok(Self::Statements("no transaction can begin"));
                }
                Ok(Err(failure)) => return Err(failure),
                // It still waits for a backend, or has just got one: that of the first, if it could.
                Err(_) => None,
            };
            // While the transactions are open.
            let Ok(again) = timeout(PATIENCE, turn(first)).await else {
                if begun.is_empty() {
                    return Err(Failure::found("53300", "a proxy has no backend to spare"));
                }
                return Ok(Self::Transactions(NONE_TO_SPARE));
            };
            let again = again?;
            if other == Some(mine.backend) {
                return Ok(Self::Transactions("two sessions were given the same backend"));
            }
            if again.backend != mine.backend {
                return Ok(Self::Transactions("a session was given another backend"));
            }
            if again.number != mine.number.wrapping_add(1) {
                return Ok(Self::Transactions("another session was given the backend in between"));
            }
            if other.is_none() {
                return Ok(Self::Nothing);
            }
            mine = again;
        }
        Ok(Self::Nothing)
    }
}

/// A session in a transaction, and its backend.
async fn begin(endpoint: &Endpoint) -> Result<(Client, i32), Failure> {
    let (client, _driver) = endpoint.open(PROBE).await?;
    client.batch_execute("BEGIN").await?;
    let backend = turn(&client).await?.backend;
    Ok((client, backend))
}

/// A transaction: whose, and how many its backend has had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    backend: i32,
    number: u32,
}

/// Each backend counts its transactions (manual, "Transactions and Identifiers"): the number is that of the virtual id.
const TURN: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT pg_catalog.pg_backend_pid(), split_part(virtualtransaction, '/', 2) FROM pg_catalog.pg_locks
WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'virtualxid' AND granted LIMIT 1",
);

async fn turn(client: &Client) -> Result<Turn, Failure> {
    let messages = client.simple_query(TURN).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some(Turn { backend: row.get(0)?.parse().ok()?, number: row.get(1)?.parse().ok()? })
        }
        _ => None,
    });
    row.ok_or_else(|| Failure::client("the server did not say which backend this is"))
}
