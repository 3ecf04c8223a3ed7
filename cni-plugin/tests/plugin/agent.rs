//! Agents that are away, restart, hang or talk nonsense.

use crate::support::{Answer, Call, Namespace, PATIENCE, Reply, TestAgent, config, ok, reservation};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde_json::{Value, json};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

fn status(config: &Value, host: &Namespace) -> Answer {
    Call::new("STATUS", config).with("CNI_CONTAINERID", "").with("CNI_IFNAME", "").run(host)
}

#[test]
fn add_without_an_agent_waits_and_then_says_try_again() {
    let (host, workload, folder) = (Namespace::new(), Namespace::new(), tempfile::tempdir().unwrap());
    let socket = folder.path().join("agent.sock");
    let begin = Instant::now();
    let answer = Call::new("ADD", &config(&socket, 1)).with("CNI_NETNS", workload.path()).run(&host);
    let took = begin.elapsed();
    let error = answer.error();
    assert_eq!(error["code"], 11);
    assert_eq!(
        error["msg"],
        format!("the weft agent does not answer at {}: No such file or directory (os error 2)", socket.display())
    );
    assert_eq!(error["details"], "tried for 1 s; is weftd running on this host?");
    assert!(took > Duration::from_millis(900) && took < PATIENCE, "{took:?}");
    assert!(!workload.links().contains_key("eth0"));
}

#[test]
fn add_waits_for_an_agent_that_restarts() {
    let (host, workload) = (Namespace::new(), Namespace::new());
    let (send, asked) = std::sync::mpsc::channel();
    let old = TestAgent::new(move |_| {
        send.send(()).ok();
        Reply::Raw(Vec::new())
    });
    let folder = old.folder.clone();
    let call = Call::new("ADD", &config(&old.socket(), PATIENCE.as_secs())).with("CNI_NETNS", workload.path());
    std::thread::scope(|scope| {
        let add = scope.spawn(|| call.run(&host));
        asked.recv_timeout(PATIENCE).unwrap();
        // What a killed agent leaves is a socket nobody listens at; then not even that.
        drop(old);
        std::fs::remove_file(folder.path().join("agent.sock")).unwrap();
        let new = TestAgent::start(
            folder.clone(),
            Box::new(|request| match request.call.as_str() {
                "POST /v1/reserve" => ok(reservation(false)),
                _ => ok(json!({})),
            }),
        );
        assert_eq!(add.join().unwrap().result()["ips"][0]["address"], "10.255.30.7/32");
        assert_eq!(new.calls(), ["POST /v1/reserve", "POST /v1/commit"]);
    });
}

#[test]
fn an_agent_that_dies_in_the_middle_of_an_answer_is_asked_again() {
    let (host, workload) = (Namespace::new(), Namespace::new());
    let mut deaths = 0;
    let agent = TestAgent::new(move |request| {
        deaths += 1;
        match (request.call.as_str(), deaths) {
            (_, 1) => Reply::Raw(Vec::new()),
            (_, 2) => Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
            (_, 3) => Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{\"wiring\"".to_vec()),
            ("POST /v1/reserve", _) => ok(reservation(false)),
            _ => ok(json!({})),
        }
    });
    Call::new("ADD", &agent.config()).with("CNI_NETNS", workload.path()).run(&host).result();
    assert_eq!(agent.calls().len(), 5);
}

#[test]
fn an_agent_that_hangs_is_given_up() {
    let (host, workload) = (Namespace::new(), Namespace::new());
    let agent = TestAgent::new(|_| Reply::Hang);
    let begin = Instant::now();
    let call = Call::new("ADD", &config(&agent.socket(), 1)).with("CNI_NETNS", workload.path());
    let (code, msg) = call.run(&host).message();
    assert!(code == 11 && msg.ends_with("no answer in time"), "{msg}");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}

#[test]
fn an_agent_whose_backlog_is_full_is_given_up_too() {
    let (host, workload, folder) = (Namespace::new(), Namespace::new(), tempfile::tempdir().unwrap());
    let socket = folder.path().join("agent.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    // Nobody accepts. Fill the backlog until a connection has to wait.
    let address = UnixAddr::new(&socket).unwrap();
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let mut waiting = Vec::new();
    loop {
        let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        let connected = socket::connect(fd.as_raw_fd(), &address);
        waiting.push(fd);
        if connected.is_err() {
            break;
        }
    }
    let begin = Instant::now();
    let call = Call::new("ADD", &config(&socket, 1)).with("CNI_NETNS", workload.path());
    let (code, msg) = call.run(&host).message();
    assert!(code == 11 && msg.ends_with("no answer in time"), "{msg}");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    // DEL waits five seconds at most.
    let begin = Instant::now();
    Call::new("DEL", &config(&socket, 120)).run(&host).silent_success();
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}

#[test]
fn nonsense_is_an_error_that_shows_it() {
    let (host, workload) = (Namespace::new(), Namespace::new());
    let cases: [(&[u8], u64, &str); 8] = [
        (b"SSH-2.0-OpenSSH\r\n", 11, "the answer is no HTTP/1.1: "),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", 11, "content-length \"x\""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 11, "a chunked body"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", 11, "content-length \"99999999999\""),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            999,
            "answered HTTP 200 to POST /v1/reserve: missing field",
        ),
        (b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno", 999, "answered HTTP 404 to POST /v1/reserve: no"),
        (b"HTTP/1.1 503 No\r\n\r\nto be closed", 11, "answered HTTP 503 to POST /v1/reserve: to be closed"),
        (b"HTTP/1.1 400 No\r\ncontent-length: 33\r\n\r\n{\"code\":\"new\",\"message\":\"of N+1\"}", 7, "of N+1"),
    ];
    for (bytes, code, text) in cases {
        let agent = TestAgent::new(move |_| Reply::Raw(bytes.to_vec()));
        let answer = Call::new("ADD", &agent.config()).with("CNI_NETNS", workload.path()).run(&host);
        let (got, msg) = answer.message();
        assert!(got == code && msg.contains(text), "{got} {msg}");
    }
    assert!(!workload.links().contains_key("eth0"));
}

