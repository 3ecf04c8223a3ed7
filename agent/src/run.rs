//! Starting and ending the agent.

use crate::cache::Cache;
use crate::config::{self, Config, Raw};
use crate::denials::{Counts, DenialFeed, QueueSender, Reader, Sinks, queue};
use crate::directory::{Directory, HostName};
use crate::leases::LeaseKeeper;
use crate::worker::placement::underlay;
use crate::worker::{self, Command, Outlets, Worker};
use crate::{metrics, policies, server};
use anyhow::{Context, anyhow};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use weft_api::logging::Logging;
use weft_datapath::DenialReader;
use weft_hostnet::{Executor, Netns, Notifier};
use weft_store::etcd::{EtcdOptions, EtcdStore};

/// Runs until a signal asks it to end. The data plane goes on without it. `raw`: the flags, to read the
/// configuration again.
///
/// # Errors
/// What keeps the agent from starting, with what to do.
pub async fn run(config: Config, raw: Raw) -> anyhow::Result<()> {
    let config = Arc::new(config);
    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("run_dir: cannot make {}", config.run_dir.display()))?;
    let _lock = lock(&config.run_dir.join("agent.lock"))?;
    let cache = Cache::open(&config.state_dir)
        .with_context(|| format!("state_dir: cannot make {}", config.state_dir.display()))?;
    std::fs::create_dir_all(&config.bpf_dir)
        .with_context(|| format!("bpf_dir: cannot make {}", config.bpf_dir.display()))?;
    let _state = lock_folder("state_dir", &config.state_dir)?;
    let _bpf = lock_folder("bpf_dir", &config.bpf_dir)?;
    let me = host_name(&config, &cache)?;
    tracing::info!(node = %me.node, hostname = me.hostname, public_ip = %me.public_ip, version = env!("CARGO_PKG_VERSION"), "weftd");

    let (directory_in, directory) = watch::channel(Arc::new(Directory::default()));
    let (readers_in, rings) = mpsc::sync_channel(1);
    let (logging_in, logging) = watch::channel(Arc::new(config.logging.clone()));
    let counts = Arc::new(Counts::default());
    let outlets = Outlets { directory: directory_in, denials: readers_in, logging: logging_in, counts: counts.clone() };
    let (worker, thread) = worker::spawn(config.clone(), me.clone(), outlets)?;
    let options = EtcdOptions {
        prefix: config.etcd_prefix.clone(),
        ..EtcdOptions::new(config.etcd_endpoints.clone(), me.node.as_str())
    };
    // Two handles, because what each has seen of the store is accepted apart: after a wipe leases are
    // claimed again, while policies stay frozen.
    let (hosts, policies_store) = (EtcdStore::connect(options.clone())?, EtcdStore::connect(options)?);
    let feed = DenialFeed::default();
    let boot_id = crate::boot::id().context("cannot read the kernel's boot id")?;
    let keeper =
        LeaseKeeper::new(hosts, config.clone(), me.clone(), cache.clone(), worker.clone(), directory.clone(), boot_id);
    tokio::spawn(keeper.run());
    tokio::spawn(policies::follow(policies_store, cache, worker.clone()));
    tokio::spawn(notice_changes(worker.clone()));
    let inlets = Inlets { rings, directory, logging, counts: counts.clone() };
    let sinks = follow_denials(&config, me, worker.clone(), inlets, feed.clone())?;
    // Taken before anybody is served: until then the signal ends the process.
    let hangups = signal(SignalKind::hangup()).context("cannot take SIGHUP")?;
    tokio::spawn(follow_hangups(hangups, config.clone(), raw, worker.clone(), sinks));
    if let Some(address) = config.metrics_listen {
        metrics::serve(address, worker.clone()).await.with_context(|| format!("metrics_listen: {address}"))?;
    }

    let socket = config.run_dir.join("agent.sock");
    let listener = server::bind(&socket).with_context(|| format!("run_dir: cannot listen on {}", socket.display()))?;
    tracing::info!(socket = %socket.display(), "serving");
    tokio::select! {
        served = server::serve(listener, worker.clone(), feed, counts) => served.context("the socket broke")?,
        signal = ended() => tracing::info!(signal = signal?, "ending; workloads, programs and routes stay as they are"),
    }
    worker.send(Command::Stop);
    thread.join().map_err(|_panic| anyhow!("the worker panicked; the next start repairs what it left"))
}

