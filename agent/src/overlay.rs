//! The overlay as the store or the cache describes it.

use crate::config::Config;
use weft_api::flannel;
use weft_model::net::NetworkConfig;

/// The overlay as the store or the cache describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its network.
    pub network: NetworkConfig,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
}

impl Overlay {
    pub(crate) fn new(config: &Config, stored: &flannel::Config) -> Self {
        Self {
            network: stored.network,
            vni: config.vni.or(stored.vni).unwrap_or(1),
            port: config.vxlan_port.or(stored.port).unwrap_or(8472),
        }
    }
}
