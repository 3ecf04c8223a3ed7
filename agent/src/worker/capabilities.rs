//! What workloads ask for besides their connection: checked when an address is reserved, carried out at the commit,
//! taken back with the workload.

use super::{Core, Reply};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use weft_api::agent::{ApiError, ErrorCode};
use weft_ipam::{Entry, Pool, State};
use weft_model::capability::{Capabilities, check_mac};
use weft_model::datapath::MapOp;
use weft_model::id::Attachment;
use weft_model::op::{Connections, Op};
use weft_model::overlay::{Workload, mapped_ports_seen, port_elements};
use weft_model::policy::Protocol;
use weft_model::ports::{self, PortMapping};

/// What can be granted: nothing that another workload has.
///
/// # Errors
/// What cannot, naming its owner.
pub(super) fn grant(
    pool: &Pool,
    attachment: &Attachment,
    wanted: Capabilities,
    vxlan_port: u16,
) -> Reply<Capabilities> {
    // Who is committed already has what it has.
    if let Some(entry) = pool.get(attachment).filter(|entry| entry.state == State::Committed) {
        return Ok(entry.capabilities.clone());
    }
    let others = pool.entries().iter().filter(|(other, _)| *other != attachment);
    let taken = |message: String| ApiError {
        code: ErrorCode::Exists,
        message,
        details: Some("the workload is not started without it".to_owned()),
    };
    if let Some(mac) = wanted.mac {
        let others = others.clone().map(|(other, entry)| (other, &entry.capabilities));
        check_mac(mac, others).map_err(|error| taken(error.to_string()))?;
    }
    let others = others.map(|(other, entry)| (other, entry.capabilities.ports.as_slice()));
    let ports = ports::check(&wanted.ports, vxlan_port, others).map_err(|error| taken(error.to_string()))?;
    Ok(Capabilities { ports, ..wanted })
}

impl Core {
    /// Committed workloads, as far as the host's network is concerned.
    pub(super) fn workloads(&self) -> BTreeMap<Attachment, Workload> {
        let Some(pool) = &self.pool else { return BTreeMap::new() };
        let committed = pool.entries().iter().filter(|(_, entry)| entry.state == State::Committed);
        committed.filter_map(|(attachment, entry)| Some((attachment.clone(), workload(pool, entry)?))).collect()
    }

    /// Leads the ports to the workload whose link is about to come up: all of them, or none.
    pub(super) fn map_ports(&mut self, workload: &Workload) -> Result<(), String> {
        if workload.ports.is_empty() {
            return Ok(());
        }
        if let Some(datapath) = &mut self.datapath {
            let ops: Vec<MapOp> =
                protocol_ports(&workload.ports).map(|(p, port)| MapOp::PutMappedPort(p, port)).collect();
            datapath.apply(&ops).map_err(|error| crate::causes::chain(&error))?;
        }
        let op = Op::ChangeNftElements { delete: Vec::new(), add: port_elements(workload) };
        self.kernel.execute(&[op], None).map_err(|error| error.to_string())?;
        // What clients sent before led elsewhere, and UDP would go on doing so.
        let stale = self.stale_connections(&workload.ports);
        self.flush(stale);
        Ok(())
    }

    /// UDP connections to the host's own addresses at ports that now lead elsewhere.
    fn stale_connections(&mut self, ports: &[PortMapping]) -> Vec<Connections> {
        let udp = ports.iter().filter(|mapping| mapping.protocol == Protocol::Udp);
        let mut all = Vec::new();
        for mapping in udp {
            match mapping.host_ip {
                Some(ip) => all.push(connections(mapping, Some(ip), None)),
                None => all.extend(self.own_addresses().into_iter().map(|ip| connections(mapping, Some(ip), None))),
            }
        }
        all
    }

    fn own_addresses(&mut self) -> Vec<Ipv4Addr> {
        let addresses = self.kernel.addresses().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the host's addresses: old UDP connections to mapped ports go where they went before");
            Vec::new()
        });
        addresses.into_iter().map(|(_, network)| network.ip()).collect()
    }

    /// Takes the ports of workloads that are gone back. What fails here, the next pass does.
    pub(super) fn unmap_ports(&mut self, gone: &[Workload]) {
        if gone.is_empty() {
            return;
        }
        let delete = gone.iter().flat_map(port_elements).collect();
        if let Err(error) = self.kernel.execute(&[Op::ChangeNftElements { delete, add: Vec::new() }], None) {
            tracing::warn!(%error, "mapped ports could not be taken back: trying again with the next pass");
        }
        let ports = gone.iter().flat_map(|workload| protocol_ports(&workload.ports));
        let ops: Vec<MapOp> = ports.map(|(protocol, port)| MapOp::RemoveMappedPort(protocol, port)).collect();
        if let Some(Err(error)) = self.datapath.as_mut().map(|datapath| datapath.apply(&ops)) {
            let error = crate::causes::chain(&error);
            tracing::warn!(error, "mapped ports stay in the programs' map: trying again with the next pass");
        }
        let of = |workload: &Workload| {
            let ip = workload.ip;
            workload.ports.iter().map(move |mapping| connections(mapping, None, Some(ip))).collect::<Vec<_>>()
        };
        self.flush(gone.iter().flat_map(of).collect());
    }

    /// Connections that live on in the host's conntrack would be led to where the port led before.
    fn flush(&mut self, all: Vec<Connections>) {
        if all.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.execute(&[Op::FlushConnections(all)], None) {
            tracing::warn!(%error, "connections of mapped ports could not be forgotten: they go where they went before until they time out");
        }
    }

    /// Ports as the kernel has them, for workloads whose journal was lost.
    pub(super) fn ports_seen(&mut self) -> BTreeMap<Ipv4Addr, Vec<PortMapping>> {
        match self.kernel.nft_table() {
            Ok(seen) => seen.map(|seen| mapped_ports_seen(&seen)).unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "cannot read nftables: mapped ports of adopted workloads are lost");
                BTreeMap::new()
            }
        }
    }
}

/// A workload of the pool.
pub(super) fn workload(pool: &Pool, entry: &Entry) -> Option<Workload> {
    let ip = pool.address(entry.slot)?;
    let Capabilities { ports, bandwidth, .. } = entry.capabilities.clone();
    Some(Workload { ip, mac: entry.mac(ip), ports, limits: bandwidth })
}

/// As the programs know mapped ports.
pub(super) fn protocol_ports(mappings: &[PortMapping]) -> impl Iterator<Item = (Protocol, u16)> {
    mappings.iter().map(|mapping| (mapping.protocol, mapping.host_port.get()))
}

fn connections(mapping: &PortMapping, to: Option<Ipv4Addr>, answered_by: Option<Ipv4Addr>) -> Connections {
    Connections { protocol: mapping.protocol, port: mapping.host_port.get(), to, answered_by }
}
