//! The one owner of the host's state: a thread that takes messages one at a time.
//!
//! Netlink, maps and files are blocking and have one writer; everything else of the agent is tasks
//! that send messages here. After messages, and on a timer, it brings the host's network
//! (`network`), the kernel programs (`programs`) and the workloads' book-keeping (`collect`) to what
//! they should be.

mod capabilities;
mod check;
mod collect;
mod command;
mod complaints;
mod explain;
mod gc;
mod journal;
mod limits;
mod logging;
mod network;
mod others;
pub(crate) mod placement;
mod programs;
mod remove;
mod report;
mod workloads;

pub use command::{Command, Reply, Worker};

use crate::cache::CachedPeer;
use crate::config::Config;
use crate::denials::Counts;
use crate::directory::{Directory, HostName};
use crate::in_force::Known;
use crate::overlay::Overlay;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use weft_api::agent::KernelView;
use weft_api::agent::{ApiError, ErrorCode, Ready, StoreStatus, SyncStatus};
use weft_api::logging::{Logging, LoggingChange};
use weft_datapath::{Datapath, DenialReader};
use weft_hostnet::Executor;
use weft_ipam::Pool;
use weft_model::bandwidth::Means;
use weft_model::compile::Policies;
use weft_model::datapath::Surroundings;
use weft_model::endpoints::Programmed;
use weft_model::id::{Attachment, GroupId};
use weft_model::lease;
use weft_model::overlay::Placement;
use weft_model::policy::PolicySet;
use weft_store::policy::PolicyView;

/// Kernel notifications within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often connections that ended unseen are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How often everything is looked at without any reason.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often notes of the plugin are looked for.
const NOTES: Duration = Duration::from_secs(1);
/// Pause after a failed pass.
const RETRY: Duration = Duration::from_secs(1);
/// Kernel notifications within this time are one while passes fail: what a failing pass does is notified too.
const DEBOUNCE_FAILING: Duration = Duration::from_millis(500);
/// Kernel notifications within this time are one while workloads come and go: nearly all of them are of our
/// own doing, and a pass over a hundred workloads keeps the next ADD waiting.
const DEBOUNCE_BUSY: Duration = Duration::from_millis(400);
/// How long after an ADD or DEL that is.
const BUSY: Duration = Duration::from_millis(100);
/// How long an agent that has just started lets ADDs wait that it cannot serve yet. Who started it anew has kept
/// lease and policies, and is ready within a fraction of it.
const STARTING: Duration = Duration::from_secs(5);
/// Messages taken between two looks at what is due.
const BATCH: usize = 64;

fn internal(message: impl Into<String>) -> ApiError {
    ApiError { code: ErrorCode::Internal, message: message.into(), details: None }
}

fn try_again(message: impl Into<String>) -> ApiError {
    ApiError { code: ErrorCode::TryAgain, message: message.into(), details: None }
}

/// What the worker tells the rest of the agent.
pub struct Outlets {
    /// Who is who.
    pub directory: watch::Sender<Arc<Directory>>,
    /// The ring buffer's reader, once programs are loaded.
    pub denials: mpsc::SyncSender<DenialReader>,
    /// What is logged.
    pub logging: watch::Sender<Arc<Logging>>,
    /// What became of records.
    pub counts: Arc<Counts>,
}

/// Starts the worker's thread.
///
/// # Errors
/// The thread, or its netlink socket, cannot be made.
pub fn spawn(
    config: Arc<Config>,
    me: HostName,
    outlets: Outlets,
) -> anyhow::Result<(Worker, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = mpsc::channel();
    let remover = remove::spawn(Worker(sender.clone()))?;
    let core = Core::new(config, me, outlets, remover)?;
    let thread = std::thread::Builder::new().name("worker".to_owned()).spawn(move || core.run(&receiver))?;
    Ok((Worker(sender), thread))
}

