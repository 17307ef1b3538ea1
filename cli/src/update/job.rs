//! From what was typed and the job file to an update.
//!
//! What is typed wins over the job file, and that over the library's defaults. Paths in a job file are relative to it,
//! wherever it is called from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headcount::{ChunkSize, FailOn, Headcount, Keys, Update};
use serde::{Deserialize, Deserializer};

use super::args::{Assignment, UpdateArgs, Value, chunk, fail_on, value_of};
use crate::exit::Failed;
use crate::options::{JobText, Time, task_of, toml_of};

/// What to do, and how.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) task: String,
    table: String,
    key: Vec<String>,
    set: Vec<Assignment>,
    expect: Vec<Assignment>,
    version_column: Option<String>,
    pub(super) keys: Option<PathBuf>,
    keys_query: Option<String>,
    claim: bool,
    chunk: Option<ChunkSize>,
    connections: Option<u32>,
    attempts: Option<u32>,
    reconnect_wait: Option<Duration>,
    cancel_grace: Option<Duration>,
    deadline: Option<Duration>,
    pub(super) rejects: Option<PathBuf>,
    fail_on: Option<Vec<FailOn>>,
    dry_run: bool,
}

/// The job file: the options under their names, with `_` for `-`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    task: Option<String>,
    table: Option<String>,
    #[serde(default)]
    key: Columns,
    #[serde(default)]
    set: BTreeMap<String, JobText>,
    #[serde(default)]
    expect: BTreeMap<String, JobText>,
    #[serde(alias = "version")]
    version_column: Option<String>,
    keys: Option<PathBuf>,
    keys_query: Option<String>,
    #[serde(default)]
    claim: bool,
    chunk: Option<JobText>,
    connections: Option<u32>,
    #[serde(alias = "max_attempts")]
    attempts: Option<u32>,
    reconnect_wait: Option<Time>,
    cancel_grace: Option<Time>,
    deadline: Option<Time>,
    rejects: Option<PathBuf>,
    fail_on: Option<Columns>,
    #[serde(default)]
    dry_run: bool,
}

/// One name or several.
#[derive(Debug, Default)]
struct Columns(Vec<String>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(name) => {
                Ok(Self(name.split(',').map(|name| name.trim().to_owned()).collect()))
            }
            list @ toml::Value::Array(_) => {
                Vec::deserialize(list).map(Self).map_err(|_| serde::de::Error::custom("expected texts"))
            }
            _ => Err(serde::de::Error::custom("expected a text or a list of texts")),
        }
    }
}

