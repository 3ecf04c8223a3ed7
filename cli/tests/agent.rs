//! `weft` against an agent's socket: what is asked, how answers are framed, what is said when there is none.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

const DENIAL: &str = r#"{"at":"2026-08-21T09:12:48.5Z","reason":"policy","action":"drop","direction":"ingress","source":{"ip":"10.255.3.2","port":51234,"group":"app-guid"},"destination":{"ip":"10.255.1.5","port":8080,"group":"k8s:east/shop/web"},"protocol":"TCP","mark":0,"interface":"weft0","suppressed":0}"#;
const SHOWN: &str = "2026-08-21T09:12:48.500Z  weft0  DENY ingress tcp 10.255.3.2:51234 (app-guid) → 10.255.1.5:8080 (k8s:east/shop/web) no policy\n";

/// A socket on which each connection is answered by `answer`; the request lines seen.
struct Agent {
    folder: TempDir,
    requests: Receiver<String>,
}

impl Agent {
    fn start(answer: impl Fn(&mut UnixStream) + Send + 'static) -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        let (seen, requests) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let line = lines.next().unwrap();
                let _headers = lines.take_while(|line| !line.is_empty()).count();
                if seen.send(line).is_err() {
                    return;
                }
                answer(&mut stream);
            }
        });
        Self { folder, requests }
    }

    fn answering(text: String) -> Self {
        Self::start(move |stream| stream.write_all(text.as_bytes()).unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn weft(&self, arguments: &[&str]) -> Output {
        weft(&self.socket()).args(arguments).output().unwrap()
    }
}

fn weft(socket: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.env_clear().env("WEFT_SOCKET", socket);
    command
}

fn with_length(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exit code 1, nothing on standard output, one line on standard error.
fn complaint(output: &Output) -> String {
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.to_owned()
}

#[test]
fn framings_of_an_answer() {
    let half = DENIAL.len() / 2;
    let chunks = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{half:x}\r\n{}\r\n{:X};x=y\r\n{}\n\r\n0\r\n\r\n",
        &DENIAL[..half],
        DENIAL.len() - half + 1,
        &DENIAL[half..]
    );
    let until_close = format!("HTTP/1.1 200 OK\r\n\r\n{DENIAL}\n\n");
    for answer in [chunks, until_close, with_length("200 OK", &format!("{DENIAL}\n"))] {
        let agent = Agent::answering(answer);
        let output = agent.weft(&["denials"]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), SHOWN), "{}", text(&output.stderr));
        assert_eq!(agent.requests.recv().unwrap(), "GET /v1/denials?follow=false HTTP/1.1");
    }
}

#[test]
fn an_answer_that_breaks_off_is_no_success() {
    for cut in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{\"at\":",
        "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n{\"at\":",
        "nonsense\r\n\r\n",
    ] {
        let agent = Agent::answering(cut.to_owned());
        let said = complaint(&agent.weft(&["denials"]));
        assert!(said.contains("weftd") || said.contains("agent.sock"), "{said}");
    }
    let agent = Agent::answering(with_length("200 OK", "[7]"));
    assert!(complaint(&agent.weft(&["endpoints"])).contains("same version"));
}

#[test]
fn following_shows_each_denial_when_it_happens() {
    let agent = Agent::start(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let line = format!("{DENIAL}\n");
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).unwrap();
        // The stream stays open until the client is gone.
        let _gone = stream.read(&mut [0]);
    });
    let mut child = weft(&agent.socket()).args(["denials", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let (seen, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| seen.send(line).unwrap()));
    let first = lines.recv_timeout(Duration::from_secs(60)).expect("a line while the stream is open");
    assert_eq!(first + "\n", SHOWN);
    assert_eq!(agent.requests.recv().unwrap(), "GET /v1/denials?follow=true HTTP/1.1");
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let agent = Agent::start(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while writeln!(stream, "{DENIAL}").is_ok() {}
    });
    let mut child =
        weft(&agent.socket()).args(["denials", "-f"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((first.as_str(), output.status.code(), text(&output.stderr)), (SHOWN, Some(0), ""));
}

#[test]
fn json_is_json() {
    let agent = Agent::answering(with_length("200 OK", &format!("{DENIAL}\n{DENIAL}\n")));
    let output = agent.weft(&["--json", "denials"]);
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], serde_json::from_str::<serde_json::Value>(DENIAL).unwrap());
    let agent = Agent::answering(with_length("200 OK", "[]"));
    assert_eq!(text(&agent.weft(&["endpoints", "--json"]).stdout), "[]\n");
    assert_eq!(text(&agent.weft(&["endpoints"]).stdout), "no workloads\n");
}

#[test]
fn explain_tells_scripts_the_outcome() {
    for (verdict, code) in [("allowed", 0), ("denied", 3), ("elsewhere", 4)] {
        let answer = format!(
            r#"{{"verdict":"{verdict}","source":{{"name":"a","kind":"group"}},"destination":{{"name":"b","kind":"group"}},
            "service":"tcp 80","revision":3,"judgements":[]}}"#
        );
        let agent = Agent::answering(with_length("200 OK", &answer));
        let output = agent.weft(&["explain", "k8s:lab/shop", "a&b", "tcp", "80"]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(code), ""), "{verdict}");
        assert_eq!(
            agent.requests.recv().unwrap(),
            "GET /v1/explain?source=k8s%3Alab%2Fshop&destination=a%26b&protocol=tcp&port=80 HTTP/1.1"
        );
        let output = agent.weft(&["explain", "--json", "a", "b", "icmp"]);
        assert_eq!(output.status.code(), Some(code));
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["verdict"], verdict);
    }
    let body = r#"{"code":"invalid","message":"port: missing: tcp needs a port from 1 to 65535"}"#;
    let agent = Agent::answering(with_length("400 Bad Request", body));
    assert!(complaint(&agent.weft(&["explain", "a", "b", "tcp"])).contains("port: missing"));
}

#[test]
fn the_agents_own_words() {
    let body = r#"{"code":"try-again","message":"no lease yet","details":"the store is away"}"#;
    let agent = Agent::answering(with_length("503 Service Unavailable", body));
    let said = complaint(&agent.weft(&["status"]));
    assert_eq!(said, "weft: /v1/status: weftd answers 503: no lease yet: the store is away\n");
}

#[test]
fn no_agent() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("agent.sock");
    let status = |socket: &std::path::Path| complaint(&weft(socket).arg("status").output().unwrap());
    let said = status(&socket);
    assert!(said.contains(socket.to_str().unwrap()) && said.contains("is weftd running"), "{said}");

    drop(UnixListener::bind(&socket).unwrap());
    let said = status(&socket);
    assert!(said.contains("weftd is not running"), "{said}");
}

#[test]
fn not_permitted() {
    let agent = Agent::answering(with_length("200 OK", "[]"));
    let socket = agent.socket();
    std::fs::set_permissions(agent.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o600)).unwrap();
    // A copy, because whoever has no rights cannot look into the build folder either.
    // Made by another process: a child that another test starts just now would hold what we have open, and what is
    // open for writing cannot be executed.
    let copy = agent.folder.path().join("weft");
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_weft")).arg(&copy).status().unwrap().success());
    let mut command = Command::new(&copy);
    command
        .env_clear()
        .args(["endpoints", "--socket", socket.to_str().unwrap()])
        .current_dir("/")
        .uid(65534)
        .gid(65534);
    let said = complaint(&command.output().unwrap());
    assert!(said.contains("not permitted") && said.contains("sudo"), "{said}");
}
