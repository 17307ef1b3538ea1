//! Options of a guarded query. [`Settings::validate`] checks all bounds before anything runs.

mod workers;

use std::time::Duration;

use crate::decide::attempt::Spacing;
pub use crate::decide::ceiling::{LEAVE, Raise};
use crate::decide::verdict::{Patience, Pool};
use crate::error::{Error, human};
use crate::pg::plan;

/// The number of workers that the last attempt must have.
///
/// ```
/// use headcount::Minimum;
///
/// assert_eq!((Minimum::Percent(50).of(5), Minimum::Usual.of(1)), (3, 1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Minimum {
    /// This many workers, at most the target. Zero accepts a serial run.
    Workers(u32),
    /// A percentage of the target, 0 to 100, rounded up to whole workers.
    Percent(u32),
    /// The default: two workers, or one if the target is one.
    Usual,
}

impl Minimum {
    /// The number of workers, for a given target.
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

/// How attempts are judged and timed.
///
/// ```no_run
/// # fn job(headcount: &headcount::Headcount) {
/// let job = headcount.task("as_before").policy(headcount::Policy::Classic);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Starts as soon as the pool has free slots, and decides as soon as the samples prove enough workers or
    /// too few.
    #[default]
    Prompt,
    /// Fixed times, as in the Java executor that Headcount replaces: waits 1 s, takes a sample every 0.5 s,
    /// cancels at 2 s if there are too few workers, and sleeps 2 s between attempts. It does not check the
    /// plan or the pool before it starts.
    Classic,
}

/// What to do if the plan cannot reach the target.
///
/// ```no_run
/// # fn job(headcount: &headcount::Headcount) {
/// let job = headcount.task("close_day").plan_shortfall(headcount::PlanShortfall::Refuse);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PlanShortfall {
    /// Refuses to run, because no retry would help. In a script, each statement that reads tables must be able
    /// to reach the target. With a minimum of zero nothing is refused.
    Refuse,
    /// Lowers the target to what the plan can use, and the minimum too if it is higher. The outcome is
    /// [`Lowered`](crate::Outcome::Lowered), with `lowered_to`.
    #[default]
    Lower,
    /// Runs anyway, with the full target.
    Ignore,
}

