//! A real containerd starts and stops containers on our network, through a conflist that `weft-cni
//! install` put there, with policy between hosts.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::net::SocketAddr;
use weft_lab::probe;
use weft_lab::{Host, Lab, LabOptions, wait};
use weft_tests::PATIENCE;
use weft_tests::containerd::{Containerd, field};

fn lab(stem: &str, nodes: u8, cells: u8) -> Lab {
    let mut options = LabOptions::of(&LabOptions::unique_name(stem), nodes, cells);
    for host in &mut options.hosts {
        host.flags = ["--deny", "reject", "--isolation", "always"].map(str::to_owned).into();
    }
    Lab::up(options).unwrap()
}

/// The address of the only workload.
fn address(host: &Host) -> SocketAddr {
    let committed = || {
        let endpoints = host.endpoints()?;
        Ok::<_, anyhow::Error>(endpoints.into_iter().find(|one| one.state == "committed").map(|one| one.address))
    };
    let (ip, _) = wait::until("a workload", PATIENCE, || committed().ok().flatten().ok_or("none")).unwrap();
    SocketAddr::from((ip, 8080))
}

/// Waits until nothing of any workload is left on the host: a DEL goes on without an agent that is slow to
/// answer, and leaves it a note.
fn wait_clean(host: &Host) {
    wait::until_true("nothing to be left after DEL", PATIENCE, || is_clean(host))
        .unwrap_or_else(|error| panic!("{error:#}: {}", host.sh("ip -o link show").unwrap()));
}

/// Nothing of any workload is left on the host.
fn is_clean(host: &Host) -> anyhow::Result<bool> {
    let links = host.sh("ip -o link show")?;
    let is_workloads = |name: &str| name.len() == 15 && name.starts_with("weft");
    let left = links.lines().filter_map(|line| line.split([':', '@']).nth(1)).any(|name| is_workloads(name.trim()));
    Ok(!left && host.endpoints()?.is_empty())
}

#[test]
fn containers_of_ctr_are_wired_judged_and_taken_down() {
    let lab = lab("ctr", 0, 2);
    let (web, front) = (Containerd::start(&lab, "c1").unwrap(), Containerd::start(&lab, "c2").unwrap());
    web.weft_cni(lab.host("c1"), "install", &["--policy-group", "web"]).unwrap();
    front.weft_cni(lab.host("c2"), "install", &["--policy-group", "front"]).unwrap();
    // Container ids are hosts' own; both may be the same.
    let (id, other) = (format!("{}-web", lab.name), format!("{}-front", lab.name));
    let mut serving = web.run(&id, &["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/"]).unwrap();
    let mut waiting = front.run(&other, &["/bin/busybox", "sleep", "1000"]).unwrap();
    let to = address(lab.host("c1"));
    address(lab.host("c2"));
    let refused = || Ok(front.fetch(&other, to).is_err_and(|error| error.to_string().contains("refused")));
    wait::until_true("the container, and to be refused", PATIENCE, refused).unwrap();
    lab.weft(&["policies", "allow", "--from", "front", "--to", "web", "--port", "8080", "--wait"]).unwrap();
    wait::until("an answer", PATIENCE, || front.fetch(&other, to)).unwrap();
    lab.disallow("front", "web", "tcp", 8080).unwrap();
    wait::until_true("to be refused again", PATIENCE, refused).unwrap();
    // ctr calls DEL when the process has ended.
    for (runtime, id, ctr, host) in [(&web, &id, &mut serving, "c1"), (&front, &other, &mut waiting, "c2")] {
        runtime.ctr(&lab.name, &["task", "kill", "--signal", "KILL", id]).unwrap();
        let status = ctr.wait().unwrap();
        assert_eq!(status.code(), Some(137), "{}", runtime.log(id));
        wait_clean(lab.host(host));
    }
    let said = web.weft_cni(lab.host("c1"), "uninstall", &[]).unwrap();
    assert!(said.contains("removed /opt/cni/bin/weft-cni"), "{said}");
}

