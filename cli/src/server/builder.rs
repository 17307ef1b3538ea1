//! What a private server shall be like, and its first start.

use std::fmt::{self, Write as _};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::Error;
use super::account::Account;
use super::template::{self, run};
use super::{Binaries, Inner, PrivateServer, Run, blocking, boot};

/// Ports tried before giving up. Another process may take a port between our look and the server's.
const PORT_ATTEMPTS: u32 = 20;

/// Describes a [`PrivateServer`]; made by [`PrivateServer::builder`].
#[derive(Clone, Default)]
pub struct Builder {
    binaries: Option<Binaries>,
    settings: Vec<(String, String)>,
    access: Vec<String>,
    password: Option<String>,
    durable: bool,
    /// Certificate and key.
    tls: Option<(String, String)>,
    client_authority: Option<String>,
    port: Option<u16>,
    primary: Option<Arc<Inner>>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Which PostgreSQL to run. Default: [`Binaries::find`].
    #[must_use]
    pub fn binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// A line of `postgresql.conf`, such as `max_parallel_workers`. The last one of a name wins.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// A line of `pg_hba.conf`, placed before the default, which admits everyone from loopback (by
    /// password if there is one). The first line that fits a connection decides.
    #[must_use]
    pub fn access(mut self, rule: impl Into<String>) -> Self {
        self.access.push(rule.into());
        self
    }

