//! The maps. Layouts are in `weft-abi`; sizes too (`capacity`).

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use weft_abi::{
    CidrKey4, Conn, ConnKey4, DenialBucket, DenialPair, Endpoint, Frag, FragKey4, Host, HostAddr4, MAX_SLOTS, Peer,
    PeerKey4, PolicyKey, PolicyValue, RangeKey, Share, capacity,
};

/// Endpoints by slot. Mapped into the agent's memory, so that an endpoint's head is one store.
#[map(name = "ep")]
pub(crate) static EP: Array<Endpoint> = Array::with_max_entries(MAX_SLOTS, BPF_F_MMAPABLE);

#[map(name = "host")]
pub(crate) static HOST: Array<Host> = Array::with_max_entries(1, 0);

#[map(name = "ct_est4")]
pub(crate) static CT_EST4: LruHashMap<ConnKey4, Conn> = LruHashMap::with_max_entries(capacity::CT_EST4, 0);

#[map(name = "ct_short4")]
pub(crate) static CT_SHORT4: LruHashMap<ConnKey4, Conn> = LruHashMap::with_max_entries(capacity::CT_SHORT4, 0);

#[map(name = "ct_more4")]
pub(crate) static CT_MORE4: LruHashMap<ConnKey4, Conn> = LruHashMap::with_max_entries(capacity::CT_MORE4, 0);

#[map(name = "ct_share")]
pub(crate) static CT_SHARE: Array<Share> = Array::with_max_entries(MAX_SLOTS, 0);

#[map(name = "pol")]
pub(crate) static POL: HashMap<PolicyKey, PolicyValue> = HashMap::with_max_entries(capacity::POL, BPF_F_NO_PREALLOC);

#[map(name = "ranges")]
pub(crate) static RANGES: LpmTrie<RangeKey, PolicyValue> = LpmTrie::with_max_entries(capacity::RANGES, 0);

#[map(name = "cidr4")]
pub(crate) static CIDR4: LpmTrie<CidrKey4, u32> = LpmTrie::with_max_entries(capacity::CIDR4, 0);

#[map(name = "peers4")]
pub(crate) static PEERS4: LpmTrie<PeerKey4, Peer> = LpmTrie::with_max_entries(capacity::PEERS4, 0);

#[map(name = "host4")]
pub(crate) static HOST4: HashMap<HostAddr4, u8> = HashMap::with_max_entries(capacity::HOST4, BPF_F_NO_PREALLOC);

#[map(name = "frag4")]
pub(crate) static FRAG4: LruHashMap<FragKey4, Frag> = LruHashMap::with_max_entries(capacity::FRAG4, 0);

#[map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(capacity::COUNTERS, 0);

#[map(name = "denials")]
pub(crate) static DENIALS: RingBuf = RingBuf::with_byte_size(capacity::DENIALS, 0);

#[map(name = "denial_limit")]
pub(crate) static DENIAL_LIMIT: LruHashMap<DenialPair, DenialBucket> =
    LruHashMap::with_max_entries(capacity::DENIAL_LIMIT, 0);
