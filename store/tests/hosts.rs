//! Leases and host records against a real etcd.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Etcd, PATIENCE};
use etcd_client::{GetOptions, PutOptions};
use std::net::Ipv4Addr;
use std::time::Duration;
use weft_api::flannel::LeaseValue;
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::NodeId;
use weft_model::net::Subnet;
use weft_store::hosts::{Claim, Hold, HostStore, HostsFollower, HostsView};
use weft_store::policy::PolicyStore;
use weft_store::{EtcdOptions, EtcdStore, StoreError};

const CONFIG: &str = r#"{"Network":"10.255.0.0/16","Backend":{"Type":"vxlan"}}"#;

fn subnet(third: u8) -> Subnet {
    let network: ipnetwork::Ipv4Network = format!("10.255.{third}.0/24").parse().unwrap();
    Subnet::try_from(network).unwrap()
}

fn value(third: u8, host: u8) -> LeaseValue {
    LeaseValue { public_ip: Ipv4Addr::new(192, 0, 2, host), vni: 1, vtep_mac: subnet(third).vtep_mac() }
}

fn record(node: &str, third: u8, host: u8) -> HostDocument {
    HostDocument {
        node: node.parse().unwrap(),
        hostname: format!("{node}.example"),
        public_ip: Ipv4Addr::new(192, 0, 2, host),
        subnet: subnet(third),
        instance: "1".to_owned(),
        last_seen: "2026-11-21T09:00:00Z".to_owned(),
        gbp: true,
    }
}

async fn claim(store: &EtcdStore, node: &str, third: u8, host: u8) -> Claim {
    HostStore::create(store, subnet(third), &value(third, host), &record(node, third, host)).await.unwrap()
}

async fn won(store: &EtcdStore, node: &str, third: u8, host: u8) -> Hold {
    match claim(store, node, third, host).await {
        Claim::Won(hold) => hold,
        Claim::Lost => panic!("lost {third}"),
    }
}

