//! `PgBouncer` between the fleet and its server.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use headcount::server::Endpoint;

use crate::lab::{Lab, holders, queue, rows_of};
use crate::versions::main_version;

/// `PgBouncer` on loopback, for as long as the value lives.
pub(crate) struct Bouncer {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Bouncer {
    async fn start(lab: &Lab, pool_mode: &str) -> Self {
        Self::of(lab, pool_mode, 20).await
    }

    pub(crate) async fn of(lab: &Lab, pool_mode: &str, size: u32) -> Self {
        Self::with(lab, &format!("pool_mode = {pool_mode}\ndefault_pool_size = {size}")).await
    }

    async fn with(lab: &Lab, pool: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\n{pool}\nmax_client_conn = 50\n\
             client_tls_sslmode = allow\nclient_tls_cert_file = {at}/cert.pem\nclient_tls_key_file = {at}/key.pem\n",
            lab.server.port(),
            at = folder.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let tls = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), tls.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), tls.signing_key.serialize_pem()).unwrap();
        let mut command = Command::new(if Path::new("/usr/sbin/pgbouncer").exists() {
            "/usr/sbin/pgbouncer"
        } else {
            "pgbouncer"
        });
        // It refuses to run as root, and drops to the account that it is told.
        if rustix::process::geteuid().is_root() {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            command.args(["-u", "postgres"]);
        }
        let child = command.arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut bouncer = Self { child, port, _folder: folder };
        bouncer.ready().await;
        bouncer
    }

    pub(crate) fn dsn(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?connect_timeout=10", self.port)
    }

    /// Its console.
    pub(crate) fn console(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/pgbouncer", self.port)
    }

    async fn ready(&mut self) {
        let endpoint = Endpoint::from_dsn(&self.dsn()).unwrap();
        while endpoint.client("test").await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "pgbouncer ended");
        }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn behind(pool_mode: &str) -> (Lab, Bouncer) {
    let lab = Lab::start(main_version()).await;
    let bouncer = Bouncer::start(&lab, pool_mode).await;
    (lab, bouncer)
}

