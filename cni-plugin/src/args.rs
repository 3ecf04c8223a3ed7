//! `CNI_ARGS`: pairs with `;` between, in no fixed order.

use crate::error::{CniError, Code};
use std::collections::BTreeMap;

/// What of it we use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`
    pub pod_name: Option<String>,
    /// `MAC`: the hardware address the workload must have.
    pub mac: Option<String>,
    /// `IP`: the address the workload must have.
    pub ip: Option<String>,
}

/// Known, though not all are used: the rest is an error unless `IgnoreUnknown` is set.
const KNOWN: [&str; 7] =
    ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID", "MAC", "IP"];

/// Reads them.
///
/// # Errors
/// Code 4, in the words of the Go library's `LoadArgs`.
pub fn parse(text: &str) -> Result<Args, CniError> {
    let fail = |msg: String| CniError::new(Code::InvalidEnvironment, msg);
    let mut pairs = BTreeMap::new();
    for pair in text.split(';').filter(|_| !text.is_empty()) {
        let Some((key, value)) = pair.split_once('=').filter(|(_, value)| !value.contains('=')) else {
            return Err(fail(format!("ARGS: invalid pair {pair:?}")));
        };
        // Which of two namespaces is meant cannot be known, and the wrong one is another tenant's.
        if pairs.insert(key, value).is_some_and(|earlier| earlier != value) {
            return Err(fail(format!("ARGS: {key} is given twice with different values")));
        }
    }
    let ignore = match pairs.get("IgnoreUnknown").map(|value| value.to_ascii_lowercase()) {
        None => false,
        Some(value) => match value.as_str() {
            "1" | "true" => true,
            "0" | "false" => false,
            _ => return Err(fail(format!("ARGS: invalid IgnoreUnknown {value:?}: 1, true, 0 or false"))),
        },
    };
    let unknown: Vec<String> = pairs
        .iter()
        .filter(|(key, _)| !KNOWN.contains(key))
        .map(|(key, value)| format!("{:?}", format!("{key}={value}")))
        .collect();
    if !ignore && !unknown.is_empty() {
        return Err(fail(format!("ARGS: unknown args [{}]", unknown.join(" "))));
    }
    let take = |key| pairs.get(key).filter(|value| !value.is_empty()).map(ToString::to_string);
    Ok(Args {
        pod_namespace: take("K8S_POD_NAMESPACE"),
        pod_name: take("K8S_POD_NAME"),
        mac: take("MAC"),
        ip: take("IP"),
    })
}
