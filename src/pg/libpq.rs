//! What libpq knows, and what becomes of it here.
//!
//! People point their variables and service files at psql first. A parameter that psql obeys and this library
//! drops would be found out at night, or never: a revocation list that nobody reads, a time zone that changes
//! what a text means. So the table has every parameter of libpq's `PQconninfoOptions` from 13 to 18 with its
//! variable, and each is obeyed, refused with what to do, or has no bearing here for a reason that stands beside
//! it. `docs/connections.md` says the same for people; a test compares them.

/// A connection parameter of libpq's.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) key: &'static str,
    /// The variable that gives it where nothing else does.
    pub(super) variable: Option<&'static str>,
    pub(super) rule: Rule,
}

/// What becomes of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// It means what it means to libpq.
    Obeyed,
    /// It changes nothing here, and why that harms nobody.
    Moot(&'static str),
    /// These values ask for what happens anyway; any other is refused, with what to do.
    Only(&'static [&'static str], &'static str),
    /// Any value is refused, with what to do.
    Refused(&'static str),
}

use Rule::{Moot, Obeyed, Only, Refused};

const fn parameter(key: &'static str, variable: &'static str, rule: Rule) -> Parameter {
    Parameter { key, variable: Some(variable), rule }
}

const fn bare(key: &'static str, rule: Rule) -> Parameter {
    Parameter { key, variable: None, rule }
}

const KERBEROS: Rule = Moot("it is about Kerberos (GSSAPI), by which nobody logs in here");
const OAUTH: Rule =
    Refused("OAuth is not supported: log in by password (SCRAM) or client certificate, and leave this out");
const SCRAM_KEYS: Rule = Refused("keys derived from a password are not supported: give the password itself");

/// All of them, in libpq's order.
pub(super) const PARAMETERS: &[Parameter] = &[
    parameter("authtype", "PGAUTHTYPE", Moot("libpq ignored it, too, and dropped it in 14")),
    parameter("service", "PGSERVICE", Obeyed),
    parameter("servicefile", "PGSERVICEFILE", Obeyed),
    parameter("user", "PGUSER", Obeyed),
    parameter("password", "PGPASSWORD", Obeyed),
    parameter("passfile", "PGPASSFILE", Obeyed),
    parameter("channel_binding", "PGCHANNELBINDING", Obeyed),
    parameter("connect_timeout", "PGCONNECT_TIMEOUT", Obeyed),
    parameter("dbname", "PGDATABASE", Obeyed),
    parameter("host", "PGHOST", Obeyed),
    parameter("hostaddr", "PGHOSTADDR", Obeyed),
    parameter("port", "PGPORT", Obeyed),
    parameter("client_encoding", "PGCLIENTENCODING", Obeyed),
    parameter("tty", "PGTTY", Moot("libpq ignored it, too, and dropped it in 14")),
    parameter("options", "PGOPTIONS", Obeyed),
    parameter("application_name", "PGAPPNAME", Moot("a session is named headcount:TASK, which others read")),
    bare("fallback_application_name", Moot("a session is named headcount:TASK, which others read")),
    bare("keepalives", Obeyed),
    bare("keepalives_idle", Obeyed),
    bare("keepalives_interval", Obeyed),
    bare("keepalives_count", Obeyed),
    bare("tcp_user_timeout", Obeyed),
    parameter("sslmode", "PGSSLMODE", Obeyed),
    parameter("sslnegotiation", "PGSSLNEGOTIATION", Obeyed),
    parameter(
        "sslcompression",
        "PGSSLCOMPRESSION",
        Only(&["0"], "TLS is never compressed, which would be insecure: leave this out"),
    ),
    parameter("sslcert", "PGSSLCERT", Obeyed),
    parameter("sslkey", "PGSSLKEY", Obeyed),
    parameter("sslcertmode", "PGSSLCERTMODE", Obeyed),
    bare(
        "sslpassword",
        Refused(
            "a key with a passphrase cannot be read: write it without (openssl pkey -in KEY -out NEW), chmod 0600, and leave this out",
        ),
    ),
    parameter("sslrootcert", "PGSSLROOTCERT", Obeyed),
    parameter("sslcrl", "PGSSLCRL", Obeyed),
    parameter("sslcrldir", "PGSSLCRLDIR", Obeyed),
    parameter("sslsni", "PGSSLSNI", Obeyed),
    parameter(
        "requirepeer",
        "PGREQUIREPEER",
        Refused(
            "who serves a socket is not checked: connect by TCP with sslmode=verify-full, and leave this out",
        ),
    ),
    parameter(
        "require_auth",
        "PGREQUIREAUTH",
        Refused(
            "a way to log in cannot be demanded by name: channel_binding=require with sslmode=verify-full demands SCRAM, and nothing weaker; leave this out",
        ),
    ),
    parameter(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        Only(&["3.0"], "version 3.0 of the protocol is spoken: leave this out"),
    ),
    parameter(
        "max_protocol_version",
        "PGMAXPROTOCOLVERSION",
        Only(&["3.0", "3.2", "latest"], "is 3.0, 3.2 or latest; version 3.0 of the protocol is spoken"),
    ),
    parameter("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Obeyed),
    parameter("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Obeyed),
    parameter(
        "gssencmode",
        "PGGSSENCMODE",
        Only(&["disable", "prefer"], "encryption by GSSAPI is not supported; TLS is, see sslmode"),
    ),
    parameter("krbsrvname", "PGKRBSRVNAME", KERBEROS),
    parameter("gsslib", "PGGSSLIB", KERBEROS),
    parameter("gssdelegation", "PGGSSDELEGATION", KERBEROS),
    bare(
        "replication",
        Only(&["false", "off", "no", "0"], "a replication connection runs no batch work: leave this out"),
    ),
    parameter("target_session_attrs", "PGTARGETSESSIONATTRS", Obeyed),
    parameter("load_balance_hosts", "PGLOADBALANCEHOSTS", Obeyed),
    bare("scram_client_key", SCRAM_KEYS),
    bare("scram_server_key", SCRAM_KEYS),
    bare("oauth_issuer", OAUTH),
    bare("oauth_client_id", OAUTH),
    bare("oauth_client_secret", OAUTH),
    bare("oauth_scope", OAUTH),
    parameter(
        "sslkeylogfile",
        "PGSSLKEYLOGFILE",
        Refused("keys of TLS sessions are not written to a file: leave this out"),
    ),
];

/// Variables that stand for a setting of the session (fe-connect.c, `EnvironmentOptions`), and which.
pub(super) const SETTINGS: &[(&str, &str)] =
    &[("PGDATESTYLE", "DateStyle"), ("PGTZ", "TimeZone"), ("PGGEQO", "geqo")];

/// Other variables that are read.
pub(super) const VARIABLES: &[&str] = &["DATABASE_URL", "PGREQUIRESSL", "PGSYSCONFDIR", "HOME"];

/// All variables.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    let parameters = PARAMETERS.iter().filter_map(|parameter| parameter.variable);
    parameters.chain(SETTINGS.iter().map(|(variable, _)| *variable)).chain(VARIABLES.iter().copied())
}

/// The parameter of that name.
pub(super) fn find(key: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.key == key)
}

/// What to do about a parameter that libpq does not have. Never repeats the name: a string cut at the wrong place
/// may have a piece of a password there. A name of libpq's that is nearly the same is said instead.
pub(super) fn advice(unknown: &str) -> String {
    let unknown = unknown.to_ascii_lowercase();
    if let Some((_, what)) = FOREIGN.iter().find(|(names, _)| names.contains(&unknown.as_str())) {
        return (*what).to_owned();
    }
    let nearest = PARAMETERS.iter().map(|known| (distance(known.key, &unknown), known.key)).min();
    match nearest {
        Some((..=2, known)) => format!("did you mean `{known}`?"),
        _ => "only libpq's are known; a setting of the server goes into options=-c NAME=VALUE".to_owned(),
    }
}

/// Parameters of other drivers that people bring along.
const FOREIGN: &[(&[&str], &str)] = &[
    (
        &["schema", "currentschema", "search_path"],
        "a schema is set by options=-c search_path=NAME (in a URL options=-c%20search_path%3DNAME)",
    ),
    (
        &["statement_timeout", "lock_timeout", "timezone", "datestyle", "work_mem"],
        "a setting of the server goes into options=-c NAME=VALUE (in a URL options=-c%20NAME%3DVALUE)",
    ),
    (&["ssl"], "TLS is asked for by sslmode=require, verify-ca or verify-full"),
    (
        &[
            "pgbouncer",
            "connection_limit",
            "pool_timeout",
            "pool_size",
            "statement_cache_mode",
            "preparethreshold",
        ],
        "it is another driver's and has no meaning here: leave it out",
    ),
];

/// How many letters are to be added, left out or changed.
fn distance(known: &str, typed: &str) -> usize {
    let typed = typed.as_bytes();
    let mut row: Vec<usize> = (0..=typed.len()).collect();
    for (i, a) in known.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in typed.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[typed.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libpq's own tables: `PQconndefaults()` of 13, 15 and 18, each with its variable.
    const LIBPQ: &str = "
        authtype=PGAUTHTYPE service=PGSERVICE user=PGUSER password=PGPASSWORD passfile=PGPASSFILE
        channel_binding=PGCHANNELBINDING connect_timeout=PGCONNECT_TIMEOUT dbname=PGDATABASE host=PGHOST
        hostaddr=PGHOSTADDR port=PGPORT client_encoding=PGCLIENTENCODING tty=PGTTY options=PGOPTIONS
        application_name=PGAPPNAME fallback_application_name keepalives keepalives_idle keepalives_interval
        keepalives_count tcp_user_timeout sslmode=PGSSLMODE sslnegotiation=PGSSLNEGOTIATION
        sslcompression=PGSSLCOMPRESSION sslcert=PGSSLCERT sslkey=PGSSLKEY sslcertmode=PGSSLCERTMODE sslpassword
        sslrootcert=PGSSLROOTCERT sslcrl=PGSSLCRL sslcrldir=PGSSLCRLDIR sslsni=PGSSLSNI requirepeer=PGREQUIREPEER
        require_auth=PGREQUIREAUTH min_protocol_version=PGMINPROTOCOLVERSION
        max_protocol_version=PGMAXPROTOCOLVERSION ssl_min_protocol_version=PGSSLMINPROTOCOLVERSION
        ssl_max_protocol_version=PGSSLMAXPROTOCOLVERSION gssencmode=PGGSSENCMODE krbsrvname=PGKRBSRVNAME
        gsslib=PGGSSLIB gssdelegation=PGGSSDELEGATION replication target_session_attrs=PGTARGETSESSIONATTRS
        load_balance_hosts=PGLOADBALANCEHOSTS scram_client_key scram_server_key oauth_issuer oauth_client_id
        oauth_client_secret oauth_scope sslkeylogfile";

    #[test]
    fn every_parameter_of_libpq_has_its_place() {
        for item in LIBPQ.split_whitespace() {
            let (key, variable) = item.split_once('=').map_or((item, None), |(key, name)| (key, Some(name)));
            let known = find(key).unwrap_or_else(|| panic!("{key} is missing"));
            assert!(variable.is_none() || known.variable == variable, "{key}: {:?}", known.variable);
        }
    }

    #[test]
    fn the_documentation_names_every_parameter_and_variable() {
        let page = include_str!("../../docs/connections.md");
        for name in PARAMETERS.iter().map(|known| known.key).chain(variables()) {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn what_is_unknown_is_answered_by_what_is_known_and_never_repeated() {
        for (typed, said) in [
            ("sslmod", "did you mean `sslmode`?"),
            ("sslMode", "did you mean `sslmode`?"),
            ("hots", "did you mean `host`?"),
            ("currentSchema", "search_path"),
            ("pgbouncer", "another driver's"),
            ("hunter2", "only libpq's are known"),
        ] {
            let advice = advice(typed);
            assert!(advice.contains(said) && !advice.contains("hunter2"), "{typed}: {advice}");
        }
    }
}
