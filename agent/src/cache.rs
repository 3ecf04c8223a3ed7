//! What the agent keeps on its disk, so that a restart with the store away serves as before.

use crate::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use weft_api::policies::PolicyTarget;
use weft_model::id::{GroupId, NodeId, Tag};
use weft_model::mac::Mac;
use weft_model::net::Subnet;
use weft_store::policy::PolicyView;

/// The documents' folder.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

/// The host's lease and its view of the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedLease {
    /// The subnet.
    pub subnet: Subnet,
    /// The address it was leased under.
    pub public_ip: Ipv4Addr,
    /// The overlay's network.
    pub network: ipnetwork::Ipv4Network,
    /// Prefix length of subnets.
    pub subnet_len: u8,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// The other hosts.
    pub peers: Vec<CachedPeer>,
    /// The store's revision that showed them.
    #[serde(default)]
    pub revision: i64,
    /// The boot that leased it.
    #[serde(default)]
    pub boot_id: String,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedPeer {
    /// Its subnet.
    pub subnet: Subnet,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// Its VXLAN device's hardware address.
    pub vtep_mac: Mac,
    /// Whether tags are exchanged with it.
    pub gbp: bool,
    /// Whether a weft agent runs there.
    pub managed: bool,
    /// Its name among people.
    pub hostname: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct NodeFile {
    version: u32,
    node: NodeId,
}

#[derive(Serialize, Deserialize)]
struct LeaseFile {
    version: u32,
    lease: CachedLease,
}

#[derive(Serialize, Deserialize)]
struct PolicyFile {
    version: u32,
    revision: i64,
    change: String,
    epoch: String,
    policies: BTreeMap<GroupId, Vec<PolicyTarget>>,
    tags: BTreeMap<GroupId, Tag>,
}

/// Version of all documents here.
const VERSION: u32 = 1;

impl Cache {
    /// Opens the folder, making it if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self::at(folder))
    }

    /// The folder as it is, for reading.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// This host's id: the one on its disk, or a new one that is put there. With a new id a host still
    /// finds its lease, by its address.
    ///
    /// # Errors
    /// It cannot be written; without it the host would be another one after every restart.
    pub fn node_id(&self) -> io::Result<NodeId> {
        let path = self.0.join("node.json");
        match files::read::<NodeFile>(&path) {
            Ok(Some(file)) => return Ok(file.node),
            Ok(None) => {}
            Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                return Err(error);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read this host's id: it gets a new one");
            }
        }
        let node = NodeId::new(uuid::Uuid::new_v4().to_string()).map_err(io::Error::other)?;
        files::write(&path, &NodeFile { version: VERSION, node: node.clone() })?;
        Ok(node)
    }

    /// The lease as it was last known.
    #[must_use]
    pub fn lease(&self) -> Option<CachedLease> {
        let file: LeaseFile = files::read_or_log(&self.0.join("lease.json"))?;
        (file.version == VERSION).then_some(file.lease)
    }

    /// Keeps the lease.
    ///
    /// # Errors
    /// It cannot be written (full disk); the old one stands.
    pub fn put_lease(&self, lease: &CachedLease) -> io::Result<()> {
        files::write(&self.0.join("lease.json"), &LeaseFile { version: VERSION, lease: lease.clone() })
    }

    /// The policies as they were last known.
    #[must_use]
    pub fn policies(&self) -> Option<PolicyView> {
        let file: PolicyFile = files::read_or_log(&self.0.join("policies.json"))?;
        (file.version == VERSION).then(|| PolicyView {
            revision: file.revision,
            change: file.change,
            epoch: file.epoch,
            policies: file
                .policies
                .iter()
                .flat_map(|(source, targets)| targets.iter().map(|target| target.policy(source)))
                .collect(),
            tags: file.tags,
        })
    }

    /// Keeps the policies.
    ///
    /// # Errors
    /// They cannot be written (full disk); the old ones stand.
    pub fn put_policies(&self, view: &PolicyView) -> io::Result<()> {
        let mut policies: BTreeMap<GroupId, Vec<PolicyTarget>> = BTreeMap::new();
        for policy in &view.policies {
            policies.entry(policy.source.clone()).or_default().push(PolicyTarget::from(policy));
        }
        let file = PolicyFile {
            version: VERSION,
            revision: view.revision,
            change: view.change.clone(),
            epoch: view.epoch.clone(),
            policies,
            tags: view.tags.clone(),
        };
        files::write(&self.0.join("policies.json"), &file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_id_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert_eq!(cache.node_id().unwrap(), cache.node_id().unwrap());
    }

    #[test]
    fn a_torn_node_id_does_not_keep_the_agent_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("node.json"), "{\"ver").unwrap();
        assert_eq!(cache.node_id().unwrap(), cache.node_id().unwrap());
    }

    #[test]
    fn policies_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert_eq!(cache.policies(), None);
        let json = r#"{"source":{"id":"a"},"destination":{"id":"b","protocol":"tcp","ports":{"start":1,"end":2}}}"#;
        let body: weft_api::policies::PolicyBody = serde_json::from_str(json).unwrap();
        let view = PolicyView {
            revision: 7,
            change: "c".to_owned(),
            epoch: "e".to_owned(),
            policies: [body.validate().unwrap()].into(),
            tags: BTreeMap::from([("a".parse().unwrap(), "0001".parse().unwrap())]),
        };
        cache.put_policies(&view).unwrap();
        assert_eq!(cache.policies(), Some(view));
    }
}
