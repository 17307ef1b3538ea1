//! `headcount watch`: the pool, live.
//!
//! On a terminal one picture that is redrawn; off it a block of lines whenever something changed but time;
//! with `--json` an object a look. The same look feeds all three.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use headcount::pg::connect::Endpoint;
use headcount::pg::fleet::{Fleet, Leader, Waiting, Watcher};

use super::args::WatchArgs;
use super::exit::{self, Failed};
use super::output;
use super::signals::Signals;

/// Looks until a signal comes, or once; returns the exit code.
pub(crate) async fn run(args: &WatchArgs, signals: &mut Signals) -> u8 {
    match signals.unless(watch(args)).await {
        // Nothing was under way: leaving is the orderly end.
        Err(_) | Ok(Ok(())) => exit::DONE,
        Ok(Err(failed)) => {
            output::complain(&failed);
            failed.code()
        }
    }
}

async fn watch(args: &WatchArgs) -> Result<(), Failed> {
    if args.interval < Duration::from_millis(100) {
        return Err(Failed::usage("--interval: less than 100ms is a load and shows no more"));
    }
    let endpoint = match &args.dsn {
        Some(dsn) => Endpoint::from_dsn(dsn)?,
        None => Endpoint::from_environment()?,
    };
    let server = endpoint.describe();
    let watcher = Watcher::connect(&endpoint, &args.reserve_database, &args.reserve_space).await?;
    let mut attempts = Attempts::default();
    let mut last = String::new();
    loop {
        let mut fleet = watcher.look().await?;
        attempts.note(&mut fleet);
        if args.json {
            output::print_json(&fleet);
        } else if std::io::stdout().is_terminal() && !args.once {
            output::print(&redrawn(&picture(&server, &fleet, true)));
        } else {
            let news = picture(&server, &fleet, false);
            if news != last {
                output::print(picture(&server, &fleet, true).trim_end());
                last = news;
            }
        }
        if args.once {
            return Ok(());
        }
        tokio::time::sleep(args.interval).await;
    }
}

/// Attempts of executions that do not say theirs: a transaction that is younger than it was is another one.
#[derive(Debug, Default)]
struct Attempts(HashMap<i32, (f64, u32)>);

impl Attempts {
    fn note(&mut self, fleet: &mut Fleet) {
        self.0.retain(|pid, _| fleet.leaders.iter().any(|leader| leader.pid == *pid));
        for leader in &mut fleet.leaders {
            let (Some(age), Some(_)) = (leader.running_seconds, &leader.task) else { continue };
            let (before, count) = self.0.entry(leader.pid).or_insert((age, 1));
            if age < *before {
                *count += 1;
            }
            *before = age;
            leader.attempt = leader.attempt.or(Some(*count));
        }
    }
}

/// Drawn over what was there; the cursor goes home, each line ends clean, and so does the screen.
fn redrawn(picture: &str) -> String {
    format!("\x1b[H{}\x1b[J", picture.replace('\n', "\x1b[K\n"))
}

/// What there is to see. Without `times` it differs only when something happened.
fn picture(server: &str, fleet: &Fleet, times: bool) -> String {
    let pool = fleet.pool;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{server}: pool {}/{} used, {} held by the fleet, {} used without a slot{}",
        pool.used,
        pool.size,
        pool.held,
        pool.outsiders,
        if pool.visible { "" } else { " (other roles' workers cannot be seen: grant pg_read_all_stats)" }
    );
    for leader in &fleet.leaders {
        let _ = writeln!(text, "  {}", leading(leader, times));
    }
    for waiting in &fleet.queue {
        let _ = writeln!(text, "  {}", queued(waiting, times));
    }
    text
}

fn leading(leader: &Leader, times: bool) -> String {
    let Leader { pid, workers, slots, .. } = leader;
    let name = match (&leader.task, &leader.role) {
        (Some(task), _) => task.clone(),
        (None, Some(role)) => format!("(outsider {role})"),
        (None, None) => "(outsider)".to_owned(),
    };
    let of = leader.demand.map(|demand| format!(" of {demand}")).unwrap_or_default();
    let mut line = format!("{name:<24} pid {pid:<8} workers {workers}{of}");
    if *slots > 0 {
        let _ = write!(line, ", slots {slots}");
    }
    if let Some(attempt) = leader.attempt {
        let _ = write!(line, ", attempt {attempt}");
    }
    if let Some(state) = leader.state.as_deref().filter(|state| *state != "active") {
        let _ = write!(line, ", {state}");
    }
    line + &since(leader.running_seconds.filter(|_| times))
}

fn queued(waiting: &Waiting, times: bool) -> String {
    let Waiting { place, task, demand, pid, .. } = waiting;
    let queue = if waiting.priority { "priority queue" } else { "queue" };
    let name = if task.is_empty() { "?" } else { task };
    format!("{name:<24} pid {pid:<8} {queue} {place}, wants {demand} slots")
        + &since(waiting.waited_seconds.filter(|_| times))
}

fn since(seconds: Option<f64>) -> String {
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(|time| format!(", {}", output::time_text(time)))
        .unwrap_or_default()
}
