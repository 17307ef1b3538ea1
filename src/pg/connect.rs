//! Where the server is, and how to reach it.
//!
//! People have their connections configured already: in `DATABASE_URL`, in libpq's variables, in a
//! service file, in a password file. A batch tool that reads only one of them makes them copy a
//! password to where it does not belong. So an [`Endpoint`] resolves all of them as libpq does, once, at
//! the edge, where a mistake can still be named; after that every session is opened from it.
//!
//! Hosts are tried one after the other by our own loop and not the driver's: each may have a password
//! of its own, and a timeout must cover a server that accepts and then says nothing.

use std::error::Error as StdError;
use std::fmt;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Connection, NoTls};

use super::heard::Heard;
use super::hosts::Host;
use super::parameters::{self, Parameters};
use super::session::Identity;
use super::session_attrs::{ServerState, Target};
use super::tls::{self, Mode};
use super::{Failure, libpq, silence};
use crate::Error;

/// A database to connect to, resolved and checked. Cheap to clone; printing it shows no password.
#[derive(Clone)]
pub struct Endpoint {
    parameters: Parameters,
    tls: Option<tls::Connector>,
}

/// What a server says about a session: see [`Endpoint::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerFacts {
    /// `server_version_num`: 150018 is 15.18.
    pub version_number: u32,
    /// `server_version`, for people.
    pub version: String,
    /// `current_user`.
    pub role: String,
    /// `current_database()`.
    pub database: String,
    /// Whether the session is encrypted (`pg_stat_ssl`; behind a proxy: the proxy's session).
    pub tls: bool,
}

impl ServerFacts {
    /// The major version, such as 18.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.version_number / 10_000
    }
}

impl Endpoint {
    /// From a connection string: a URL (`postgresql://...`) or `key=value` pairs. What it leaves open comes
    /// from the service that it names, libpq's variables, the password file and libpq's defaults.
    ///
    /// # Errors
    /// A configuration error that names the parameter, never its value.
    pub fn from_dsn(dsn: &str) -> Result<Self, Error> {
        check_environment()?;
        Self::resolve(Some(dsn), process_variable)
    }

    /// From `DATABASE_URL`, and what that leaves open, or everything, from libpq's variables (`PGHOST`,
    /// `PGSERVICE`, `PGSSLMODE`...), its files and its defaults.
    ///
    /// # Errors
    /// As [`from_dsn`](Self::from_dsn).
    pub fn from_environment() -> Result<Self, Error> {
        check_environment()?;
        Self::resolve(None, process_variable)
    }

    /// As the other two, with an environment of the caller's. `HOME` is read through it, too, and without one there
    /// is no home.
    ///
    /// # Errors
    /// As [`from_dsn`](Self::from_dsn).
    pub fn resolve(dsn: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let parameters = parameters::resolve(dsn, &variable)?;
        let tls = tls::connector(&parameters.tls)?;
        Ok(Self { parameters, tls })
    }