impl Wanted {
    /// Reads both sources.
    pub(super) fn resolve(args: &UpdateArgs) -> Result<Self, Failed> {
        let Some(path) = &args.job else {
            return Self::default().with_typed(args, "update".to_owned());
        };
        let job: JobFile = toml_of(path)?;
        let mistake =
            |field: &str, problem: &str| Failed::usage(format!("{}: {field}: {problem}", path.display()));
        let assignments = |values: BTreeMap<String, JobText>, field: &str| {
            let read = values.into_iter().map(|(column, JobText(text))| match value_of(&text) {
                Ok(value) => Ok(Assignment { column, value }),
                Err(problem) => Err(mistake(&format!("{field}.{column}"), &problem)),
            });
            read.collect::<Result<Vec<_>, Failed>>()
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let beside = |path: PathBuf| if path.as_os_str() == "-" { path } else { folder.join(path) };
        let chunk = job.chunk.map(|JobText(text)| chunk(&text)).transpose();
        let fail_on = job.fail_on.map(|Columns(words)| fail_on(&words)).transpose();
        let wanted = Self {
            task: job.task.unwrap_or_default(),
            table: job.table.unwrap_or_default(),
            key: job.key.0,
            set: assignments(job.set, "set")?,
            expect: assignments(job.expect, "expect")?,
            version_column: job.version_column,
            keys: job.keys.map(beside),
            keys_query: job.keys_query,
            claim: job.claim,
            chunk: chunk.map_err(|problem| mistake("chunk", &problem))?,
            connections: job.connections,
            attempts: job.attempts,
            reconnect_wait: job.reconnect_wait.map(Duration::from),
            cancel_grace: job.cancel_grace.map(Duration::from),
            deadline: job.deadline.map(Duration::from),
            rejects: job.rejects.map(beside),
            fail_on: fail_on.map_err(|problem| mistake("fail_on", &problem))?,
            dry_run: job.dry_run,
        };
        wanted.with_typed(args, task_of(Some(path)))
    }

    /// Puts what was typed over it, and looks whether it is all there.
    fn with_typed(self, args: &UpdateArgs, task: String) -> Result<Self, Failed> {
        let several = |typed: &[Assignment], job: Vec<Assignment>| {
            let untyped = job.into_iter().filter(|job| typed.iter().all(|typed| typed.column != job.column));
            typed.iter().cloned().chain(untyped).collect::<Vec<_>>()
        };
        let typed_source = args.keys.is_some() || args.keys_query.is_some();
        let own_source =
            if typed_source { (None, None, false) } else { (self.keys, self.keys_query, self.claim) };
        let named = Some(self.task).filter(|task| !task.is_empty());
        let wanted = Self {
            task: args.task.clone().or(named).unwrap_or(task),
            table: args.table.clone().unwrap_or(self.table),
            key: if args.key.is_empty() { self.key } else { args.key.clone() },
            set: several(&args.set, self.set),
            expect: several(&args.expect, self.expect),
            version_column: args.version_column.clone().or(self.version_column),
            keys: args.keys.clone().or(own_source.0),
            keys_query: args.keys_query.clone().or(own_source.1),
            claim: args.claim || own_source.2,
            chunk: args.chunk.or(self.chunk),
            connections: args.connections.or(self.connections),
            attempts: args.attempts.or(self.attempts),
            reconnect_wait: args.reconnect_wait.or(self.reconnect_wait),
            cancel_grace: args.cancel_grace.or(self.cancel_grace),
            deadline: args.deadline.or(self.deadline),
            rejects: args.rejects.clone().or(self.rejects),
            fail_on: match &*args.fail_on {
                [] => self.fail_on,
                words => {
                    Some(fail_on(words).map_err(|problem| Failed::usage(format!("--fail-on: {problem}")))?)
                }
            },
            dry_run: args.dry_run || self.dry_run,
        };
        let lacks = [
            ("table", wanted.table.is_empty()),
            ("key", wanted.key.is_empty()),
            ("set", wanted.set.is_empty()),
            ("keys (or keys_query)", wanted.keys.is_none() && wanted.keys_query.is_none()),
        ];
        if let Some((field, _)) = lacks.into_iter().find(|(_, lacks)| *lacks) {
            return Err(Failed::usage(format!("neither the job file nor the command line has {field}")));
        }
        match (&wanted.keys, &wanted.keys_query, wanted.claim) {
            (Some(_), Some(_), _) => Err(Failed::usage("keys and keys_query: one of them is enough")),
            (Some(_), None, true) => {
                Err(Failed::usage("claim: it needs keys_query; a file cannot be shared"))
            }
            (_, _, true) if wanted.dry_run => {
                Err(Failed::usage("claim: rows are claimed in order to change them; leave out dry_run"))
            }
            (_, _, true)
                if wanted
                    .fail_on
                    .iter()
                    .flatten()
                    .any(|on| matches!(on, FailOn::Missing | FailOn::Stale)) =>
            {
                Err(Failed::usage(
                    "claim: rows are claimed that are there and hold what is expected, so none is found missing or stale; \
                     leave these out of fail_on",
                ))
            }
            _ => Ok(wanted),
        }
    }

    /// What is probably not meant as it is written.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.set.iter().chain(&self.expect).filter_map(Assignment::warning)
    }

    /// The update.
    pub(super) fn update(&self, headcount: &Headcount) -> Update {
        let mut update = headcount.update(&self.table).task(&self.task);
        update = update.key(self.key.iter().map(|column| column.trim()));
        for Assignment { column, value } in &self.set {
            update = match value {
                Value::Null => update.set(column, None),
                Value::Text(text) => update.set(column, text.as_str()),
                Value::Input(input) => update.set_from(column, input),
            };
        }
        for Assignment { column, value } in &self.expect {
            update = match value {
                Value::Null => update.expect(column, None),
                Value::Text(text) => update.expect(column, text.as_str()),
                Value::Input(input) => update.expect_from(column, input),
            };
        }
        if let Some(column) = &self.version_column {
            update = update.version(column);
        }
        if let Some(size) = self.chunk {
            update = update.chunk(size);
        }
        if let Some(connections) = self.connections {
            update = update.connections(connections);
        }
        if let Some(attempts) = self.attempts {
            update = update.max_attempts(attempts);
        }
        if let Some(wait) = self.reconnect_wait {
            update = update.reconnect_wait(wait);
        }
        if let Some(grace) = self.cancel_grace {
            update = update.cancel_grace(grace);
        }
        if let Some(limit) = self.deadline {
            update = update.deadline(limit);
        }
        if let Some(path) = &self.rejects {
            update = update.rejects(path);
        }
        if let Some(what) = &self.fail_on {
            update = update.fail_on(what.iter().copied());
        }
        if self.dry_run { update.dry_run() } else { update }
    }

