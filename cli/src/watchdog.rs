//! The watchdog: it stops the query of a command that was killed.
//!
//! Whoever gets SIGKILL can do nothing more, and a server before 14 does not look whether its client is
//! still there: the query would run on and keep its workers. So on such a server the command starts itself
//! once more, and tells that process through a pipe which backends run something. The end of the pipe is the
//! one sign of death that always comes. Those that were named, and not taken back, are stopped. Where there are none the job
//! ended in order, and so does the watchdog, in silence.
//!
//! It has a process group of its own, so that what kills the job's group leaves it alone, and the program
//! catches and this ignores what else ends processes. Where the server is, it reads from the pipe, the
//! environment and libpq's files: a connection string may have a password, and others can read arguments.

use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use headcount::event::Scope;
use headcount::server;
use headcount::server::Endpoint;
use headcount::{Event, Observer};
use serde::Serialize;

use super::output::say;
use super::{WATCHDOG, exit};

/// The first `server_version_num` with `client_connection_check_interval`.
const NOTICES_BY_ITSELF: u32 = 140_000;
/// How long an orphaned query may take to end before its session is terminated.
const GRACE: Duration = Duration::from_secs(5);

/// A backend: its pid and its `backend_start`.
type Backend = (i32, i64);
/// Whether it runs something from now on, or does so no more.
type Fact = (i32, i64, bool);

/// The job's end of the pipe, once there is a watchdog. It hears of the backends like any observer.
#[derive(Debug)]
pub(crate) struct Watchdog {
    dsn: Option<String>,
    child: Mutex<Option<Child>>,
}

impl Watchdog {
    /// One that connects to `dsn`, else as the environment says, once it has to.
    pub(crate) fn new(dsn: Option<&str>) -> Self {
        Self { dsn: dsn.map(str::to_owned), child: Mutex::default() }
    }

    /// Starts the process if a server of this version needs one. Without it the job still runs.
    fn guard(&self, version: u32) {
        if version >= NOTICES_BY_ITSELF {
            return;
        }
        if let Err(error) = self.start() {
            say(&format!(
                "headcount: warning: no watchdog ({error}): this server would not notice a kill -9, and run the query on"
            ));
        }
    }

    fn start(&self) -> io::Result<()> {
        let child = Command::new(std::env::current_exe()?)
            .arg(WATCHDOG)
            .process_group(0)
            .stdin(Stdio::piped())
            // Not even an end of file of the job's output may wait for it.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        self.tell(&self.dsn)
    }

    /// One line; the pipe holds thousands of them, so this does not block.
    fn tell(&self, fact: &impl Serialize) -> io::Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pipe) = child.as_mut().and_then(|child| child.stdin.as_mut()) else { return Ok(()) };
        let mut line = serde_json::to_vec(fact)?;
        line.push(b'\n');
        pipe.write_all(&line)
    }
}

impl Observer for Watchdog {
    fn observe(&self, _: &Scope, event: &Event) {
        // A watchdog that is gone cannot be told; the job is none the worse.
        let _ = match event {
            Event::MonitorStarted { server_version } => {
                self.guard(*server_version);
                Ok(())
            }
            Event::BackendEngaged { pid, backend_start } => self.tell(&(*pid, *backend_start, true)),
            Event::BackendReleased { pid, backend_start } => self.tell(&(*pid, *backend_start, false)),
            _ => Ok(()),
        };
    }
}

/// The other end of the pipe: `headcount watchdog`. Returns the exit code, which nobody reads.
pub(crate) async fn run() -> u8 {
    // Blocks the runtime's only thread, which has nothing else to do.
    let Some((dsn, backends)) = listen(&mut io::stdin().lock()) else { return exit::USAGE };
    if backends.is_empty() {
        return exit::DONE;
    }
    let endpoint = match dsn {
        Some(dsn) => Endpoint::from_dsn(&dsn),
        None => Endpoint::from_environment(),
    };
    let Ok(endpoint) = endpoint else { return exit::USAGE };
    let stops = backends.into_iter().map(|(pid, start)| server::stop(&endpoint, pid, start, GRACE));
    let ends = join_all(stops).await;
    if ends.iter().all(|end| matches!(end, Ok(0))) { exit::DONE } else { exit::FAILED }
}

/// Reads until the job is gone: where the server is, and the backends that run something. `None` when what comes is not from
/// a job.
fn listen(pipe: &mut impl io::BufRead) -> Option<(Option<String>, Vec<Backend>)> {
    let mut lines = pipe.lines().map_while(Result::ok);
    let dsn = serde_json::from_str(&lines.next()?).ok()?;
    let mut backends = Vec::new();
    // A last line that is cut off was not meant yet; those before it hold.
    for (pid, start, runs) in lines.filter_map(|line| serde_json::from_str::<Fact>(&line).ok()) {
        backends.retain(|backend| *backend != (pid, start));
        backends.extend(runs.then_some((pid, start)));
    }
    Some((dsn, backends))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str, expected: Option<(Option<&str>, &[Backend])>) {
        let heard = listen(&mut said.as_bytes());
        let expected = expected.map(|(dsn, backends)| (dsn.map(str::to_owned), backends.to_vec()));
        assert_eq!(heard, expected, "{said}");
    }

    #[test]
    fn the_backends_that_were_named_and_not_taken_back_count() {
        check(
            "\"host=a\"\n[7,1,true]\n[8,2,true]\n[7,1,false]\n[9,3,true]\n",
            Some((Some("host=a"), &[(8, 2), (9, 3)])),
        );
        check("null\n[7,1,true]\n[7,1,true]\n[8,", Some((None, &[(7, 1)])));
    }

    #[test]
    fn a_job_that_ended_in_order_leaves_nothing_to_stop() {
        check("null\n[7,1,true]\n[7,1,false]\n", Some((None, &[])));
        check("null\n", Some((None, &[])));
        check("", None);
        check("nonsense\n", None);
    }
}