/// All of the host's state.
struct Core {
    config: Arc<Config>,
    me: HostName,
    outlets: Outlets,
    /// Where links go to be removed.
    remover: Sender<remove::Removal>,
    /// What is logged now.
    logging: Logging,
    /// As configured, and what was changed since.
    configured: Logging,
    changed: LoggingChange,
    kernel: Executor,
    datapath: Option<Datapath>,
    /// Whether flows between workloads go past the host's stack.
    fast_path: bool,
    kernel_features: KernelView,
    /// What the kernel has for limits of bandwidth; `None`: not tried yet.
    means: Option<Means>,
    programmed: Programmed,
    /// The overlay and this host's place in it; `None` until there is a lease or a kept one.
    placement: Option<Placement>,
    overlay: Option<Overlay>,
    lease: lease::State,
    peers: Vec<CachedPeer>,
    refused_peers: Vec<String>,
    pool: Option<Pool>,
    journal: journal::Journal,
    policies: Option<Arc<Known>>,
    /// Whom the programs know besides this host's workloads.
    around: Arc<Surroundings>,
    /// Policy sets of the groups that run here, made from `policies`.
    sets: BTreeMap<Option<GroupId>, PolicySet>,
    /// Groups whose policies do not fit into the maps.
    unfit: programs::Unfit,
    /// Workloads whose veth bears our programs: only these are raised.
    guarded: BTreeSet<Attachment>,
    enforced: i64,
    store: StoreStatus,
    alarms: BTreeMap<&'static str, String>,
    complaints: complaints::Complaints,
    /// Ops of the last pass over the network, if it failed: said once.
    stuck: Vec<String>,
    /// The network was as it should be since the host has its place. What is wrong with one peer or one
    /// port later is no reason to refuse the next workload: what an ADD needs fails in the ADD.
    built: bool,
    /// Workloads that had lost their link without a DEL, since the start.
    collected: u64,
    /// When what others do was looked at last.
    others_seen: Option<Instant>,
    /// Pinned links of programs at the last pass.
    pinned: usize,
    network: SyncStatus,
    programs: SyncStatus,
    due: Due,
    /// The last ADD or DEL.
    busy: Option<Instant>,
    started: Instant,
    /// ADDs that came before the agent was ready.
    early: Vec<Command>,
}

/// When to look at what.
struct Due {
    reconcile: Instant,
    notes: Instant,
    sweep: Instant,
}

impl Due {
    /// Asks for a pass within `after`.
    fn within(&mut self, after: Duration) {
        self.reconcile = self.reconcile.min(Instant::now() + after);
    }
}

