//! A real etcd on a free port of the loopback, in a folder of its own, ended by its process id.

#![allow(dead_code, reason = "every test file uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub(crate) mod policies;
mod port;

use port::Port;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use weft_store::{EtcdOptions, EtcdStore};

/// How long something may take that takes a second on a quiet machine. Nothing is judged by it: it only
/// ends what would never come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An etcd of one member.
pub(crate) struct Etcd {
    /// Whether it waits for the disk.
    pub(crate) durable: bool,
    folder: TempDir,
    life: u32,
    client: Port,
    peer: Port,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub(crate) async fn start() -> Self {
        let mut etcd = Self::down();
        etcd.up().await;
        etcd
    }

    /// One that is not running yet.
    pub(crate) fn down() -> Self {
        let (client, peer) = (Port::reserve(), Port::reserve());
        Self { durable: false, folder: TempDir::new().unwrap(), life: 0, client, peer, child: None }
    }

    /// Starts it, on the folder it had.
    pub(crate) async fn up(&mut self) {
        let client = self.endpoint();
        let peer = format!("http://127.0.0.1:{}", self.peer.number);
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new("etcd")
            .args(["--name", "one", "--initial-cluster-token", "weft"])
            .args((!self.durable).then_some("--unsafe-no-fsync"))
            .args(["--data-dir", self.data().to_str().unwrap()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd (Debian: etcd-server) must be installed");
        self.child = Some(child);
        self.healthy().await;
    }

    async fn healthy(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut client = etcd_client::Client::connect([self.endpoint()], None).await.unwrap();
            if client.get("health", None).await.is_ok() {
                return;
            }
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
            assert!(self.child.as_mut().unwrap().try_wait().unwrap().is_none(), "etcd ended: {log}");
            assert!(Instant::now() < deadline, "etcd does not answer: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills it and comes up on the same port with an empty folder.
    pub(crate) async fn wipe(&mut self) {
        self.kill();
        self.life += 1;
        self.up().await;
    }

    /// Copies its data; it must be down.
    pub(crate) fn backup(&self) -> TempDir {
        assert!(self.child.is_none(), "back up a running etcd?");
        let copy = TempDir::new().unwrap();
        copy_folder(&self.data(), copy.path());
        copy
    }

    /// Comes up with a backup's data.
    pub(crate) async fn restore(&mut self, backup: &TempDir) {
        self.kill();
        self.life += 1;
        std::fs::create_dir_all(self.data()).unwrap();
        copy_folder(backup.path(), &self.data());
        self.up().await;
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join(format!("data{}", self.life))
    }

    /// Its URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client.number)
    }

    /// Options for a store on it, which waits for a slow machine's answers.
    pub(crate) fn options(&self, by: &str) -> EtcdOptions {
        EtcdOptions { timeout: PATIENCE, ..EtcdOptions::new([self.endpoint()], by) }
    }

    /// A store for who shall notice soon that it is away.
    pub(crate) fn hasty_store(&self, by: &str) -> EtcdStore {
        EtcdStore::connect(EtcdOptions { timeout: Duration::from_secs(4), ..self.options(by) }).unwrap()
    }

    /// A store on it, with a connection of its own.
    pub(crate) fn store(&self, by: &str) -> EtcdStore {
        EtcdStore::connect(self.options(by)).unwrap()
    }

    /// A client for what the store has no words for.
    pub(crate) async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.endpoint()], None).await.unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
