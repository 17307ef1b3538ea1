//! A private PostgreSQL server, for a demo or a test.
//!
//! A claim about a database is worth what the real server says to it. So the demo and the tests start real
//! servers, each with the configuration that is needed:
//!
//! ```ignore
//! let server = PrivateServer::builder()
//!     .binaries(Binaries::version(15)?)
//!     .setting("max_parallel_workers", "6")
//!     .start()
//!     .await?;
//! println!("{}", server.dsn());
//! server.stop().await?;
//! ```
//!
//! What holds for every server started here:
//! - It listens on 127.0.0.1 and on a socket in its private folder, nowhere else.
//! - It is stopped, and its folder removed, when the value is dropped, when a test panics, and when
//!   this process is killed with SIGKILL: a small shell between us and the server sees to it.
//! - As root it runs under an unprivileged account, as PostgreSQL demands.
//! - Unless [`durable`](Builder::durable) is set it does not wait for disks. A crash of the machine
//!   would cost its data, which nobody will miss.

mod account;
mod binaries;
mod builder;
mod error;
mod template;
mod watchdog;

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use self::account::Account;
pub use self::binaries::Binaries;
pub use self::builder::Builder;
pub use self::error::Error;
use self::watchdog::Watchdog;

/// Longest start and longest orderly shutdown. Both take well under a second on an idle machine; crash
/// recovery after an immediate shutdown may take several.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a server is shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// Sessions are told to end (SQLSTATE 57P01), data is written.
    Fast,
    /// Like a crash: sessions are cut (57P02), and the next start recovers from the log.
    Immediate,
}

/// A running server of our own. Dropping it stops it, blocking for some tens of milliseconds.
pub struct PrivateServer {
    inner: Arc<Inner>,
}

struct Inner {
    binaries: Binaries,
    account: Account,
    folder: PathBuf,
    port: u16,
    password: Option<String>,
    run: Mutex<Run>,
}

/// The last postmaster started. It keeps its watchdog when it is gone, so that the folder is removed
/// whatever happens before the next one starts.
struct Run {
    watchdog: Watchdog,
    running: bool,
}

impl PrivateServer {
    /// Starts describing a server. Without further calls: the preferred binaries, PostgreSQL's default
    /// settings, no password, not durable, a free port.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The connection string of the superuser `postgres`, over TCP on loopback.
    #[must_use]
    pub fn dsn(&self) -> String {
        let password = self.inner.password.as_ref();
        let secret = password.map(|password| format!(":{}", encode(password))).unwrap_or_default();
        format!("postgresql://postgres{secret}@127.0.0.1:{}/postgres", self.port())
    }

    /// A connection string for another role and database. It carries no password: either the server
    /// trusts loopback, or the role's password is yours to add.
    #[must_use]
    pub fn dsn_for(&self, user: &str, database: &str) -> String {
        format!("postgresql://{}@127.0.0.1:{}/{}", encode(user), self.port(), encode(database))
    }

    /// The TCP port on 127.0.0.1. It stays the same across restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// The folder with the server's socket; usable as `host` in a connection string.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The major version, such as 18.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.inner.binaries.major()
    }

    /// The end of the server's log, at most 8 KiB.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.inner.folder)
    }

    /// Stops in good order, removes the folder, and waits for both.
    ///
    /// # Errors
    /// When the server does not end within a minute, even after an immediate shutdown.
    pub async fn stop(self) -> Result<(), Error> {
        let inner = self.inner;
        blocking(move || {
            inner.halt(Shutdown::Fast)?;
            drop(inner);
            Ok(())
        })
        .await
    }

    /// Stops and starts again, with the same port and data.
    ///
    /// # Errors
    /// As [`halt`](Self::halt) and [`resume`](Self::resume).
    pub async fn restart(&self, mode: Shutdown) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.halt(mode)?;
            inner.resume()
        })
        .await
    }

    /// Stops and keeps port and data for [`resume`](Self::resume). Returns when no process of the
    /// server is left; does nothing when it is not running.
    ///
    /// # Errors
    /// When the server does not end within a minute, even after an immediate shutdown.
    pub async fn halt(&self, mode: Shutdown) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.halt(mode)).await
    }

    /// Starts a halted server again. Returns when it accepts connections; does nothing when it runs.
    ///
    /// # Errors
    /// When it does not come up, for example because another program took the port; with the log's
    /// end as the cause.
    pub async fn resume(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.resume()).await
    }
}

impl Inner {
    fn halt(&self, mode: Shutdown) -> Result<(), Error> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if !run.running {
            return Ok(());
        }
        let signals: &[&str] = if mode == Shutdown::Fast { &["INT", "QUIT"] } else { &["QUIT"] };
        for signal in signals {
            let told = run.watchdog.signal(signal);
            told.map_err(|error| Error::failed("cannot signal the private server", error))?;
            if run.watchdog.ends_within(PATIENCE) {
                run.running = false;
                return Ok(());
            }
        }
        Err(Error::stuck("the private server does not shut down"))
    }

    fn resume(&self) -> Result<(), Error> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if run.running {
            return Ok(());
        }
        let next = boot(&self.binaries, &self.account, &self.folder);
        let next = next.map_err(|error| Error::failed("cannot start the private server again", error))?;
        let last = std::mem::replace(&mut run.watchdog, next);
        run.running = true;
        last.release().map_err(|error| Error::failed("cannot let go of the private server's last run", error))
    }
}

/// Starts a postmaster on a prepared folder and waits until it accepts connections.
fn boot(binaries: &Binaries, account: &Account, folder: &Path) -> Result<Watchdog, String> {
    let status = folder.join("data/postmaster.pid");
    // Nothing of an earlier run is alive; a file that it left behind must not pass for readiness.
    let _ = std::fs::remove_file(&status);
    let watchdog = Watchdog::start(account, &binaries.program("postgres"), folder);
    let mut watchdog = watchdog.map_err(|error| format!("cannot run /bin/sh: {error}"))?;
    let give_up = Instant::now() + PATIENCE;
    while !is_ready(&status) {
        let ended = watchdog.ends_within(Duration::from_millis(5));
        if ended || Instant::now() > give_up {
            let problem = if ended { "it ended at once" } else { "it is not ready after a minute" };
            let tail = log_tail(folder);
            if !ended && watchdog.signal("QUIT").is_ok() {
                watchdog.ends_within(PATIENCE);
            }
            // The folder stays: the caller may try again, or removes it itself.
            let _ = watchdog.release();
            return Err(format!("{problem}; its log ends with:\n{tail}"));
        }
    }
    Ok(watchdog)
}

/// The eighth line of `postmaster.pid` is the status that `pg_ctl` waits for, too.
fn is_ready(status: &Path) -> bool {
    std::fs::read_to_string(status)
        .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
}

fn log_tail(folder: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(folder.join("log"))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
        let mut tail = Vec::new();
        file.take(8192).read_to_end(&mut tail)?;
        Ok(tail)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Runs work that blocks aside from the runtime. It goes on to its end when the future is dropped, so
/// that a server half started is stopped in good order.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failed("work on the private server broke off", error)),
    }
}

impl fmt::Debug for PrivateServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateServer")
            .field("version", &self.inner.binaries.version_text())
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}
