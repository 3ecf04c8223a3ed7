//! A real etcd and a real server, each a process of its own on the loopback, ended by process id.

#![allow(dead_code, reason = "every test file uses its part of it")]
#![expect(unreachable_pub, reason = "a test's helpers")]

mod etcd;
mod http;
#[path = "../../../store/tests/common/port.rs"]
mod port;

pub use etcd::Etcd;
pub use http::{Answer, Request};

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long something may take that takes a second on a quiet machine. Nothing is judged by it: it only
/// ends what would never come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `ready` to give something.
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// weft-policy-server.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
    _folder: TempDir,
}

/// The token every server of these tests knows, its bearer being `admin`.
pub const TOKEN: &str = "s3cret";

impl Server {
    /// With a token file.
    pub fn start(etcd: &Etcd) -> Self {
        let folder = TempDir::new().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        Self::with(etcd, folder, &["--token-file", token.to_str().unwrap()])
    }

    /// Without any.
    pub fn open(etcd: &Etcd, arguments: &[&str]) -> Self {
        let arguments = [&["--development-no-auth"], arguments].concat();
        Self::with(etcd, TempDir::new().unwrap(), &arguments)
    }

    fn with(etcd: &Etcd, folder: TempDir, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-policy-server"))
            .args(["--listen", "127.0.0.1:0", "--log-format", "json", "--etcd", &etcd.url()])
            .args(arguments)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                written.lock().unwrap().push(line);
            }
        });
        let address = eventually("listening", || {
            let log = log.lock().unwrap();
            log.iter().find_map(|line| line["address"].as_str()?.parse().ok())
        });
        Self { child, address, log, _folder: folder }
    }

    /// A request with the token.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path).header("Authorization", &format!("Bearer {TOKEN}"))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path).body(body).send()
    }

    /// The log lines in which `key` is `value`.
    pub fn logged(&self, key: &str, value: &str) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line[key] == value).cloned().collect()
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("the server's end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {pid}");
}

/// A request's body with one policy.
pub fn policy(source: &str, destination: &str, port: u16) -> String {
    format!(r#"{{"policies":[{}]}}"#, entry(source, destination, port))
}

pub fn entry(source: &str, destination: &str, port: u16) -> String {
    format!(
        r#"{{"source":{{"id":"{source}"}},"destination":{{"id":"{destination}","protocol":"tcp","ports":{{"start":{port},"end":{port}}}}}}}"#
    )
}
