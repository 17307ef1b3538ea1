//! Real programs on loopback, each with a port of its own and a folder that goes with it.
//!
//! They run with the files of `dashboards/`. Only intervals and addresses differ, and each replacement
//! must find its line, so that the tests cannot drift away from what users deploy.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{file, port, read};

/// The longest wait for an event of a chain that works. It takes seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Makes sure that the programs are there; installs them as root.
pub(crate) fn installed() {
    static READY: std::sync::Once = std::sync::Once::new();
    READY.call_once(|| {
        let script = file("tests/servers/observability.sh");
        assert!(Command::new("sh").arg(script).status().unwrap().success(), "see the message above");
    });
}

/// Runs a program to its end, which must be a good one, and returns all that it said.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{said}");
    said
}

/// The command as it is built, in an environment of just this: its exit code and what it told people.
pub(crate) async fn headcount(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.env_clear().envs(environment.iter().copied()).stdin(Stdio::null()).args(arguments);
    let output = command.output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A server that was started for one test, and ends with it.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Program {
    /// Starts it and waits until it says where it listens.
    fn start(name: &str, folder: TempDir, arguments: &[String]) -> Self {
        installed();
        let mut child = Command::new(name)
            .args(arguments)
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = String::new();
        let mut listens = |line: String| {
            said.push_str(&line);
            said.push('\n');
            let actual = line.contains("msg=\"Listening on\"");
            actual.then(|| line.split("address=").nth(1)?.trim().parse().ok()).flatten()
        };
        let address = lines.by_ref().find_map(&mut listens);
        let address = address.unwrap_or_else(|| panic!("{name} does not listen:\n{said}"));
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _folder: folder }
    }

    pub(crate) fn pushgateway() -> Self {
        // Debian's keeps what it got in a file of the system, unless told otherwise.
        Self::start(
            "prometheus-pushgateway",
            tempfile::tempdir().unwrap(),
            &["--persistence.file=".to_owned()],
        )
    }

    /// Alertmanager, which posts to this receiver.
    pub(crate) fn alertmanager(receiver: SocketAddr) -> Self {
        let config = replaced(
            &read("dashboards/alertmanager/alertmanager.yml"),
            &[
                ("group_wait: 10s", "group_wait: 1s", 1),
                ("group_interval: 1m", "group_interval: 1s", 1),
                ("http://127.0.0.1:9095/", &format!("http://{receiver}/"), 2),
            ],
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alertmanager.yml");
        std::fs::write(&path, config).unwrap();
        let arguments = [
            format!("--config.file={}", path.display()),
            format!("--storage.path={}", folder.path().join("data").display()),
            // Else it listens for a cluster, on all interfaces.
            "--cluster.listen-address=".to_owned(),
        ];
        Self::start("prometheus-alertmanager", folder, &arguments)
    }

    /// `node_exporter` with nothing but the text files of this folder.
    pub(crate) fn node_exporter(textfiles: &Path) -> Self {
        let arguments = [
            "--collector.disable-defaults".to_owned(),
            "--collector.textfile".to_owned(),
            format!("--collector.textfile.directory={}", textfiles.display()),
        ];
        Self::start("prometheus-node-exporter", tempfile::tempdir().unwrap(), &arguments)
    }

    /// Prometheus, which scrapes and alerts at this place.
    pub(crate) fn prometheus(place: &Place) -> Self {
        let folder = place.prometheus_folder();
        let arguments = [
            format!("--config.file={}", folder.path().join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        ];
        Self::start("prometheus", folder, &arguments)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The series that Prometheus answers an instant query with; `Err` with what it said.
    pub(crate) async fn query(&self, promql: &str) -> Result<Vec<Value>, String> {
        query(self.address, promql).await
    }

    /// The same for every second of the last five minutes.
    pub(crate) async fn query_over_time(&self, promql: &str) -> Result<Vec<Value>, String> {
        // What was recorded within this second, too.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
        let query = encoded(promql);
        let path = format!("/api/v1/query_range?query={query}&start={}&end={now}&step=1", now - 300);
        ask(self.address, &path).await
    }

    /// Asks until the answer has series.
    pub(crate) async fn eventually(&self, promql: &str) {
        // While it starts it answers 503.
        eventually(promql, async || self.query(promql).await.is_ok_and(|series| !series.is_empty())).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the parts of one stack are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) pushgateway: Option<SocketAddr>,
    pub(crate) alertmanager: Option<SocketAddr>,
    pub(crate) headcount: Vec<SocketAddr>,
    pub(crate) node: Option<SocketAddr>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The configuration as it is deployed, but once a second, with the very rules, and these targets.
    pub(crate) fn prometheus_folder(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = replaced(
            &read("dashboards/prometheus/prometheus.yml"),
            &[
                ("scrape_interval: 15s", "scrape_interval: 1s", 1),
                ("scrape_timeout: 10s", "scrape_timeout: 1s", 1),
                ("evaluation_interval: 15s", "evaluation_interval: 1s", 1),
            ],
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        symlink(file("dashboards/prometheus/rules"), folder.path().join("rules")).unwrap();
        let targets = folder.path().join("targets");
        std::fs::create_dir(&targets).unwrap();
        write_targets(&targets, "pushgateway", self.pushgateway.as_slice());
        write_targets(&targets, "alertmanager", self.alertmanager.as_slice());
        write_targets(&targets, "headcount", &self.headcount);
        write_targets(&targets, "node", self.node.as_slice());
        folder
    }
}

/// The series of an instant query to a Prometheus.
pub(crate) async fn query(prometheus: SocketAddr, promql: &str) -> Result<Vec<Value>, String> {
    ask(prometheus, &format!("/api/v1/query?query={}", encoded(promql))).await
}

async fn ask(prometheus: SocketAddr, path: &str) -> Result<Vec<Value>, String> {
    let body = get(prometheus, path).await;
    let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
    answer["data"]["result"].as_array().cloned().ok_or(body)
}

/// Looks until it is so, for that which offers nothing to wait on.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        // Faster than a scrape, so that no state is missed.
        let mut beat = tokio::time::interval(Duration::from_millis(200));
        loop {
            beat.tick().await;
            if is_so().await {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "never: {what}");
}

/// An address on loopback that nobody listens on, and no other test is given.
pub(crate) fn free_port() -> SocketAddr {
    ([127, 0, 0, 1], port::free_port()).into()
}

#[test]
fn a_port_is_given_once_and_no_outgoing_connection_takes_it() {
    let [first, second] = [free_port(), free_port()];
    assert_ne!(first, second);
    let outgoing = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let lowest: u16 = outgoing.split_whitespace().next().unwrap().parse().unwrap();
    assert!(first.port() < lowest && second.port() < lowest, "{first}, {second}: {outgoing}");
    drop(TcpListener::bind(first).unwrap());
}

/// As it stands in a URL.
pub(crate) fn encoded(promql: &str) -> String {
    percent_encoding::utf8_percent_encode(promql, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn write_targets(folder: &Path, name: &str, addresses: &[SocketAddr]) {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let text = format!("- targets: [{}]\n", addresses.join(", "));
    std::fs::write(folder.join(name).with_extension("yml"), text).unwrap();
}

fn replaced(text: &str, changes: &[(&str, &str, usize)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to, times)| {
        assert_eq!(text.matches(from).count(), *times, "{from}");
        text.replace(from, to)
    })
}

/// The body of an answer; empty when there is none. HTTP/1.0, so that it comes in one piece.
pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(address).await
        && stream.write_all(request.as_bytes()).await.is_ok()
    {
        let _ = stream.read_to_string(&mut answer).await;
    }
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}
