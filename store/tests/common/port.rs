//! Ports of the loopback for the servers of tests.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// A port that is this test's for as long as this lives, also while nobody listens at it: a server that comes up
/// again finds it free.
pub(crate) struct Port {
    pub(crate) number: u16,
    /// An abstract name, of which there is one in a network namespace, as of the port.
    _reservation: UnixListener,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        // Below those that the kernel gives to whoever asks for any; not all tests begin to look at the same one.
        let first = std::process::id().wrapping_mul(31) % 10_000;
        let all = (0..10_000).map(|n| 20_000 + u16::try_from((first + n) % 10_000).unwrap_or_default());
        all.into_iter().find_map(Self::reserve_this).expect("a free port of the loopback")
    }

    fn reserve_this(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("weft-test-port-{number}")).ok()?;
        let reservation = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self { number, _reservation: reservation })
    }
}
