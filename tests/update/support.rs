//! A server for all tests of this binary, a database per test, and a line that can be cut.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount::event::{Observer, Scope};
use headcount::server::Endpoint;
use headcount::{Event, Headcount, Keys, Update, Updated};
use testkit::server::PrivateServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

use crate::versions::{main_version, programs};
pub(crate) use crate::versions::{on_each_version, on_oldest_and_latest};

pub(crate) type Server = Arc<PrivateServer>;

/// The servers of this process, by version. They outlive the tests; a watchdog
/// stops each with the process.
fn server(major: u32) -> Server {
    static SERVERS: Mutex<BTreeMap<u32, Server>> = Mutex::new(BTreeMap::new());
    let start = move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = PrivateServer::builder()
            .binaries(programs(major))
            .setting("max_connections", "200")
            .setting("deadlock_timeout", "100ms");
        Arc::new(runtime.block_on(server.start()).unwrap())
    };
    let mut servers = SERVERS.lock().unwrap();
    Arc::clone(servers.entry(major).or_insert_with(|| std::thread::spawn(start).join().unwrap()))
}

/// A database of one test's own, with a table `orders`.
pub(crate) struct Shop {
    pub(crate) server: Server,
    pub(crate) database: String,
    pub(crate) client: Client,
}

impl Shop {
    pub(crate) async fn with_orders(rows: u32) -> Self {
        Self::of_version(main_version(), rows).await
    }

    pub(crate) async fn of_version(major: u32, rows: u32) -> Self {
        Self::on(server(major), rows).await
    }

    pub(crate) async fn on(server: Server, rows: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let database = format!("shop_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        connect(&server.dsn()).await.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let client = connect(&server.dsn_for("postgres", &database)).await;
        let table = format!(
            "CREATE TABLE orders (id bigint PRIMARY KEY, status text, version int NOT NULL DEFAULT 0,
                                  region text DEFAULT 'eu');
             INSERT INTO orders SELECT g, 'new' FROM generate_series(1, {rows}) g"
        );
        client.batch_execute(&table).await.unwrap();
        Self { server, database, client }
    }

    pub(crate) fn dsn(&self) -> String {
        self.server.dsn_for("postgres", &self.database)
    }

    /// The same through a proxy.
    pub(crate) fn dsn_through(&self, proxy: &Proxy) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{}?sslmode=disable", proxy.port, self.database)
    }

    /// `orders` from `new` to `paid`, with a version.
    pub(crate) fn pay(&self) -> Update {
        pay(&self.dsn())
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn count(&self, condition: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM orders WHERE {condition}");
        self.client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) as u64
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

pub(crate) fn updater(dsn: &str, observers: Vec<Arc<dyn Observer>>) -> Headcount {
    let endpoint = Endpoint::resolve(Some(dsn), |_| None).unwrap();
    Headcount::builder(endpoint).without_default_observers().observers(observers).build()
}

pub(crate) fn pay(dsn: &str) -> Update {
    paying(updater(dsn, Vec::new()).update("orders"))
}

pub(crate) fn paying(update: Update) -> Update {
    update
        .key(["id"])
        .set("status", "paid")
        .expect("status", "new")
        .version("version")
        .retry_delay(Duration::from_millis(80))
}

/// Keys 1 to `last`.
pub(crate) fn ids(last: u32) -> Keys {
    Keys::rows(1..=last)
}

pub(crate) async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The same in a file, one a line.
pub(crate) fn key_file(last: u32) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for id in 1..=last {
        writeln!(file, "{id}").unwrap();
    }
    file
}

/// Classes in the order of the report.
pub(crate) fn classes(report: &Updated) -> [u64; 5] {
    [report.updated, report.already, report.stale, report.missing, report.failed]
}

/// Stops the update's own backends of one database.
pub(crate) fn kill(shop: &Shop) -> String {
    format!(
        "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity
         WHERE datname = '{}' AND application_name = 'headcount:update'",
        shop.database
    )
}

/// Polls a condition on the server until it holds; fails the test after a minute.
pub(crate) async fn eventually(client: &Client, condition: &str) {
    let patience = tokio::time::Instant::now() + Duration::from_mins(1);
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !client.query_one(condition, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(tokio::time::Instant::now() < patience, "never: {condition}");
        pace.tick().await;
    }
}

/// Keeps events, and wakes whoever waits for one.
#[derive(Default)]
pub(crate) struct Recorder {
    events: Mutex<Vec<Event>>,
    news: tokio::sync::Notify,
}

