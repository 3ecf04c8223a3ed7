//! Policy sets in the maps.

use crate::encode::{Encoded, encode};
use crate::error::DatapathError;
use crate::pod::Raw;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use std::collections::BTreeMap;
use weft_abi::{CidrKey4, PolicyKey, PolicyValue, RangeKey, capacity};
use weft_model::datapath::SetId;
use weft_model::policy::PolicySet;

/// Which entries belong to a set: a map cannot be asked.
#[derive(Debug, Default)]
struct Keys {
    policies: Vec<PolicyKey>,
    ranges: Vec<(RangeKey, u32)>,
    classes: Vec<(CidrKey4, u32)>,
}

/// The three maps that policy sets are written to.
pub(crate) struct Sets {
    policies: HashMap<MapData, Raw<PolicyKey>, Raw<PolicyValue>>,
    ranges: LpmTrie<MapData, Raw<RangeKey>, Raw<PolicyValue>>,
    classes: LpmTrie<MapData, Raw<CidrKey4>, u32>,
    keys: BTreeMap<u32, Keys>,
}

impl Sets {
    /// Takes the maps and looks what is in them.
    pub(crate) fn new(
        policies: HashMap<MapData, Raw<PolicyKey>, Raw<PolicyValue>>,
        ranges: LpmTrie<MapData, Raw<RangeKey>, Raw<PolicyValue>>,
        classes: LpmTrie<MapData, Raw<CidrKey4>, u32>,
    ) -> Result<Self, DatapathError> {
        let mut keys: BTreeMap<u32, Keys> = BTreeMap::new();
        for key in policies.keys() {
            let Raw(key) = key.map_err(failed("pol"))?;
            keys.entry(key.set).or_default().policies.push(key);
        }
        for key in ranges.keys() {
            let key = key.map_err(failed("ranges"))?;
            let (Raw(data), bits) = (key.data(), key.prefix_len());
            keys.entry(u32::from_be(data.set)).or_default().ranges.push((data, bits));
        }
        for key in classes.keys() {
            let key = key.map_err(failed("cidr4"))?;
            let (Raw(data), bits) = (key.data(), key.prefix_len());
            keys.entry(u32::from_be(data.set)).or_default().classes.push((data, bits));
        }
        Ok(Self { policies, ranges, classes, keys })
    }

    /// The sets that have entries. A set without any rule has none, and needs none.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SetId> + '_ {
        self.keys.keys().copied().map(SetId)
    }

    /// Writes a set nothing refers to, whole or not at all. Returns how many entries it has.
    pub(crate) fn put(&mut self, id: SetId, set: &PolicySet) -> Result<usize, DatapathError> {
        let encoded = encode(id, set)?;
        self.remove(id)?;
        // Known before the first entry is written, so that a failure is cleaned up.
        self.keys.insert(
            id.0,
            Keys {
                policies: encoded.policies.keys().copied().collect(),
                ranges: encoded.ranges.keys().copied().collect(),
                classes: encoded.classes.keys().copied().collect(),
            },
        );
        if let Err(error) = self.write(id, &encoded) {
            self.remove(id)?;
            return Err(error);
        }
        Ok(encoded.policies.len() + encoded.ranges.len() + encoded.classes.len())
    }

    fn write(&mut self, id: SetId, encoded: &Encoded) -> Result<(), DatapathError> {
        for ((key, bits), class) in &encoded.classes {
            let written = self.classes.insert(&Key::new(*bits, Raw(*key)), class, 0);
            written.map_err(full("cidr4", capacity::CIDR4, id))?;
        }
        for ((key, bits), value) in &encoded.ranges {
            let written = self.ranges.insert(&Key::new(*bits, Raw(*key)), Raw(*value), 0);
            written.map_err(full("ranges", capacity::RANGES, id))?;
        }
        for (key, value) in &encoded.policies {
            let written = self.policies.insert(Raw(*key), Raw(*value), 0);
            written.map_err(full("pol", capacity::POL, id))?;
        }
        Ok(())
    }

    /// Removes a set nothing refers to any more. Returns how many entries it had.
    pub(crate) fn remove(&mut self, id: SetId) -> Result<usize, DatapathError> {
        let Some(keys) = self.keys.get(&id.0) else { return Ok(0) };
        for key in &keys.policies {
            gone(self.policies.remove(&Raw(*key)), "pol")?;
        }
        for (key, bits) in &keys.ranges {
            gone(self.ranges.remove(&Key::new(*bits, Raw(*key))), "ranges")?;
        }
        for (key, bits) in &keys.classes {
            gone(self.classes.remove(&Key::new(*bits, Raw(*key))), "cidr4")?;
        }
        let count = keys.policies.len() + keys.ranges.len() + keys.classes.len();
        self.keys.remove(&id.0);
        Ok(count)
    }
}

/// An entry that is not there is removed.
fn gone(result: Result<(), MapError>, map: &'static str) -> Result<(), DatapathError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed(map)),
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source }
}

fn full(map: &'static str, capacity: u32, id: SetId) -> impl Fn(MapError) -> DatapathError {
    move |source| full_or_failed(map, capacity, source, || format!("policy set {}", id.0))
}

/// Hash maps say E2BIG when they are full, tries ENOSPC.
pub(crate) fn full_or_failed(
    map: &'static str,
    capacity: u32,
    source: MapError,
    what: impl FnOnce() -> String,
) -> DatapathError {
    match &source {
        MapError::SyscallError(error)
            if matches!(error.io_error.raw_os_error(), Some(nix::libc::E2BIG | nix::libc::ENOSPC)) =>
        {
            DatapathError::MapFull { map, capacity, what: what() }
        }
        _ => DatapathError::Map { map, source },
    }
}
