//! HTTP as exporters use it: TLS with the system's roots, errors without addresses.

use std::error::Error as StdError;

use reqwest::{ClientBuilder, Url};

/// A client builder. TLS is made ready only where it is needed: reading the system's roots costs ms.
pub(super) fn client(tls: bool) -> ClientBuilder {
    reqwest::Client::builder().tls_backend_preconfigured(tls_config(tls))
}

/// The same for a thread that may block.
#[cfg(feature = "otlp")]
pub(super) fn blocking_client(tls: bool) -> reqwest::blocking::ClientBuilder {
    reqwest::blocking::Client::builder().tls_backend_preconfigured(tls_config(tls))
}

fn tls_config(wanted: bool) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    if wanted {
        // Some broken certificates in the system's store are no reason to trust none.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = rustls::crypto::ring::default_provider();
    rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Scheme, host, port and path: what may be shown of a URL.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// Whether there is an `@` behind the host: a password with a `/`, `?` or `#` that is not encoded ends there, in what is
/// shown.
pub(super) fn may_hide_a_password(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.find(['/', '\\', '?', '#']).is_some_and(|end| rest[end..].contains('@'))
}

/// The innermost cause: the outer ones say "error sending request", and may show the URL.
pub(super) fn clause(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let error = error.without_url();
    let mut cause: &dyn StdError = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
