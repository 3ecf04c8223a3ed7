//! etcd.

use super::port::Port;
use super::{eventually, signal};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

pub struct Etcd {
    folder: TempDir,
    client: Port,
    peer: Port,
    child: Option<Child>,
}

impl Etcd {
    pub fn start() -> Self {
        let (client, peer) = (Port::reserve(), Port::reserve());
        let mut etcd = Self { folder: TempDir::new().unwrap(), client, peer, child: None };
        etcd.up();
        etcd
    }

    /// Starts it, on the folder it had.
    pub fn up(&mut self) {
        let url = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer.number);
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut child = Command::new("etcd")
            .args(["--name", "one", "--unsafe-no-fsync"])
            .args(["--data-dir", self.folder.path().join("data").to_str().unwrap()])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd (Debian: etcd-server) must be installed");
        eventually("etcd", || {
            assert!(child.try_wait().unwrap().is_none(), "etcd ended, see {:?}", self.folder.path());
            self.etcdctl("1s", &["endpoint", "health"]).status.success().then_some(())
        });
        self.child = Some(child);
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it without closing its connections: what a hung disk or a lost network looks like.
    pub fn freeze(&self) {
        let pid = self.child.as_ref().unwrap().id();
        signal(pid, "STOP");
        // The signal is sent, not yet obeyed: a thread that runs still answers.
        eventually("etcd stands still", || stopped(pid).then_some(()));
    }

    pub fn thaw(&self) {
        signal(self.child.as_ref().unwrap().id(), "CONT");
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client.number)
    }

    /// Does something with etcdctl.
    pub fn ctl(&self, arguments: &[&str]) {
        let output = self.etcdctl("60s", arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<String> {
        let output = self.etcdctl("60s", &["get", "--print-value-only", key]);
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap()).filter(|value| !value.is_empty())
    }

    fn etcdctl(&self, patience: &str, arguments: &[&str]) -> Output {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        etcdctl.args(["--dial-timeout", patience, "--command-timeout", patience]);
        etcdctl.args(arguments).output().expect("etcdctl (Debian: etcd-client) must be installed")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether every thread is stopped: state `T`, the first field after the name in proc(5)'s `stat`.
fn stopped(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    })
}
