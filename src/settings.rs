//! Options of a guarded query, validated once at the edge.

use std::time::Duration;

use crate::decide::attempt::Spacing;
pub use crate::decide::ceiling::{LEAVE, Raise};
use crate::decide::verdict::{Patience, Pool};
use crate::error::{Error, human};
use crate::pg::plan;

/// The least that the last attempt is accepted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Minimum {
    /// So many workers.
    Workers(u32),
    /// A share of the target in percent, 0 to 100, rounded up to whole workers.
    Percent(u32),
    /// Two workers, or one where that is the target: what counts where nothing is said.
    Usual,
}

impl Minimum {
    /// In workers, for a given target.
    #[must_use]
    pub const fn of(self, target: u32) -> u32 {
        match self {
            Self::Workers(workers) => workers,
            Self::Percent(percent) => (target * percent).div_ceil(100),
            Self::Usual if target < 2 => target,
            Self::Usual => 2,
        }
    }
}

/// How attempts are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Decide on evidence, start when there is room.
    #[default]
    Prompt,
    /// The timing of the Java executor that Headcount replaces: wait 1 s, look every 0.5 s, cancel
    /// when the window (2 s from the start) ends under what is required, sleep 2 s. No look at the plan's
    /// reach or at the pool before a start.
    Classic,
}

/// What to do when the plan cannot reach the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PlanShortfall {
    /// Refuse before anything runs: no retry ever helps. Of a script each statement that reads tables must be
    /// able to have the target. A minimum of zero never refuses.
    Refuse,
    /// Take what the plan can have as the target, and as the minimum where that is more. The outcome is
    /// [`Lowered`](crate::Outcome::Lowered) then, with `lowered_to`.
    #[default]
    Lower,
    /// Run all the same.
    Ignore,
}

