//! The edge to PostgreSQL, against real servers.
//!
//! - private servers: every version, restart, crash, our own end by SIGKILL
//! - connecting: plain, passwords, files, TLS

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use headcount::server::{Endpoint, ServerFacts};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use testkit::server::{Builder, PrivateServer, Shutdown};

use crate::versions::{Part, programs, skip, version_with, versions};

async fn ask(dsn: &str, query: &str) -> String {
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = client.query_one(query, &[]).await.unwrap().get(0);
    drop(client);
    connection.await.unwrap().unwrap();
    answer
}

fn exists(folder: &Path) -> bool {
    folder.symlink_metadata().is_ok()
}

#[tokio::test]
async fn every_installed_version_starts_as_configured_and_leaves_nothing_behind() {
    for binaries in versions().into_iter().map(programs) {
        let server = PrivateServer::builder()
            .binaries(binaries.clone())
            .setting("max_parallel_workers", "6")
            .setting("cluster_name", "it's")
            .start()
            .await
            .unwrap();
        assert_eq!(server.major(), binaries.major());
        let dsn = server.dsn();
        assert!(ask(&dsn, "SHOW server_version").await.starts_with(&binaries.major().to_string()));
        assert_eq!(ask(&dsn, "SHOW max_parallel_workers").await, "6");
        assert_eq!(ask(&dsn, "SHOW cluster_name").await, "it's");
        assert_eq!(ask(&dsn, "SHOW listen_addresses").await, "127.0.0.1");
        assert_eq!(ask(&dsn, "SHOW fsync").await, "off");
        let folder = server.socket_folder().to_owned();
        assert!(exists(&folder));
        server.stop().await.unwrap();
        assert!(!exists(&folder));
        assert!(tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.is_err());
    }
}

#[tokio::test]
async fn a_restart_keeps_port_and_data_and_cuts_sessions() {
    let server = PrivateServer::builder().durable(true).start().await.unwrap();
    let dsn = server.dsn();
    assert_eq!(ask(&dsn, "SHOW fsync").await, "on");
    ask(&dsn, "SELECT set_config('a.b', 'c', false)").await;
    let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("CREATE TABLE kept AS SELECT 'yes'::text AS answer").await.unwrap();
    for mode in [Shutdown::Fast, Shutdown::Immediate] {
        server.restart(mode).await.unwrap();
        assert_eq!(ask(&dsn, "SELECT answer FROM kept").await, "yes", "{mode:?}");
    }
    assert!(connection.await.unwrap().is_err());
    assert!(client.is_closed());
}

#[tokio::test]
async fn a_halted_server_refuses_and_is_cleaned_up_all_the_same() {
    let server = PrivateServer::builder().start().await.unwrap();
    server.halt(Shutdown::Fast).await.unwrap();
    server.halt(Shutdown::Fast).await.unwrap();
    assert!(server.log_tail().contains("database system is shut down"), "{}", server.log_tail());
    assert!(tokio_postgres::connect(&server.dsn(), tokio_postgres::NoTls).await.is_err());
    server.resume().await.unwrap();
    assert_eq!(ask(&server.dsn(), "SELECT 'up'").await, "up");
    server.halt(Shutdown::Immediate).await.unwrap();
    let folder = server.socket_folder().to_owned();
    assert!(exists(&folder));
    drop(server);
    assert!(!exists(&folder));
}

#[tokio::test]
async fn a_wrong_setting_is_an_error_with_the_servers_own_words_and_leaves_nothing() {
    let error = PrivateServer::builder().setting("no_such_setting", "1").start().await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("no_such_setting"), "{cause}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_avoided_unless_it_was_asked_for() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    for binaries in versions().into_iter().map(programs) {
        let error = PrivateServer::builder().binaries(binaries).port(port).start().await.unwrap_err();
        // The words by which a port of our own choice is found to be lost to somebody else.
        assert!(chain(&error).contains("could not bind IPv4 address"), "{}", chain(&error));
    }
    drop(other);
    let server = PrivateServer::builder().port(port).start().await.unwrap();
    assert_eq!(server.port(), port);
}

