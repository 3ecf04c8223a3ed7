//! How much a workload may receive and send: CNI's capability `bandwidth`, and what holds it to that.
//!
//! As runtimes say it, ingress is towards the workload. Both directions are shaped by the kernel's token buckets
//! (`tbf`): what comes faster waits, which TCP gets along with better than with losses. A bucket stands where the
//! host sends: towards the workload on its veth; for what the workload sends there is no such place, so its
//! program hands what passes to an intermediate device (`ifb`) of its own, from which it comes back behind the programs.

use crate::id::{IfName, Slot};
use crate::mac::Mac;
use crate::op::{Op, Shaper};
use crate::workload::SLOT_IFINDEX_BASE;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// First interface index of shapers: slot *n*'s has `SHAPER_IFINDEX_BASE + n` (`weft-abi` has the same number for
/// the programs; `weft-datapath` asserts it).
pub const SHAPER_IFINDEX_BASE: u32 = 0x0200_0000;

/// The limits of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Of what it receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Limit>,
    /// Of what it sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Limit>,
}

impl Bandwidth {
    /// Whether there are none.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// A limit of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Bits a second.
    pub rate: u64,
    /// Bits that may pass at once after a rest.
    pub burst: u64,
}

/// Why two numbers are no limit; the words are the reference plugin's, where it has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A burst of 0.
    #[error("if rate is set, burst must also be set")]
    NoBurst,
    /// A rate of 0.
    #[error("if burst is set, rate must also be set")]
    NoRate,
    /// Less than a byte a second.
    #[error("rate must be 0 (none) or at least 8 bits a second")]
    Slow,
    /// More than the kernel counts.
    #[error("burst cannot be more than 4GB, which is {} bits", Limit::MOST_BURST)]
    LargeBurst,
}

impl Limit {
    /// The largest burst, bits.
    pub const MOST_BURST: u64 = (u32::MAX as u64) * 8;

    /// A limit; `None` where both are 0.
    ///
    /// # Errors
    /// [`LimitError`].
    pub const fn new(rate: u64, burst: u64) -> Result<Option<Self>, LimitError> {
        match (rate, burst) {
            (0, 0) => Ok(None),
            (_, 0) => Err(LimitError::NoBurst),
            (0, _) => Err(LimitError::NoRate),
            (1..8, _) => Err(LimitError::Slow),
            (_, burst) if burst > Self::MOST_BURST => Err(LimitError::LargeBurst),
            _ => Ok(Some(Self { rate, burst })),
        }
    }
}

/// A token bucket as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second.
    pub rate: u64,
    /// The burst, as the time in which the empty bucket fills: ticks of 64 ns.
    pub fill: u32,
    /// Bytes that may wait; what comes on top is lost.
    pub queue: u32,
}

/// Nanoseconds of a tick (`PSCHED_SHIFT` in the kernel's `net/pkt_sched.h`).
const TICK: u128 = 64;
const SECOND: u128 = 1_000_000_000;

impl TokenBucket {
    /// The bucket of a limit, on a device of that MTU. It holds two frames at least: the kernel drops what is
    /// larger than the bucket. What comes at once waits for up to 25 ms (the reference's latency), and two of the
    /// largest packets a workload may hand over always may.
    #[must_use]
    pub fn of(limit: Limit, mtu: u32) -> Self {
        const LARGEST: u64 = 65_536;
        let rate = (limit.rate / 8).max(1);
        let burst = (limit.burst / 8).max(2 * (u64::from(mtu) + 18));
        let fill = (u128::from(burst) * SECOND).div_ceil(u128::from(rate) * TICK);
        let queue = (rate / 40).max(2 * LARGEST);
        Self { rate, fill: u32::try_from(fill).unwrap_or(u32::MAX), queue: u32::try_from(queue).unwrap_or(u32::MAX) }
    }

    /// The limit it stands for: where a journal is lost, the kernel is all there is. The same bucket comes of it.
    #[must_use]
    pub fn limit(self) -> Limit {
        let burst = u128::from(self.fill) * TICK * u128::from(self.rate) / SECOND;
        Limit { rate: self.rate.saturating_mul(8), burst: u64::try_from(burst).unwrap_or(u64::MAX).saturating_mul(8) }
    }
}

impl fmt::Display for TokenBucket {
    /// In the words of `tc`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { rate, burst } = self.limit();
        write!(f, "tbf rate {rate}bit burst {}b limit {}b", burst / 8, self.queue)
    }
}

/// What a kernel must have for limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Means {
    /// Token buckets (`tbf`).
    pub buckets: bool,
    /// Intermediate devices (`ifb`).
    pub devices: bool,
}

impl Default for Means {
    fn default() -> Self {
        Self::ALL
    }
}

