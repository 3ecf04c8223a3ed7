//! An eye on a host's ports that is not ours: the kernel's own notifications, in the order in which
//! things happened. A port that is up without both programs is what must never be.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use weft_lab::Host;
use weft_lab::probe::inside;
use weft_model::bandwidth::SHAPER_IFINDEX_BASE;
use weft_model::workload::SLOT_IFINDEX_BASE;

// linux/rtnetlink.h, linux/if.h, linux/pkt_sched.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTMGRP_LINK: u32 = 1;
const RTMGRP_TC: u32 = 8;
const IFF_UP: u32 = 1;
const AF_BRIDGE: u8 = 7;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// Watches a host until it is asked what it saw.
pub struct PortWatch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Ports that came up, guarded.
    pub raised: usize,
    /// What must not be, one line each.
    pub violations: Vec<String>,
    guards: BTreeMap<u32, BTreeSet<u32>>,
    up: BTreeSet<u32>,
}

impl PortWatch {
    /// Begins to watch.
    ///
    /// # Panics
    /// The kernel gives no socket.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let fd = inside(&host.netns, listen).expect("the host's namespace").expect("a netlink socket");
        let over = Arc::new(AtomicBool::new(false));
        let end = over.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            let mut buffer = vec![0; 1 << 16];
            loop {
                match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => seen.read(&buffer[..length]),
                    Err(nix::errno::Errno::ENOBUFS) => seen.violations.push("notifications were lost".to_owned()),
                    // The time limit: nothing is on its way any more.
                    Err(_) if end.load(Ordering::SeqCst) => return seen,
                    Err(_) => {}
                }
            }
        });
        Self { over, thread }
    }

    /// Ends it.
    ///
    /// # Panics
    /// The thread did.
    #[must_use]
    pub fn stop(self) -> Seen {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("the watching thread")
    }
}

fn listen() -> nix::Result<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&fd, sockopt::RcvBufForce, &(32 << 20))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(0, 200_000))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK | RTMGRP_TC))?;
    Ok(fd)
}

impl Seen {
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some(length) = number(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
            if length < 16 || length > bytes.len() {
                return;
            }
            let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
            self.message(kind, &bytes[16..length]);
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    /// A link's message has the index at byte 4 and the flags at 8, a filter's the index at 4 and the
    /// parent at 12.
    fn message(&mut self, kind: u16, body: &[u8]) {
        let (Some(index), Some(family)) = (number(body, 4), body.first()) else { return };
        // Those of workloads, and of nobody else: their shapers come after them.
        if !(SLOT_IFINDEX_BASE..SHAPER_IFINDEX_BASE).contains(&index) {
            return;
        }
        let guards = self.guards.entry(index).or_default();
        match kind {
            RTM_NEWTFILTER => drop(number(body, 12).map(|parent| guards.insert(parent))),
            // The kernel reports filters gone when their link goes, and ours are replaced, never removed.
            RTM_DELTFILTER => drop(number(body, 12).map(|parent| guards.remove(&parent))),
            // The bridge's own messages say the same of the port again.
            RTM_DELLINK if *family != AF_BRIDGE => {
                guards.clear();
                self.up.remove(&index);
            }
            RTM_NEWLINK => {
                let is_up = number(body, 8).is_some_and(|flags| flags & IFF_UP != 0);
                let guarded = guards.contains(&INGRESS) && guards.contains(&EGRESS);
                if is_up && !guarded {
                    self.violations.push(format!("port {index:#x} is up with filters {guards:x?} only"));
                }
                if is_up && self.up.insert(index) {
                    self.raised += 1;
                } else if !is_up {
                    self.up.remove(&index);
                }
            }
            _ => {}
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Ports of a host that are up without both programs, or on the bridge unguarded, as `ip` and `tc` show
/// them now.
///
/// # Panics
/// They cannot be listed.
#[must_use]
pub fn unfiltered(host: &Host) -> Vec<String> {
    let links: Vec<serde_json::Value> =
        serde_json::from_str(&host.sh("ip -d -j link show type veth").expect("ip")).expect("JSON");
    let mut found = Vec::new();
    for link in links {
        let name = link["ifname"].as_str().unwrap_or_default();
        let up = link["flags"].to_string().contains("\"UP\"");
        if !name.starts_with("weft") || !up {
            continue;
        }
        for side in ["ingress", "egress"] {
            let filters = match host.sh(&format!("tc filter show dev {name} {side}")) {
                Ok(filters) => filters,
                // It went meanwhile.
                Err(_) if host.sh(&format!("ip link show dev {name}")).is_err() => continue,
                Err(error) => panic!("{error:#}"),
            };
            if !filters.contains("direct-action") {
                found.push(format!("{name} is up without a program on {side}"));
            }
        }
    }
    found
}