/// The options of one guarded query. [`Settings::new`] sets the defaults.
///
/// ```
/// use headcount::{Minimum, Settings};
///
/// let mut settings = Settings::new("close_day");
/// settings.min_workers = Minimum::Percent(75);
/// settings.deadline = Some(std::time::Duration::from_secs(3600));
/// assert!(settings.validate().is_ok());
/// settings.target_workers = 2000;
/// assert_eq!(settings.validate().unwrap_err().field(), Some("target_workers"));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools, reason = "options of their own, each with its sentence")]
pub struct Settings {
    /// The task's name: metric label, span attribute and part of `application_name`. 1 to 52
    /// characters of `A-Z a-z 0-9 _ . -`. Use the same name for every run of a job.
    ///
    /// The session's `application_name` is `headcount:<task>`, followed by the target and the attempt if the
    /// 63 bytes suffice (`headcount:rollup want=4 try=2`). To find it, use `LIKE`.
    pub task: String,
    /// Parallel workers to ask for; 1 to 1024 (the bound of `max_parallel_workers`). Default 4. All attempts
    /// but the last must have them.
    pub target_workers: u32,
    /// Workers that the last attempt must have; at most the target. Default 2, or 1 with a target of 1. Zero
    /// accepts a serial run.
    pub min_workers: Minimum,
    /// Maximum number of attempts; 1 to 100. Default 5.
    pub max_attempts: u32,
    /// Workers that appear within this time of each other belong to one launch; 10 ms to 60 s. Default 100 ms:
    /// starting the workers of a launch takes some tens of milliseconds. A shorter time may cancel good launches.
    pub settle: Duration,
    /// How long to wait for the first worker while no slot is free, or free slots cannot be seen; up to 1 h.
    /// Default 1 s. Then the attempt counts as short. Only active time without interruption counts, not waits for
    /// locks. If a tenth of the active time so far is longer, that is the limit instead.
    ///
    /// Where free slots cannot be seen, it must be longer than the serial part of the statement before its first
    /// Gather.
    pub launch_wait: Duration,
    /// Time between two samples until the verdict; 1 ms to 10 s. Default 10 ms.
    pub monitor_interval: Duration,
    /// Maximum pause between two attempts if the cause does not show in the pool; up to 1 h. Default 2 s.
    pub retry_delay: Duration,
    /// Maximum wait for free slots before an attempt; up to 24 h. Default 60 s. Zero starts at once.
    pub admission_wait: Duration,
    /// How long a cancelled statement may take to end before its session is terminated, and how long
    /// to wait for its workers to exit; 10 ms to 1 h. Default 5 s.
    pub cancel_grace: Duration,
    /// Time limit of the whole execution, waits included. Then the statement is cancelled, rolled back and
    /// cleaned up, within `cancel_grace` and `cleanup_limit`. Default `None`: no limit.
    pub deadline: Option<Duration>,
    /// SQL that undoes what a rollback does not. It runs in a transaction of its own after each attempt that
    /// is not accepted. Default `None`.
    pub cleanup: Option<String>,
    /// Time limit of one cleanup, waits for an unreachable server included; 10 ms to 24 h. Default 1 min. Then
    /// the cleanup is cancelled and rolled back, and the execution fails: what it removes is still there. The
    /// cleanup has this time after the deadline, too.
    pub cleanup_limit: Duration,
    /// Names and values to `SET LOCAL` in the statement's transaction. `max_parallel_workers_per_gather` is
    /// set to the target unless it is among them.
    pub settings: Vec<(String, String)>,
    /// Whether to run inside a transaction. Default `true`. Use `false` for VACUUM and CREATE INDEX
    /// CONCURRENTLY; the settings then last for the session.
    pub transaction: bool,
    /// Whether to reserve slots of the pool before the first attempt, in a queue that all executions with
    /// this option share, on any host. Default `false`.
    ///
    /// It needs one more connection per execution, to [`reserve_database`](Self::reserve_database), so a long queue
    /// counts against `max_connections`. That connection must keep its backend (no `PgBouncer` in transaction mode).
    ///
    /// An execution reserves as many slots as its plan may start workers at once, and at least the target; with
    /// several Gathers that may be more than the target. If it gets fewer ([`degrade_after`](Self::degrade_after),
    /// [`pool_size`](Self::pool_size)), they are divided among the Gathers by `max_parallel_workers_per_gather`, the
    /// plan is inspected again, and an attempt needs the share of one Gather. Fewer slots than the minimum for each
    /// Gather are accepted only if the pool has no more. An execution that holds the whole pool is not limited.
    /// Without a plan to inspect, one Gather is assumed. Scripts that set `max_parallel_workers_per_gather` and
    /// backends of another client ([`Job::watch`](crate::Job::watch)) must keep to their slots by themselves.
    pub reserve: bool,
    /// Maximum wait for slots, in the queue and at its head; up to 24 h. Default 1 h. Then an execution at the
    /// head takes the free slots if they suffice for the minimum; otherwise it ends below the minimum. It also
    /// waits for a pool that has shrunk below the minimum, since it may grow again. Zero asks once.
    pub reserve_wait: Duration,
    /// After this wait, in the queue and at its head, slots for the minimum are enough; up to 24 h. Default
    /// `None`: only at the end of `reserve_wait`. A short time makes jobs slow that could have waited.
    pub degrade_after: Option<Duration>,
    /// Whether to join the priority queue, which is served first. Default `false`. Many of these starve the others.
    pub priority: bool,
    /// Number of slots that all executions share; 1 to 1024, at least the target. Default `None`: the server's
    /// pool. A smaller number leaves the rest to other sessions; their workers count only beyond that rest. It
    /// must be the same for all executions that share the queue.
    pub pool_size: Option<u32>,
    /// The database that holds the queue, as advisory locks. Default `postgres`. It must be the same for all.
    pub reserve_database: String,
    /// The name of the queue, from which the keys of its advisory locks are made. Default `headcount`.
    /// Executions with different names do not see each other's slots.
    pub reserve_space: String,
    /// Raises `max_parallel_workers` of the statement's session, so that it gets workers from beyond a busy pool,
    /// without waits or lost attempts. (The setting is a limit of each session, not the size of a pool.) Default
    /// `None`, because it exceeds the server's default for everybody.
    ///
    /// It never exceeds `max_worker_processes` minus [`leave`](Self::leave), nor what ALTER ROLE or ALTER DATABASE
    /// set for this role or database, unless [`above_role`](Self::above_role) is set. It cannot be combined with
    /// [`reserve`](Self::reserve), with `max_parallel_workers` among the [`settings`](Self::settings), or with
    /// another client's backend ([`Job::watch`](crate::Job::watch)).
    pub ceiling: Option<Raise>,
    /// Worker processes (of `max_worker_processes`) that a raised ceiling leaves to others; up to 1024. Default 2.
    pub leave: u32,
    /// Whether [`ceiling`](Self::ceiling) may exceed what ALTER ROLE or ALTER DATABASE set. Default `false`.
    pub above_role: bool,
    /// Whether to gather slots of a pool that others never leave alone: placeholders (sessions whose statement sleeps in
    /// one parallel worker) take each slot that becomes free, until there are enough. Default `false`, because held
    /// slots are idle. It needs as many connections as the statement may have workers, and one more.
    ///
    /// While the placeholders hold, the session's limit is raised by as many, so that the statement finds room; they go when
    /// its workers are seen. Where the server has too few processes for both, they go first, and others may be quicker.
    ///
    /// It cannot be combined with [`ceiling`](Self::ceiling), which needs no slots, nor with another client's backend
    /// ([`Job::watch`](crate::Job::watch)), and needs an [`admission_wait`](Self::admission_wait).
    pub gather: bool,
    /// How long there must have been too little room before slots are gathered; up to 24 h. Default 2 s. A role that may not
    /// see the pool gathers at once.
    pub gather_after: Duration,
    /// The longest time that slots are held before there are enough; 10 ms to 1 h. Default 10 s. Then they are given back
    /// for as long.
    pub gather_at_most: Duration,
    /// Whether to start only where enough workers can be had whatever others do: because the role has a limit above that of
    /// the others, or else with a raised [`ceiling`](Self::ceiling), or else by [gathering](Self::gather). Where none of
    /// these can hold, the execution is refused ([`Refusal::NoGuarantee`](crate::Refusal::NoGuarantee)) with the reason for
    /// each. Default `false`. It cannot be combined with `ceiling` and `gather`, between which it chooses.
    ///
    /// The default minimum is then the target. An attempt that gathers does not start before enough slots are held, at most for
    /// [`admission_wait`](Self::admission_wait). Where the server has too few processes for the statement beside what is
    /// held, an attempt may fail, and another follows.
    pub guarantee: bool,
    /// How attempts are judged and timed. Default [`Policy::Prompt`].
    pub policy: Policy,
    /// What to do if the plan cannot reach the target. Default [`PlanShortfall::Lower`].
    pub plan_shortfall: PlanShortfall,
    /// Whether to cancel and retry also if a later launch of a statement is proven short. Default `false`: the
    /// result is kept and the shortage reported. Refused for [`Job::query`](crate::Job::query), whose rows are
    /// handed over at the verdict and cannot be taken back.
    pub every_launch: bool,
    /// Whether to roll back a statement if any of its launches was short, even if that is known only at its end. A statement of
    /// which nobody can tell ([`Outcome::Unverified`](crate::Outcome::Unverified)) is kept. Default `false`. Refused with `transaction: false`, for [`Job::query`](crate::Job::query) and for another
    /// client's backend ([`Job::watch`](crate::Job::watch)).
    pub strict: bool,
    /// Whether to append the trace context (`traceparent`) to the statement as a comment. Default `false`: a
    /// text that differs each time defeats statistics that group queries by text.
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
            gather: false,
            gather_after: Duration::from_secs(2),
            gather_at_most: Duration::from_secs(10),
            guarantee: false,
            policy: Policy::default(),
            plan_shortfall: PlanShortfall::default(),
            every_launch: false,
            strict: false,
            trace_comment: false,
        }
    }

    /// The number of workers that the last attempt must have.
    #[must_use]
    pub const fn minimum(&self) -> u32 {
        match self.min_workers {
            Minimum::Usual if self.guarantee => self.target_workers,
            minimum => minimum.of(self.target_workers),
        }
    }

    /// The processes without those that a raised ceiling leaves to others.
    pub(crate) const fn left_of(&self, processes: Pool) -> Pool {
        Pool { size: processes.size.saturating_sub(self.leave), ..processes }
    }

    /// Whether attempts are made though plan or pool cannot give what is demanded.
    pub(crate) fn ignores_shortfall(&self) -> bool {
        self.policy == Policy::Classic || self.plan_shortfall == PlanShortfall::Ignore
    }

    /// The settings of the statement's transaction, including `max_parallel_workers_per_gather`.
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

    /// Checks every bound.
    ///
    /// # Errors
    /// A configuration error that names the first field that is out of bounds.
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
                "a short statement is rolled back, which takes a transaction: leave out `no_transaction`";
            return Err(Error::configuration("strict", problem.to_owned()));
        }
        self.check_ceiling()?;
        self.check_gather()?;
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
            return Err(Error::setting(name, problem));
        }
        if let Some(problem) = self.cleanup.as_deref().and_then(plan::flaw_of_cleanup) {
            return Err(Error::configuration("cleanup", problem));
        }
        let untracked = |(name, value): &&(String, String)| {
            name.eq_ignore_ascii_case("track_activities") && !says_yes(value)
        };
        if self.settings.iter().any(|pair| untracked(&pair)) {
            return Err(Error::setting(
                "track_activities",
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
mod tests;
