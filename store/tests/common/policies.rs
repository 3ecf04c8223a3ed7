//! Policies as the tests make them, and waiting for them.

use super::{Etcd, PATIENCE};
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};
use weft_store::StoreError;
use weft_store::policy::{PolicyFollower, PolicyView};

pub(crate) fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

pub(crate) fn policy(source: &str, destination: &str, port: u16) -> Policy {
    Policy {
        source: group(source),
        destination: group(destination),
        protocol: Protocol::Tcp,
        ports: PortRange::new(port, port).unwrap(),
    }
}

/// Follows until `done`, whatever temporary errors come in between.
pub(crate) async fn until<F: PolicyFollower>(follower: &mut F, done: impl Fn(&PolicyView) -> bool) {
    let wait = async {
        while !done(follower.view()) {
            match follower.changed().await {
                Ok(()) | Err(StoreError::Unreachable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never seen; the view is at {}", follower.view().revision);
}

pub(crate) async fn revision(etcd: &Etcd) -> i64 {
    etcd.raw().await.get("x", None).await.unwrap().header().unwrap().revision()
}
