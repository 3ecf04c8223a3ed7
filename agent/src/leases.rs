//! Keeps the host's lease: follows the store's view of hosts, lets `model::lease` decide, does the
//! conditional write it names, and tells the worker what came of it.

use crate::cache::{Cache, CachedLease, CachedPeer};
use crate::causes::chain;
use crate::config::Config;
use crate::directory::{Directory, HostName};
use crate::overlay::Overlay;
use crate::remembered::Remembered;
use crate::worker::{Command, Worker};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weft_api::flannel::LeaseValue;
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::lease::{self, Decision, Me, Seen, SeenLease, SeenRecord, State, Write};
use weft_model::net::{NetworkConfig, Subnet};
use weft_store::StoreError;
use weft_store::hosts::{Claim, Hold, HostStore, HostsFollower, HostsView};

/// How often a lease is kept alive.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How often the revision in force is reported while nobody waits for it.
const REPORT: Duration = Duration::from_secs(60);
/// How often the host's record is written anew.
const RECORD: Duration = Duration::from_secs(12 * 3600);
/// Pause after an error of the store.
const RETRY: Duration = Duration::from_millis(500);

/// The task's state.
pub struct LeaseKeeper<S> {
    store: S,
    config: Arc<Config>,
    me: HostName,
    instance: String,
    cache: Cache,
    worker: Worker,
    directory: watch::Receiver<Arc<Directory>>,
    state: State,
    hold: Option<Hold>,
    boot_id: String,
    /// The address we had earlier in this boot, if it is another one.
    former_ip: Option<Ipv4Addr>,
    started: Instant,
    kept_alive: Instant,
    /// When the host's record was written last by this run.
    recorded: Option<Instant>,
    reported: Option<(i64, Instant)>,
    cached: Option<CachedLease>,
    /// The lease as the disk has it.
    on_disk: Option<CachedLease>,
    /// Why the disk has an older one.
    disk_complaint: Option<String>,
    /// The last complaint about the store, said once.
    said: Option<String>,
    /// The last alarm about the lease, said once.
    alarm: Option<String>,
    /// Keys of the store that could not be read, said once.
    unreadable: BTreeMap<String, String>,
    /// Peers kept over a rewind of the store.
    remembered: Remembered,
}

impl<S: HostStore> LeaseKeeper<S> {
    /// A keeper that goes on where `cache` says the last run stopped. A lease under another address counts
    /// if it is of this boot: then the machine is the same, its address changed, and its workloads still run.
    pub fn new(
        store: S,
        config: Arc<Config>,
        me: HostName,
        cache: Cache,
        worker: Worker,
        directory: watch::Receiver<Arc<Directory>>,
        boot_id: String,
    ) -> Self {
        let cached = cache.lease().filter(|lease| lease.public_ip == me.public_ip || lease.boot_id == boot_id);
        let former_ip = cached.as_ref().map(|lease| lease.public_ip).filter(|former| *former != me.public_ip);
        let now = Instant::now();
        Self {
            store,
            config,
            me,
            instance: uuid::Uuid::new_v4().to_string(),
            worker,
            directory,
            state: cached.as_ref().map_or(State::None, |lease| State::Cached(lease.subnet)),
            hold: None,
            boot_id,
            former_ip,
            started: now,
            kept_alive: now,
            recorded: None,
            reported: None,
            on_disk: cached.clone(),
            disk_complaint: None,
            cached,
            cache,
            said: None,
            alarm: None,
            unreadable: BTreeMap::new(),
            remembered: Remembered::default(),
        }
    }

    /// Runs for the agent's life.
    pub async fn run(mut self) {
        self.publish_cached();
        loop {
            match self.session().await {
                Ok(()) => {}
                Err(StoreError::Rewound(what)) => self.rewound(&what),
                Err(error) => self.away(&error).await,
            }
        }
    }

