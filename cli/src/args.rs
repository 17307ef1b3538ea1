//! What was typed: the arguments of every subcommand, and the words of `--help`.
//!
//! `--help` is read at night by someone whose job just failed, so each subcommand ends with examples
//! that can be pasted. Options carry no defaults here: what is not typed may stand in the job file, and
//! else [`Settings`](headcount::Settings) knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use headcount::{Minimum, PlanShortfall, Policy, Raise};
use serde::Deserialize;

use super::values::{duration, listen, minimum, pair, raise, scale};

/// Exit codes, where people look for them.
const EXIT_CODES: &str = "\
Exit codes:
  0    done: on target, above the minimum, or with all that its plan can have
  1    the SQL, the connection or a commit failed for good, or the deadline passed
  2    wrong usage or configuration
  3    fewer workers than the minimum; nothing was kept
  4    refused before running: plan too narrow, blind monitor, server too old
  5    the update is incomplete: some keys failed or are left
  6    done, but standard output could not be written
  7    done and kept, with fewer workers than the minimum: do not run it again
  101  a mistake in headcount itself: look what took effect, and report the line
  130  interrupted (143: terminated, 129: hung up), after cancelling, rolling back and cleaning up

Connections: --dsn, else DATABASE_URL, else libpq's variables and files (PGHOST, PGSERVICE, ~/.pgpass...).";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "headcount",
    version,
    about = "PostgreSQL batch work that finishes on time, and shows what happened"
)]
#[command(after_help = EXIT_CODES, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) words: Words,
}

/// What is said on standard error, and how.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Words on standard error")]
pub(crate) struct Words {
    /// Say nothing but what failed; a result is printed with `--json` only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Write log lines in place of progress; twice for attempts, three times for each look. `RUST_LOG` wins
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// How log lines look; implies `-v`
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogStyle>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogStyle {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a statement with a guaranteed number of parallel workers
    Run(Box<RunArgs>),
    /// Update many rows in chunks, a transaction each, through lost connections
    Update(Box<super::update::args::UpdateArgs>),
    /// Say how many workers a statement can have, why not more, and what would give it more
    Explain(Box<ExplainArgs>),
    /// See the pool live: leaders, their workers, and who holds and who waits for slots
    Watch(WatchArgs),
    /// Check whether this role, this server and what lies between can do the work
    Doctor(DoctorArgs),
    /// See it work on a private server with real data, which needs nothing but an installed PostgreSQL
    Demo(DemoArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  headcount completions bash > ~/.local/share/bash-completion/completions/headcount"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Examples:\n  headcount man | man -l -")]
    Man,
    /// Not for people, who would find it in help and completions: see [`super::watchdog`]
    #[command(skip)]
    Watchdog,
}

impl Command {
    /// Whether its result is one JSON object.
    pub(crate) fn prints_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Update(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Demo(args) => args.json,
            Self::Watch(_) | Self::Completions { .. } | Self::Man | Self::Watchdog => false,
        }
    }
}

const RUN_EXAMPLES: &str = "\
Examples:
  Four workers or not at all, five attempts (the defaults), server from DATABASE_URL or PGHOST...:
    headcount run --sql 'CREATE TABLE rollup AS SELECT day, sum(amount) FROM sales GROUP BY day'

  A script from a file, at least half of eight workers, done by morning, metrics to a Pushgateway:
    headcount run -f nightly.sql --target 8 --min 50% --deadline 2h --push http://127.0.0.1:9091

  One of many jobs that share the pool: wait for a turn instead of fighting for workers:
    headcount run -f nightly.sql --reserve --degrade-after 10m

  Everything in a job file; what is typed wins over it:
    headcount run --job nightly.toml --json

  Statements that refuse a transaction block, with what undoes a cancelled one:
    headcount run --no-transaction --set max_parallel_maintenance_workers=4 \\
      --sql 'CREATE INDEX CONCURRENTLY i ON t (a)' --cleanup 'DROP INDEX CONCURRENTLY IF EXISTS i'

Job file (TOML): task, sql or file, target_workers, min_workers, max_attempts, settle, launch_wait,
  monitor_interval, retry_delay, admission_wait, cancel_grace, deadline, cleanup, cleanup_limit, transaction,
  policy, plan_shortfall, ceiling, leave, above_role, every_launch, strict, trace_comment, reserve, reserve_wait,
  degrade_after, priority, pool_size, reserve_database, reserve_space, and a table [settings]. Durations are texts such as \"90s\".";

/// `headcount run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES, after_long_help = format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) demand: Demand,
    #[command(flatten)]
    pub(crate) timing: Timing,
    #[command(flatten)]
    pub(crate) exporters: Exporters,
    /// Print one JSON object on standard output, also when the run fails
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which server, and as whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Server {
    /// Connection string: a URL, or `key=value` pairs. Default: `DATABASE_URL`, else libpq's variables and files
    #[arg(long, value_name = "URL")]
    pub(crate) dsn: Option<String>,
    /// Another connection string for the monitor: a role that may see and cancel, or a way past a pooling proxy
    #[arg(long, value_name = "URL")]
    pub(crate) monitor_dsn: Option<String>,
}

