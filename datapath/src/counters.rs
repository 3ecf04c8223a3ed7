//! Counters and what the maps cost.

use crate::error::DatapathError;
use crate::object::MAPS;
use crate::pins::{Pins, error};
use aya::maps::{MapData, PerCpuArray};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use weft_abi::Reason;

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Entries it has.
    pub entries: u64,
    /// Entries it takes.
    pub capacity: u64,
}

impl Fill {
    pub(crate) fn of(entries: usize, capacity: u32) -> Self {
        Self { entries: u64::try_from(entries).unwrap_or(u64::MAX), capacity: capacity.into() }
    }
}

/// Packets by reason, all CPUs together.
pub(crate) fn read(map: &PerCpuArray<MapData, u64>) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
    let mut counters = BTreeMap::new();
    for reason in Reason::ALL {
        let values = map.get(&u32::from(reason as u8), 0);
        let values = values.map_err(|source| DatapathError::Map { map: "counters", source })?;
        counters.insert(reason.name(), values.iter().sum());
    }
    Ok(counters)
}

/// Bytes that each map takes now, as the kernel accounts them; before Linux 6.4 that is entries times their size, which
/// for a ring buffer is nothing: there it is the size of the buffer.
pub(crate) fn memory(pins: &Pins) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
    let mut bytes = BTreeMap::new();
    for layout in &MAPS {
        let map = MapData::from_pin(pins.map(layout.name))
            .map_err(|source| DatapathError::Map { map: layout.name, source })?;
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).map_err(error("cannot read", path.as_ref()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        let accounted: u64 = line.and_then(|value| value.trim().parse().ok()).unwrap_or_default();
        let least = if layout.key_size == 0 { buffer_bytes(&map, layout.name)? } else { 0 };
        bytes.insert(layout.name, accounted.max(least));
    }
    Ok(bytes)
}

/// The size of a ring buffer, which is its number of entries.
fn buffer_bytes(map: &MapData, name: &'static str) -> Result<u64, DatapathError> {
    let info = map.info().map_err(|source| DatapathError::Map { map: name, source })?;
    Ok(info.max_entries().into())
}
