//! A line to the server that can go silent: it stays open, takes new connections, and forwards nothing more.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Forwards a loopback port to the server's.
pub(crate) struct Line {
    pub(crate) port: u16,
    silent: watch::Sender<bool>,
}

impl Line {
    pub(crate) fn to(runtime: &Runtime, server: u16) -> Self {
        let silent = watch::Sender::new(false);
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let signal = silent.clone();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, (Ipv4Addr::LOCALHOST, server).into(), signal.subscribe()));
            }
        });
        Self { port, silent }
    }

    /// From now on nothing comes through, either way.
    pub(crate) fn go_silent(&self) {
        self.silent.send_replace(true);
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, mut silent: watch::Receiver<bool>) {
    let carried = async {
        if let Ok(mut server) = TcpStream::connect(server).await {
            let _ = copy_bidirectional(&mut client, &mut server).await;
            let _ = server.shutdown().await;
        }
    };
    let hushed = async {
        while !*silent.borrow_and_update() {
            if silent.changed().await.is_err() {
                break;
            }
        }
    };
    let mut carried = std::pin::pin!(carried);
    tokio::select! {
        biased;
        () = hushed => {}
        () = &mut carried => return,
    }
    // Both ends stay open.
    std::future::pending::<()>().await;
}