#[tokio::test]
async fn a_panic_stops_the_server() {
    let server = PrivateServer::builder().start().await.unwrap();
    let folder = server.socket_folder().to_owned();
    let task = tokio::spawn(async move {
        let _server = server;
        panic!("as a failing test does");
    });
    assert!(task.await.unwrap_err().is_panic());
    assert!(!exists(&folder));
}

/// Not a claim of its own: the process that the next test kills.
#[tokio::test]
#[ignore = "started by a_killed_process_leaves_no_server_behind"]
#[expect(clippy::print_stderr, reason = "how it tells its parent where the server is")]
async fn child_that_waits_to_be_killed() {
    let server = PrivateServer::builder().start().await.unwrap();
    let pid = std::fs::read_to_string(server.socket_folder().join("data/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap();
    // A line of its own, whatever the test harness printed before.
    eprintln!("\nserver {pid} {} {}", server.socket_folder().display(), server.dsn());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_process_leaves_no_server_behind() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "edge::child_that_waits_to_be_killed"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let words = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("server ").map(str::to_owned))
        .unwrap();
    let [_pid, folder, dsn] = words.split(' ').collect::<Vec<_>>()[..] else { panic!("{words}") };
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.unwrap();

    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();

    // The server cuts our session when it goes; the folder follows at once.
    assert!(connection.await.unwrap().is_err());
    let removed = async {
        while exists(Path::new(folder)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), removed).await.expect("the folder is removed");
    assert!(tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.is_err());
}

/// An endpoint that sees nothing of the environment of whoever runs the tests.
fn endpoint(dsn: &str) -> Result<Endpoint, headcount::Error> {
    Endpoint::resolve(Some(dsn), |_| None)
}

async fn facts(dsn: &str) -> ServerFacts {
    endpoint(dsn).unwrap().check().await.unwrap_or_else(|error| panic!("{dsn}: {}", chain(&error)))
}

async fn refusal(dsn: &str) -> headcount::Error {
    endpoint(dsn).unwrap().check().await.expect_err(dsn)
}

/// The error and all its causes, as a command prints them.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn private_file(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn a_server_is_reached_by_address_and_by_socket_and_says_who_it_is() {
    let server = PrivateServer::builder().start().await.unwrap();
    let seen = facts(&server.dsn()).await;
    assert_eq!(seen.major(), server.major());
    assert_eq!((seen.role.as_str(), seen.database.as_str(), seen.tls), ("postgres", "postgres", false));
    let socket = format!("host={} port={} user=postgres", server.socket_folder().display(), server.port());
    assert_eq!(facts(&format!("{socket} sslmode=require")).await, seen);

    let shown = endpoint(&server.dsn_for("ann", "shop")).unwrap();
    assert_eq!(shown.describe(), format!("127.0.0.1:{}/shop", server.port()));
    assert_eq!(
        (shown.user(), shown.host(), shown.port(), shown.database()),
        ("ann", "127.0.0.1", server.port(), "shop")
    );
    let error = shown.check().await.unwrap_err();
    assert!(chain(&error).contains(r#"role "ann" does not exist"#), "{}", chain(&error));
}

#[tokio::test]
async fn the_first_host_that_answers_is_taken() {
    let up = PrivateServer::builder().start().await.unwrap();
    let down = PrivateServer::builder().start().await.unwrap();
    down.halt(Shutdown::Fast).await.unwrap();
    let dsn = format!("postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", down.port(), up.port());
    assert_eq!(facts(&dsn).await.major(), up.major());
    assert!(refusal(&format!("{dsn}?target_session_attrs=read-only")).await.is_connection_lost());
    let error = refusal(&down.dsn()).await;
    assert!(error.is_connection_lost() && error.is_retryable());
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = refusal(&format!("host=127.0.0.1 port={port} user=u connect_timeout=1")).await;
    assert!(chain(&error).contains("gave no session within 1s"), "{}", chain(&error));
    assert!(error.is_connection_lost());
}

#[tokio::test]
async fn passwords_come_from_string_environment_and_file_and_never_show() {
    let secret = "hunter2 @:/'\\%";
    let server = PrivateServer::builder().password(secret).start().await.unwrap();
    facts(&server.dsn()).await;

    let folder = tempfile::tempdir().unwrap();
    let line = format!("127.0.0.1:{}:*:postgres:hunter2 @\\:/'\\\\%\n", server.port());
    let passfile = private_file(folder.path(), "pgpass", &line);
    let plain = server.dsn_for("postgres", "postgres");
    facts(&format!("{plain}?passfile={passfile}")).await;
    let environment = |name: &str| (name == "PGPASSWORD").then(|| secret.to_owned());
    Endpoint::resolve(Some(&plain), environment).unwrap().check().await.unwrap();

    let services =
        format!("[nightly]\nhost=127.0.0.1\nport={}\nuser=postgres\npassfile={passfile}\n", server.port());
    let services = private_file(folder.path(), "services", &services);
    facts(&format!("service=nightly servicefile={services}")).await;

    let wrong = endpoint(&plain.replace("postgres@", "postgres:hunter3@")).unwrap();
    let error = wrong.check().await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("28P01"));
    assert!(!error.is_retryable());
    assert!(!format!("{} {error:?} {wrong:?}", chain(&error)).contains("hunter"), "{error:?}");
    let missing = refusal(&plain).await;
    assert!(chain(&missing).contains("password missing"), "{}", chain(&missing));
}

fn with_tls() -> Builder {
    PrivateServer::builder().binaries(programs(version_with(Part::Tls)))
}

/// A certificate authority of our own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for `name`, both as common and as alternative name, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn each_sslmode_keeps_its_promise_on_every_version_built_with_tls() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let root = private_file(folder.path(), "root.crt", &ours.certificate);
    let wrong = private_file(folder.path(), "wrong.crt", &theirs.certificate);
    let mut tried = 0;
    for binaries in versions().into_iter().map(programs) {
        let (certificate, key) = ours.sign("localhost");
        let started = PrivateServer::builder().binaries(binaries).tls(certificate, key).start().await;
        let server = match started {
            Ok(server) => server,
            Err(error) if chain(&error).contains("SSL is not supported by this build") => continue,
            Err(error) => panic!("{}", chain(&error)),
        };
        let at = |host: &str, rest: &str| {
            format!("host={host} hostaddr=127.0.0.1 port={} user=postgres {rest}", server.port())
        };

        for (rest, encrypted) in
            [("sslmode=disable", false), ("sslmode=allow", true), ("", true), ("sslmode=require", true)]
        {
            assert_eq!(facts(&at("localhost", rest)).await.tls, encrypted, "{rest}");
        }
        if server.major() >= 17 {
            assert!(facts(&at("localhost", "sslmode=require sslnegotiation=direct")).await.tls);
        }
        for accepted in [
            at("localhost", &format!("sslmode=verify-full sslrootcert={root}")),
            at("127.0.0.1", &format!("sslmode=verify-ca sslrootcert={root}")),
            at("127.0.0.1", &format!("sslmode=require sslrootcert={root}")),
            // Nothing but the address given: no name, no check of it.
            format!("hostaddr=127.0.0.1 port={} user=postgres sslmode=require", server.port()),
        ] {
            assert!(facts(&accepted).await.tls, "{accepted}");
        }
        for (refused, why) in [
            (at("127.0.0.1", &format!("sslmode=verify-full sslrootcert={root}")), "and not for 127.0.0.1"),
            (
                at("localhost", &format!("sslmode=verify-full sslrootcert={wrong}")),
                "not signed by a root certificate",
            ),
            (
                at("localhost", &format!("sslmode=verify-ca sslrootcert={wrong}")),
                "not signed by a root certificate",
            ),
            (
                at("localhost", &format!("sslmode=require sslrootcert={wrong}")),
                "not signed by a root certificate",
            ),
        ] {
            let error = refusal(&refused).await;
            assert!(chain(&error).contains(why), "{refused}: {}", chain(&error));
            assert!(!error.is_retryable(), "{refused}");
        }
        server.stop().await.unwrap();
        tried += 1;
    }
    // `make matrix` names one version, which may be built without.
    if tried == 0 && versions().len() == 1 {
        return skip("the named server is built without TLS");
    }
    assert!(tried > 0, "no installed server is built with TLS");
}

