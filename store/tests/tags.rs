//! Tags against a real etcd: who gets one, and when it is somebody else's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::Etcd;
use common::policies::{group, policy, revision, until};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::Tag;
use weft_store::hosts::{self, Claim, Hold};
use weft_store::policy::{PolicyFollower, PolicyStore};
use weft_store::{EtcdOptions, EtcdStore, StoreError};

/// A host with a lease, so that it counts when tags come free.
async fn host(store: &EtcdStore, name: &str, third: u8) -> Hold {
    let network: ipnetwork::Ipv4Network = format!("10.255.{third}.0/24").parse().unwrap();
    let subnet = network.try_into().unwrap();
    let public_ip = format!("192.0.2.{third}").parse().unwrap();
    let value =
        weft_api::flannel::LeaseValue { public_ip, vni: 1, vtep_mac: weft_model::net::Subnet::vtep_mac(subnet) };
    let record = HostDocument {
        node: name.parse().unwrap(),
        hostname: name.to_owned(),
        public_ip,
        subnet,
        instance: "1".to_owned(),
        last_seen: "2026-11-21T09:00:00Z".to_owned(),
        gbp: true,
    };
    match hosts::HostStore::create(store, subnet, &value, &record).await.unwrap() {
        Claim::Won(hold) => hold,
        Claim::Lost => panic!("lost"),
    }
}

async fn report(store: &EtcdStore, name: &str, hold: Hold, revision: i64) {
    let enforced = EnforcedDocument { revision, at: "2026-11-21T09:00:00Z".to_owned(), epoch: String::new() };
    let node = name.parse().unwrap();
    hosts::HostStore::report_enforced(store, &node, hold.lease_id, &enforced).await.unwrap();
}

