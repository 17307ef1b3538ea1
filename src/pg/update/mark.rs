//! What the fate of a chunk's transaction will be known by.

use tokio_postgres::{Client, Row};

use crate::decide::update::life::Mark;
use crate::pg::Failure;
use crate::pg::life::may_mark;

impl Mark {
    /// From a column with the id and, behind a blank, the position, as far as there are any.
    pub(super) fn of(row: &Row, column: usize) -> Result<Self, Failure> {
        let text = row.try_get::<_, Option<&str>>(column)?.unwrap_or_default();
        let (xid, position) = text.split_once(' ').unwrap_or((text, ""));
        let xid = Some(xid).filter(|xid| !xid.is_empty()).map(id).transpose()?;
        Ok(Self { xid, written: position.parse().ok() })
    }

    /// Of the current transaction, whatever it did: it is given an id and, where the role `may_write` it, a message in the
    /// log, whose position is told. Fails if the transaction is aborted, where COMMIT itself would roll back and not
    /// say so.
    pub(crate) async fn make(client: &Client, may_write: bool) -> Result<Self, Failure> {
        const BOTH: &str = "SELECT pg_catalog.pg_current_xact_id()::text || ' ' \
                            || pg_catalog.pg_logical_emit_message(true, 'headcount', '')::text";
        const ID: &str = "SELECT pg_catalog.pg_current_xact_id()::text";
        let rows = client.query_typed(if may_write { BOTH } else { ID }, &[]).await?;
        rows.first().map_or_else(|| Ok(Self::default()), |row| Self::of(row, 0))
    }

    /// Whether the role may write a message into the log.
    pub(crate) async fn may_write(client: &Client) -> Result<bool, Failure> {
        let rows = client.query_typed(may_mark!(), &[]).await?;
        rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
    }
}

/// A transaction's id.
pub(super) fn id(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| Failure::client("the server gave a transaction no id that is a number"))
}
