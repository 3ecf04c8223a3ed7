//! Frames as a hostile workload makes them: every field as it likes, sent and seen by raw sockets.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recv, send,
    setsockopt, socket, sockopt,
};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use weft_lab::probe::inside;
use weft_model::mac::Mac;

/// EtherTypes.
pub mod kind {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// The IPv4 flag "more fragments".
pub const MORE: u16 = 0x2000;

/// `include/uapi/linux/if_packet.h`.
const PACKET_VNET_HDR: i32 = 15;

/// A raw socket on a device: sends anything, sees everything.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens it.
    ///
    /// # Errors
    /// There is no such device.
    pub fn open(netns: &Path, device: &str) -> Result<Self> {
        inside(netns, || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            // Nobody reads while somebody floods: what does not fit is lost, a hole in what is to be seen.
            setsockopt(&fd, sockopt::RcvBufForce, &(32 << 20))?;
            bind(fd.as_raw_fd(), &link_address(device)?)?;
            Ok(Self(fd))
        })?
    }

    /// From now on what is sent begins with a `virtio_net_hdr`: what is left for the device to do.
    ///
    /// # Errors
    /// The kernel has no such option.
    pub fn prepend_offload_header(&self) -> Result<()> {
        let (on, size) = (1_i32, 4);
        // SAFETY: the kernel reads four bytes of `on`.
        let result = unsafe {
            let value = (&raw const on).cast();
            nix::libc::setsockopt(self.0.as_raw_fd(), nix::libc::SOL_PACKET, PACKET_VNET_HDR, value, size)
        };
        Ok(Errno::result(result).map(drop)?)
    }

    /// Sends a frame that the kernel may well refuse; whether it took it.
    #[must_use]
    pub fn try_send(&self, frame: &[u8]) -> bool {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).is_ok()
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The device refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.0.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                // The device's queue is full.
                Err(Errno::EAGAIN | Errno::ENOBUFS) => std::thread::yield_now(),
                Err(error) => return Err(error).with_context(|| format!("cannot send {} bytes", frame.len())),
            }
        }
    }

    /// The frames seen until one contains `last`, that one included.
    ///
    /// # Errors
    /// None does within the deadline.
    pub fn seen_until(&self, last: &[u8], deadline: Duration) -> Result<Vec<Vec<u8>>> {
        self.seen_until_again(last, deadline, || {})
    }

    /// As [`Self::seen_until`]; while nothing comes, `again` is called every second: a frame may be lost.
    ///
    /// # Errors
    /// As [`Self::seen_until`].
    pub fn seen_until_again(&self, last: &[u8], deadline: Duration, mut again: impl FnMut()) -> Result<Vec<Vec<u8>>> {
        let (start, mut seen) = (Instant::now(), Vec::new());
        let mut asked = start;
        let mut buffer = [0; 4096];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    seen.push(buffer[..length].to_vec());
                    if contains(&buffer[..length], last) {
                        return Ok(seen);
                    }
                }
                Err(Errno::EAGAIN) => {
                    let last = String::from_utf8_lossy(last);
                    anyhow::ensure!(start.elapsed() < deadline, "waited {deadline:?} for a frame with {last:?}");
                    if asked.elapsed() > Duration::from_secs(1) {
                        again();
                        asked = Instant::now();
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Where a device is, from the calling thread's namespace.
fn link_address(device: &str) -> Result<LinkAddr> {
    let mut addresses = getifaddrs()?.filter(|found| found.interface_name == device);
    let found = addresses.find_map(|found| found.address.filter(|a| a.family() == Some(AddressFamily::Packet)));
    found.and_then(|address| address.as_link_addr().copied()).with_context(|| format!("no device {device}"))
}

/// Whether a frame contains these bytes.
#[must_use]
pub fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}

/// A frame.
#[must_use]
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet in the making.
#[derive(Debug, Clone)]
pub struct Ip {
    /// Sender.
    pub from: Ipv4Addr,
    /// Receiver.
    pub to: Ipv4Addr,
    /// Protocol number.
    pub proto: u8,
    /// Identification.
    pub id: u16,
    /// Flags, and the offset in units of eight bytes.
    pub fragment: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Ip {
    /// UDP, not fragmented, without options.
    #[must_use]
    pub fn udp(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        Self { from, to, proto: 17, id: 1, fragment: 0, options: Vec::new() }
    }

    /// The packet.
    #[must_use]
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let length = u16::try_from(header + payload.len()).unwrap_or(u16::MAX);
        let words = u8::try_from(header / 4).unwrap_or(15);
        let mut packet = vec![0x40 | words, 0];
        packet.extend(length.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.proto, 0, 0]);
        packet.extend(self.from.octets());
        packet.extend(self.to.octets());
        packet.extend(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }
}

/// UDP without a checksum, which IPv4 allows.
#[must_use]
pub fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], data].concat()
}

/// A TCP segment with these flags. Its checksum is wrong, which nobody on the way looks at.
#[must_use]
pub fn tcp(from: u16, to: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let middle = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &middle, data].concat()
}

/// A `virtio_net_hdr` (linux/virtio_net.h): what is left for the device to do with the frame that follows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offload {
    /// 1: a checksum is to be written.
    pub flags: u8,
    /// 0: one packet; 1: TCP, 3: UDP in fragments, 5: UDP in datagrams; 0x80 with it: ECN.
    pub gso_type: u8,
    /// Bytes of all headers.
    pub header: u16,
    /// Bytes of each segment.
    pub gso_size: u16,
    /// Where the sum begins.
    pub start: u16,
    /// Where it is written, from there on.
    pub offset: u16,
}

impl Offload {
    /// A checksum over all from `start` on, written `offset` bytes behind it.
    #[must_use]
    pub fn checksum(start: u16, offset: u16) -> Self {
        Self { flags: 1, start, offset, ..Self::default() }
    }

    /// It and the frame, as a [`Wire`] wants them after [`Wire::prepend_offload_header`].
    #[must_use]
    pub fn with(self, frame: &[u8]) -> Vec<u8> {
        let Self { flags, gso_type, header, gso_size, start, offset } = self;
        let words = [header, gso_size, start, offset].map(u16::to_ne_bytes);
        [&[flags, gso_type][..], words.as_flattened(), frame].concat()
    }
}

/// An ICMP message.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], &rest[..], data].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// VXLAN of a frame in network 1; with a tag, as a group policy header.
#[must_use]
pub fn vxlan(tag: Option<u16>, frame: &[u8]) -> Vec<u8> {
    let flags = if tag.is_some() { 0x88 } else { 0x08 };
    [&[flags, 0][..], &tag.unwrap_or(0).to_be_bytes(), &[0, 0, 1, 0], frame].concat()
}

/// ARP for IPv4: operation, who says he is the sender, whom it is about.
#[must_use]
pub fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0.0, &sender.1.octets(), &target.0.0, &target.1.octets()].concat()
}

/// The Internet checksum.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
