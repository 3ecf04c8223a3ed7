//! Policy sets in the maps.

use crate::counters::Fill;
use crate::encode::{Encoded, encode};
use crate::error::DatapathError;
use crate::pod::Raw;
use crate::table::{Prefix, Table};
use crate::writes::Writes;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData, MapError};
use std::collections::BTreeMap;
use weft_abi::{CidrKey4, PolicyKey, PolicyValue, RangeKey, capacity, flag};
use weft_model::datapath::SetId;
use weft_model::policy::PolicySet;

/// What is known of a set that has entries: a map cannot be asked.
#[derive(Debug, Default)]
struct Known {
    policies: Vec<PolicyKey>,
    ranges: Vec<Prefix<RangeKey>>,
    classes: Vec<Prefix<CidrKey4>>,
    /// [`Encoded::flags`].
    flags: u8,
}

impl Known {
    /// A set that was found: it may have any kind of rule.
    fn found() -> Self {
        Self { flags: flag::INGRESS_TIERS | flag::EGRESS_RULES, ..Self::default() }
    }

    fn len(&self) -> usize {
        self.policies.len() + self.ranges.len() + self.classes.len()
    }
}

/// The three maps that policy sets are written to.
pub(crate) struct Sets {
    policies: Table<PolicyKey, PolicyValue>,
    ranges: Table<Prefix<RangeKey>, PolicyValue>,
    classes: Table<Prefix<CidrKey4>, u32>,
    known: BTreeMap<u32, Known>,
}

impl Sets {
    /// Takes the maps `pol`, `ranges` (of so many entries) and `cidr4`, and looks what is in them.
    pub(crate) fn new(policies: Map, ranges: Map, classes: Map, entries: u32) -> Result<Self, DatapathError> {
        let mut sets = Self {
            policies: Table::new(policies, "pol", entries),
            ranges: Table::new(ranges, "ranges", entries),
            classes: Table::new(classes, "cidr4", capacity::CIDR4),
            known: BTreeMap::new(),
        };
        sets.look().map_err(|(map, source)| DatapathError::Map { map, source })?;
        Ok(sets)
    }

    fn look(&mut self) -> Result<(), (&'static str, MapError)> {
        let Self { policies, ranges, classes, known } = self;
        let failed = |map| move |source| (map, source);
        let map: HashMap<&MapData, Raw<PolicyKey>, Raw<PolicyValue>> =
            policies.map().try_into().map_err(failed("pol"))?;
        for key in map.keys() {
            let Raw(key) = key.map_err(failed("pol"))?;
            of(known, key.set).policies.push(key);
        }
        let map: LpmTrie<&MapData, Raw<RangeKey>, Raw<PolicyValue>> =
            ranges.map().try_into().map_err(failed("ranges"))?;
        for key in map.keys() {
            let key = key.map_err(failed("ranges"))?;
            let (Raw(data), bits) = (key.data(), key.prefix_len());
            of(known, u32::from_be(data.set)).ranges.push(Prefix { bits, data });
        }
        let map: LpmTrie<&MapData, Raw<CidrKey4>, u32> = classes.map().try_into().map_err(failed("cidr4"))?;
        for key in map.keys() {
            let key = key.map_err(failed("cidr4"))?;
            let (Raw(data), bits) = (key.data(), key.prefix_len());
            of(known, u32::from_be(data.set)).classes.push(Prefix { bits, data });
        }
        Ok(())
    }

    /// The sets that have entries. A set without any rule has none, and needs none.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SetId> + '_ {
        self.known.keys().copied().map(SetId)
    }

    /// How full the three maps are.
    pub(crate) fn fill(&self) -> [(&'static str, Fill); 3] {
        let all = |count: fn(&Known) -> usize| self.known.values().map(count).sum();
        [
            self.policies.fill(all(|known| known.policies.len())),
            self.ranges.fill(all(|known| known.ranges.len())),
            self.classes.fill(all(|known| known.classes.len())),
        ]
    }

    /// [`weft_abi::flag`]s that a set gives its endpoints.
    pub(crate) fn flags(&self, id: SetId) -> u8 {
        self.known.get(&id.0).map_or(0, |known| known.flags)
    }

    /// Writes a set nothing refers to, whole or not at all. Returns how many entries it has.
    pub(crate) fn put(&mut self, id: SetId, set: &PolicySet, writes: &mut Writes) -> Result<usize, DatapathError> {
        let encoded = encode(id, set)?;
        self.remove(id, writes)?;
        let written = self.write(id, &encoded, writes);
        // Also what was not written, so that a failure is cleaned up.
        let known = Known {
            policies: encoded.policies.keys,
            ranges: encoded.ranges.keys,
            classes: encoded.classes.keys,
            flags: encoded.flags,
        };
        let count = known.len();
        self.known.insert(id.0, known);
        if let Err(error) = written {
            self.remove(id, writes)?;
            return Err(error);
        }
        Ok(count)
    }

    fn write(&mut self, id: SetId, encoded: &Encoded, writes: &mut Writes) -> Result<(), DatapathError> {
        let what = || format!("policy set {}", id.0);
        self.classes.write(&encoded.classes, writes, what)?;
        self.ranges.write(&encoded.ranges, writes, what)?;
        self.policies.write(&encoded.policies, writes, what)
    }

    /// Removes a set nothing refers to any more. Returns how many entries it had.
    pub(crate) fn remove(&mut self, id: SetId, writes: &mut Writes) -> Result<usize, DatapathError> {
        let Some(known) = self.known.get(&id.0) else { return Ok(0) };
        self.policies.remove(&known.policies, writes)?;
        self.ranges.remove(&known.ranges, writes)?;
        self.classes.remove(&known.classes, writes)?;
        let count = known.len();
        self.known.remove(&id.0);
        Ok(count)
    }
}

fn of(known: &mut BTreeMap<u32, Known>, set: u32) -> &mut Known {
    known.entry(set).or_insert_with(Known::found)
}
