//! From what was typed and the job file to validated settings and the text of the statement.
//!
//! What is typed wins over the job file, and that over the defaults of [`Settings`]. Each source is
//! checked where it is read, so that a mistake is named with its place; the bounds are checked by the
//! library, once, for both.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headcount::server;
use headcount::{Minimum, Raise, Settings};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::args::{Demand, PolicyWord, Sharing, ShortfallWord, Timing};
use super::exit::Failed;
use super::values::{duration, minimum, raise};

/// A task's longest name; the library refuses longer ones.
const MAX_TASK: usize = 52;

/// What to run, and how.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) sql: String,
    /// Where the statement is from.
    pub(crate) file: Option<PathBuf>,
    pub(crate) settings: Settings,
}

/// The job file. The fields are those of [`Settings`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    task: Option<String>,
    sql: Option<String>,
    file: Option<PathBuf>,
    target_workers: Option<u32>,
    #[serde(default, deserialize_with = "maybe_minimum")]
    min_workers: Option<Minimum>,
    #[serde(alias = "max_attempts")]
    attempts: Option<u32>,
    settle: Option<Time>,
    launch_wait: Option<Time>,
    monitor_interval: Option<Time>,
    retry_delay: Option<Time>,
    admission_wait: Option<Time>,
    cancel_grace: Option<Time>,
    deadline: Option<Time>,
    cleanup: Option<String>,
    cleanup_limit: Option<Time>,
    #[serde(default)]
    settings: BTreeMap<String, JobText>,
    transaction: Option<bool>,
    policy: Option<PolicyWord>,
    plan_shortfall: Option<ShortfallWord>,
    #[serde(default, deserialize_with = "maybe_raise")]
    ceiling: Option<Raise>,
    leave: Option<u32>,
    above_role: Option<bool>,
    gather: Option<bool>,
    gather_after: Option<Time>,
    gather_at_most: Option<Time>,
    guarantee: Option<bool>,
    every_launch: Option<bool>,
    strict: Option<bool>,
    trace_comment: Option<bool>,
    reserve: Option<bool>,
    reserve_wait: Option<Time>,
    degrade_after: Option<Time>,
    priority: Option<bool>,
    pool_size: Option<u32>,
    reserve_database: Option<String>,
    reserve_space: Option<String>,
}

impl Wanted {
    /// Reads all sources. `timing` is absent where nothing is run.
    pub(crate) fn resolve(demand: &Demand, timing: Option<&Timing>) -> Result<Self, Failed> {
        let job = match &demand.job {
            Some(path) => toml_of(path)?,
            None => JobFile::default(),
        };
        let (sql, file) = statement(demand, &job)?;
        let named = file.as_deref().or(demand.job.as_deref());
        let task = demand.task.clone().or_else(|| job.task.clone()).unwrap_or_else(|| task_of(named));
        let mut settings = Settings::new(task);
        job.apply(&mut settings);
        apply_demand(demand, &mut settings);
        if let Some(timing) = timing {
            apply_timing(timing, &mut settings);
            apply_sharing(&timing.sharing, &mut settings)?;
        }
        settings.validate()?;
        server::check(&sql, timing.map(|_| settings.transaction))?;
        Ok(Self { sql, file, settings })
    }
}

/// Reads a job file.
pub(crate) fn toml_of<T: DeserializeOwned>(path: &Path) -> Result<T, Failed> {
    let text = read_text(path, "--job")?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let problem =
            error.message().replace('\n', "; ").replace("expected u32", "expected a number from 0 up");
        Failed::usage(format!("{}, line {line}: {problem}", path.display()))
    })
}

impl JobFile {
    fn apply(self, settings: &mut Settings) {
        put(&mut settings.target_workers, self.target_workers);
        put(&mut settings.min_workers, self.min_workers);
        put(&mut settings.max_attempts, self.attempts);
        put(&mut settings.settle, self.settle);
        put(&mut settings.launch_wait, self.launch_wait);
        put(&mut settings.monitor_interval, self.monitor_interval);
        put(&mut settings.retry_delay, self.retry_delay);
        put(&mut settings.admission_wait, self.admission_wait);
        put(&mut settings.cancel_grace, self.cancel_grace);
        settings.deadline = self.deadline.map(Duration::from);
        settings.cleanup = self.cleanup;
        put(&mut settings.cleanup_limit, self.cleanup_limit);
        settings.settings = self.settings.into_iter().map(|(name, value)| (name, value.0)).collect();
        put(&mut settings.transaction, self.transaction);
        put(&mut settings.policy, self.policy);
        put(&mut settings.plan_shortfall, self.plan_shortfall);
        settings.ceiling = self.ceiling;
        put(&mut settings.leave, self.leave);
        put(&mut settings.above_role, self.above_role);
        put(&mut settings.gather, self.gather);
        put(&mut settings.gather_after, self.gather_after);
        put(&mut settings.gather_at_most, self.gather_at_most);
        put(&mut settings.guarantee, self.guarantee);
        put(&mut settings.every_launch, self.every_launch);
        put(&mut settings.strict, self.strict);
        put(&mut settings.trace_comment, self.trace_comment);
        put(&mut settings.reserve, self.reserve);
        put(&mut settings.reserve_wait, self.reserve_wait);
        settings.degrade_after = self.degrade_after.map(Duration::from);
        put(&mut settings.priority, self.priority);
        settings.pool_size = self.pool_size;
        put(&mut settings.reserve_database, self.reserve_database);
        put(&mut settings.reserve_space, self.reserve_space);
    }
}

