//! `headcount watch`: the pool, live.
//!
//! On a terminal one picture that is redrawn; off it a block of lines whenever something changed but time;
//! with `--json` an object a look. The same look feeds all three.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use headcount::Fix;
use headcount::server::Endpoint;
use headcount::server::fleet::{Fleet, Leader, PoolUse, Waiting, Watcher};

use super::args::WatchArgs;
use super::exit::{self, Failed};
use super::object;
use super::output;
use super::run::endpoint;
use super::signals::Signals;

/// Looks until a signal comes, or once; returns the exit code.
pub(crate) async fn run(args: &WatchArgs, signals: &mut Signals) -> u8 {
    match signals.unless(watch(args)).await {
        // Nothing was under way: leaving is the orderly end.
        Err(_) | Ok(Ok(())) => exit::DONE,
        Ok(Err(failed)) => {
            output::complain(&failed);
            if args.json {
                object::print_failure(failed.reason(), &failed.to_string(), failed.code());
            }
            failed.code()
        }
    }
}

async fn watch(args: &WatchArgs) -> Result<(), Failed> {
    if args.interval < Duration::from_millis(100) {
        return Err(Failed::usage("--interval: less than 100ms is a load and shows no more"));
    }
    let endpoint = endpoint(args.dsn.as_deref())?;
    let server = endpoint.describe();
    let mut watcher = connect(args, &endpoint).await?;
    let mut last = String::new();
    loop {
        let fleet = match watcher.look().await {
            Ok(fleet) => fleet,
            Err(error) if error.is_connection_lost() && !args.once => {
                output::complain(&Failed::from(error));
                watcher = again(args, &endpoint).await?;
                last.clear();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if args.json {
            object::print_look(&fleet);
        } else if std::io::stdout().is_terminal() && !args.once {
            output::print(&redrawn(&picture(&server, &fleet, true), screen()));
        } else {
            let news = picture(&server, &fleet, false);
            if news != last {
                output::print(picture(&server, &fleet, true).trim_end());
                last = news;
            }
        }
        if args.once || !output::is_read() {
            return Ok(());
        }
        tokio::time::sleep(args.interval).await;
    }
}

/// It looks from the database of the fleet's slots, which the role may not be let into.
async fn connect(args: &WatchArgs, endpoint: &Endpoint) -> Result<Watcher, Failed> {
    let database = &args.reserve_database;
    Watcher::connect(endpoint, database, &args.reserve_space).await.map_err(|error| {
        let closed = matches!(error.sqlstate(), Some("3D000" | "42501" | "28000" | "55000"));
        let failed = Failed::from(error);
        if !closed {
            return failed;
        }
        failed.with_fix(Fix::Advice(format!(
            "it looks from the database {database}: name another one with --reserve-database (slots and queue are shown only \
             from the one that the jobs use)"
        )))
    })
}

/// Connects anew, for as long as that may succeed: a server that starts again is when people look most.
async fn again(args: &WatchArgs, endpoint: &Endpoint) -> Result<Watcher, Failed> {
    output::say("connecting again");
    loop {
        match connect(args, endpoint).await {
            Ok(watcher) => {
                output::say("connected again");
                return Ok(watcher);
            }
            Err(failed) if failed.error().is_some_and(headcount::Error::is_retryable) => {
                tokio::time::sleep(args.interval).await;
            }
            Err(failed) => return Err(failed),
        }
    }
}

/// Drawn over what was there: the cursor goes home, each line ends clean, and so does the screen. A line
/// or a picture that is too long would scroll, and be drawn beneath itself from then on.
fn redrawn(picture: &str, (rows, columns): (usize, usize)) -> String {
    let lines: Vec<String> = picture.lines().map(|line| line.chars().take(columns).collect()).collect();
    // The cursor rests on the last row.
    let room = rows.saturating_sub(1).max(1);
    let mut shown = lines.clone();
    if lines.len() > room {
        shown.truncate(room - 1);
        let hidden = lines.len() - shown.len();
        let note = format!("  ... {hidden} more; --once prints all");
        shown.push(note.chars().take(columns).collect());
    }
    format!("\x1b[H{}\x1b[K\x1b[J", shown.join("\x1b[K\n"))
}

/// Rows and columns; a terminal that does not know its size is as large as they all were.
fn screen() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let known = size.filter(|size| size.ws_row > 0 && size.ws_col > 0);
    known.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()))
}

