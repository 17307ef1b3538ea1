//! The servers to try, in order.
//!
//! Whatever is shown of a connection is shown of these: a host's name, port and address. A text that cannot be
//! one is refused here and not repeated, because it is more likely a piece of a connection string, and
//! that has a password.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use super::lookup::Lookup;
use crate::Error;

/// A server to try.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name, an address, or a socket's folder (it starts with `/`).
    pub(crate) name: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) password: Option<Password>,
}

impl Host {
    pub(crate) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    /// The name by which the password file knows it.
    pub(super) fn name_in_passfile(&self) -> &str {
        if SOCKET_FOLDERS.contains(&self.name.as_str()) { "localhost" } else { &self.name }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port, .. } = self;
        match name {
            _ if self.is_socket() => write!(f, "{name}/.s.PGSQL.{port}"),
            _ if name.contains(':') => write!(f, "[{name}]:{port}"),
            _ => write!(f, "{name}:{port}"),
        }
    }
}

/// A password, of any bytes. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(pub(super) Vec<u8>);

impl AsRef<[u8]> for Password {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads `host`, `hostaddr` and `port`, which are lists of the same length.
pub(super) fn read(lookup: &Lookup<'_>) -> Result<Vec<Host>, Error> {
    let list = |key| {
        let text: Option<String> = lookup.text(key);
        text.map(|text| text.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>())
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port").unwrap_or_default());
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if addresses.as_ref().is_some_and(|addresses| addresses.len() != count) {
        return Err(lookup.wrong("hostaddr", "needs as many entries as `host`"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(lookup.wrong("port", "needs one entry, or as many as there are hosts"));
    }
    for name in names.iter().flatten() {
        check_name(name).map_err(|problem| lookup.wrong("host", problem))?;
    }
    let host = |index: usize| {
        let port = ports.get(index).or(ports.first()).filter(|port| !port.is_empty());
        let port = port.map_or(Ok(5432), |port| match port.parse() {
            Ok(0) | Err(_) => Err(lookup.wrong("port", "is a number from 1 to 65535")),
            Ok(port) => Ok(port),
        })?;
        let item = |list: &Option<Vec<String>>| {
            list.as_ref().and_then(|list| list.get(index)).filter(|item| !item.is_empty()).cloned()
        };
        let address = item(&addresses);
        let parsed = address.as_deref().map(str::parse).transpose();
        let parsed = parsed.map_err(|_| lookup.wrong("hostaddr", "is a numeric IP address"))?;
        let name = item(&names).or(address).unwrap_or_else(|| default_host(port));
        Ok(Host { name, address: parsed, port, password: None })
    };
    (0..count).map(host).collect()
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.starts_with('/') {
        return Ok(());
    }
    if name.contains("://") {
        return Err(
            "is a host's name, an address, or a socket's folder; a whole URL belongs in the connection string or DATABASE_URL",
        );
    }
    if name.starts_with('@') {
        return Err(
            "a socket in the abstract namespace (`@...`) is not supported: use one in a folder, or TCP",
        );
    }
    if name.contains(|c: char| c.is_whitespace() || matches!(c, '@' | '/' | '?' | '#' | '\\' | '\'' | '"')) {
        return Err("is a host's name, an address, or a socket's folder that starts with `/`");
    }
    let is_address = name.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok());
    if name.contains(':') && !is_address {
        return Err(
            "contains a `:` and is no IPv6 address; the port is a parameter of its own (`port`, PGPORT)",
        );
    }
    Ok(())
}

/// A socket's folder, where a server listens, else `localhost`.
fn default_host(port: u16) -> String {
    let listens = |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_FOLDERS.iter().find(listens).map_or("localhost", |folder| folder).to_owned()
}

/// Debian's and Red Hat's, then PostgreSQL's own.
const SOCKET_FOLDERS: &[&str] = &["/var/run/postgresql", "/tmp"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_host_is_refused() {
        for name in ["db", "db.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "/var/run/x y", ""] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["db:5432", "u@db", "@abstract", "db/x", "postgres://db", "a b", "db?x", "it's"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_password_prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", Password(b"hunter2".to_vec())), "***");
    }
}