/// Follows until `done`, whatever temporary errors come in between.
async fn until<F: HostsFollower>(follower: &mut F, done: impl Fn(&HostsView) -> bool) {
    let wait = async {
        while !done(follower.view()) {
            match follower.changed().await {
                Ok(()) | Err(StoreError::Unreachable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never seen; the view is {:?}", follower.view());
}

#[tokio::test]
async fn the_network_is_written_once() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    assert_eq!(store.network().await.unwrap(), None);
    let written = store.init_network(CONFIG).await.unwrap();
    let refused = store.init_network(r#"{"Network":"10.0.0.0/16","Backend":{"Type":"udp"}}"#).await;
    assert!(refused.is_err(), "udp is not ours: {refused:?}");
    let other = r#"{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}"#;
    assert_eq!(store.init_network(other).await.unwrap(), written);
    assert_eq!(store.network().await.unwrap(), Some(written));
    etcd.raw().await.put("/coreos.com/network/config", "{", None).await.unwrap();
    let error = store.network().await.unwrap_err().to_string();
    assert!(error.starts_with("/coreos.com/network/config: "), "{error}");
}

#[tokio::test]
async fn of_two_hosts_that_claim_one_subnet_exactly_one_wins() {
    let etcd = Etcd::start().await;
    let (a, b) = (etcd.store("a"), etcd.store("b"));
    for third in 1..=20 {
        let (first, second) = tokio::join!(claim(&a, "a", third, 1), claim(&b, "b", third, 2));
        let winners = [first, second].iter().filter(|claim| matches!(claim, Claim::Won(_))).count();
        assert_eq!(winners, 1, "{first:?} {second:?}");
    }
    // Every loser has given its grant back, and nothing but canonical leases stands below subnets.
    let mut raw = etcd.raw().await;
    assert_eq!(raw.leases().await.unwrap().leases().len(), 20);
    let all = raw.get("/coreos.com/network/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(all.kvs().len(), 20);
    for kv in all.kvs() {
        let left = raw.lease_time_to_live(kv.lease(), None).await.unwrap();
        assert_eq!(left.granted_ttl(), 86_400);
        let value = LeaseValue::parse(kv.value()).unwrap();
        assert_eq!(value.to_json().as_bytes(), kv.value());
    }
    let view = a.hosts().await.unwrap();
    assert_eq!((view.leases.len(), view.unreadable.len()), (20, 0));
    assert!(view.leases.iter().all(|(_, lease)| lease.lease_id != 0));
}

#[tokio::test]
async fn rewriting_is_refused_after_somebody_elses_change() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    let hold = won(&store, "a", 1, 1).await;
    let again = store.rewrite(subnet(1), hold.mod_revision, &value(1, 1), &record("a", 1, 1)).await.unwrap();
    let Claim::Won(again) = again else { panic!("lost") };
    assert_eq!(again.lease_id, hold.lease_id, "the grant is kept");
    assert!(again.mod_revision > hold.mod_revision);
    let view = store.hosts().await.unwrap();
    assert_eq!(view.leases[&subnet(1)].mod_revision, again.mod_revision);

    let foreign = r#"{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"f2:1b:b9:d3:64:63"}}"#;
    etcd.raw().await.put("/coreos.com/network/subnets/10.255.1.0-24", foreign, None).await.unwrap();
    let late = store.rewrite(subnet(1), again.mod_revision, &value(1, 1), &record("a", 1, 1)).await.unwrap();
    assert_eq!(late, Claim::Lost);
    assert_eq!(store.release(&"a".parse().unwrap(), subnet(1), again).await.unwrap(), Claim::Lost);
    let view = store.hosts().await.unwrap();
    assert_eq!(view.leases[&subnet(1)].value.public_ip, Ipv4Addr::new(192, 0, 2, 9));

    // What stands there now is a reservation, without a lease; adopted, it stays one.
    let seen = view.leases[&subnet(1)].mod_revision;
    let adopted = store.rewrite(subnet(1), seen, &value(1, 9), &record("c", 1, 9)).await.unwrap();
    assert!(matches!(adopted, Claim::Won(Hold { lease_id: 0, .. })), "{adopted:?}");
}

#[tokio::test]
async fn a_lease_that_has_run_out_says_so() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    let hold = won(&store, "a", 1, 1).await;
    let left = store.keep_alive(hold.lease_id).await.unwrap();
    assert!(left.is_some_and(|left| (86_000..=86_400).contains(&left)), "{left:?}");
    let enforced = EnforcedDocument { revision: 7, at: "2026-11-21T09:00:00Z".to_owned(), epoch: String::new() };
    let node: NodeId = "a".parse().unwrap();
    store.report_enforced(&node, hold.lease_id, &enforced).await.unwrap();
    assert_eq!(store.enforced().await.unwrap().get(&node), Some(&enforced));
    etcd.raw().await.lease_revoke(hold.lease_id).await.unwrap();
    assert_eq!(store.keep_alive(hold.lease_id).await.unwrap(), None);
    let view = store.hosts().await.unwrap();
    assert!(view.leases.is_empty() && view.records.contains_key(&node), "the record outlives the lease: {view:?}");
    assert!(store.enforced().await.unwrap().is_empty(), "what a host enforces goes with its lease");
    assert!(store.report_enforced(&node, hold.lease_id, &enforced).await.is_err());
}

#[tokio::test]
async fn a_released_subnet_leaves_nothing_behind() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    let hold = won(&store, "a", 1, 1).await;
    assert!(matches!(store.release(&"a".parse().unwrap(), subnet(1), hold).await.unwrap(), Claim::Won(_)));
    let view = store.hosts().await.unwrap();
    assert!(view.leases.is_empty() && view.records.is_empty());
    assert!(etcd.raw().await.leases().await.unwrap().leases().is_empty());
}

#[tokio::test]
async fn followers_see_changes_through_restart_and_compaction() {
    let mut etcd = Etcd::start().await;
    let (a, b) = (etcd.store("a"), etcd.store("b"));
    let mut follower = etcd.hasty_store("follower").follow_hosts().await.unwrap();
    assert!(follower.view().leases.is_empty());
    let hold = won(&a, "a", 1, 1).await;
    until(&mut follower, |view| view.leases.len() == 1 && view.records.len() == 1).await;
    assert_eq!(follower.view(), &b.hosts().await.unwrap());

    // Killed and started again: the watch goes on where it broke.
    etcd.kill();
    let error = follower.changed().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert_eq!(follower.view().leases.len(), 1, "an unreachable store changes nothing");
    etcd.up().await;
    won(&a, "b", 2, 2).await;
    until(&mut follower, |view| view.leases.len() == 2 && view.records.len() == 2).await;

    // Compacted past what the follower knows while it was away: it lists again.
    etcd.kill();
    assert!(follower.changed().await.is_err());
    etcd.up().await;
    a.release(&"a".parse().unwrap(), subnet(1), hold).await.unwrap();
    won(&a, "c", 3, 3).await;
    let mut raw = etcd.raw().await;
    let revision = raw.get("x", None).await.unwrap().header().unwrap().revision();
    raw.compact(revision, None).await.unwrap();
    until(&mut follower, |view| view.leases.contains_key(&subnet(3)) && !view.leases.contains_key(&subnet(1))).await;
    won(&a, "d", 4, 4).await;
    until(&mut follower, |view| view.leases.contains_key(&subnet(4)) && view.records.len() == 3).await;
    assert_eq!(follower.view(), &b.hosts().await.unwrap());
}

#[tokio::test]
async fn unreadable_values_are_skipped_and_named() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    won(&store, "a", 1, 1).await;
    let mut follower = store.follow_hosts().await.unwrap();
    let mut raw = etcd.raw().await;
    let bad = [
        ("/coreos.com/network/subnets/leader", "x"),
        ("/coreos.com/network/subnets/10.255.7.0-24", r#"{"PublicIP":null}"#),
        ("/coreos.com/network/subnets/10.255.8.0-24", ""),
        ("/weft/v1/hosts/UPPER", "{}"),
        ("/weft/v1/hosts/n1", "{}"),
        ("/weft/v1/hosts/n2", &serde_json::to_string(&record("n3", 1, 1)).unwrap()),
    ];
    for (key, text) in &bad {
        raw.put(*key, *text, None).await.unwrap();
    }
    // Not ours at all, though its key begins alike.
    raw.put("/coreos.com/network/subnets-weft/x", "x", None).await.unwrap();
    until(&mut follower, |view| view.unreadable.len() == bad.len()).await;
    assert_eq!((follower.view().leases.len(), follower.view().records.len()), (1, 1));
    assert_eq!(store.hosts().await.unwrap().unreadable, follower.view().unreadable);
    assert!(follower.view().unreadable["/weft/v1/hosts/n2"].contains("n3"));
    for (key, _) in &bad {
        raw.delete(*key, None).await.unwrap();
    }
    until(&mut follower, |view| view.unreadable.is_empty()).await;

    // A dual-stack key and a plain one of one subnet: taking one away leaves the other.
    let text = value(9, 9).to_json();
    raw.put("/coreos.com/network/subnets/10.255.9.0-24", text.as_str(), None).await.unwrap();
    raw.put("/coreos.com/network/subnets/10.255.9.0-24&fd00::-64", text.as_str(), None).await.unwrap();
    until(&mut follower, |view| view.leases.contains_key(&subnet(9))).await;
    raw.delete("/coreos.com/network/subnets/10.255.9.0-24", None).await.unwrap();
    raw.put("/coreos.com/network/subnets/10.255.10.0-24", value(10, 10).to_json(), None).await.unwrap();
    until(&mut follower, |view| view.leases.contains_key(&subnet(10))).await;
    assert!(follower.view().leases.contains_key(&subnet(9)));
}

#[tokio::test]
async fn a_wiped_store_is_not_a_network_without_hosts() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.init_network(CONFIG).await.unwrap();
    won(&store, "a", 1, 1).await;
    let mut follower = store.follow_hosts().await.unwrap();
    let before = follower.view().clone();
    etcd.wipe().await;
    rewound(&mut follower, &before).await;
    let error = store.hosts().await.unwrap_err();
    assert!(matches!(error, StoreError::Rewound(_)), "{error}");
    // The host may claim its subnet again; the views wait for a person.
    won(&store, "a", 1, 1).await;
    rewound(&mut follower, &before).await;
    store.accept_rewound();
    assert_eq!(store.hosts().await.unwrap().leases.len(), 1);

    // Later than anything the follower saw, and still not what it knew.
    let mut raw = etcd.raw().await;
    for _ in 0..20 {
        raw.put("/elsewhere", "x", None).await.unwrap();
    }
    rewound(&mut follower, &before).await;
}

#[tokio::test]
async fn a_wipe_is_noticed_by_who_has_seen_no_host_yet() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.init_network(CONFIG).await.unwrap();
    let mut follower = store.follow_hosts().await.unwrap();
    let before = follower.view().clone();
    assert!(before.leases.is_empty() && before.revision > 1);
    etcd.wipe().await;
    rewound(&mut follower, &before).await;
}

