//! What we are measured against: Debian's bridge, host-local and portmap plugins, called one after the
//! other as libcni calls a chain.

use super::cni::timed;
use crate::lab::Lab;
use crate::underlay::netns;
use crate::workload::CniCall;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Debian puts them.
pub(super) const FOLDER: &str = "/usr/lib/cni";

/// The namespace of their host, beside the lab's own.
pub(super) const HOST: &str = "debian";

/// One of their plugins.
pub(super) fn plugin(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// ADD of bridge and host-local.
pub(super) fn bridge(lab: &Lab, container_id: &str, netns: &Path) -> CniCall {
    CniCall {
        command: "ADD".to_owned(),
        container_id: container_id.to_owned(),
        netns: netns.display().to_string(),
        args: String::new(),
        stdin: json!({
            "cniVersion": "1.0.0", "name": "debian", "type": "bridge", "bridge": "cni0", "isGateway": true,
            "isDefaultGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "subnet": "10.244.0.0/23", "dataDir": lab.folder.join("host-local")}
        }),
        environment: Vec::new(),
    }
}

/// A chain with what its ADD said.
pub(super) struct Chain {
    host: PathBuf,
    bridge: CniCall,
    portmap: Option<CniCall>,
}

impl Chain {
    /// bridge, and portmap if there are mappings (as in `runtimeConfig`).
    pub(super) fn new(lab: &Lab, container_id: &str, netns_of_it: &Path, mappings: Option<&Value>) -> Self {
        let bridge = bridge(lab, container_id, netns_of_it);
        let portmap = mappings.map(|mappings| CniCall {
            stdin: json!({
                "cniVersion": "1.0.0", "name": "debian", "type": "portmap", "capabilities": {"portMappings": true},
                "snat": true, "runtimeConfig": {"portMappings": mappings}
            }),
            ..bridge.clone()
        });
        Self { host: netns(&lab.name, HOST), bridge, portmap }
    }

    /// ADD of each, the first first.
    pub(super) fn add(&mut self) -> Result<Duration> {
        let (mut took, mut result) = timed(&self.host, &plugin("bridge"), &self.bridge)?;
        if let Some(portmap) = &mut self.portmap {
            portmap.stdin["prevResult"] = result;
            let (more, chained) = timed(&self.host, &plugin("portmap"), portmap)?;
            took += more;
            result = chained;
            portmap.stdin["prevResult"] = result.clone();
        }
        self.bridge.stdin["prevResult"] = result;
        Ok(took)
    }

    /// DEL of each, the last first.
    pub(super) fn del(mut self) -> Result<Duration> {
        let mut took = Duration::ZERO;
        if let Some(mut portmap) = self.portmap {
            portmap.command = "DEL".to_owned();
            took += timed(&self.host, &plugin("portmap"), &portmap)?.0;
        }
        self.bridge.command = "DEL".to_owned();
        took += timed(&self.host, &plugin("bridge"), &self.bridge)?.0;
        Ok(took)
    }
}
