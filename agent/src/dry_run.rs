//! `weftd --dry-run`: what would be changed on this host, and why not more is known.

use crate::cache::Cache;
use crate::causes::chain;
use crate::config::Config;
use crate::overlay::Overlay;
use crate::worker::placement::{placement, underlay};
use anyhow::anyhow;
use std::collections::BTreeMap;
use std::io::Write;
use weft_hostnet::{Executor, SnapshotScope};
use weft_model::net::{NetworkConfig, Subnet};
use weft_model::overlay::{Peer, desired, plan, usable_peers};
use weft_store::etcd::{EtcdOptions, EtcdStore};
use weft_store::hosts::HostStore;

/// Prints the plan to stdout. Reads the kernel and the store; writes nothing.
///
/// # Errors
/// The underlay cannot be found, or the kernel cannot be read.
pub async fn print(config: Config) -> anyhow::Result<()> {
    let mut kernel = Executor::here()?;
    let underlay =
        underlay(&mut kernel, config.interface.as_ref(), config.public_ip).map_err(|error| anyhow!(error))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "underlay: {} ({}), mtu {}", underlay.name, underlay.address, underlay.mtu)?;
    let (overlay, subnet, peers) = match known(&config, underlay.address).await {
        Ok(known) => known,
        Err(why) => {
            writeln!(out, "no plan: {why}")?;
            return Ok(());
        }
    };
    let Some(placement) = placement(&config, &overlay, subnet, &underlay, config.logging.audit) else {
        return Err(anyhow!("vxlan_name: invalid: weft-vx{} is too long", overlay.vni));
    };
    writeln!(out, "subnet: {subnet} of {}, mtu {}", overlay.network.network(), placement.mtu)?;
    let (peers, refused) = usable_peers(&placement, &peers);
    for (peer, why) in &refused {
        writeln!(out, "not a peer: {} at {}: {why}", peer.subnet, peer.public_ip)?;
    }
    // Workloads are known to the running agent only; their ports are left out.
    let desired = desired(&placement, &peers, &BTreeMap::new());
    let mut actual = kernel.snapshot(&SnapshotScope::of(&desired))?;
    actual.nft.iter_mut().flat_map(|seen| seen.sets.values_mut()).for_each(|(_, elements)| elements.clear());
    let ops = plan(&desired, &actual);
    writeln!(out, "{} change(s):", ops.len())?;
    for op in &ops {
        writeln!(out, "  {op}")?;
    }
    Ok(())
}

type Known = (Overlay, Subnet, Vec<Peer>);

/// Subnet and peers, from the store or, without it, from the disk.
async fn known(config: &Config, public_ip: std::net::Ipv4Addr) -> Result<Known, String> {
    let store = EtcdStore::connect(EtcdOptions {
        prefix: config.etcd_prefix.clone(),
        ..EtcdOptions::new(config.etcd_endpoints.clone(), "dry-run")
    })
    .map_err(|error| chain(&error))?;
    match store.hosts().await {
        Ok(view) => {
            let stored = store.network().await.map_err(|error| chain(&error))?;
            let stored = stored.ok_or_else(|| format!("nothing is configured at {}/config", config.etcd_prefix))?;
            let own = view.leases.iter().find(|(_, entry)| entry.value.public_ip == public_ip);
            let own = own
                .map(|(subnet, _)| *subnet)
                .ok_or_else(|| format!("no lease bears {public_ip} yet: starting weftd takes one"))?;
            let peers = crate::leases::peers(&view, Some(own), public_ip);
            Ok((Overlay::new(config, &stored), own, peers.iter().map(crate::worker::placement::peer).collect()))
        }
        Err(error) => {
            let cached = Cache::at(&config.state_dir).lease();
            let cached = cached.ok_or_else(|| format!("{}, and no lease is kept on disk", chain(&error)))?;
            let network = NetworkConfig::new(cached.network, Some(cached.subnet_len), None, None)
                .map_err(|error| error.to_string())?;
            let peers = cached.peers.iter().map(crate::worker::placement::peer).collect();
            Ok((Overlay { network, vni: cached.vni, port: cached.port }, cached.subnet, peers))
        }
    }
}
