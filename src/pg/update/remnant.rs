//! A session of ours whose connection broke, and that the server still has.
//!
//! The server may not have heard of it: somebody between keeps its side open, or swallows what would tell. Its transaction
//! stays, with locks on the very rows that are to be worked on again. Who has the same role may end it: that
//! one, by its pid and its start, and no other session that may have got the pid since.
//!
//! One that waits for a synchronous standby is left alone. Its commit would be answered without having waited, and that
//! answer is what the wait is for.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::pg::Failure;
use crate::pg::session::Identity;

/// As a rule it leaves at once, having done what it was told: a COMMIT may be among that.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(20);

/// Whom to end.
#[derive(Debug, Clone)]
pub(crate) struct Remnant {
    pub(crate) identity: Identity,
    /// Whether the backend is a proxy's, which may have given it to somebody else.
    pub(crate) lent: bool,
}

impl Remnant {
    /// Ends it, if it does not leave by itself. A lent one only if it is in the transaction of that id.
    pub(crate) async fn end(&self, client: &Client, xid: Option<u64>) -> Result<(), Failure> {
        const THERE: &str = concat!(
            "WITH ",
            serial!(),
            " SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = $1)"
        );
        let Identity { pid, started } = self.identity;
        for _ in 0..LOOKS {
            let rows = client.query_typed(THERE, &[(&pid, Type::INT4)]).await?;
            if !rows.first().is_some_and(|row| row.get(0)) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        let ours = match (self.lent, xid) {
            (false, _) => "true".to_owned(),
            // Ids in the view have 32 bits.
            (true, Some(xid)) => format!("backend_xid::text = '{}'", xid & 0xFFFF_FFFF),
            (true, None) => return Ok(()),
        };
        // The role that logged in owned the other session, too, whatever role either has taken since.
        let sql = format!(
            "BEGIN; SET LOCAL ROLE NONE; \
             SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
             WHERE pid = {pid} AND pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint = {started} \
               AND wait_event IS DISTINCT FROM 'SyncRep' AND {ours}; \
             ROLLBACK"
        );
        if let Err(error) = client.batch_execute(&sql).await {
            // It may not be ours to end.
            client.batch_execute("ROLLBACK").await?;
            tracing::debug!(error = %Failure::from(error), "the old session could not be ended");
        }
        Ok(())
    }
}
