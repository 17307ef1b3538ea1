//! Which value each connection parameter has, and whether it makes sense.
//!
//! All of it is decided before the first packet: a mistake can still be named by its parameter here,
//! while a server only ever says that it refuses. The password file comes last, and is asked for each
//! host by itself.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use super::hosts::{self, Host, Password};
use super::lookup::Lookup;
use super::passfile::{self, Wanted};
use super::session_attrs::{self, Target};
use super::{libpq, tls};
use crate::Error;

/// Longest wait for a session where nothing else is said. libpq waits for ever, which no batch wants.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// All parameters, each valid.
#[derive(Clone)]
pub(crate) struct Parameters {
    /// Whether anybody said which server; else it is the default.
    pub(crate) is_named: bool,
    /// In the order in which they are tried.
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) options: Option<String>,
    /// Settings of the session that libpq has variables for.
    pub(crate) settings: Vec<(&'static str, String)>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) target: Target,
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
    if let Some(text) = connection_string {
        return read(&Lookup::new(text, variable)?);
    }
    let text = variable("DATABASE_URL").unwrap_or_default();
    let lookup = Lookup::new(&text, variable);
    read(&lookup.map_err(|error| if text.is_empty() { error } else { error.blamed_on("DATABASE_URL") })?)
}

fn read(lookup: &Lookup<'_>) -> Result<Parameters, Error> {
    let user = lookup.text("user").map_or_else(operating_system_user, Ok)?;
    let database = lookup.text("dbname").unwrap_or_else(|| user.clone());
    for (key, name) in [("user", &user), ("dbname", &database)] {
        let is_string = name.contains("://") || name.contains("password=");
        if is_string || name.split_once(':').is_some_and(|(_, after)| after.contains('@')) {
            return Err(lookup.wrong(
                key,
                "is a name; a whole connection string belongs in the connection string or DATABASE_URL",
            ));
        }
    }
    let mut hosts = hosts::read(lookup)?;
    let password = lookup.text("password").map(|password| Password(password.into_bytes()));
    let passfile = lookup.text("passfile").map(PathBuf::from).or_else(|| lookup.in_home(".pgpass"));
    let mut warnings = Vec::new();
    for host in &mut hosts {
        host.password = password.clone().or_else(|| {
            let (name, port) = (host.name_in_passfile(), host.port);
            let wanted = Wanted { host: name, port, database: &database, user: &user };
            passfile::password(passfile.as_deref()?, wanted, &mut warnings)
        });
    }
    if lookup.choice("load_balance_hosts", &[("disable", false), ("random", true)])? {
        // Once: all sessions of one endpoint are to meet on one server, as long as that is there.
        fastrand::shuffle(&mut hosts);
    }
    let connect_timeout = match lookup.number::<i64>("connect_timeout")? {
        None => Some(CONNECT_TIMEOUT),
        Some(seconds) => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
    };
    check_encoding(lookup)?;
    let tls = tls_options(lookup)?;
    let negotiation = lookup.choice(
        "sslnegotiation",
        &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
    )?;
    if negotiation == SslNegotiation::Direct && tls.mode < tls::Mode::Require {
        return Err(lookup.wrong("sslnegotiation", "`direct` needs sslmode=require or stronger"));
    }
    Ok(Parameters {
        is_named: ["host", "hostaddr", "service"].into_iter().any(|key| lookup.text(key).is_some()),
        hosts,
        user,
        database,
        options: lookup.text("options"),
        settings: settings(lookup),
        connect_timeout,
        target: lookup.choice("target_session_attrs", session_attrs::WORDS)?,
        tls,
        negotiation,
        channel_binding: lookup.choice(
            "channel_binding",
            &[
                ("prefer", ChannelBinding::Prefer),
                ("disable", ChannelBinding::Disable),
                ("require", ChannelBinding::Require),
            ],
        )?,
        keepalive: keepalive(lookup)?,
        warnings,
    })
}

impl Parameters {
    /// The session's settings from its start: those of `options`, then those that libpq has variables for, which come
    /// after them there, too.
    pub(crate) fn startup_options(&self) -> Option<String> {
        let mut options = self.options.clone().unwrap_or_default();
        for (setting, value) in &self.settings {
            let _ = write!(options, " -c {setting}=");
            for character in value.chars() {
                // The server takes the text apart at white space, and reads `\` before a literal character.
                if character.is_whitespace() || character == '\\' {
                    options.push('\\');
                }
                options.push(character);
            }
        }
        Some(options).filter(|options| !options.is_empty())
    }
}

