//! Map keys and values as bytes.

use weft_abi as abi;

/// A layout of `weft-abi` as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Raw<T: Copy>(pub(crate) T);

macro_rules! pod {
    ($($name:ident),+ $(,)?) => {$(
        // SAFETY: `repr(C)` of integers and byte arrays without padding: any bytes are a value, and
        // every byte is written (asserted by the sizes in weft-abi).
        unsafe impl aya::Pod for Raw<abi::$name> {}
    )+};
}

pod!(Conn, ConnKey4, FlowShares, Share, Host, PolicyKey, PolicyValue, RangeKey, CidrKey4, Peer, SkbLayout);
