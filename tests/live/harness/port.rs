//! Ports for programs that must be told theirs, and cannot say which one they got.
//!
//! A port that was bound, noted and given up is anybody's: another test notes it too, or an outgoing
//! connection takes it before the program listens. So these are below the range that the kernel takes
//! for outgoing connections (and below that of private servers), and each is claimed: its number is bound
//! for UDP, which nobody here speaks, until the test's process ends. That holds among processes too.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Others listen here now and then; enough is left.
const RANGE: std::ops::Range<u16> = 10_000..15_000;

/// A port on loopback that nobody listens on, and that no other test is given.
pub(crate) fn free_port() -> u16 {
    let unclaimed = |port: &u16| {
        let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)) else { return false };
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        if free {
            std::mem::forget(claim);
        }
        free
    };
    RANGE.into_iter().find(unclaimed).expect("a port that nobody has")
}
