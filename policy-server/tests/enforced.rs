//! Waiting for hosts, with real leases in a real etcd.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::{Etcd, PATIENCE, Server, eventually, policy};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use weft_api::flannel::{LeaseValue, parse_subnet_key};
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::NodeId;
use weft_store::hosts::{Claim, Hold, HostStore};
use weft_store::{EtcdOptions, EtcdStore};

const V1: &str = "/networking/v1/external/policies";

struct Host {
    store: EtcdStore,
    node: NodeId,
    hold: Hold,
}

impl Host {
    /// A host that claims the subnet 10.255.`number`.0/24.
    async fn join(etcd: &Etcd, number: u8) -> Self {
        let options = EtcdOptions { timeout: PATIENCE, ..EtcdOptions::new([etcd.url()], "test") };
        let store = EtcdStore::connect(options).unwrap();
        let node = NodeId::new(format!("node-{number}")).unwrap();
        let subnet = parse_subnet_key(&format!("10.255.{number}.0-24")).unwrap();
        let public_ip = format!("192.0.2.{number}").parse().unwrap();
        let value = LeaseValue { public_ip, vni: 1, vtep_mac: subnet.vtep_mac() };
        let record = HostDocument {
            node: node.clone(),
            hostname: format!("cell-{number}"),
            public_ip,
            subnet,
            instance: "one".to_owned(),
            last_seen: "2026-01-01T00:00:00Z".to_owned(),
            gbp: true,
        };
        let Claim::Won(hold) = HostStore::create(&store, subnet, &value, &record).await.unwrap() else {
            panic!("subnet {number} is taken");
        };
        Self { store, node, hold }
    }

    async fn enforces(&self, revision: i64) {
        let document = EnforcedDocument { revision, at: "2026-01-01T00:00:00Z".to_owned(), epoch: String::new() };
        self.store.report_enforced(&self.node, self.hold.lease_id, &document).await.unwrap();
    }
}

fn wait(server: &Server, revision: i64, timeout: &str) -> Value {
    let answer = server.get(&format!("/weft/v1/enforced?revision={revision}&timeout={timeout}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_that_holds_a_lease_counts() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let revision = server.post(V1, &policy("app", "web", 1)).revision();
    assert_eq!(wait(&server, revision, "0s"), json!({"revision": revision, "enforced": true, "hosts": []}));

    let (one, two) = (Host::join(&etcd, 1).await, Host::join(&etcd, 2).await);
    one.enforces(revision).await;
    let started = Instant::now();
    let late = wait(&server, revision, "300ms");
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        late,
        json!({"revision": revision, "enforced": false, "hosts": [
            {"node": "node-1", "hostname": "cell-1", "revision": revision},
            {"node": "node-2", "hostname": "cell-2", "revision": 0}]}),
        "a host that has never said anything is not there yet"
    );

    let revision = server.post(V1, &policy("app", "web", 2)).revision();
    one.enforces(revision).await;
    let before = etcd.value("/weft/v1/wanted").unwrap();
    std::thread::scope(|scope| {
        // Answered after the last host and long before its own end: our patience with a request is shorter.
        let waiting = scope.spawn(|| wait(&server, revision, "10m"));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                eventually("a new want", || etcd.value("/weft/v1/wanted").filter(|wanted| *wanted != before));
                two.enforces(revision + 1).await;
            });
        });
        let report = waiting.join().unwrap();
        assert_eq!(report["enforced"], true, "{report}");
    });
    assert_eq!(wait(&server, revision + 1, "0s")["enforced"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_gone_is_not_waited_for() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let revision = server.post(V1, &policy("app", "web", 1)).revision();
    let (one, two) = (Host::join(&etcd, 1).await, Host::join(&etcd, 2).await);
    one.enforces(revision).await;
    two.enforces(revision - 1).await;
    assert_eq!(wait(&server, revision, "0s")["enforced"], false);
    // Its etcd lease ends, its record stays.
    etcd.ctl(&["lease", "revoke", &format!("{:x}", two.hold.lease_id)]);
    let report = wait(&server, revision, "10m");
    assert_eq!(report["enforced"], true, "{report}");
    assert_eq!(report["hosts"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_asked_must_make_sense() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    for (query, field) in [
        ("", "revision"),
        ("?revision=x", "revision \"x\""),
        ("?revision=-1", "revision \"-1\""),
        ("?revision=1&timeout=11m", "timeout"),
        ("?revision=1&timeout=5", "timeout"),
        ("?revision=%zz", "query"),
    ] {
        let answer = server.get(&format!("/weft/v1/enforced{query}"));
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.error().contains(field), "{answer:?}");
    }
}