    /// `host:port/database`, or the socket's path; all hosts where there are several.
    #[must_use]
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.parameters.hosts.iter().map(Host::to_string).collect();
        format!("{}/{}", hosts.join(","), self.parameters.database)
    }

    /// What was found and is not used, a sentence each: a password file that others may read. They are logged,
    /// too (`tracing`); a program without a log should show them.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.parameters.warnings
    }

    /// The first host: a name, an address or a socket's folder.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.first().name
    }

    /// The first host's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.first().port
    }

    /// Whether there are more hosts to try than the first.
    #[must_use]
    pub const fn has_several_hosts(&self) -> bool {
        self.parameters.hosts.len() > 1
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.parameters.database
    }

    /// The role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.parameters.user
    }

    /// The same server and role, another database. A password that the password file gave for the first
    /// database is kept.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let mut other = self.clone();
        database.clone_into(&mut other.parameters.database);
        other
    }

    /// Opens a session, asks the server who it is, and closes the session again.
    ///
    /// # Errors
    /// When no session can be had ([`Error::is_connection_lost`]), or the server does not answer.
    pub async fn check(&self) -> Result<ServerFacts, Error> {
        let (client, driver) =
            self.open("headcount").await.map_err(|failure| Error::connect(self.describe(), failure))?;
        let answer = client.query_typed(FACTS, &[]).await;
        drop(client);
        let _ = driver.await;
        let answered = answer.map_err(Failure::from).and_then(|rows| {
            rows.into_iter().next().ok_or_else(|| Failure::client("the server answered without a row"))
        });
        let facts = answered.and_then(|row| {
            Ok(ServerFacts {
                version_number: row.try_get::<_, i32>(0)?.unsigned_abs(),
                version: row.try_get(1)?,
                role: row.try_get(2)?,
                database: row.try_get(3)?,
                tls: row.try_get(4)?,
            })
        });
        facts.map_err(|failure: Failure| Error::sql("asking the server for its version", failure))
    }

    /// Opens a session of the caller's own, with all that this endpoint knows of hosts, TLS and passwords.
    /// It ends when the client is dropped. Must be called inside a runtime, which drives it.
    ///
    /// # Errors
    /// When no session can be had ([`Error::is_connection_lost`]).
    pub async fn client(&self, application_name: &str) -> Result<Client, Error> {
        let opened = self.open(application_name).await;
        opened.map(|(client, _)| client).map_err(|failure| Error::connect(self.describe(), failure))
    }

    /// The same for work that writes: where nothing else was asked for, a server that only reads will not do, and of
    /// several hosts the one that writes is found.
    pub(crate) fn for_writing(&self) -> Self {
        let mut other = self.clone();
        if other.parameters.target == Target::Any {
            other.parameters.target = Target::ReadWrite;
        }
        other
    }

    /// Opens a session. The task drives it, logs its notices, and ends when the client is dropped or
    /// the connection breaks.
    pub(crate) async fn open(&self, application_name: &str) -> Result<(Client, JoinHandle<()>), Failure> {
        self.open_heard(application_name, &Heard::default()).await
    }

    /// The same for who wants to know what the server says beside its answers.
    /// What is asked on a session, whose key has this process id; a failure as of a lost line when the server must have
    /// answered and nothing has arrived.
    pub(crate) async fn unless_silent<T>(
        &self,
        key: Option<i32>,
        asked: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(pid) = key else { return asked.await };
        tokio::select! {
            biased;
            answer = asked => answer,
            lost = silence::lost_answer(self, Identity { pid, started: 0 }) => Err(lost),
        }
    }

    pub(crate) async fn open_heard(
        &self,
        application_name: &str,
        heard: &Heard,
    ) -> Result<(Client, JoinHandle<()>), Failure> {
        let Parameters { hosts, target, .. } = &self.parameters;
        let mut failures: Vec<(&Host, Failure)> = Vec::new();
        for round in target.rounds() {
            failures.clear();
            for host in hosts {
                // On the heap: who waits for a session stays small.
                match Box::pin(self.open_within_limit(host, application_name, *round, heard)).await {
                    Ok(session) => return Ok(session),
                    // As libpq: a server that was reached and rejects the login has the last word.
                    Err(failure) if failure.sqlstate().is_some_and(|code| code.starts_with("28")) => {
                        return Err(failure);
                    }
                    Err(failure) => {
                        tracing::debug!(%host, error = %failure, "no session on this host");
                        failures.push((host, failure));
                    }
                }
            }
        }
        let told: Vec<_> =
            failures.iter().map(|(host, failure)| format!("{host}: {}", failure.message())).collect();
        // All of them: one that cannot be reached may be the one that writes.
        let unfit = failures.iter().map(|(_, failure)| failure.why_unfit()).min().flatten();
        match failures.pop() {
            Some((_, only)) if !self.parameters.is_named && only.sqlstate().is_none() => {
                Err(only.saying(format!("{}; {UNNAMED}", told.join("; "))))
            }
            Some((_, only)) if told.len() == 1 => Err(only),
            Some((_, _)) if unfit.is_some() => Err(Failure::unfit(told.join("; "), unfit)),
            Some((_, last)) => Err(last.saying(told.join("; "))),
            None => Err(Failure::client("there is no host to connect to")),
        }
    }

    /// Asks the server, or a proxy, to cancel what a session of this endpoint runs, whichever backend serves it.
    /// The request names nothing but the session and may arrive late: nothing of worth may be sent on it after.
    pub(crate) async fn cancel(&self, client: &Client) -> Result<(), Failure> {
        self.cancel_by(&client.cancel_token()).await
    }

    /// The same for a session that somebody else has.
    pub(crate) async fn cancel_by(&self, token: &CancelToken) -> Result<(), Failure> {
        let asked = match &self.tls {
            Some(tls) => token.cancel_query(tls.make().0).await,
            None => token.cancel_query(NoTls).await,
        };
        asked.map_err(Failure::from)
    }

    async fn open_within_limit(
        &self,
        host: &Host,
        name: &str,
        target: Target,
        heard: &Heard,
    ) -> Result<(Client, JoinHandle<()>), Failure> {
        let opened = self.open_fit(host, name, target, heard);
        let Some(limit) = self.parameters.connect_timeout else { return opened.await };
        let expired = |_| Failure::lost(format!("{host} gave no session within {limit:?}"));
        tokio::time::timeout(limit, opened).await.map_err(expired)?
    }

    /// A session on a server that will do.
    async fn open_fit(
        &self,
        host: &Host,
        name: &str,
        target: Target,
        heard: &Heard,
    ) -> Result<(Client, JoinHandle<()>), Failure> {
        let Opened { client, driver, state } = self.open_on(host, name, heard).await?;
        if target == Target::Any {
            return Ok((client, driver));
        }
        let state = match state {
            Some(state) => state,
            None => ServerState::of(&client).await?,
        };
        match target.objection(state) {
            Some(objection) => Err(Failure::unfit(format!("this server {objection}"), target.unfit(state))),
            None => Ok((client, driver)),
        }
    }

    async fn open_on(&self, host: &Host, name: &str, heard: &Heard) -> Result<Opened, Failure> {
        let all = self.parameters.startup_options();
        match self.open_with(host, self.config(host, name, all.as_deref()), heard).await {
            Err(failure) if failure.refuses_options() && !self.parameters.settings.is_empty() => {}
            opened => return opened,
        }
        tracing::debug!(%host, "a proxy takes no options; the session's settings are set instead");
        let given = self.parameters.options.as_deref();
        let opened = self.open_with(host, self.config(host, name, given), heard).await?;
        self.set(&opened.client).await?;
        Ok(opened)
    }

    /// Sets what could not be said at the start. A proxy that pools transactions keeps track of these for each client,
    /// and of no others.
    async fn set(&self, client: &Client) -> Result<(), Failure> {
        for (setting, value) in &self.parameters.settings {
            if !["TimeZone", "DateStyle"].contains(setting) {
                return Err(Failure::client(format!(
                    "a proxy at this address takes no options, and {setting} cannot be set otherwise: unset its variable"
                )));
            }
            let given: [(&(dyn ToSql + Sync), Type); 2] = [(setting, Type::TEXT), (value, Type::TEXT)];
            client.query_typed("SELECT pg_catalog.set_config($1, $2, false)", &given).await?;
        }
        Ok(())
    }

    async fn open_with(&self, host: &Host, config: Config, heard: &Heard) -> Result<Opened, Failure> {
        // TLS does not apply to a socket of this machine, whatever sslmode says.
        let Some(tls) = self.tls.as_ref().filter(|_| !host.is_socket()) else {
            return open_plain(config, heard).await;
        };
        let (tls, asked) = tls.make();
        match config.connect(tls).await {
            Ok((client, connection)) => {
                asked.check().map_err(Failure::client)?;
                Ok(Opened::new(client, connection, heard))
            }
            Err(error) if self.parameters.tls.mode == Mode::Prefer && may_succeed_plain(&error) => {
                tracing::debug!(%host, "no session with TLS; trying without");
                open_plain(config, heard).await
            }
            Err(error) => match tls_cause(&error) {
                // Not a lost connection: the same certificate comes again.
                Some(cause) => Err(Failure::client(tls::explain(cause))),
                None => Err(error.into()),
            },
        }
    }

    fn config(&self, host: &Host, application_name: &str, options: Option<&str>) -> Config {
        let Parameters { user, database, negotiation, channel_binding, keepalive, .. } = &self.parameters;
        let mut config = Config::new();
        config
            .host(&host.name)
            .port(host.port)
            .user(user)
            .dbname(database)
            .application_name(application_name);
        if let Some(options) = options {
            config.options(options);
        }
        if let Some(address) = host.address {
            config.hostaddr(address);
        }
        if let Some(password) = &host.password {
            config.password(password);
        }
        config.ssl_negotiation(*negotiation).channel_binding(*channel_binding);
        config.ssl_mode(match self.parameters.tls.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        config
            .keepalives(keepalive.on)
            .keepalives_idle(keepalive.idle)
            .keepalives_interval(keepalive.interval);
        config.keepalives_retries(keepalive.count);
        if let Some(limit) = keepalive.unacknowledged {
            config.tcp_user_timeout(limit);
        }
        config
    }

    fn first(&self) -> &Host {
        // `resolve` yields at least one.
        &self.parameters.hosts[0]
    }
}

