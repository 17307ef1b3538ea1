//! A placeholder: a session whose statement sleeps in exactly one parallel worker, and so holds one slot of the pool. See
//! [`decide::gathering`](crate::decide::gathering).
//!
//! `debug_parallel_query` (before 16: `force_parallel_mode`) has the planner put a statement without anything to scan
//! below a Gather of one worker, which is not executed by the leader. Any role may set it. Where no slot is free, the
//! leader executes it itself: then it has no worker, and is ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Failure;
use super::connect::Endpoint;
use super::session::Identity;
use super::slots;

/// What a session needs to be one; what ends idle or long statements was switched off before.
const DISGUISE: &str = "\
SELECT pg_catalog.current_setting('max_worker_processes'), pg_catalog.set_config(CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000
                             THEN 'debug_parallel_query' ELSE 'force_parallel_mode' END, 'on', false),
       pg_catalog.set_config('max_parallel_workers_per_gather', '1', false)";

/// A session that holds a slot, or can.
#[derive(Debug)]
pub(crate) struct Placeholder {
    client: Arc<Client>,
    driver: JoinHandle<()>,
    pub(crate) identity: Identity,
    /// The size of the pool as it has it.
    pub(crate) pool: u32,
    /// How many processes the server may have beyond those of a full pool.
    pub(crate) beyond: u32,
    sleeping: Option<JoinHandle<()>>,
}

impl Placeholder {
    /// Connects. `label` is from [`holding`](super::label::holding).
    pub(crate) async fn open(endpoint: &Endpoint, label: &str) -> Result<Self, Failure> {
        let (client, driver) = endpoint.open(label).await?;
        let (identity, pool) = slots::prepare(&client).await?;
        let row = slots::one(&client, DISGUISE).await?;
        let processes = row.try_get(0).ok().flatten().and_then(|number| number.parse::<u32>().ok());
        let beyond = processes.unwrap_or(0).saturating_sub(pool);
        Ok(Self { client: Arc::new(client), driver, identity, pool, beyond, sleeping: None })
    }

    /// Sleeps, in a worker if a slot is free; for no longer than that, whatever becomes of us.
    pub(crate) fn hold(&mut self, at_most: Duration) {
        let (client, seconds) = (self.client.clone(), at_most.as_secs_f64());
        let sleep = async move {
            // It ends when it is cancelled.
            let _ = client.simple_query(&format!("SELECT pg_catalog.pg_sleep({seconds})")).await;
        };
        self.sleeping = Some(tokio::spawn(sleep));
    }

    /// Whether its statement runs, for all that is known here.
    pub(crate) fn is_asleep(&self) -> bool {
        self.sleeping.as_ref().is_some_and(|sleeping| !sleeping.is_finished())
    }

    /// Whether its connection is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits until its statement has ended.
    pub(crate) async fn woken(&mut self) {
        if let Some(sleeping) = &mut self.sleeping {
            let _ = sleeping.await;
        }
        self.sleeping = None;
    }
}

/// The connection is closed, whatever the server is still at: it notices that by itself (14 and later).
impl Drop for Placeholder {
    fn drop(&mut self) {
        if self.is_asleep() {
            self.driver.abort();
        }
    }
}
