//! A chunk that is updated as a whole or not at all, for a COMMIT that does not wait for the answer.

use futures_util::future::{join, try_join};
use tokio_postgres::{Client, Statement};

use super::chunk::{Rows, columns, one};
use super::mark::id;
use super::statement::{BEGIN, Statements};
use crate::decide::update::survival::Lsn;
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
    pub(crate) async fn begin(&self, client: &Client) -> Result<u64, Failure> {
        // Polled in order: BEGIN is sent first.
        let (began, row) = join(client.batch_execute(BEGIN), client.query_one(&self.id, &[])).await;
        began?;
        id(row?.try_get(0)?)
    }

    /// Updates the rows of all keys; fails ([`PARTED`](crate::decide::update::gate::PARTED)) otherwise. Returns where the
    /// log is then, if that may be asked.
    pub(crate) async fn work(
        &self,
        client: &Client,
        sql: &Statements,
        rows: Rows<'_, '_>,
    ) -> Result<Option<Lsn>, Failure> {
        let every: Vec<usize> = (0..rows.len()).collect();
        let row = one(client, &self.work, &columns(rows, &every, sql), sql).await?;
        Ok(row.try_get::<_, Option<&str>>(1)?.and_then(|position| position.parse().ok()))
    }
}
