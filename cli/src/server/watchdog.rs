//! The process between us and the server, which outlives us by a moment.
//!
//! `Drop` stops a server when a value goes out of scope or a test panics, but nothing of ours runs
//! after SIGKILL, and a server left behind keeps its memory, its port and its folder. So a small shell
//! starts the server and reads its orders from a pipe of ours. The kernel closes that pipe however
//! we end; the shell then stops the server and removes the folder.
//!
//! The other direction works alike: the server and all its backends inherit the shell's standard
//! output and never write to it, so the end of that pipe is the end of the last of them. No pid is
//! ever guessed: the shell signals its own child.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::account::Account;

/// `$1` is `postgres`, `$2` the private folder.
const SCRIPT: &str = r#"
exec 3>&1 >/dev/null 2>&1
umask 077
"$1" -D "$2/data" </dev/null >>"$2/log" 2>&1 &
server=$!
exec 3>&-
while read -r order; do
    case $order in
        release) wait "$server"; exit 0 ;;
        *) kill -s "$order" "$server" ;;
    esac
done
kill -s QUIT "$server"
wait "$server"
rm -rf "$2"
"#;

/// One run of one postmaster.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
    orders: Option<ChildStdin>,
    /// Disconnects when the last process of the server is gone.
    life: Receiver<()>,
}

impl Watchdog {
    /// Starts the server in `folder`. It is not ready yet, and may end at once.
    pub(super) fn start(account: &Account, postgres: &Path, folder: &Path) -> io::Result<Self> {
        let mut command = account.command(Path::new("/bin/sh"));
        command.args(["-c", SCRIPT, "headcount-watchdog"]).arg(postgres).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own: Ctrl-C at the terminal is for us, and we stop the server in good order.
        command.process_group(0);
        let mut shell = command.spawn()?;
        let orders = shell.stdin.take();
        let inherited = shell.stdout.take();
        let (alive, life) = mpsc::channel();
        std::thread::Builder::new().name("private-server".into()).spawn(move || {
            let _ = inherited.map(|mut pipe| pipe.read_to_end(&mut Vec::new()));
            drop(alive);
        })?;
        Ok(Self { shell, orders, life })
    }

    /// Sends the postmaster a signal: `INT` (fast), `QUIT` (immediate).
    pub(super) fn signal(&mut self, name: &str) -> io::Result<()> {
        self.order(name)
    }

    /// Whether the last process of the server is gone, now or within `limit`.
    pub(super) fn ends_within(&self, limit: Duration) -> bool {
        self.life.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    /// Lets the shell go without removing the folder. Call it when the server is gone.
    pub(super) fn release(mut self) -> io::Result<()> {
        self.order("release")?;
        self.orders = None;
        self.shell.wait().map(drop)
    }

    fn order(&mut self, line: &str) -> io::Result<()> {
        let Some(orders) = &mut self.orders else { return Ok(()) };
        writeln!(orders, "{line}")
    }
}

impl Drop for Watchdog {
    /// Immediate shutdown, and the folder removed: some tens of milliseconds.
    fn drop(&mut self) {
        self.orders = None;
        // After `release` this returns the status that is already known.
        let _ = self.shell.wait();
    }
}