/// The options of one guarded query. Every field has the default of [`Settings::new`].
#[derive(Debug, Clone)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools, reason = "options of their own, each with its sentence")]
pub struct Settings {
    /// The task's name: metric label, span attribute and part of `application_name`. 1 to 52
    /// characters of `A-Z a-z 0-9 _ . -`. Keep it constant from run to run. The session is called
    /// `headcount:<task>`, and behind that stands what it demands and its attempt, where 63 bytes suffice
    /// (`headcount:rollup want=4 try=2`): match on it with `LIKE`.
    pub task: String,
    /// Parallel workers demanded; 1 to 1024 (the bound of `max_parallel_workers`). Default 4.
    pub target_workers: u32,
    /// What the last attempt is accepted with; at most the target. Default 2, of a target of 1 that. Zero accepts a serial run.
    pub min_workers: Minimum,
    /// Attempts in all; 1 to 100. Default 5.
    pub max_attempts: u32,
    /// Workers that show up no more than this apart belong to one launch; 10 ms to 60 s. Default 100 ms:
    /// starting registered workers takes some tens of milliseconds. Shorter may cancel a good launch.
    pub settle: Duration,
    /// Active time without one worker until the attempt counts as short, while there is no room for a worker
    /// without interruption, or room cannot be seen; up to 1 h. Default 1 s. A tenth of the active time
    /// is waited for where that is longer. Where room cannot be seen, it must exceed the serial part of the
    /// statement that comes before its first Gather.
    pub launch_wait: Duration,
    /// Time between two looks while an attempt is undecided; 1 ms to 10 s. Default 10 ms.
    pub monitor_interval: Duration,
    /// The longest pause between two attempts whose cause the pool does not show; up to 1 h. Default 2 s.
    pub retry_delay: Duration,
    /// The longest wait for room in the pool before an attempt; up to 24 h. Default 60 s. Zero starts at once.
    pub admission_wait: Duration,
    /// How long a cancelled statement may take to end before its session is terminated, and how long
    /// to wait for its workers to leave; 10 ms to 1 h. Default 5 s.
    pub cancel_grace: Duration,
    /// The most time that the whole execution may take, waits included; then what runs is cancelled, rolled
    /// back and cleaned up after, within `cancel_grace` and `cleanup_limit`. Default `None`: no bound.
    pub deadline: Option<Duration>,
    /// SQL that undoes what lies outside the statement's transaction; run in a transaction of its own
    /// after each attempt that is not accepted. Default `None`.
    pub cleanup: Option<String>,
    /// The most time that one cleanup may take, waits for a server that is away included; 10 ms to 24 h.
    /// Default 1 min. Then it is cancelled and rolled back, and the execution fails: what it should have
    /// undone is still there. It holds after the deadline, too.
    pub cleanup_limit: Duration,
    /// `SET LOCAL` pairs for the statement's transaction. `max_parallel_workers_per_gather` is set to
    /// the target unless it is among them.
    pub settings: Vec<(String, String)>,
    /// Whether to run inside a transaction; `false` for VACUUM and CREATE INDEX CONCURRENTLY, whose
    /// settings then last for the session. Default `true`.
    pub transaction: bool,
    /// Whether to take slots of the pool before the first attempt, in a queue that all executions with
    /// this option share, on whatever host. Default `false`. Needs a connection that keeps its backend
    /// (no proxy that pools transactions), to [`reserve_database`](Self::reserve_database); it is one more
    /// than an execution has without, so a long queue of processes counts against `max_connections`.
    ///
    /// It takes as many slots as the plan may start workers at once, and at least the target: with several
    /// Gathers that may be more than the target. With fewer slots than that (see [`degrade_after`](Self::degrade_after)
    /// and [`pool_size`](Self::pool_size)) they are divided among those Gathers, by
    /// `max_parallel_workers_per_gather`; the plan is inspected again with that, and an attempt is asked for the share of
    /// one, since it may be alone. Fewer slots than the minimum for each are taken only where that is all there is. Who holds the whole pool shares it with nobody, and is not limited. Where there is
    /// no plan to inspect, one Gather is assumed. Nothing can
    /// limit a script that sets `max_parallel_workers_per_gather` itself, nor a backend of the caller's own
    /// ([`Job::watch`](crate::Job::watch)): they must keep to their slots themselves.
    pub reserve: bool,
    /// The longest wait for slots, in the queue and at its head; up to 24 h. Default 1 h. Then who is at the
    /// head takes what is free if that is the minimum; else the execution ends below the minimum. A pool that has
    /// shrunk below the minimum is waited for as well: it may grow again. Zero asks once.
    pub reserve_wait: Duration,
    /// After so long a wait, in the queue and at its head, the minimum is enough at the head of the queue; up to 24 h. Default
    /// `None`: only at the end of `reserve_wait`. Short makes jobs slow that could have waited.
    pub degrade_after: Option<Duration>,
    /// Whether to stand in the queue that goes first. Default `false`. Many of these starve the others.
    pub priority: bool,
    /// Slots that the fleet shares; 1 to 1024, at least the target. Default `None`: the server's pool. A
    /// part of the pool leaves the rest to others, whose workers are in the way only beyond that rest. All members of a fleet must say the same.
    pub pool_size: Option<u32>,
    /// The database where slots are held. Default `postgres`. Advisory locks belong to a database and the
    /// pool belongs to the cluster, so all members of a fleet must name the same one.
    pub reserve_database: String,
    /// The name of the fleet's keys, which must not be those of other programs' advisory locks. Default
    /// `headcount`. Fleets with different names do not see each other's slots.
    pub reserve_space: String,
    /// Raises `max_parallel_workers` of the statement's session, which is each session's own ceiling and not the pool's
    /// size, so that workers start beyond a pool that others hold: no wait, no lost attempt. Default `None`: it exceeds
    /// what was set as the default for everybody. It never goes beyond `max_worker_processes` less
    /// [`leave`](Self::leave), nor above what ALTER ROLE or ALTER DATABASE set for this role or database, unless
    /// [`above_role`](Self::above_role). Refused with [`reserve`](Self::reserve), whose slots are the pool's, for another
    /// client's backend, and beside a value of `max_parallel_workers` among the [`settings`](Self::settings).
    pub ceiling: Option<Raise>,
    /// Processes of `max_worker_processes` that a raised ceiling leaves to others; up to 1024. Default 2.
    pub leave: u32,
    /// Whether [`ceiling`](Self::ceiling) may go above what was set for this role or database itself. Default `false`.
    pub above_role: bool,
    /// How attempts are timed. Default [`Policy::Prompt`].
    pub policy: Policy,
    /// What to do when the plan cannot reach the target. Default [`PlanShortfall::Lower`].
    pub plan_shortfall: PlanShortfall,
    /// Whether a later launch of a statement that is proven short is a reason to cancel, too. Default `false`: the
    /// work that was done is kept, and the shortage is told. Rows that are handed over at the verdict
    /// ([`Job::query`](crate::Job::query)) cannot be taken back, so it is refused there.
    pub every_launch: bool,
    /// Whether a statement that was short at any launch is rolled back, even when that is found out only at its end.
    /// Default `false`. Needs a transaction of ours: refused with `transaction: false`, for another client's
    /// backend and for rows that are handed over at the verdict.
    pub strict: bool,
    /// Whether to append the trace context to the statement as a comment (`traceparent`). Default
    /// `false`: a text that differs each time defeats query statistics that group by text.
    pub trace_comment: bool,
}

