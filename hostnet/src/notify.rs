//! Hearing that somebody changed the network.

use crate::error::Error;
use crate::netns::Netns;
use netlink_packet_core::{NetlinkBuffer, ParseableParametrized};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourState;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use std::io::ErrorKind;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Multicast groups of rtnetlink (`include/uapi/linux/rtnetlink.h`): links, neighbours and forwarding
/// entries, queueing disciplines and their filters (our programs), IPv4 addresses, IPv4 routes, IPv4
/// settings of devices (`ip_forward` among them).
const ROUTE_GROUPS: [u32; 6] = [1, 3, 4, 5, 7, 24];

/// Multicast group of nftables (`include/uapi/linux/netfilter/nfnetlink.h`, NFNLGRP_NFTABLES).
const NFTABLES_GROUP: u32 = 7;

/// Wakes its owner when links, their programs, IPv4 addresses, routes, neighbours, forwarding entries or nftables of a
/// namespace may have changed. It does not say what changed: the owner reads everything again.
pub struct Notifier {
    route: AsyncFd<Socket>,
    nftables: AsyncFd<Socket>,
}

impl Notifier {
    /// Listens in a namespace from now on. Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// [`Error::Netns`] or [`Error::Socket`].
    pub fn new(namespace: &Netns) -> Result<Self, Error> {
        let (route, nftables) = namespace.run(|| -> Result<_, Error> {
            Ok((listen(NETLINK_ROUTE, &ROUTE_GROUPS)?, listen(NETLINK_NETFILTER, &[NFTABLES_GROUP])?))
        })??;
        Ok(Self { route: register(route)?, nftables: register(nftables)? })
    }

    /// Waits until something may have changed since the last call (or since [`Notifier::new`]). Many
    /// changes make one wake-up. Lost notifications count as a change. Cancelling loses none.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub async fn changed(&mut self) -> Result<(), Error> {
        let woken = tokio::select! {
            result = relevant(&self.route, concerns_us) => result,
            result = relevant(&self.nftables, |_datagram| true) => result,
        };
        woken.map_err(Error::socket("receive notifications"))
    }
}

fn register(socket: Socket) -> Result<AsyncFd<Socket>, Error> {
    // SAFETY: the socket owns its descriptor, closes it only when dropped, and nothing replaces it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(|error| Error::socket("register with the runtime")(error.into()))
}

fn listen(protocol: isize, groups: &[u32]) -> Result<Socket, Error> {
    let mut socket = Socket::new(protocol).map_err(Error::socket("open"))?;
    socket.bind(&SocketAddr::new(0, 0)).map_err(Error::socket("bind"))?;
    for group in groups {
        socket.add_membership(*group).map_err(Error::socket("join a multicast group"))?;
    }
    socket.set_non_blocking(true).map_err(Error::socket("make non-blocking"))?;
    Ok(socket)
}

/// Waits for a datagram that matters, and takes what is queued behind it too.
async fn relevant(socket: &AsyncFd<Socket>, matters: fn(&[u8]) -> bool) -> std::io::Result<()> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| drain(socket.get_ref(), matters)) {
            Ok(Ok(true)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            // Nothing that matters, or nothing at all any more.
            Ok(Ok(false)) | Err(_) => {}
        }
    }
}

/// Reads until the queue is empty; whether something mattered. `WouldBlock` when nothing did, so that
/// the runtime waits for the socket to become readable again.
fn drain(socket: &Socket, matters: fn(&[u8]) -> bool) -> std::io::Result<bool> {
    let (mut buffer, mut mattered) = (Vec::with_capacity(65_536), false);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_length) => mattered = mattered || matters(&buffer),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The queue ran over: notifications were lost, whatever they said.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => mattered = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock && mattered => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

/// Whether a datagram is about more than a neighbour's state. A busy host's neighbours turn from
/// reachable to stale and back all the time; ours are permanent.
fn concerns_us(datagram: &[u8]) -> bool {
    let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
        return true;
    };
    let payload = datagram.get(16..message.length() as usize).unwrap_or_default();
    match RouteNetlinkMessage::parse_with_param(payload, message.message_type()) {
        Ok(RouteNetlinkMessage::NewNeighbour(entry)) => !matches!(
            entry.header.state,
            NeighbourState::Incomplete
                | NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
        ),
        _ => true,
    }
}