/// What there is to see. Without `times` it differs only when something happened.
fn picture(server: &str, fleet: &Fleet, times: bool) -> String {
    let mut text = format!("{server}: {}\n", pool(fleet.pool));
    // Who only waits is shown once, in its queue.
    let waits = |leader: &&Leader| fleet.queue.iter().any(|waiting| waiting.leader == Some(leader.pid));
    for leader in fleet.leaders.iter().filter(|leader| !waits(leader)) {
        let _ = writeln!(text, "  {}", leading(leader, times));
    }
    for waiting in &fleet.queue {
        let _ = writeln!(text, "  {}", queued(waiting, times));
    }
    text
}

fn pool(pool: PoolUse) -> String {
    let PoolUse { size, used, held, outsiders, gathered, visible, .. } = pool;
    if visible {
        let idle = if gathered > 0 {
            format!(", {gathered} held idle until there are enough")
        } else {
            String::new()
        };
        return format!(
            "pool {used}/{size} used, {held} held by the fleet, {outsiders} used without a slot{idle}"
        );
    }
    format!(
        "pool of {size}, its use is not visible, {held} held by the fleet (other roles' workers, and jobs that may be \
         such, are hidden from this role: GRANT pg_read_all_stats)"
    )
}

fn leading(leader: &Leader, times: bool) -> String {
    let Leader { pid, slots, gathered, .. } = leader;
    let workers = known(leader.workers);
    let name = match (&leader.task, &leader.role) {
        (Some(task), _) => task.clone(),
        (None, _) if leader.autovacuum => "(autovacuum)".to_owned(),
        (None, Some(role)) => format!("(outsider {role})"),
        (None, None) => "(outsider)".to_owned(),
    };
    let mut line = format!("{name:<24} pid {pid:<8} workers {workers}");
    // Outsiders have no demand and no attempts; a job that does not say its own is not given any.
    if leader.task.is_some() {
        let _ = write!(line, " of {}", known(leader.demand));
    }
    if *slots > 0 {
        let _ = write!(line, ", slots {slots}");
    }
    if *gathered > 0 {
        let _ = write!(line, ", gathering: {gathered} held");
    }
    if leader.task.is_some() {
        let _ = write!(line, ", attempt {}", known(leader.attempt));
    }
    if let Some(state) = leader.state.as_deref().filter(|state| *state != "active") {
        let _ = write!(line, ", {state}");
    }
    line + &since(leader.running_seconds.filter(|_| times))
}

fn queued(waiting: &Waiting, times: bool) -> String {
    let Waiting { place, pid, .. } = waiting;
    let queue = if waiting.priority { "priority queue" } else { "queue" };
    let (name, demand) = (waiting.task.as_deref().unwrap_or("-"), known(waiting.demand));
    format!("{name:<24} pid {pid:<8} {queue} {place}, wants {demand} slots")
        + &since(waiting.waited_seconds.filter(|_| times))
}

fn known(number: Option<u32>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn since(seconds: Option<f64>) -> String {
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(|time| format!(", {}", output::time_text(time)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_never_fills_more_than_the_screen_and_says_what_is_hidden() {
        let picture = "head\none\ntwo\nthree\n";
        assert_eq!(redrawn(picture, (5, 80)), "\x1b[Hhead\x1b[K\none\x1b[K\ntwo\x1b[K\nthree\x1b[K\x1b[J");
        assert_eq!(
            redrawn(picture, (4, 80)),
            "\x1b[Hhead\x1b[K\none\x1b[K\n  ... 2 more; --once prints all\x1b[K\x1b[J"
        );
        assert_eq!(redrawn(picture, (1, 5)), "\x1b[H  ...\x1b[K\x1b[J");
        assert_eq!(redrawn("a long line", (24, 6)), "\x1b[Ha long\x1b[K\x1b[J");
    }
}
