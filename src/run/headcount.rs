//! The handle of a batch process: a server, a monitor connection, observers.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::job::Job;
use super::monitor::{Monitor, Tries};
use super::update::{Batch, Site, Update};
use super::updater;
use crate::error::Error;
use crate::event::{Observer, Observers};
use crate::pg::connect::Endpoint;
use crate::pg::session::Session;
use crate::settings::Settings;
use crate::telemetry::spans::Server;

/// A server to run batch work on. Clones are cheap and share one monitor connection.
///
/// If the future of a job is dropped, or the last clone, running statements are cancelled;
/// [`shutdown`](Self::shutdown) waits until that is done. It needs a tokio runtime with time and I/O enabled.
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
    /// Whether a proxy that pools transactions lies before it, once somebody looked.
    pub(crate) pooled: OnceLock<bool>,
    pub(crate) observers: Observers,
    pub(crate) tracker: TaskTracker,
    keep: usize,
    idle: Mutex<Vec<Session>>,
}

/// The options of a [`Headcount`]; made by [`Headcount::builder`].
pub struct Builder {
    endpoint: Endpoint,
    monitor: Option<Endpoint>,
    defaults: bool,
    keep: usize,
    within: Option<Duration>,
    attempts: u32,
    retry_delay: Duration,
    task: Option<Arc<str>>,
    observers: Vec<Arc<dyn Observer>>,
}

impl Headcount {
    /// Connects the monitor to a server. `dsn` is a connection string, URL or keyword/value pairs, as for `psql`.
    ///
    /// # Errors
    /// A configuration error that says what is wrong with the connection string, or a connection error. Neither
    /// contains the password.
    pub async fn connect(dsn: &str) -> Result<Self, Error> {
        Self::builder(Endpoint::from_dsn(dsn)?).connect().await
    }

    /// Starts a [`Builder`], to connect with more options.
    #[must_use]
    pub const fn builder(endpoint: Endpoint) -> Builder {
        Builder {
            endpoint,
            monitor: None,
            defaults: true,
            keep: 0,
            within: None,
            attempts: 5,
            retry_delay: Duration::from_secs(2),
            task: None,
            observers: Vec::new(),
        }
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

    /// The server's `server_version_num` at the time of the connection: `130_023` is 13.23.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.inner.monitor.version.unsigned_abs()
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

    /// Removes the built-in observers: span attributes, log lines (`tracing`, target `headcount`) and metrics (the
    /// `metrics` recorder that is installed when [`connect`](Self::connect) is called).
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

    /// Sets the time limit for connecting; then [`connect`](Self::connect) returns a deadline error. Default: the
    /// endpoint's `connect_timeout`, 10 s per host.
    #[must_use]
    pub const fn connect_within(mut self, limit: Duration) -> Self {
        self.within = Some(limit);
        self
    }

    /// Sets how often to try to connect while the server has no free connection (SQLSTATE 53300, `max_connections`)
    /// or is starting (57P03), and the pause between tries, which is at most four times `retry_delay`. Default 5 and
    /// 2 s, as for [`Settings::max_attempts`] and [`Settings::retry_delay`]. A server that does not answer is tried
    /// once.
    #[must_use]
    pub const fn connect_attempts(mut self, attempts: u32, retry_delay: Duration) -> Self {
        self.attempts = attempts;
        self.retry_delay = retry_delay;
        self
    }

    /// Sets the task that events of the connection belong to ([`Event::StartHindered`](crate::Event)). Default
    /// `monitor`, because all tasks share the connection.
    #[must_use]
    pub fn connect_for(mut self, task: &str) -> Self {
        self.task = Some(task.into());
        self
    }

    /// Connects the monitor.
    ///
    /// # Errors
    /// A connection error.
    pub async fn connect(self) -> Result<Headcount, Error> {
        let mut observers = if self.defaults { updater::defaults() } else { Vec::new() };
        observers.extend(self.observers);
        let observers = Observers::new(observers);
        let apart = self.monitor.is_some();
        let watched = self.monitor.unwrap_or_else(|| self.endpoint.clone());
        let starting = async {
            let tries = Tries { most: self.attempts, retry_delay: self.retry_delay, task: self.task };
            let started = Monitor::start(watched.clone(), observers.clone(), tries).await;
            started.map_err(|error| if apart { error.blamed_on("--monitor-dsn") } else { error })
        };
        let monitor = match self.within {
            None => starting.await?,
            Some(limit) => {
                tokio::time::timeout(limit, starting).await.map_err(|_| Error::deadline(limit))??
            }
        };
        let server = updater::server(&self.endpoint);
        let inner = Inner {
            server,
            endpoint: self.endpoint,
            monitor,
            watched,
            pooled: OnceLock::new(),
            observers,
            tracker: TaskTracker::new(),
            keep: self.keep,
            idle: Mutex::default(),
        };
        Ok(Headcount { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("server", &self.endpoint.describe()).finish_non_exhaustive()
    }
}