#[tokio::test]
async fn a_restored_store_that_has_gone_on_is_recognised() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.init_network(CONFIG).await.unwrap();
    won(&store, "a", 1, 1).await;
    etcd.kill();
    let backup = etcd.backup();
    etcd.up().await;
    won(&store, "b", 2, 2).await;
    let mut follower = store.follow_hosts().await.unwrap();
    let before = follower.view().clone();
    etcd.restore(&backup).await;
    for third in 10..20 {
        won(&etcd.store("other"), "c", third, 3).await;
    }
    rewound(&mut follower, &before).await;
}

#[tokio::test]
async fn a_store_emptied_by_hand_is_not_a_network_without_hosts() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.init_network(CONFIG).await.unwrap();
    won(&store, "a", 1, 1).await;
    won(&store, "b", 2, 2).await;
    let mut follower = store.follow_hosts().await.unwrap();
    let before = follower.view().clone();
    let mut raw = etcd.raw().await;
    let all = etcd_client::DeleteOptions::new().with_all_keys();
    raw.delete("", Some(all)).await.unwrap();
    rewound(&mut follower, &before).await;
    // With a configuration it is a network, and one without hosts.
    store.init_network(CONFIG).await.unwrap();
    until(&mut follower, |view| view.leases.is_empty()).await;
}

