//! `make stack` as somebody tries it out: the script is started, looked at, and stopped with Ctrl-C.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::{NamedTempFile, TempDir};

use super::programs::{PATIENCE, eventually, free_port, get, installed, output, query};
use super::{file, read};

/// The variables of the script that choose its ports.
const PORTS: [&str; 5] =
    ["PROMETHEUS_PORT", "PUSHGATEWAY_PORT", "ALERTMANAGER_PORT", "RECEIVER_PORT", "DEMO_PORT"];

/// The script, in a process group of its own, as a terminal starts it.
fn script(ports: [u16; 5], folder: &Path) -> Command {
    // A shell cannot trap what was ignored when it started, and whatever runs these tests in the
    // background ignores SIGINT. A terminal does not.
    let mut script = Command::new("env");
    script
        .args(["--default-signal=INT,TERM", "sh"])
        .arg(file("dashboards/stack.sh"))
        .arg(env!("CARGO_BIN_EXE_headcount"))
        .envs(PORTS.into_iter().zip(ports.map(|port| port.to_string())))
        .env("TMPDIR", folder)
        .process_group(0);
    script
}

/// The script while it runs.
struct Stack {
    child: Child,
    lines: Receiver<String>,
    ports: [u16; 5],
    /// Where it may put files.
    folder: TempDir,
    errors: NamedTempFile,
}

impl Stack {
    fn start() -> Self {
        installed();
        let ports = PORTS.map(|_| free_port().port());
        let folder = tempfile::tempdir().unwrap();
        let errors = NamedTempFile::new().unwrap();
        let mut child = script(ports, folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.reopen().unwrap())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Self { child, lines, ports, folder, errors }
    }

    fn address(&self, name: &str) -> SocketAddr {
        let at = PORTS.iter().position(|port| *port == name).unwrap();
        ([127, 0, 0, 1], self.ports[at]).into()
    }

    /// Waits for a line that begins like this, and returns it.
    fn hear(&self, begin: &str) -> String {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(begin) => return line,
                Ok(line) => said.push(line),
                Err(error) => {
                    let errors = std::fs::read_to_string(self.errors.path()).unwrap_or_default();
                    panic!("{error}: no line begins with `{begin}`: {said:#?}\n{errors}")
                }
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end, and checks that nothing is left of these processes, nor a file. Returns the code.
    async fn ended(mut self, started: &[Process]) -> Option<i32> {
        // The pipe is closed when the last of those that were started has gone.
        let end = loop {
            if let Err(end) = self.lines.recv_timeout(PATIENCE) {
                break end;
            }
        };
        assert_eq!(end, RecvTimeoutError::Disconnected, "somebody still holds its output");
        let code = self.child.wait().unwrap().code();
        eventually("all processes are gone", async || !started.iter().any(Process::is_alive)).await;
        let left: Vec<PathBuf> =
            started.iter().filter_map(Process::data).filter(|data| data.exists()).collect();
        assert!(left.is_empty(), "{left:?}");
        let left: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        code
    }
}

/// After a failed assertion; the script then ends what it started.
impl Drop for Stack {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(self.pid(), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// A process as `/proc` has it. Its start, in ticks since boot, tells it from a later one of the same id.
#[derive(Debug, Clone)]
struct Process {
    pid: u32,
    parent: u32,
    start: String,
    arguments: Vec<String>,
}

impl Process {
    /// `None` for one that is gone, or a zombie.
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).split('\0').map(ToOwned::to_owned).collect();
        let alive = fields[0] != "Z";
        alive.then(|| Self {
            pid,
            parent: fields[1].parse().unwrap(),
            start: fields[19].to_owned(),
            arguments,
        })
    }

    fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// The program's own name.
    fn name(&self) -> String {
        let program = Path::new(&self.arguments[0]).file_name().unwrap_or_default();
        program.to_string_lossy().into_owned()
    }