/// The request that makes a pod: metadata, folder of logs, annotations, cgroup.
fn pod(lab: &Lab, namespace: &str, name: &str, group: &str) -> Vec<u8> {
    let metadata = [field(1, name.as_bytes()), field(2, format!("{}-{name}", lab.name).as_bytes())].concat();
    let metadata = [metadata, field(3, namespace.as_bytes())].concat();
    let annotation = [field(1, b"weft/policy-group"), field(2, group.as_bytes())].concat();
    let logs = lab.folder.join("logs").display().to_string();
    let linux = field(1, format!("/{}", lab.name).as_bytes());
    let config = [field(1, &metadata), field(3, logs.as_bytes()), field(7, &annotation), field(8, &linux)];
    field(1, &config.concat())
}

fn run_pod(runtime: &Containerd, request: &[u8]) -> String {
    let answer = runtime.cri("RunPodSandbox", request);
    let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", weft_lab::host::tail(&runtime.daemon_log())));
    String::from_utf8(answer[2..].to_vec()).unwrap()
}

/// Whether CRI's `Status` says that the network is ready.
fn network_ready(runtime: &Containerd) -> anyhow::Result<bool> {
    let status = runtime.cri("Status", &[])?;
    let ready = field(1, b"NetworkReady");
    Ok(status.windows(ready.len() + 2).any(|part| part.starts_with(&ready) && part.ends_with(&[0x10, 1])))
}

#[test]
fn pods_of_a_kubelet_are_wired_judged_and_outlive_containerd() {
    let lab = lab("cri", 2, 0);
    let (mut web, front) = (Containerd::start(&lab, "n1").unwrap(), Containerd::start(&lab, "n2").unwrap());
    assert!(!network_ready(&web).unwrap(), "no conflist yet");
    for (runtime, host) in [(&web, "n1"), (&front, "n2")] {
        // containerd calls it for every pod.
        std::fs::copy("/usr/lib/cni/loopback", lab.folder.join("loopback")).unwrap();
        let mut copy = runtime.command("cp".as_ref()).unwrap();
        weft_lab::shell::output(copy.arg(lab.folder.join("loopback")).arg("/opt/cni/bin/")).unwrap();
        runtime.weft_cni(lab.host(host), "install", &[]).unwrap();
        wait::until_true("containerd to see the conflist", PATIENCE, || network_ready(runtime)).unwrap();
    }
    let id = run_pod(&web, &pod(&lab, "shop", "web", "web"));
    let client = run_pod(&front, &pod(&lab, "shop", "ui", "front"));
    let endpoint = &lab.host("n1").endpoints().unwrap()[0];
    assert_eq!(endpoint.group.as_ref().map(ToString::to_string).as_deref(), Some("k8s:lab/shop/web"));
    let (to, from) = (address(lab.host("n1")), front.netns_of_pod(&client).unwrap());
    let connects = || probe::connects(&from, to, PATIENCE);
    assert!(connects().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused), "no policy yet");
    let allow = ["policies", "allow", "--from", "k8s:lab/shop/front", "--to", "k8s:lab/shop/web", "--port", "8080"];
    lab.weft(&[&allow[..], &["--wait"]].concat()).unwrap();
    wait::until("the pod to serve", PATIENCE, connects).unwrap();
    web.kill_daemon().unwrap();
    connects().expect("the data plane needs no containerd");
    web.start_daemon().unwrap();
    connects().expect("nor does a restart touch it");
    lab.disallow("k8s:lab/shop/front", "k8s:lab/shop/web", "tcp", 8080).unwrap();
    let refused = || Ok(connects().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused));
    wait::until_true("the policy's end", PATIENCE, refused).unwrap();
    for (runtime, id, host) in [(&web, &id, "n1"), (&front, &client, "n2")] {
        // A kubelet repeats each until it succeeds, and once more.
        for method in ["StopPodSandbox", "StopPodSandbox", "RemovePodSandbox", "RemovePodSandbox"] {
            wait::until(method, PATIENCE, || runtime.cri(method, &field(1, id.as_bytes()))).unwrap();
        }
        wait_clean(lab.host(host));
    }
}
