//! The network the hosts stand in: namespaces on a switch.

use crate::shell::{sh, sh_in};
use anyhow::Result;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Address of the namespace `ctl`, where etcd and the policy server run; the hosts' default gateway,
/// and so the outside world.
pub const CTL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

/// Prefix of every namespace of a lab.
#[must_use]
pub fn prefix(lab: &str) -> String {
    format!("weft-lab-{lab}-")
}

/// The path of a namespace of a lab.
#[must_use]
pub fn netns(lab: &str, name: &str) -> PathBuf {
    PathBuf::from(format!("/run/netns/{}{name}", prefix(lab)))
}

/// Makes a namespace with its loopback up.
///
/// # Errors
/// `ip` fails.
pub fn add_netns(lab: &str, name: &str) -> Result<PathBuf> {
    let _making = crate::signals::making();
    sh(&format!("ip netns add {}{name}", prefix(lab)))?;
    let path = netns(lab, name);
    sh_in(&path, "ip link set lo up")?;
    Ok(path)
}

/// Makes the switch.
///
/// # Errors
/// `ip` fails.
pub fn add_switch(lab: &str) -> Result<()> {
    let switch = add_netns(lab, "sw")?;
    sh_in(&switch, "ip link add sw0 type bridge")?;
    sh_in(&switch, "ip link set sw0 up")?;
    Ok(())
}

/// Plugs a namespace into the switch by an interface `eth0` with the address.
///
/// # Errors
/// `ip` fails.
pub fn plug(lab: &str, name: &str, address: Ipv4Addr) -> Result<()> {
    let (switch, here) = (netns(lab, "sw"), netns(lab, name));
    let port = format!("p{}", address.octets()[3]);
    let other = format!("{}{name}", prefix(lab));
    sh_in(&switch, &format!("ip link add {port} type veth peer name eth0 netns {other}"))?;
    sh_in(&switch, &format!("ip link set {port} master sw0 up"))?;
    sh_in(&here, &format!("ip addr add {address}/24 dev eth0"))?;
    sh_in(&here, "ip link set eth0 up")?;
    if address != CTL {
        sh_in(&here, &format!("ip route add default via {CTL}"))?;
    }
    Ok(())
}