fn settings(lookup: &Lookup<'_>) -> Vec<(&'static str, String)> {
    let given = libpq::SETTINGS.iter();
    given.filter_map(|(variable, setting)| Some((*setting, lookup.variable(variable)?))).collect()
}

/// Texts are UTF-8 here, whatever the terminal thinks.
fn check_encoding(lookup: &Lookup<'_>) -> Result<(), Error> {
    let Some(name) = lookup.text("client_encoding") else { return Ok(()) };
    let plain: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    if ["utf8", "unicode", "auto"].contains(&plain.as_str()) {
        return Ok(());
    }
    let problem = "texts are sent and read as UTF-8 here: convert files to it (iconv -f ... -t UTF-8), and set UTF8 or leave this out";
    Err(lookup.wrong("client_encoding", problem))
}

/// By the user database of the system, which containers often lack.
fn operating_system_user() -> Result<String, Error> {
    whoami::username().map_err(|_| {
        let problem = "no role is named, and this process's user has no name on this system: set PGUSER, or name the role in the connection string";
        Error::configuration("user", problem)
    })
}

fn tls_options(lookup: &Lookup<'_>) -> Result<tls::Options, Error> {
    use tls::{CertificateMode, Mode, Roots, Version};
    let file = |key, default| lookup.text(key).map(PathBuf::from).or_else(|| lookup.in_home(default));
    let roots = match lookup.text("sslrootcert") {
        Some(word) if word == "system" => Roots::System,
        Some(file) => Roots::File(file.into()),
        None => lookup.in_home(".postgresql/root.crt").map_or(Roots::None, Roots::File),
    };
    let old = || lookup.variable("PGREQUIRESSL").is_some_and(|text| text.starts_with('1'));
    let mode = match lookup.text("sslmode") {
        Some(_) => lookup.choice("sslmode", tls::MODES)?,
        None if roots == Roots::System => Mode::VerifyFull,
        None if old() => Mode::Require,
        None => Mode::Prefer,
    };
    let certificate_mode = lookup.choice(
        "sslcertmode",
        &[
            ("allow", CertificateMode::Allow),
            ("disable", CertificateMode::Disable),
            ("require", CertificateMode::Require),
        ],
    )?;
    if certificate_mode == CertificateMode::Require && mode < Mode::Require {
        return Err(lookup.wrong("sslcertmode", "`require` needs sslmode=require or stronger"));
    }
    let certificate = file("sslcert", ".postgresql/postgresql.crt");
    let key = file("sslkey", ".postgresql/postgresql.key");
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (Some(_), None) => return Err(Error::configuration("sslkey", "is needed with `sslcert`")),
        (None, _) => None,
    };
    let oldest = lookup.choice(
        "ssl_min_protocol_version",
        &[
            ("TLSv1.2", Version::V1_2),
            // Nothing older is spoken.
            ("TLSv1", Version::V1_2),
            ("TLSv1.1", Version::V1_2),
            ("TLSv1.3", Version::V1_3),
        ],
    )?;
    let newest = lookup
        .choice("ssl_max_protocol_version", &[("TLSv1.3", Version::V1_3), ("TLSv1.2", Version::V1_2)])?;
    if oldest > newest {
        return Err(lookup.wrong("ssl_min_protocol_version", "is above ssl_max_protocol_version"));
    }
    let folder = lookup.text("sslcrldir").map(PathBuf::from);
    let list = lookup.text("sslcrl").map(PathBuf::from);
    let list = list.or_else(|| lookup.in_home(".postgresql/root.crl").filter(|_| folder.is_none()));
    Ok(tls::Options {
        mode,
        roots,
        identity,
        certificate_mode,
        lists: (list, folder),
        sni: lookup.choice("sslsni", &[("1", true), ("0", false)])?,
        versions: (oldest, newest),
    })
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
    use std::path::Path;

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
        assert!(error.contains("did you mean `host`?"), "{error}");
        assert!(with("service=z", &environment).err().unwrap().to_string().contains("`z`"));
    }

    #[test]
    fn the_password_file_comes_last_and_each_host_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        private(folder.path(), ".pgpass", "a:*:*:*:pa\nlocalhost:*:*:*:local\n");
        let home = folder.path().display().to_string();
        let passwords = |dsn: &str, more: &[(&str, &str)]| -> Vec<Option<String>> {
            let environment: Vec<_> = [("HOME", home.as_str())].iter().chain(more).copied().collect();
            let hosts = with(dsn, &environment).unwrap().hosts.into_iter();
            hosts.map(|host| host.password.map(|Password(bytes)| String::from_utf8(bytes).unwrap())).collect()
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
            ("postgresql://u:hunter2@h/d?sslmod=require", "did you mean `sslmode`?"),
            ("host=h password=hunter2 hunter2x=1", "a parameter is not known"),
            ("postgresql://u:5?hunter2=x/y@h/d", "a parameter is not known"),
            ("postgresql://u@h/d?password=a&hunter2=1", "a parameter is not known"),
            ("postgresql://u@h/d?sslpassword=a&hunter2", "connection string"),
            ("host=h dbname=postgres://u:hunter2@h/d", "dbname"),
            ("host=u:hunter2@h", "host"),
            ("host=h sslpassword=hunter2", "sslpassword"),
            ("host=h password=hunter2 sslmode=hunter2", "sslmode"),
            ("postgresql://u:hunter2@h:hunter2/d", "port"),
            ("host=h password=hunter2 port=0", "port"),
            ("host=a,b,c port=1,2 password=hunter2", "port"),
            ("host=h hostaddr=hunter2", "hostaddr"),
            ("host=a,b hostaddr=10.0.0.1", "hostaddr"),
            ("host=h password=hunter2 connect_timeout=hunter2", "connect_timeout"),
            (
                "host=h target_session_attrs=hunter2",
                "target_session_attrs: is one of any, read-write, read-only, primary, standby, prefer-standby",
            ),
            ("host=h sslnegotiation=direct", "sslnegotiation"),
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

    #[test]
    fn variables_that_are_settings_of_the_session_come_after_the_options() {
        let environment = [
            ("PGTZ", "Asia/Tokyo"),
            ("PGDATESTYLE", r"SQL, DMY\"),
            ("PGGEQO", "off"),
            ("PGOPTIONS", "-c a=b"),
        ];
        let options = |dsn, environment| with(dsn, environment).unwrap().startup_options();
        let all = r" -c DateStyle=SQL,\ DMY\\ -c TimeZone=Asia/Tokyo -c geqo=off";
        assert_eq!(options("host=h", &environment), Some(format!("-c a=b{all}")));
        assert_eq!(options("host=h options='-c c=d'", &environment), Some(format!("-c c=d{all}")));
        assert_eq!(options("host=h", &[("PGTZ", "")]), None);
    }

    #[test]
    fn every_parameter_that_cannot_be_obeyed_is_refused_under_the_name_by_which_it_was_given() {
        for known in libpq::PARAMETERS.iter().filter(|known| known.key != "service") {
            let refused = matches!(known.rule, libpq::Rule::Only(..) | libpq::Rule::Refused(_));
            let mut given = vec![(known.key, format!("host=h {}=hunter2", known.key), Vec::new())];
            given.extend(known.variable.map(|name| (name, "host=h".to_owned(), vec![(name, "hunter2")])));
            for (name, dsn, environment) in given {
                match with(&dsn, &environment) {
                    Ok(_) => assert!(!refused, "{name} was accepted"),
                    Err(error) => {
                        let said = error.to_string();
                        assert!(error.is_configuration() && !said.contains("hunter2"), "{said}");
                        assert!(!refused || said.starts_with(&format!("{name}: ")), "{name}: {said}");
                    }
                }
            }
        }
        let kept = [("PGCLIENTENCODING", "utf-8"), ("PGGSSENCMODE", "prefer"), ("PGSSLCOMPRESSION", "0")];
        assert!(with("host=h max_protocol_version=latest", &kept).is_ok());
        let error = with("host=h", &[("PGCLIENTENCODING", "LATIN1")]).err().unwrap().to_string();
        assert!(error.starts_with("PGCLIENTENCODING: "), "{error}");
    }

    #[test]
    fn the_old_variable_for_encryption_counts_unless_there_is_the_new_one() {
        let mode = |environment: &[(&str, &str)]| with("host=h", environment).unwrap().tls.mode;
        assert_eq!(mode(&[("PGREQUIRESSL", "1")]), tls::Mode::Require);
        assert_eq!(mode(&[("PGREQUIRESSL", "0")]), tls::Mode::Prefer);
        assert_eq!(mode(&[("PGREQUIRESSL", "1"), ("PGSSLMODE", "disable")]), tls::Mode::Disable);
    }
}
