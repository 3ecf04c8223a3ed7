//! `weft-cni install` and `uninstall`: whole or not at all, and nothing of others.

use crate::support::{Call, Namespace, PATIENCE, Reply, TestAgent, ok, succeed};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// The plugin without debug information: thirty megabytes less to copy and to hash.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (draft, stripped) = (folder.join(format!("weft-cni-{}", std::process::id())), folder.join("weft-cni-stripped"));
    let done = Command::new("strip").arg("-o").arg(&draft).arg(env!("CARGO_BIN_EXE_weft-cni")).status();
    assert!(done.unwrap().success());
    fs::rename(draft, &stripped).unwrap();
    stripped
});

/// A host's two folders.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::create_dir(host.bin()).unwrap();
        fs::create_dir(host.conf()).unwrap();
        // What containerd needs besides.
        fs::write(host.bin().join("loopback"), "").unwrap();
        host
    }

    fn bin(&self) -> PathBuf {
        self.0.path().join("bin")
    }

    fn conf(&self) -> PathBuf {
        self.0.path().join("net.d")
    }

    fn plugin(&self) -> PathBuf {
        self.bin().join("weft-cni")
    }

    fn conflist(&self) -> PathBuf {
        self.conf().join("10-weft.conflist")
    }

    fn command(&self, word: &str, agent: &TestAgent) -> Command {
        let mut command = Command::new(&*BINARY);
        command.env_remove("CNI_COMMAND").arg(word).arg("--bin-dir").arg(self.bin()).arg("--conf-dir");
        command.arg(self.conf()).arg(format!("--socket={}", agent.socket().display())).stdin(Stdio::null());
        command
    }

    fn run(&self, word: &str, agent: &TestAgent, more: &[&str]) -> Output {
        self.command(word, agent).args(more).output().unwrap()
    }

    fn succeed(&self, word: &str, agent: &TestAgent, more: &[&str]) -> String {
        let output = self.run(word, agent, more);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fail(&self, word: &str, agent: &TestAgent, more: &[&str]) -> String {
        let output = self.run(word, agent, more);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &[][..]), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Names in both folders, hidden ones too.
    fn files(&self) -> Vec<String> {
        let names = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut all: Vec<String> =
            names(self.bin()).chain(names(self.conf())).map(|name| name.into_string().unwrap()).collect();
        all.sort();
        all
    }
}

const BEFORE: [&str; 1] = ["loopback"];
const AFTER: [&str; 4] = [".10-weft.conflist.manifest", "10-weft.conflist", "loopback", "weft-cni"];

fn ready() -> TestAgent {
    TestAgent::new(|request| match request.call.as_str() {
        "GET /v1/endpoints" => ok(json!([])),
        _ => ok(json!({"subnet": "10.255.30.0/24"})),
    })
}

#[test]
fn install_is_whole_and_repeatable_and_uninstall_takes_it_back() {
    let (host, agent) = (Host::new(), ready());
    let said = host.succeed("install", &agent, &[]);
    assert!(said.contains(&format!("installed {}", host.conflist().display())) && !said.contains("note"), "{said}");
    assert_eq!(host.files(), AFTER);
    assert_eq!(fs::read(host.plugin()).unwrap(), fs::read(&*BINARY).unwrap());
    assert_eq!(fs::metadata(host.plugin()).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(host.conflist()).unwrap().permissions().mode() & 0o7777, 0o644);
    let conflist = fs::read(host.conflist()).unwrap();
    host.succeed("install", &agent, &[]);
    assert_eq!(
        (host.files().as_slice(), fs::read(host.conflist()).unwrap()),
        (&AFTER.map(str::to_owned)[..], conflist)
    );
    // Other options, the same files.
    host.succeed("install", &agent, &["--name", "prod"]);
    let list: Value = serde_json::from_slice(&fs::read(host.conflist()).unwrap()).unwrap();
    assert_eq!(list["name"], "prod");
    let said = host.succeed("uninstall", &agent, &[]);
    assert!(said.contains(&format!("removed {}", host.plugin().display())), "{said}");
    assert_eq!(host.files(), BEFORE);
    assert!(host.succeed("uninstall", &agent, &[]).contains("is not there"));
}

