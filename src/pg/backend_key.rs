//! The process id that a session was told when it began (`BackendKeyData`).
//!
//! Where it is not that of the backend which answers, somebody else gave it: a proxy that hands out backends, and
//! keeps them when the client is gone (`PgBouncer` in any mode). A proxy that only forwards passes it on, and so do
//! networks that change addresses and ports.
//!
//! The driver keeps the key to itself and sends it in requests to cancel. So such a request is made, and read.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio_postgres::Client;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// More than a request for TLS and one to cancel.
const ROOM: usize = 64;
/// Length, code, process id and secret, four bytes each (manual, "Message Formats": `CancelRequest`).
const REQUEST: usize = 16;

/// The process id in the session's key; `None` when the driver does not say it.
pub(super) async fn process_id(client: &Client) -> Option<i32> {
    let (near, mut far) = duplex(ROOM);
    // Yes to TLS, if that is asked for.
    far.write_all(b"S").await.ok()?;
    client.cancel_token().cancel_query_raw(near, Bare).await.ok()?;
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.ok()?;
    let request = sent.last_chunk::<REQUEST>()?;
    request[8..12].try_into().ok().map(i32::from_be_bytes)
}

/// TLS in name only: the request goes nowhere.
struct Bare;

struct Line(DuplexStream);

impl TlsConnect<DuplexStream> for Bare {
    type Stream = Line;
    type Error = Infallible;
    type Future = Ready<Result<Line, Infallible>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        ready(Ok(Line(stream)))
    }
}

impl TlsStream for Line {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