#[test]
fn an_agent_that_answers_for_somebody_else_is_not_believed() {
    let (host, workload) = (Namespace::new(), Namespace::new());
    let agent = TestAgent::new(|_| {
        let mut other = reservation(false);
        other["wiring"]["attachment"]["containerId"] = json!("c2");
        ok(other)
    });
    let answer = Call::new("ADD", &agent.config()).with("CNI_NETNS", workload.path()).run(&host);
    assert_eq!(answer.message(), (999, "the agent answered for c2/eth0 instead of c1/eth0".to_owned()));
    assert_eq!(agent.calls(), ["POST /v1/reserve"]);
}

#[test]
fn refusals_keep_code_text_and_details() {
    let (host, workload) = (Namespace::new(), Namespace::new());
    for (word, status, code) in
        [("invalid", 400, 7), ("try-again", 503, 11), ("exists", 409, 999), ("internal", 500, 999)]
    {
        let agent =
            TestAgent::new(move |_| Reply::Json(status, json!({"code": word, "message": "no", "details": "do this"})));
        let answer = Call::new("ADD", &agent.config()).with("CNI_NETNS", workload.path()).run(&host);
        assert_eq!(answer.error(), json!({"cniVersion": "1.1.0", "code": code, "msg": "no", "details": "do this"}));
    }
}

#[test]
fn del_leaves_one_note_for_an_agent_that_is_away_however_often() {
    let (host, folder) = (Namespace::new(), tempfile::tempdir().unwrap());
    let config = config(&folder.path().join("agent.sock"), 10);
    let begin = Instant::now();
    // If each waited its five seconds it would be 75.
    for _ in 0..15 {
        Call::new("DEL", &config).run(&host).silent_success();
    }
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    let notes: Vec<_> = std::fs::read_dir(folder.path().join("del")).unwrap().map(Result::unwrap).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    let name = notes[0].file_name().into_string().unwrap();
    assert!(name.ends_with("-any.json") && !name.starts_with('.'), "{name}");
    let note: weft_api::agent::ReleaseRequest =
        serde_json::from_slice(&std::fs::read(notes[0].path()).unwrap()).unwrap();
    assert_eq!((note.attachment.to_string(), note.token), ("c1/eth0".to_owned(), None));
}

#[test]
fn del_succeeds_without_agent_socket_and_folder_and_with_a_bad_section() {
    let host = Namespace::new();
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone/agent.sock");
    Call::new("DEL", &config(&gone, 10)).run(&host).silent_success();
    assert!(!folder.path().join("gone").exists());
    // A file stands where the folder of notes should be.
    std::fs::write(folder.path().join("del"), "").unwrap();
    Call::new("DEL", &config(&folder.path().join("agent.sock"), 10)).run(&host).silent_success();
    // CNI_ARGS do not matter either.
    let agent = TestAgent::new(|_| ok(json!({"released": false})));
    Call::new("DEL", &agent.config()).with("CNI_ARGS", "nonsense").run(&host).silent_success();
}

#[test]
fn del_leaves_a_note_for_an_agent_that_fails_but_not_for_one_that_refuses() {
    let host = Namespace::new();
    for (word, status, note) in [("internal", 500, true), ("invalid", 400, false)] {
        let agent = TestAgent::new(move |_| Reply::Json(status, json!({"code": word, "message": "no"})));
        Call::new("DEL", &agent.config()).run(&host).silent_success();
        assert_eq!(agent.folder.path().join("del").exists(), note, "{word}");
    }
}

#[test]
fn status_follows_the_agent_and_waits_for_a_restart() {
    let host = Namespace::new();
    let ready = TestAgent::new(|_| ok(json!({"subnet": "10.255.30.0/24"})));
    status(&ready.config(), &host).silent_success();
    assert_eq!(ready.calls(), ["GET /v1/ready"]);
    // Where every workload is to be limited and cannot be, every ADD would fail; otherwise some.
    let means = json!({"buckets": true, "devices": false});
    let poor = TestAgent::new(move |_| ok(json!({"subnet": "10.255.30.0/24", "means": means})));
    status(&poor.config(), &host).silent_success();
    let mut every = poor.config();
    every["weft"]["bandwidth"] = json!({"egressRate": 8000, "egressBurst": 8000});
    let (code, said) = status(&every, &host).message();
    assert!(code == 50 && said.starts_with("weft.bandwidth: this kernel has no intermediate devices"), "{said}");
    let limited =
        TestAgent::new(|_| Reply::Json(503, json!({"code": "limited", "message": "programs are not loaded"})));
    assert_eq!(status(&limited.config(), &host).message(), (51, "programs are not loaded".to_owned()));
    let unready = TestAgent::new(|_| {
        Reply::Json(503, json!({"code": "try-again", "message": "agent not ready", "details": "no lease yet"}))
    });
    let expected = json!({"cniVersion": "1.1.0", "code": 50, "msg": "agent not ready", "details": "no lease yet"});
    assert_eq!(status(&unready.config(), &host).error(), expected);
    let folder = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let (code, _) = status(&config(&folder.path().join("agent.sock"), 1), &host).message();
    assert_eq!(code, 50);
    assert!(begin.elapsed() > Duration::from_millis(900), "an ADD would have waited too");
}