/// The longest task name: `application_name` holds 63 bytes, `headcount:` takes ten.
const MAX_TASK: usize = 52;
const HOUR: Duration = Duration::from_hours(1);

impl Settings {
    /// The defaults, for a task of this name.
    #[must_use]
    pub fn new(task: impl Into<String>) -> Self {
        Self {
            task: task.into(),
            target_workers: 4,
            min_workers: Minimum::Usual,
            max_attempts: 5,
            settle: Duration::from_millis(100),
            launch_wait: Duration::from_secs(1),
            monitor_interval: Duration::from_millis(10),
            retry_delay: Duration::from_secs(2),
            admission_wait: Duration::from_mins(1),
            cancel_grace: Duration::from_secs(5),
            deadline: None,
            cleanup: None,
            cleanup_limit: Duration::from_mins(1),
            settings: Vec::new(),
            transaction: true,
            reserve: false,
            reserve_wait: HOUR,
            degrade_after: None,
            priority: false,
            pool_size: None,
            reserve_database: "postgres".to_owned(),
            reserve_space: "headcount".to_owned(),
            ceiling: None,
            leave: LEAVE,
            above_role: false,
            policy: Policy::default(),
            plan_shortfall: PlanShortfall::default(),
            every_launch: false,
            strict: false,
            trace_comment: false,
        }
    }

    /// The least number of workers that the last attempt is accepted with.
    #[must_use]
    pub const fn minimum(&self) -> u32 {
        self.min_workers.of(self.target_workers)
    }

    /// The processes without those that a raised ceiling leaves to others.
    pub(crate) const fn left_of(&self, processes: Pool) -> Pool {
        let left = if self.ceiling.is_some() { self.leave } else { 0 };
        Pool { size: processes.size.saturating_sub(left), ..processes }
    }

    /// Whether attempts are made though plan or pool cannot give what is demanded.
    pub(crate) fn ignores_shortfall(&self) -> bool {
        self.policy == Policy::Classic || self.plan_shortfall == PlanShortfall::Ignore
    }

    /// The settings of the statement's transaction, the default one included.
    #[must_use]
    pub fn effective_settings(&self) -> Vec<(String, String)> {
        const GATHER: &str = "max_parallel_workers_per_gather";
        let mut settings = self.settings.clone();
        if !settings.iter().any(|(name, _)| name.eq_ignore_ascii_case(GATHER)) {
            settings.insert(0, (GATHER.to_owned(), self.target_workers.to_string()));
        }
        settings
    }

    pub(crate) const fn patience(&self) -> Patience {
        match self.policy {
            Policy::Prompt => Patience::Prompt { settle: self.settle, launch_wait: self.launch_wait },
            Policy::Classic => {
                Patience::Classic { wait: Duration::from_secs(1), window: Duration::from_secs(2) }
            }
        }
    }

    pub(crate) const fn spacing(&self) -> Spacing {
        match self.policy {
            Policy::Prompt => Spacing::Jittered(self.retry_delay),
            Policy::Classic => Spacing::Fixed(Duration::from_secs(2)),
        }
    }

    /// The time between two looks while an attempt is undecided.
    pub(crate) const fn undecided_interval(&self) -> Duration {
        match self.policy {
            Policy::Prompt => self.monitor_interval,
            Policy::Classic => Duration::from_millis(500),
        }
    }

