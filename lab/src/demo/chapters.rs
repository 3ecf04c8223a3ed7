//! The chapters.

use super::cast::{APP, Cast, DNS, SHOP};
use super::story::Story;
use crate::lab::Lab;
use crate::probe::{self, HttpServer, Stream};
use crate::wait::{self, PATIENCE};
use crate::workload::{Workload, WorkloadOptions};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

/// What the store and the hosts say of the leases.
pub(super) fn leases(story: &mut Story, lab: &Lab) {
    story.chapter("Leases: each host holds a /24 of 10.255.0.0/16 in etcd, in flannel's words");
    story.check("three different subnets", || {
        let subnets: BTreeSet<_> = lab.hosts().iter().filter_map(|host| host.status().ok()?.subnet).collect();
        ensure!(subnets.len() == 3, "{subnets:?}");
        Ok(subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    });
    match lab.etcd.ctl("get --prefix /coreos.com/network/subnets/") {
        Ok(listing) => listing.lines().filter(|line| !line.is_empty()).for_each(Story::quote),
        Err(error) => story.fail("the store can be read", &format!("{error:#}")),
    }
}

struct Node {
    name: String,
    netns: PathBuf,
    overlay: Ipv4Addr,
    gateway: Ipv4Addr,
    _server: HttpServer,
}

const NODE_PORT: u16 = 9000;

fn nodes(lab: &Lab) -> Result<Vec<Node>> {
    let kubernetes = lab.hosts().iter().filter(|host| host.name() != "c1");
    kubernetes
        .map(|host| {
            let subnet = host.status()?.subnet.context("no subnet")?;
            Ok(Node {
                name: host.name().to_owned(),
                netns: host.netns.clone(),
                overlay: subnet.vtep_ip(),
                gateway: subnet.gateway(),
                _server: HttpServer::start(&host.netns, NODE_PORT)?,
            })
        })
        .collect()
}

/// Every pod reaches every pod, every node every pod, every pod every node, as itself.
pub(super) fn kubernetes_rules(story: &mut Story, lab: &mut Lab) -> Result<()> {
    story.chapter("The rules every Kubernetes network keeps: all pairs, source addresses unchanged");
    let mut pods = Vec::new();
    let begun = Instant::now();
    for (host, name) in [("n1", "a"), ("n1", "b"), ("n2", "c"), ("n2", "d")] {
        pods.push((host, lab.add(host, &WorkloadOptions::pod(name, "open"))?));
    }
    story.pass("four pods wired by weft-cni", &format!("{:.1} ms each", begun.elapsed().as_secs_f64() * 1e3 / 4.0));
    let _servers: Vec<HttpServer> =
        pods.iter().map(|(_, pod)| HttpServer::start(&pod.netns, 8080)).collect::<Result<_>>()?;
    let nodes = nodes(lab)?;
    story.check("pod → pod", || pod_to_pod(&pods));
    story.check("node → pod", || node_to_pod(&nodes, &pods));
    story.check("pod → node", || pod_to_node(&nodes, &pods));
    for (host, pod) in &pods {
        lab.del(host, pod)?;
    }
    Ok(())
}

fn get_as(netns: &std::path::Path, to: (Ipv4Addr, u16), expected: Ipv4Addr, what: &str) -> Result<()> {
    let seen = probe::get(netns, SocketAddr::from(to), PATIENCE).with_context(|| what.to_owned())?;
    ensure!(seen.client == expected, "{what}: seen as {} instead of {expected}", seen.client);
    Ok(())
}

fn pod_to_pod(pods: &[(&str, Workload)]) -> Result<String> {
    let mut pairs = 0;
    for (_, from) in pods {
        for (_, to) in pods.iter().filter(|(_, to)| to.ip != from.ip) {
            get_as(&from.netns, (to.ip, 8080), from.ip, &format!("{} → {}", from.ip, to.ip))?;
            pairs += 1;
        }
    }
    Ok(format!("{pairs} pairs, each seen as itself"))
}

fn node_to_pod(nodes: &[Node], pods: &[(&str, Workload)]) -> Result<String> {
    let mut pairs = 0;
    for node in nodes {
        for (host, to) in pods {
            // A host speaks to its own pods from the bridge, to others from its overlay address.
            let expected = if *host == node.name { node.gateway } else { node.overlay };
            get_as(&node.netns, (to.ip, 8080), expected, &format!("{} → {}", node.name, to.ip))?;
            pairs += 1;
        }
    }
    Ok(format!("{pairs} pairs"))
}

fn pod_to_node(nodes: &[Node], pods: &[(&str, Workload)]) -> Result<String> {
    let mut pairs = 0;
    for (_, from) in pods {
        for node in nodes {
            get_as(&from.netns, (node.overlay, NODE_PORT), from.ip, &format!("{} → {}", from.ip, node.name))?;
            pairs += 1;
        }
    }
    Ok(format!("{pairs} pairs, each seen as itself"))
}

/// Refused at once, and said why, to whom.
pub(super) fn refused(story: &mut Story, lab: &Lab, cast: &Cast) {
    story.chapter("An app on the Diego cell asks a web server in a Kubernetes pod: no policy");
    Story::quote(&format!(
        "app {} on c1 → web {}:8080 on n1 ({SHOP}), dns {}:53 on n2 ({DNS})",
        cast.app.ip, cast.web.ip, cast.dns.ip
    ));
    story.check("the request is refused at once", || {
        let begun = Instant::now();
        let error = cast.request().err().context("it was answered")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        Ok(format!("{error} after {:.1} ms", begun.elapsed().as_secs_f64() * 1e3))
    });
    story.check("so is the look-up", || {
        let error = cast.look_up().err().context("it was answered")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        Ok(error.to_string())
    });
    story.check("the denial is in n1's log, both groups named", || {
        let log = lab.host("n1").run_file("denials.log");
        let find = || {
            let text = std::fs::read_to_string(&log)?;
            let line =
                text.lines().find(|line| line.contains(APP) && line.contains(SHOP) && line.contains("ingress-denied"));
            line.map(str::to_owned).context("no such line yet")
        };
        let (line, _) = wait::until("the line", PATIENCE, find)?;
        Story::quote(&line);
        Ok("in the shape CF's iptables-logger writes".to_owned())
    });
    story.check("weft denials shows it", || {
        let shown = lab.weft_on("n1", &["denials"])?;
        let line = shown.lines().find(|line| line.contains(APP) && line.contains(SHOP)).context(shown.clone())?;
        Story::quote(line);
        Ok("both groups named".to_owned())
    });
    story.check("the kernel log shows it", || match std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        Err(error) => Ok(format!("not where it cannot be written: {error}")),
        Ok(_) => {
            let prefix: String = format!("DENY_C2C_{}", cast.web.container_id).chars().take(28).collect();
            let wanted = format!("SRC={} DST={}", cast.app.ip, cast.web.ip);
            let find = || {
                let log = crate::shell::sh("dmesg")?;
                let line = log.lines().rev().find(|line| line.contains(&prefix) && line.contains(&wanted));
                line.map(str::to_owned).context("no such line yet")
            };
            let (line, _) = wait::until("the line", PATIENCE, find)?;
            Story::quote(&line);
            Ok("dmesg | grep DENY".to_owned())
        }
    });
}

