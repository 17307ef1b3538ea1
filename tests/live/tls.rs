//! TLS as libpq has it: certificates of the manual's recipes, lists of revoked ones, versions, the client's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use headcount::Error;
use headcount::server::{Endpoint, ServerFacts};
use testkit::server::{Builder, PrivateServer};

use rcgen::KeyPair;

use crate::harness::chain;
use crate::versions::{Part, programs, version_with};

/// Made by `make.sh`, as the manual says to.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

fn with(certificate: &str, key: &str) -> Builder {
    let builder = PrivateServer::builder().binaries(programs(version_with(Part::Tls)));
    builder.tls(text(certificate), text(key))
}

async fn check(server: &PrivateServer, rest: &str) -> Result<ServerFacts, Error> {
    let port = server.port();
    let dsn = format!(
        "host=dbhost.example.com hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres {rest}"
    );
    Endpoint::resolve(Some(&dsn), |_| None).unwrap().check().await
}

async fn refused(server: &PrivateServer, rest: &str, why: &str) {
    let error = check(server, rest).await.unwrap_err();
    assert!(chain(&error).contains(why), "{rest}: {}", chain(&error));
}

fn root(name: &str) -> String {
    format!("sslmode=verify-full sslrootcert={}", file(name).display())
}

#[tokio::test]
async fn servers_with_certificates_of_the_manuals_recipes_are_verified_as_by_libpq() {
    for (certificate, key, authority) in [
        ("self.crt", "self.key", "self.crt"),
        ("leaf.crt", "leaf.key", "root.crt"),
        ("below.crt", "leaf.key", "root.crt"),
    ] {
        let server = with(certificate, key).start().await.unwrap();
        // Each version proves its key in another way.
        for version in ["TLSv1.2", "TLSv1.3"] {
            let version = format!("ssl_min_protocol_version={version} ssl_max_protocol_version={version}");
            let seen = check(&server, &format!("{} {version}", root(authority))).await;
            let seen = seen.unwrap_or_else(|error| panic!("{certificate} {version}: {}", chain(&error)));
            assert!(seen.tls);
        }
        let other = if authority == "self.crt" { "root.crt" } else { "self.crt" };
        refused(&server, &root(other), "not signed by a root certificate of sslrootcert").await;
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_revoked_server_is_refused_wherever_the_list_comes_from() {
    let server = with("leaf.crt", "leaf.key").start().await.unwrap();
    let list = |name: &str| format!("{} sslcrl={}", root("root.crt"), file(name).display());
    check(&server, &list("none.crl")).await.unwrap();
    refused(&server, &list("root.crl"), "revoked").await;
    refused(&server, &list("root-v1.crl"), "revoked").await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(file("root.crl"), folder.path().join("0a1b2c3d.r0")).unwrap();
    refused(&server, &format!("{} sslcrldir={}", root("root.crt"), folder.path().display()), "revoked").await;
    let own = folder.path().join(".postgresql");
    std::fs::create_dir(&own).unwrap();
    for name in ["root.crt", "root.crl"] {
        std::fs::copy(file(name), own.join(name)).unwrap();
    }
    let port = server.port();
    let dsn =
        format!("host=dbhost.example.com hostaddr=127.0.0.1 port={port} user=postgres sslmode=verify-full");
    let home = folder.path().display().to_string();
    let at_home = Endpoint::resolve(Some(&dsn), |name| (name == "HOME").then(|| home.clone()));
    let error = at_home.unwrap().check().await.unwrap_err();
    assert!(chain(&error).contains("revoked"), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_that_speaks_no_wanted_version_or_asks_for_no_certificate_is_refused() {
    let server =
        with("leaf.crt", "leaf.key").setting("ssl_max_protocol_version", "TLSv1.2").start().await.unwrap();
    check(&server, &root("root.crt")).await.unwrap();
    refused(&server, &format!("{} ssl_min_protocol_version=TLSv1.3", root("root.crt")), "TLSv1.3").await;
    refused(&server, "sslmode=require sslcertmode=require", "did not ask for the client's certificate").await;
}

#[tokio::test]
async fn a_clients_certificate_of_version_1_logs_in_by_a_key_in_either_form_unless_it_may_not_be_sent() {
    let server = with("leaf.crt", "leaf.key")
        .client_authority(text("root.crt"))
        .access("hostssl all all 127.0.0.1/32 cert")
        .start()
        .await
        .unwrap();
    // The certificate's name is the role's. Whoever comes without TLS is trusted.
    let admin = Endpoint::resolve(Some(&format!("{}?sslmode=disable", server.dsn())), |_| None).unwrap();
    let admin = admin.client("test").await.unwrap();
    admin.batch_execute("CREATE ROLE \"dbhost.example.com\" LOGIN").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("client.key");
    std::fs::write(&pem, text("leaf.key")).unwrap();
    std::fs::set_permissions(&pem, std::fs::Permissions::from_mode(0o600)).unwrap();
    let own = format!(
        "user=dbhost.example.com sslmode=require sslcert={} sslkey={}",
        file("leaf.crt").display(),
        pem.display()
    );
    check(&server, &own).await.unwrap();
    check(&server, &format!("{own} sslcertmode=require")).await.unwrap();
    let der = folder.path().join("client.der");
    std::fs::write(&der, KeyPair::from_pem(&text("leaf.key")).unwrap().serialize_der()).unwrap();
    std::fs::set_permissions(&der, std::fs::Permissions::from_mode(0o600)).unwrap();
    check(&server, &own.replace("client.key", "client.der")).await.unwrap();
    refused(&server, &format!("{own} sslcertmode=disable"), "valid client certificate").await;
    let wrong = own.replace("leaf.crt", "self.crt");
    let error = Endpoint::from_dsn(&format!("host=h user=u {wrong}")).unwrap_err();
    assert!(error.is_configuration() && error.to_string().starts_with("sslkey: is not the key"), "{error}");
}
