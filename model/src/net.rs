//! The overlay's network and a host's subnet of it.

use crate::mac::Mac;
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The overlay's network and how it is divided among hosts (flannel's `config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkConfig {
    network: Ipv4Network,
    subnet_len: u8,
    subnet_min: Ipv4Addr,
    subnet_max: Ipv4Addr,
}

/// Why a network cannot be divided as asked. The texts are flannel's (`CheckNetworkConfig`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// SubnetLen above 30.
    #[error("SubnetLen must be less than /31")]
    SubnetTooLong,
    /// Fewer than four subnets.
    #[error("network must be able to accommodate at least four subnets")]
    TooFewSubnets,
    /// A network longer than /28.
    #[error("network is too small. Minimum useful network prefix is /28")]
    NetworkTooSmall,
    /// More addresses a host than slots in the data plane.
    #[error("SubnetLen must be at least /20: a host has at most 4096 slots, SubnetLen is /{0}")]
    SubnetTooShort(u8),
    /// A bound outside the network.
    #[error("{0} is not in the range of the Network")]
    OutOfRange(&'static str),
    /// A bound that is no subnet's first address.
    #[error("{0} is not on a SubnetLen boundary: {1}")]
    OffBoundary(&'static str, Ipv4Addr),
    /// SubnetMin after SubnetMax.
    #[error("SubnetMin {0} is greater than SubnetMax {1}")]
    Reversed(Ipv4Addr, Ipv4Addr),
}

impl NetworkConfig {
    /// Checks what an operator wrote; `None` takes flannel's default (`/24` if the network is a /22 or
    /// larger, else two bits longer; all subnets but the first).
    ///
    /// # Errors
    /// The first [`NetworkError`] found.
    pub fn new(
        network: Ipv4Network,
        subnet_len: Option<u8>,
        subnet_min: Option<Ipv4Addr>,
        subnet_max: Option<Ipv4Addr>,
    ) -> Result<Self, NetworkError> {
        let prefix = network.prefix();
        if prefix > 28 {
            return Err(NetworkError::NetworkTooSmall);
        }
        let subnet_len = subnet_len.unwrap_or(if prefix <= 22 { 24 } else { prefix + 2 });
        if subnet_len > 30 {
            return Err(NetworkError::SubnetTooLong);
        }
        if subnet_len < prefix + 2 {
            return Err(NetworkError::TooFewSubnets);
        }
        if subnet_len < 20 {
            return Err(NetworkError::SubnetTooShort(subnet_len));
        }
        let network = Ipv4Network::new(network.network(), prefix).unwrap_or(network);
        let size = 1u32 << (32 - subnet_len);
        let first = u32::from(network.network());
        let last = u32::from(network.broadcast()) - (size - 1);
        let config = Self {
            network,
            subnet_len,
            subnet_min: subnet_min.unwrap_or_else(|| Ipv4Addr::from(first + size)),
            subnet_max: subnet_max.unwrap_or_else(|| Ipv4Addr::from(last)),
        };
        for (name, bound) in [("SubnetMin", config.subnet_min), ("SubnetMax", config.subnet_max)] {
            if !network.contains(bound) {
                return Err(NetworkError::OutOfRange(name));
            }
            if u32::from(bound) % size != 0 {
                return Err(NetworkError::OffBoundary(name, bound));
            }
        }
        if config.subnet_min > config.subnet_max {
            return Err(NetworkError::Reversed(config.subnet_min, config.subnet_max));
        }
        Ok(config)
    }

    /// The overlay's network.
    #[must_use]
    pub fn network(&self) -> Ipv4Network {
        self.network
    }

    /// Prefix length of a host's subnet.
    #[must_use]
    pub fn subnet_len(&self) -> u8 {
        self.subnet_len
    }

    /// How many subnets hosts may lease.
    #[must_use]
    pub fn subnet_count(&self) -> u32 {
        ((u32::from(self.subnet_max) - u32::from(self.subnet_min)) >> (32 - self.subnet_len)) + 1
    }

    /// The subnet of that number, counted from SubnetMin.
    #[must_use]
    pub fn subnet(&self, number: u32) -> Option<Subnet> {
        (number < self.subnet_count())
            .then(|| Ipv4Addr::from(u32::from(self.subnet_min) + (number << (32 - self.subnet_len))))
            .and_then(|base| Ipv4Network::new(base, self.subnet_len).ok())
            .map(Subnet)
    }

    /// Whether a host may lease `subnet` under this config.
    #[must_use]
    pub fn admits(&self, subnet: Subnet) -> bool {
        subnet.0.prefix() == self.subnet_len && (self.subnet_min..=self.subnet_max).contains(&subnet.0.network())
    }
}

/// A host's subnet; no host bits are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Network", into = "Ipv4Network")]
pub struct Subnet(Ipv4Network);

/// Host bits are set, or there is no room for a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid subnet {0}: a network of /1 to /30 without host bits")]
pub struct InvalidSubnet(Ipv4Network);

impl TryFrom<Ipv4Network> for Subnet {
    type Error = InvalidSubnet;
    fn try_from(network: Ipv4Network) -> Result<Self, InvalidSubnet> {
        let fits = (1..=30).contains(&network.prefix()) && network.ip() == network.network();
        fits.then_some(Self(network)).ok_or(InvalidSubnet(network))
    }
}

impl From<Subnet> for Ipv4Network {
    fn from(subnet: Subnet) -> Self {
        subnet.0
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Subnet {
    /// The network itself.
    #[must_use]
    pub fn network(self) -> Ipv4Network {
        self.0
    }

    /// The host's own address in the overlay, on its VXLAN device (`.0`).
    #[must_use]
    pub fn vtep_ip(self) -> Ipv4Addr {
        self.0.network()
    }

    /// The gateway of the subnet's workloads, on the bridge (`.1`).
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network()) + 1)
    }

    /// The hardware address of the host's VXLAN device.
    #[must_use]
    pub fn vtep_mac(self) -> Mac {
        Mac::for_workload(self.vtep_ip())
    }

    /// The hardware address of the bridge.
    #[must_use]
    pub fn gateway_mac(self) -> Mac {
        Mac::for_host(self.gateway())
    }

    /// Offsets from the first address that workloads may have: not `.0`, `.1` and the broadcast.
    #[must_use]
    pub fn workload_offsets(self) -> std::ops::Range<u32> {
        2..(1u32 << (32 - self.0.prefix())) - 1
    }

    /// The address at an offset, if the subnet holds it.
    #[must_use]
    pub fn address(self, offset: u32) -> Option<Ipv4Addr> {
        (offset < 1u32 << (32 - self.0.prefix())).then(|| Ipv4Addr::from(u32::from(self.0.network()) + offset))
    }

    /// The offset of an address of the subnet.
    #[must_use]
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        self.0.contains(address).then(|| u32::from(address) - u32::from(self.0.network()))
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.0.contains(other.0.network()) || other.0.contains(self.0.network())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_sixteen_of_twenty_fours_has_255_subnets_from_the_second_on() {
        let config = NetworkConfig::new(net("10.255.0.0/16"), None, None, None).unwrap();
        assert_eq!(config.subnet_count(), 255);
        assert_eq!(config.subnet(0).unwrap().to_string(), "10.255.1.0/24");
        assert_eq!(config.subnet(254).unwrap().to_string(), "10.255.255.0/24");
        assert_eq!(config.subnet(255), None);
    }

    #[test]
    fn bad_networks_get_flannels_texts() {
        let error = |n, len, min: Option<&str>| {
            NetworkConfig::new(net(n), len, min.map(|m| m.parse().unwrap()), None).unwrap_err().to_string()
        };
        assert_eq!(error("10.0.0.0/16", Some(31), None), "SubnetLen must be less than /31");
        assert_eq!(error("10.0.0.0/24", Some(25), None), "network must be able to accommodate at least four subnets");
        assert_eq!(error("10.0.0.0/29", None, None), "network is too small. Minimum useful network prefix is /28");
        assert_eq!(error("10.0.0.0/16", None, Some("10.1.0.0")), "SubnetMin is not in the range of the Network");
        assert_eq!(error("10.0.0.0/16", None, Some("10.0.0.1")), "SubnetMin is not on a SubnetLen boundary: 10.0.0.1");
        assert!(error("10.0.0.0/8", Some(16), None).contains("/20"));
    }

    #[test]
    fn a_subnet_knows_its_addresses() {
        let subnet = Subnet::try_from(net("10.255.30.0/24")).unwrap();
        assert_eq!(subnet.vtep_mac().to_string(), "ee:ee:0a:ff:1e:00");
        assert_eq!(subnet.gateway().to_string(), "10.255.30.1");
        assert_eq!(subnet.workload_offsets(), 2..255);
        assert_eq!(subnet.offset("10.255.30.9".parse().unwrap()), Some(9));
        assert_eq!(subnet.offset("10.255.31.9".parse().unwrap()), None);
        assert!(Subnet::try_from(net("10.255.30.1/24")).is_err());
    }
}