    fn check_ceiling(&self) -> Result<(), Error> {
        within("leave", self.leave, 0, 1024)?;
        let Some(raise) = self.ceiling else {
            let alone = [("above_role", self.above_role), ("leave", self.leave != LEAVE)];
            return match alone.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(Error::configuration(option, "it needs a ceiling (--ceiling)")),
                None => Ok(()),
            };
        };
        if let Raise::To(workers) = raise {
            within("ceiling", workers, 1, 1024)?;
        }
        if self.reserve {
            let problem = "it takes workers beyond the pool, and --reserve waits for slots of the pool: give one of them";
            return Err(Error::configuration("ceiling", problem));
        }
        if self.settings.iter().any(|(name, _)| name.eq_ignore_ascii_case("max_parallel_workers")) {
            let problem = "it sets max_parallel_workers, and so does --set: give one of them";
            return Err(Error::configuration("ceiling", problem));
        }
        Ok(())
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// A configuration error that names the first field out of its bounds.
    pub fn validate(&self) -> Result<(), Error> {
        check_task(&self.task)?;
        within("target_workers", self.target_workers, 1, 1024)?;
        if let Minimum::Percent(percent) = self.min_workers {
            within("min_workers", percent, 0, 100)?;
        }
        let minimum = self.minimum();
        if minimum > self.target_workers {
            let target = self.target_workers;
            return Err(Error::configuration(
                "min_workers",
                format!("the minimum ({minimum}) is above the target ({target})"),
            ));
        }
        if self.strict && !self.transaction {
            let problem =
                "a short statement is rolled back, which takes a transaction: leave out --no-transaction";
            return Err(Error::configuration("strict", problem.to_owned()));
        }
        self.check_ceiling()?;
        within("max_attempts", self.max_attempts, 1, 100)?;
        let ms = Duration::from_millis;
        duration("settle", self.settle, ms(10), ms(60_000))?;
        duration("launch_wait", self.launch_wait, Duration::ZERO, HOUR)?;
        duration("monitor_interval", self.monitor_interval, ms(1), ms(10_000))?;
        duration("retry_delay", self.retry_delay, Duration::ZERO, HOUR)?;
        duration("admission_wait", self.admission_wait, Duration::ZERO, 24 * HOUR)?;
        duration("cancel_grace", self.cancel_grace, ms(10), HOUR)?;
        duration("cleanup_limit", self.cleanup_limit, ms(10), 24 * HOUR)?;
        if let Some(deadline) = self.deadline {
            duration("deadline", deadline, ms(1), 24 * 365 * HOUR)?;
        }
        duration("reserve_wait", self.reserve_wait, Duration::ZERO, 24 * HOUR)?;
        if let Some(patience) = self.degrade_after {
            duration("degrade_after", patience, Duration::ZERO, 24 * HOUR)?;
        }
        if let Some(size) = self.pool_size {
            within("pool_size", size, 1, 1024)?;
            let target = self.target_workers;
            if size < target {
                let problem = format!("the fleet's slots ({size}) are fewer than the target ({target})");
                return Err(Error::configuration("pool_size", problem));
            }
        }
        for (field, name) in
            [("reserve_database", &self.reserve_database), ("reserve_space", &self.reserve_space)]
        {
            if name.is_empty() || name.len() > 63 {
                return Err(Error::configuration(field, format!("{name:?} is not 1 to 63 bytes")));
            }
        }
        for (name, _) in &self.settings {
            let known =
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            if !known {
                return Err(Error::configuration(
                    "settings",
                    format!("{name:?} is not the name of a setting"),
                ));
            }
        }
        if let Some((name, _)) = self.settings.iter().find(|(_, value)| value.contains('\0')) {
            let problem = "its value has a NUL character, which PostgreSQL takes in no text";
            return Err(Error::configuration(format!("settings (--set {name})"), problem));
        }
        if let Some(problem) = self.cleanup.as_deref().and_then(plan::flaw_of_cleanup) {
            return Err(Error::configuration("cleanup", problem));
        }
        let untracked = |(name, value): &&(String, String)| {
            name.eq_ignore_ascii_case("track_activities") && !says_yes(value)
        };
        if self.settings.iter().any(|pair| untracked(&pair)) {
            return Err(Error::configuration(
                "settings (--set track_activities)",
                "it must stay on: a running statement would look idle, and could not be cancelled",
            ));
        }
        Ok(())
    }
}

/// As the server reads a boolean (bool.c): a part of the word is enough.
fn says_yes(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    !value.is_empty()
        && (["true", "yes"].iter().any(|word| word.starts_with(&*value)) || value == "on" || value == "1")
}

/// Checks a task name against its bounds.
pub(crate) fn check_task(task: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if task.is_empty() || task.len() > MAX_TASK || !task.chars().all(allowed) {
        let problem = format!("{task:?} is not 1 to {MAX_TASK} characters of A-Z a-z 0-9 _ . -");
        return Err(Error::configuration("task", problem));
    }
    Ok(())
}

