//! What was typed: the arguments of every subcommand, and the text of `--help`.
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

use super::values::{duration, listen, minimum, pair, raise, scale, sql_text};

/// Exit codes, where people look for them.
const EXIT_CODES: &str = "\
Exit codes:
  0    done: on target, above the minimum, or with all the workers its plan can use
  1    the SQL, the connection or a commit failed, or the deadline passed
  2    wrong usage or configuration
  3    fewer workers than the minimum; nothing was kept
  4    refused before running: a right is missing, the server is too old or cannot serve, or the plan is too
       narrow (--plan-shortfall refuse); explain: out of reach; doctor: a check failed
  5    update incomplete: keys failed or are left, its deadline passed, or --fail-on applies
  6    done, but standard output could not be written
  7    done and kept, but with fewer workers than the minimum: do not run it again
  101  bug in headcount (panic): check what took effect, and report the message
  130  SIGINT (143: SIGTERM, 129: SIGHUP): cancelled, rolled back and cleaned up (not if `left at once`)

Connection: --dsn, else DATABASE_URL, else libpq's variables and files (PGHOST, ~/.pgpass).";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "headcount",
    version,
    about = "Guarded parallel queries and chunked updates on PostgreSQL",
    long_about = "Guarded parallel queries and chunked updates on PostgreSQL.\n\n`headcount run` makes sure that a query \
                  gets the parallel workers it was planned for. `headcount update` changes many rows in small \
                  transactions and survives lost connections."
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
#[command(next_help_heading = "Logging")]
pub(crate) struct Words {
    /// Print errors only; the result only with --json, or when it is a failure
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print log lines instead of progress (-vv: every attempt, -vvv: every sample); `RUST_LOG` overrides
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Format of log lines; implies -v [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogStyle>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogStyle {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a statement or script, make sure that it gets its parallel workers, or try again
    Run(Box<RunArgs>),
    /// Update many rows in small transactions, surviving lost connections
    Update(Box<super::update::args::UpdateArgs>),
    /// Show how many workers a statement can get, why not more, and how to fix it
    Explain(Box<ExplainArgs>),
    /// Show the worker pool live: leaders, their workers, reserved slots and the queue
    Watch(WatchArgs),
    /// Check whether the role, the server and any proxy are fit for the work
    Doctor(DoctorArgs),
    /// See it at work on a private server with TPC-H data; needs an installed PostgreSQL
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
  Ask for four workers, accept two at the last of five attempts (the defaults):
    headcount run --sql 'CREATE TABLE rollup AS SELECT day, sum(amount) FROM sales GROUP BY day'

  A script: eight workers, at least half of them, finished within two hours; metrics are pushed:
    headcount run -f nightly.sql --target 8 --min 50% --deadline 2h --push http://127.0.0.1:9091

  One of many jobs that share the pool: queue for slots, accept fewer after ten minutes:
    headcount run -f nightly.sql --reserve --degrade-after 10m

  All options from a job file; the command line overrides it:
    headcount run --job nightly.toml --json

  A statement that cannot run in a transaction block, and what removes a cancelled one's remains:
    headcount run --no-transaction --set max_parallel_maintenance_workers=4 \\
      --sql 'CREATE INDEX CONCURRENTLY i ON t (a)' --cleanup 'DROP INDEX CONCURRENTLY IF EXISTS i'

Times have a unit: 500ms, 10s, 5m, 2h.

Job file (TOML): task, sql or file, target_workers, min_workers, attempts, settle, launch_wait,
  monitor_interval, retry_delay, admission_wait, cancel_grace, deadline, cleanup, cleanup_limit,
  transaction, policy, plan_shortfall, ceiling, leave, above_role, gather, gather_after,
  gather_at_most, guarantee, every_launch, strict, trace_comment, reserve, reserve_wait, degrade_after, priority, pool_size, reserve_database,
  reserve_space, and a table [settings]. Times are strings (\"90s\").";

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
    /// Print the result as one JSON object on standard output, also when the run fails
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Which server, and as whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Server {
    /// Connection string, URL or `key=value` pairs [default: `DATABASE_URL`, else libpq's variables and files]
    #[arg(long, value_name = "DSN")]
    pub(crate) dsn: Option<String>,
    /// Connection string of the monitor: a role with more rights, or a direct way past a proxy [default: --dsn]
    #[arg(long, value_name = "DSN")]
    pub(crate) monitor_dsn: Option<String>,
}

/// What to run, and what it demands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Statement")]
pub(crate) struct Demand {
    /// The SQL to run: one statement or several
    #[arg(long, value_name = "SQL", conflicts_with = "file", allow_hyphen_values = true, value_parser = sql_text)]
    pub(crate) sql: Option<String>,
    /// Read the SQL from a file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Read the SQL and options from a job file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// Name of the task in metrics and `application_name` [default: name of the file, else `adhoc`]
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// Set a server parameter for the transaction (SET LOCAL); may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) settings: Vec<(String, String)>,
    /// Parallel workers to ask for, 1 to 1024 [default: 4]
    #[arg(long, value_name = "WORKERS", help_heading = "Workers")]
    pub(crate) target: Option<u32>,
    /// Workers the last attempt needs, as a number or a percentage of the target [default: 2; 1 with --target 1]
    #[arg(long, value_name = "WORKERS|PERCENT", value_parser = minimum, help_heading = "Workers")]
    pub(crate) min: Option<Minimum>,
}

/// How attempts are made.
#[allow(clippy::struct_excessive_bools, reason = "options of their own, each with its sentence")]
#[derive(Debug, Args)]
#[command(next_help_heading = "Attempts and timing")]
pub(crate) struct Timing {
    /// Maximum number of attempts, 1 to 100 [default: 5]
    #[arg(long, alias = "max-attempts", value_name = "N")]
    pub(crate) attempts: Option<u32>,
    /// SQL to run after each rejected attempt, to undo what its rollback does not
    #[arg(long, value_name = "SQL", help_heading = "Statement", allow_hyphen_values = true, value_parser = sql_text)]
    pub(crate) cleanup: Option<String>,
    /// Time limit of one cleanup, also after the deadline or a signal [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Statement")]
    pub(crate) cleanup_limit: Option<Duration>,
    /// How attempts are judged [default: prompt]
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<PolicyWord>,
    /// What to do when the plan cannot reach the target [default: lower; --policy classic always ignores it]
    #[arg(long, value_name = "ACTION", help_heading = "Workers")]
    pub(crate) plan_shortfall: Option<ShortfallWord>,
    /// Raise this session's `max_parallel_workers`, so that it gets workers from beyond a busy pool; `auto` is
    /// `max_worker_processes` minus --leave. Never exceeds what ALTER ROLE or ALTER DATABASE set
    #[arg(long, value_name = "WORKERS|auto", value_parser = raise, help_heading = "Workers")]
    pub(crate) ceiling: Option<Raise>,
    /// Worker processes (of `max_worker_processes`) that --ceiling and --gather leave to others [default: 2]
    #[arg(long, value_name = "N", help_heading = "Workers")]
    pub(crate) leave: Option<u32>,
    /// Let --ceiling and --guarantee exceed what ALTER ROLE or ALTER DATABASE set
    #[arg(long, help_heading = "Workers")]
    pub(crate) above_role: bool,
    /// Hold the slots that others leave of a busy pool, one by one, until there are enough to start; needs a connection
    /// for each
    #[arg(long, conflicts_with = "ceiling", help_heading = "Workers")]
    pub(crate) gather: bool,
    /// Time without room before slots are gathered [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Workers")]
    pub(crate) gather_after: Option<Duration>,
    /// Longest time to hold slots before there are enough; then they are given back for as long [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Workers")]
    pub(crate) gather_at_most: Option<Duration>,
    /// Start only where enough workers can be had whatever others do: by the role's limit, else by --ceiling auto, else by
    /// --gather; refused (code 4) where none of them can
    #[arg(long, conflicts_with_all = ["ceiling", "gather"], help_heading = "Workers")]
    pub(crate) guarantee: bool,
    /// Also cancel and retry when a later Gather of the statement gets too few workers, instead of only reporting it
    #[arg(long, help_heading = "Workers")]
    pub(crate) every_launch: bool,
    /// Roll back a statement if any of its Gathers got too few workers, even if that is known only at its end. A statement
    /// of which nobody can tell (`unverified`) is kept
    #[arg(long, conflicts_with = "no_transaction", help_heading = "Workers")]
    pub(crate) strict: bool,
    /// Run outside a transaction block (VACUUM, CREATE INDEX CONCURRENTLY). Committed work stays when an attempt is
    /// retried: the SQL must be safe to run twice, or have a --cleanup
    #[arg(long, help_heading = "Statement")]
    pub(crate) no_transaction: bool,
    /// Maximum wait for free slots in the pool before each attempt; 0s starts at once [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) admission_wait: Option<Duration>,
    /// Time limit of the whole run, waits included [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// Workers that appear within this time of each other belong to one launch, 10ms to 1m [default: 100ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) settle: Option<Duration>,
    /// How long to wait for the first worker while the pool is full (a tenth of the time so far, if that is longer) or
    /// cannot be seen [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) launch_wait: Option<Duration>,
    /// Time between two samples until the verdict, 1ms to 10s [default: 10ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) monitor_interval: Option<Duration>,
    /// Longest pause before another attempt if the pool does not show why the last one failed (a lost connection, for
    /// example) [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) retry_delay: Option<Duration>,
    /// How long a cancelled statement may take to end before its session is terminated [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) cancel_grace: Option<Duration>,
    /// Append the trace context (traceparent) to the statement as an SQL comment
    #[arg(long, help_heading = "Telemetry")]
    pub(crate) trace_comment: bool,
    #[command(flatten)]
    pub(crate) sharing: Sharing,
}

/// How the pool is shared with the other executions of a fleet.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sharing the pool with other jobs")]
pub(crate) struct Sharing {
    /// Queue for slots of the pool first, together with all jobs that use this option, on any host
    #[arg(long)]
    pub(crate) reserve: bool,
    /// Maximum wait for slots; then the minimum is accepted at the head of the queue, else exit code 3 [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) reserve_wait: Option<Duration>,
    /// Accept slots for the minimum after this wait, at the head of the queue [default: when --reserve-wait ends]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) degrade_after: Option<Duration>,
    /// Join the priority queue, which is served first
    #[arg(long)]
    pub(crate) priority: bool,
    /// Number of slots that all jobs share; must be the same for all [default: the server's pool]
    #[arg(long, value_name = "SLOTS")]
    pub(crate) pool_size: Option<u32>,
    /// Database that holds the queue (advisory locks); must be the same for all jobs [default: postgres]
    #[arg(long, value_name = "NAME")]
    pub(crate) reserve_database: Option<String>,
    /// Name of the queue; jobs with different names do not see each other [default: headcount]
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
    /// Serve `/metrics` while it runs: ADDRESS:PORT, or a port on 127.0.0.1 (0: any free one)
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    pub(crate) listen: Option<SocketAddr>,
    /// Push metrics to a Pushgateway at the end
    #[arg(long, value_name = "URL")]
    pub(crate) push: Option<String>,
    /// Write metrics to this file at the end, for the textfile collector of `node_exporter`
    #[arg(long, value_name = "FILE")]
    pub(crate) textfile: Option<PathBuf>,
    /// Send spans to an OTLP receiver, http:// or grpc:// [default: the `OTEL_*` variables]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

/// `headcount explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount explain --target 8 -f nightly.sql\n  headcount explain --set parallel_setup_cost=0 --sql 'SELECT count(*) FROM sales'\n\nThe statement is planned, not executed. Exit code 4 means that the plan cannot reach\nthe target: `headcount run` would then lower the target (outcome `lowered`), or not run\nwith --plan-shortfall refuse."
)]
pub(crate) struct ExplainArgs {
    /// Connection string, URL or `key=value` pairs [default: `DATABASE_URL`, else libpq's variables and files]
    #[arg(long, value_name = "DSN")]
    pub(crate) dsn: Option<String>,
    #[command(flatten)]
    pub(crate) demand: Demand,
    /// Print the result as one JSON object on standard output
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// `headcount doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount doctor\n  headcount doctor --dsn postgresql://batch@db/sales --target 8\n\nExit code 4 means that a check failed; warnings do not change the exit code."
)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Parallel workers that jobs will ask for [default: 4]
    #[arg(long, value_name = "WORKERS", default_value_t = 4, hide_default_value = true, help_heading = "Checks", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) target: u32,
    /// Database that will hold the queue of --reserve; naming it makes a problem there an error [default: postgres]
    #[arg(long, value_name = "NAME", help_heading = "Checks")]
    pub(crate) reserve_database: Option<String>,
    /// Print the result as one JSON object on standard output
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// `headcount watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount watch\n  headcount watch --once --json | jq .pool\n\nWhen standard output is not a terminal, a line is printed for each change."
)]
pub(crate) struct WatchArgs {
    /// Connection string, URL or `key=value` pairs [default: `DATABASE_URL`, else libpq's variables and files]
    #[arg(long, value_name = "DSN")]
    pub(crate) dsn: Option<String>,
    /// Print the current state once and exit
    #[arg(long)]
    pub(crate) once: bool,
    /// Time between two samples
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(crate) interval: Duration,
    /// Database that holds the queue of --reserve
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    pub(crate) reserve_database: String,
    /// Name of the queue
    #[arg(long, value_name = "NAME", default_value = "headcount")]
    pub(crate) reserve_space: String,
    /// Print one JSON object per sample
    #[arg(long)]
    pub(crate) json: bool,
}

/// `headcount demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headcount demo\n  headcount demo --keep\n  headcount demo --listen 127.0.0.1:9187 --keep-metrics 1m\n\nHEADCOUNT_PG_BIN names the folder with the PostgreSQL programs to use. The server and its\ndata are removed at the end."
)]
pub(crate) struct DemoArgs {
    /// Serve `/metrics` while it runs: ADDRESS:PORT, or a port on 127.0.0.1 (0: any free one)
    #[arg(long, value_name = "ADDR", value_parser = listen, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Keep serving `/metrics` for this long after the end
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) keep_metrics: Option<Duration>,
    /// Keep the server running after the end, until Ctrl-C, and print how to connect to it
    #[arg(long, conflicts_with = "keep_metrics")]
    pub(crate) keep: bool,
    /// TPC-H scale factor, 0.001 to 10; 0.1 is 600,000 rows of lineitem
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1, value_parser = scale)]
    pub(crate) scale: f64,
    /// Print the result of the guarded run as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// How attempts are timed, as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PolicyWord {
    /// Decide as soon as the samples prove enough workers, or too few
    Prompt,
    /// Fixed times: wait 1 s, sample every 0.5 s until 2 s, sleep 2 s between attempts
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
    /// Refuse to run (statements that read no table run all the same)
    Refuse,
    /// Lower the target to what the plan can use, and report it
    Lower,
    /// Run anyway, with the full target
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
