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

/// More than a request for TLS and one to cancel, whose key has up to 256 bytes since version 3.2 of the protocol.
const ROOM: usize = 512;
/// `CancelRequest`'s code (manual, "Message Formats").
const CANCEL: i32 = 80_877_102;

/// The process id in the session's key; `None` when the driver does not say it.
pub(crate) async fn process_id(client: &Client) -> Option<i32> {
    let (near, mut far) = duplex(ROOM);
    // Yes to TLS, if that is asked for.
    far.write_all(b"S").await.ok()?;
    client.cancel_token().cancel_query_raw(near, Bare).await.ok()?;
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.ok()?;
    read(&sent)
}

/// The process id in a request to cancel; another request may come before it. Each is its length, a code, and what
/// belongs to it: here the process id and a key of any length.
fn read(mut sent: &[u8]) -> Option<i32> {
    let number = |bytes: &[u8], at: usize| Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let length = usize::try_from(number(sent, 0)?).ok().filter(|length| *length >= 8)?;
        let request = sent.get(..length)?;
        if number(request, 4)? == CANCEL {
            return number(request, 8);
        }
        sent = &sent[length..];
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: i32, rest: &[u8]) -> Vec<u8> {
        let length = i32::try_from(8 + rest.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    #[test]
    fn the_process_id_is_found_whatever_the_keys_length() {
        let tls = request(80_877_103, &[]);
        for length in [4, 32, 256] {
            let cancel = request(CANCEL, &[&4711_i32.to_be_bytes()[..], &vec![7; length]].concat());
            assert_eq!(read(&cancel), Some(4711), "{length}");
            assert_eq!(read(&[tls.clone(), cancel].concat()), Some(4711), "{length}");
        }
    }

    #[test]
    fn what_is_no_request_has_none() {
        let short = request(CANCEL, &[0, 0]);
        for sent in [&[][..], &[0, 0, 0], &[0; 16], &[0, 0, 1, 0, 4, 210, 22, 46], &short] {
            assert_eq!(read(sent), None, "{sent:?}");
        }
    }
}