/// What to run, and what it demands.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to run")]
pub(crate) struct Demand {
    /// The statement, or several
    #[arg(long, value_name = "SQL", conflicts_with = "file")]
    pub(crate) sql: Option<String>,
    /// A file with the statement, or several; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A job file (TOML) with all of this
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// The task's name, in metrics and in `application_name`. Default: the file's name, else `adhoc`
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// Parallel workers demanded. Default 4
    #[arg(long, value_name = "WORKERS")]
    pub(crate) target: Option<u32>,
    /// What the last attempt is accepted with: workers, or a share of the target. Default 2, or 1 with --target 1
    #[arg(long, value_name = "WORKERS|PERCENT", value_parser = minimum)]
    pub(crate) min: Option<Minimum>,
    /// A server setting for the statement's transaction; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) settings: Vec<(String, String)>,
}

/// How attempts are made.
#[allow(clippy::struct_excessive_bools, reason = "options of their own, each with its sentence")]
#[derive(Debug, Args)]
#[command(next_help_heading = "Attempts")]
pub(crate) struct Timing {
    /// Attempts in all. Default 5
    #[arg(long, value_name = "N")]
    pub(crate) attempts: Option<u32>,
    /// SQL that undoes what lies outside the transaction, after each attempt that is not kept
    #[arg(long, value_name = "SQL")]
    pub(crate) cleanup: Option<String>,
    /// The most time that one cleanup may take, also after the deadline or a signal. Default 1m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) cleanup_limit: Option<Duration>,
    /// `prompt` decides on evidence; `classic` waits 1 s, looks every 0.5 s, sleeps 2 s. Default prompt
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<PolicyWord>,
    /// When the plan cannot reach the target: lower the target to it, refuse to run (what reads no table
    /// runs all the same), or ignore that, as `classic` always does. Default lower
    #[arg(long, value_name = "WHAT")]
    pub(crate) plan_shortfall: Option<ShortfallWord>,
    /// Raise `max_parallel_workers` of the statement's own session to so many, so that workers start beyond a pool that
    /// others hold: `auto` is `max_worker_processes` less --leave. Never above what was set for the role or the database
    #[arg(long, value_name = "WORKERS|auto", value_parser = raise)]
    pub(crate) ceiling: Option<Raise>,
    /// Processes of `max_worker_processes` that --ceiling leaves to others. Default 2
    #[arg(long, value_name = "N")]
    pub(crate) leave: Option<u32>,
    /// Let --ceiling go above what ALTER ROLE or ALTER DATABASE set
    #[arg(long)]
    pub(crate) above_role: bool,
    /// Cancel a statement whose later launches are short, too; else they are only told
    #[arg(long)]
    pub(crate) every_launch: bool,
    /// Keep nothing of a statement that was short at any launch, even when that is found out at its end (what only the
    /// server's counters tell after the commit is told, and kept)
    #[arg(long, conflicts_with = "no_transaction")]
    pub(crate) strict: bool,
    /// Run outside a transaction block: VACUUM, CREATE INDEX CONCURRENTLY. What an attempt that is tried again
    /// has committed stays: it must be safe to run twice, or have a --cleanup
    #[arg(long)]
    pub(crate) no_transaction: bool,
    /// The longest wait for room in the pool, before each attempt; 0s starts at once. Default 60s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) admission_wait: Option<Duration>,
    /// The most time that everything may take. Default: no bound
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// Workers that show up no more than this apart belong to one launch. Default 100ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) settle: Option<Duration>,
    /// How long to wait for the first worker while there is no room for one, or that cannot be seen. Default 1s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) launch_wait: Option<Duration>,
    /// Time between two looks while an attempt is undecided. Default 10ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) monitor_interval: Option<Duration>,
    /// The longest pause between attempts where the pool cannot be seen. Default 2s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) retry_delay: Option<Duration>,
    /// How long a cancelled statement may take to end before its session is terminated. Default 5s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) cancel_grace: Option<Duration>,
    /// Append the trace context to the statement as a comment
    #[arg(long)]
    pub(crate) trace_comment: bool,
    #[command(flatten)]
    pub(crate) sharing: Sharing,
}

/// How the pool is shared with the other executions of a fleet.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sharing the pool with a fleet")]
pub(crate) struct Sharing {
    /// Take slots of the pool first, in a queue with all others that say so, on whatever host: as many as the
    /// plan may start workers at once, several Gathers more than the target. Fewer slots are divided among them
    #[arg(long)]
    pub(crate) reserve: bool,
    /// The longest wait for slots; then the minimum is enough at the head of the queue, else it ends with code 3.
    /// Default 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) reserve_wait: Option<Duration>,
    /// Be content with the minimum after so long a wait, at the head of the queue. Default: at the end of
    /// --reserve-wait
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) degrade_after: Option<Duration>,
    /// Stand in the queue that goes first
    #[arg(long)]
    pub(crate) priority: bool,
    /// Slots that the fleet shares; the same for all of it. Default: the server's pool
    #[arg(long, value_name = "SLOTS")]
    pub(crate) pool_size: Option<u32>,
    /// The database where slots are held; the same for the whole fleet. Default postgres
    #[arg(long, value_name = "NAME")]
    pub(crate) reserve_database: Option<String>,
    /// The name of the fleet's keys. Default headcount
    #[arg(long, value_name = "NAME")]
    pub(crate) reserve_space: Option<String>,
}

