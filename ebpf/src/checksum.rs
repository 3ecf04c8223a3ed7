//! The Internet checksum (RFC 1071) over a few words on the stack.

/// Adds 16-bit words as they stand in memory; the sum's byte order is the words'.
#[inline(always)]
pub(crate) fn add<const N: usize>(mut sum: u32, words: &[u16; N]) -> u32 {
    let mut index = 0;
    while index < N {
        // SAFETY: `index` is below `N`; plain indexing leaves a panic behind, which does not link.
        sum += u32::from(unsafe { *words.get_unchecked(index) });
        index += 1;
    }
    sum
}

/// Adds a 32-bit value as it stands in memory.
#[inline(always)]
pub(crate) fn add32(sum: u32, value: u32) -> u32 {
    sum + (value & 0xffff) + (value >> 16)
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub(crate) fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The folded sum of the IPv4 pseudo header, not complemented.
#[inline(always)]
pub(crate) fn pseudo(source: u32, destination: u32, proto: u8, length: u16) -> u16 {
    let sum = add32(add32(0, source), destination);
    fold(sum + u32::from(u16::from(proto).to_be()) + u32::from(length.to_be()))
}