fn apply_demand(demand: &Demand, settings: &mut Settings) {
    put(&mut settings.target_workers, demand.target);
    put(&mut settings.min_workers, demand.min);
    for (name, value) in &demand.settings {
        settings.settings.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        settings.settings.push((name.clone(), value.clone()));
    }
}

fn apply_timing(timing: &Timing, settings: &mut Settings) {
    put(&mut settings.max_attempts, timing.attempts);
    put(&mut settings.settle, timing.settle);
    put(&mut settings.launch_wait, timing.launch_wait);
    put(&mut settings.monitor_interval, timing.monitor_interval);
    put(&mut settings.retry_delay, timing.retry_delay);
    put(&mut settings.admission_wait, timing.admission_wait);
    put(&mut settings.cancel_grace, timing.cancel_grace);
    put(&mut settings.cleanup_limit, timing.cleanup_limit);
    put(&mut settings.policy, timing.policy);
    put(&mut settings.plan_shortfall, timing.plan_shortfall);
    settings.deadline = timing.deadline.or(settings.deadline);
    settings.cleanup = timing.cleanup.clone().or_else(|| settings.cleanup.take());
    settings.transaction &= !timing.no_transaction;
    settings.ceiling = timing.ceiling.or(settings.ceiling);
    put(&mut settings.leave, timing.leave);
    settings.above_role |= timing.above_role;
    settings.gather |= timing.gather;
    settings.guarantee |= timing.guarantee;
    put(&mut settings.gather_after, timing.gather_after);
    put(&mut settings.gather_at_most, timing.gather_at_most);
    settings.every_launch |= timing.every_launch;
    settings.strict |= timing.strict;
    settings.trace_comment |= timing.trace_comment;
}

fn apply_sharing(sharing: &Sharing, settings: &mut Settings) -> Result<(), Failed> {
    settings.reserve |= sharing.reserve;
    if let Some(option) = sharing.dependent().filter(|_| !settings.reserve) {
        return Err(Failed::usage(format!("{option} needs --reserve")));
    }
    put(&mut settings.reserve_wait, sharing.reserve_wait);
    settings.degrade_after = sharing.degrade_after.or(settings.degrade_after);
    settings.priority |= sharing.priority;
    settings.pool_size = sharing.pool_size.or(settings.pool_size);
    put(&mut settings.reserve_database, sharing.reserve_database.clone());
    put(&mut settings.reserve_space, sharing.reserve_space.clone());
    Ok(())
}

fn put<T>(field: &mut T, value: Option<impl Into<T>>) {
    if let Some(value) = value {
        *field = value.into();
    }
}

/// The statement's text, and the file that it came from.
fn statement(demand: &Demand, job: &JobFile) -> Result<(String, Option<PathBuf>), Failed> {
    let (sql, file) = match (&demand.sql, &demand.file) {
        (Some(sql), _) => (sql.clone(), None),
        (None, Some(path)) => (read_text(path, "--file")?, Some(path.clone())),
        (None, None) => match (&job.sql, &job.file) {
            (Some(_), Some(_)) => return Err(Failed::usage("the job file has both `sql` and `file`")),
            (Some(sql), None) => (sql.clone(), None),
            (None, Some(path)) => {
                // Relative to the job file, wherever it is called from.
                let folder = demand.job.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
                let path = folder.join(path);
                (read_text(&path, "file")?, Some(path))
            }
            (None, None) => {
                return Err(Failed::usage(
                    "nothing to run: give --sql, --file, or a job file with `sql` or `file`",
                ));
            }
        },
    };
    if sql.trim().is_empty() {
        return Err(Failed::usage("the statement is empty"));
    }
    Ok((sql, file))
}

fn read_text(path: &Path, option: &str) -> Result<String, Failed> {
    let read = || {
        if path != Path::new("-") {
            return std::fs::read(path);
        }
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let name = path.display();
    let bytes = read().map_err(|error| Failed::usage(format!("{option}: cannot read {name}: {error}")))?;
    text_of(&bytes).map_err(|problem| Failed::usage(format!("{option}: cannot read {name}: {problem}")))
}

/// Editors on other systems begin a file with a byte order mark, or write another encoding altogether.
fn text_of(bytes: &[u8]) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("it is in UTF-16: save it as UTF-8".to_owned());
    }
    let line = |end: usize| bytes[..end].split(|byte| *byte == b'\n').count();
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let line = line(at);
        return Err(format!(
            "line {line} has a NUL character, which no text has: is it a text file, in UTF-8?"
        ));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) => Err(format!("line {} is not in UTF-8: save it as that", line(error.valid_up_to()))),
    }
}

