//! Starting and ending the agent.

use crate::cache::Cache;
use crate::config::Config;
use crate::denials::{self, DenialFeed};
use crate::directory::{Directory, HostName};
use crate::leases::LeaseKeeper;
use crate::worker::placement::underlay;
use crate::worker::{self, Command, Outlets, Worker};
use crate::{policies, server};
use anyhow::{Context, anyhow};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, mpsc};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use weft_datapath::DenialReader;
use weft_hostnet::{Executor, Netns, Notifier};
use weft_store::etcd::{EtcdOptions, EtcdStore};

/// Runs until a signal asks it to end. The data plane goes on without it.
///
/// # Errors
/// What keeps the agent from starting, with what to do.
pub async fn run(config: Config) -> anyhow::Result<()> {
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
    let (readers_in, readers) = mpsc::sync_channel(1);
    let outlets = Outlets { directory: directory_in, denials: readers_in };
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
    tokio::spawn(read_denials(readers, config.clone(), me, directory, feed.clone()));

    let socket = config.run_dir.join("agent.sock");
    let listener = server::bind(&socket).with_context(|| format!("run_dir: cannot listen on {}", socket.display()))?;
    tracing::info!(socket = %socket.display(), "serving");
    tokio::select! {
        served = server::serve(listener, worker.clone(), feed) => served.context("the socket broke")?,
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

fn try_lock(file: File, path: &Path) -> anyhow::Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(anyhow!("another weftd runs on this host: it holds {}; stop it first", path.display()))
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
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
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

async fn read_denials(
    readers: mpsc::Receiver<DenialReader>,
    config: Arc<Config>,
    me: HostName,
    directory: watch::Receiver<Arc<Directory>>,
    feed: DenialFeed,
) {
    let reader = tokio::task::spawn_blocking(move || readers.recv()).await;
    let Ok(Ok(reader)) = reader else { return };
    if let Err(error) = denials::run(reader, config, me, directory, feed).await {
        tracing::error!(%error, "denials cannot be read any more; the counters stay exact");
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
