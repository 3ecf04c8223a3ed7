//! From the POST of a policy to the first packet through on every host: probes a millisecond apart,
//! from an app on the cell to a workload of one group on each host.

use super::Summary;
use super::stats::quantile;
use crate::lab::Lab;
use crate::probe::{HttpServer, connects};
use crate::wait;
use crate::workload::{Dialect, WorkloadOptions};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: usize = 100;
const APP: &str = "bench-app";
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn measure(lab: &mut Lab, summary: &mut Summary) -> Result<()> {
    let app = lab.add("c1", &WorkloadOptions::app("app", APP))?;
    // An app GUID may be named by pods of listed namespaces only; so each host has its own group, and
    // one POST names all three.
    let targets = [("n1", pod("a")), ("n2", pod("b")), ("c1", WorkloadOptions::app("c", "bench-target"))];
    let mut servers = Vec::new();
    for (host, options) in &targets {
        let workload = lab.add(host, options)?;
        let group = options.group().context("a group")?;
        // Isolate it whatever the host's kind.
        lab.allow("monitoring", &group, "tcp", 9100)?;
        servers.push((HttpServer::start(&workload.netns, 8080)?, SocketAddr::from((workload.ip, 8080)), group));
    }
    let addresses: Vec<SocketAddr> = servers.iter().map(|(_, address, _)| *address).collect();
    let body = body(servers.iter().map(|(_, _, group)| group.as_str()));
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        opened.push(change(lab, &app.netns, &addresses, "/networking/v1/external/policies", &body, true)?);
        closed.push(change(lab, &app.netns, &addresses, "/networking/v1/external/policies/delete", &body, false)?);
    }
    for (name, samples) in [("policy_propagation", &opened), ("policy_revocation", &closed)] {
        summary.insert(format!("{name}_p50_ms"), quantile(samples, 0.5));
        summary.insert(format!("{name}_p99_ms"), quantile(samples, 0.99));
    }
    Ok(())
}

fn pod(group: &str) -> WorkloadOptions {
    let dialect = Dialect::Containerd { namespace: "bench".to_owned(), group: Some(group.to_owned()) };
    WorkloadOptions::new(group, dialect)
}

fn body<'a>(groups: impl Iterator<Item = &'a str>) -> String {
    let policies: Vec<_> = groups
        .map(|group| {
            let destination =
                serde_json::json!({"id": group, "protocol": "tcp", "ports": {"start": 8080, "end": 8080}});
            serde_json::json!({"source": {"id": APP}, "destination": destination})
        })
        .collect();
    serde_json::json!({ "policies": policies }).to_string()
}

/// Sends the change; milliseconds until every host judges accordingly.
fn change(lab: &Lab, from: &Path, to: &[SocketAddr], path: &str, body: &str, open: bool) -> Result<f64> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let probes: Vec<_> =
            to.iter().map(|address| scope.spawn(move || judged(from, *address, open, start))).collect();
        let (status, answer) = lab.rest("POST", path, Some(body))?;
        ensure!(status == 200, "{path}: {status}: {answer}");
        let mut last = Duration::ZERO;
        for probe in probes {
            let took = probe.join().map_err(|_panic| anyhow::anyhow!("a probe panicked"))??;
            last = last.max(took);
        }
        Ok(last.as_secs_f64() * 1e3)
    })
}

fn judged(from: &Path, to: SocketAddr, open: bool, start: Instant) -> Result<Duration> {
    wait::until("the change to be in force", LIMIT, || {
        let connected = connects(from, to, Duration::from_millis(20)).is_ok();
        std::thread::sleep(Duration::from_millis(1));
        if connected == open { Ok(()) } else { Err("not yet") }
    })?;
    Ok(start.elapsed())
}
