//! What runtimes ask for a workload besides its connection: CNI's capabilities, as far as the agent carries them
//! out and remembers them.

use crate::bandwidth::Bandwidth;
use crate::id::Attachment;
use crate::mac::Mac;
use crate::ports::PortMapping;
use serde::{Deserialize, Serialize};

/// The capabilities asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// `portMappings`: ports of the host that lead to the workload.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// `mac`: the workload's hardware address, if not the one that comes with its IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// `bandwidth`: how much it may receive and send.
    #[serde(skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// Why a hardware address cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// No address of one device, or one of those weft makes itself.
    #[error("invalid mac {mac}: must be a unicast address and not begin with ee:ee or aa:aa, as those weft makes do")]
    Unusable {
        /// What is asked for.
        mac: Mac,
    },
    /// Another workload of this host has it.
    #[error("mac {mac} is taken: {owner} has it")]
    Taken {
        /// What is asked for.
        mac: Mac,
        /// Who has it.
        owner: Attachment,
    },
}

/// Checks a requested hardware address: on one bridge each is one port's.
///
/// # Errors
/// [`MacError`].
pub fn check_mac<'a>(
    mac: Mac,
    mut others: impl Iterator<Item = (&'a Attachment, &'a Capabilities)>,
) -> Result<(), MacError> {
    let Mac([first, second, ..]) = mac;
    if mac == Mac([0; 6]) || first & 1 != 0 || [(0xee, 0xee), (0xaa, 0xaa)].contains(&(first, second)) {
        return Err(MacError::Unusable { mac });
    }
    match others.find(|(_, capabilities)| capabilities.mac == Some(mac)) {
        Some((owner, _)) => Err(MacError::Taken { mac, owner: owner.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_free_unicast_addresses_of_others_make_are_given() {
        let owner = Attachment { container_id: "db".parse().unwrap(), ifname: "eth0".parse().unwrap() };
        let theirs = Capabilities { mac: Some("02:00:00:00:00:01".parse().unwrap()), ..Capabilities::default() };
        let check = |text: &str| {
            let checked = check_mac(text.parse().unwrap(), [(&owner, &theirs)].into_iter());
            checked.err().map(|error| error.to_string())
        };
        assert_eq!(check("02:00:00:00:00:02"), None);
        assert_eq!(check("02:00:00:00:00:01").unwrap(), "mac 02:00:00:00:00:01 is taken: db/eth0 has it");
        for bad in
            ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "ee:ee:0a:ff:01:02", "aa:aa:0a:ff:01:01"]
        {
            assert!(check(bad).unwrap().starts_with("invalid mac "), "{bad}");
        }
    }

    #[test]
    fn what_an_older_agent_wrote_reads_as_nothing_asked_for() {
        assert_eq!(serde_json::from_str::<Capabilities>("{}").unwrap(), Capabilities::default());
        assert_eq!(serde_json::to_string(&Capabilities::default()).unwrap(), "{}");
    }
}
