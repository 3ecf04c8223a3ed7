//! etcd with users and roles: an agent's role is enough for an agent, and for nothing else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Etcd, PATIENCE};
use etcd_client::{Client, Permission, PermissionType, RoleRevokePermissionOptions};
use weft_api::flannel::LeaseValue;
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::GroupId;
use weft_model::net::Subnet;
use weft_model::policy::{Policy, PortRange, Protocol};
use weft_store::hosts::{Claim, HostStore, HostsFollower};
use weft_store::policy::{PolicyFollower, PolicyStore};
use weft_store::{EtcdOptions, EtcdStore, StoreError};

const CONFIG: &str = r#"{"Network":"10.255.0.0/16","Backend":{"Type":"vxlan"}}"#;

fn policy() -> Policy {
    Policy {
        source: GroupId::new("a").unwrap(),
        destination: GroupId::new("b").unwrap(),
        protocol: Protocol::Tcp,
        ports: PortRange::new(80, 80).unwrap(),
    }
}

async fn role(raw: &mut Client, name: &str, permissions: &[(PermissionType, &str)]) {
    raw.role_add(name).await.unwrap();
    for (kind, prefix) in permissions {
        let permission = Permission::new(*kind, *prefix).with_prefix();
        raw.role_grant_permission(name, permission).await.unwrap();
    }
    raw.user_add(name, "secret", None).await.unwrap();
    raw.user_grant_role(name, name).await.unwrap();
}

async fn guarded() -> Etcd {
    let etcd = Etcd::start().await;
    let mut raw = etcd.raw().await;
    raw.user_add("root", "secret", None).await.unwrap();
    raw.role_add("root").await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    let agent = [
        (PermissionType::Read, "/coreos.com/network/"),
        (PermissionType::Readwrite, "/coreos.com/network/subnets/"),
        (PermissionType::Read, "/weft/v1/"),
        (PermissionType::Readwrite, "/weft/v1/hosts/"),
        (PermissionType::Readwrite, "/weft/v1/enforced/"),
    ];
    role(&mut raw, "agent", &agent).await;
    let server = [
        (PermissionType::Read, "/coreos.com/network/"),
        (PermissionType::Read, "/weft/v1/"),
        (PermissionType::Readwrite, "/weft/v1/policy/"),
        (PermissionType::Readwrite, "/weft/v1/epoch"),
        (PermissionType::Readwrite, "/weft/v1/wanted"),
    ];
    role(&mut raw, "server", &server).await;
    raw.auth_enable().await.unwrap();
    etcd
}

fn store(etcd: &Etcd, user: &str, password: &str) -> EtcdStore {
    let user = Some((user.to_owned(), password.to_owned()));
    EtcdStore::connect(EtcdOptions { user, ..etcd.options("test") }).unwrap()
}

fn denied<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotPermitted { .. })), "{result:?}");
}

#[tokio::test]
async fn roles_are_enough_and_no_more() {
    let etcd = guarded().await;
    denied(etcd.store("nobody").hosts().await);
    denied(store(&etcd, "agent", "wrong").hosts().await);
    let root = store(&etcd, "root", "secret");
    root.init_network(CONFIG).await.unwrap();

    let (agent, server) = (store(&etcd, "agent", "secret"), store(&etcd, "server", "secret"));
    assert!(agent.network().await.unwrap().is_some());
    let mut policies = agent.follow_policies(None).await.unwrap();
    let mut hosts = agent.follow_hosts().await.unwrap();
    let network: ipnetwork::Ipv4Network = "10.255.1.0/24".parse().unwrap();
    let subnet = Subnet::try_from(network).unwrap();
    let public_ip = "192.0.2.1".parse().unwrap();
    let value = LeaseValue { public_ip, vni: 1, vtep_mac: subnet.vtep_mac() };
    let record = HostDocument {
        node: "n1".parse().unwrap(),
        hostname: "n1".to_owned(),
        public_ip,
        subnet,
        instance: "1".to_owned(),
        last_seen: "2026-11-21T09:00:00Z".to_owned(),
        gbp: true,
    };
    let Claim::Won(hold) = HostStore::create(&agent, subnet, &value, &record).await.unwrap() else { panic!("lost") };
    assert!(agent.keep_alive(hold.lease_id).await.unwrap().is_some());
    // Lease and record are told by two watches, one after the other.
    let told = async {
        while hosts.view().leases.is_empty() {
            hosts.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(hosts.view().leases.len(), 1);

    let changed = PolicyStore::create(&server, &[policy()]).await.unwrap();
    tokio::time::timeout(PATIENCE, policies.changed()).await.unwrap().unwrap();
    assert_eq!(policies.view().revision, changed.revision);
    server.want(changed.revision).await.unwrap();
    let enforced =
        EnforcedDocument { revision: changed.revision, at: "2026-11-21T09:00:00Z".to_owned(), epoch: String::new() };
    agent.report_enforced(&record.node, hold.lease_id, &enforced).await.unwrap();
    assert_eq!(server.enforced().await.unwrap().len(), 1);
    assert_eq!(server.hosts_holding_leases().await.unwrap().len(), 1);
    server.sweep().await.unwrap();

    denied(PolicyStore::delete(&agent, &[policy()]).await);
    denied(PolicyStore::create(&agent, &[Policy { source: GroupId::new("c").unwrap(), ..policy() }]).await);
    denied(agent.want(9).await);
    denied(HostStore::create(&server, subnet, &value, &record).await);
    denied(server.release(&record.node, subnet, hold).await);
    assert!(matches!(agent.release(&record.node, subnet, hold).await.unwrap(), Claim::Won(_)));

    // Taken away while the follower runs: an error that says so, not silence, and not an empty view.
    let mut raw =
        Client::connect([etcd.endpoint()], Some(etcd_client::ConnectOptions::new().with_user("root", "secret")))
            .await
            .unwrap();
    let prefix = RoleRevokePermissionOptions::new().with_prefix();
    raw.role_revoke_permission("agent", "/weft/v1/", Some(prefix)).await.unwrap();
    denied(agent.policies().await);
    denied(agent.follow_policies(Some(policies.view().clone())).await.unwrap().changed().await);
}