    /// The superuser's password. With it, TCP connections of every role must prove theirs
    /// (SCRAM-SHA-256). Default: loopback is trusted.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Whether commits wait for the disk (`fsync`, `synchronous_commit`, `full_page_writes`), as they
    /// do in production. Default: no.
    #[must_use]
    pub const fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Offers TLS with this certificate (or chain) and private key, both PEM texts. Plain connections
    /// stay possible; `access` can refuse them.
    #[must_use]
    pub fn tls(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// The authority (PEM) that signs clients' certificates, for an `access` rule such as
    /// `hostssl all all 127.0.0.1/32 cert`. Has no effect without [`tls`](Self::tls).
    #[must_use]
    pub fn client_authority(mut self, certificate: impl Into<String>) -> Self {
        self.client_authority = Some(certificate.into());
        self
    }

    /// The TCP port. Default: a free one below the range that outgoing connections use.
    #[must_use]
    pub const fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// A hot standby of that server: a copy of it, made by `pg_basebackup`, that follows it by streaming
    /// (manual, "Hot Standby"). `SELECT pg_promote()` makes it a primary. Runs the primary's binaries and has
    /// its passwords; settings are its own. Default: a fresh primary.
    #[must_use]
    pub fn standby_of(mut self, primary: &PrivateServer) -> Self {
        let inner = Arc::clone(&primary.inner);
        self.binaries = Some(inner.binaries.clone());
        self.password.clone_from(&inner.password);
        self.primary = Some(inner);
        self
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Errors
    /// A configuration error when there are no binaries, or when the unprivileged account cannot
    /// reach them; otherwise with the end of the server's log as the cause.
    pub async fn start(self) -> Result<PrivateServer, Error> {
        let is_primary = self.primary.is_none();
        let server = blocking(move || self.start_blocking()).await?;
        if let Some(password) = server.inner.password.as_ref().filter(|_| is_primary) {
            set_password(&server, password).await?;
        }
        Ok(server)
    }

    fn start_blocking(self) -> Result<PrivateServer, Error> {
        let binaries = self.binaries.clone().map_or_else(Binaries::find, Ok)?;
        let account = Account::choose()?;
        check_reachable(&binaries, &account)?;
        let folder = Folder::create(&account)
            .map_err(|error| Error::failed("cannot make a temporary folder", error))?;
        match &self.primary {
            Some(primary) => copy(primary, &account, &folder.data())?,
            None => template::create(&binaries, &account, &folder.data())?,
        }

        for attempt in 1.. {
            let port = self.port.map_or_else(free_port, Ok);
            let port = port.map_err(|error| Error::failed("no free port on loopback", error))?;
            self.configure(&folder, &account, port)
                .map_err(|error| Error::failed("cannot write the private server's configuration", error))?;
            match boot(&binaries, &account, &folder.0) {
                Ok(watchdog) => {
                    let folder = folder.keep();
                    let run = Mutex::new(Run { watchdog, running: true });
                    let password = self.password;
                    let inner = Inner { binaries, account, folder, port, password, run };
                    return Ok(PrivateServer { inner: Arc::new(inner) });
                }
                Err(problem) => {
                    let taken = problem.contains("could not bind IPv4 address");
                    if !taken || self.port.is_some() || attempt >= PORT_ATTEMPTS {
                        return Err(Error::failed("cannot start the private server", problem));
                    }
                }
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Writes the files that PostgreSQL reads at its start; overwrites those of an earlier attempt.
    fn configure(&self, folder: &Folder, account: &Account, port: u16) -> io::Result<()> {
        let data = folder.data();
        let write = |name: &str, text: &str| {
            let path = data.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            account.own(&path)
        };
        if let Some((certificate, key)) = &self.tls {
            write("server.crt", certificate)?;
            write("server.key", key)?;
        }
        if let Some(authority) = &self.client_authority {
            write("root.crt", authority)?;
        }
        write("pg_hba.conf", &self.access_rules())?;
        write("headcount.conf", &self.settings_text(folder, port))?;
        if self.primary.is_some() {
            write("standby.signal", "")?;
        }
        let main = data.join("postgresql.conf");
        if !fs::read_to_string(&main)?.contains("headcount.conf") {
            OpenOptions::new().append(true).open(&main)?.write_all(b"\ninclude 'headcount.conf'\n")?;
        }
        Ok(())
    }

    fn access_rules(&self) -> String {
        let method = if self.password.is_some() { "scram-sha-256" } else { "trust" };
        let mut rules = self.access.join("\n");
        // The socket lies in a folder that only the account and root can enter.
        let _ = write!(
            rules,
            "\nlocal all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 {method}\n"
        );
        rules
    }

    fn settings_text(&self, folder: &Folder, port: u16) -> String {
        let port = port.to_string();
        let socket = folder.0.display().to_string();
        // Written here and not by `pg_basebackup`, which may be of a later version, and name options of that.
        let followed = self.primary.as_ref().map(|primary| {
            format!("host='{}' port={} user=postgres", primary.folder.display(), primary.port)
        });
        let mut all = vec![
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &socket),
            ("max_connections", "100"),
            ("password_encryption", "scram-sha-256"),
            ("logging_collector", "off"),
            ("log_line_prefix", "%m [%p] "),
        ];
        if let Some(primary) = &followed {
            all.push(("primary_conninfo", primary));
        }
        if !self.durable {
            all.extend([("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")]);
        }
        if self.tls.is_some() {
            all.push(("ssl", "on"));
        }
        if self.client_authority.is_some() {
            all.push(("ssl_ca_file", "root.crt"));
        }
        all.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        all.iter().fold(String::new(), |mut text, (name, value)| {
            let quoted = value.replace('\\', "\\\\").replace('\'', "''");
            let _ = writeln!(text, "{name} = '{quoted}'");
            text
        })
    }
}

/// A private folder that is removed unless a watchdog has taken it over.
struct Folder(PathBuf);

impl Folder {
    fn create(account: &Account) -> io::Result<Self> {
        let parent = account.temporary_folder();
        loop {
            let path = parent.join(format!("headcount-{:08x}", fastrand::u32(..)));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let folder = Self(path);
                    account.own(&folder.0)?;
                    return Ok(folder);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// The watchdog removes it from now on.
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A port that nobody listens on at this moment. It lies below the range from which the kernel takes
/// the ports of outgoing connections: while a server is down, a client that keeps trying could
/// otherwise take the server's port, or even connect to itself.
fn free_port() -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..100 {
        let port = fastrand::u16(15_000..32_000);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn check_reachable(binaries: &Binaries, account: &Account) -> Result<(), Error> {
    let program: &Path = &binaries.program("postgres");
    let ran = account.command(program).arg("--version").output();
    if ran.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    Err(Error::unusable(
        "server programs",
        format!(
            "`{}` cannot be run{}; move it to a folder that everyone may read, such as /opt",
            program.display(),
            account.suffix()
        ),
    ))
}

/// The server's own `pg_basebackup`, or that of a later version, which copies earlier servers, too (manual,
/// "`pg_basebackup`"): packages without client programs have none.
fn backup_program(server: &Binaries) -> PathBuf {
    let later = Binaries::all().into_iter().filter(|other| other.major() >= server.major());
    let mut all = std::iter::once(server.clone()).chain(later);
    let found = all.find_map(|other| Some(other.program("pg_basebackup")).filter(|path| path.exists()));
    found.unwrap_or_else(|| server.program("pg_basebackup"))
}

/// Copies a running server, over its socket, and has the copy follow it.
fn copy(primary: &Inner, account: &Account, data: &Path) -> Result<(), Error> {
    let mut command = account.command(&backup_program(&primary.binaries));
    command.args(["--username=postgres", "--checkpoint=fast", "--no-sync"]);
    command.arg("--host").arg(&primary.folder).arg(format!("--port={}", primary.port));
    run(command.arg("--pgdata").arg(data))
        .map_err(|problem| Error::failed(format!("pg_basebackup failed{}", account.suffix()), problem))
}

/// Over the socket, which needs no password. The statement does not reach the log.
async fn set_password(server: &PrivateServer, password: &str) -> Result<(), Error> {
    let doing = "setting the private server's password";
    let mut config = tokio_postgres::Config::new();
    config.host_path(server.socket_folder()).port(server.port()).user("postgres").dbname("postgres");
    let (client, connection) =
        config.connect(tokio_postgres::NoTls).await.map_err(|error| Error::failed(doing, error))?;
    let literal = password.replace('\\', "\\\\").replace('\'', "''");
    let statement = format!("ALTER ROLE postgres PASSWORD E'{literal}'");
    let work = async {
        let result = client.batch_execute(&statement).await;
        drop(client);
        result
    };
    let (result, _) = tokio::join!(work, connection);
    result.map_err(|error| Error::failed(doing, error))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("binaries", &self.binaries)
            .field("settings", &self.settings)
            .field("durable", &self.durable)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_the_account_cannot_run_are_an_error_that_says_so() {
        // Closed to everybody but us, like a root's home; a stranger cannot run what is in it.
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["postgres", "initdb"] {
            let program = home.path().join(name);
            fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 17.5'\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let binaries = Binaries::at(home.path()).unwrap();
        assert_eq!(binaries.major(), 17);
        let error = check_reachable(&binaries, &Account::stranger()).unwrap_err();
        assert!(error.is_configuration());
        assert!(error.to_string().contains("as user stranger"), "{error}");
    }

    #[test]
    fn settings_are_quoted_and_the_callers_come_last() {
        let builder = Builder::new().setting("fsync", "on").setting("a.b", r"it's \ here");
        let text = builder.settings_text(&Folder(PathBuf::new()), 15_000);
        assert!(text.ends_with("fsync = 'on'\na.b = 'it''s \\\\ here'\n"), "{text}");
        assert!(text.find("fsync = 'off'") < text.find("fsync = 'on'"));
    }
}
