//! What the programs must know of the kernel they run in, beyond its stable interfaces.

/// Where fields of the kernel's `struct sk_buff` are: bytes from its beginning. They differ between kernels and
/// their configurations; the loader takes them from the kernel's own type information (BTF) and gives
/// them to the programs as a constant, global `SKB_LAYOUT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkbLayout {
    /// The byte that holds the two bits of `ip_summed`.
    pub ip_summed: u32,
    /// How far they are shifted left in it.
    pub ip_summed_shift: u32,
    /// `csum_start`: where the sum begins, from `head` on; 16 bits. The next 16 are `csum_offset`: where it is written,
    /// from there on.
    pub csum_start: u32,
    /// `head`, the buffer: a pointer. The next is `data`: the frame in it.
    pub head: u32,
}

const _: () = assert!(size_of::<SkbLayout>() == 16);
