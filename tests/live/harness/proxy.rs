//! A line to the server that breaks where a test wants it to.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const CANCEL: &[u8] = b"pg_cancel_backend";

/// What happens to the next COMMIT that comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFault {
    /// It never reaches the server, which sees the line close.
    Swallowed,
    /// It never reaches the server, which sees nothing: as behind a firewall that forgot the line.
    SwallowedInSilence,
    /// The server commits, and its answer is lost.
    AnswerLost,
    /// The same, and nobody sees the line close: it stays open, and carries no answer any more.
    AnswerLostInSilence,
}

/// Forwards connections on a loopback port to the server's.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    control: Arc<Control>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Control {
    server: u16,
    cuts: watch::Sender<Cut>,
    /// How often all answers were lost.
    mutes: watch::Sender<u32>,
    /// Whether new connections are closed at once.
    refusing: watch::Sender<bool>,
    fault: Mutex<Option<CommitFault>>,
    /// Whether requests to cancel are held up.
    holds_cancels: watch::Sender<bool>,
    /// The server's ends of lines that were cut on our side only.
    held: Mutex<Vec<TcpStream>>,
}

/// The last cut: its number, and whether the server notices.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    number: u32,
    server_notices: bool,
}

impl Proxy {
    /// Listens on a free port in front of the server's.
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let control = Arc::new(Control {
            server,
            cuts: watch::Sender::default(),
            mutes: watch::Sender::default(),
            refusing: watch::Sender::new(false),
            fault: Mutex::default(),
            holds_cancels: watch::Sender::default(),
            held: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, control.clone()));
        Self { port, control, task }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Cuts all lines; client and server both see theirs close.
    pub(crate) fn cut(&self) {
        self.cut_with(true);
    }

    /// Cuts all lines on the client's side; the server sees nothing.
    pub(crate) fn cut_in_silence(&self) {
        self.cut_with(false);
    }

    /// Loses all answers of the lines there are, which stay open.
    pub(crate) fn mute(&self) {
        self.control.mutes.send_modify(|mutes| *mutes += 1);
    }

    /// Closes new connections at once, or lets them through again.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.control.refusing.send_replace(refusing);
    }

    /// Lets the next COMMIT, of whichever session, come to harm.
    pub(crate) fn break_next_commit(&self, fault: CommitFault) {
        *self.control.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Holds requests to cancel (`pg_cancel_backend`) up, or lets them through.
    pub(crate) fn hold_cancels(&self, holds: bool) {
        self.control.holds_cancels.send_replace(holds);
    }

    fn cut_with(&self, server_notices: bool) {
        self.control.cuts.send_modify(|cut| *cut = Cut { number: cut.number + 1, server_notices });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, control: Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        if !*control.refusing.borrow()
            && let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, control.server)).await
        {
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            tokio::spawn(carry(client, server, control.clone()));
        }
    }
}

/// Carries bytes both ways until one side closes or the line is cut.
async fn carry(mut client: TcpStream, mut server: TcpStream, control: Arc<Control>) {
    let (mut cuts, mut mutes) = (control.cuts.subscribe(), control.mutes.subscribe());
    let mut is_mute = false;
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(n) if n > 0 => {
                    let fault = control.fault_for(&up[..n]);
                    match fault {
                        None | Some(CommitFault::AnswerLostInSilence) => {}
                        Some(CommitFault::Swallowed) => return,
                        Some(CommitFault::SwallowedInSilence) => return control.hold(server),
                        Some(CommitFault::AnswerLost) => {
                            // Its answer is the proof that the server has committed.
                            let _ = server.write_all(&up[..n]).await;
                            let _ = server.read(&mut down).await;
                            return;
                        }
                    }
                    is_mute |= fault == Some(CommitFault::AnswerLostInSilence);
                    if up[..n].windows(CANCEL.len()).any(|part| part == CANCEL) {
                        let _ = control.holds_cancels.subscribe().wait_for(|holds| !holds).await;
                    }
                    if server.write_all(&up[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(n) if n > 0 && is_mute => {}
                Ok(n) if n > 0 && client.write_all(&down[..n]).await.is_ok() => {}
                _ => return,
            },
            _ = mutes.changed() => is_mute = true,
            _ = cuts.changed() => {
                if !cuts.borrow().server_notices {
                    control.hold(server);
                }
                return;
            }
        }
    }
}

impl Control {
    /// The fault that these bytes trigger, once. A short frame arrives in one piece on loopback.
    fn fault_for(&self, bytes: &[u8]) -> Option<CommitFault> {
        let is_commit = bytes.windows(7).any(|window| window == b"COMMIT\0");
        if is_commit { self.fault.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None }
    }

    fn hold(&self, server: TcpStream) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(server);
    }
}
