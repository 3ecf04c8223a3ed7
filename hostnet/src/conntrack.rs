//! Forgetting connections in the host's conntrack: one ctnetlink message each, which the kernel applies to all
//! that match (`ctnetlink_flush_conntrack` with a filter, since 5.8).

use crate::netlink::retry;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use weft_model::op::Connections;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` (`include/uapi/linux/netfilter/nfnetlink*.h`).
const DELETE: u16 = 0x0102;
/// Attributes of `enum ctattr_type`.
mod cta {
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const FILTER: u16 = 25;
    /// Within a tuple.
    pub(super) const TUPLE_IP: u16 = 1;
    pub(super) const TUPLE_PROTO: u16 = 2;
    /// Within the addresses.
    pub(super) const IP_V4_SRC: u16 = 1;
    pub(super) const IP_V4_DST: u16 = 2;
    /// Within the protocol.
    pub(super) const PROTO_NUM: u16 = 1;
    pub(super) const PROTO_DST_PORT: u16 = 3;
    /// Within the filter: which parts of each tuple count.
    pub(super) const FILTER_ORIG_FLAGS: u16 = 1;
    pub(super) const FILTER_REPLY_FLAGS: u16 = 2;
}
/// Bits of those flags (`net/netfilter/nf_internals.h`).
mod part {
    pub(super) const IP_SRC: u32 = 1;
    pub(super) const IP_DST: u32 = 1 << 1;
    pub(super) const PROTO_NUM: u32 = 1 << 3;
    pub(super) const PROTO_DST_PORT: u32 = 1 << 5;
}
const NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;

/// Forgets them in the calling thread's namespace.
pub(crate) fn flush(all: &[Connections]) -> Result<(), String> {
    let socket = Socket::new(NETLINK_NETFILTER).map_err(|error| format!("cannot open a ctnetlink socket: {error}"))?;
    for connections in all {
        forget(&socket, connections).map_err(|error| format!("conntrack {connections}: {error}"))?;
    }
    Ok(())
}

fn forget(socket: &Socket, connections: &Connections) -> std::io::Result<()> {
    let message = message(connections);
    retry(|| socket.send(&message, 0))?;
    let mut answer = Vec::with_capacity(4096);
    retry(|| socket.recv(&mut answer, 0))?;
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    match Errno::from_raw(-code) {
        // Nothing to forget.
        _ if code == 0 => Ok(()),
        Errno::ENOENT => Ok(()),
        errno => Err(errno.into()),
    }
}

fn message(connections: &Connections) -> Vec<u8> {
    let Connections { protocol, port, to, answered_by } = connections;
    let protocol =
        [attribute(cta::PROTO_NUM, &[protocol.number()]), attribute(cta::PROTO_DST_PORT, &port.to_be_bytes())];
    let mut original = Vec::new();
    let (mut original_parts, mut reply_parts) = (part::PROTO_NUM | part::PROTO_DST_PORT, 0);
    if let Some(ip) = to {
        original.extend(nested(cta::TUPLE_IP, &attribute(cta::IP_V4_DST, &ip.octets())));
        original_parts |= part::IP_DST;
    }
    original.extend(nested(cta::TUPLE_PROTO, &protocol.concat()));
    let mut attributes = nested(cta::TUPLE_ORIG, &original);
    if let Some(ip) = answered_by {
        let source = attribute(cta::IP_V4_SRC, &ip.octets());
        attributes.extend(nested(cta::TUPLE_REPLY, &nested(cta::TUPLE_IP, &source)));
        reply_parts |= part::IP_SRC;
    }
    let filter = [
        attribute(cta::FILTER_ORIG_FLAGS, &original_parts.to_ne_bytes()),
        attribute(cta::FILTER_REPLY_FLAGS, &reply_parts.to_ne_bytes()),
    ];
    attributes.extend(nested(cta::FILTER, &filter.concat()));
    // struct nlmsghdr and struct nfgenmsg: family, version 0, resource 0.
    let length = u32::try_from(16 + 4 + attributes.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(DELETE.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([AF_INET, 0, 0, 0]);
    message.extend(attributes);
    message
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