#[tokio::test]
async fn a_self_signed_server_passes_require_and_as_its_own_root_verification() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    // As `openssl req -x509` makes it: the manual's recipe for servers.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().pem();
    let folder = tempfile::tempdir().unwrap();
    let root = private_file(folder.path(), "root.crt", &certificate);
    let server = with_tls().tls(certificate, key.serialize_pem()).start().await.unwrap();
    let at = |host: &str| format!("host={host} hostaddr=127.0.0.1 port={} user=postgres", server.port());
    assert!(facts(&format!("{} sslmode=require", at("localhost"))).await.tls);
    assert!(facts(&format!("{} sslmode=verify-full sslrootcert={root}", at("localhost"))).await.tls);
    let error = refusal(&format!("{} sslmode=verify-full sslrootcert={root}", at("127.0.0.1"))).await;
    assert!(chain(&error).contains("and not for 127.0.0.1"), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_without_tls_is_used_plain_unless_encryption_is_demanded() {
    let server = PrivateServer::builder().start().await.unwrap();
    assert!(!facts(&format!("{}?sslmode=prefer", server.dsn())).await.tls);
    let error = refusal(&format!("{}?sslmode=require", server.dsn())).await;
    assert!(chain(&error).contains("does not support TLS"), "{}", chain(&error));
}

#[tokio::test]
async fn prefer_falls_back_to_plain_where_only_that_is_admitted() {
    let (certificate, key) = Authority::new("ours").sign("localhost");
    let server =
        with_tls().tls(certificate, key).access("hostssl all all 127.0.0.1/32 reject").start().await.unwrap();
    assert!(!facts(&server.dsn()).await.tls);
    assert_eq!(refusal(&format!("{}?sslmode=require", server.dsn())).await.sqlstate(), Some("28000"));
}

#[tokio::test]
async fn a_clients_certificate_logs_in() {
    let authority = Authority::new("ours");
    let (certificate, key) = authority.sign("localhost");
    let server = with_tls()
        .tls(certificate, key)
        .client_authority(&authority.certificate)
        .access("hostssl all all 127.0.0.1/32 cert")
        .start()
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("postgres");
    let certificate = private_file(folder.path(), "client.crt", &certificate);
    let key = private_file(folder.path(), "client.key", &key);
    let dsn = format!("{}?sslmode=require", server.dsn());
    facts(&format!("{dsn}&sslcert={certificate}&sslkey={key}")).await;
    refusal(&dsn).await;

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = endpoint(&format!("{dsn}&sslcert={certificate}&sslkey={key}")).unwrap_err();
    assert!(error.is_configuration() && error.to_string().contains("others may read this key"), "{error}");
}

#[test]
fn root_certificates_that_cannot_be_used_are_configuration_errors() {
    let folder = tempfile::tempdir().unwrap();
    let empty = private_file(folder.path(), "empty", "");
    for (rest, named) in [
        ("sslmode=verify-full".to_owned(), "`system`"),
        ("sslmode=verify-ca sslrootcert=/no/such/file".to_owned(), "/no/such/file"),
        (format!("sslmode=verify-ca sslrootcert={empty}"), "no certificate"),
        ("sslmode=require sslrootcert=system".to_owned(), "verify-full"),
    ] {
        let error = endpoint(&format!("host=h user=u {rest}")).unwrap_err();
        assert!(error.is_configuration() && error.to_string().contains(named), "{rest}: {error}");
    }
}
