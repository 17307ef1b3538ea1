//! The unprivileged account a server runs under.
//!
//! PostgreSQL refuses to run as root. As root, programs are started as `postgres` where that account
//! exists, else as `nobody`; otherwise as whoever we are. (Setting a uid makes the standard library
//! drop root's supplementary groups too.)

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::Error;

/// Who runs the server. `None` inside: ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    other: Option<Other>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// Ourselves, unless we are root.
    pub(super) fn choose() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { other: None });
        }
        let passwd = std::fs::read_to_string("/etc/passwd")
            .map_err(|error| Error::failed("cannot read the accounts of this machine", error))?;
        let other = unprivileged(&passwd).ok_or_else(|| {
            Error::unusable("account", "PostgreSQL refuses to run as root, and this machine has neither a `postgres` nor a `nobody` account")
        })?;
        Ok(Self { other: Some(other) })
    }

    /// Somebody who owns nothing.
    #[cfg(test)]
    pub(super) fn stranger() -> Self {
        Self { other: Some(Other { name: "stranger".into(), uid: 65_533, gid: 65_533 }) }
    }

    /// A command that runs under the account, with nothing of our environment that would change
    /// what PostgreSQL does (`PGDATA`, `LC_MESSAGES`...).
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        for kept in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if let Some(other) = &self.other {
            command.uid(other.uid).gid(other.gid);
        }
        command
    }

    /// Hands a file or folder that we made to the account.
    pub(super) fn own(&self, path: &Path) -> std::io::Result<()> {
        match &self.other {
            Some(other) => std::os::unix::fs::chown(path, Some(other.uid), Some(other.gid)),
            None => Ok(()),
        }
    }

    /// Where private folders go: a place that the account can reach too. `HEADCOUNT_TMPDIR` names another one.
    pub(super) fn temporary_folder(&self) -> std::path::PathBuf {
        match std::env::var_os("HEADCOUNT_TMPDIR").filter(|folder| !folder.is_empty()) {
            Some(folder) => folder.into(),
            // Root's TMPDIR may lie in a folder that is closed to everybody else.
            None if self.other.is_some() => "/tmp".into(),
            None => std::env::temp_dir(),
        }
    }

    /// For messages: ` as user postgres`, or nothing when it is ourselves.
    pub(super) fn suffix(&self) -> String {
        self.other.as_ref().map_or_else(String::new, |other| format!(" as user {}", other.name))
    }
}

fn unprivileged(passwd: &str) -> Option<Other> {
    ["postgres", "nobody"].iter().find_map(|wanted| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| name == wanted)?;
            let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != 0)?;
            let gid = fields.next()?.parse().ok()?;
            Some(Other { name: name.to_owned(), uid, gid })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_is_preferred_to_nobody_and_root_is_never_taken() {
        let name = |passwd: &str| unprivileged(passwd).map(|other| (other.name, other.uid, other.gid));
        let nobody = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        assert_eq!(name(nobody), Some(("nobody".into(), 65534, 65533)));
        let both = format!("{nobody}postgres:x:101:104:admin:/var/lib/postgresql:/bin/bash\n");
        assert_eq!(name(&both), Some(("postgres".into(), 101, 104)));
        assert_eq!(name("postgres:x:0:0::/:/bin/sh\n"), None);
        assert_eq!(name(""), None);
    }
}
