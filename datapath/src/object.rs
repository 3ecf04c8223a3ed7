//! The object that the build script made, and what is in it.

use weft_abi::capacity;
use weft_model::datapath::MapSizes;

/// The object, aligned as its parser wants it.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft.o"));

/// A kernel program; docs/datapath.md says what each does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Ingress of a workload's host veth.
    FromWorkload,
    /// Egress of a workload's host veth.
    ToWorkload,
    /// Egress of the VXLAN device.
    ToOverlay,
    /// Ingress of the VXLAN device.
    FromOverlay,
    /// Ingress of the underlay's devices.
    FromUnderlay,
    /// Attached nowhere: what a probe costs by itself, for benchmarks to subtract.
    Empty,
}

impl Program {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::FromWorkload, Self::ToWorkload, Self::ToOverlay, Self::FromOverlay, Self::FromUnderlay, Self::Empty];

    /// Its name in the object, in `bpftool` and in pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload",
            Self::ToWorkload => "to_workload",
            Self::ToOverlay => "to_overlay",
            Self::FromOverlay => "from_overlay",
            Self::FromUnderlay => "from_underlay",
            Self::Empty => "empty",
        }
    }
}

/// What a pinned map must look like to be used again.
#[derive(Clone, Copy)]
pub(crate) struct MapLayout {
    pub(crate) name: &'static str,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    /// Maps of one family are only ever re-created together: a connection's generation means
    /// nothing in another endpoint table, nor an endpoint's set in other policy maps.
    pub(crate) stateful: bool,
}

const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

const fn map<K, V>(name: &'static str, max_entries: u32) -> MapLayout {
    MapLayout { name, key_size: size::<K>(), value_size: size::<V>(), max_entries, stateful: false }
}

const fn trie<K, V>(name: &'static str, max_entries: u32) -> MapLayout {
    // A trie's key begins with the prefix length.
    MapLayout { name, key_size: size::<K>() + 4, value_size: size::<V>(), max_entries, stateful: false }
}

const fn stateful(layout: MapLayout) -> MapLayout {
    MapLayout { stateful: true, ..layout }
}

/// Every map of the object, at the sizes asked for.
pub(crate) fn maps(sizes: &MapSizes) -> [MapLayout; 16] {
    let mut maps = MAPS;
    for layout in &mut maps {
        layout.max_entries = size_of_map(layout.name, sizes).unwrap_or(layout.max_entries);
    }
    maps
}

/// The size of a map that has no fixed one.
fn size_of_map(name: &str, sizes: &MapSizes) -> Option<u32> {
    match name {
        "ct_est4" => Some(sizes.connections),
        "ct_short4" | "ct_more4" => Some(sizes.unanswered),
        "pol" | "ranges" => Some(sizes.policy_entries),
        "denials" => Some(sizes.record_bytes),
        _ => None,
    }
}

/// The maps of connections.
pub(crate) const CONNECTIONS: [&str; 3] = ["ct_est4", "ct_short4", "ct_more4"];

/// Every map of the object, as it says itself. One whose form changes, key or value or what they mean, gets another name; then
/// [`weft_abi::LAYOUT_VERSION`] changes too.
pub(crate) const MAPS: [MapLayout; 16] = [
    stateful(map::<u32, weft_abi::Endpoint>("ep", weft_abi::MAX_SLOTS)),
    stateful(map::<weft_abi::ConnKey4, weft_abi::Conn>("ct_est4", capacity::CT_EST4)),
    stateful(map::<weft_abi::ConnKey4, weft_abi::Conn>("ct_short4", capacity::CT_SHORT4)),
    stateful(map::<weft_abi::ConnKey4, weft_abi::Conn>("ct_more4", capacity::CT_MORE4)),
    stateful(map::<u32, weft_abi::Share>("ct_share", weft_abi::MAX_SLOTS)),
    stateful(map::<weft_abi::FragKey4, weft_abi::Frag>("frag4", capacity::FRAG4)),
    map::<u32, weft_abi::Host>("host", 1),
    stateful(map::<weft_abi::PolicyKey, weft_abi::PolicyValue>("pol", capacity::POL)),
    stateful(trie::<weft_abi::RangeKey, weft_abi::PolicyValue>("ranges", capacity::RANGES)),
    stateful(trie::<weft_abi::CidrKey4, u32>("cidr4", capacity::CIDR4)),
    trie::<weft_abi::PeerKey4, weft_abi::Peer>("peers4", capacity::PEERS4),
    map::<weft_abi::HostAddr4, u8>("host4", capacity::HOST4),
    map::<weft_abi::MappedPort, u8>("mapped", capacity::MAPPED),
    map::<u32, u64>("counters", capacity::COUNTERS),
    map::<(), ()>("denials", capacity::DENIALS),
    map::<weft_abi::DenialPair, weft_abi::DenialBucket>("denial_limit", capacity::DENIAL_LIMIT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_sizes_are_the_objects_own() {
        let sizes = |maps: &[MapLayout]| maps.iter().map(|map| (map.name, map.max_entries)).collect::<Vec<_>>();
        assert_eq!(sizes(&maps(&MapSizes::default())), sizes(&MAPS));
    }
}
