//! A refusal is an answer the kernel of whoever is refused believes: its checksums are right whatever is left to
//! the devices on the way, on the same host and across hosts, for the first packet of a connection and for one
//! that was cut out of a stream of large ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use weft_lab::probe::{self, inside};
use weft_lab::shell::sh_in;
use weft_lab::wait;
use weft_lab::{Lab, Workload, WorkloadOptions};
use weft_tests::{PATIENCE, lab};

/// Workloads' own devices, the hosts'. What the programs find prepared differs: a sum to be filled in, segments to be
/// cut, or neither; and what becomes of the answer: where the workload leaves the sum to a device and the host's does
/// not take it, it is filled in on the way. With `rx off` the receiver looks at every sum itself.
const SETTINGS: [(&str, &str); 6] = [
    (ON, ON),
    (OFF, OFF),
    (ON, OFF),
    (OFF, ON),
    ("tx on rx off tso off gso off gro off", OFF),
    ("tx off rx off tso off gso on gro on", "tx off rx off tso off gso on gro on"),
];
const ON: &str = "tx on rx off tso on gso on gro off";
const OFF: &str = "tx off rx off tso off gso off gro off";

struct Scene {
    lab: Lab,
    source: Workload,
    near: Workload,
    far: Workload,
    /// Every device on the way: in which namespace, and its name.
    workloads: Vec<(PathBuf, String)>,
    hosts: Vec<(PathBuf, String)>,
}

fn scene() -> Scene {
    let mut lab = lab("rejections");
    let source = lab.add("n1", &WorkloadOptions::pod("source", "asking")).unwrap();
    let near = lab.add("n1", &WorkloadOptions::pod("near", "asked")).unwrap();
    let far = lab.add("n2", &WorkloadOptions::pod("far", "asked")).unwrap();
    let workloads = [&source, &near, &far].map(|workload| (workload.netns.clone(), "eth0".to_owned()));
    let mut hosts = Vec::new();
    for host in ["n1", "n2"].map(|name| lab.host(name)) {
        hosts.push((host.netns.clone(), "eth0".to_owned()));
        let ends = host.endpoints().unwrap();
        hosts.extend(ends.iter().map(|end| (host.netns.clone(), end.host_ifname.clone())));
    }
    assert_eq!(hosts.len(), 5, "{hosts:?}");
    // Pods that no policy names are open.
    lab.weft(&["policies", "allow", "--from", "nobody", "--to", "k8s:lab/asked", "--port", "1", "--wait"]).unwrap();
    Scene { lab, source, near, far, workloads: workloads.into(), hosts }
}

impl Scene {
    fn set(&self, (workloads, hosts): (&str, &str)) {
        for (devices, settings) in [(&self.workloads, workloads), (&self.hosts, hosts)] {
            for (netns, device) in devices {
                sh_in(netns, &format!("ethtool -K {device} {settings}")).unwrap();
            }
        }
    }
}

fn tcp_refused(from: &Path, to: SocketAddr) -> Result<(), String> {
    match probe::connects(from, to, PATIENCE) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Asked again: a datagram, or the answer to it, may be lost on a busy machine.
fn udp_refused(from: &Path, to: SocketAddr) -> Result<(), String> {
    let socket = inside(from, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let ask = || match socket.send(b"question").and_then(|_| socket.recv(&mut [0; 16])) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait::until("an ICMP error", PATIENCE, ask).map(drop).map_err(|error| error.to_string())
}

#[test]
fn what_was_never_allowed_is_refused_with_every_offload_setting() {
    let scene = scene();
    for settings in SETTINGS {
        scene.set(settings);
        for to in [&scene.near, &scene.far] {
            let to = SocketAddr::from((to.ip, 8080));
            tcp_refused(&scene.source.netns, to).unwrap_or_else(|error| panic!("{settings:?}: tcp {to}: {error}"));
            udp_refused(&scene.source.netns, to).unwrap_or_else(|error| panic!("{settings:?}: udp {to}: {error}"));
        }
    }
    let judged = |host: &str| scene.lab.host(host).status().unwrap().counters["policy"];
    assert!(judged("n1") >= 10 && judged("n2") >= 10, "refused by somebody else");
}

/// The sender of an upload that is revoked hears of it, by an answer to a segment that may be many in one.
#[test]
fn an_upload_that_is_revoked_is_reset_with_every_offload_setting() {
    let scene = scene();
    let (from, to) = (scene.source.options.group().unwrap(), scene.near.options.group().unwrap());
    let change = |verb: &str| {
        scene.lab.weft(&["policies", verb, "--from", &from, "--to", &to, "--port", "9000", "--wait"]).unwrap();
    };
    let listeners = [&scene.near, &scene.far].map(|workload| {
        let bound = inside(&workload.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9000)));
        (workload.ip, bound.unwrap().unwrap())
    });
    for settings in SETTINGS {
        scene.set(settings);
        change("allow");
        let uploads = listeners.each_ref().map(|(ip, listener)| {
            let upload = probe::connects(&scene.source.netns, (*ip, 9000).into(), PATIENCE).unwrap();
            let (mut taken, _) = listener.accept().unwrap();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while taken.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
            });
            let (begun, running) = channel();
            let upload = std::thread::spawn(move || until_it_breaks(upload, &begun));
            running.recv_timeout(PATIENCE).expect("an upload that runs");
            (ip, upload)
        });
        change("deny");
        for (ip, upload) in uploads {
            assert_eq!(upload.join().unwrap(), Some(ErrorKind::ConnectionReset), "{settings:?}: to {ip}");
        }
    }
}

/// Sends until it cannot, and says why, if that comes to pass; says on the way that a good deal went through.
fn until_it_breaks(mut upload: TcpStream, begun: &Sender<()>) -> Option<ErrorKind> {
    upload.set_write_timeout(Some(PATIENCE)).unwrap();
    let data = vec![b'.'; 1 << 20];
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < PATIENCE {
        if let Err(error) = upload.write_all(&data) {
            return Some(error.kind());
        }
        sent += 1;
        if sent == 4 {
            begun.send(()).unwrap();
        }
    }
    None
}