/// The follower sees that the store is another one, again and again, and keeps its view.
async fn rewound(follower: &mut impl HostsFollower, before: &HostsView) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for _ in 0..2 {
        loop {
            match tokio::time::timeout_at(deadline, follower.changed()).await.expect("nothing noticed") {
                Err(StoreError::Rewound(_)) => break,
                Err(StoreError::Unreachable { .. }) => {}
                other => panic!("{other:?}; the view is {:?}", follower.view()),
            }
        }
        assert_eq!(follower.view(), before);
    }
}

#[tokio::test]
async fn a_wish_reaches_followers() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    let mut follower = store.follow_hosts().await.unwrap();
    assert!(follower.wanted().is_none());
    store.want(41).await.unwrap();
    tokio::time::timeout(PATIENCE, follower.changed()).await.unwrap().unwrap();
    assert_eq!(follower.wanted().unwrap().revision, 41);
    store.want(40).await.unwrap();
    store.want(42).await.unwrap();
    tokio::time::timeout(PATIENCE, follower.changed()).await.unwrap().unwrap();
    assert_eq!(follower.wanted().unwrap().revision, 42, "an older wish is part of a younger one");
}

#[tokio::test]
async fn a_silent_store_is_unreachable_within_the_time_limit_and_heals() {
    let mut etcd = Etcd::down();
    let store = EtcdStore::connect(store_options(&etcd)).unwrap();
    let limited = tokio::time::timeout(PATIENCE, store.hosts()).await.expect("no limit");
    assert!(matches!(limited, Err(StoreError::Unreachable { .. })), "{limited:?}");
    etcd.up().await;
    let patient = async { while store.hosts().await.is_err() {} };
    tokio::time::timeout(PATIENCE, patient).await.expect("it never came back");

    // A port where nobody answers (accepts, and is silent).
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let options = EtcdOptions { endpoints: vec![endpoint], ..store_options(&etcd) };
    let store = EtcdStore::connect(options).unwrap();
    let limited = tokio::time::timeout(PATIENCE, store.network()).await.expect("no limit");
    assert!(matches!(limited, Err(StoreError::Unreachable { .. })), "{limited:?}");
}

#[tokio::test]
async fn one_dead_member_of_two_does_not_fail_calls() {
    let etcd = Etcd::start().await;
    let dead = Etcd::down();
    let options = EtcdOptions { endpoints: vec![dead.endpoint(), etcd.endpoint()], ..etcd.options("a") };
    let store = EtcdStore::connect(options).unwrap();
    for third in 1..=10 {
        won(&store, "a", third, 1).await;
    }
    let mut follower = store.follow_hosts().await.unwrap();
    won(&store, "a", 11, 1).await;
    until(&mut follower, |view| view.leases.len() == 11).await;
}

/// Less than a tenth of what a call may take elsewhere.
fn store_options(etcd: &Etcd) -> EtcdOptions {
    EtcdOptions { timeout: Duration::from_millis(700), ..etcd.options("a") }
}

#[tokio::test]
async fn a_reservation_keeps_its_etcd_lease_none() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    assert_eq!(store.keep_alive(0).await.unwrap(), Some(86_400));
    let mut raw = etcd.raw().await;
    let lease = raw.lease_grant(60, None).await.unwrap().id();
    let text = value(5, 5).to_json();
    let key = "/coreos.com/network/subnets/10.255.5.0-24";
    raw.put(key, text, Some(PutOptions::new().with_lease(lease))).await.unwrap();
    let seen = store.hosts().await.unwrap().leases[&subnet(5)].clone();
    assert_eq!(seen.lease_id, lease);
    let Claim::Won(hold) = store.rewrite(subnet(5), seen.mod_revision, &value(5, 5), &record("e", 5, 5)).await.unwrap()
    else {
        panic!("lost")
    };
    assert_eq!(hold.lease_id, lease, "an adopted key stays on the lease it has");
}

#[test]
fn bad_options_are_named() {
    let complaint = |options: EtcdOptions| EtcdStore::connect(options).err().unwrap().to_string();
    let none = EtcdOptions::new(Vec::<String>::new(), "a");
    assert!(complaint(none).starts_with("endpoints: "));
    let tls = EtcdOptions::new(["https://x:1"], "a");
    assert_eq!(complaint(tls), "endpoints: invalid value \"https://x:1\": http://host:port");
    let inside = EtcdOptions { root: "/coreos.com/network/subnets-x".to_owned(), ..EtcdOptions::new(["x:1"], "a") };
    assert!(complaint(inside).contains("flanneld"));
}