/// What is said where the default server is not there.
const UNNAMED: &str = "no server was named: give a connection string, or set DATABASE_URL or PGHOST";

/// Beside [`ServerFacts`], whose fields it fills in order.
const FACTS: &str = "SELECT pg_catalog.current_setting('server_version_num')::int4, pg_catalog.current_setting('server_version'), \
     current_user::text, current_database()::text, \
     coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";

async fn open_plain(mut config: Config, heard: &Heard) -> Result<Opened, Failure> {
    config.ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect(NoTls).await?;
    Ok(Opened::new(client, connection, heard))
}

/// A session, and what the server said of itself.
struct Opened {
    client: Client,
    driver: JoinHandle<()>,
    state: Option<ServerState>,
}

impl Opened {
    fn new<S, T>(client: Client, connection: Connection<S, T>, heard: &Heard) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let state = ServerState::reported(|name| connection.parameter(name));
        Self { client, driver: drive(connection, heard), state }
    }
}

fn drive<S, T>(mut connection: Connection<S, T>, heard: &Heard) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heard = heard.clone();
    tokio::spawn(async move {
        let reported = heard.clone();
        let mut messages = poll_fn(move |context| {
            let polled = connection.poll_message(context);
            reported.report(|name| connection.parameter(name));
            polled
        });
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => {
                    heard.notice(&notice);
                    tracing::debug!(
                        severity = notice.severity(),
                        notice = notice.message(),
                        "the server says"
                    );
                }
                Ok(_) => {}
                // Who waits for an answer is told by the client; here it is only a trace.
                Err(error) => {
                    tracing::debug!(error = %Failure::from(error), "session ended");
                    return;
                }
            }
        }
    })
}

/// Under `prefer`, as in libpq: the handshake failed, or `pg_hba.conf` admits this role only unencrypted.
fn may_succeed_plain(error: &tokio_postgres::Error) -> bool {
    tls_cause(error).is_some() || error.code().is_some_and(|code| code.code() == "28000")
}

fn tls_cause(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let io = error.source()?.downcast_ref::<std::io::Error>()?;
    io.get_ref()?.downcast_ref::<rustls::Error>()
}

/// As libpq has it: a variable, and where `HOME` is not set the folder that the system knows.
fn process_variable(name: &str) -> Option<String> {
    if name == "HOME" {
        return std::env::home_dir().and_then(|home| home.into_os_string().into_string().ok());
    }
    std::env::var(name).ok()
}

/// A variable that cannot be read must not count as one that is not set.
fn check_environment() -> Result<(), Error> {
    let unreadable = |name: &str| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    match libpq::variables().find(|name| unreadable(name)) {
        Some(name) => Err(Error::configuration(name, "is not UTF-8 and cannot be read")),
        None => Ok(()),
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("server", &self.describe())
            .field("user", &self.parameters.user)
            .field("tls", &self.parameters.tls.mode)
            .finish_non_exhaustive()
    }
}
