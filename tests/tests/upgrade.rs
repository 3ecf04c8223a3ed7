//! The agent is started anew, replaced by another version, and by the one before again, while traffic runs: no packet
//! is lost, and none passes that is denied.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use weft_lab::probe::{self, HttpServer, Stream, inside};
use weft_lab::workload::WorkloadOptions;
use weft_lab::{Lab, wait};
use weft_tests::{PATIENCE, lab};

const UDP: u16 = 9000;

/// Something that goes on until it is asked for its result.
struct Running<T>(Arc<AtomicBool>, JoinHandle<T>);

impl<T: Send + 'static> Running<T> {
    fn start(mut work: impl FnMut(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        Self(stop, std::thread::spawn(move || work(&stopping)))
    }

    fn end(self) -> T {
        self.0.store(true, Relaxed);
        self.1.join().unwrap()
    }
}

fn udp(netns: &Path, port: u16) -> UdpSocket {
    let socket = inside(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Sends every datagram back; how many came from `stranger`.
fn echo(netns: &Path, stranger: Ipv4Addr) -> Running<u64> {
    let socket = udp(netns, UDP);
    Running::start(move |stop| {
        let (mut buffer, mut strange) = ([0; 64], 0);
        while !stop.load(Relaxed) {
            let Ok((size, from)) = socket.recv_from(&mut buffer) else { continue };
            strange += u64::from(from.ip() == stranger);
            drop(socket.send_to(&buffer[..size], from));
        }
        strange
    })
}

/// Datagrams there and back, one after the other: how many, and which never came back.
fn ping_pong(netns: &Path, to: SocketAddr, count: Arc<AtomicU64>) -> Running<Vec<u64>> {
    let socket = udp(netns, 0);
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Running::start(move |stop| {
        let mut lost = Vec::new();
        while !stop.load(Relaxed) {
            let number = count.fetch_add(1, Relaxed);
            socket.send(&number.to_ne_bytes()).unwrap();
            let mut answer = [0; 8];
            if !matches!(socket.recv(&mut answer), Ok(8)) || u64::from_ne_bytes(answer) != number {
                lost.push(number);
            }
        }
        lost
    })
}

/// Requests, one after the other; the errors.
fn requests(netns: &Path, to: SocketAddr, count: Arc<AtomicU64>) -> Running<Vec<String>> {
    let netns = netns.to_owned();
    Running::start(move |stop| {
        let mut errors = Vec::new();
        while !stop.load(Relaxed) {
            errors.extend(probe::get(&netns, to, PATIENCE).err().map(|error| error.to_string()));
            count.fetch_add(1, Relaxed);
        }
        errors
    })
}

/// Datagrams that nobody allows, as fast as they can be sent.
fn flood(netns: &Path, to: SocketAddr) -> Running<u64> {
    let socket = udp(netns, 0);
    Running::start(move |stop| {
        let mut sent = 0;
        while !stop.load(Relaxed) {
            // Refusals of earlier ones are told here.
            sent += u64::from(socket.send_to(&[0; 8], to).is_ok());
            std::thread::sleep(Duration::from_micros(200));
        }
        sent
    })
}

/// The instructions of what judges a host's workload, by their hash.
fn tag(lab: &Lab, host: &str, link: &str) -> String {
    let shown = lab.host(host).sh(&format!("tc filter show dev {link} egress")).unwrap();
    let tag = shown.split_whitespace().skip_while(|word| *word != "tag").nth(1);
    tag.unwrap_or_else(|| panic!("no program on {link}: {shown}")).to_owned()
}

fn link(lab: &Lab, host: &str, name: &str) -> String {
    let endpoints = lab.host(host).endpoints().unwrap();
    let found =
        endpoints.iter().find(|endpoint| endpoint.attachment.to_string().contains(name) || endpoints.len() == 1);
    found.unwrap().host_ifname.clone()
}

#[test]
fn other_versions_take_over_and_give_back_without_a_lost_packet() {
    let mut lab = lab("upgrade");
    let web = lab.add("n1", &WorkloadOptions::pod("web", "shop")).unwrap();
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).unwrap();
    let links = [("n1", link(&lab, "n1", "web")), ("c1", link(&lab, "c1", "app"))];
    let stranger = lab.add("n2", &WorkloadOptions::pod("stranger", "elsewhere")).unwrap();
    for protocol in [("tcp", "8080"), ("udp", "9000")] {
        let (name, port) = protocol;
        let words = ["policies", "allow", "--from", "3b1c", "--to", "k8s:lab/shop", "--port", port, "--protocol", name];
        lab.weft(&[&words[..], &["--wait"]].concat()).unwrap();
    }
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    let (tcp, echoed) = (SocketAddr::from((web.ip, 8080)), SocketAddr::from((web.ip, UDP)));
    let strange = echo(&web.netns, stranger.ip);
    let (datagrams, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let download = Stream::start(&app.netns, tcp).unwrap();
    let lost = ping_pong(&app.netns, echoed, datagrams.clone());
    let errors = requests(&app.netns, tcp, answers.clone());
    let flooded = flood(&stranger.netns, echoed);
    let this = std::fs::read_link(lab.host("n1").bpf_dir().join("current")).unwrap();
    let this: u32 = this.to_str().unwrap().trim_start_matches('v').parse().unwrap();
    // The same once more; other programs with the same maps, back; another layout of maps, back.
    let mut version = ("0", this);
    for (programs, layout) in [("0", this), ("7", this), ("0", this), ("7", this + 1), ("0", this)] {
        let differs = std::mem::replace(&mut version, (programs, layout)) != version;
        for (host, link) in &links {
            let before = tag(&lab, host, link);
            let host = lab.host_mut(host);
            host.kill_agent().unwrap();
            host.options.environment =
                vec![("WEFT_TEST_PROGRAMS", programs.to_owned()), ("WEFT_TEST_LAYOUT", layout.to_string())];
            host.start_agent().unwrap();
            host.wait_ready(PATIENCE).unwrap();
            let name = host.name().to_owned();
            let its_programs = || Ok((tag(&lab, &name, link) != before) == differs);
            wait::until_true("this version's programs", PATIENCE, its_programs).unwrap();
            let current = lab.host(&name).bpf_dir().join("current");
            let in_force = || Ok(std::fs::read_link(&current)?.to_str() == Some(&format!("v{layout}")));
            wait::until_true("the layout to be in force", PATIENCE, in_force).unwrap();
            // Everything still goes on with the new version alone.
            let (seen, got) = (datagrams.load(Relaxed), answers.load(Relaxed));
            let goes_on = || Ok(datagrams.load(Relaxed) > seen + 100 && answers.load(Relaxed) > got + 5);
            wait::until_true("traffic under the new version", PATIENCE * 3, goes_on).unwrap();
            assert!(download.flows(PATIENCE) && !download.broke(), "the download broke: {programs} {layout} on {name}");
        }
    }
    let (lost, errors, sent) = (lost.end(), errors.end(), flooded.end());
    let (datagrams, answers) = (datagrams.load(Relaxed), answers.load(Relaxed));
    assert!(lost.is_empty(), "{} of {datagrams} datagrams were lost: {lost:?}", lost.len());
    assert!(errors.is_empty(), "{} of {answers} requests failed: {errors:?}", errors.len());
    assert!(sent > 100, "the flood was none");
    assert_eq!(strange.end(), 0, "of {sent} denied datagrams some passed");
    // And the last version is in charge.
    lab.disallow("3b1c", "k8s:lab/shop", "tcp", 8080).unwrap();
    let reset = || {
        download.send_byte();
        Ok(download.broke())
    };
    wait::until_true("the download to be reset", PATIENCE, reset).unwrap();
}
