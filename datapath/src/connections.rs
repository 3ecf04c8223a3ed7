//! Housekeeping of established connections. The programs give a connection's share back when they see its end; of
//! those that end unseen (a workload killed, a peer that vanished) they learn nothing.

use crate::counters::Fill;
use crate::endpoints::EndpointView;
use crate::error::DatapathError;
use crate::pod::Raw;
use aya::maps::{Array, HashMap, MapData, MapError};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use weft_abi::{Conn, ConnKey4, Share, TCP_LIFETIME};
use weft_model::id::Slot;

/// Maps `ct_est4` and `ct_share`.
pub(crate) struct Connections {
    pub(crate) established: HashMap<MapData, Raw<ConnKey4>, Raw<Conn>>,
    pub(crate) shares: Array<MapData, Raw<Share>>,
    /// Entries that `ct_est4` takes.
    pub(crate) capacity: u32,
    /// Connections that the last sweep left.
    pub(crate) counted: u64,
}

impl Connections {
    /// Removes connections of workloads that are gone and those that nobody has used for their lifetime, and counts
    /// what the others take; how many were removed.
    pub(crate) fn sweep(&mut self, endpoints: &BTreeMap<Slot, EndpointView>) -> Result<usize, DatapathError> {
        let failed = |source| DatapathError::Map { map: "ct_est4", source };
        let now = now();
        let (mut held, mut dead) = (BTreeMap::<u32, u64>::new(), Vec::new());
        for entry in self.established.iter() {
            let (key, Raw(conn)) = entry.map_err(failed)?;
            let slot = u16::try_from(key.0.slot).ok().map(Slot);
            let current = slot.and_then(|slot| endpoints.get(&slot)).map(|view| view.incarnation);
            // A packet may have come since we looked at the clock.
            let age = now.wrapping_sub(conn.seen).cast_signed();
            if current == Some(conn.incarnation) && age <= TCP_LIFETIME.cast_signed() {
                *held.entry(key.0.slot).or_default() += 1;
            } else {
                dead.push(key);
            }
        }
        for key in &dead {
            match self.established.remove(key) {
                Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(failed)?,
            }
        }
        self.counted = held.values().sum();
        self.correct(&held)?;
        Ok(dead.len())
    }

    /// How full `ct_est4` was at the last sweep.
    pub(crate) fn fill(&self) -> (&'static str, Fill) {
        ("ct_est4", Fill { entries: self.counted, capacity: self.capacity.into() })
    }

    /// Writes the shares that were counted otherwise. What begins or ends meanwhile is a small error until the next time.
    fn correct(&mut self, held: &BTreeMap<u32, u64>) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Map { map: "ct_share", source };
        for slot in 0..weft_abi::MAX_SLOTS {
            let Raw(share) = self.shares.get(&slot, 0).map_err(failed)?;
            let counted = held.get(&slot).copied().unwrap_or_default();
            if share.held != counted {
                self.shares.set(slot, Raw(Share { held: counted, ..share }), 0).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// The time in units of [`Conn::seen`].
fn now() -> u32 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(std::time::Duration::from).unwrap_or_default();
    u32::try_from((now.as_nanos() >> 30) & u128::from(u32::MAX)).unwrap_or_default()
}
