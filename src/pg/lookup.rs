//! Where a parameter's value comes from.
//!
//! libpq's order: what the connection string says, then the service that it or `PGSERVICE` names, then
//! the environment; what is left is a default. The environment comes in as a function, so that the
//! order can be tried without changing the process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dsn::{self, Pairs};
use super::service;
use crate::Error;

/// Every parameter that is understood, and libpq's variable for it.
const KNOWN: &[(&str, Option<&str>)] = &[
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("port", Some("PGPORT")),
    ("dbname", Some("PGDATABASE")),
    ("user", Some("PGUSER")),
    ("password", Some("PGPASSWORD")),
    ("passfile", Some("PGPASSFILE")),
    ("service", Some("PGSERVICE")),
    ("servicefile", Some("PGSERVICEFILE")),
    ("options", Some("PGOPTIONS")),
    ("application_name", Some("PGAPPNAME")),
    ("fallback_application_name", None),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("gssencmode", Some("PGGSSENCMODE")),
    ("client_encoding", None),
    ("keepalives", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("keepalives_count", None),
    ("tcp_user_timeout", None),
];

/// Values by precedence.
pub(super) struct Lookup<'a> {
    given: Pairs,
    service: Pairs,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Lookup<'a> {
    /// Reads the connection string and the service that is named.
    pub(super) fn new(
        connection_string: &str,
        variable: &'a dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let given = dsn::parse(connection_string)?;
        check_known(&given, "connection string")?;
        let mut lookup = Self { given, service: Pairs::new(), variable };
        if let Some(name) = lookup.text("service") {
            lookup.service = service::lookup(&name, &lookup.service_files())?;
            check_known(&lookup.service, "service")?;
        }
        Ok(lookup)
    }

    fn get(&self, key: &str) -> Option<String> {
        let of = |pairs: &Pairs| {
            pairs.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.clone())
        };
        of(&self.given).or_else(|| of(&self.service)).or_else(|| {
            let (_, name) = KNOWN.iter().find(|(known, _)| *known == key)?;
            (self.variable)((*name)?)
        })
    }

    /// As `get`; an empty value counts as not given.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.get(key).filter(|value| !value.is_empty())
    }

    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Error> {
        let parse = |text: String| {
            text.trim().parse().map_err(|_| Error::configuration(key, "is a whole number within its bounds"))
        };
        self.text(key).map(parse).transpose()
    }

    pub(super) fn seconds(&self, key: &str, default: Duration) -> Result<Duration, Error> {
        // Zero and less mean the default, as in libpq.
        let seconds = self.number::<i32>(key)?.filter(|seconds| *seconds > 0);
        Ok(seconds.map_or(default, |seconds| Duration::from_secs(u64::from(seconds.unsigned_abs()))))
    }

    /// A file in the user's home, if it is there.
    pub(super) fn in_home(&self, name: &str) -> Option<PathBuf> {
        let home = (self.variable)("HOME").filter(|home| !home.is_empty())?;
        Some(Path::new(&home).join(name)).filter(|file| file.exists())
    }

    /// One of a closed set of words; the first is the default.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T, Error> {
        let Some(text) = self.text(key) else { return Ok(choices[0].1) };
        choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            Error::configuration(key, format!("known here: {}", words.join(", ")))
        })
    }

    fn service_files(&self) -> Vec<PathBuf> {
        let system = (self.variable)("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
        let home = (self.variable)("HOME").map(|home| Path::new(&home).join(".pg_service.conf"));
        let own = self.text("servicefile").map(PathBuf::from).or(home);
        own.into_iter().chain([Path::new(&system).join("pg_service.conf")]).collect()
    }
}

fn check_known(pairs: &Pairs, place: &str) -> Result<(), Error> {
    let Some((key, _)) = pairs.iter().find(|(key, _)| KNOWN.iter().all(|(known, _)| known != key)) else {
        return Ok(());
    };
    // Only what looks like a name is repeated: a string cut at the wrong place may show a secret.
    let is_name = key.len() <= 30 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let shown = if is_name { format!("`{key}`") } else { "a parameter".to_owned() };
    Err(Error::configuration(place, format!("{shown} is not a parameter that is known here")))
}
