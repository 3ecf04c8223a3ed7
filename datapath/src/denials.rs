//! Reading what the programs tell of denied packets.

use aya::maps::{MapData, RingBuf};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use weft_abi::DenialEvent;

/// The consumer's end of ring buffer `denials`. Poll the descriptor for readability, then take
/// records until there is none.
pub struct DenialReader {
    ring: RingBuf<MapData>,
}

impl DenialReader {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next record, if there is one. Records of an unknown length, from programs of another
    /// version, are left out.
    pub fn try_next(&mut self) -> Option<DenialEvent> {
        loop {
            let item = self.ring.next()?;
            if item.len() == size_of::<DenialEvent>() {
                // SAFETY: as many bytes as the record has, which is integers without padding.
                return Some(unsafe { item.as_ptr().cast::<DenialEvent>().read_unaligned() });
            }
            tracing::warn!(bytes = item.len(), "a denial record of unknown length");
        }
    }
}

impl std::fmt::Debug for DenialReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DenialReader").field("fd", &self.as_raw_fd()).finish_non_exhaustive()
    }
}

impl AsRawFd for DenialReader {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for DenialReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}