impl Means {
    /// A kernel that has all.
    pub const ALL: Self = Self { buckets: true, devices: true };

    /// What is missing and what follows, a line each.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        let any = Limit { rate: 8, burst: 8 };
        let directions =
            [Bandwidth { ingress: Some(any), egress: None }, Bandwidth { ingress: None, egress: Some(any) }];
        let mut lines: Vec<&'static str> = directions.iter().filter_map(|limits| self.missing_for(limits)).collect();
        lines.dedup();
        lines
    }

    /// What these limits would need; `None`: they can be held to.
    #[must_use]
    pub const fn missing_for(self, limits: &Bandwidth) -> Option<&'static str> {
        if !self.buckets && (limits.ingress.is_some() || limits.egress.is_some()) {
            return Some("no token buckets (module sch_tbf): no workload with a limit of its bandwidth starts");
        }
        if !self.devices && limits.egress.is_some() {
            return Some("no intermediate devices (module ifb): no workload with a limit of what it sends starts");
        }
        None
    }
}

/// The name of a slot's shaper.
#[must_use]
pub fn shaper_ifname(slot: Slot) -> IfName {
    #[expect(clippy::unwrap_used, reason = "nine letters and up to five digits are a valid name")]
    IfName::new(format!("weft-ifb{}", slot.0)).unwrap()
}

/// The shaper of a slot. Its hardware address is nobody's: hosts' ends have `aa:aa` and an address of the overlay.
#[must_use]
pub fn shaper(slot: Slot, mtu: u32) -> Shaper {
    let [high, low] = slot.0.to_be_bytes();
    let mac = Mac([0xaa, 0xaa, 0xff, 0xff, high, low]);
    Shaper { name: shaper_ifname(slot), index: SHAPER_IFINDEX_BASE + u32::from(slot.0), mac, mtu }
}

/// The slot whose shaper a link is, by name and index.
#[must_use]
pub fn shapers_slot(name: &IfName, index: u32) -> Option<Slot> {
    let slot = index.checked_sub(SHAPER_IFINDEX_BASE).and_then(|slot| u16::try_from(slot).ok()).map(Slot)?;
    (*name == shaper_ifname(slot)).then_some(slot)
}

/// What there is on the host for a workload's limits, as the kernel shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The bucket on its veth.
    pub veth: Option<TokenBucket>,
    /// Its shaper, if there is one: whether it is up, and its bucket.
    pub shaper: Option<(bool, Option<TokenBucket>)>,
    /// Whether something that is no shaper may have the shaper's name: whoever had the slot before may have left his.
    pub occupied: bool,
}

impl Seen {
    /// The limits that come of it.
    #[must_use]
    pub fn limits(&self) -> Bandwidth {
        let limit = |bucket: Option<TokenBucket>| bucket.map(TokenBucket::limit);
        Bandwidth { ingress: limit(self.veth), egress: limit(self.shaper.and_then(|(_, bucket)| bucket)) }
    }
}

/// The ops that hold a workload to its limits. Until they are done what it sends finds no device, and is dropped.
#[must_use]
pub fn plan_limits(veth: &IfName, slot: Slot, wanted: &Bandwidth, mtu: u32, seen: &Seen) -> Vec<Op> {
    let mut ops = Vec::new();
    if let Some(bucket) = wanted.ingress.map(|limit| TokenBucket::of(limit, mtu))
        && seen.veth != Some(bucket)
    {
        ops.push(Op::Shape(veth.clone(), bucket));
    }
    let Some(bucket) = wanted.egress.map(|limit| TokenBucket::of(limit, mtu)) else { return ops };
    let name = shaper_ifname(slot);
    let (up, shaped) = seen.shaper.unwrap_or_default();
    if seen.shaper.is_none() {
        ops.extend(seen.occupied.then(|| Op::DeleteLink(name.clone())));
        ops.push(Op::CreateShaper(shaper(slot, mtu)));
    }
    if shaped != Some(bucket) {
        ops.push(Op::Shape(name.clone(), bucket));
    }
    if !up {
        ops.push(Op::SetUp(name));
    }
    ops
}

/// Buckets by the index of the device they are on.
pub type Buckets = BTreeMap<u32, TokenBucket>;

