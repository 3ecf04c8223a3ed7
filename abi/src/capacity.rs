//! How many entries each map holds; bytes for the ring buffer. Some can be configured: then this is the default.

/// Map `ct_est4`: connections whose both sides were seen. The oldest give way.
pub const CT_EST4: u32 = 131_072;
/// Map `ct_half4`: connections nobody answered yet. The oldest give way.
pub const CT_HALF4: u32 = 32_768;
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
/// Map `mapped`.
pub const MAPPED: u32 = 16_384;
/// Map `frag4`. The oldest give way.
pub const FRAG4: u32 = 8_192;
/// Map `counters`: room for reasons to come, so that counts go on when a version brings new ones.
pub const COUNTERS: u32 = 64;
/// Ring buffer `denials`, bytes.
pub const DENIALS: u32 = 4 << 20;
/// Map `denial_limit`. The oldest give way.
pub const DENIAL_LIMIT: u32 = 65_536;

const _: () = assert!(crate::Reason::COUNT <= COUNTERS);