#[test]
fn the_conflist_calls_everything_where_the_library_can_and_reads_where_it_cannot() {
    let (host, agent) = (Host::new(), ready());
    let plugin = r#"{"type":"tuning","sysctl":{"net.core.somaxconn":"500"}}"#;
    let more = ["--name=prod", "--agent-timeout=20", "--policy-group", "3b1c", "--plugin", plugin, "--print"];
    let list: Value = serde_json::from_str(&host.succeed("install", &agent, &more)).unwrap();
    assert_eq!(
        list,
        json!({
            "cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": "prod",
            "plugins": [
                {
                    "type": "weft-cni", "capabilities": {"bandwidth": true, "dns": true, "io.kubernetes.cri.pod-annotations": true, "ips": true, "mac": true, "portMappings": true},
                    "metadata": {"policy_group_id": "3b1c"},
                    "weft": {"socket": agent.socket(), "timeoutSeconds": 20},
                },
                {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
            ],
        })
    );
    assert_eq!(host.files(), BEFORE, "--print changes nothing");
    // What it says is what the plugin takes, in each of its versions: STATUS is asked in the newest.
    let namespace = Namespace::new();
    for version in list["cniVersions"].as_array().unwrap() {
        let mut config = list["plugins"][0].clone();
        (config["cniVersion"], config["name"]) = (version.clone(), list["name"].clone());
        Call::new("DEL", &config).run(&namespace).silent_success();
        if version == "1.1.0" {
            Call::new("STATUS", &config).run(&namespace).silent_success();
        }
    }
}

#[test]
fn the_conflist_waits_for_the_agent_and_says_so() {
    let host = Host::new();
    let (is_ready, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (now, seen) = (is_ready.clone(), asked.clone());
    let agent = TestAgent::new(move |_| {
        seen.store(true, Ordering::SeqCst);
        if now.load(Ordering::SeqCst) {
            return ok(json!({"subnet": "10.255.30.0/24"}));
        }
        let error = json!({"code": "try-again", "message": "agent not ready", "details": "the lease is none"});
        Reply::Json(503, error)
    });
    let error = host.fail("install", &agent, &["--wait", "0"]);
    assert!(error.contains("weftd to be ready: agent not ready (the lease is none); nothing was installed"), "{error}");
    assert_eq!(host.files(), BEFORE);
    let child = host.command("install", &agent).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    asked.store(false, Ordering::SeqCst);
    let start = Instant::now();
    while !asked.load(Ordering::SeqCst) {
        assert!(start.elapsed() < PATIENCE, "the agent is not asked again");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!host.conflist().exists() && !host.plugin().exists());
    is_ready.store(true, Ordering::SeqCst);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("waiting for weftd to be ready: agent not ready"), "{output:?}");
    assert_eq!(host.files(), AFTER);
}

#[test]
fn no_agent_is_named_with_its_socket() {
    let (host, agent) = (Host::new(), ready());
    let socket = agent.socket();
    drop(agent);
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let mut command = Command::new(&*BINARY);
    command.env_remove("CNI_COMMAND").args(["install", "--wait", "0"]).arg("--socket").arg(&socket);
    let output = command.arg("--bin-dir").arg(host.bin()).arg("--conf-dir").arg(host.conf()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("the weft agent does not answer at {}", socket.display())), "{said}");
    assert_eq!((output.status.code(), host.files().as_slice()), (Some(1), &BEFORE.map(str::to_owned)[..]));
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
}

#[test]
fn an_upgrade_replaces_what_is_being_executed() {
    let (host, agent) = (Host::new(), ready());
    host.succeed("install", &agent, &[]);
    // An older version: other bytes, known to the manifest.
    let old = [fs::read(&*BINARY).unwrap(), b"older".to_vec()].concat();
    let draft = host.0.path().join("older");
    fs::write(&draft, &old).unwrap();
    // By another process: a child that another test starts just now would hold what we have open, and what is open
    // for writing cannot be executed.
    succeed(Command::new("install").args(["-m", "755"]).args([&draft, &host.plugin()]));
    let manifest = host.conf().join(AFTER[0]);
    let sum = String::from_utf8(Command::new("sha256sum").arg(host.plugin()).output().unwrap().stdout).unwrap();
    let mut known: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    known["files"][0]["sha256"] = json!([sum.split(' ').next().unwrap()]);
    fs::write(&manifest, known.to_string()).unwrap();
    let mut running = Command::new(host.plugin());
    running.env("CNI_COMMAND", "STATUS").env("CNI_PATH", "/").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = running.spawn().unwrap();
    host.succeed("install", &agent, &[]);
    assert_eq!(fs::read(host.plugin()).unwrap(), fs::read(&*BINARY).unwrap());
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(agent.config().to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "the one that ran goes on: {output:?}");
}