impl Recorder {
    pub(crate) fn count(&self, pick: impl Fn(&Event) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| pick(event)).count()
    }

    pub(crate) async fn until(&self, what: impl Fn(&Event) -> bool) {
        let wait = async {
            loop {
                let news = self.news.notified();
                if self.count(&what) > 0 {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), wait).await.expect("the event never came");
    }
}

impl Observer for Recorder {
    fn observe(&self, _: &Scope, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
        self.news.notify_waiters();
        self.news.notify_one();
    }
}

/// What a proxy does to the conversations that it carries.
pub(crate) enum Fate {
    /// As the test says meanwhile.
    Watched(watch::Sender<Carriage>),
    /// Cuts a connection after so many bytes in both directions together; one number per connection,
    /// none for those after.
    CutAfter(Mutex<Vec<i64>>),
    /// Loses all answers after so many bytes of them; the line stays open. Numbers as above.
    MuteAfter(Mutex<Vec<u64>>),
    /// Makes nonsense of one of these: of that number, from 1.
    Spoil(&'static [u8], AtomicU32),
    /// Cuts at the first COMMITs of chunks, so many of them: after the server has them, or before.
    CutAtCommit { left: AtomicU32, deliver: bool },
    /// Cuts each connection at its first COMMIT, a flush's, too, when the server has it.
    CutAtAnyCommit,
    /// Loses all answers from the first COMMITs of chunks on, so many of them; the line stays open.
    MuteAtCommit { left: AtomicU32 },
}

/// How a watched line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carriage {
    Good,
    /// Answers are lost.
    Mute,
    /// What there is breaks; what comes is good.
    Cut,
    /// The same, and the client is told so by an error that a server would not send: it says FATAL.
    CutWithAnExcuse,
    /// What there is breaks for the client, and the server does not hear of it; what comes is good.
    CutBehindTheServersBack,
}

/// A line to the server that can break.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    fate: Arc<Fate>,
    cuts: Arc<AtomicU32>,
    /// COMMITs of chunks that came along.
    commits: Arc<AtomicU32>,
}

impl Proxy {
    pub(crate) async fn start(server: &PrivateServer, fate: Fate) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (fate, target) = (Arc::new(fate), server.port());
        let (cuts, commits) = (Arc::default(), Arc::default());
        let proxy = Self { port, fate, cuts, commits };
        let (fate, cuts, commits) =
            (Arc::clone(&proxy.fate), Arc::clone(&proxy.cuts), Arc::clone(&proxy.commits));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (fate, cuts, commits) = (Arc::clone(&fate), Arc::clone(&cuts), Arc::clone(&commits));
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    carry(near, far, &fate, &cuts, &commits).await;
                });
            }
        });
        proxy
    }

    /// One whose line is good until the test says otherwise.
    pub(crate) async fn watched(server: &PrivateServer) -> Self {
        Self::start(server, Fate::Watched(watch::Sender::new(Carriage::Good))).await
    }

    pub(crate) fn becomes(&self, carriage: Carriage) {
        let Fate::Watched(state) = &*self.fate else { panic!("nobody watches this line") };
        state.send_replace(carriage);
    }

    /// How many COMMITs of chunks were sent.
    pub(crate) fn commits(&self) -> u32 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(crate) fn cuts(&self) -> u32 {
        self.cuts.load(Ordering::Relaxed)
    }
}

