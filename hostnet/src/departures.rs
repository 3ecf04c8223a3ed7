//! Hearing at once that links are gone.
//!
//! Who asks the kernel to remove a link waits some 20 ms: the link is out of every list after one or two, and the
//! rest is `netdev_run_todo`, which lets go of the lock over all networks and then waits until no processor
//! can still be looking at the link (`rcu_barrier`; 6.18). The notification comes before that.

use crate::error::Error;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use std::io::ErrorKind;

/// Multicast group and message of links (`include/uapi/linux/rtnetlink.h`).
const LINKS_GROUP: u32 = 1;
const RTM_DELLINK: u16 = 17;
/// Length of `struct nlmsghdr`; behind it is `struct ifinfomsg`: family, then the index at byte 4.
const HEADER: usize = 16;
const FAMILY: usize = HEADER;
const INDEX: usize = HEADER + 4;
/// The family of a link's end; a bridge says in its own that a port left it (`AF_BRIDGE`).
const AF_UNSPEC: u8 = 0;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departed {
    /// The links with these indexes are gone.
    Links(Vec<u32>),
    /// Notifications were lost: any link may be gone.
    Some,
}

/// Hears which links of a namespace went, from when it was made.
pub struct Departures {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Departures {
    /// Listens in the calling thread's namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn here() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::socket("open"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(Error::socket("bind"))?;
        socket.add_membership(LINKS_GROUP).map_err(Error::socket("join the group of links"))?;
        Ok(Self { socket, buffer: Vec::with_capacity(65_536) })
    }

    /// Waits until a link is gone. An index may be in use again by the time one reads it here.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn wait(&mut self) -> Result<Departed, Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_length) => match departed(&self.buffer) {
                    gone if gone.is_empty() => {}
                    gone => return Ok(Departed::Links(gone)),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(Departed::Some),
                Err(error) => return Err(Error::socket("receive notifications")(error)),
            }
        }
    }
}

/// Indexes of the links that a datagram says are gone.
fn departed(datagram: &[u8]) -> Vec<u32> {
    let (mut rest, mut gone) = (datagram, Vec::new());
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        let index = rest.get(INDEX..INDEX + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let is_end = message.message_type() == RTM_DELLINK && rest.get(FAMILY) == Some(&AF_UNSPEC);
        gone.extend(index.filter(|_index| is_end));
        // Messages begin at multiples of four.
        rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    gone
}
