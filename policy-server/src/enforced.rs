//! Waiting until every host enforces a revision.

use crate::app::App;
use crate::caller::Caller;
use crate::query::Query;
use crate::refusal::Refusal;
use axum::Json;
use axum::extract::{RawQuery, State};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::debug;
use weft_api::enforced::{EnforcedReport, HostEnforced, parse_wait};
use weft_api::stored::HostDocument;
use weft_model::id::NodeId;
use weft_store::StoreError;
use weft_store::hosts::{HostStore, HostsView};
use weft_store::policy::PolicyStore;

/// Hosts answer a want within 0.2 s; looking more often than this only loads the store.
const SLOWEST_LOOK: Duration = Duration::from_millis(250);
/// A want lapses; it is repeated while somebody waits. Which hosts there are is read as often.
const REPEAT: Duration = Duration::from_secs(2);

/// `GET /weft/v1/enforced?revision=N&timeout=10s`
pub(crate) async fn enforced<S: PolicyStore + HostStore>(
    State(app): State<App<S>>,
    _caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<EnforcedReport>, Refusal> {
    let (revision, timeout) = asked(query.as_deref()).map_err(Refusal::bad_request)?;
    let deadline = Instant::now() + timeout;
    wait(&*app.store, revision, deadline)
        .await
        .map(Json)
        .map_err(|error| app.store_failed("database read failed", &error))
}

fn asked(query: Option<&str>) -> Result<(i64, Duration), String> {
    let query = Query::parse(query)?;
    let revision = query.get("revision").unwrap_or_default();
    let number = revision.parse().ok().filter(|number: &i64| *number >= 0);
    let number = number.ok_or_else(|| format!("invalid revision {revision:?}: must be a whole number, 0 or more"))?;
    let timeout = parse_wait(query.get("timeout").unwrap_or("10s"));
    Ok((number, timeout.map_err(|error| format!("timeout: {error}"))?))
}

/// Looks until all hosts are there or the time is over. A store that fails for a moment is asked
/// again; only one that fails at the end makes an error.
async fn wait<S: PolicyStore + HostStore>(
    store: &S,
    revision: i64,
    deadline: Instant,
) -> Result<EnforcedReport, StoreError> {
    let mut survey = Survey::default();
    let mut pause = Duration::from_millis(20);
    loop {
        match survey.look(store, revision).await {
            Ok(report) if report.enforced => return Ok(report),
            outcome if Instant::now() >= deadline => return outcome,
            Ok(_) => {}
            Err(error) => debug!(%error, revision, "looking again for what hosts enforce"),
        }
        sleep_until(deadline.min(Instant::now() + pause)).await;
        pause = (pause * 2).min(SLOWEST_LOOK);
    }
}

/// Which weft hosts hold a lease, by id with their names; as of the last time that was read.
#[derive(Default)]
struct Survey {
    hosts: BTreeMap<NodeId, String>,
    stale_at: Option<Instant>,
}

impl Survey {
    async fn look<S: PolicyStore + HostStore>(
        &mut self,
        store: &S,
        revision: i64,
    ) -> Result<EnforcedReport, StoreError> {
        if self.stale_at.is_none_or(|at| Instant::now() >= at) {
            store.want(revision).await?;
            self.hosts = leaseholders(&store.hosts().await?);
            self.stale_at = Some(Instant::now() + REPEAT);
        }
        let said = store.enforced().await?;
        let said = said.into_iter().map(|(node, said)| (node, said.revision));
        Ok(report(revision, &self.hosts, &said.collect()))
    }
}

/// A host that joined and has not said anything yet judges packets too: it counts, as not there.
fn report(revision: i64, hosts: &BTreeMap<NodeId, String>, said: &BTreeMap<NodeId, i64>) -> EnforcedReport {
    let nodes: BTreeSet<_> = hosts.keys().chain(said.keys()).collect();
    let hosts: Vec<_> = nodes
        .into_iter()
        .map(|node| HostEnforced {
            node: node.clone(),
            hostname: hosts.get(node).cloned(),
            revision: said.get(node).copied().unwrap_or(0),
        })
        .collect();
    EnforcedReport { revision, enforced: hosts.iter().all(|host| host.revision >= revision), hosts }
}

/// Hosts whose record names a subnet that is leased to their address. A record alone only keeps the
/// subnet of a host that is gone; a lease alone is a flanneld's, which enforces nothing.
fn leaseholders(view: &HostsView) -> BTreeMap<NodeId, String> {
    let holds = |record: &&HostDocument| {
        let lease = view.leases.get(&record.subnet);
        lease.is_some_and(|lease| lease.value.public_ip == record.public_ip)
    };
    let records = view.records.values().filter(holds);
    records.map(|record| (record.node.clone(), record.hostname.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_never_spoke_is_a_laggard() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let hosts = BTreeMap::from([(node("a"), "cell-a".to_owned()), (node("b"), String::new())]);
        let mut said = BTreeMap::from([(node("a"), 7), (node("c"), 8)]);
        let seen = report(7, &hosts, &said);
        assert!(!seen.enforced);
        let laggards: Vec<_> = seen.laggards().map(|host| host.node.to_string()).collect();
        assert_eq!(laggards, ["b"]);
        said.insert(node("b"), 9);
        assert!(report(7, &hosts, &said).enforced);
        assert!(!report(8, &hosts, &said).enforced);
    }

    #[test]
    fn what_may_be_asked() {
        assert_eq!(asked(Some("revision=7&timeout=2s")), Ok((7, Duration::from_secs(2))));
        assert_eq!(asked(Some("revision=0")), Ok((0, Duration::from_secs(10))));
        for bad in ["", "revision=", "revision=-1", "revision=x", "revision=1&timeout=9"] {
            assert!(asked(Some(bad)).is_err(), "{bad}");
        }
    }
}
