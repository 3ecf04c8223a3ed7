//! The laws of `plan`, on the real kernel.

use crate::support::{Host, assert_same, ifname, peer, peer_far, text};
use weft_model::op::Op;
use weft_model::overlay::plan;

fn complete() -> Host {
    let mut host = Host::new();
    host.add_workload(2);
    host.add_workload(3);
    host
}

#[test]
fn reach_one_pass_brings_everything_about_and_then_there_is_rest() {
    let mut host = complete();
    let ops = host.reconcile();
    assert!(ops.len() > 20, "{}", text(&ops));
    let before = host.portrait();
    assert_eq!(host.plan(), []);
    assert_same(&host.portrait(), &before, "after an empty plan");
}

#[test]
fn resume_a_plan_cut_anywhere_is_completed_by_the_next_pass() {
    let mut whole = complete();
    let plan_length = whole.reconcile().len();
    let wanted = whole.portrait();
    drop(whole);
    for cut in 0..plan_length {
        let mut host = complete();
        let ops = host.plan();
        assert_eq!(ops.len(), plan_length);
        host.executor.execute(&ops[..cut], None).unwrap();
        host.reconcile();
        assert_same(&host.portrait(), &wanted, &format!("cut after {cut} ops"));
    }
}

#[test]
fn resume_also_from_devices_that_must_be_made_anew() {
    let mut host = complete();
    host.reconcile();
    host.placement.vni = 7;
    host.placement.mtu = 1400;
    host.peers[1].public_ip = "192.0.2.77".parse().unwrap();
    host.peers.pop();
    host.peers.push(peer(13));
    let change = host.plan();
    assert!(change.len() > 10, "{}", text(&change));
    for cut in 1..=change.len() {
        let ops = host.plan();
        host.executor.execute(&ops[..1], None).unwrap();
        if host.plan().is_empty() {
            assert!(cut > 5, "there was more to do than {cut} ops");
            break;
        }
    }
    assert_eq!(text(&host.plan()), "");
    assert_eq!(host.space.link("weft-vx1")["linkinfo"]["info_data"]["id"], 7);
}

#[test]
fn ours_only_what_others_made_stays_as_it_is() {
    let mut host = complete();
    host.space.sh("ip link add docker0 type bridge");
    host.space.sh("ip addr add 172.17.0.1/16 dev docker0");
    host.space.sh("ip link set docker0 up");
    host.space.sh("ip route add 198.51.100.0/24 via 192.0.2.9");
    host.space.sh("ip route add 10.255.77.0/24 via 192.0.2.9 proto static");
    host.space.sh("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev under nud permanent");
    host.space.sh("nft add table ip other");
    host.space.sh("nft add chain ip other output { type filter hook output priority 0 ; }");
    host.space.sh("nft add rule ip other output udp dport 9 drop");
    host.space.sh("ip link add vxlan9 type vxlan id 9 dstport 4790 dev under");
    host.space.sh("bridge fdb add 02:00:00:00:00:0a dev vxlan9 dst 192.0.2.10");
    let foreign = |host: &Host| {
        [
            "ip -4 -o addr show dev docker0",
            "ip route show proto static",
            "ip route show proto boot",
            "ip neigh show dev under",
            "nft list table ip other",
            "bridge fdb show dev vxlan9",
        ]
        .map(|command| host.space.sh(command))
    };
    let before = foreign(&host);
    host.reconcile();
    assert_eq!(foreign(&host), before);
    // Leaving: nothing of ours is wanted but the devices.
    host.peers.clear();
    host.workloads.clear();
    host.reconcile();
    assert_eq!(foreign(&host), before);
    assert_eq!(host.space.sh("ip route show proto 119").lines().count(), 1, "our own subnet's is left");
}

#[test]
fn one_datagram_is_not_the_limit_of_a_plan() {
    let mut host = Host::new();
    host.peers = (1..=250).map(peer_far).collect();
    let ops = host.reconcile();
    assert!(ops.len() > 750, "{}", ops.len());
    let routes = host.space.json("ip -j route show proto 119");
    assert_eq!(routes.as_array().unwrap().len(), 251);
    // All at once away again.
    host.peers.clear();
    let ops = host.reconcile();
    assert_eq!(ops.iter().filter(|op| matches!(op, Op::DeleteRoute(_))).count(), 250);
}

#[test]
fn a_next_hop_is_replaced_before_the_old_one_goes() {
    let mut host = complete();
    host.reconcile();
    let old = host.peers[0].vtep_mac;
    host.peers[0].vtep_mac = weft_model::mac::Mac([2, 0, 0, 0, 0, 0x42]);
    let actual = host.snapshot();
    let ops = plan(&host.desired(), &actual);
    let position = |wanted: &Op| ops.iter().position(|op| op == wanted).unwrap_or_else(|| panic!("{}", text(&ops)));
    let link = ifname("weft-vx1");
    let peer = &host.peers[0];
    let neighbour = Op::ReplaceNeighbour(link.clone(), peer.subnet.vtep_ip(), peer.vtep_mac);
    let old_entry = Op::DeleteTunnelEntry { link, mac: old, to: peer.public_ip };
    assert!(position(&neighbour) < position(&old_entry));
    host.reconcile();
}