impl Core {
    fn new(
        config: Arc<Config>,
        me: HostName,
        outlets: Outlets,
        remover: Sender<remove::Removal>,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        let (configured, changed) = (config.logging.clone(), logging::kept(&config));
        let logging = configured.with(&changed);
        outlets.logging.send_replace(Arc::new(logging.clone()));
        Ok(Self {
            logging,
            configured,
            changed,
            journal: journal::Journal::new(&config.run_dir)?,
            kernel: Executor::here()?,
            fast_path: config.fast_path,
            config,
            me,
            outlets,
            remover,
            datapath: None,
            kernel_features: KernelView::default(),
            means: None,
            programmed: Programmed::default(),
            placement: None,
            overlay: None,
            lease: lease::State::None,
            peers: Vec::new(),
            refused_peers: Vec::new(),
            pool: None,
            policies: None,
            around: Arc::default(),
            sets: BTreeMap::new(),
            unfit: programs::Unfit::default(),
            guarded: BTreeSet::new(),
            enforced: 0,
            store: StoreStatus { connected: false, error: None },
            alarms: BTreeMap::new(),
            complaints: complaints::Complaints::default(),
            stuck: Vec::new(),
            built: false,
            collected: 0,
            others_seen: None,
            pinned: 0,
            network: SyncStatus::default(),
            programs: SyncStatus::default(),
            due: Due { reconcile: now, notes: now, sweep: now + SWEEP },
            busy: None,
            started: now,
            early: Vec::new(),
        })
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.recv_timeout(self.next_due().saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                // Questions must not wait for a pass each: a pass may be slow when something is wrong.
                Ok(first) => {
                    for command in std::iter::once(first).chain(commands.try_iter()).take(BATCH) {
                        if matches!(command, Command::Stop) {
                            return;
                        }
                        self.handle(command);
                    }
                }
            }
            self.passes();
            self.serve_early();
        }
    }

    fn next_due(&self) -> Instant {
        let due = self.due.reconcile.min(self.due.notes).min(self.due.sweep);
        if self.early.is_empty() { due } else { due.min(self.started + STARTING) }
    }

    /// Whether it is too early to say that an ADD cannot be served.
    fn too_early(&mut self) -> bool {
        self.started.elapsed() < STARTING && self.serving().is_err()
    }

    fn serve_early(&mut self) {
        if !self.early.is_empty() && !self.too_early() {
            std::mem::take(&mut self.early)
                .into_iter()
                .filter(Command::is_awaited)
                .for_each(|command| self.handle(command));
        }
    }

    fn handle(&mut self, command: Command) {
        if matches!(command, Command::Reserve(..) | Command::Commit(..)) && self.too_early() {
            self.early.push(command);
            return;
        }
        if matches!(command, Command::Reserve(..) | Command::Commit(..) | Command::Remove(..) | Command::Removed(_)) {
            self.busy = Some(Instant::now());
        }
        match command {
            Command::Reserve(request, reply) => answer(reply, self.reserve(*request)),
            Command::Commit(request, reply) => answer(reply, self.commit(&request)),
            Command::Release(request, reply) => answer(reply, self.release(&request)),
            Command::Remove(request, reply) => self.remove(request, reply),
            Command::Removed(removed) => self.removed(removed),
            Command::Check(request, reply) => answer(reply, self.check(&request)),
            Command::Gc(request, reply) => answer(reply, self.gc(&request)),
            Command::Ready(reply) => self.answer_ready(reply),
            Command::Status(reply) => answer(reply, Ok(self.status())),
            Command::Endpoints(reply) => answer(reply, Ok(self.endpoints())),
            Command::Explain(query, reply) => answer(reply, self.explain(&query)),
            Command::Lease { state, overlay, peers } => self.take_lease(state, overlay, peers),
            Command::LeaseState(state) => self.lease = state,
            Command::Policies(view) => self.take_policies(view),
            Command::Store { connected, error } => self.store = StoreStatus { connected, error },
            Command::Alarm { about, text } => self.alarm(about, text),
            Command::Logging(reply) => answer(reply, Ok(self.logging_view())),
            Command::ChangeLogging(change, reply) => answer(reply, self.change_logging(change)),
            Command::ResetLogging(reply) => answer(reply, self.reset_logging()),
            Command::Reconfigure { logging, fast_path } => {
                self.reconfigure_logging(logging);
                self.reconfigure_path(fast_path);
            }
            Command::KernelChanged => {
                let failing = !(self.network.in_sync && self.programs.in_sync);
                let busy = self.busy.is_some_and(|last| last.elapsed() < BUSY);
                self.due.within(match (failing, busy) {
                    (true, _) => DEBOUNCE_FAILING,
                    (_, true) => DEBOUNCE_BUSY,
                    _ => DEBOUNCE,
                });
            }
            Command::Stop => {}
        }
    }

    /// Runtimes ask all the time: a refusal is said once, not with every question.
    fn answer_ready(&mut self, reply: oneshot::Sender<Reply<Ready>>) {
        let ready = self.ready();
        match &ready {
            Err(error) if self.complaints.raise("ready", &error.message) => {
                tracing::warn!(code = ?error.code, details = error.details, "not ready: {}", error.message);
            }
            Ok(_) if self.complaints.end("ready") => tracing::info!("ready"),
            _ => {}
        }
        drop(reply.send(ready));
    }

    /// Whatever is due.
    fn passes(&mut self) {
        let now = Instant::now();
        if self.due.notes <= now {
            self.due.notes = now + NOTES;
            self.take_notes();
            self.look_at_pins();
        }
        if self.due.reconcile <= now {
            self.due.reconcile = now + INTERVAL;
            self.reconcile();
        }
        if self.due.sweep <= now {
            self.due.sweep = now + SWEEP;
            self.sweep_connections();
        }
    }

    /// Connections that nobody closed keep nothing from their workload's share.
    fn sweep_connections(&mut self) {
        let Some(datapath) = &mut self.datapath else { return };
        match datapath.sweep_connections() {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "connections that ended unseen"),
            Err(error) => tracing::warn!(%error, "connections that ended unseen stay: trying again in a minute"),
        }
    }

    /// Brings everything to what it should be: programs and policy before links, links before
    /// book-keeping.
    fn reconcile(&mut self) {
        if !self.place() {
            return;
        }
        self.reconcile_programs();
        self.reconcile_network();
        self.attach_overlay();
        self.look_at_others();
        self.collect();
        let journal = self.pool.as_ref().and_then(|pool| self.journal.mend(pool));
        self.alarm("journal", journal);
        self.publish();
        if self.network.in_sync && self.complaints.end("network") {
            tracing::info!("the host's network is as it should be again");
        }
        if self.programs.in_sync && self.complaints.end("programs") {
            tracing::info!("the kernel programs are as they should be again");
        }
    }

    /// A new revision: at once, without waiting for a pass.
    fn take_policies(&mut self, view: Arc<PolicyView>) {
        self.policies = Some(Arc::new(Known {
            revision: view.revision,
            epoch: view.epoch.clone(),
            arranged: Policies::new(&view.policies, view.tags.clone()),
        }));
        self.sets.clear();
        self.unfit = programs::Unfit::default();
        if let Err(error) = self.program_endpoints() {
            self.programs_failed(&error);
        }
        self.say_unfit();
        self.publish();
    }

    fn alarm(&mut self, about: &'static str, text: Option<String>) {
        match text {
            Some(text) => drop(self.alarms.insert(about, text)),
            None => drop(self.alarms.remove(about)),
        }
    }
}

/// Nobody waiting any more is no error: the plugin was killed.
fn answer<T>(reply: oneshot::Sender<Reply<T>>, result: Reply<T>) {
    if let Err(error) = &result {
        tracing::warn!(code = ?error.code, details = error.details, "refused: {}", error.message);
    }
    drop(reply.send(result));
}