/// A policy opens the way.
pub(super) fn allowed(story: &mut Story, lab: &Lab, cast: &Cast) {
    story.chapter("A policy is POSTed");
    story.check("tcp 8080", || {
        let begun = Instant::now();
        lab.allow(APP, SHOP, "tcp", 8080)?;
        let (seen, _) = wait::until("the request to succeed", PATIENCE, || cast.request())?;
        let took = begun.elapsed();
        ensure!(seen.client == cast.app.ip, "seen as {}", seen.client);
        Ok(format!("answered {:.1} ms after the POST was sent, seen as {}", took.as_secs_f64() * 1e3, seen.client))
    });
    story.check("udp 53", || {
        let begun = Instant::now();
        lab.allow(APP, DNS, "udp", 53)?;
        let (address, _) = wait::until("the look-up to succeed", PATIENCE, || cast.look_up())?;
        ensure!(address == cast.web.ip, "resolved to {address}");
        Ok(format!(
            "{} resolved to {address}, {:.1} ms after the POST was sent",
            super::cast::NAME,
            begun.elapsed().as_secs_f64() * 1e3
        ))
    });
    story.check("other ports stay closed", || {
        let other = SocketAddr::from((cast.web.ip, 8081));
        let error = probe::connects(&cast.app.netns, other, PATIENCE).err().context("connected")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        // Refused by policy and not by a closed port: the denial counts.
        let counted = lab.host("n1").status()?.counters.get("policy").copied().unwrap_or(0);
        ensure!(counted >= 2, "counted {counted} denials");
        Ok(format!("{error}; n1 has counted {counted} denials"))
    });
}

/// Taking the policy back stops what runs.
pub(super) fn revoked(story: &mut Story, lab: &Lab, cast: &Cast) -> Result<()> {
    story.chapter("The policy is deleted while a transfer runs");
    let stream = Stream::start(&cast.app.netns, cast.web_address())?;
    story.check("the transfer runs", || {
        ensure!(stream.flows(PATIENCE), "no byte arrives");
        Ok(format!("{} bytes so far", stream.bytes()))
    });
    story.check("the transfer stops", || {
        let begun = Instant::now();
        lab.disallow(APP, SHOP, "tcp", 8080)?;
        // These hosts refuse what they deny, so whoever sends is told; a silence would prove nothing on a busy machine.
        wait::until_true("the transfer to be reset", PATIENCE, || {
            stream.send_byte();
            Ok(stream.broke())
        })?;
        Ok(format!(
            "it was reset, {} bytes in all, at most {} ms after the request",
            stream.bytes(),
            begun.elapsed().as_millis()
        ))
    });
    story.check("a new request is refused", || {
        let error = cast.request().err().context("it was answered")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        Ok(error.to_string())
    });
    lab.weft(&["policies", "allow", "--from", APP, "--to", SHOP, "--port", "8080", "--wait"])?;
    Ok(())
}

