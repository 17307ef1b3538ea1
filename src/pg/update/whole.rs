//! A chunk that is updated as a whole or not at all, for a COMMIT that does not wait for the answer.

use futures_util::future::{join, try_join};
use tokio_postgres::{Client, Statement};

use super::chunk::{Rows, columns, one};
use super::statement::{PARTED, Statements};
use crate::pg::Failure;

/// The statements on one session.
#[derive(Debug)]
pub(crate) struct Whole {
    id: Statement,
    work: Statement,
}

impl Whole {
    /// Prepares them, where a key is known to have one row at most.
    pub(crate) async fn new(client: &Client, sql: &Statements) -> Result<Option<Self>, Failure> {
        let Some(whole) = &sql.whole else { return Ok(None) };
        let id = client.prepare("SELECT pg_catalog.pg_current_xact_id()::text");
        let (id, work) = try_join(id, client.prepare(whole)).await?;
        Ok(Some(Self { id, work }))
    }

    /// Opens a transaction; its id, which is answered before any work.
    pub(crate) async fn begin(&self, client: &Client) -> Result<String, Failure> {
        // Polled in order: BEGIN is sent first.
        let (began, row) = join(client.batch_execute("BEGIN"), client.query_one(&self.id, &[])).await;
        began?;
        Ok(row?.try_get(0)?)
    }

    /// Updates the rows of all keys; fails otherwise, see [`is_parted`].
    pub(crate) async fn work(
        &self,
        client: &Client,
        sql: &Statements,
        rows: Rows<'_, '_>,
    ) -> Result<(), Failure> {
        let every: Vec<usize> = (0..rows.len()).collect();
        one(client, &self.work, &columns(rows, &every, sql), sql).await.map(drop)
    }
}

/// Whether the work failed since not every key was there to be updated.
pub(crate) fn is_parted(failure: &Failure) -> bool {
    failure.sqlstate() == Some(PARTED)
}