/// One agent a host: the lock is the kernel's and goes with the process.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("run_dir: cannot make {}", path.display()))?;
    try_lock(file, path)
}

/// Two agents with run folders of their own would still write the same maps and the same lease.
fn lock_folder(field: &str, path: &Path) -> anyhow::Result<File> {
    let folder = File::open(path).with_context(|| format!("{field}: cannot open {}", path.display()))?;
    try_lock(folder, path)
}

/// A lock of an agent that was killed may outlive it for a moment, in a child it had forked and that was not yet
/// another program.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

fn try_lock(file: File, path: &Path) -> anyhow::Result<File> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                anyhow::bail!("another weftd runs on this host: it holds {}; stop it first", path.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

fn host_name(config: &Config, cache: &Cache) -> anyhow::Result<HostName> {
    let mut kernel = Executor::here().context("cannot open a netlink socket")?;
    let underlay =
        underlay(&mut kernel, config.interface.as_ref(), config.public_ip).map_err(|error| anyhow!(error))?;
    let node = cache
        .node_id()
        .with_context(|| format!("state_dir: cannot keep this host's id in {}", config.state_dir.display()))?;
    Ok(HostName { node, hostname: config.hostname.clone(), public_ip: underlay.address })
}

/// Turns kernel notifications into one message each.
async fn notice_changes(worker: Worker) {
    loop {
        match Netns::current().map_err(weft_hostnet::Error::from).and_then(|here| Notifier::new(&here)) {
            Ok(mut notifier) => {
                while notifier.changed().await.is_ok() {
                    worker.send(Command::KernelChanged);
                }
            }
            Err(error) => tracing::error!(%error, "no kernel notifications: drift is found by the timer only"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Starts the threads that read and write records; what the writer is told besides.
fn follow_denials(
    config: &Config,
    me: HostName,
    worker: Worker,
    inlets: Inlets,
    feed: DenialFeed,
) -> std::io::Result<QueueSender> {
    let Inlets { rings, directory, logging, counts } = inlets;
    let (sender, receiver) = queue();
    let sinks = Sinks::new(config.denial_log.clone(), logging.clone(), me, worker, counts.clone());
    let reader = Reader { rings, directory, logging, feed, sinks: sender.clone(), counts };
    std::thread::Builder::new().name("denial-sinks".to_owned()).spawn(move || sinks.run(receiver))?;
    std::thread::Builder::new().name("denials".to_owned()).spawn(move || reader.run())?;
    Ok(sender)
}

/// What the worker's outlets lead to.
struct Inlets {
    rings: mpsc::Receiver<DenialReader>,
    directory: watch::Receiver<Arc<Directory>>,
    logging: watch::Receiver<Arc<Logging>>,
    counts: Arc<Counts>,
}

/// SIGHUP: the log file was rotated, or the configuration changed. What is logged and the fast path follow the file;
/// everything else is for the next start.
async fn follow_hangups(mut hangups: Signal, config: Arc<Config>, raw: Raw, worker: Worker, sinks: QueueSender) {
    while hangups.recv().await.is_some() {
        sinks.reopen();
        match config::load(raw.clone(), &config.hostname) {
            Ok(new) => {
                let same = Config { logging: config.logging.clone(), fast_path: config.fast_path, ..new.clone() };
                if format!("{same:?}") != format!("{config:?}") {
                    tracing::warn!(
                        "SIGHUP: other options than those of logging and fast_path changed too: they wait for the next start"
                    );
                }
                tracing::info!(
                    "SIGHUP: the log file is opened anew, logging and fast_path are as the configuration says"
                );
                worker.send(Command::Reconfigure { logging: new.logging, fast_path: new.fast_path });
            }
            Err(errors) => tracing::error!("SIGHUP: everything stays as it is: {errors}"),
        }
    }
}

async fn ended() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