#[test]
fn others_files_are_left_alone() {
    let (host, agent) = (Host::new(), ready());
    for path in [host.plugin(), host.conflist()] {
        fs::write(&path, "somebody's").unwrap();
        let error = host.fail("install", &agent, &[]);
        assert!(error.contains(&format!("{} is there already", path.display())), "{error}");
        let said = host.succeed("uninstall", &agent, &[]);
        assert!(
            said.contains(&format!("{} was not put there by weft-cni install and stays", path.display())),
            "{said}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
        assert_eq!(host.files().len(), 2);
        fs::remove_file(&path).unwrap();
    }
    fs::write(host.conflist(), "somebody's").unwrap();
    host.succeed("install", &agent, &["--replace"]);
    assert_eq!(host.files(), AFTER);
    // Changed since: it stays, the rest goes.
    let mut changed: Value = serde_json::from_slice(&fs::read(host.conflist()).unwrap()).unwrap();
    changed["disableCheck"] = json!(true);
    fs::write(host.conflist(), changed.to_string()).unwrap();
    let error = host.fail("install", &agent, &[]);
    assert!(error.contains("is not what weft-cni install put there"), "{error}");
    let said = host.succeed("uninstall", &agent, &[]);
    assert!(
        said.contains(&format!("{} was changed since weft-cni install and stays", host.conflist().display())),
        "{said}"
    );
    assert_eq!(host.files(), ["10-weft.conflist", "loopback"]);
}

#[test]
fn folders_that_cannot_be_used_are_named_and_nothing_is_done() {
    let (host, agent) = (Host::new(), ready());
    for (option, folder) in [("--bin-dir", host.bin()), ("--conf-dir", host.conf())] {
        let missing = folder.join("missing");
        let error = host.fail("install", &agent, &[option, missing.to_str().unwrap()]);
        assert!(error.contains(&format!("{option}: cannot open {}", missing.display())), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(host.files(), BEFORE);
    // Each folder read-only, then full, in a mount namespace of its own.
    for (folder, word) in [(host.bin(), "weft-cni"), (host.conf(), "10-weft.conflist")] {
        let mount = |options: &str| {
            let script = format!("mount -t tmpfs -o {options} none {} && exec \"$@\"", folder.display());
            let install = host.command("install", &agent);
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script, "sh"]).arg(&*BINARY).args(install.get_args());
            let output = command.env_remove("CNI_COMMAND").output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let error = mount("ro");
        assert!(error.contains(&format!("cannot write {}", folder.join(word).display())), "{error}");
        assert!(error.contains("Read-only file system"), "{error}");
        assert_eq!(host.files(), BEFORE);
        let error = mount("nr_inodes=1");
        assert!(error.contains(&format!("cannot write {}", folder.join(word).display())), "{error}");
        assert!(error.contains("No space left on device"), "{error}");
        assert_eq!(host.files(), BEFORE);
    }
}

#[test]
fn all_faults_of_the_command_line_are_told_at_once() {
    let faulty =
        ["--conf-name", "weft.json", "--wait=long", "--name", "a b", "--plugin", "{}", "--nmae", "x", "--print=yes"];
    let mut command = Command::new(&*BINARY);
    let output = command.env_remove("CNI_COMMAND").arg("install").args(faulty).arg("--bin-dir").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 7), "{said}");
    for part in [
        "--conf-name: invalid value \"weft.json\": a file name that ends in .conflist",
        "--wait: invalid value \"long\": a whole number from 0 to 86400",
        "--name: invalid value \"a b\": letters and digits",
        "--plugin: invalid value \"{}\": a JSON object with the key type",
        "unknown option \"--nmae\"",
        "--print: takes no value",
        "--bin-dir: its value is missing",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = Command::new(&*BINARY).env_remove("CNI_COMMAND").args(["uninstall", "--wait", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "uninstall waits for nobody: {output:?}");
}

#[test]
fn a_runtimes_command_is_never_taken_for_a_persons() {
    let output = Command::new(&*BINARY).env("CNI_COMMAND", "VERSION").arg("install").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["cniVersion"], "1.1.0");
}
