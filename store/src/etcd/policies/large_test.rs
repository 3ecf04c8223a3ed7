//! Servers that die in the middle of a large change, against a real etcd. Dying is stopping after a
//! step: what the step wrote stands, and nothing of the server's memory counts any more.

use super::document::Stored;
use super::large::Preparation;
use super::plan::{Request, Writes};
use super::redo;
use crate::etcd::EtcdStore;
use crate::etcd::testing::{Etcd, PATIENCE};
use crate::policy::{PolicyFollower, PolicyStore, PolicyView};
use std::collections::BTreeSet;
use weft_api::stored::IntentDocument;
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};

const OP: &str = "test";

fn policy(source: usize, destination: usize) -> Policy {
    Policy {
        source: GroupId::new(format!("s{source}")).unwrap(),
        destination: GroupId::new(format!("d{destination}")).unwrap(),
        protocol: Protocol::Tcp,
        ports: PortRange::new(80, 80).unwrap(),
    }
}

fn many() -> BTreeSet<Policy> {
    (0..600).map(|n| policy(n, n % 50)).collect()
}

/// Everything before the commit point.
async fn prepare_and_stage(store: &EtcdStore) -> (Preparation, IntentDocument, Writes) {
    let preparation = store.prepare(OP).await.unwrap().expect("another intent stands");
    let snapshot = store.read_all(OP).await.unwrap();
    let plan = store.plan_with_tags(&snapshot, Request::Create, &many()).await.unwrap();
    let document = store.stage(OP, &preparation, &plan.writes).await.unwrap();
    (preparation, document, plan.writes)
}

async fn committed(store: &EtcdStore) -> (Stored<IntentDocument>, Writes) {
    let (preparation, document, writes) = prepare_and_stage(store).await;
    (store.commit(OP, &preparation, document).await.unwrap(), writes)
}

/// A store with one policy, a server that will die, and the others.
async fn setting() -> (Etcd, EtcdStore, EtcdStore, PolicyView) {
    let etcd = Etcd::start().await;
    let (dying, other) = (etcd.store("dying"), etcd.store("other"));
    dying.create(&[policy(9999, 9999)]).await.unwrap();
    let before = other.policies().await.unwrap();
    (etcd, dying, other, before)
}

async fn nothing_left(etcd: &Etcd) {
    let all = etcd_client::GetOptions::new().with_prefix();
    for folder in ["/weft/v1/policy/staged/", "/weft/v1/policy/intent"] {
        let left = etcd.raw().await.get(folder, Some(all.clone())).await.unwrap();
        assert!(left.kvs().is_empty(), "{folder} is left");
    }
}

fn whole() -> BTreeSet<Policy> {
    many().into_iter().chain([policy(9999, 9999)]).collect()
}

#[tokio::test]
async fn death_before_the_commit_point_leaves_nothing() {
    let (etcd, dying, other, before) = setting().await;
    let (preparation, document, _) = prepare_and_stage(&dying).await;
    // While it is being prepared a sweep leaves it alone, and nothing shows.
    other.sweep().await.unwrap();
    assert_eq!(other.policies().await.unwrap(), before);
    // Its etcd lease runs out (30 s; sooner here).
    let lease = etcd.raw().await.get("/weft/v1/policy/intent", None).await.unwrap().kvs()[0].lease();
    assert_ne!(lease, 0);
    etcd.raw().await.lease_revoke(lease).await.unwrap();
    other.sweep().await.unwrap();
    nothing_left(&etcd).await;
    assert_eq!(other.policies().await.unwrap(), before);
    // The dead comes back: its commit is refused, and so is another chunk.
    assert!(dying.commit(OP, &preparation, document).await.is_err());
    assert!(dying.stage(OP, &preparation, &Writes::from([("/x".to_owned(), None)])).await.is_err());
    nothing_left(&etcd).await;
    assert_eq!(other.policies().await.unwrap(), before);
}

