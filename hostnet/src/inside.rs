//! What CHECK looks at: a workload's namespace, and its port on the bridge.

use crate::error::Error;
use crate::executor::Executor;
use crate::query::LinkInfo;
use crate::snapshot::{Names, read_sysctls};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use weft_model::id::IfName;
use weft_model::mac::Mac;
use weft_model::wired::{Inside, InsideLink};

impl Executor {
    /// Reads a workload's namespace around its interface, and these kernel settings.
    ///
    /// # Errors
    /// [`Error`] naming the part that could not be read.
    pub fn inside(&mut self, ifname: &IfName, sysctls: &BTreeSet<String>) -> Result<Inside, Error> {
        let links = self.links()?;
        let loopback_up = links.iter().any(|link| link.name.as_str() == "lo" && link.up);
        let Some(link) = links.iter().find(|link| &link.name == ifname) else {
            return Ok(Inside { loopback_up, ..Inside::default() });
        };
        let names: Names = links.iter().map(|link| (link.index, link.name.clone())).collect();
        let neighbours = self.neighbours(&BTreeSet::from([link.index]), &names)?;
        Ok(Inside {
            loopback_up,
            addresses: self.addresses_of(link)?.into_iter().collect(),
            neighbours: neighbours.into_iter().map(|((_, ip), mac)| (ip, mac)).collect(),
            routes: self.routes(&names)?,
            sysctls: self.sysctls(sysctls)?,
            link: Some(InsideLink { mac: link.mac, mtu: link.mtu, up: link.up, other_end: link.other_end }),
        })
    }

    /// Reads kernel settings, paths below `/proc/sys`; a missing file is a missing key.
    ///
    /// # Errors
    /// [`Error::Sysctl`], or the namespace cannot be entered.
    pub fn sysctls(&mut self, keys: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Error> {
        self.namespace.run(|| read_sysctls(keys))?
    }

    /// Whether the bridge forwards frames to `mac` through `port` by a static entry.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn has_port_entry(&mut self, bridge: &LinkInfo, port: &LinkInfo, mac: Mac) -> Result<bool, Error> {
        let names = Names::from([(port.index, port.name.clone())]);
        Ok(self.port_entries(bridge.index, &names)?.contains(&(port.name.clone(), mac)))
    }

    /// Whether `link` has a permanent neighbour `ip` at `mac`.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn has_neighbour(&mut self, link: &LinkInfo, ip: Ipv4Addr, mac: Mac) -> Result<bool, Error> {
        let names = Names::from([(link.index, link.name.clone())]);
        let found = self.neighbours(&BTreeSet::from([link.index]), &names)?;
        Ok(found.get(&(link.name.clone(), ip)) == Some(&mac))
    }
}
