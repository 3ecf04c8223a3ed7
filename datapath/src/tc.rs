//! Programs on clsact, by rtnetlink: a veth costs three messages of 0.1 ms together, where a TCX
//! link costs an RCU grace period under the RTNL lock (12 to 17 ms, measured on 6.18).
//!
//! A filter under a fixed handle and priority is replaced in place (`cls_bpf_change`, an RCU list
//! replacement): no packet meets an interface without a program.

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Where on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ingress,
    Egress,
}

impl Side {
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS or TC_H_MIN_EGRESS)`.
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// Our filter's place: the first priority, under a handle of our own.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 0x77;

// linux/pkt_sched.h, linux/pkt_cls.h, linux/rtnetlink.h
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const ACT_DIRECT: u32 = 1;
const HEADER: usize = 16;
const TCMSG: usize = 20;

/// Adds the clsact qdisc, if it is not there yet.
pub(crate) fn add_clsact(ifindex: u32) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    message.tc(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
    message.attribute(TCA_KIND, b"clsact\0");
    match message.talk() {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map(drop),
    }
}

/// Attaches a program, in the place of our former one if there is one.
pub(crate) fn replace(ifindex: u32, side: Side, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_NEWTFILTER, libc::NLM_F_CREATE);
    message.tc(ifindex, HANDLE, side.parent(), filter_info());
    message.attribute(TCA_KIND, b"bpf\0");
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_NAME, format!("weft_{name}\0").as_bytes());
    push_attribute(&mut options, TCA_BPF_FLAGS, &ACT_DIRECT.to_ne_bytes());
    message.attribute(TCA_OPTIONS, &options);
    message.talk().map(drop)
}

/// Removes our program; none there is fine.
pub(crate) fn remove(ifindex: u32, side: Side) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_DELTFILTER, 0);
    message.tc(ifindex, HANDLE, side.parent(), filter_info());
    absent(message.talk()).map(drop)
}

/// The id of the program in our place, if there is one.
pub(crate) fn attached(ifindex: u32, side: Side) -> io::Result<Option<u32>> {
    let mut message = Message::new(libc::RTM_GETTFILTER, 0);
    message.tc(ifindex, HANDLE, side.parent(), filter_info());
    message.attribute(TCA_KIND, b"bpf\0");
    let Some(reply) = absent(message.talk())? else { return Ok(None) };
    let attributes = reply.get(HEADER + TCMSG..).unwrap_or_default();
    let id = find(attributes, TCA_OPTIONS).and_then(|options| find(options, TCA_BPF_ID));
    Ok(id.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes))
}

/// No filter, or no qdisc it could be on, is an answer too.
fn absent(result: io::Result<Option<Vec<u8>>>) -> io::Result<Option<Vec<u8>>> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)) => Ok(None),
        other => other,
    }
}

/// Priority and protocol (`ETH_P_ALL`) as `tcm_info` has them.
fn filter_info() -> u32 {
    (PRIORITY << 16) | u32::from(u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be())
}

/// A request to rtnetlink.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32) -> Self {
        // A look-up is answered by what was looked up; everything else by an acknowledgement.
        let ack = if kind == libc::RTM_GETTFILTER { 0 } else { libc::NLM_F_ACK };
        let flags = u16::try_from(libc::NLM_F_REQUEST | ack | flags).unwrap_or_default();
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8] = 1;
        Self(bytes)
    }

    /// `struct tcmsg`.
    fn tc(&mut self, ifindex: u32, handle: u32, parent: u32, info: u32) {
        self.0.extend_from_slice(&[0; 4]);
        for field in [ifindex, handle, parent, info] {
            self.0.extend_from_slice(&field.to_ne_bytes());
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        push_attribute(&mut self.0, kind, value);
    }

    /// Sends the request: the object it asked for, or nothing for an acknowledgement.
    fn talk(mut self) -> io::Result<Option<Vec<u8>>> {
        let length = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let socket = open()?;
        send(socket.as_raw_fd(), &self.0, MsgFlags::empty())?;
        let mut reply = vec![0; 32 * 1024];
        let size = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
        reply.truncate(size);
        let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        if kind.map(i32::from) != Some(libc::NLMSG_ERROR) {
            return Ok(Some(reply));
        }
        let code = reply.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        if code == 0 { Ok(None) } else { Err(io::Error::from_raw_os_error(-code)) }
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    Ok(socket)
}

fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The value of the first attribute of that kind.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    // NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of the kind.
    const KIND: u16 = 0x3fff;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & KIND;
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_never_beyond_the_end() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 1, b"abc");
        push_attribute(&mut bytes, 2 | 0x8000, b"value");
        assert_eq!(find(&bytes, 2), Some(&b"value"[..]));
        assert_eq!(find(&bytes, 3), None);
        assert_eq!(find(&bytes[..bytes.len() - 4], 2), None);
        assert_eq!(find(&[0, 0, 0, 0], 7), None);
    }
}