#[tokio::test]
async fn death_after_the_commit_point_is_finished_by_another_servers_sweep() {
    let (etcd, dying, other, before) = setting().await;
    let mut follower = other.follow_policies(None).await.unwrap();
    let (intent, writes) = committed(&dying).await;
    let key = etcd.raw().await.get("/weft/v1/policy/intent", None).await.unwrap().kvs()[0].clone();
    assert_eq!(key.lease(), 0, "a committed intent must not run out");
    let batches = redo::batches(&writes);
    assert!(batches.len() > 2, "the test needs a change that can be half applied");
    assert!(dying.apply(OP, &intent, &batches[..2]).await.unwrap());

    // Half of it stands. Who lists sees all of it, who follows nothing yet.
    assert_eq!(other.policies().await.unwrap().policies, whole());
    let late = other.follow_policies(None).await.unwrap();
    assert_eq!(late.view().policies, whole());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), follower.changed()).await.is_err());
    assert_eq!(follower.view(), &before);

    other.sweep().await.unwrap();
    nothing_left(&etcd).await;
    let after = other.policies().await.unwrap();
    assert_eq!(after.policies, whole());
    assert_eq!(after.change, intent.document.change);
    for mut follower in [follower, late] {
        tokio::time::timeout(PATIENCE, follower.changed()).await.unwrap().unwrap();
        assert_eq!(follower.view(), &after);
    }
    // The dead goes on where it stopped: nothing happens any more.
    other.delete(&[policy(0, 0)]).await.unwrap();
    assert!(!dying.apply(OP, &intent, &batches[2..]).await.unwrap());
    dying.roll_forward(OP, &intent).await.unwrap();
    assert!(!other.policies().await.unwrap().policies.contains(&policy(0, 0)));
}

#[tokio::test]
async fn a_small_request_finishes_what_a_dead_server_committed() {
    let (etcd, dying, other, _) = setting().await;
    committed(&dying).await;
    let changed = tokio::time::timeout(PATIENCE, other.create(&[policy(1, 1)])).await.unwrap().unwrap();
    assert_eq!(changed.count, 0, "it was part of the large one");
    assert_eq!(other.policies().await.unwrap().policies, whole());
    nothing_left(&etcd).await;
}

#[tokio::test]
async fn two_that_finish_at_once_do_it_once() {
    let (etcd, dying, other, _) = setting().await;
    let (intent, _) = committed(&dying).await;
    let third = etcd.store("third");
    let all =
        tokio::join!(dying.roll_forward(OP, &intent), other.roll_forward(OP, &intent), third.roll_forward(OP, &intent));
    let revisions = BTreeSet::from([all.0.unwrap(), all.1.unwrap(), all.2.unwrap()]);
    assert_eq!(revisions.len(), 1, "{revisions:?}");
    let view = other.policies().await.unwrap();
    assert_eq!((Some(&view.revision), view.policies), (revisions.first(), whole()));
}

#[tokio::test]
async fn chunks_that_were_tampered_with_are_not_applied() {
    let (etcd, dying, other, before) = setting().await;
    let (intent, _) = committed(&dying).await;
    let key = format!("/weft/v1/policy/staged/{}/0000", intent.document.change);
    etcd.raw().await.put(key, "{\"key\":\"/weft/v1/epoch\"}\n", None).await.unwrap();
    let error = other.sweep().await.unwrap_err().to_string();
    assert!(error.starts_with("/weft/v1/policy/intent: chunks: "), "{error}");
    assert!(other.policies().await.is_err(), "half a change is no view");
    let raw = etcd.raw().await.get("/weft/v1/epoch", None).await.unwrap();
    assert_eq!(raw.kvs().len(), 1);
    assert!(!before.epoch.is_empty());
}

#[tokio::test]
async fn a_request_that_fails_in_preparation_blocks_nobody() {
    let (etcd, dying, other, _) = setting().await;
    etcd.raw().await.put("/weft/v1/policy/sources/s3", "{", None).await.unwrap();
    let many: Vec<_> = many().into_iter().collect();
    let error = dying.create(&many).await.unwrap_err().to_string();
    assert!(error.starts_with("/weft/v1/policy/sources/s3: "), "{error}");
    nothing_left(&etcd).await;
    assert_eq!(other.create(&[policy(1, 1)]).await.unwrap().count, 1);
}
