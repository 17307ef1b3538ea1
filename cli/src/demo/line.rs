//! A line to the server that breaks: a proxy on loopback that cuts for real, at bytes drawn from a seed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Trouble;

/// Where one connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Never,
    /// After so many bytes of what the server sends.
    Byte(usize),
    /// At this COMMIT, counted from 1: the server gets it, its answer gets lost.
    Answer(u32),
    /// At this COMMIT: the server does not get it.
    Commit(u32),
}

/// One of each kind that matters, then bytes drawn from the seed. The first connection looks the table
/// up, and is spared; so are those after the last.
pub(super) fn cuts(seed: u64) -> Vec<Cut> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cuts = vec![Cut::Answer(random.u32(3..8)), Cut::Commit(random.u32(3..8))];
    cuts.extend((0..4).map(|_| Cut::Byte(random.usize(5_000..12_000))));
    random.shuffle(&mut cuts);
    cuts.insert(0, Cut::Never);
    cuts
}

/// The proxy, until it is dropped.
pub(super) struct BadLine {
    pub(super) port: u16,
    cut: Arc<AtomicU32>,
    listening: JoinHandle<()>,
}

impl BadLine {
    pub(super) async fn start(server: u16, cuts: Vec<Cut>) -> Result<Self, Trouble> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Trouble::story)?;
        let port = listener.local_addr().map_err(Trouble::story)?.port();
        let (cuts, cut) = (Mutex::new(VecDeque::from(cuts)), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&cut);
        let listening = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let place = cuts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    if carry(near, far, place.unwrap_or(Cut::Never)).await {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Ok(Self { port, cut, listening })
    }

    /// How many connections were cut so far.
    pub(super) fn cut(&self) -> u32 {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The end of the simple query that commits, as it is on the wire.
const COMMIT: &[u8] = b"COMMIT\0";

/// Carries bytes until either side ends or the place is reached; then drops both sides, as a dead line
/// does. Returns whether it was cut.
async fn carry(mut near: TcpStream, mut far: TcpStream, place: Cut) -> bool {
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let up = async {
        let (mut buffer, mut commits) = (vec![0; 1 << 16], 0);
        while let Ok(length @ 1..) = near_read.read(&mut buffer).await {
            let bytes = &buffer[..length];
            let found = bytes.windows(COMMIT.len()).position(|window| window == COMMIT);
            commits += u32::from(found.is_some());
            let end = match (place, found) {
                (Cut::Answer(at), Some(found)) if at == commits => Some(found + COMMIT.len()),
                (Cut::Commit(at), Some(found)) if at == commits => Some(found),
                _ => None,
            };
            if far_write.write_all(&bytes[..end.unwrap_or(length)]).await.is_err() {
                return false;
            }
            if end.is_some() {
                return true;
            }
        }
        false
    };
    let down = async {
        let (mut buffer, mut carried) = (vec![0; 1 << 16], 0);
        while let Ok(length @ 1..) = far_read.read(&mut buffer).await {
            let left = if let Cut::Byte(at) = place { at - carried } else { usize::MAX };
            let passed = length.min(left);
            if near_write.write_all(&buffer[..passed]).await.is_err() {
                return false;
            }
            carried += passed;
            if passed == left {
                return true;
            }
        }
        false
    };
    tokio::select! {
        cut = up => cut,
        cut = down => cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_fates_of_a_commit_are_among_the_cuts_and_the_look_up_is_spared() {
        for seed in 0..100 {
            let cuts = cuts(seed);
            assert_eq!(cuts[0], Cut::Never);
            assert!(cuts.iter().any(|cut| matches!(cut, Cut::Answer(_))), "{cuts:?}");
            assert!(cuts.iter().any(|cut| matches!(cut, Cut::Commit(_))), "{cuts:?}");
        }
        assert_eq!(cuts(7), cuts(7));
    }
}
