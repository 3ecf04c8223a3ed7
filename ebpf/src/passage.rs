//! A packet as its workload sees it: the flow it belongs to, and what it asks for.

use crate::identity::Identity;
use crate::judge::Request;
use crate::local::Local;
use crate::packet::{Packet, icmp_port};
use weft_abi::{Conn, ConnKey4, conn_flag, direction, proto};

/// A packet on its way to a workload, or from it.
pub(crate) struct Passage<'a> {
    pub(crate) local: &'a Local,
    pub(crate) packet: &'a Packet,
    /// [`direction`] of the packet.
    pub(crate) direction: u8,
    /// Who sent it, if it goes to the workload; nobody, if the workload did.
    pub(crate) identity: Identity,
}

impl Passage<'_> {
    #[inline(always)]
    pub(crate) fn key(&self) -> ConnKey4 {
        let packet = self.packet;
        let (remote, remote_port, local_port) = if self.direction == direction::INGRESS {
            (packet.source, packet.source_port, packet.destination_port)
        } else {
            (packet.destination, packet.destination_port, packet.source_port)
        };
        ConnKey4 { slot: self.local.slot, remote, remote_port, local_port, proto: packet.proto, reserved: [0; 3] }
    }

    /// Whether the packet goes the way the flow was opened.
    #[inline(always)]
    pub(crate) fn is_forward(&self, conn: &Conn) -> bool {
        (conn.flags & conn_flag::LOCAL_OPENED != 0) == (self.direction == direction::EGRESS)
    }

    /// Whether the packet shows the identity that opened the flow.
    #[inline(always)]
    pub(crate) fn is_opener(&self, conn: &Conn) -> bool {
        self.direction == direction::EGRESS || self.identity == identity(conn)
    }

    #[inline(always)]
    pub(crate) fn request(&self) -> Request {
        let packet = self.packet;
        let remote = if self.direction == direction::INGRESS { packet.source } else { packet.destination };
        self.request_of(self.direction, remote, packet.asked_port(), self.identity)
    }

    /// The flow as its opener asked for it.
    #[inline(always)]
    pub(crate) fn request_again(&self, key: &ConnKey4, conn: &Conn) -> Request {
        let local_opened = conn.flags & conn_flag::LOCAL_OPENED != 0;
        let opened = if local_opened { direction::EGRESS } else { direction::INGRESS };
        // Of ICMP only echo requests open flows, and their identifier stands where ports do.
        let port = match key.proto {
            proto::ICMP => icmp_port(8, 0),
            _ if local_opened => key.remote_port,
            _ => key.local_port,
        };
        self.request_of(opened, key.remote, port, identity(conn))
    }

    #[inline(always)]
    fn request_of(&self, direction: u8, remote: u32, port: u16, identity: Identity) -> Request {
        Request {
            slot: self.local.slot,
            policy_set: self.local.head.policy_set,
            remote,
            port,
            tag: identity.tag,
            origin: identity.origin(),
            direction,
            proto: self.packet.proto,
            flags: self.local.head.flags,
        }
    }
}

/// Who opened the flow.
#[inline(always)]
fn identity(conn: &Conn) -> Identity {
    Identity {
        tag: conn.remote_tag,
        own_host: conn.flags & conn_flag::OWN_HOST != 0,
        mapped: conn.flags & conn_flag::MAPPED != 0,
    }
}
