//! A hostile workload and those it is after: what it sends bears a mark, and a datagram that it may
//! send follows on the same way, so that a silence is known to be one.

use crate::frames::{Ip, Wire, contains, ethernet, kind, udp};
use crate::{PATIENCE, lab};
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use weft_lab::{Lab, Workload, WorkloadOptions};
use weft_model::mac::Mac;

/// In everything that must not arrive.
pub const EVIL: &[u8] = b"hostile-bytes";
/// The port where the attacker's datagrams may arrive.
pub const FENCE_PORT: u16 = 7;
/// The port where those of the victims' friend may.
pub const FRIEND_PORT: u16 = 9000;

/// A workload's place on the wire.
#[derive(Debug)]
pub struct Station {
    /// The workload.
    pub workload: Workload,
    /// Its device.
    pub wire: Wire,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// Its gateway.
    pub gateway: (Mac, Ipv4Addr),
    /// Its host's own address in the overlay.
    pub vtep: Ipv4Addr,
}

impl Station {
    /// Starts a workload.
    ///
    /// # Errors
    /// The plugin's.
    pub fn add(lab: &mut Lab, host: &str, options: &WorkloadOptions) -> Result<Self> {
        let workload = lab.add(host, options)?;
        let subnet = lab.host(host).status()?.subnet.context("a subnet")?;
        Ok(Self {
            wire: Wire::open(&workload.netns, "eth0")?,
            ip: workload.ip,
            mac: Mac::for_workload(workload.ip),
            gateway: (subnet.gateway_mac(), subnet.gateway()),
            vtep: subnet.vtep_ip(),
            workload,
        })
    }

    /// A frame of its own to its gateway.
    #[must_use]
    pub fn frame(&self, packet: &[u8]) -> Vec<u8> {
        ethernet(self.gateway.0, self.mac, kind::IPV4, packet)
    }

    /// A frame with a datagram of its own.
    #[must_use]
    pub fn datagram(&self, to: Ipv4Addr, from_port: u16, to_port: u16, data: &[u8]) -> Vec<u8> {
        self.frame(&Ip::udp(self.ip, to).with(&udp(from_port, to_port, data)))
    }

    /// Sends `frames`, then what may arrive.
    ///
    /// # Panics
    /// One of the frames reached the victim, or what may arrive did not.
    pub fn attacks(&self, what: &str, victim: &Self, frames: &[Vec<u8>]) {
        for frame in frames {
            // What the device itself refuses has not arrived either.
            drop(self.wire.send(frame));
        }
        self.reaches_only_the_fence(what, victim);
    }

    /// Sends what may arrive.
    ///
    /// # Panics
    /// As [`Self::attacks`].
    pub fn reaches_only_the_fence(&self, what: &str, victim: &Self) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let fence = format!("fence-{}.", COUNT.fetch_add(1, Ordering::Relaxed));
        let datagram = self.datagram(victim.ip, 7, FENCE_PORT, fence.as_bytes());
        let send = || self.wire.send(&datagram).expect("a fence is sent");
        send();
        let seen = victim.wire.seen_until_again(fence.as_bytes(), PATIENCE, send);
        let seen = seen.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let arrived: Vec<_> = seen.iter().filter(|frame| contains(frame, EVIL)).collect();
        assert!(arrived.is_empty(), "{what} arrived at {}: {arrived:02x?}", victim.ip);
    }
}

/// Who plays.
#[derive(Debug)]
pub struct Cast {
    /// A pod on `n1` that may reach the victims at [`FENCE_PORT`] only.
    pub attacker: Station,
    /// A pod on `n1` that may reach them at [`FRIEND_PORT`].
    pub friend: Station,
    /// Isolated: beside the attacker, on `n2`, and an app on `c1`.
    pub victims: [Station; 3],
    /// Where it plays; last, because it takes all with it.
    pub lab: Lab,
}

/// The group of the isolated app.
pub const APP: &str = "3b1c";

/// Makes them.
///
/// # Panics
/// The lab cannot be made.
#[must_use]
pub fn cast(stem: &str) -> Cast {
    let mut lab = lab(stem);
    let mut add =
        |host, options: WorkloadOptions| Station::add(&mut lab, host, &options).expect("a workload of the cast");
    let attacker = add("n1", WorkloadOptions::pod("attacker", "evil"));
    let friend = add("n1", WorkloadOptions::pod("friend", "friends"));
    let victims = [
        add("n1", WorkloadOptions::pod("near", "victims")),
        add("n2", WorkloadOptions::pod("far", "victims")),
        add("c1", WorkloadOptions::app("app", APP)),
    ];
    for to in ["k8s:lab/victims", APP] {
        for (from, port) in [("k8s:lab/evil", FENCE_PORT), ("k8s:lab/friends", FRIEND_PORT)] {
            let port = port.to_string();
            let line =
                ["policies", "allow", "--from", from, "--to", to, "--protocol", "udp", "--port", &port, "--wait"];
            lab.weft(&line).expect("a policy of the cast");
        }
    }
    Cast { attacker, friend, victims, lab }
}
