//! `weft policies` against a real policy server on a real etcd.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../../store/tests/common/port.rs"]
mod port;

use port::Port;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use weft_api::flannel::{LeaseValue, parse_subnet_key};
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::NodeId;
use weft_policy_server::config::{Config, LogFormat};
use weft_policy_server::{Auth, Token};
use weft_store::hosts::{Claim, HostStore};
use weft_store::{EtcdOptions, EtcdStore};

/// How long something may take that takes a second on a quiet machine. Nothing is judged by it: it only
/// ends what would never come.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    runtime: Runtime,
    store: EtcdStore,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    etcd: Child,
    etcd_url: String,
    folder: TempDir,
    _ports: [Port; 3],
}

impl World {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let ports = [(); 3].map(|()| Port::reserve());
        let [client, peer, server] = ports.each_ref().map(|port| SocketAddr::from(([127, 0, 0, 1], port.number)));
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let etcd = Command::new("etcd")
            .args(["--name", "one", "--unsafe-no-fsync", "--data-dir", folder.path().join("etcd").to_str().unwrap()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (Debian: etcd-server) must be installed");
        std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
        let config = Config {
            listen: server,
            etcd: vec![client.clone()],
            etcd_prefix: "/coreos.com/network".to_owned(),
            auth: Auth::Tokens(vec![Token::new("tests", "s3cret").unwrap()]),
            cors_origins: vec![],
            log_format: LogFormat::Text,
            log: "info".to_owned(),
        };
        let runtime = Runtime::new().unwrap();
        let options = EtcdOptions { timeout: PATIENCE, ..EtcdOptions::new([client.clone()], "tests") };
        let store = EtcdStore::connect(options).unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = store.clone();
        runtime.spawn(async move {
            let stop = async move {
                stopped.await.unwrap();
                "the test's end"
            };
            weft_policy_server::serve(Arc::new(served), &config, stop).await.unwrap();
        });
        let world =
            Self { runtime, store, address: server, stop: Some(stop), etcd, etcd_url: client, folder, _ports: ports };
        world.until(|| world.weft(&["policies", "list"]).status.success());
        world
    }

    fn until(&self, ready: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            assert!(Instant::now() < deadline, "{:?}", self.weft(&["policies", "list"]));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What somebody waits for, as hosts are told.
    fn wanted(&self) -> Vec<u8> {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.etcd_url, "get", "/weft/v1/wanted"]);
        etcdctl.output().expect("etcdctl (Debian: etcd-client) must be installed").stdout
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        // A proxy of the environment is for the outside world.
        command.env_clear().env("WEFT_SERVER", format!("http://{}/", self.address)).args(arguments);
        command.env("http_proxy", "http://127.0.0.1:1");
        command
    }

    fn weft(&self, arguments: &[&str]) -> Output {
        self.command(arguments).env("WEFT_TOKEN_FILE", self.folder.path().join("token")).output().unwrap()
    }

    /// Standard output of a success.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.weft(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr, b"");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a failure.
    fn not_done(&self, arguments: &[&str]) -> String {
        failure(&self.weft(arguments))
    }

    /// A host with a lease that enforces `revision`; what it says later is said by the result.
    fn host(&self, number: u8) -> impl Fn(i64) + use<> {
        let node = NodeId::new(format!("node-{number}")).unwrap();
        let subnet = parse_subnet_key(&format!("10.255.{number}.0-24")).unwrap();
        let public_ip = format!("192.0.2.{number}").parse().unwrap();
        let value = LeaseValue { public_ip, vni: 1, vtep_mac: subnet.vtep_mac() };
        let record = HostDocument {
            node: node.clone(),
            hostname: format!("cell-{number}"),
            public_ip,
            subnet,
            instance: "one".to_owned(),
            last_seen: "2026-01-01T00:00:00Z".to_owned(),
            gbp: true,
        };
        let (store, runtime) = (self.store.clone(), self.runtime.handle().clone());
        let claim = runtime.block_on(HostStore::create(&store, subnet, &value, &record)).unwrap();
        let Claim::Won(hold) = claim else { panic!("the subnet is taken") };
        move |revision| {
            let document = EnforcedDocument { revision, at: "2026-01-01T00:00:00Z".to_owned(), epoch: String::new() };
            runtime.block_on(store.report_enforced(&node, hold.lease_id, &document)).unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap_or_default();
        }
        self.etcd.kill().unwrap();
        self.etcd.wait().unwrap();
    }
}

