//! What a link with the name of a workload's host end is.

use weft_hostnet::LinkInfo;
use weft_model::id::{Attachment, Token};
use weft_model::overlay::LinkKind;
use weft_model::workload::{Alias, SLOT_IFINDEX_BASE};

/// A judgement about such a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEnd {
    /// There is none.
    Absent,
    /// Somebody else's: not touched.
    Foreign,
    /// The host end of that attachment.
    Ours {
        /// Its incarnation; `None` if the plugin died before it could write the alias.
        token: Option<Token>,
        /// Whether the agent raised it: only commit does, so a link that is down was left by an ADD
        /// that did not come to its end.
        raised: bool,
    },
}

/// Judges a link found by name.
#[must_use]
pub fn judge(link: Option<&LinkInfo>, attachment: &Attachment) -> HostEnd {
    let Some(link) = link else {
        return HostEnd::Absent;
    };
    let raised = link.up || link.master.is_some();
    match link.alias.as_deref().filter(|alias| !alias.is_empty()) {
        Some(text) => match Alias::parse(text) {
            Some(alias) if alias.attachment == *attachment => HostEnd::Ours { token: Some(alias.token), raised },
            _ => HostEnd::Foreign,
        },
        None if link.kind == LinkKind::Veth && link.index >= SLOT_IFINDEX_BASE => HostEnd::Ours { token: None, raised },
        None => HostEnd::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::mac::Mac;

    fn attachment() -> Attachment {
        Attachment { container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    fn link(alias: Option<&str>, index: u32, up: bool) -> LinkInfo {
        LinkInfo {
            name: "weft0123456789a".parse().unwrap(),
            index,
            mac: Mac([0; 6]),
            mtu: 1450,
            up,
            master: None,
            other_end: None,
            alias: alias.map(str::to_owned),
            group: 0,
            kind: LinkKind::Veth,
            guarded_port: false,
        }
    }

    #[test]
    fn only_links_of_that_attachment_are_ours() {
        let of = |link: &LinkInfo| judge(Some(link), &attachment());
        let slot = SLOT_IFINDEX_BASE + 2;
        let token = || Some("0123abcd".parse().unwrap());
        assert_eq!(judge(None, &attachment()), HostEnd::Absent);
        assert_eq!(
            of(&link(Some("weft:1:0123abcd:c1:eth0"), slot, true)),
            HostEnd::Ours { token: token(), raised: true }
        );
        assert_eq!(
            of(&link(Some("weft:1:0123abcd:c1:eth0"), slot, false)),
            HostEnd::Ours { token: token(), raised: false }
        );
        assert_eq!(of(&link(None, slot, false)), HostEnd::Ours { token: None, raised: false });
        assert_eq!(of(&link(Some("weft:1:0123abcd:c2:eth0"), slot, false)), HostEnd::Foreign);
        assert_eq!(of(&link(Some("the neighbour's"), slot, false)), HostEnd::Foreign);
        assert_eq!(of(&link(None, 12, false)), HostEnd::Foreign);
    }
}