async fn tag_state(etcd: &Etcd, tag: Tag) -> Option<String> {
    let key = format!("/weft/v1/policy/tags/{tag}");
    let answer = etcd.raw().await.get(key, None).await.unwrap();
    let document: Option<BTreeMap<String, serde_json::Value>> =
        answer.kvs().first().map(|kv| serde_json::from_slice(kv.value()).unwrap());
    document.map(|document| document["state"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_are_unique_under_eight_writers() {
    let etcd = Etcd::start().await;
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let store = etcd.store(&writer.to_string());
            tokio::spawn(async move {
                for n in 0..25 {
                    // A destination all share, one that only two share, and sources that nobody does.
                    let own = format!("w{writer}-{n}");
                    let pair = format!("p{}-{n}", writer / 2);
                    let request = [policy(&own, "everybody", 80), policy(&own, &pair, 80), policy("hot", &own, 80)];
                    store.create(&request).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let view = etcd.store("reader").policies().await.unwrap();
    assert_eq!(view.policies.len(), 600);
    assert_eq!(view.tags.len(), 2 + 200 + 100);
    let tags: BTreeSet<Tag> = view.tags.values().copied().collect();
    assert_eq!(tags.len(), view.tags.len(), "one tag was given out twice");
}

#[tokio::test]
async fn a_nearly_full_tag_space_is_used_up_to_the_last() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let used: BTreeSet<u16> = store.policies().await.unwrap().tags.values().map(|tag| tag.get()).collect();
    // All but three others, behind the store's back: its hint is stale.
    let free: BTreeSet<u16> = (1..=u16::MAX).filter(|tag| !used.contains(tag)).take(3).collect();
    let mut raw = etcd.raw().await;
    let fill: Vec<_> = (1..=u16::MAX).filter(|tag| !free.contains(tag) && !used.contains(tag)).collect();
    for part in fill.chunks(120) {
        let puts: Vec<_> = part
            .iter()
            .map(|tag| etcd_client::TxnOp::put(format!("/weft/v1/policy/tags/{tag:04X}"), "{}", None))
            .collect();
        raw.txn(etcd_client::Txn::new().and_then(puts)).await.unwrap();
    }
    store.create(&[policy("c", "d", 1)]).await.unwrap();
    store.create(&[policy("e", "a", 1)]).await.unwrap();
    let tags: BTreeSet<u16> = store.policies().await.unwrap().tags.values().map(|tag| tag.get()).collect();
    assert!(tags.is_superset(&free), "{tags:?}");
    let error = store.create(&[policy("f", "a", 1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoTagFree), "{error}");
    assert_eq!(store.policies().await.unwrap().policies.len(), 3, "nothing of a failed request stands");
}

#[tokio::test]
async fn a_tag_is_released_quarantined_and_used_again() {
    let etcd = Etcd::start().await;
    let options = EtcdOptions { quarantine: Duration::from_millis(300), ..etcd.options("a") };
    let store = EtcdStore::connect(options).unwrap();
    let patient = etcd.store("patient");
    let hold = host(&store, "n1", 1).await;
    let idle = host(&store, "n2", 2).await;
    assert_eq!(store.hosts_holding_leases().await.unwrap().len(), 2);

    store.create(&[policy("a", "b", 1), policy("c", "b", 1)]).await.unwrap();
    let tags = store.policies().await.unwrap().tags;
    let gone = tags[&group("a")];
    store.delete(&[policy("a", "b", 1)]).await.unwrap();
    let mut follower = store.follow_policies(None).await.unwrap();
    assert!(follower.view().tags.contains_key(&group("a")));
    store.sweep().await.unwrap();
    until(&mut follower, |view| !view.tags.contains_key(&group("a"))).await;
    assert_eq!(store.policies().await.unwrap().tags.len(), 2);
    assert_eq!(tag_state(&etcd, gone).await.as_deref(), Some("quarantined"));

    // Everybody has to enforce the release, and 300 ms have to pass.
    let released = follower.view().revision;
    report(&store, "n1", hold, released).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    store.sweep().await.unwrap();
    assert!(tag_state(&etcd, gone).await.is_some(), "n2 never said what it enforces");
    report(&store, "n2", idle, released - 1).await;
    store.sweep().await.unwrap();
    assert!(tag_state(&etcd, gone).await.is_some(), "n2 does not enforce it yet");
    report(&store, "n2", idle, released).await;
    patient.sweep().await.unwrap();
    assert!(tag_state(&etcd, gone).await.is_some(), "ten minutes are not over");
    store.sweep().await.unwrap();
    assert_eq!(tag_state(&etcd, gone).await, None);
    assert_eq!(tag_state(&etcd, tags[&group("b")]).await.as_deref(), Some("live"));

    // A host that has gone does not hold tags up.
    store.delete(&[policy("c", "b", 1)]).await.unwrap();
    store.sweep().await.unwrap();
    etcd.raw().await.lease_revoke(idle.lease_id).await.unwrap();
    let later = revision(&etcd).await;
    report(&store, "n1", hold, later).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    store.sweep().await.unwrap();
    assert_eq!(tag_state(&etcd, tags[&group("b")]).await, None);
    assert!(store.policies().await.unwrap().tags.is_empty());
}

#[tokio::test]
async fn a_group_that_is_named_again_keeps_its_tag() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let tags = store.policies().await.unwrap().tags;
    store.delete(&[policy("a", "b", 1)]).await.unwrap();
    // A sweep that got no further than marking.
    for name in ["a", "b"] {
        let document = format!(r#"{{"group":"{name}","tag":"{}","state":"releasing"}}"#, tags[&group(name)]);
        etcd.raw().await.put(format!("/weft/v1/policy/groups/{name}"), document, None).await.unwrap();
    }
    store.create(&[policy("a", "c", 1)]).await.unwrap();
    store.sweep().await.unwrap();
    let view = store.policies().await.unwrap();
    assert_eq!(view.tags.get(&group("a")), tags.get(&group("a")));
    assert!(view.tags.contains_key(&group("c")) && !view.tags.contains_key(&group("b")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeping_beside_writers_never_loses_a_tag_in_use() {
    let etcd = Etcd::start().await;
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let store = etcd.store("writer");
            tokio::spawn(async move {
                for n in 0..60 {
                    let policies = [policy(&format!("g{}", (n + writer) % 4), &format!("g{}", n % 3), 80)];
                    store.create(&policies).await.unwrap();
                    if n % 2 == 0 {
                        store.delete(&policies).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let sweeper = etcd.store("sweeper");
    while writers.iter().any(|writer| !writer.is_finished()) {
        sweeper.sweep().await.unwrap();
        let view = sweeper.policies().await.unwrap();
        for policy in &view.policies {
            assert!(
                view.tags.contains_key(&policy.source) && view.tags.contains_key(&policy.destination),
                "{policy:?}"
            );
        }
        let distinct: BTreeSet<_> = view.tags.values().collect();
        assert_eq!(distinct.len(), view.tags.len());
    }
    for writer in writers {
        writer.await.unwrap();
    }
}