/// Carries bytes until either side ends or fate says so; then both sides are dropped.
async fn carry(mut near: TcpStream, mut far: TcpStream, fate: &Fate, cuts: &AtomicU32, commits: &AtomicU32) {
    near.set_nodelay(true).and(far.set_nodelay(true)).unwrap();
    let budget = match fate {
        Fate::CutAfter(cuts) => cuts.lock().unwrap().pop().unwrap_or(i64::MAX),
        _ => i64::MAX,
    };
    let audible = fate.audible();
    // Marked as seen: a cut is for what there is.
    let mut state = match fate {
        Fate::Watched(state) => Some(state.subscribe()),
        _ => None,
    };
    let answers = state.clone();
    let (budget, is_mute) = (AtomicI64::new(budget), AtomicBool::new(false));
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let up = async {
        let mut buffer = [0; 4096];
        // The end of what came before: words may lie across two reads.
        let mut before: Vec<u8> = Vec::new();
        loop {
            let Ok(length @ 1..) = near_read.read(&mut buffer).await else { return };
            if let Fate::Spoil(what, left) = fate
                && let Some(at) = buffer[..length].windows(what.len()).position(|window| window == *what)
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    == Ok(1)
            {
                buffer[at] = b'x';
            }
            let bytes = &buffer[..length];
            let said = [&before, bytes].concat();
            let ends = |what: &[u8]| ends_in(&said, before.len(), what);
            let seen = |what: &[u8]| ends(what).len() as u32;
            // A flush says what it is before it commits.
            commits.fetch_add(seen(COMMIT), Ordering::Relaxed);
            commits.fetch_sub(seen(MARK), Ordering::Relaxed);
            if let Fate::MuteAtCommit { left } = fate
                && !ends(COMMIT).is_empty()
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                cuts.fetch_add(1, Ordering::Relaxed);
                is_mute.store(true, Ordering::Relaxed);
            }
            if let (Fate::CutAtAnyCommit, Some(end)) = (fate, ends(COMMIT).first()) {
                cuts.fetch_add(1, Ordering::Relaxed);
                let _ = far_write.write_all(&bytes[..*end]).await;
                return;
            }
            if let Fate::CutAtCommit { left, deliver } = fate
                && let Some(end) = ends(COMMIT).first()
                // Not that of a flush.
                && ends(MARK).first().is_none_or(|mark| mark > end)
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                cuts.fetch_add(1, Ordering::Relaxed);
                if *deliver {
                    let _ = far_write.write_all(&bytes[..*end]).await;
                }
                return;
            }
            let kept = said.len().saturating_sub(MARK.len().max(COMMIT.len()) - 1);
            before = said[kept..].to_vec();
            if !pass(&mut far_write, bytes, &budget, cuts).await {
                return;
            }
        }
    };
    let down = async {
        let (mut buffer, mut heard) = ([0; 4096], 0);
        loop {
            let Ok(length @ 1..) = far_read.read(&mut buffer).await else { return };
            let is_watched_mute = answers.as_ref().is_some_and(|state| *state.borrow() == Carriage::Mute);
            heard += length as u64;
            if is_watched_mute || heard > audible || is_mute.load(Ordering::Relaxed) {
                continue;
            }
            if !pass(&mut near_write, &buffer[..length], &budget, cuts).await {
                return;
            }
        }
    };
    let cut = async {
        let Some(state) = &mut state else { return pending().await };
        loop {
            if state.changed().await.is_err() || !matches!(*state.borrow(), Carriage::Good | Carriage::Mute) {
                return;
            }
        }
    };
    // The side that ends first ends the conversation.
    tokio::select! {
        () = up => {}
        () = down => {}
        () = cut => {}
    }
    let last = state.map(|state| *state.borrow());
    match last {
        Some(Carriage::CutWithAnExcuse) => excuse(&mut near).await,
        Some(Carriage::CutBehindTheServersBack) => {
            drop(near);
            // Until the server ends it.
            let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
        }
        _ => {}
    }
}

impl Fate {
    /// How many bytes of answers arrive on the next connection.
    fn audible(&self) -> u64 {
        match self {
            Self::MuteAfter(bytes) => bytes.lock().unwrap().pop().unwrap_or(u64::MAX),
            _ => u64::MAX,
        }
    }
}

/// Where such words end, behind the first so many bytes.
fn ends_in(said: &[u8], before: usize, what: &[u8]) -> Vec<usize> {
    let first = (before + 1).saturating_sub(what.len());
    let windows = said[first..].windows(what.len()).enumerate();
    let found = windows.filter(|(_, window)| *window == what);
    found.map(|(at, _)| first + at + what.len() - before).collect()
}

/// An error that a server would not send.
async fn excuse(client: &mut TcpStream) {
    let fields = b"SERROR\0VERROR\0C08006\0Mserver connection lost\0\0";
    let mut message = vec![b'E'];
    message.extend(u32::to_be_bytes(fields.len() as u32 + 4));
    message.extend(fields);
    client.write_all(&message).await.unwrap();
}

/// The end of the simple query that commits, as it is on the wire.
const COMMIT: &[u8] = b"COMMIT\0";
/// The same of one that begins a transaction.
pub(crate) const BEGIN: &[u8] = b"BEGIN DEFERRABLE\0";
/// What a flush writes.
pub(crate) const MARK: &[u8] = b"pg_logical_emit_message(true";

async fn pass(
    to: &mut (impl AsyncWriteExt + Unpin),
    bytes: &[u8],
    budget: &AtomicI64,
    cuts: &AtomicU32,
) -> bool {
    let length = i64::try_from(bytes.len()).unwrap();
    let before = budget.fetch_sub(length, Ordering::Relaxed);
    let allowed = before.clamp(0, length) as usize;
    if allowed < bytes.len() && before > 0 {
        cuts.fetch_add(1, Ordering::Relaxed);
    }
    to.write_all(&bytes[..allowed]).await.is_ok() && allowed == bytes.len()
}