    /// Where its keys come from.
    pub(super) fn source(&self) -> Keys {
        match (&self.keys, &self.keys_query) {
            (_, Some(query)) if self.claim => Keys::claim(query),
            (_, Some(query)) => Keys::query(query),
            (Some(path), None) if path.as_os_str() != "-" => Keys::file(path),
            _ => Keys::stdin(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    /// What comes of a job file and of what is typed beside it.
    fn wanted(job: &str, typed: &[&str]) -> Result<Wanted, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ship orders.toml");
        std::fs::write(&path, job).unwrap();
        let words = ["headcount", "update", "--job", path.to_str().unwrap()];
        let cli = Cli::try_parse_from(words.iter().chain(typed)).map_err(|error| error.to_string())?;
        let Command::Update(args) = cli.command else { panic!("it is an update") };
        Wanted::resolve(&args)
            .map_err(|failed| failed.to_string().replace(folder.path().to_str().unwrap(), "."))
    }

    const JOB: &str = "table = \"orders\"\nkey = [\"id\", \"pos\"]\nkeys = \"orders.csv\"\nchunk = \"auto\"\n\
                       deadline = \"2h\"\nfail_on = \"empty,stale\"\n\
                       [set]\nstatus = \"@status\"\npaid = true\n[expect]\nstatus = \"\\\\N\"\n";

    #[test]
    fn a_job_file_has_the_names_of_the_options_and_what_is_typed_wins() {
        let job = wanted(JOB, &[]).unwrap();
        assert_eq!((&*job.task, &*job.table, job.key.len()), ("ship_orders", "orders", 2));
        assert!(job.keys.unwrap().ends_with("orders.csv"));
        assert_eq!((job.chunk, job.deadline), (Some(ChunkSize::Auto), Some(Duration::from_hours(2))));
        assert_eq!(job.fail_on, Some(vec![FailOn::Empty, FailOn::Stale]));
        let set: Vec<_> = job.set.iter().map(|set| (&*set.column, set.value.clone())).collect();
        assert_eq!(set, [("paid", Value::Text("on".into())), ("status", Value::Input("status".into()))]);
        assert_eq!(job.expect[0].value, Value::Null);

        let typed = [
            "--keys-query",
            "SELECT 1",
            "--set",
            "status=x",
            "--task",
            "t",
            "--chunk",
            "7",
            "--fail-on",
            "none",
        ];
        let job = wanted(JOB, &typed).unwrap();
        assert_eq!((job.keys, job.keys_query.as_deref(), &*job.task), (None, Some("SELECT 1"), "t"));
        assert_eq!((job.chunk, job.fail_on), (Some(ChunkSize::Keys(7)), Some(vec![])));
        assert_eq!(job.set.len(), 2);
    }

    #[test]
    fn the_old_names_of_options_still_work() {
        let old = wanted(&format!("version = \"v\"\nmax_attempts = 3\n{JOB}"), &[]).unwrap();
        assert_eq!((old.version_column.as_deref(), old.attempts), (Some("v"), Some(3)));
        let new = wanted(&format!("version_column = \"v\"\nattempts = 3\n{JOB}"), &[]).unwrap();
        assert_eq!((new.version_column.as_deref(), new.attempts), (Some("v"), Some(3)));
        let typed = wanted(JOB, &["--version", "w", "--max-attempts", "2"]).unwrap();
        assert_eq!((typed.version_column.as_deref(), typed.attempts), (Some("w"), Some(2)));
        let typed = wanted(JOB, &["--version-column", "w", "--attempts", "2"]).unwrap();
        assert_eq!((typed.version_column.as_deref(), typed.attempts), (Some("w"), Some(2)));
    }

    #[test]
    fn what_is_wrong_with_a_job_file_is_said_with_its_place() {
        let check = |job: &str, typed: &[&str], expected: &str| {
            let problem = wanted(job, typed).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        check("tabel = \"t\"\n", &[], "ship orders.toml, line 1: unknown field `tabel`");
        check("table = \"t\"\n", &["--key", "id"], "neither the job file nor the command line has set");
        check(&JOB.replace("auto", "many"), &[], "ship orders.toml: chunk: `many` is neither");
        check(&JOB.replace("empty,stale", "empty,old"), &[], "fail_on: `old` is none of empty, all-missing");
        check(&JOB.replace("@status", "@"), &[], "set.status: `@` names no column of the input");
        check(JOB, &["--claim"], "claim: it needs keys_query");
    }
}