/// The data plane needs none of our processes.
pub(super) fn alone(story: &mut Story, lab: &mut Lab, cast: &Cast) -> Result<()> {
    story.chapter("Agents, etcd and policy server are killed");
    let stream = Stream::start(&cast.app.netns, cast.web_address())?;
    for host in ["n1", "n2", "c1"] {
        lab.host_mut(host).kill_agent()?;
    }
    lab.etcd.kill()?;
    lab.policy_server.kill()?;
    story.check("the running transfer goes on", || {
        ensure!(stream.flows(PATIENCE), "no byte arrives");
        Ok(format!("{} bytes so far", stream.bytes()))
    });
    story.check("new allowed requests are answered", || {
        cast.request()?;
        cast.look_up()?;
        Ok("tcp 8080 and udp 53".to_owned())
    });
    story.check("what was denied stays denied", || {
        // Somebody listens there: who is refused is refused by policy.
        let _listener = HttpServer::start(&cast.dns.netns, 8080)?;
        let denied = SocketAddr::from((cast.dns.ip, 8080));
        let error = probe::connects(&cast.app.netns, denied, PATIENCE).err().context("connected")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        Ok(error.to_string())
    });
    story.chapter("The agent comes back; etcd does not");
    story.check("it is ready with what it kept", || {
        let host = lab.host_mut("n1");
        host.start_agent()?;
        let took = host.wait_ready(PATIENCE)?;
        let status = host.status()?;
        ensure!(!status.store.connected, "the store answers?");
        Ok(format!("lease {} ({}), after {} ms", status.lease, status.subnet.context("no subnet")?, took.as_millis()))
    });
    story.check("the transfer did not notice", || {
        ensure!(!stream.broke() && stream.flows(PATIENCE), "it broke");
        Ok(format!("{} bytes so far", stream.bytes()))
    });
    let begun = Instant::now();
    let pod = lab.add("n1", &WorkloadOptions::pod("late", "shop"));
    let took = begun.elapsed();
    story.check("a new ADD is served", || {
        let pod = pod.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let _server = HttpServer::start(&pod.netns, 8080)?;
        // The cell's agent is still dead: its app is judged by n1's new workload alone.
        probe::get(&cast.app.netns, SocketAddr::from((pod.ip, 8080)), PATIENCE)?;
        Ok(format!(
            "{} in {:.1} ms; the app reaches it, as the policy for its namespace says",
            pod.ip,
            took.as_secs_f64() * 1e3
        ))
    });
    if let Ok(pod) = &pod {
        lab.del("n1", pod)?;
    }
    Ok(())
}

/// The store returns.
pub(super) fn together_again(story: &mut Story, lab: &mut Lab, cast: &Cast) -> Result<()> {
    story.chapter("etcd, the policy server and the other agents return");
    lab.etcd.restart()?;
    lab.policy_server.restart()?;
    for host in ["n2", "c1"] {
        lab.host_mut(host).start_agent()?;
    }
    story.check("all hosts hold their leases", || {
        let took = wait::until_true("three held leases", PATIENCE, || {
            let mut held = true;
            for host in lab.hosts() {
                let status = host.status()?;
                held &= status.store.connected && status.lease == "held" && status.peers.len() == 2;
            }
            Ok(held)
        })?;
        Ok(format!("in step again after {} ms", took.as_millis()))
    });
    story.check("a change is enforced everywhere", || {
        let begun = Instant::now();
        lab.weft(&["policies", "deny", "--from", APP, "--to", SHOP, "--port", "8080", "--wait"])?;
        let took = begun.elapsed();
        let error = cast.request().err().context("it was answered")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        Ok(format!("`weft policies deny --wait` took {} ms; the request is refused", took.as_millis()))
    });
    story.check("workloads end", || {
        for (host, workload) in [("n1", &cast.web), ("n2", &cast.dns), ("c1", &cast.app)] {
            crate::workload::del_call(lab.host(host), workload).expect(lab.host(host))?;
        }
        for host in lab.hosts() {
            // A DEL goes on without an agent that is slow to answer, and leaves it a note.
            wait::until_true("no endpoint to be left", PATIENCE, || Ok(host.endpoints()?.is_empty()))
                .with_context(|| host.name().to_owned())?;
        }
        Ok("three DELs; no host has an endpoint left".to_owned())
    });
    Ok(())
}