#[tokio::test]
async fn transactions_pooled_by_a_proxy_are_refused_with_the_fix() {
    let (lab, bouncer) = behind("transaction").await;
    let pooled = bouncer.dsn();
    for through in [[&*pooled, &*pooled], [&*lab.server.dsn(), &*pooled]] {
        // Some at once, so that the pool has several backends, and knows other people's statements on each.
        let options = ["--reserve", "--monitor-dsn", through[1]];
        let jobs: Vec<_> = (0..4).map(|_| lab.job_at(through[0], "pooled", &rows_of(5), &options)).collect();
        for job in jobs {
            let ended = job.end().await;
            assert_eq!(ended.code, Some(4), "{ended:#?}");
            assert_eq!(ended.json["reason"], "refused");
            assert!(ended.json["error"].as_str().unwrap().contains("pools transactions"), "{ended:#?}");
            assert!(ended.json["fixes"][0].as_str().unwrap().contains("--monitor-dsn"), "{ended:#?}");
            assert!(!ended.said.contains("monitor lost"), "it sees all the time: {ended:#?}");
        }
    }
    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(
        lab.client.query_one(left, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "no lock leaked into the pool"
    );
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_monitor_sees_through_a_proxy_that_pools_transactions_whoever_used_its_backends() {
    let (lab, bouncer) = behind("transaction").await;
    for _ in 0..3 {
        let jobs: Vec<_> = (0..3)
            .map(|_| lab.job_at(&bouncer.dsn(), "through", &rows_of(5), &["--target", "2", "--min", "1"]))
            .collect();
        for job in jobs {
            let ended = job.end().await;
            assert_eq!((ended.code, &ended.json["outcome"]), (Some(0), &"on_target".into()), "{ended:#?}");
            assert!(!ended.said.contains("monitor lost"), "it sees all the time: {ended:#?}");
        }
    }
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn statements_pooled_by_a_proxy_are_refused_with_the_fix() {
    let (lab, bouncer) = behind("statement").await;
    let past = ["--reserve", "--monitor-dsn", &bouncer.dsn()];
    let ended = lab.job("pooled", &rows_of(5), &past).end().await;
    assert_eq!(ended.code, Some(4), "{ended:#?}");
    assert!(ended.json["error"].as_str().unwrap().contains("or statements"), "{ended:#?}");
    assert!(ended.json["fixes"][0].as_str().unwrap().contains("--monitor-dsn"), "{ended:#?}");
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_statement_whose_proxy_pools_statements_is_refused_with_the_fix() {
    let (lab, bouncer) = behind("statement").await;
    for reserve in [&[][..], &["--reserve"], &["--reserve", "--monitor-dsn", &lab.server.dsn()]] {
        let ended = lab.job_at(&bouncer.dsn(), "pooled", &rows_of(5), reserve).end().await;
        assert_eq!(ended.code, Some(4), "{ended:#?}");
        assert!(ended.json["error"].as_str().unwrap().contains("pools statements"), "{ended:#?}");
        let fix = ended.json["fixes"][0].as_str().unwrap();
        assert!(fix.contains("pool_mode = session"), "{fix}");
    }
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn the_doctor_names_a_proxy_that_pools_and_what_it_pools() {
    let lab = Lab::start(main_version()).await;
    // With one backend the monitor would have none.
    for (pool_mode, size, pools) in
        [("transaction", 1, "pools transactions"), ("statement", 20, "pools statements")]
    {
        let bouncer = Bouncer::of(&lab, pool_mode, size).await;
        for dsns in [vec![bouncer.dsn()], vec![lab.server.dsn(), "--monitor-dsn".to_owned(), bouncer.dsn()]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
            let output = command.args(["doctor", "--json", "--dsn"]).args(dsns).output().unwrap();
            assert_eq!(output.status.code(), Some(4), "{output:?}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let failed = |finding: &&serde_json::Value| finding["level"] == "fail";
            let finding = report["findings"].as_array().unwrap().iter().find(failed).unwrap();
            assert!(finding["text"].as_str().unwrap().contains(pools), "{report}");
            assert!(finding["fix"].as_str().unwrap().contains("pool_mode = session"), "{report}");
        }
    }
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn the_doctor_is_content_with_a_monitor_that_goes_past_the_proxy_and_names_it_otherwise() {
    let lab = Lab::start(main_version()).await;
    let examined = |dsn: String, monitor: Option<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["doctor", "--json", "--dsn", &dsn]);
        command.args(monitor.iter().flat_map(|monitor| ["--monitor-dsn", monitor]));
        let output = command.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let proxy = report["findings"].as_array().unwrap().iter().find(|f| f["check"] == "proxy").cloned();
        (output.status.code(), proxy.unwrap(), report)
    };
    // With one backend there is none for a second session.
    for size in [20, 1] {
        let bouncer = Bouncer::of(&lab, "transaction", size).await;
        let (code, proxy, report) = examined(bouncer.dsn(), Some(lab.server.dsn()));
        assert_eq!((code, proxy["level"].as_str()), (Some(0), Some("warn")), "{report}");
        let asked = |check| report["findings"].as_array().unwrap().iter().any(|f| f["check"] == check);
        assert!(asked("cancel") && asked("reservation"), "the rest is examined: {report}");
        let (code, proxy, report) = examined(bouncer.dsn(), None);
        let expected = if size == 1 { (Some(4), Some("fail")) } else { (Some(0), Some("warn")) };
        assert_eq!((code, proxy["level"].as_str()), expected, "{report}");
        assert!(proxy["fix"].as_str().unwrap().contains("--monitor-dsn"), "{report}");
        // Whatever it says, a run agrees.
        if size > 1 {
            let slots = report["findings"].as_array().unwrap().iter().find(|f| f["check"] == "reservation");
            assert_eq!(slots.unwrap()["level"], "warn", "{report}");
            assert_eq!(lab.job_at(&bouncer.dsn(), "behind", &rows_of(5), &[]).end().await.code, Some(0));
            let reserve = lab.job_at(&bouncer.dsn(), "behind", &rows_of(5), &["--reserve"]).end().await;
            assert_eq!(reserve.code, Some(4), "{reserve:#?}");
        }
    }
    let bouncer = Bouncer::start(&lab, "statement").await;
    let (code, proxy, report) = examined(bouncer.dsn(), Some(lab.server.dsn()));
    assert_eq!((code, proxy["level"].as_str()), (Some(4), Some("fail")), "{report}");
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn with_a_monitor_that_goes_past_the_proxy_it_works() {
    let (lab, bouncer) = behind("transaction").await;
    let direct = lab.server.dsn();
    let past = ["--reserve", "--monitor-dsn", &direct];
    let jobs: Vec<_> =
        (1..=3).map(|n| lab.job_at(&bouncer.dsn(), &format!("job{n}"), &rows_of(10), &past)).collect();
    for job in jobs {
        job.end_well().await;
    }
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_proxy_that_pools_sessions_is_no_hindrance() {
    let (lab, bouncer) = behind("session").await;
    lab.job_at(&bouncer.dsn(), "job", &rows_of(10), &["--reserve"]).end_well().await;
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn the_statement_of_a_job_that_was_killed_behind_a_proxy_is_stopped() {
    for (pool_mode, how) in
        [("transaction", &[][..]), ("session", &[][..]), ("session", &["--no-transaction"])]
    {
        let (lab, bouncer) = behind(pool_mode).await;
        let direct = lab.server.dsn();
        let job = lab.job_at(
            &bouncer.dsn(),
            "killed",
            &rows_of(10_000),
            &[&["--monitor-dsn", &direct], how].concat(),
        );
        lab.until_running("killed").await;
        job.kill().await;
        // By itself it would run for minutes.
        lab.until("its statement is stopped", |fleet| fleet.leaders.is_empty()).await;
        drop(bouncer);
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_backend_that_is_handed_on_as_it_is_keeps_no_setting_of_a_statement_outside_a_transaction() {
    let lab = Lab::start(main_version()).await;
    let pool = "pool_mode = session\ndefault_pool_size = 1\nserver_reset_query =";
    let bouncer = Bouncer::with(&lab, pool).await;
    let direct = lab.server.dsn();
    let outside =
        ["--no-transaction", "--ceiling", "auto", "--set", "work_mem=7MB", "--plan-shortfall", "ignore"];
    let outside = [&outside[..], &["--monitor-dsn", &direct, "--attempts", "1"]].concat();
    let kept = "SELECT string_agg(name || '=' || setting, ', ') FROM pg_settings
                WHERE source = 'session' AND name IN ('max_parallel_workers', 'max_parallel_workers_per_gather', 'work_mem')";
    for (sql, code) in [("SELECT current_setting('max_parallel_workers')", 0), ("SELECT 1 / 0", 1)] {
        let ended = lab.job_at(&bouncer.dsn(), "outside", sql, &outside).end().await;
        assert_eq!((ended.code, &ended.json["ceiling"]["workers"]), (Some(code), &14.into()), "{ended:#?}");
        let next = Endpoint::from_dsn(&bouncer.dsn()).unwrap().client("next").await.unwrap();
        let kept: Option<String> = next.query_one(kept, &[]).await.unwrap().get(0);
        assert_eq!(kept, None, "{sql}");
    }
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn an_update_is_refused_where_its_statements_could_be_anothers() {
    let lab = Lab::start(main_version()).await;
    lab.client.batch_execute("CREATE TABLE orders AS SELECT 1 AS id, 'new' AS status").await.unwrap();
    let cases = [
        ("transaction", 20, 4),
        ("transaction", 1, 4),
        ("statement", 20, 4),
        ("session", 20, 0),
        ("session", 1, 0),
    ];
    for (pool_mode, size, code) in cases {
        let bouncer = Bouncer::of(&lab, pool_mode, size).await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args([
            "update",
            "--json",
            "--quiet",
            "--dsn",
            &bouncer.dsn(),
            "--table",
            "orders",
            "--key",
            "id",
        ]);
        command.args(["--set", "status=paid", "--keys-query", "SELECT 1 AS id"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{pool_mode}: {stderr}");
        if code == 4 {
            assert!(stderr.contains("pools transactions or statements"), "{stderr}");
            assert!(stderr.contains("pool_mode = session"), "{stderr}");
        }
    }
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_proxy_keeps_of_a_job_is_no_leader_and_who_runs_behind_it_is() {
    let (lab, bouncer) = behind("transaction").await;
    let direct = lab.server.dsn();
    let past = ["--monitor-dsn", &direct];
    for mode in ["disable", "require"] {
        let dsn = format!("{}&sslmode={mode}", bouncer.dsn());
        assert_eq!(lab.job_at(&dsn, "done", &rows_of(5), &past).end().await.code, Some(0));
        let kept =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'headcount:done want=4 pooled'";
        assert_eq!(lab.client.query_one(kept, &[]).await.unwrap().get::<_, i64>(0), 1, "the proxy keeps it");
    }
    let fleet = lab.until("it is no leader", |_| true).await;
    assert_eq!(fleet.leaders, []);
    let reserve = ["--reserve", "--monitor-dsn", &direct];
    let holder = lab.job_at(&bouncer.dsn(), "holder", &rows_of(10_000), &reserve);
    lab.until_running("holder").await;
    let waiting = lab.job_at(&bouncer.dsn(), "waiting", &rows_of(5), &reserve);
    let fleet = lab.until_queued(1).await;
    assert_eq!((holders(&fleet), queue(&fleet)), (vec!["holder".to_owned()], vec!["waiting"]));
    assert_eq!((fleet.leaders.len(), fleet.leaders[0].attempt), (1, Some(1)), "{fleet:?}");
    waiting.kill().await;
    holder.kill().await;
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_statement_outside_a_transaction_is_refused_where_nobody_knows_its_backend() {
    let (lab, bouncer) = behind("transaction").await;
    let direct = lab.server.dsn();
    let outside = ["--no-transaction", "--monitor-dsn", &direct, "--plan-shortfall", "ignore"];
    let ended = lab.job_at(&bouncer.dsn(), "outside", "VACUUM slow", &outside).end().await;
    assert_eq!(ended.code, Some(4), "{ended:#?}");
    assert!(ended.json["error"].as_str().unwrap().contains("pools transactions"), "{ended:#?}");
    assert!(ended.json["fixes"][0].as_str().unwrap().contains("pool_mode = session"), "{ended:#?}");
    drop(bouncer);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_time_zone_of_the_environment_passes_a_proxy_that_takes_no_options() {
    let (lab, bouncer) = behind("transaction").await;
    let with = |variable: &'static str, value: &'static str| {
        let environment = move |name: &str| (name == variable).then(|| value.to_owned());
        Endpoint::resolve(Some(&bouncer.dsn()), environment).unwrap()
    };
    let shown = async |client: &tokio_postgres::Client| -> String {
        let messages = client.simple_query("SHOW TimeZone").await.unwrap();
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        row.unwrap()
    };
    let tokyo = with("PGTZ", "Asia/Tokyo").client("test").await.unwrap();
    assert_eq!(shown(&tokyo).await, "Asia/Tokyo");
    // Nobody else has it, whoever is lent the same backend.
    let plain = with("PGTZ", "").client("test").await.unwrap();
    assert_ne!(shown(&plain).await, "Asia/Tokyo");
    assert_eq!(shown(&tokyo).await, "Asia/Tokyo");
    let error = with("PGGEQO", "off").client("test").await.unwrap_err();
    let said = format!("{}", std::error::Error::source(&error).unwrap());
    assert!(said.contains("geqo") && said.contains("unset its variable"), "{said}");
    drop((tokyo, plain, bouncer));
    lab.server.stop().await.unwrap();
}
