//! The handle of a batch process: a server, a monitor connection, observers.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::job::Job;
use super::monitor::{Monitor, Patience};
use super::update::{Batch, Site, Update};
use crate::error::Error;
use crate::event::{Event, Observer, Observers};
use crate::pg::connect::Endpoint;
use crate::pg::session::Session;
use crate::settings::Settings;
use crate::telemetry::spans::{Server, SpanAttributes};
use crate::telemetry::{Log, Metrics};

/// The patience of who connects before there is a job.
const PATIENCE: Patience = Patience { attempts: 5, retry_delay: Duration::from_secs(2) };

/// A server to run batch work on. Clones are cheap and share one monitor connection.
///
/// It connects when it is first used: a guarded query opens the monitor's connection and one of its own, an update
/// opens its own alone. [`connect`](Self::connect) connects the monitor at once, for a process that wants to know at its
/// start whether the server is there.
///
/// If the future of a job is dropped, or the last clone, running statements are cancelled;
/// [`shutdown`](Self::shutdown) waits until that is done. It needs a tokio runtime with time and I/O enabled.
///
/// ```no_run
/// # async fn job() -> Result<(), headcount::Error> {
/// let headcount = headcount::Headcount::connect("postgres://batch@localhost/sales").await?;
/// let rows = headcount.task("close_day").execute("INSERT INTO days SELECT * FROM closing", &[]).await?.required()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Headcount {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    /// The same, as span attributes name it.
    pub(crate) server: Server,
    pub(crate) monitor: Monitor,
    /// Where the monitor connects, and the sessions that hold slots.
    pub(crate) watched: Endpoint,
    /// Whether the caller named it, and it may lead elsewhere.
    apart: bool,
    /// Whether a proxy that pools transactions lies before it, once somebody looked.
    pub(crate) pooled: OnceLock<bool>,
    pub(crate) observers: Observers,
    pub(crate) tracker: TaskTracker,
    keep: usize,
    idle: Mutex<Vec<Session>>,
}

/// The options of a [`Headcount`]; made by [`Headcount::builder`].
///
/// ```no_run
/// # fn service() -> Result<(), headcount::Error> {
/// use headcount::{Headcount, server::Endpoint};
///
/// // A service keeps two sessions, and watches past its proxy.
/// let headcount = Headcount::builder(Endpoint::from_dsn("host=pooler dbname=sales")?)
///     .monitor(Endpoint::from_dsn("host=primary dbname=sales")?)
///     .keep_sessions(2)
///     .build();
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    endpoint: Endpoint,
    monitor: Option<Endpoint>,
    defaults: bool,
    keep: usize,
    observers: Vec<Arc<dyn Observer>>,
}

impl Headcount {
    /// Connects the monitor to a server. `dsn` is a connection string, URL or keyword/value pairs, as for `psql`.
    ///
    /// A server that has no free connection (SQLSTATE 53300) or is starting (57P03) is tried five times in about 10 s.
    ///
    /// # Errors
    /// A configuration error that says what is wrong with the connection string, or a connection error. Neither
    /// contains the password.
    pub async fn connect(dsn: &str) -> Result<Self, Error> {
        Self::builder(Endpoint::from_dsn(dsn)?).connect().await
    }

    /// Starts a [`Builder`], for more options.
    #[must_use]
    pub const fn builder(endpoint: Endpoint) -> Builder {
        Builder { endpoint, monitor: None, defaults: true, keep: 0, observers: Vec::new() }
    }

    /// Returns a job with this task name and the default options.
    #[must_use]
    pub fn task(&self, name: &str) -> Job {
        self.job(Settings::new(name))
    }

    /// Returns a job with these options, which are validated when it runs.
    #[must_use]
    pub fn job(&self, settings: Settings) -> Job {
        Job::new(self.inner.clone(), settings)
    }

    /// Returns a chunked update of this table: its name as in the catalog, or as in SQL (schema-qualified, quoted).
    #[must_use]
    pub fn update(&self, table: &str) -> Update {
        Update::new(&self.site(), table)
    }

    /// Returns a batch, which runs your own closure on chunks of items, under this task name.
    #[must_use]
    pub fn batch(&self, task: &str) -> Batch {
        Batch::new(&self.site(), task)
    }

    /// The server's `server_version_num` when the monitor connected, such as `130_023` for 13.23; `None` before.
    #[must_use]
    pub fn server_version(&self) -> Option<u32> {
        self.inner.monitor.has_connected().then(|| self.inner.monitor.version().unsigned_abs())
    }