    /// The folder of a private PostgreSQL server, which also those have that make it.
    fn data(&self) -> Option<PathBuf> {
        let folder = |argument: &&String| argument.contains("/headcount-") && argument.ends_with("/data");
        self.arguments.iter().find(folder).map(PathBuf::from)
    }

    /// Where it listens, as the kernel writes addresses: in hexadecimal digits of host order.
    fn listens(&self) -> Vec<(String, u16)> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let sockets: BTreeSet<String> = files
            .filter_map(|entry| std::fs::read_link(entry.path()).ok()?.to_str().map(ToOwned::to_owned))
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let tables = ["tcp", "tcp6"]
            .map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
        let rows = tables.iter().flat_map(|table| table.lines().skip(1));
        rows.map(|row| row.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields[3] == "0A" && sockets.contains(fields[9]))
            .map(|fields| {
                let (address, port) = fields[1].split_once(':').unwrap();
                (address.to_owned(), u16::from_str_radix(port, 16).unwrap())
            })
            .collect()
    }
}

/// A process and all that it started.
fn family(head: u32) -> Vec<Process> {
    let all: Vec<Process> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Process::of(entry.unwrap().file_name().to_str()?.parse().ok()?))
        .collect();
    let mut family: Vec<Process> = all.iter().filter(|one| one.pid == head).cloned().collect();
    let mut next = 0;
    while let Some(parent) = family.get(next).map(|one| one.pid) {
        family.extend(all.iter().filter(|one| one.parent == parent).cloned());
        next += 1;
    }
    family
}