fn failure(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

/// The number behind `revision `.
fn revision(text: &str) -> i64 {
    let digits = text.split("revision ").nth(1).unwrap();
    digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn change<'a>(verb: &'a str, from: &'a str, to: &'a str, port: &'a str) -> Vec<&'a str> {
    vec!["policies", verb, "--from", from, "--to", to, "--port", port]
}

#[test]
fn allow_list_deny() {
    let world = World::start();
    assert_eq!(world.done(&["policies", "list"]), "no policies\n");
    let said = world.done(&change("allow", "app", "k8s:east/shop/web", "8080-8090"));
    assert!(said.starts_with("allowed: app → k8s:east/shop/web tcp 8080-8090 (revision "), "{said}");
    world.done(&[&change("allow", "a,b", "web", "53")[..], &["--protocol", "udp"]].concat());
    let all = "SOURCE  DESTINATION        PROTOCOL  PORTS\n\
               a,b     web                udp       53\n\
               app     k8s:east/shop/web  tcp       8080-8090\n";
    assert_eq!(world.done(&["policies", "list"]), all);
    let one = world.done(&["policies", "list", "--group", "k8s:east/shop/web"]);
    assert_eq!(one.lines().count(), 2, "{one}");
    assert_eq!(world.done(&["policies", "list", "--group", "a,b"]).lines().count(), 2);
    assert_eq!(world.done(&["policies", "list", "--group", "a"]), "no policies\n");
    let json: serde_json::Value = serde_json::from_str(&world.done(&["policies", "list", "--json"])).unwrap();
    assert_eq!(json["total_policies"], 2);

    let part = world.not_done(&change("deny", "app", "k8s:east/shop/web", "8080"));
    assert!(part.contains("there is no such policy: app → k8s:east/shop/web tcp 8080 "), "{part}");
    let said = world.done(&change("deny", "app", "k8s:east/shop/web", "8080-8090"));
    assert!(said.starts_with("no longer allowed: app → k8s:east/shop/web tcp 8080-8090 (revision "), "{said}");
    assert!(said.contains("warning: that was the last policy towards k8s:east/shop/web: "), "{said}");
    world.not_done(&change("deny", "app", "k8s:east/shop/web", "8080-8090"));
    world.done(&[&change("deny", "a,b", "web", "53")[..], &["--protocol", "udp"]].concat());
    assert_eq!(world.done(&["policies", "list"]), "no policies\n");
}

#[test]
fn waiting_for_hosts() {
    let world = &World::start();
    let alone = world.done(&[&change("allow", "app", "web", "1")[..], &["--wait"]].concat());
    assert!(alone.ends_with(": there are no hosts to enforce it\n"), "{alone}");
    let (one, two) = (world.host(1), world.host(2));
    let stored = revision(&world.done(&change("allow", "app", "web", "2")));
    one(stored);
    let wait = |extra: &[&'static str]| {
        let number = stored.to_string();
        world.weft(&[&["policies", "wait", "--revision", &number], extra].concat())
    };
    let said = failure(&wait(&["--timeout", "100ms"]));
    assert!(said.contains("not enforced everywhere: cell-2 has not said"), "{said}");
    two(stored - 1);
    let said = failure(&wait(&["--timeout", "0s"]));
    assert!(said.contains(&format!("cell-2 is at {}", stored - 1)), "{said}");

    let newer = revision(&world.done(&change("allow", "app", "web", "3")));
    one(newer);
    let before = world.wanted();
    let begun = Instant::now();
    let waiting = std::thread::scope(|scope| {
        let number = newer.to_string();
        let waiting = scope.spawn(move || world.weft(&["policies", "wait", "--revision", &number, "--timeout", "5m"]));
        world.until(|| world.wanted() != before);
        two(newer);
        waiting.join().unwrap()
    });
    let said = String::from_utf8(waiting.stdout).unwrap();
    assert_eq!(said, format!("revision {newer} is enforced by all 2 hosts\n"));
    assert!(begun.elapsed() < 2 * PATIENCE, "told at the end of its time only");

    let late = [&change("deny", "app", "web", "2")[..], &["--wait", "--timeout", "0s", "--json"]].concat();
    let output = world.weft(&late);
    assert!(failure(&output).contains("cell-1 is at"), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["lastToDestination"], false, "others are left");
    assert_eq!((&json["wait"]["enforced"], json["revision"].as_i64().unwrap() > newer), (&false.into(), true));
}

#[test]
fn what_goes_wrong_is_said_with_what_to_do() {
    let world = World::start();
    let list = ["policies", "list"];
    let said = failure(&world.command(&list).output().unwrap());
    assert!(said.contains("401: missing authorization header (--token-file or WEFT_TOKEN"), "{said}");
    let said = failure(&world.command(&list).env("WEFT_TOKEN", "wrong").output().unwrap());
    assert!(said.contains("401: failed to verify token"), "{said}");
    assert_eq!(world.command(&list).env("WEFT_TOKEN", "s3cret").output().unwrap().status.code(), Some(0));
    for (arguments, words) in [
        (&["policies", "list", "--server", "http://127.0.0.1:1"][..], "is weft-policy-server running there?"),
        (&["policies", "list", "--server", "https://a"], "TLS is not supported yet"),
        (&["policies", "list", "--token-file", "/nonexistent"], "--token-file /nonexistent: "),
    ] {
        let said = world.not_done(arguments);
        assert!(said.contains(words), "{said}");
    }
    let usage = world.weft(&change("allow", "app", "web", "70000"));
    assert_eq!(usage.status.code(), Some(2));
    assert!(String::from_utf8(usage.stderr).unwrap().contains("--port"));
}
