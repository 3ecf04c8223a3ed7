//! Where the kernel keeps what the programs must know of an skb and no stable interface tells.

use crate::btf::{Btf, Member};
use crate::error::DatapathError;
use std::path::Path;
use std::sync::OnceLock;
use weft_abi::SkbLayout;

/// Where the kernel tells of its types (`CONFIG_DEBUG_INFO_BTF`).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The layout of this kernel, read once: a kernel does not change while it runs.
pub(crate) fn layout() -> Result<SkbLayout, DatapathError> {
    static LAYOUT: OnceLock<SkbLayout> = OnceLock::new();
    if let Some(layout) = LAYOUT.get() {
        return Ok(*layout);
    }
    let failed = |reason| DatapathError::KernelTypes { path: VMLINUX.into(), reason };
    let bytes = std::fs::read(Path::new(VMLINUX)).map_err(|error| failed(error.to_string()))?;
    let layout = find(&bytes).map_err(failed)?;
    Ok(*LAYOUT.get_or_init(|| layout))
}

fn find(bytes: &[u8]) -> Result<SkbLayout, String> {
    let btf = Btf::parse(bytes).ok_or("it is no type information of this machine's byte order")?;
    let member = |name: &str| btf.member("sk_buff", name).ok_or_else(|| format!("no {name} in struct sk_buff"));
    let bytes_at = |name: &str| match member(name)? {
        Member { bit_offset, bits: 0 } if bit_offset % 8 == 0 => Ok(bit_offset / 8),
        other => Err(format!("{name} of struct sk_buff does not begin with a byte: {other:?}")),
    };
    let summed = member("ip_summed")?;
    if summed.bits != 2 || summed.bit_offset % 8 > 6 {
        return Err(format!("ip_summed of struct sk_buff is not two bits of one byte: {summed:?}"));
    }
    // Two neighbours are read at a time; so they are in every kernel so far.
    let neighbours = |first: &str, size: u32, second: &str| match (bytes_at(first)?, bytes_at(second)?) {
        (first, second) if second == first + size => Ok(first),
        apart => Err(format!("{second} of struct sk_buff is not behind {first}: {apart:?}")),
    };
    Ok(SkbLayout {
        ip_summed: summed.bit_offset / 8,
        ip_summed_shift: summed.bit_offset % 8,
        csum_start: neighbours("csum_start", 2, "csum_offset")?,
        head: neighbours("head", 8, "data")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells() {
        let layout = layout().unwrap();
        assert!(layout.csum_start > layout.ip_summed && layout.head > layout.csum_start, "{layout:?}");
    }

    #[test]
    fn what_tells_nothing_is_an_error_that_says_so() {
        assert!(find(b"nothing").unwrap_err().contains("no type information"));
    }
}
