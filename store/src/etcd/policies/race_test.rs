//! What happens between a look and the write that rests on it, against a real etcd.

use super::plan::Request;
use super::sweep::GroupChange;
use crate::etcd::testing::Etcd;
use crate::policy::PolicyStore;
use std::collections::BTreeSet;
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};

const OP: &str = "test";

fn policy(source: &str, destination: &str) -> Policy {
    Policy {
        source: GroupId::new(source).unwrap(),
        destination: GroupId::new(destination).unwrap(),
        protocol: Protocol::Tcp,
        ports: PortRange::new(80, 80).unwrap(),
    }
}

#[tokio::test]
async fn a_small_change_is_refused_once_a_large_one_has_begun() {
    let etcd = Etcd::start().await;
    let (small, large) = (etcd.store("small"), etcd.store("large"));
    small.create(&[policy("a", "b")]).await.unwrap();
    let asked = BTreeSet::from([policy("a", "c")]);
    let snapshot = small.read_all(OP).await.unwrap();
    let plan = small.plan_with_tags(&snapshot, Request::Create, &asked).await.unwrap();
    let preparation = large.prepare(OP).await.unwrap();
    assert!(preparation.is_some() && small.prepare(OP).await.unwrap().is_none());
    assert_eq!(small.commit_plan(OP, &snapshot, &plan).await.unwrap(), None);
    assert_eq!(small.policies().await.unwrap().policies.len(), 1);
}

#[tokio::test]
async fn a_change_planned_before_the_store_was_replaced_is_refused() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b")]).await.unwrap();
    let asked = BTreeSet::from([policy("c", "d")]);
    let snapshot = store.read_all(OP).await.unwrap();
    let plan = store.plan_with_tags(&snapshot, Request::Create, &asked).await.unwrap();
    etcd.wipe().await;
    assert_eq!(store.commit_plan(OP, &snapshot, &plan).await.unwrap(), None);
}

#[tokio::test]
async fn a_tag_is_not_taken_from_a_group_that_was_named_meanwhile() {
    let etcd = Etcd::start().await;
    let (server, sweeper) = (etcd.store("server"), etcd.store("sweeper"));
    server.create(&[policy("a", "b")]).await.unwrap();
    let tags = server.policies().await.unwrap().tags;
    server.delete(&[policy("a", "b")]).await.unwrap();

    // Planned on a live group: marked in between, it has to look again.
    let asked = BTreeSet::from([policy("a", "b")]);
    let before = server.read_all(OP).await.unwrap();
    let plan = server.plan_with_tags(&before, Request::Create, &asked).await.unwrap();
    assert!(sweeper.mark_releasing().await.unwrap());
    assert_eq!(server.commit_plan(OP, &before, &plan).await.unwrap(), None);

    // Revived after the sweeper's second look: the tags stay.
    let looked = sweeper.read_all(OP).await.unwrap();
    server.create(&[policy("a", "b")]).await.unwrap();
    let release = looked.groups.values().map(GroupChange::Release).collect();
    sweeper.change_groups(&looked, release, true).await.unwrap();
    assert_eq!(server.policies().await.unwrap().tags, tags);
}
