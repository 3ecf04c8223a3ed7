//! CHECK's part of the host: link, port, programs, maps, settings. Nothing is repaired here; the
//! passes do that.

use super::capabilities::{protocol_ports, workload};
use super::workloads::wiring;
use super::{Core, Reply, internal, try_again};
use crate::causes::chain;
use weft_api::agent::{CheckRequest, CheckResponse};
use weft_hostnet::{Error, LinkInfo};
use weft_ipam::State;
use weft_model::overlay::{Link, Placement, Workload, host_sysctls, mapped_ports_astray};
use weft_model::wired::{HostSide, host_differences};
use weft_model::workload::Wiring;

impl Core {
    pub(super) fn check(&mut self, request: &CheckRequest) -> Reply<CheckResponse> {
        let attachment = &request.attachment;
        let (Some(pool), Some(placement)) = (&self.pool, self.placement.clone()) else {
            return Err(try_again(format!("agent not ready: {attachment} cannot be checked without a subnet")));
        };
        let entry =
            pool.get(attachment).ok_or_else(|| internal(format!("{attachment}: the agent does not know it")))?;
        if entry.state != State::Committed {
            return Err(internal(format!("{attachment}: it is reserved and not committed")));
        }
        let limits = entry.capabilities.bandwidth;
        let wiring = wiring(&placement, pool, attachment, entry)?;
        let workload = workload(pool, entry).filter(|workload| !workload.ports.is_empty());
        let unreadable = |error: Error| internal(format!("{attachment}: {error}"));
        let side = self.host_side(&wiring, &placement).map_err(unreadable)?;
        let mut found = host_differences(&wiring, &placement.bridge, &side);
        found.extend(self.program_differences(&wiring));
        let missing = self.missing_limits(&wiring, &limits).map_err(unreadable)?;
        found.extend(missing.iter().map(|op| format!("it is not limited as asked for: missing is {op}")));
        if let Some(workload) = workload {
            found.extend(
                self.mapping_differences(&workload).map_err(|error| internal(format!("{attachment}: {error}")))?,
            );
        }
        match found.as_slice() {
            [] => Ok(CheckResponse { wiring }),
            found => Err(internal(format!("{attachment}: {}", found.join("; ")))),
        }
    }

    fn host_side(&mut self, wiring: &Wiring, placement: &Placement) -> Result<HostSide, Error> {
        let kernel = &mut self.kernel;
        let (port, bridge) = (kernel.link(&wiring.host_ifname())?, kernel.link(&placement.bridge)?);
        let mac = wiring.workload_mac();
        let (mut port_entry, mut neighbour, mut gateway) = (false, false, false);
        if let Some(bridge) = &bridge {
            gateway = kernel.addresses_of(bridge)?.iter().any(|address| address.ip() == wiring.gateway);
            neighbour = kernel.has_neighbour(bridge, wiring.address, mac)?;
            if let Some(port) = &port {
                port_entry = kernel.has_port_entry(bridge, port, mac)?;
            }
        }
        let wanted = host_sysctls(&placement.bridge, &placement.vxlan);
        let found = kernel.sysctls(&wanted.keys().cloned().collect())?;
        let sysctls = wanted
            .into_iter()
            .filter_map(|(key, value)| Some((key.clone(), value, found.get(&key)?.clone())))
            .filter(|(_, wanted, found)| wanted != found)
            .collect();
        Ok(HostSide { port: port.map(link), bridge: bridge.map(link), gateway, port_entry, neighbour, sysctls })
    }

    /// Ports of the host that do not lead to it.
    fn mapping_differences(&self, workload: &Workload) -> Result<Vec<String>, String> {
        let seen = self.kernel.nft_table().map_err(|error| error.to_string())?;
        let mut found: Vec<String> = mapped_ports_astray(seen.as_ref(), workload)
            .iter()
            .map(|mapping| format!("nftables does not lead {mapping} to it"))
            .collect();
        // Where there are no programs, that was said already.
        let Some(datapath) = &self.datapath else { return Ok(found) };
        let known = datapath.surroundings().map_err(|error| chain(&error))?;
        let unknown = protocol_ports(&workload.ports).filter(|port| !known.mapped_ports.contains(port));
        found.extend(unknown.map(|(protocol, port)| {
            format!("the programs' map does not know {protocol} port {port} of the host as mapped")
        }));
        Ok(found)
    }

    /// The programs on its link, and what the maps say to them.
    fn program_differences(&self, wiring: &Wiring) -> Vec<String> {
        let mut found = Vec::new();
        let Some(datapath) = &self.datapath else {
            return vec!["the kernel programs are not loaded by this agent".to_owned()];
        };
        match datapath.workload_attached(&wiring.host_ifname()) {
            Ok(true) => {}
            Ok(false) => found.push(format!("{} lacks its programs", wiring.host_ifname())),
            Err(error) => found.push(chain(&error)),
        }
        let written = datapath.endpoints().remove(&wiring.slot).map(|view| view.endpoint);
        let meant = self.programmed.endpoints.get(&wiring.slot);
        let its = |ip, mac| (ip, mac) == (wiring.address, wiring.workload_mac());
        match written {
            Some(written) if Some(&written) == meant && its(written.ip, written.mac) => {}
            Some(_) => found.push("the programs' map has another entry for it than was written".to_owned()),
            None => found.push("the programs' map has no entry for it".to_owned()),
        }
        found
    }
}

fn link(info: LinkInfo) -> Link {
    Link {
        index: info.index,
        mac: info.mac,
        mtu: info.mtu,
        up: info.up,
        master: info.master,
        alias: info.alias,
        kind: info.kind,
        guarded_port: info.guarded_port,
    }
}
