//! How many entries each map holds; bytes for the ring buffer. Some can be configured: then this is the default.

/// Map `ct_est4`: answered TCP connections, a share of each slot's ([`crate::FlowShares`]). The oldest give way.
pub const CT_EST4: u32 = 131_072;
/// Map `ct_short4`: flows that are forgotten within minutes, likewise. The oldest give way.
pub const CT_SHORT4: u32 = 65_536;
/// Map `ct_more4`: flows of both kinds beyond their slot's share, of all slots. The oldest give way.
pub const CT_MORE4: u32 = 65_536;
/// Bytes of unfinished datagrams that a slot may have on its host in a [`crate::PIECES_WINDOW`], an eighth of what
/// the kernel keeps for all (`net.ipv4.ipfrag_high_thresh`, 4 MiB).
pub const SHARE_PIECES: u32 = 512 * 1024;
/// Answers that a slot may have in a second.
pub const SHARE_ANSWERS: u32 = 1_000;
/// Slots whose shares fit at the same time: a /24's, and some.
pub const SHARES: u32 = 256;
/// Map `pol`.
pub const POL: u32 = 262_144;
/// Map `ranges`.
pub const RANGES: u32 = 262_144;
/// Map `cidr4`.
pub const CIDR4: u32 = 65_536;
/// Map `peers4`.
pub const PEERS4: u32 = 16_384;
/// Map `host4`.
pub const HOST4: u32 = 4_096;
/// Map `frag4`. The oldest give way.
pub const FRAG4: u32 = 8_192;
/// Map `counters`: room for reasons to come, so that counts go on when a version brings new ones.
pub const COUNTERS: u32 = 64;
/// Ring buffer `denials`, bytes.
pub const DENIALS: u32 = 4 << 20;
/// Map `denial_limit`. The oldest give way.
pub const DENIAL_LIMIT: u32 = 65_536;

const _: () = assert!(crate::Reason::COUNT <= COUNTERS);
