//! Which PostgreSQL programs this machine has.
//!
//! Distributions keep several versions side by side in folders that are not on `PATH`, and leave at
//! most one of them on it. So the folders are looked at first and `PATH` last; each program is asked
//! for its version, because a folder's name is only a hint.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// The folder of one installed PostgreSQL: `postgres` and `initdb`, and the version they report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    major: u32,
    version: String,
}

impl Binaries {
    /// The installation to prefer: the one `HEADCOUNT_PG_BIN` names, else the newest release; a beta or a
    /// release candidate only where there is nothing else.
    ///
    /// # Errors
    /// A configuration error that says how to get one, when there is none, or when
    /// `HEADCOUNT_PG_BIN` names a folder without the programs.
    pub fn find() -> Result<Self, Error> {
        if let Some(folder) = std::env::var_os("HEADCOUNT_PG_BIN").filter(|folder| !folder.is_empty()) {
            return Self::at(Path::new(&folder)).ok_or_else(|| {
                let folder = folder.display();
                Error::unusable(
                    "HEADCOUNT_PG_BIN",
                    format!("`{folder}` holds no runnable `postgres` and `initdb`"),
                )
            });
        }
        preferred(Self::all()).ok_or_else(|| none_found("PostgreSQL"))
    }

    /// Every installation found, newest first, each once however many links lead to it.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut seen = BTreeSet::new();
        let mut found: Vec<Self> = candidates()
            .iter()
            .filter_map(|folder| Self::at(folder))
            .filter(|binaries| seen.insert(binaries.folder.clone()))
            .collect();
        // Stable: among equals the one that was looked at first stays first.
        found.sort_by_key(|binaries| Reverse(binaries.major));
        found
    }

    /// The installation of one major version, such as 15.
    ///
    /// # Errors
    /// A configuration error when this machine has none of that version.
    pub fn version(major: u32) -> Result<Self, Error> {
        Self::all()
            .into_iter()
            .find(|binaries| binaries.major == major)
            .ok_or_else(|| none_found(&format!("PostgreSQL {major}")))
    }

    /// The major version, such as 15.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.major
    }

    /// The folder that holds `postgres` and `initdb`, with links resolved.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `postgres --version` prints, for example `postgres (PostgreSQL) 15.18`.
    #[must_use]
    pub fn version_text(&self) -> &str {
        &self.version
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn at(folder: &Path) -> Option<Self> {
        // `PATH` may hold a link to the program in a folder that lacks the rest: follow it.
        let program = folder.join("postgres").canonicalize().ok()?;
        let folder = program.parent()?.to_path_buf();
        if !folder.join("initdb").exists() {
            return None;
        }
        let output = Command::new(&program).arg("--version").output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        let major = major_of(&version)?;
        Some(Self { folder, major, version })
    }
}

/// Where downloaded servers and data folder templates are kept: `HEADCOUNT_CACHE`, as root
/// `/var/cache/headcount`, else `headcount` in the user's cache folder.
pub(super) fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("HEADCOUNT_CACHE") {
        return Some(folder);
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/cache/headcount"));
    }
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .map(|cache| cache.join("headcount"))
}

fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("HEADCOUNT_PG_BIN").map(PathBuf::from).into_iter().collect();
    folders.extend(children("/usr/lib/postgresql", |_| true, "bin"));
    folders.extend(children("/usr", |name| name.starts_with("pgsql-"), "bin"));
    for prefix in ["/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"] {
        let formulas = Path::new(prefix).join("opt");
        folders.extend(children(&formulas, |name| name.starts_with("postgresql"), "bin"));
    }
    folders.push(PathBuf::from("/usr/local/pgsql/bin"));
    if let Some(cache) = cache_folder() {
        folders.extend(children(cache.join("servers"), |_| true, "bin"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    folders
}

/// `parent/<name>/leaf` for each name that passes, in the order of the names.
fn children(parent: impl AsRef<Path>, pass: impl Fn(&str) -> bool, leaf: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(&pass))
        .map(|entry| entry.path().join(OsStr::new(leaf)))
        .collect();
    folders.sort();
    folders
}

/// Of installations sorted newest first.
fn preferred(mut all: Vec<Binaries>) -> Option<Binaries> {
    let release = all.iter().position(|binaries| is_release(&binaries.version));
    (!all.is_empty()).then(|| all.swap_remove(release.unwrap_or(0)))
}

/// A release has a minor version: `19.0`, not `19beta1`, `19rc1` or `20devel`.
fn is_release(version: &str) -> bool {
    let number = version.split_whitespace().nth(2).unwrap_or_default();
    number.split_once('.').is_some_and(|(_, minor)| minor.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `postgres (PostgreSQL) 15.18 (Debian ...)`, `postgres (PostgreSQL) 19beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

fn none_found(what: &str) -> Error {
    Error::unusable(
        "server programs",
        format!(
            "no {what} is installed here; `make demo` fetches one, a package manager has it as \
             `postgresql`, or point HEADCOUNT_PG_BIN at the folder that holds `postgres` and `initdb`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_releases_packages_and_betas() {
        for (text, major) in [
            ("postgres (PostgreSQL) 13.23", Some(13)),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 19beta1", Some(19)),
            ("mysqld 8", None),
            ("postgres (PostgreSQL) devel", None),
        ] {
            assert_eq!(major_of(text), major, "{text}");
        }
    }

    #[test]
    fn the_newest_release_is_preferred_to_what_is_not_released_yet() {
        let installed = |numbers: &[&str]| {
            let binaries = |number: &&str| {
                let version = format!("postgres (PostgreSQL) {number}");
                Binaries { folder: PathBuf::new(), major: major_of(&version).unwrap(), version }
            };
            preferred(numbers.iter().map(binaries).collect()).map(|binaries| binaries.major)
        };
        assert_eq!(installed(&["20devel", "19rc1 (Debian 19~rc1-1)", "18.6", "13.23"]), Some(18));
        assert_eq!(installed(&["19.0 (Debian 19.0-1)", "18.6"]), Some(19));
        assert_eq!(installed(&["19beta2"]), Some(19));
        assert_eq!(installed(&[]), None);
    }

    #[test]
    fn installations_come_newest_first_and_each_once() {
        let all = Binaries::all();
        assert!(all.is_sorted_by_key(|binaries| Reverse(binaries.major())), "{all:?}");
        let folders: BTreeSet<_> = all.iter().map(Binaries::folder).collect();
        assert_eq!(folders.len(), all.len(), "{all:?}");
    }

    #[test]
    fn a_missing_version_is_an_error_that_names_the_fix() {
        let error = Binaries::version(7).unwrap_err();
        assert!(error.is_configuration());
        let text = error.to_string();
        assert!(text.contains("PostgreSQL 7") && text.contains("make demo"), "{text}");
    }
}
