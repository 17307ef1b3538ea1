//! A test's place on a shared server: a schema of its own, and the whole pool while it lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use headcount::server::Endpoint;
use headcount::{Headcount, Job};
use testkit::server::PrivateServer;
use tokio::sync::OwnedMutexGuard;
use tokio_postgres::Client;

use super::servers::{client, scarce, scarce_server};
use super::{Hog, Recorder, eventually};

/// `t` and `sleepers` have a row a page, so that a scan spreads over its workers row by row. `nap`
/// sleeps for milliseconds and is true: as a scan's filter it makes a statement slow that costs no
/// processor time. (A body that runs commands may run in workers only if it is STABLE.)
const TABLES: &str = "
CREATE FUNCTION nap(id int, ms int) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1000
  AS 'BEGIN PERFORM pg_sleep(ms / 1000.0); RETURN true; END';
CREATE TABLE t (id int, grp int, pad char(600)) WITH (fillfactor = 10, parallel_workers = 16);
INSERT INTO t SELECT g, g % 5, 'x' FROM generate_series(1, 200) g;
CREATE TABLE sleepers (id int, pad char(600)) WITH (fillfactor = 10, parallel_workers = 16);
INSERT INTO sleepers SELECT g, 'x' FROM generate_series(1, 64) g;
CREATE TABLE log (what text, at timestamptz DEFAULT clock_timestamp()) WITH (parallel_workers = 0);
CREATE SEQUENCE calls;
ANALYZE t; ANALYZE sleepers;";