    /// One connection's worth of following; ends with the error that broke it.
    async fn session(&mut self) -> Result<(), StoreError> {
        let overlay = self.overlay().await?;
        let mut follower = self.store.follow_hosts().await?;
        self.worker.send(Command::Store { connected: true, error: None });
        self.said = None;
        tracing::info!(state = %self.state, "following hosts in the store");
        loop {
            self.step(&overlay, follower.view()).await?;
            self.publish(&overlay, follower.view());
            self.keep_alive().await?;
            self.report(follower.wanted().map(|wanted| wanted.revision)).await?;
            let pause = self.pause();
            tokio::select! {
                changed = follower.changed() => changed?,
                () = tokio::time::sleep(pause) => {}
                changed = self.directory.changed() => {
                    if changed.is_err() { return Ok(()); }
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        match self.state {
            State::Settling { .. } => Duration::from_millis(50),
            State::None | State::Lost(_) => Duration::from_secs(1),
            State::Held(_) | State::Cached(_) => Duration::from_secs(10),
        }
    }

    async fn overlay(&mut self) -> Result<Overlay, StoreError> {
        loop {
            let stored = match &self.config.initial_network {
                Some(json) => Some(self.store.init_network(json).await?),
                None => self.store.network().await?,
            };
            if let Some(stored) = stored {
                self.worker.send(Command::Alarm { about: "network", text: None });
                return Ok(Overlay::new(&self.config, &stored));
            }
            let text = format!(
                "nobody has written the network's configuration at {}/config: give weftd --network, or put {{\"Network\":\"10.255.0.0/16\",\"Backend\":{{\"Type\":\"vxlan\"}}}} there",
                self.config.etcd_prefix
            );
            tracing::warn!("{text}");
            self.worker.send(Command::Alarm { about: "network", text: Some(text) });
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Decides until there is nothing to write.
    async fn step(&mut self, overlay: &Overlay, view: &HostsView) -> Result<(), StoreError> {
        let seen = seen(view);
        let me = Me {
            node: self.me.node.clone(),
            public_ip: self.me.public_ip,
            former_ip: self.former_ip,
            has_workloads: !self.directory.borrow().endpoints.is_empty(),
        };
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Decision { state, write, alarm } = lease::decide(&self.state, Some(&seen), &me, &overlay.network, now);
        if alarm != self.alarm {
            match &alarm {
                Some(text) => tracing::warn!(state = %self.state, "{text}"),
                None => tracing::info!(state = %self.state, "the alarm about the lease is over"),
            }
            self.alarm.clone_from(&alarm);
        }
        self.worker.send(Command::Alarm { about: "lease", text: alarm });
        let write = write.or_else(|| self.record_due(&state));
        let won = match &write {
            None => true,
            Some(write) => self.write(write, overlay, view).await?,
        };
        if won && state != self.state {
            tracing::info!(from = %self.state, to = %state, subnet = ?state.subnet().map(|s| s.to_string()), "lease");
            self.state = state;
        }
        if self.hold.is_none() {
            self.hold = self.state.subnet().and_then(|subnet| hold_in(view, subnet, self.me.public_ip));
        }
        if matches!(self.state, State::Held(_)) {
            self.forget_former_selves(view).await?;
        }
        Ok(())
    }

    /// Records under our address and another id are this host's, from before it lost its disk. Whoever
    /// waits for all hosts would wait for them.
    async fn forget_former_selves(&self, view: &HostsView) -> Result<(), StoreError> {
        let ours = |record: &&HostDocument| record.public_ip == self.me.public_ip && record.node != self.me.node;
        for record in view.records.values().filter(ours) {
            tracing::info!(node = %record.node, subnet = %record.subnet, "forgetting the record this host had under its former id");
            self.store.forget(&record.node).await?;
        }
        Ok(())
    }

    /// The record says when the host was seen last: others keep off its subnet while it is young. The
    /// lease's key is put again with it, unchanged.
    fn record_due(&self, state: &State) -> Option<Write> {
        let State::Held(subnet) = state else { return None };
        self.recorded.is_none_or(|at| at.elapsed() >= RECORD).then_some(Write::Adopt(*subnet))
    }

    /// Does a conditional write; whether it won.
    async fn write(&mut self, write: &Write, overlay: &Overlay, view: &HostsView) -> Result<bool, StoreError> {
        let value =
            |subnet: Subnet| LeaseValue { public_ip: self.me.public_ip, vni: overlay.vni, vtep_mac: subnet.vtep_mac() };
        let claim = match write {
            Write::Create(subnet) => self.store.create(*subnet, &value(*subnet), &self.record(*subnet)).await?,
            Write::Adopt(subnet) => {
                let Some(entry) = view.leases.get(subnet) else { return Ok(false) };
                self.store.rewrite(*subnet, entry.mod_revision, &value(*subnet), &self.record(*subnet)).await?
            }
            Write::Yield(subnet) => {
                let Some(hold) = hold_in(view, *subnet, self.me.public_ip) else { return Ok(true) };
                self.store.release(&self.me.node, *subnet, hold).await?
            }
        };
        match claim {
            Claim::Won(hold) => {
                self.hold = (!matches!(write, Write::Yield(_))).then_some(hold);
                self.kept_alive = Instant::now();
                self.recorded = self.hold.map(|_| self.kept_alive);
                // It hangs on the key's lease, which may be another one now.
                self.reported = None;
                Ok(true)
            }
            Claim::Lost => {
                tracing::info!(?write, "another host was faster: looking again");
                Ok(false)
            }
        }
    }

    fn record(&self, subnet: Subnet) -> HostDocument {
        HostDocument {
            node: self.me.node.clone(),
            hostname: self.me.hostname.clone(),
            public_ip: self.me.public_ip,
            subnet,
            instance: self.instance.clone(),
            last_seen: jiff::Timestamp::now().to_string(),
            gbp: true,
        }
    }

    async fn keep_alive(&mut self) -> Result<(), StoreError> {
        let Some(hold) = self.hold.filter(|_| self.kept_alive.elapsed() >= KEEP_ALIVE) else { return Ok(()) };
        if hold.lease_id == 0 {
            return Ok(());
        }
        match self.store.keep_alive(hold.lease_id).await? {
            Some(_) => self.kept_alive = Instant::now(),
            None => {
                tracing::warn!(
                    lease = hold.lease_id,
                    "the store's lease has run out: the next look claims the subnet again"
                );
                self.hold = None;
            }
        }
        Ok(())
    }

    /// Says which revision this host enforces: promptly while somebody waits for it, else now and then.
    async fn report(&mut self, wanted: Option<i64>) -> Result<(), StoreError> {
        let enforced = self.directory.borrow().enforced;
        let Some(hold) = self.hold.filter(|hold| hold.lease_id != 0 && self.state.serves()) else { return Ok(()) };
        let due = match self.reported {
            None => true,
            Some((revision, at)) => {
                enforced != revision && (wanted.is_some_and(|wanted| revision < wanted) || at.elapsed() >= REPORT)
            }
        };
        if !due {
            return Ok(());
        }
        let epoch = self.directory.borrow().epoch.clone();
        let document = EnforcedDocument { revision: enforced, at: jiff::Timestamp::now().to_string(), epoch };
        self.store.report_enforced(&self.me.node, hold.lease_id, &document).await?;
        self.reported = Some((enforced, Instant::now()));
        Ok(())
    }

    fn publish(&mut self, overlay: &Overlay, view: &HostsView) {
        let now = Instant::now();
        if let Some(cached) = self.cached.as_ref().filter(|cached| view.revision < cached.revision) {
            // Noticed at a start: this process has not seen the store before.
            self.remembered.recall(&cached.peers, now);
        }
        let own = self.state.subnet();
        let peers = self.remembered.merge(peers(view, own, self.me.public_ip), own, now);
        self.worker.send(Command::Alarm { about: "peers", text: self.remembered.alarm() });
        if view.unreadable != self.unreadable {
            for (key, complaint) in &view.unreadable {
                tracing::warn!(key, complaint, "skipping an unreadable key in the store");
            }
            self.unreadable.clone_from(&view.unreadable);
        }
        let cached = self.state.subnet().filter(|_| self.state.serves()).map(|subnet| CachedLease {
            subnet,
            public_ip: self.me.public_ip,
            network: overlay.network.network(),
            subnet_len: overlay.network.subnet_len(),
            vni: overlay.vni,
            port: overlay.port,
            peers: peers.clone(),
            // Written down with a change of something else, or by thousands: it moves all the time.
            revision: view.revision,
            boot_id: self.boot_id.clone(),
        });
        if cached.is_some() {
            self.cached = cached;
            self.keep_on_disk();
        }
        self.worker.send(Command::Lease { state: self.state.clone(), overlay: overlay.clone(), peers });
    }

    /// Writes the lease down if the disk has another one; tried again with every look at the store.
    fn keep_on_disk(&mut self) {
        let same = |disk: &CachedLease, lease: &CachedLease| {
            *disk == CachedLease { revision: disk.revision, ..lease.clone() }
                && lease.revision.abs_diff(disk.revision) < 1000
        };
        let stale = |lease: &&CachedLease| !self.on_disk.as_ref().is_some_and(|disk| same(disk, lease));
        let Some(lease) = self.cached.as_ref().filter(stale) else { return };
        let complaint = match self.cache.put_lease(lease) {
            Ok(()) => {
                self.on_disk = Some(lease.clone());
                None
            }
            Err(error) => Some(format!(
                "state_dir: cannot keep the lease on disk: a restart with the store away would use an older one: {error}"
            )),
        };
        if complaint != self.disk_complaint {
            match &complaint {
                Some(text) => tracing::error!("{text}; trying again"),
                None => tracing::info!("the lease is on disk again"),
            }
            self.worker.send(Command::Alarm { about: "state_dir lease", text: complaint.clone() });
            self.disk_complaint = complaint;
        }
    }

    /// What the cache knows, before the store has answered.
    fn publish_cached(&self) {
        let Some(cached) = &self.cached else { return };
        match NetworkConfig::new(cached.network, Some(cached.subnet_len), None, None) {
            Ok(network) => {
                tracing::info!(subnet = %cached.subnet, peers = cached.peers.len(), "going on with the lease kept on disk");
                let overlay = Overlay { network, vni: cached.vni, port: cached.port };
                let peers = cached.peers.clone();
                self.worker.send(Command::Lease { state: self.state.clone(), overlay, peers });
            }
            Err(error) => tracing::error!(%error, "the lease kept on disk cannot be used"),
        }
    }

    /// The store is younger than what we have seen of it. The subnet is claimed again like any that is
    /// missing; the peers stay, until they have claimed theirs.
    fn rewound(&mut self, what: &str) {
        tracing::error!(
            what,
            "the store was wiped or restored: claiming our subnet again, keeping all peers until they are back"
        );
        if let Some(cached) = &self.cached {
            self.remembered.recall(&cached.peers, Instant::now());
        }
        self.forget_store();
        self.store.accept_rewound();
    }

    /// What was written to the store may be gone.
    fn forget_store(&mut self) {
        self.hold = None;
        self.reported = None;
        self.recorded = None;
    }

    /// The store does not answer: go on with what there is.
    async fn away(&mut self, error: &StoreError) {
        let text = chain(error);
        if self.said.as_ref() != Some(&text) {
            tracing::warn!(error = %text, state = %self.state, "the store is away: going on with what is known, trying again");
            self.said = Some(text.clone());
        }
        self.worker.send(Command::Store { connected: false, error: Some(text) });
        let Some(network) = self
            .cached
            .as_ref()
            .and_then(|cached| NetworkConfig::new(cached.network, Some(cached.subnet_len), None, None).ok())
        else {
            tokio::time::sleep(RETRY).await;
            return;
        };
        let me = Me {
            node: self.me.node.clone(),
            public_ip: self.me.public_ip,
            former_ip: self.former_ip,
            has_workloads: true,
        };
        self.state = lease::decide(&self.state, None, &me, &network, 0).state;
        self.worker.send(Command::LeaseState(self.state.clone()));
        tokio::time::sleep(RETRY).await;
    }
}

fn hold_in(view: &HostsView, subnet: Subnet, public_ip: Ipv4Addr) -> Option<Hold> {
    let entry = view.leases.get(&subnet).filter(|entry| entry.value.public_ip == public_ip)?;
    Some(Hold { lease_id: entry.lease_id, mod_revision: entry.mod_revision })
}

fn seen(view: &HostsView) -> Seen {
    let now = jiff::Timestamp::now();
    let age = |record: &HostDocument| {
        let then: Option<jiff::Timestamp> = record.last_seen.parse().ok();
        then.map_or(0, |then| u64::try_from(now.as_second() - then.as_second()).unwrap_or(0))
    };
    Seen {
        leases: view
            .leases
            .iter()
            .map(|(subnet, entry)| SeenLease {
                subnet: *subnet,
                public_ip: entry.value.public_ip,
                vtep_mac: entry.value.vtep_mac,
            })
            .collect(),
        records: view
            .records
            .values()
            .map(|record| SeenRecord {
                node: record.node.clone(),
                subnet: record.subnet,
                public_ip: record.public_ip,
                age: age(record),
            })
            .collect(),
    }
}

/// The other hosts. A lease whose subnet and address stand in a weft record is a weft host's.
pub(crate) fn peers(view: &HostsView, own: Option<Subnet>, public_ip: Ipv4Addr) -> Vec<CachedPeer> {
    let records: BTreeMap<Subnet, &HostDocument> =
        view.records.values().map(|record| (record.subnet, record)).collect();
    let others =
        view.leases.iter().filter(|(subnet, entry)| Some(**subnet) != own && entry.value.public_ip != public_ip);
    others
        .map(|(subnet, entry)| {
            let record = records.get(subnet).filter(|record| record.public_ip == entry.value.public_ip);
            // A flanneld that took the subnet over brings its own hardware address: no tags to it.
            let gbp = record.is_some_and(|record| record.gbp) && entry.value.vtep_mac == subnet.vtep_mac();
            CachedPeer {
                subnet: *subnet,
                public_ip: entry.value.public_ip,
                vtep_mac: entry.value.vtep_mac,
                gbp,
                managed: record.is_some(),
                hostname: record.map(|record| record.hostname.clone()),
            }
        })
        .collect()
}
