//! The end of the chain: what Alertmanager posts to.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::programs::PATIENCE;

/// Listens on loopback, and keeps what it gets until somebody asks.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) address: SocketAddr,
    posts: UnboundedReceiver<Post>,
}

/// One notification.
#[derive(Debug)]
pub(crate) struct Post {
    /// `/page` or `/ticket`: whom it wakes.
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl Post {
    /// Whether it says this of that alert of that task.
    fn says(&self, status: &str, alert: &str, task: &str) -> bool {
        let alerts = self.body["alerts"].as_array().map_or(&[][..], Vec::as_slice);
        alerts.iter().any(|one| {
            one["status"] == status && one["labels"]["alertname"] == alert && one["labels"]["task"] == task
        })
    }
}

impl Webhook {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, posts) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, sender.clone()));
            }
        });
        Self { address, posts }
    }

    /// Waits for this message about an alert, and returns it and all that came before.
    pub(crate) async fn wait_for(&mut self, status: &str, alert: &str, task: &str) -> Vec<Post> {
        let mut seen = Vec::new();
        let waiting = async {
            loop {
                seen.push(self.posts.recv().await.expect("the listener lives as long as the test"));
                if seen.last().is_some_and(|post| post.says(status, alert, task)) {
                    break;
                }
            }
        };
        let arrived = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(arrived.is_ok(), "{alert} of {task} is not {status}: {seen:#?}");
        seen
    }
}

/// One connection, which Alertmanager keeps for several posts.
async fn serve(stream: TcpStream, posts: UnboundedSender<Post>) {
    let mut stream = BufReader::new(stream);
    while let Some(post) = receive(&mut stream).await {
        let _ = posts.send(post);
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

async fn receive(stream: &mut BufReader<TcpStream>) -> Option<Post> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let path = line.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?;
            }
            Some(_) => (),
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Post { path, body: serde_json::from_slice(&body).ok()? })
}
