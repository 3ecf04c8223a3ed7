//! Names of keys.

use weft_api::flannel::subnet_key;
use weft_model::id::{GroupId, NodeId, Tag};
use weft_model::net::Subnet;

/// All keys of one network.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    root: String,
}

/// A half-open range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
}

impl Range {
    fn below(folder: &str) -> Self {
        // '0' follows '/'.
        let to = folder.strip_suffix('/').map(|path| format!("{path}0")).unwrap_or_default();
        Self { from: folder.into(), to: to.into() }
    }

    fn single(key: String) -> Self {
        let to = [key.as_bytes(), &[0]].concat();
        Self { from: key.into_bytes(), to }
    }
}

impl Keys {
    pub(super) fn new(prefix: &str, root: &str) -> Self {
        let clean = |path: &str| path.trim_end_matches('/').to_owned();
        Self { prefix: clean(prefix), root: clean(root) }
    }

    pub(super) fn config(&self) -> String {
        format!("{}/config", self.prefix)
    }

    pub(super) fn lease(&self, subnet: Subnet) -> String {
        format!("{}{}", self.leases(), subnet_key(subnet))
    }

    pub(super) fn leases(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    pub(super) fn lease_range(&self) -> Range {
        Range::below(&self.leases())
    }

    pub(super) fn host(&self, node: &NodeId) -> String {
        format!("{}{node}", self.hosts())
    }

    pub(super) fn hosts(&self) -> String {
        format!("{}/hosts/", self.root)
    }

    pub(super) fn host_range(&self) -> Range {
        Range::below(&self.hosts())
    }

    pub(super) fn enforced(&self, node: &NodeId) -> String {
        format!("{}{node}", self.enforced_folder())
    }

    pub(super) fn enforced_folder(&self) -> String {
        format!("{}/enforced/", self.root)
    }

    pub(super) fn enforced_range(&self) -> Range {
        Range::below(&self.enforced_folder())
    }

    pub(super) fn wanted(&self) -> String {
        format!("{}/wanted", self.root)
    }

    pub(super) fn wanted_range(&self) -> Range {
        Range::single(self.wanted())
    }

    pub(super) fn epoch(&self) -> String {
        format!("{}/epoch", self.root)
    }

    pub(super) fn head(&self) -> String {
        format!("{}/policy/head", self.root)
    }

    pub(super) fn intent(&self) -> String {
        format!("{}/policy/intent", self.root)
    }

    pub(super) fn source(&self, group: &GroupId) -> String {
        format!("{}/policy/sources/{}", self.root, encode(group))
    }

    pub(super) fn group(&self, group: &GroupId) -> String {
        format!("{}/policy/groups/{}", self.root, encode(group))
    }

    pub(super) fn tag(&self, tag: Tag) -> String {
        format!("{}{tag}", self.tags())
    }

    pub(super) fn tags(&self) -> String {
        format!("{}/policy/tags/", self.root)
    }

    pub(super) fn tag_range(&self) -> Range {
        Range::below(&self.tags())
    }

    /// All staged chunks.
    pub(super) fn staged_folder(&self) -> String {
        format!("{}/policy/staged/", self.root)
    }

    pub(super) fn staged_range(&self) -> Range {
        Range::below(&self.staged_folder())
    }

    /// The staged chunks of a change.
    pub(super) fn chunk_range(&self, change: &str) -> Range {
        Range::below(&format!("{}{change}/", self.staged_folder()))
    }

    pub(super) fn chunk(&self, change: &str, number: usize) -> String {
        format!("{}{change}/{number:04}", self.staged_folder())
    }

    /// Everything a follower of policies needs: groups, head, intent, sources. Staged chunks and tags
    /// come later in the order of keys, so that no agent is sent them.
    pub(super) fn policy_range(&self) -> Range {
        Range { from: format!("{}/policy/groups/", self.root).into(), to: self.staged_folder().into() }
    }

    /// What a key below [`Self::policy_range`] holds.
    pub(super) fn policy_place(&self, key: &str) -> PolicyPlace {
        let Some(rest) = key.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix("/policy/")) else {
            return PolicyPlace::Other;
        };
        match rest.split_once('/') {
            Some(("groups", _)) => PolicyPlace::Group,
            Some(("sources", _)) => PolicyPlace::Source,
            None if rest == "head" => PolicyPlace::Head,
            None if rest == "intent" => PolicyPlace::Intent,
            _ => PolicyPlace::Other,
        }
    }
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyPlace {
    Group,
    Source,
    Head,
    Intent,
    Other,
}

/// The last part of a key, decoded: the group it names.
pub(super) fn group_of(key: &str) -> Option<GroupId> {
    let encoded = key.rsplit('/').next()?;
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    GroupId::new(String::from_utf8(bytes).ok()?).ok()
}

/// Percent-encoding: all but RFC 3986's unreserved characters.
fn encode(group: &GroupId) -> String {
    let mut text = String::with_capacity(group.as_str().len());
    for byte in group.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_group_cannot_leave_its_folder() {
        let keys = Keys::new("/coreos.com/network/", "/weft/v1");
        let group = GroupId::new("k8s:c/../%x").unwrap();
        assert_eq!(keys.group(&group), "/weft/v1/policy/groups/k8s%3Ac%2F..%2F%25x");
        assert_eq!(keys.config(), "/coreos.com/network/config");
    }

    #[test]
    fn the_range_of_followers_has_no_chunks_and_no_tags() {
        let keys = Keys::new("/p", "/weft/v1");
        let range = keys.policy_range();
        let inside = |key: &str| range.from.as_slice() <= key.as_bytes() && key.as_bytes() < range.to.as_slice();
        assert!(inside(&keys.head()) && inside(&keys.intent()));
        assert!(inside("/weft/v1/policy/groups/a") && inside("/weft/v1/policy/sources/~"));
        assert!(!inside(&keys.chunk("x", 0)) && !inside(&keys.tag("0001".parse().unwrap())));
    }

    proptest! {
        #[test]
        fn encoding_reads_back(text in "[^\\x00]{1,60}") {
            let group = GroupId::new(text).unwrap();
            let key = Keys::new("/p", "/r").source(&group);
            prop_assert!(key.is_ascii());
            prop_assert_eq!(group_of(&key), Some(group));
        }
    }
}
