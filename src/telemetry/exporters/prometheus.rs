//! `/metrics`: the recorder of the command, and the listener that a scrape reads.
//!
//! The exporter crate can listen by itself, but does not say which port it got, and a job that shares
//! its host with others asks for port 0. So it renders, and the forty lines of HTTP are here.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::telemetry::names::{self, Kind};

/// The media type of Prometheus' text format.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Scrapes served at once; more wait.
const MAX_SCRAPES: usize = 16;
/// How long a client may take to send its request line and headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A recorder with the buckets of the contract.
///
/// # Errors
///
/// A configuration error if the contract has a histogram without buckets.
pub fn recorder() -> Result<PrometheusRecorder, Error> {
    let mut builder = PrometheusBuilder::new();
    for metric in names::ALL {
        // Without buckets of its own a histogram is rendered as a summary, which cannot be aggregated.
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
                .map_err(|error| Error::configuration(metric.name, error.to_string()))?;
        }
    }
    Ok(builder.build_recorder())
}

/// Where to listen: `ADDRESS:PORT`, or `PORT` alone for loopback. Port 0 takes a free one.
///
/// # Errors
///
/// A configuration error that names `--listen`.
pub fn parse_listen(text: &str) -> Result<SocketAddr, Error> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.replace("localhost:", "127.0.0.1:").parse().map_err(|_| {
        Error::configuration(
            "listen",
            format!("`{text}` is not ADDRESS:PORT, as in 127.0.0.1:9187, nor a port"),
        )
    })
}

/// A listener; stops when dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listener {
    /// Binds, and serves `GET /metrics` from then on.
    ///
    /// # Errors
    ///
    /// A configuration error that names `--listen` if the address cannot be had.
    pub async fn start(address: SocketAddr, handle: PrometheusHandle) -> Result<Self, Error> {
        let refused = |error: std::io::Error| {
            Error::configuration("listen", format!("cannot listen on {address}: {error}"))
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { address, task: tokio::spawn(serve(listener, handle)) })
    }

    /// Where it listens, with the port it got.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, handle: PrometheusHandle) {
    let scrapes = Arc::new(Semaphore::new(MAX_SCRAPES));
    loop {
        let Ok(permit) = Arc::clone(&scrapes).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: give the process a moment to close some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let handle = handle.clone();
        tokio::spawn(async move {
            serve_one(stream, handle).await;
            drop(permit);
        });
    }
}

async fn serve_one(stream: TcpStream, handle: PrometheusHandle) {
    let service =
        service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&request, &handle))));
    // A scrape that breaks off is the scraper's loss; it counts it as a failed scrape.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, handle: &PrometheusHandle) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, handle.render()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_loopback() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse_listen(text).unwrap().to_string(), expected);
        };
        check("9187", "127.0.0.1:9187");
        check(":9187", "127.0.0.1:9187");
        check("localhost:0", "127.0.0.1:0");
        check("[::1]:9187", "[::1]:9187");
    }

    #[test]
    fn what_is_no_address_is_a_configuration_error_that_names_the_option() {
        let error = parse_listen("nonsense:99999").unwrap_err();
        assert!(error.is_configuration());
        assert!(error.to_string().starts_with("listen: "), "{error}");
    }

    #[tokio::test]
    async fn a_busy_port_is_a_configuration_error_that_names_the_option() {
        let handle = recorder().unwrap().handle();
        let first = Listener::start(parse_listen("0").unwrap(), handle.clone()).await.unwrap();
        assert_ne!(first.address().port(), 0);
        let error = Listener::start(first.address(), handle).await.unwrap_err();
        assert!(error.is_configuration());
        assert!(error.to_string().starts_with("listen: cannot listen on 127.0.0.1:"), "{error}");
    }
}
