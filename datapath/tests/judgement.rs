//! Who may reach a workload, and whom it may reach, packet by packet.

mod common;

use common::frame::*;
use common::*;
use weft_model::policy::{Direction, Protocol};

#[test]
fn policy_allows_a_tag_on_its_port_and_nothing_else() {
    let bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))]);
    let syn = |port| received(&tcp(REMOTE, OWN, (40000, port), SYN, b""));
    bench.expect("passed", PASS, |b| b.into(&syn(80), 7));
    bench.expect("policy", DROP, |b| b.into(&syn(81), 7));
    bench.expect("policy", DROP, |b| b.into(&syn(80), 8));
}