/// What is still there of our guarded queries: running statements, workers, locks on tables.
const LEFT_BEHIND: &str = "
SELECT count(*) FROM pg_stat_activity a
WHERE a.backend_type = 'parallel worker'
   OR a.application_name LIKE 'headcount:%' AND (a.state <> 'idle'
      OR EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation'))";

static SCHEMAS: AtomicU32 = AtomicU32::new(1);

enum Place {
    /// The pool is ours until this is dropped.
    Shared(&'static PrivateServer, #[expect(dead_code, reason = "held")] OwnedMutexGuard<()>),
    Own(PrivateServer),
}

/// The place, with a session of the superuser for questions and a recorder of events.
pub(crate) struct Bench {
    place: Place,
    pub(crate) schema: String,
    pub(crate) admin: Client,
    pub(crate) recorder: Arc<Recorder>,
}

impl Bench {
    /// On the shared server of this version, once it is our turn.
    pub(crate) async fn new(major: u32) -> Self {
        let shared = scarce_server(major).await;
        let turn = shared.turn.clone().lock_owned().await;
        let admin = client(&shared.server.dsn()).await;
        // A test that failed may have left sessions that still hold workers.
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        admin.query(others, &[]).await.unwrap();
        let alone = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'parallel worker')";
        let is_alone = async || admin.query_one(alone, &[]).await.unwrap().get::<_, i64>(0) == 0;
        eventually("the sessions of the test before are gone", is_alone).await;
        Self::furnish(Place::Shared(&shared.server, turn), admin).await
    }

    /// On a server of its own: for tests that restart it, or count all its sessions.
    pub(crate) async fn alone(major: u32) -> Self {
        Self::alone_with(major, &[]).await
    }

    /// The same with further settings.
    pub(crate) async fn alone_with(major: u32, settings: &[(&str, &str)]) -> Self {
        let builder =
            settings.iter().fold(scarce(major), |builder, (name, value)| builder.setting(*name, *value));
        let server = builder.start().await.unwrap();
        let admin = client(&server.dsn()).await;
        Self::furnish(Place::Own(server), admin).await
    }

    async fn furnish(place: Place, admin: Client) -> Self {
        let schema = format!("bench_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
        let bench = Self { place, schema, admin, recorder: Arc::default() };
        let setup = format!(
            "CREATE SCHEMA {0}; SET search_path = {0}; GRANT ALL ON SCHEMA {0} TO PUBLIC;",
            bench.schema
        );
        bench.run(&setup).await;
        bench.run(TABLES).await;
        bench.run(&format!("GRANT ALL ON ALL TABLES IN SCHEMA {} TO PUBLIC", bench.schema)).await;
        bench
    }

    /// A new session for questions, after the server was away.
    pub(crate) async fn reconnect(&mut self) {
        self.admin = self.client().await;
    }

    /// Where it stands.
    pub(crate) const fn server(&self) -> &PrivateServer {
        match &self.place {
            Place::Shared(server, _) => server,
            Place::Own(server) => server,
        }
    }

    /// The superuser, in the test's schema.
    pub(crate) fn dsn(&self) -> String {
        self.dsn_of("postgres", self.server().port())
    }

    /// A role, in the test's schema, through some port.
    pub(crate) fn dsn_of(&self, role: &str, port: u16) -> String {
        let schema = &self.schema;
        format!("postgresql://{role}@127.0.0.1:{port}/postgres?options=-csearch_path%3D{schema}")
    }

    /// A session of the test's own.
    pub(crate) async fn client(&self) -> Client {
        client(&self.dsn()).await
    }

    /// The library under test, with the recorder and nothing else listening.
    pub(crate) async fn headcount(&self) -> Headcount {
        self.headcount_at(&self.dsn(), &self.dsn()).await
    }

    /// The same with other roads to the server, for the leader and for the monitor.
    pub(crate) async fn headcount_at(&self, leader: &str, monitor: &str) -> Headcount {
        Headcount::builder(endpoint(leader))
            .keep_sessions(4)
            .monitor(endpoint(monitor))
            .without_default_observers()
            .observer(self.recorder.clone())
            .connect()
            .await
            .unwrap()
    }

    /// A job with target 4, minimum 2 and, unlike the defaults, at most half a second for admission.
    pub(crate) async fn job(&self) -> Job {
        quick(self.headcount().await.task("live"))
    }

    /// Takes `workers` slots of the pool.
    pub(crate) async fn hog(&self, workers: u32) -> Hog {
        Hog::start(self, workers, "DEFAULT").await
    }

    /// The same by a session with a ceiling of its own, whoever holds the pool.
    pub(crate) async fn hog_beyond_the_pool(&self, workers: u32) -> Hog {
        Hog::start(self, workers, "20").await
    }

    /// A role without any right, of this bench.
    pub(crate) async fn plain_role(&self) -> String {
        let role = format!("batch_{}", self.schema);
        self.run(&format!("CREATE ROLE {role} LOGIN")).await;
        role
    }

    /// Runs statements as the superuser.
    pub(crate) async fn run(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// One number from the superuser's session.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = self.admin.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        row.get(0)
    }

    /// Whether a table of this name is in the test's schema.
    pub(crate) async fn has(&self, table: &str) -> bool {
        self.number(&format!("SELECT count(*) FROM pg_class WHERE oid = to_regclass('{table}')")).await == 1
    }

    /// Whether [`TABLES`]' sequence was never called: nothing ran, not even to be rolled back.
    pub(crate) async fn nothing_ran(&self) -> bool {
        self.number("SELECT is_called::int::bigint FROM calls").await == 0
    }

    /// Nothing runs, waits or locks any more on behalf of a guarded query, and no worker is left.
    pub(crate) async fn nothing_is_left_behind(&self) {
        eventually("nothing is left behind", async || self.number(LEFT_BEHIND).await == 0).await;
    }
}

/// Half a second for admission: a test that starts into a full pool does not wait longer.
pub(crate) fn quick(mut job: Job) -> Job {
    job.settings_mut().admission_wait = std::time::Duration::from_millis(500);
    job.settings_mut().retry_delay = std::time::Duration::from_millis(50);
    job
}

/// An endpoint that sees nothing of the environment of whoever runs the tests.
pub(crate) fn endpoint(dsn: &str) -> Endpoint {
    Endpoint::resolve(Some(dsn), |_| None).unwrap()
}