/// Checks a number against its bounds.
pub(crate) fn within(field: &str, value: u32, least: u32, most: u32) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::configuration(field, format!("{value} is not within {least} to {most}")))
}

/// Checks a duration against its bounds.
pub(crate) fn duration(field: &str, value: Duration, least: Duration, most: Duration) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::configuration(
        field,
        format!("{} is not within {} to {}", human(value), human(least), human(most)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(field: &str, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::new("rollup");
        settings.validate().unwrap();
        change(&mut settings);
        let error = settings.validate().unwrap_err();
        assert!(error.is_configuration());
        assert!(error.to_string().starts_with(&format!("{field}: ")), "{error}");
    }

    #[test]
    fn each_bad_option_is_named() {
        check("task", |s| s.task = "nightly job".into());
        check("task", |s| s.task = "x".repeat(53));
        check("target_workers", |s| s.target_workers = 0);
        check("min_workers", |s| s.min_workers = Minimum::Workers(5));
        check("min_workers", |s| s.min_workers = Minimum::Percent(101));
        check("max_attempts", |s| s.max_attempts = 0);
        check("settle", |s| s.settle = Duration::ZERO);
        check("monitor_interval", |s| s.monitor_interval = Duration::ZERO);
        check("cancel_grace", |s| s.cancel_grace = Duration::ZERO);
        check("cleanup_limit", |s| s.cleanup_limit = Duration::ZERO);
        check("deadline", |s| s.deadline = Some(Duration::ZERO));
        check("reserve_wait", |s| s.reserve_wait = Duration::MAX);
        check("degrade_after", |s| s.degrade_after = Some(Duration::MAX));
        check("pool_size", |s| s.pool_size = Some(0));
        check("pool_size", |s| s.pool_size = Some(3));
        check("reserve_database", |s| s.reserve_database.clear());
        check("reserve_space", |s| s.reserve_space = "x".repeat(64));
        check("ceiling", |s| s.ceiling = Some(Raise::To(0)));
        check("ceiling", |s| (s.ceiling, s.reserve) = (Some(Raise::Auto), true));
        check("ceiling", |s| {
            (s.ceiling, s.settings) = (Some(Raise::Auto), vec![("Max_Parallel_Workers".into(), "9".into())]);
        });
        check("leave", |s| s.leave = 1025);
        check("leave", |s| s.leave = 5);
        check("above_role", |s| s.above_role = true);
        check("settings", |s| s.settings = vec![("work_mem; DROP".into(), "1".into())]);
        for off in ["off", "OF", "false", "n", "0", ""] {
            check("settings (--set track_activities)", |s| {
                s.settings = vec![("Track_Activities".into(), off.into())];
            });
        }
    }

    #[test]
    fn a_session_may_be_told_to_say_what_it_does() {
        let mut settings = Settings::new("rollup");
        for on in ["on", "TRUE", "y", "1"] {
            settings.settings = vec![("track_activities".into(), on.into())];
            settings.validate().unwrap();
        }
    }

    #[test]
    fn a_percentage_is_rounded_up_to_whole_workers() {
        assert_eq!(Minimum::Percent(50).of(4), 2);
        assert_eq!(Minimum::Percent(51).of(4), 3);
        assert_eq!(Minimum::Percent(1).of(4), 1);
        assert_eq!(Minimum::Percent(0).of(4), 0);
    }

    #[test]
    fn a_target_of_one_needs_no_word_of_the_minimum() {
        for (target, minimum) in [(1, 1), (2, 2), (3, 2), (8, 2)] {
            let settings = Settings { target_workers: target, ..Settings::new("rollup") };
            assert_eq!((settings.validate().is_ok(), settings.minimum()), (true, minimum));
        }
        check("min_workers", |s| (s.target_workers, s.min_workers) = (1, Minimum::Workers(2)));
    }

    #[test]
    fn the_target_is_asked_of_each_gather_unless_the_caller_says_otherwise() {
        let mut settings = Settings::new("rollup");
        assert_eq!(
            settings.effective_settings(),
            [("max_parallel_workers_per_gather".to_owned(), "4".to_owned())]
        );
        settings.settings = vec![("Max_Parallel_Workers_Per_Gather".into(), "8".into())];
        assert_eq!(settings.effective_settings().len(), 1);
    }
}