    fn site(&self) -> Site {
        let Inner { endpoint, server, observers, .. } = &*self.inner;
        Site { endpoint: endpoint.clone(), server: server.clone(), observers: observers.clone() }
    }

    /// Waits until all dropped work is cancelled, rolled back and cleaned up, for at most `limit`. Returns whether
    /// it is.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.inner.tracker.close();
        tokio::time::timeout(limit, self.inner.tracker.wait()).await.is_ok()
    }
}

impl fmt::Debug for Headcount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Headcount").field("server", &self.inner.endpoint.describe()).finish_non_exhaustive()
    }
}

impl Inner {
    /// Whether the caller named where the monitor connects.
    pub(crate) const fn is_apart(&self) -> bool {
        self.apart
    }

    /// Connects the monitor, unless it has been connected before.
    pub(crate) async fn connect(&self, patience: Patience, say: impl FnMut(&Event)) -> Result<(), Error> {
        self.monitor.connect(patience, say).await.map_err(|failure| {
            let server = self.watched.describe();
            Error::connect(
                if self.apart { format!("the monitor's server, {server}") } else { server },
                failure,
            )
        })
    }

    /// A session that an earlier execution left in order.
    pub(crate) fn idle_session(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|session| !session.is_closed())
    }

    /// Whether sessions outlive the execution that opened them.
    pub(crate) const fn keeps_sessions(&self) -> bool {
        self.keep > 0
    }

    /// Takes a session back whose transaction is over.
    pub(crate) fn return_session(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.keep && !session.is_closed() {
            idle.push(session);
        }
    }
}

impl Builder {
    /// Sets another endpoint for the monitor: another role, or a direct connection past a proxy. It must lead to the
    /// same server, as a role that may see and cancel the statement.
    #[must_use]
    pub fn monitor(mut self, endpoint: Endpoint) -> Self {
        self.monitor = Some(endpoint);
        self
    }

    /// Adds an observer, which receives every event.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Adds these observers.
    #[must_use]
    pub fn observers(mut self, observers: impl IntoIterator<Item = Arc<dyn Observer>>) -> Self {
        self.observers.extend(observers);
        self
    }

    /// Removes the built-in observers: span attributes, log lines (`tracing`, target `headcount`) and metrics (the
    /// `metrics` recorder that is installed when [`build`](Self::build) or [`connect`](Self::connect) is called).
    #[must_use]
    pub const fn without_default_observers(mut self) -> Self {
        self.defaults = false;
        self
    }

    /// Keeps up to this many idle sessions for later executions. Default 0: each execution opens a session and closes
    /// it.
    ///
    /// A new session costs some milliseconds. A kept session carries over what outlives a transaction: temporary
    /// tables, session-level settings and locks that a statement or closure left behind.
    #[must_use]
    pub const fn keep_sessions(mut self, sessions: usize) -> Self {
        self.keep = sessions;
        self
    }

    /// The handle. Nothing is sent until it is used.
    #[must_use]
    pub fn build(self) -> Headcount {
        let mut observers: Vec<Arc<dyn Observer>> = Vec::new();
        if self.defaults {
            observers = vec![Arc::new(SpanAttributes), Arc::new(Log), Arc::new(Metrics::new())];
        }
        observers.extend(self.observers);
        let observers = Observers::new(observers);
        let endpoint = self.endpoint;
        let apart = self.monitor.is_some();
        let watched = self.monitor.unwrap_or_else(|| endpoint.clone());
        let server = Server {
            address: endpoint.host().to_owned(),
            port: endpoint.port(),
            namespace: endpoint.database().to_owned(),
        };
        let inner = Inner {
            server,
            endpoint,
            monitor: Monitor::new(watched.clone(), observers.clone()),
            watched,
            apart,
            pooled: OnceLock::new(),
            observers,
            tracker: TaskTracker::new(),
            keep: self.keep,
            idle: Mutex::default(),
        };
        Headcount { inner: Arc::new(inner) }
    }

    /// The same, and connects the monitor at once; see [`Headcount::connect`].
    ///
    /// # Errors
    /// A connection error.
    pub async fn connect(self) -> Result<Headcount, Error> {
        let headcount = self.build();
        let Inner { monitor, observers, .. } = &*headcount.inner;
        let hindered = |event: &Event| observers.observe(monitor.scope(), event);
        headcount.inner.connect(PATIENCE, hindered).await?;
        Ok(headcount)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("server", &self.endpoint.describe()).finish_non_exhaustive()
    }
}
