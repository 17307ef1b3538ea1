//! Servers that tests share: one a version and configuration, started when first asked for.
//!
//! A static is never dropped, so nothing here stops them. The watchdog of a private server does: it
//! sees our end of a pipe close when this process ends, in whatever way, stops the server and removes
//! its folder.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use testkit::server::{Builder, PrivateServer};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::versions::programs;

/// Slots in the pool of the servers that tests fight over: one and a half times the usual target.
pub(crate) const POOL: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// As PostgreSQL comes.
    Plain,
    /// Any table is worth workers, and there are [`POOL`] of them.
    Scarce,
}

/// A server, and the turn that those who need its whole pool take.
pub(super) struct Shared {
    pub(super) server: PrivateServer,
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

type Cell = Arc<OnceCell<Shared>>;

static SERVERS: LazyLock<Mutex<HashMap<(u32, Kind), &'static Cell>>> = LazyLock::new(Mutex::default);

/// A shared server with PostgreSQL's own settings.
pub(crate) async fn plain_server(major: u32) -> &'static PrivateServer {
    &shared(major, Kind::Plain).await.server
}

/// The shared server whose pool is scarce.
pub(super) async fn scarce_server(major: u32) -> &'static Shared {
    shared(major, Kind::Scarce).await
}

/// The settings of a server whose pool is scarce.
pub(super) fn scarce(major: u32) -> Builder {
    PrivateServer::builder()
        .binaries(programs(major))
        .setting("shared_buffers", "16MB")
        .setting("autovacuum", "off")
        .setting("jit", "off")
        .setting("max_connections", "200")
        .setting("max_worker_processes", "24")
        .setting("max_parallel_workers", POOL.to_string())
        .setting("parallel_setup_cost", "0")
        .setting("parallel_tuple_cost", "0")
        .setting("min_parallel_table_scan_size", "0")
        .setting("min_parallel_index_scan_size", "0")
}

async fn shared(major: u32, kind: Kind) -> &'static Shared {
    let cell = *SERVERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry((major, kind))
        .or_insert_with(|| Box::leak(Box::default()));
    cell.get_or_init(|| async {
        let builder = match kind {
            Kind::Plain => PrivateServer::builder().binaries(programs(major)),
            Kind::Scarce => scarce(major),
        };
        let server = builder.start().await.unwrap_or_else(|error| panic!("{}", super::chain(&error)));
        Shared { server, turn: Arc::default() }
    })
    .await
}

/// A session of the test's own, past the library under test.
pub(crate) async fn client(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
