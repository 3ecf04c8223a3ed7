//! Peers kept over a rewind: a store that was wiped or restored does not mean that its hosts are gone.

use crate::cache::CachedPeer;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use weft_model::net::Subnet;

/// How long a peer is kept that does not claim its subnet again: the life of a lease.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The peers that were in use before the rewind and have not come back yet.
#[derive(Debug, Default)]
pub struct Remembered(BTreeMap<Subnet, (CachedPeer, Instant)>);

impl Remembered {
    /// Keeps `peers` although the store does not show them.
    pub fn recall(&mut self, peers: &[CachedPeer], now: Instant) {
        self.0.extend(peers.iter().map(|peer| (peer.subnet, (peer.clone(), now))));
    }

    /// What the store shows, and whoever is remembered and does not stand against it. Who came back is
    /// not remembered any more.
    pub fn merge(&mut self, mut shown: Vec<CachedPeer>, own: Option<Subnet>, now: Instant) -> Vec<CachedPeer> {
        self.0.retain(|subnet, (peer, since)| {
            let taken = |other: &Subnet| other.overlaps(*subnet);
            let back = shown.iter().any(|shown| taken(&shown.subnet) || shown.public_ip == peer.public_ip);
            !back && !own.as_ref().is_some_and(taken) && now.duration_since(*since) < KEPT
        });
        shown.extend(self.0.values().map(|(peer, _)| peer.clone()));
        shown.sort_by_key(|peer| peer.subnet);
        shown
    }

    /// What a person should know.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        let subnets: Vec<String> = self.0.keys().map(ToString::to_string).collect();
        (!subnets.is_empty()).then(|| {
            format!(
                "the store was wiped or restored to an older state: still using {} peer(s) that it does not show ({}), for a day at most",
                subnets.len(),
                subnets.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> CachedPeer {
        let network: ipnetwork::Ipv4Network = format!("10.255.{number}.0/24").parse().unwrap();
        let subnet = Subnet::try_from(network).unwrap();
        CachedPeer {
            subnet,
            public_ip: std::net::Ipv4Addr::new(192, 0, 2, number),
            vtep_mac: subnet.vtep_mac(),
            gbp: true,
            managed: true,
            hostname: None,
        }
    }

    #[test]
    fn peers_stay_until_they_are_back_or_their_subnet_is_taken_or_a_day_has_passed() {
        let (mut remembered, start) = (Remembered::default(), Instant::now());
        remembered.recall(&[peer(1), peer(2), peer(3)], start);
        assert_eq!(remembered.merge(vec![], None, start), [peer(1), peer(2), peer(3)]);
        let moved = CachedPeer { public_ip: peer(2).public_ip, ..peer(7) };
        let merged = remembered.merge(vec![peer(1), moved.clone()], None, start);
        assert_eq!(merged, [peer(1), peer(3), moved]);
        assert!(remembered.alarm().unwrap().contains("10.255.3.0/24"));
        assert_eq!(remembered.merge(vec![], None, start + KEPT), []);
        assert_eq!(remembered.alarm(), None);
    }
}
