//! Which value each connection parameter has, and whether it makes sense.
//!
//! All of it is decided before the first packet: a mistake can still be named by its parameter here,
//! while a server only ever says that it refuses. The password file comes last, and is asked for each
//! host by itself.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslNegotiation, TargetSessionAttrs};

use super::lookup::Lookup;
use super::passfile::{self, Wanted};
use super::tls;
use crate::Error;

/// Longest wait for a session where nothing else is said. libpq waits for ever, which no batch wants.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server to try.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name, an address, or a socket's folder (it starts with `/`).
    pub(crate) name: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) password: Option<String>,
}

impl Host {
    pub(crate) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

/// All parameters, each valid.
#[derive(Clone)]
pub(crate) struct Parameters {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) options: Option<String>,
    pub(crate) application_name: Option<String>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) session: TargetSessionAttrs,
    pub(crate) shuffle: bool,
    pub(crate) tls: tls::Options,
    pub(crate) negotiation: SslNegotiation,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) keepalive: Keepalive,
    /// What was found and is not used.
    pub(crate) warnings: Vec<String>,
}

/// How a dead network is noticed. The defaults do so within a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) on: bool,
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
    /// How long sent data may stay unacknowledged. `None`: the system's default, about 15 minutes.
    pub(crate) unacknowledged: Option<Duration>,
}

