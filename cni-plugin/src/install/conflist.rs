//! The conflist as runtimes read it.

use super::Options;
use crate::section::Section;
use crate::version::Version;
use serde_json::{Map, Value, json};

/// What runtimes are asked to tell us, where they can.
const CAPABILITIES: [&str; 6] = ["bandwidth", "dns", "io.kubernetes.cri.pod-annotations", "ips", "mac", "portMappings"];

/// The version for libraries that do not know `cniVersions` (libcni before 1.2, as in containerd up to
/// 1.7 and Debian 12's): the oldest with CHECK and with `prevResult` on DEL. Newer ones take the highest
/// they know of both, 1.1.0, and so call GC and STATUS.
const OLDEST: Version = Version::V040;

/// Renders it, deterministic and with a line feed at the end.
#[must_use]
pub fn render(options: &Options) -> String {
    let versions: Vec<&str> = Version::ALL.iter().filter(|version| **version >= OLDEST).map(|v| v.as_str()).collect();
    let mut plugins = vec![ours(options)];
    plugins.extend(options.plugins.iter().cloned());
    let list = json!({
        "cniVersion": OLDEST.as_str(), "cniVersions": versions, "name": options.name, "plugins": plugins,
    });
    format!("{list:#}\n")
}

fn ours(options: &Options) -> Value {
    let mut section = Map::new();
    if options.socket != Section::default().socket {
        section.insert("socket".to_owned(), json!(options.socket));
    }
    section.extend(options.agent_timeout.map(|seconds| ("timeoutSeconds".to_owned(), json!(seconds))));
    let capabilities: Map<String, Value> = CAPABILITIES.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
    let mut plugin = json!({"type": "weft-cni", "capabilities": capabilities, "weft": section});
    if let Some(group) = &options.policy_group {
        plugin["metadata"] = json!({"policy_group_id": group});
    }
    plugin
}
