//! Which group a workload is in: from Garden's metadata or from Kubernetes' names.

use crate::id::{GroupId, InvalidId};
use serde::{Deserialize, Serialize};

/// The pod annotation that puts a pod into a named group of its namespace.
pub const GROUP_ANNOTATION: &str = "weft/policy-group";

/// What a runtime told the plugin about a workload's identity. Untrusted where a tenant can write
/// it (annotations).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// Garden's `policy_group_id`: the app GUID.
    pub policy_group_id: Option<String>,
    /// Garden's `space_id`, for denial records.
    pub space_id: Option<String>,
    /// Garden's `org_id`, for denial records.
    pub org_id: Option<String>,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`, for records.
    pub pod_name: Option<String>,
    /// The annotation [`GROUP_ANNOTATION`], where the runtime passes annotations.
    pub group_annotation: Option<String>,
}

/// What a host's configuration says about groups of its workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRules {
    /// What the host runs.
    pub kind: HostKind,
    /// The Kubernetes cluster's name, part of every group of its pods.
    pub cluster: String,
    /// Namespaces whose pods may name a bare group (an app GUID) in their annotation.
    pub bare_group_namespaces: Vec<String>,
}

/// What a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// Kubernetes pods.
    Kubernetes,
    /// Cloud Foundry app instances.
    Cell,
}

/// Why a workload's identity cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The group's text is no group id.
    #[error(transparent)]
    Invalid(#[from] InvalidId),
    /// An app's group that would read as a pod's.
    #[error("invalid policy_group_id {value:?}: must not begin with \"k8s:\", which pods' groups do")]
    Prefix {
        /// What was given.
        value: String,
    },
    /// A namespace or group name that would read as something else.
    #[error("invalid {field} {value:?}: must be letters, digits, '-', '_' and '.'")]
    Name {
        /// Which field.
        field: &'static str,
        /// What was given.
        value: String,
    },
}

/// The group of a workload; `None`: it has no identity, starts, and nothing may reach it.
///
/// On a cell the platform sets `policy_group_id`, tenants cannot. A pod can never get out of its
/// namespace: its annotation is one name below it, or a bare group where the host's configuration
/// lists the namespace.
///
/// # Errors
/// [`GroupError`] if what was given is no valid name; the workload must not start with a group
/// guessed from it.
pub fn group_of(rules: &GroupRules, identity: &Identity) -> Result<Option<GroupId>, GroupError> {
    match rules.kind {
        HostKind::Cell => match identity.policy_group_id.as_deref() {
            None | Some("") => Ok(None),
            // The prefix belongs to pods; an app cannot claim to be one.
            Some(id) if id.starts_with("k8s:") => Err(GroupError::Prefix { value: id.to_owned() }),
            Some(id) => Ok(Some(GroupId::new(id)?)),
        },
        HostKind::Kubernetes => pod_group(rules, identity),
    }
}

fn pod_group(rules: &GroupRules, identity: &Identity) -> Result<Option<GroupId>, GroupError> {
    let Some(namespace) = identity.pod_namespace.as_deref().filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    // A tenant writes the annotation: no separator gets it out of its namespace, and nothing that a
    // terminal or a log shows as something else gets into them.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let checked = |field, value: &str| {
        let bad = value.is_empty() || !value.bytes().all(plain);
        if bad { Err(GroupError::Name { field, value: value.to_owned() }) } else { Ok(()) }
    };
    checked("K8S_POD_NAMESPACE", namespace)?;
    let base = format!("k8s:{}/{namespace}", rules.cluster);
    let Some(name) = identity.group_annotation.as_deref() else {
        return Ok(Some(GroupId::new(base)?));
    };
    checked(GROUP_ANNOTATION, name)?;
    let bare = rules.bare_group_namespaces.iter().any(|listed| listed == namespace) && looks_like_guid(name);
    let group = if bare { name.to_owned() } else { format!("{base}/{name}") };
    Ok(Some(GroupId::new(group)?))
}

/// 8-4-4-4-12 hex digits, as Cloud Foundry's app GUIDs are.
fn looks_like_guid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len()
        && parts.iter().zip(lengths).all(|(part, len)| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(kind: HostKind) -> GroupRules {
        GroupRules { kind, cluster: "east".to_owned(), bare_group_namespaces: vec!["cf".to_owned()] }
    }

    fn pod(namespace: &str, annotation: Option<&str>) -> Identity {
        Identity {
            pod_namespace: Some(namespace.to_owned()),
            group_annotation: annotation.map(str::to_owned),
            ..Identity::default()
        }
    }

    fn group(kind: HostKind, identity: &Identity) -> Option<String> {
        group_of(&rules(kind), identity).unwrap().map(String::from)
    }

    #[test]
    fn cells_take_the_platforms_group_and_let_health_checks_start_without() {
        let app = Identity { policy_group_id: Some("3b1c".to_owned()), ..Identity::default() };
        assert_eq!(group(HostKind::Cell, &app).as_deref(), Some("3b1c"));
        assert_eq!(group(HostKind::Cell, &Identity::default()), None);
        let empty = Identity { policy_group_id: Some(String::new()), ..Identity::default() };
        assert_eq!(group(HostKind::Cell, &empty), None);
    }

    #[test]
    fn a_pod_never_gets_out_of_its_namespace() {
        let guid = "3b1c0000-0000-4000-8000-000000000001";
        let of = |identity: &Identity| group(HostKind::Kubernetes, identity);
        assert_eq!(of(&pod("shop", None)).as_deref(), Some("k8s:east/shop"));
        assert_eq!(of(&pod("shop", Some("web"))).as_deref(), Some("k8s:east/shop/web"));
        assert_eq!(of(&pod("shop", Some(guid))), Some(format!("k8s:east/shop/{guid}")));
        assert_eq!(of(&pod("cf", Some(guid))).as_deref(), Some(guid));
        assert_eq!(of(&pod("cf", Some("web"))).as_deref(), Some("k8s:east/cf/web"));
        for bad in ["", "../other", "a/b", "k8s:east/other", "web\n", "we b", "\u{1b}[2J", "we\u{2044}b"] {
            assert!(group_of(&rules(HostKind::Kubernetes), &pod("shop", Some(bad))).is_err(), "{bad}");
        }
        assert!(group_of(&rules(HostKind::Kubernetes), &pod("a/b", None)).is_err());
    }

    #[test]
    fn each_kind_believes_only_its_own_runtime() {
        let liar = Identity { policy_group_id: Some("3b1c".to_owned()), ..Identity::default() };
        assert_eq!(group(HostKind::Kubernetes, &liar), None);
        let pod_like = Identity { policy_group_id: Some("k8s:east/shop".to_owned()), ..Identity::default() };
        assert!(group_of(&rules(HostKind::Cell), &pod_like).is_err());
    }
}