/// `127.0.0.1` and `::1`.
const LOOPBACK: [&str; 2] = ["0100007F", "00000000000000000000000001000000"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn make_stack_watches_a_demo_on_loopback_says_whom_alerts_wake_and_ends_with_ctrl_c() {
    let stack = Stack::start();
    let [prometheus, alertmanager] = ["PROMETHEUS_PORT", "ALERTMANAGER_PORT"].map(|name| stack.address(name));
    for (begin, path) in
        [("Prometheus  ", "http://{}/classic/graph"), ("Alerts  ", "http://{}/classic/alerts")]
    {
        let line = stack.hear(begin);
        assert!(line.contains(&path.replace("{}", &prometheus.to_string())), "{line}");
    }
    assert!(stack.hear("Alertmanager  ").contains(&format!("http://{alertmanager} ")));
    assert!(stack.hear("Pushgateway  ").contains(&format!("http://{}", stack.address("PUSHGATEWAY_PORT"))));
    assert!(stack.hear("The demo  ").ends_with(&format!("http://{}/metrics", stack.address("DEMO_PORT"))));
    stack.hear("alerts are printed here");

    // An alert takes the way of the deployed configuration to the one who reads.
    let url = format!("--alertmanager.url=http://{alertmanager}");
    let alert =
        ["alertname=HeadcountBelowMinimum", "severity=page", "task=rollup", "--annotation=summary=too few"];
    output(Command::new("amtool").arg(url).args(["alert", "add"]).args(alert));

    assert!(get(prometheus, "/classic/graph").await.contains("<title>Prometheus"));
    assert!(get(stack.address("PUSHGATEWAY_PORT"), "/-/ready").await.contains("OK"));
    for job in ["headcount", "pushgateway"] {
        eventually(job, async || {
            query(prometheus, &format!("up{{job=\"{job}\"}} == 1")).await.is_ok_and(|up| up.len() == 1)
        })
        .await;
    }
    let counted = "headcount_executions_total{job=\"headcount\", task=\"rollup\"}";
    eventually(counted, async || query(prometheus, counted).await.is_ok_and(|found| found.len() == 1)).await;
    assert_eq!(stack.hear("page firing"), "page firing HeadcountBelowMinimum rollup too few");

    let family = family(stack.child.id());
    let names: BTreeSet<String> = family.iter().map(Process::name).collect();
    for program in
        ["prometheus", "prometheus-alertmanager", "prometheus-pushgateway", "headcount", "postgres"]
    {
        assert!(names.contains(program), "{program}: {names:?}");
    }
    let listens: Vec<(String, u16)> = family.iter().flat_map(Process::listens).collect();
    assert!(listens.iter().all(|(address, _)| LOOPBACK.contains(&address.as_str())), "{listens:?}");
    for port in stack.ports {
        assert!(listens.iter().any(|(_, listens)| *listens == port), "{port}: {listens:?}");
    }

    // As the terminal does it.
    kill_process_group(stack.pid(), Signal::INT).unwrap();
    assert_eq!(stack.ended(&family).await, Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn make_stack_ends_with_sigterm_while_the_demo_makes_its_server() {
    let stack = Stack::start();
    stack.hear("Ctrl-C stops all of it.");
    let making = async {
        loop {
            let family = family(stack.child.id());
            if family.iter().any(|process| process.data().is_some()) {
                return family;
            }
            tokio::task::yield_now().await;
        }
    };
    let family = tokio::time::timeout(PATIENCE, making).await.expect("the demo makes a server");
    kill_process(stack.pid(), Signal::TERM).unwrap();
    assert_eq!(stack.ended(&family).await, Some(143));
}

#[test]
fn make_stack_takes_ports_that_are_each_others_defaults() {
    let script = read("dashboards/stack.sh");
    let begin = script.find("here_ports() {").unwrap();
    let end = begin + script[begin..].find("\n}").unwrap() + 2;
    let swapped = "PUSHGATEWAY_PORT=9093 ALERTMANAGER_PORT=9095 RECEIVER_PORT=9464 DEMO_PORT=9091";
    let moved = [(9091, 9093), (9093, 9095), (9095, 9464), (9464, 9091)];
    let mut seen = BTreeSet::new();
    for path in [
        "alertmanager/alertmanager.yml",
        "prometheus/targets/loopback/alertmanager.yml",
        "prometheus/targets/loopback/headcount.yml",
        "prometheus/targets/loopback/pushgateway.yml",
    ] {
        let path = format!("dashboards/{path}");
        let code = format!("{}\n{swapped}\nhere_ports \"$1\"", &script[begin..end]);
        let said = output(Command::new("sh").args(["-euc", &code, "sh"]).arg(file(&path)));
        let ports = |text: &str| -> Vec<u16> {
            text.split("127.0.0.1:").skip(1).map(|rest| rest[..4].parse().unwrap()).collect()
        };
        let new = |old: u16| moved.iter().find(|(from, _)| *from == old).unwrap().1;
        let before = ports(&read(&path));
        assert_eq!(ports(&said), before.iter().map(|port| new(*port)).collect::<Vec<_>>(), "{path}");
        seen.extend(before);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), moved.map(|(from, _)| from));
}

#[test]
fn make_stack_says_so_when_its_receiver_cannot_listen() {
    installed();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ports = PORTS.map(|_| free_port().port());
    ports[3] = taken.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let ended = script(ports, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("receiver did not start") && said.contains("cannot listen"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_posted_at_once_is_printed_line_by_line() {
    const POSTS: usize = 400;
    let port = free_port().port();
    let mut receiver = Command::new("python3")
        .arg(file("dashboards/alertmanager/receiver.py"))
        .arg(port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines().map(Result::unwrap);
    let listening = lines.next().unwrap();
    assert!(listening.ends_with(&format!("127.0.0.1:{port}")), "{listening}");

    let alert = r#"{"status": "firing", "labels": {"alertname": "HeadcountSerial", "task": "rollup"},
                    "annotations": {"summary": "rollup ran alone"}}"#;
    let body = format!("{{\"alerts\": [{}]}}", [alert; 3].join(","));
    let request = format!("POST /ticket HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..POSTS / 8 {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.write_all(request.as_bytes()).unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    assert!(answer.contains(" 200 "), "{answer}");
                }
            });
        }
    });
    let printed: Vec<_> = lines.take(3 * POSTS).collect();
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    for line in printed {
        assert_eq!(line, "ticket firing HeadcountSerial rollup rollup ran alone");
    }
}