/// Resolves all parameters. Without a connection string: `DATABASE_URL`, else only the environment.
pub(crate) fn resolve(
    connection_string: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Parameters, Error> {
    let from_environment = || variable("DATABASE_URL").filter(|text| !text.is_empty());
    let text = connection_string.map(str::to_owned).or_else(from_environment).unwrap_or_default();
    let lookup = Lookup::new(&text, variable)?;
    let user = lookup.text("user").map_or_else(operating_system_user, Ok)?;
    let database = lookup.text("dbname").unwrap_or_else(|| user.clone());
    let mut hosts = hosts(&lookup)?;
    let password = lookup.text("password");
    let passfile = lookup.text("passfile").map(PathBuf::from).or_else(|| lookup.in_home(".pgpass"));
    let mut warnings = Vec::new();
    for host in &mut hosts {
        host.password = password.clone().or_else(|| {
            let name = if is_default_socket_folder(&host.name) { "localhost" } else { &host.name };
            let wanted = Wanted { host: name, port: host.port, database: &database, user: &user };
            passfile::password(passfile.as_deref()?, wanted, &mut warnings)
        });
    }
    let connect_timeout = match lookup.number::<i64>("connect_timeout")? {
        None => Some(CONNECT_TIMEOUT),
        Some(seconds) => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
    };
    check_ignored(&lookup)?;
    Ok(Parameters {
        hosts,
        user,
        database,
        options: lookup.text("options"),
        application_name: lookup
            .text("application_name")
            .or_else(|| lookup.text("fallback_application_name")),
        connect_timeout,
        session: lookup.choice(
            "target_session_attrs",
            &[
                ("any", TargetSessionAttrs::Any),
                ("read-write", TargetSessionAttrs::ReadWrite),
                ("read-only", TargetSessionAttrs::ReadOnly),
            ],
        )?,
        shuffle: lookup.choice("load_balance_hosts", &[("disable", false), ("random", true)])?,
        tls: tls_options(&lookup)?,
        negotiation: lookup.choice(
            "sslnegotiation",
            &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
        )?,
        channel_binding: lookup.choice(
            "channel_binding",
            &[
                ("prefer", ChannelBinding::Prefer),
                ("disable", ChannelBinding::Disable),
                ("require", ChannelBinding::Require),
            ],
        )?,
        keepalive: keepalive(&lookup)?,
        warnings,
    })
}

/// Parameters that are accepted where they ask for what happens anyway.
fn check_ignored(lookup: &Lookup<'_>) -> Result<(), Error> {
    if lookup.text("gssencmode").is_some_and(|mode| mode == "require") {
        return Err(Error::configuration("gssencmode", "`require` is not supported; TLS is, see sslmode"));
    }
    let utf8 = |name: &str| ["utf8", "utf-8", "unicode", "auto"].contains(&name.to_lowercase().as_str());
    if lookup.text("client_encoding").is_some_and(|name| !utf8(&name)) {
        return Err(Error::configuration("client_encoding", "only UTF8 is supported"));
    }
    Ok(())
}

fn hosts(lookup: &Lookup<'_>) -> Result<Vec<Host>, Error> {
    let list = |key| {
        let text: Option<String> = lookup.text(key);
        text.map(|text| text.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>())
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port").unwrap_or_default());
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if addresses.as_ref().is_some_and(|addresses| addresses.len() != count) {
        return Err(Error::configuration("hostaddr", "needs as many entries as `host`"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::configuration("port", "needs one entry, or as many as there are hosts"));
    }
    let host = |index: usize| {
        let port = ports.get(index).or(ports.first()).filter(|port| !port.is_empty());
        let port = port.map_or(Ok(5432), |port| match port.parse() {
            Ok(0) | Err(_) => Err(Error::configuration("port", "is a number from 1 to 65535")),
            Ok(port) => Ok(port),
        })?;
        let item = |list: &Option<Vec<String>>| {
            list.as_ref().and_then(|list| list.get(index)).filter(|item| !item.is_empty()).cloned()
        };
        let address = item(&addresses);
        let parsed = address.as_deref().map(str::parse).transpose();
        let parsed = parsed.map_err(|_| Error::configuration("hostaddr", "is a numeric IP address"))?;
        let name = item(&names).or(address).unwrap_or_else(|| default_host(port));
        Ok(Host { name, address: parsed, port, password: None })
    };
    (0..count).map(host).collect()
}

/// A socket's folder, where a server listens, else `localhost`.
fn default_host(port: u16) -> String {
    let listens = |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_FOLDERS.iter().find(listens).map_or("localhost", |folder| folder).to_owned()
}

/// Debian's and Red Hat's, then PostgreSQL's own.
const SOCKET_FOLDERS: &[&str] = &["/var/run/postgresql", "/tmp"];

fn is_default_socket_folder(name: &str) -> bool {
    SOCKET_FOLDERS.contains(&name)
}

fn operating_system_user() -> Result<String, Error> {
    whoami::username().map_err(|error| Error::other("no user given, and the system's cannot be read", error))
}

fn tls_options(lookup: &Lookup<'_>) -> Result<tls::Options, Error> {
    let roots = match lookup.text("sslrootcert") {
        Some(word) if word == "system" => tls::Roots::System,
        Some(file) => tls::Roots::File(file.into()),
        None => lookup.in_home(".postgresql/root.crt").map_or(tls::Roots::None, tls::Roots::File),
    };
    let mode = match lookup.text("sslmode") {
        Some(text) => tls::Mode::parse(&text)?,
        None if roots == tls::Roots::System => tls::Mode::VerifyFull,
        None => tls::Mode::Prefer,
    };
    let certificate =
        lookup.text("sslcert").map(PathBuf::from).or_else(|| lookup.in_home(".postgresql/postgresql.crt"));
    let key =
        lookup.text("sslkey").map(PathBuf::from).or_else(|| lookup.in_home(".postgresql/postgresql.key"));
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (Some(_), None) => return Err(Error::configuration("sslkey", "is needed with `sslcert`")),
        (None, _) => None,
    };
    Ok(tls::Options { mode, roots, identity })
}

fn keepalive(lookup: &Lookup<'_>) -> Result<Keepalive, Error> {
    Ok(Keepalive {
        on: lookup.number::<i32>("keepalives")?.is_none_or(|on| on != 0),
        idle: lookup.seconds("keepalives_idle", Duration::from_secs(30))?,
        interval: lookup.seconds("keepalives_interval", Duration::from_secs(10))?,
        count: lookup.number::<u32>("keepalives_count")?.filter(|count| *count > 0).unwrap_or(3),
        unacknowledged: match lookup.number::<u64>("tcp_user_timeout")? {
            None => Some(Duration::from_secs(30)),
            Some(0) => None,
            Some(milliseconds) => Some(Duration::from_millis(milliseconds)),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with(dsn: &str, environment: &[(&str, &str)]) -> Result<Parameters, Error> {
        let variable = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        resolve((!dsn.is_empty()).then_some(dsn), &variable)
    }

    /// `user@name:port/database`, hosts separated by commas.
    fn check(dsn: &str, environment: &[(&str, &str)], expected: &str) {
        let p = with(dsn, environment).unwrap_or_else(|error| panic!("{dsn}: {error}"));
        let hosts: Vec<_> = p.hosts.iter().map(|host| format!("{}:{}", host.name, host.port)).collect();
        assert_eq!(format!("{}@{}/{}", p.user, hosts.join(","), p.database), expected, "{dsn}");
    }

    fn private(folder: &Path, name: &str, text: &str) -> String {
        let file = folder.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    }

    #[test]
    fn the_string_comes_before_the_environment_and_fills_its_gaps_from_it() {
        let environment = [
            ("PGHOST", "e"),
            ("PGPORT", "1"),
            ("PGUSER", "eu"),
            ("PGDATABASE", "ed"),
            ("PGCONNECT_TIMEOUT", "3"),
        ];
        check("", &environment, "eu@e:1/ed");
        check("host=h", &environment, "eu@h:1/ed");
        check("postgresql://u@h:2/d", &environment, "u@h:2/d");
        check("postgresql://u@h:2", &[], "u@h:2/u");
        check("", &[("DATABASE_URL", "postgresql://u@h:2/d"), ("PGHOST", "e")], "u@h:2/d");
        check("host=s user=u", &[("DATABASE_URL", "postgresql://x@y/z")], "u@s:5432/u");
        check("user=u", &[("PGHOST", ""), ("PGHOSTADDR", "::1")], "u@::1:5432/u");
        assert_eq!(with("host=h", &environment).unwrap().connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(with("host=h", &[]).unwrap().connect_timeout, Some(CONNECT_TIMEOUT));
        assert_eq!(with("host=h connect_timeout=0", &[]).unwrap().connect_timeout, None);
    }

    #[test]
    fn several_hosts_share_one_port_or_have_one_each() {
        check("host=a,b user=u", &[], "u@a:5432,b:5432/u");
        check("host=a,b port=1 user=u", &[], "u@a:1,b:1/u");
        check("postgresql://u@a:1,b,[::1]:3/d", &[], "u@a:1,b:5432,::1:3/d");
        check("host=a,b hostaddr=10.0.0.1,10.0.0.2 user=u", &[], "u@a:5432,b:5432/u");
    }

    #[test]
    fn a_service_stands_between_the_string_and_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = private(folder.path(), "services", "[x]\nhost=sh\nuser=su\nport=7\n[y]\nhots=a\n");
        let environment =
            [("PGSERVICEFILE", file.as_str()), ("PGSERVICE", "x"), ("PGUSER", "eu"), ("PGDATABASE", "ed")];
        check("", &environment, "su@sh:7/ed");
        check("port=8", &environment, "su@sh:8/ed");
        check("service=x host=h", &environment[..1], "su@h:7/su");
        let error = with("service=y", &environment).err().unwrap().to_string();
        assert!(error.contains("`hots`"), "{error}");
        assert!(with("service=z", &environment).err().unwrap().to_string().contains("`z`"));
    }

    #[test]
    fn the_password_file_comes_last_and_each_host_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        private(folder.path(), ".pgpass", "a:*:*:*:pa\nlocalhost:*:*:*:local\n");
        let home = folder.path().display().to_string();
        let passwords = |dsn: &str, more: &[(&str, &str)]| -> Vec<Option<String>> {
            let environment: Vec<_> = [("HOME", home.as_str())].iter().chain(more).copied().collect();
            with(dsn, &environment).unwrap().hosts.into_iter().map(|host| host.password).collect()
        };
        assert_eq!(passwords("host=a,b user=u", &[]), [Some("pa".to_owned()), None]);
        assert_eq!(passwords("host=/tmp user=u", &[]), [Some("local".to_owned())]);
        assert_eq!(passwords("host=a user=u", &[("PGPASSWORD", "env")]), [Some("env".to_owned())]);
        assert_eq!(
            passwords("host=a user=u password=own", &[("PGPASSWORD", "env")]),
            [Some("own".to_owned())]
        );
        let other = private(folder.path(), "other", "*:*:*:*:elsewhere\n");
        assert_eq!(passwords("host=a user=u", &[("PGPASSFILE", &other)]), [Some("elsewhere".to_owned())]);
    }

    #[test]
    fn tls_follows_sslmode_and_the_files_in_the_home_folder() {
        use tls::{Mode, Roots};
        let options = |dsn: &str| with(dsn, &[]).unwrap().tls;
        assert_eq!(options("host=h").mode, Mode::Prefer);
        assert_eq!(options("host=h sslmode=allow").mode, Mode::Prefer);
        assert_eq!(options("host=h sslmode=verify-full").mode, Mode::VerifyFull);
        assert_eq!(options("host=h sslrootcert=system").mode, Mode::VerifyFull);
        assert_eq!(options("host=h sslrootcert=/r").roots, Roots::File("/r".into()));
        assert_eq!(options("host=h sslcert=/c sslkey=/k").identity, Some(("/c".into(), "/k".into())));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".postgresql")).unwrap();
        let file = private(&folder.path().join(".postgresql"), "root.crt", "");
        let home = folder.path().display().to_string();
        assert_eq!(with("host=h", &[("HOME", &home)]).unwrap().tls.roots, Roots::File(file.into()));
    }

    #[test]
    fn a_wrong_parameter_is_named_and_no_value_is_shown() {
        for (dsn, named) in [
            ("postgresql://u:hunter2@h/d?sslmod=require", "`sslmod`"),
            ("host=h password=hunter2 hunter2x=1", "a parameter"),
            ("host=h password=hunter2 sslmode=hunter2", "sslmode"),
            ("postgresql://u:hunter2@h:hunter2/d", "port"),
            ("host=h password=hunter2 port=0", "port"),
            ("host=a,b,c port=1,2 password=hunter2", "port"),
            ("host=h hostaddr=hunter2", "hostaddr"),
            ("host=a,b hostaddr=10.0.0.1", "hostaddr"),
            ("host=h password=hunter2 connect_timeout=hunter2", "connect_timeout"),
            (
                "host=h target_session_attrs=standby",
                "target_session_attrs: known here: any, read-write, read-only",
            ),
            ("host=h gssencmode=require", "gssencmode"),
            ("host=h client_encoding=LATIN1", "client_encoding"),
            ("host=h sslcert=/c", "sslkey"),
            ("host=h service=hunter", "service"),
        ] {
            let error = with(dsn, &[("PGUSER", "u")]).err().unwrap_or_else(|| panic!("{dsn} was accepted"));
            assert!(error.is_configuration());
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(named) && !shown.contains("hunter2"), "{dsn}: {shown}");
        }
    }
}