/// Interface index of a slot's veth on the host.
#[must_use]
pub fn veths_slot(index: u32) -> Option<Slot> {
    index.checked_sub(SLOT_IFINDEX_BASE).and_then(|slot| u16::try_from(slot).ok()).map(Slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_are_checked_as_the_reference_does() {
        let words = |rate, burst| Limit::new(rate, burst).map_err(|error| error.to_string());
        assert_eq!(words(0, 0), Ok(None));
        assert_eq!(words(8, 1), Ok(Some(Limit { rate: 8, burst: 1 })));
        // What a kubelet writes.
        assert!(words(50_000_000, u64::from(u32::MAX)).unwrap().is_some());
        assert_eq!(words(7, 0).unwrap_err(), "if rate is set, burst must also be set");
        assert_eq!(words(0, 7).unwrap_err(), "if burst is set, rate must also be set");
        assert_eq!(words(7, 7).unwrap_err(), "rate must be 0 (none) or at least 8 bits a second");
        assert!(words(8, Limit::MOST_BURST).unwrap().is_some());
        assert_eq!(
            words(8, Limit::MOST_BURST + 1).unwrap_err(),
            "burst cannot be more than 4GB, which is 34359738360 bits"
        );
    }

    #[test]
    fn what_a_kernel_lacks_is_named_once_and_for_whom_it_matters() {
        let limit = Some(Limit { rate: 8, burst: 8 });
        let (receives, sends) =
            (Bandwidth { ingress: limit, egress: None }, Bandwidth { ingress: None, egress: limit });
        let (no_devices, nothing) = (Means { devices: false, ..Means::ALL }, Means { buckets: false, devices: false });
        assert_eq!(Means::ALL.missing(), Vec::<&str>::new());
        assert!(no_devices.missing_for(&sends).unwrap().contains("module ifb"));
        assert_eq!(no_devices.missing(), vec![no_devices.missing_for(&sends).unwrap()]);
        assert_eq!((no_devices.missing_for(&receives), nothing.missing_for(&Bandwidth::default())), (None, None));
        assert!(nothing.missing_for(&receives).unwrap().contains("module sch_tbf"));
        assert_eq!(nothing.missing().len(), 1);
    }

    #[test]
    fn a_bucket_holds_its_burst_and_two_frames_at_least() {
        let bucket = TokenBucket::of(Limit { rate: 8_000_000, burst: 800_000 }, 1450);
        assert_eq!(bucket, TokenBucket { rate: 1_000_000, fill: 100_000_000 / 64, queue: 131_072 });
        assert_eq!(bucket.to_string(), "tbf rate 8000000bit burst 100000b limit 131072b");
        let small = TokenBucket::of(Limit { rate: 8_000_000, burst: 8 }, 1450);
        assert!((2 * 1468 * 8..2 * 1469 * 8).contains(&small.limit().burst), "{small}");
        // A bucket that would take more than 274 s to fill is as large as the kernel can say.
        assert_eq!(TokenBucket::of(Limit { rate: 8, burst: 1 << 32 }, 1450).fill, u32::MAX);
        assert_eq!(TokenBucket::of(Limit { rate: u64::MAX, burst: 1 << 32 }, 1450).queue, u32::MAX);
    }

    proptest! {
        #[test]
        fn what_the_kernel_shows_makes_the_same_bucket(rate in 8..1_u64 << 50, burst in 1..=Limit::MOST_BURST) {
            let bucket = TokenBucket::of(Limit { rate, burst }, 1450);
            prop_assert_eq!(TokenBucket::of(bucket.limit(), 1450), bucket);
        }

        #[test]
        fn limits_are_reached_from_whatever_there_is(up: bool, there: bool, ingress: bool, egress: bool) {
            let limit = Limit { rate: 8_000_000, burst: 800_000 };
            let other = TokenBucket::of(Limit { rate: 9_000_000, ..limit }, 1450);
            let wanted = Bandwidth { ingress: ingress.then_some(limit), egress: egress.then_some(limit) };
            let mut seen = Seen { veth: up.then_some(other), shaper: there.then_some((up, Some(other))), occupied: !there };
            for op in plan_limits(&"weft0123456789a".parse().unwrap(), Slot(7), &wanted, 1450, &seen) {
                match op {
                    Op::Shape(name, bucket) if name.as_str() == "weft-ifb7" => {
                        seen.shaper.as_mut().expect("shaped before it is made").1 = Some(bucket);
                    }
                    Op::Shape(_, bucket) => seen.veth = Some(bucket),
                    Op::CreateShaper(_) => prop_assert_eq!(seen.shaper.replace((false, None)), None),
                    Op::DeleteLink(_) => prop_assert!(std::mem::take(&mut seen.occupied)),
                    Op::SetUp(_) => seen.shaper.as_mut().expect("raised before it is made").0 = true,
                    other => prop_assert!(false, "{}", other),
                }
            }
            prop_assert_eq!(plan_limits(&"weft0123456789a".parse().unwrap(), Slot(7), &wanted, 1450, &seen), vec![]);
            let same = |wanted: Option<Limit>, seen: Option<Limit>| wanted.is_none() || wanted == seen;
            prop_assert!(same(wanted.ingress, seen.limits().ingress) && same(wanted.egress, seen.limits().egress));
        }
    }
}