impl Sharing {
    /// An option that means nothing without `--reserve`.
    pub(crate) fn dependent(&self) -> Option<&'static str> {
        [
            ("--reserve-wait", self.reserve_wait.is_some()),
            ("--degrade-after", self.degrade_after.is_some()),
            ("--priority", self.priority),
            ("--pool-size", self.pool_size.is_some()),
            ("--reserve-database", self.reserve_database.is_some()),
            ("--reserve-space", self.reserve_space.is_some()),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }
}

/// Where telemetry goes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct Exporters {
    /// Serve `/metrics` while it runs: ADDRESS:PORT, or a port on loopback; 0 takes a free one
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    pub(crate) listen: Option<SocketAddr>,
    /// Push metrics to a Pushgateway at the end
    #[arg(long, value_name = "URL")]
    pub(crate) push: Option<String>,
    /// Write metrics at the end to a file for `node_exporter`'s textfile collector
    #[arg(long, value_name = "FILE")]
    pub(crate) textfile: Option<PathBuf>,
    /// Send spans to an OTLP receiver (http:// or grpc://). Default: the `OTEL_*` variables
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

/// `headcount explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount explain --target 8 -f nightly.sql\n  headcount explain --set parallel_setup_cost=0 --sql 'SELECT count(*) FROM sales'\n\nNothing is executed. Exit code 4 when the target is out of reach: a run then\nlowers its target (outcome `lowered`), or with --plan-shortfall refuse does not run."
)]
pub(crate) struct ExplainArgs {
    /// Connection string: a URL, or `key=value` pairs. Default: `DATABASE_URL`, else libpq's variables and files
    #[arg(long, value_name = "URL")]
    pub(crate) dsn: Option<String>,
    #[command(flatten)]
    pub(crate) demand: Demand,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `headcount doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount doctor\n  headcount doctor --dsn postgresql://batch@db/sales --monitor-dsn postgresql://monitor@db:5432/sales\n\nExit code 4 when a check fails; warnings leave it 0."
)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Workers to plan for. Default 4
    #[arg(long, value_name = "WORKERS", default_value_t = 4, hide_default_value = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) target: u32,
    /// The database where a fleet's slots are to be held; it is an error then if they cannot. Default postgres
    #[arg(long, value_name = "NAME")]
    pub(crate) reserve_database: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `headcount watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount watch\n  headcount watch --once --json | jq .pool\n\nOff a terminal a line is printed whenever something changed."
)]
pub(crate) struct WatchArgs {
    /// Connection string: a URL, or `key=value` pairs. Default: `DATABASE_URL`, else libpq's variables and files
    #[arg(long, value_name = "URL")]
    pub(crate) dsn: Option<String>,
    /// Look once and leave
    #[arg(long)]
    pub(crate) once: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(crate) interval: Duration,
    /// The database where the fleet's slots are held
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    pub(crate) reserve_database: String,
    /// The name of the fleet's keys
    #[arg(long, value_name = "NAME", default_value = "headcount")]
    pub(crate) reserve_space: String,
    /// Print one JSON object a look
    #[arg(long)]
    pub(crate) json: bool,
}

/// `headcount demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount demo\n  headcount demo --listen 127.0.0.1:9187 --keep-metrics 1m\n\nHEADCOUNT_PG_BIN names the folder of the PostgreSQL to use. Everything is removed at the end."
)]
pub(crate) struct DemoArgs {
    /// Where `/metrics` can be read while it runs
    #[arg(long, value_name = "ADDR", value_parser = listen, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Keep serving `/metrics` so long after the end
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) keep_metrics: Option<Duration>,
    /// TPC-H scale factor: 0.1 is 600,000 rows of lineitem
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1, value_parser = scale)]
    pub(crate) scale: f64,
    /// Print the run's JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// How attempts are timed, as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PolicyWord {
    /// Decide on evidence
    Prompt,
    /// The timing of the Java executor
    Classic,
}

impl From<PolicyWord> for Policy {
    fn from(word: PolicyWord) -> Self {
        match word {
            PolicyWord::Prompt => Self::Prompt,
            PolicyWord::Classic => Self::Classic,
        }
    }
}

/// What to do when the plan cannot reach the target, as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShortfallWord {
    /// Refuse before anything runs
    Refuse,
    /// Take what the plan can have, and say so
    Lower,
    /// Run all the same
    Ignore,
}

impl From<ShortfallWord> for PlanShortfall {
    fn from(word: ShortfallWord) -> Self {
        match word {
            ShortfallWord::Refuse => Self::Refuse,
            ShortfallWord::Lower => Self::Lower,
            ShortfallWord::Ignore => Self::Ignore,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
