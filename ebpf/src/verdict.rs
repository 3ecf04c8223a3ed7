//! What the programs tell the kernel.

/// `TC_ACT_UNSPEC`, which is also `TCX_NEXT`: go on with other people's programs, then pass.
pub(crate) const PASS: i32 = -1;
/// `TC_ACT_SHOT`, also `TCX_DROP`.
pub(crate) const DROP: i32 = 2;
