//! Several hosts: which one is taken, and that work which writes never begins on one that only reads.

use headcount::server::Endpoint;
use headcount::{Error, Headcount, Keys, Refusal};
use testkit::server::PrivateServer;

use crate::harness::chain;
use crate::versions::{on_oldest_and_latest, programs};

on_oldest_and_latest! {
    each_word_of_target_session_attrs_finds_its_server,
    an_update_finds_the_server_that_writes_or_says_that_there_is_none,
}

/// A primary, and a standby that has all of it.
async fn pair(major: u32, setup: &str) -> (PrivateServer, PrivateServer) {
    let primary = PrivateServer::builder().binaries(programs(major)).start().await.unwrap();
    at(&[&primary], "").client("test").await.unwrap().batch_execute(setup).await.unwrap();
    let standby = PrivateServer::builder().standby_of(&primary).start().await.unwrap();
    (primary, standby)
}

fn at(servers: &[&PrivateServer], rest: &str) -> Endpoint {
    let hosts = vec!["127.0.0.1"; servers.len()].join(",");
    let ports = servers.iter().map(|server| server.port().to_string()).collect::<Vec<_>>().join(",");
    let dsn = format!("host={hosts} port={ports} user=postgres dbname=postgres {rest}");
    Endpoint::resolve(Some(&dsn), |_| None).unwrap()
}

async fn taken(servers: &[&PrivateServer], word: &str) -> Result<u16, Error> {
    let client = at(servers, &format!("target_session_attrs={word}")).client("test").await?;
    let port: i32 = client.query_one("SELECT inet_server_port()", &[]).await.unwrap().get(0);
    Ok(u16::try_from(port).unwrap())
}

async fn each_word_of_target_session_attrs_finds_its_server(major: u32) {
    let (primary, standby) = pair(major, "").await;
    let (one, two) = (primary.port(), standby.port());
    for (word, of_both, of_both_turned) in [
        ("any", one, two),
        ("read-write", one, one),
        ("primary", one, one),
        ("read-only", two, two),
        ("standby", two, two),
        ("prefer-standby", two, two),
    ] {
        assert_eq!(taken(&[&primary, &standby], word).await.unwrap(), of_both, "{word}");
        assert_eq!(taken(&[&standby, &primary], word).await.unwrap(), of_both_turned, "{word}");
    }
    assert_eq!(taken(&[&primary], "prefer-standby").await.unwrap(), one);
    for (server, word, why) in [
        (&standby, "read-write", "this server is a standby, which only reads"),
        (&standby, "primary", "this server is a standby"),
        (&primary, "standby", "this server is no standby"),
        (&primary, "read-only", "this server can write"),
    ] {
        let error = taken(&[server], word).await.unwrap_err();
        assert!(chain(&error).contains(why), "{word}: {}", chain(&error));
    }
    // One that could write, and may not.
    let read_only = "options='-c default_transaction_read_only=on'";
    for (word, fits) in [("read-write", false), ("read-only", true), ("primary", true)] {
        let found = at(&[&primary], &format!("target_session_attrs={word} {read_only}")).client("test").await;
        assert_eq!(found.is_ok(), fits, "{word}");
    }
    standby.stop().await.unwrap();
    primary.stop().await.unwrap();
}

async fn an_update_finds_the_server_that_writes_or_says_that_there_is_none(major: u32) {
    let setup = "CREATE TABLE todo (id int PRIMARY KEY, done text); INSERT INTO todo VALUES (1)";
    let (primary, standby) = pair(major, setup).await;
    let update = |servers: &[&PrivateServer]| {
        Headcount::builder(at(servers, "")).build().update("todo").key(["id"]).set("done", "yes")
    };
    for servers in [&[&standby][..], &[&standby, &standby]] {
        let error = update(servers).run(Keys::rows(["1"])).await.unwrap_err();
        assert_eq!(error.refusal(), Some(Refusal::ReadOnly), "{error}");
        assert!(error.to_string().contains("is a standby, which only reads"), "{error}");
        assert!(
            error.fixes()[0].to_string().contains("let `endpoint` lead to the primary"),
            "{:?}",
            error.fixes()
        );
    }
    // It may be the one that cannot be reached which writes.
    let gone = format!("host=127.0.0.1,127.0.0.1 port=1,{} user=postgres dbname=postgres", standby.port());
    let updater = Headcount::builder(Endpoint::resolve(Some(&gone), |_| None).unwrap()).build();
    let error =
        updater.update("todo").key(["id"]).set("done", "yes").run(Keys::rows(["1"])).await.unwrap_err();
    assert!(error.is_connection_lost() && error.refusal().is_none(), "{error}");
    let done = update(&[&standby, &primary]).run(Keys::rows(["1"])).await.unwrap();
    assert_eq!(done.updated, 1);
    standby.stop().await.unwrap();
    primary.stop().await.unwrap();
}
