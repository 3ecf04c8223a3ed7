//! The real binary, namespaces to run it in, and an agent that answers what a test says.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long something may take that takes a second on a quiet machine. Nothing is judged by it: it only
/// ends what would never come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace of the test's own; removed with it.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("weft-cni-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::SeqCst));
        succeed(Command::new("ip").args(["netns", "add", &name]));
        Self(name)
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Runs a program inside and answers what it printed.
    pub(crate) fn run(&self, words: &str) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).args(words.split(' '));
        command
    }

    /// `ip -json -details link`, by name.
    pub(crate) fn links(&self) -> BTreeMap<String, Value> {
        let links: Vec<Value> = serde_json::from_str(&self.run("ip -json -details link")).unwrap();
        links.into_iter().map(|link| (link["ifname"].as_str().unwrap().to_owned(), link)).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        succeed(Command::new("ip").args(["netns", "del", &self.0]));
    }
}

pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A call of the plugin: environment and stdin.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) environment: BTreeMap<&'static str, String>,
    pub(crate) stdin: Vec<u8>,
}

impl Call {
    pub(crate) fn new(command: &str, config: &Value) -> Self {
        let environment = BTreeMap::from([
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ("CNI_NETNS", String::new()),
            ("CNI_ARGS", String::new()),
        ]);
        Self { environment, stdin: config.to_string().into_bytes() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    /// Runs the plugin in a namespace that plays the host.
    pub(crate) fn run(&self, host: &Namespace) -> Answer {
        let mut command = host.command(env!("CARGO_BIN_EXE_weft-cni"));
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).envs(&self.environment);
        Answer(output(&mut command, &self.stdin))
    }
}

pub(crate) fn output(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // Who fails before reading stdin closes it.
    pipe.write_all(stdin).ok();
    drop(pipe);
    child.wait_with_output().unwrap()
}

/// What the plugin printed.
pub(crate) struct Answer(pub(crate) Output);

impl Answer {
    /// The one document on stdout of a call that failed.
    pub(crate) fn error(&self) -> Value {
        assert_eq!(self.0.status.code(), Some(1), "{:?}", self.0);
        self.document()
    }

    pub(crate) fn message(&self) -> (u64, String) {
        let error = self.error();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
    }

    /// The one document on stdout of a call that succeeded.
    pub(crate) fn result(&self) -> Value {
        assert_eq!(self.0.status.code(), Some(0), "{:?}", self.0);
        self.document()
    }

    pub(crate) fn silent_success(&self) {
        assert_eq!((self.0.status.code(), self.0.stdout.as_slice()), (Some(0), &[][..]), "{:?}", self.0);
    }

    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.0))
    }
}

/// A request as the agent sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) call: String,
    pub(crate) body: Value,
}

/// What the agent does with a request.
pub(crate) enum Reply {
    /// Status and JSON.
    Json(u16, Value),
    /// These bytes, then close.
    Raw(Vec<u8>),
    /// Nothing until the test is over.
    Hang,
}

pub(crate) fn ok(value: Value) -> Reply {
    Reply::Json(200, value)
}

/// What an agent says to a path of a newer plugin's.
pub(crate) fn no_such_path() -> Reply {
    Reply::Raw(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec())
}

type Script = dyn FnMut(&Request) -> Reply + Send;

/// An agent's socket with a script behind it. Only for what the real agent does not do on demand.
pub(crate) struct TestAgent {
    pub(crate) folder: Arc<tempfile::TempDir>,
    seen: Arc<Mutex<Vec<Request>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TestAgent {
    pub(crate) fn new(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        Self::start(Arc::new(tempfile::tempdir().unwrap()), Box::new(script))
    }

    pub(crate) fn start(folder: Arc<tempfile::TempDir>, mut script: Box<Script>) -> Self {
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        let (seen, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (ours, end) = (seen.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut hung = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let request = receive(&mut stream);
                ours.lock().unwrap().push(request.clone());
                match script(&request) {
                    Reply::Json(status, body) => send_json(&mut stream, status, &body),
                    Reply::Raw(bytes) => drop(stream.write_all(&bytes)),
                    Reply::Hang => hung.push(stream),
                }
            }
        });
        Self { folder, seen, over, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The calls in order, such as `POST /v1/reserve`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.seen().into_iter().map(|request| request.call).collect()
    }

    /// A config that leaves the agent all the time it needs.
    pub(crate) fn config(&self) -> Value {
        config(&self.socket(), PATIENCE.as_secs())
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(self.socket()));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn config(socket: &Path, seconds: u64) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "weft", "type": "weft-cni",
        "weft": {"socket": socket, "timeoutSeconds": seconds},
    })
}

/// The answer to a reservation of `c1/eth0`.
pub(crate) fn reservation(committed: bool) -> Value {
    json!({
        "wiring": {
            "attachment": {"containerId": "c1", "ifname": "eth0"},
            "token": "0123456789abcdef", "slot": 7, "address": "10.255.30.7",
            "gateway": "10.255.30.1", "gatewayMac": "aa:aa:0a:ff:1e:01", "mtu": 1450,
        },
        "group": null, "committed": committed,
    })
}

fn receive(stream: &mut UnixStream) -> Request {
    let mut bytes = Vec::new();
    let mut chunk = [0; 65536];
    loop {
        let count = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert!(count > 0, "{text}");
            continue;
        };
        let length: usize = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        if body.len() >= length {
            let mut words = head.split(' ');
            let call = format!("{} {}", words.next().unwrap(), words.next().unwrap());
            let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
            return Request { call, body };
        }
        assert!(count > 0, "{text}");
    }
}

fn send_json(stream: &mut UnixStream, status: u16, body: &Value) {
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    // The plugin may have given up.
    drop(stream.write_all(format!("{head}{body}").as_bytes()));
}
