//! Where a parameter's value comes from.
//!
//! libpq's order: what the connection string says, then the service that it or `PGSERVICE` names, then
//! the environment; what is left is a default. The environment comes in as a function, so that the
//! order can be tried without changing the process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dsn::{self, Pairs};
use super::libpq::{self, PARAMETERS, Rule};
use super::service;
use crate::Error;

/// Values by precedence.
pub(super) struct Lookup<'a> {
    given: Pairs,
    service: Pairs,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Lookup<'a> {
    /// Reads the connection string and the service that is named, and refuses what cannot be obeyed.
    pub(super) fn new(
        connection_string: &str,
        variable: &'a dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let given = dsn::parse(connection_string)?;
        check_known(connection_string, &given)?;
        let mut lookup = Self { given, service: Pairs::new(), variable };
        if let Some(name) = lookup.text("service") {
            lookup.service = service::lookup(&name, &lookup.service_files())?;
        }
        lookup.check_rules()?;
        Ok(lookup)
    }

    /// The value, and the name under which it was given.
    fn get(&self, key: &'static str) -> Option<(String, &'static str)> {
        let of = |pairs: &Pairs| {
            pairs.iter().rev().find(|(known, _)| known == key).map(|(_, value)| (value.clone(), key))
        };
        of(&self.given).or_else(|| of(&self.service)).or_else(|| {
            let name = libpq::find(key)?.variable?;
            Some(((self.variable)(name)?, name))
        })
    }

    /// The value; an empty one counts as not given.
    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        self.get(key).map(|(value, _)| value).filter(|value| !value.is_empty())
    }

    /// The error of a parameter, under the name by which it was given.
    pub(super) fn wrong(&self, key: &'static str, problem: impl Into<String>) -> Error {
        Error::configuration(self.get(key).map_or(key, |(_, name)| name), problem)
    }

    pub(super) fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>, Error> {
        let parse = |text: String| {
            text.trim().parse().map_err(|_| self.wrong(key, "is a whole number within its bounds"))
        };
        self.text(key).map(parse).transpose()
    }

    pub(super) fn seconds(&self, key: &'static str, default: Duration) -> Result<Duration, Error> {
        // Zero and less mean the default, as in libpq.
        let seconds = self.number::<i32>(key)?.filter(|seconds| *seconds > 0);
        Ok(seconds.map_or(default, |seconds| Duration::from_secs(u64::from(seconds.unsigned_abs()))))
    }

    /// A file in the user's home, if it is there.
    pub(super) fn in_home(&self, name: &str) -> Option<PathBuf> {
        let home = self.variable("HOME")?;
        Some(Path::new(&home).join(name)).filter(|file| file.exists())
    }

    /// One of a closed set of words; the first is the default.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Result<T, Error> {
        let Some(text) = self.text(key) else { return Ok(choices[0].1) };
        choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.wrong(key, format!("is one of {}", words.join(", ")))
        })
    }

    /// A variable that is no parameter's; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn check_rules(&self) -> Result<(), Error> {
        for known in PARAMETERS {
            let Some(value) = self.text(known.key) else { continue };
            match known.rule {
                Rule::Obeyed | Rule::Moot(_) => {}
                Rule::Only(values, _) if values.contains(&value.as_str()) => {}
                Rule::Only(_, why) | Rule::Refused(why) => return Err(self.wrong(known.key, why)),
            }
        }
        Ok(())
    }

    fn service_files(&self) -> Vec<PathBuf> {
        let system = self.variable("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
        let home = || self.variable("HOME").map(|home| Path::new(&home).join(".pg_service.conf"));
        let own = self.text("servicefile").map(PathBuf::from).or_else(home);
        own.into_iter().chain([Path::new(&system).join("pg_service.conf")]).collect()
    }
}

fn check_known(text: &str, pairs: &Pairs) -> Result<(), Error> {
    let Some(at) = pairs.iter().position(|(key, _)| libpq::find(key).is_none()) else { return Ok(()) };
    let unknown = &pairs[at].0;
    let is_word =
        unknown.len() <= 30 && unknown.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let may_name = is_word && dsn::may_name(text, pairs, at);
    let shown = if may_name { format!("`{unknown}`") } else { "a parameter".to_owned() };
    Err(Error::configuration(
        "connection string",
        format!("{shown} is not known; {}", libpq::advice(unknown)),
    ))
}