/// The task's name as far as what was typed tells it.
pub(crate) fn task(demand: &Demand) -> String {
    let named = demand.file.as_deref().or(demand.job.as_deref());
    demand.task.clone().unwrap_or_else(|| task_of(named))
}

/// The file's name as far as a task's name may have its characters; `adhoc` without one.
pub(crate) fn task_of(file: Option<&Path>) -> String {
    let stem =
        file.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' })
        .take(MAX_TASK)
        .collect();
    if name.trim_matches(['_', '-']).is_empty() { "adhoc".to_owned() } else { name }
}

/// A duration as a text with a unit.
#[derive(Debug)]
pub(crate) struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let JobText(text) = JobText::deserialize(deserializer)?;
        duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        time.0
    }
}

/// A text, a number or a truth value, as a text.
#[derive(Debug)]
pub(crate) struct JobText(pub(crate) String);

impl<'de> Deserialize<'de> for JobText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Self(text)),
            toml::Value::Integer(number) => Ok(Self(number.to_string())),
            toml::Value::Float(number) => Ok(Self(number.to_string())),
            toml::Value::Boolean(yes) => Ok(Self(if yes { "on" } else { "off" }.to_owned())),
            other => Err(serde::de::Error::custom(format!("a {} is no value here", other.type_str()))),
        }
    }
}

fn maybe_minimum<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Minimum>, D::Error> {
    let JobText(text) = JobText::deserialize(deserializer)?;
    minimum(&text).map(Some).map_err(serde::de::Error::custom)
}

fn maybe_raise<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Raise>, D::Error> {
    let JobText(text) = JobText::deserialize(deserializer)?;
    raise(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.toml");
        std::fs::write(&path, text).unwrap();
        let job = toml_of::<JobFile>(&path).map_err(|failed| failed.to_string())?;
        let mut settings = Settings::new("rollup");
        job.apply(&mut settings);
        Ok(settings)
    }

    #[test]
    fn a_job_file_has_the_names_of_the_settings() {
        let settings =
            job("target_workers = 8\nmin_workers = \"50%\"\ndeadline = \"2h\"\npolicy = \"classic\"\n\
                            [settings]\nwork_mem = \"64MB\"\nenable_sort = false\nparallel_setup_cost = 0\n")
            .unwrap();
        assert_eq!((settings.target_workers, settings.minimum()), (8, 4));
        assert_eq!(settings.deadline, Some(Duration::from_hours(2)));
        let pairs: Vec<_> = settings.settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(pairs, ["enable_sort=off", "parallel_setup_cost=0", "work_mem=64MB"]);
    }

    #[test]
    fn the_old_name_of_attempts_still_works() {
        for name in ["attempts", "max_attempts"] {
            assert_eq!(job(&format!("{name} = 7\n")).unwrap().max_attempts, 7);
        }
    }

    #[test]
    fn sharing_options_need_reserve_wherever_that_is_said() {
        let sharing = Sharing { priority: true, ..Sharing::default() };
        let mut settings = Settings::new("rollup");
        assert!(apply_sharing(&sharing, &mut settings).unwrap_err().to_string().contains("--priority needs"));
        let mut settings = job("reserve = true\ndegrade_after = \"10m\"\npool_size = 6\n").unwrap();
        apply_sharing(&sharing, &mut settings).unwrap();
        assert!(settings.reserve && settings.priority);
        assert_eq!((settings.degrade_after, settings.pool_size), (Some(Duration::from_mins(10)), Some(6)));
    }

    #[test]
    fn a_mistake_in_a_job_file_is_named_with_its_line() {
        let problem = job("task = \"a\"\ntarget_wrokers = 3\n").unwrap_err();
        assert!(problem.contains("job.toml, line 2: unknown field `target_wrokers`"), "{problem}");
        assert!(!problem.contains('\n'), "{problem}");
        let problem = job("target_workers = -1\n").unwrap_err();
        assert!(problem.contains("line 1") && problem.ends_with("expected a number from 0 up"), "{problem}");
        let problem = job("deadline = 60\n").unwrap_err();
        assert!(problem.contains("line 1") && problem.contains("`60` is no time with a unit"), "{problem}");
    }

    #[test]
    fn a_file_that_is_no_text_is_refused_with_its_line() {
        let refused = |bytes: &[u8], words: &str| {
            let problem = text_of(bytes).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        };
        refused(b"select 1;\nselect '\0'", "line 2 has a NUL");
        refused(b"\xff\xfes\0e\0l\0", "UTF-16");
        refused(b"select 1;\n\nselect '\xe4'", "line 3 is not in UTF-8");
        assert_eq!(text_of(b"\xef\xbb\xbfselect 1").unwrap(), "select 1");
    }

    #[test]
    fn a_task_is_named_after_its_file() {
        let named = |path: &str| task_of(Some(Path::new(path)));
        assert_eq!(named("jobs/nightly rollup.sql"), "nightly_rollup");
        assert_eq!(named("-"), "adhoc");
        assert_eq!(task_of(None), "adhoc");
        assert_eq!(named(&"x".repeat(80)).len(), MAX_TASK);
    }
}
