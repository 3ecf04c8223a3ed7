//! ADD and DEL, exec to exit, in turn with Debian's plugins on a host of the same machine: with bridge and
//! host-local, then with two mapped ports and portmap besides. After each of our ADDs a probe that policy
//! denies is sent and must be refused.

use super::Summary;
use super::debian::{self, Chain};
use super::stats::median_with_bounds;
use crate::lab::Lab;
use crate::probe::{connects, inside};
use crate::shell::{binary, sh, sh_in};
use crate::underlay::{add_netns, netns, prefix};
use crate::workload::{CniCall, Workload};
use crate::workload::{WorkloadOptions, add_call, address, del_call};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PAIRS: usize = 40;

pub(super) fn measure(lab: &mut Lab, summary: &mut Summary) -> Result<()> {
    add_netns(&lab.name, debian::HOST)?;
    // What portmap needs of its host, and kube-proxy or Docker has set anywhere else.
    sh_in(&netns(&lab.name, debian::HOST), "sysctl -qw net.ipv4.ip_forward=1")?;
    let plain = WorkloadOptions::app("bench", "3b1c");
    let mappings = json!([
        {"hostPort": 61_001, "containerPort": 8080, "protocol": "tcp"},
        {"hostPort": 61_002, "containerPort": 53, "protocol": "udp"}
    ]);
    let mapped = plain.clone().with("portMappings", mappings.clone());
    compare(lab, &plain, None, ["cni_add", "cni_del"], summary)?;
    compare(lab, &mapped, Some(&mappings), ["cni_add_portmap", "cni_del_portmap"], summary)
}

/// ADD and DEL of one kind of workload, in turn.
fn compare(
    lab: &mut Lab,
    options: &WorkloadOptions,
    mappings: Option<&Value>,
    names: [&str; 2],
    summary: &mut Summary,
) -> Result<()> {
    let prober = lab.add("c1", &WorkloadOptions::app("prober", "ffff"))?;
    let (mut adds, mut dels) = (Pairs::default(), Pairs::default());
    // One pair to warm caches, not counted.
    for pair in 0..=PAIRS {
        let (ours_add, ours_del) = ours(lab, options, &prober)?;
        let (debian_add, debian_del) = debians(lab, pair, mappings)?;
        if pair > 0 {
            adds.push(ours_add, debian_add);
            dels.push(ours_del, debian_del);
        }
    }
    lab.del("c1", &prober)?;
    adds.report(names[0], summary);
    dels.report(names[1], summary);
    Ok(())
}

#[derive(Default)]
struct Pairs {
    ours: Vec<f64>,
    debian: Vec<f64>,
}

impl Pairs {
    fn push(&mut self, ours: Duration, debian: Duration) {
        self.ours.push(ours.as_secs_f64() * 1e3);
        self.debian.push(debian.as_secs_f64() * 1e3);
    }

    fn report(&self, name: &str, summary: &mut Summary) {
        let ratios: Vec<f64> = self.ours.iter().zip(&self.debian).map(|(ours, debian)| ours / debian).collect();
        let (ratio, low, high) = median_with_bounds(&ratios);
        summary.insert(format!("{name}_ratio"), ratio);
        summary.insert(format!("{name}_ratio_low"), low);
        summary.insert(format!("{name}_ratio_high"), high);
        summary.insert(format!("{name}_ms"), median_with_bounds(&self.ours).0);
        summary.insert(format!("{name}_debian_ms"), median_with_bounds(&self.debian).0);
    }
}

/// One workload of ours: times of ADD and DEL.
fn ours(lab: &mut Lab, options: &WorkloadOptions, prober: &Workload) -> Result<(Duration, Duration)> {
    let (id, workload_ns) = lab.container("c1", "bench")?;
    let host = lab.host("c1");
    let plugin = binary("weft-cni")?;
    let call = add_call(host, options, &id, &workload_ns);
    let (added, result) = timed(&host.netns, &plugin, &call)?;
    let ip = address(&result)?;
    let denied = connects(&prober.netns, SocketAddr::from((ip, 8080)), Duration::from_secs(1));
    ensure!(denied.is_err(), "a denied probe went through");
    ensure!(host.status()?.counters.get("policy").is_some_and(|count| *count > 0), "the probe was not judged");
    let workload = Workload { options: options.clone(), container_id: id, netns: workload_ns.clone(), ip, result };
    let (deleted, _) = timed(&host.netns, &plugin, &del_call(host, &workload))?;
    crate::lab::remove_netns(&workload)?;
    Ok((added, deleted))
}

/// One workload of Debian's plugins.
fn debians(lab: &Lab, number: usize, mappings: Option<&Value>) -> Result<(Duration, Duration)> {
    let name = format!("{}debian-{number}", prefix(&lab.name));
    sh(&format!("ip netns add {name}"))?;
    let mut chain = Chain::new(lab, &format!("debian-{number}"), &Path::new("/run/netns").join(&name), mappings);
    let took = (chain.add()?, chain.del()?);
    sh(&format!("ip netns del {name}"))?;
    Ok(took)
}

/// Runs a plugin from a thread that is in the host's namespace already: exec to exit is the plugin's.
pub(super) fn timed(host: &Path, plugin: &Path, call: &CniCall) -> Result<(Duration, Value)> {
    let stdin = serde_json::to_vec(&call.stdin)?;
    inside(host, || {
        let start = Instant::now();
        let mut child = Command::new(plugin)
            .env_clear()
            .env("CNI_COMMAND", &call.command)
            .env("CNI_CONTAINERID", &call.container_id)
            .env("CNI_NETNS", &call.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", debian::FOLDER)
            // portmap starts iptables.
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_ARGS", &call.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", plugin.display()))?;
        child.stdin.take().context("no stdin")?.write_all(&stdin)?;
        let output = child.wait_with_output()?;
        let took = start.elapsed();
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{} {}: {text}", plugin.display(), call.command);
        Ok((took, serde_json::from_str(&text).unwrap_or(Value::Null)))
    })?
}
