//! A journal with any damage: restored to something valid, which restores to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_ipam::{Times, journal};
use weft_model::net::Subnet;

fuzz_target!(|data: &[u8]| {
    let network: ipnetwork::Ipv4Network = "10.255.30.0/24".parse().expect("a network");
    let subnet = Subnet::try_from(network).expect("a subnet");
    let restored = journal::restore(data, "boot", subnet, Times::default());
    let text = journal::snapshot(&restored.pool, "boot", 0);
    let again = journal::restore(text.as_bytes(), "boot", subnet, Times::default());
    assert_eq!(again.pool.entries(), restored.pool.entries());
});
