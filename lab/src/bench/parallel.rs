//! A hundred ADDs at once, then a hundred DELs at once, ours and Debian's bridge and host-local in turn:
//! what a node does that starts or is drained. Besides, what CHECK and STATUS take of an idle machine.

use super::Summary;
use super::cni::timed;
use super::debian;
use super::stats::{median_with_bounds, quantile};
use crate::lab::Lab;
use crate::shell::{binary, sh};
use crate::underlay::{netns, prefix};
use crate::workload::{CniCall, WorkloadOptions, add_call};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const AT_ONCE: usize = 100;
const ROUNDS: usize = 5;
const CALLS: usize = 40;

/// One side: whose plugin, in which host's namespace.
struct Side {
    plugin: PathBuf,
    host: PathBuf,
}

/// What a hundred calls took.
struct Burst {
    /// Exec to exit of the slowest but one, ms.
    p99: f64,
    /// From the first start to the last exit, ms.
    total: f64,
    results: Vec<Value>,
}

pub(super) fn measure(lab: &mut Lab, summary: &mut Summary) -> Result<()> {
    let ours = Side { plugin: binary("weft-cni")?, host: lab.host("c1").netns.clone() };
    let debian = Side { plugin: debian::plugin("bridge"), host: netns(&lab.name, debian::HOST) };
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("{}at-once-{number}", prefix(&lab.name))).collect();
    for name in &names {
        sh(&format!("ip netns add {name}"))?;
    }
    let options = WorkloadOptions::app("burst", "3b1c");
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        let host = lab.host("c1");
        let id = |number| format!("burst-{round}-{number}");
        let mine = |(number, name): (usize, &String)| add_call(host, &options, &id(number), &path(name));
        let theirs = |(number, name): (usize, &String)| debian::bridge(lab, &id(number), &path(name));
        let (mine, theirs): (Vec<_>, Vec<_>) =
            (names.iter().enumerate().map(mine).collect(), names.iter().enumerate().map(theirs).collect());
        let (our_add, our_del) = both(&ours, mine)?;
        ensure!(host.endpoints()?.is_empty(), "a DEL left something");
        let (their_add, their_del) = both(&debian, theirs)?;
        rounds.push("cni_add_parallel_p99", our_add.p99, their_add.p99);
        rounds.push("cni_add_parallel_total", our_add.total, their_add.total);
        rounds.push("cni_del_parallel_p99", our_del.p99, their_del.p99);
        rounds.push("cni_del_parallel", our_del.total, their_del.total);
    }
    for name in &names {
        sh(&format!("ip netns del {name}"))?;
    }
    rounds.report(summary);
    #[expect(clippy::cast_precision_loss, reason = "a few million")]
    summary.insert("cni_plugin_bytes".to_owned(), std::fs::metadata(&ours.plugin)?.len() as f64);
    idle(lab, &ours, summary)
}

fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// All ADDs, then all DELs.
fn both(side: &Side, mut calls: Vec<CniCall>) -> Result<(Burst, Burst)> {
    let added = burst(side, &calls)?;
    for (call, result) in calls.iter_mut().zip(&added.results) {
        call.command = "DEL".to_owned();
        call.stdin["prevResult"] = result.clone();
    }
    Ok((added, burst(side, &calls)?))
}

fn burst(side: &Side, calls: &[CniCall]) -> Result<Burst> {
    let start = Barrier::new(calls.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .map(|call| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    timed(&side.host, &side.plugin, call)
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_panic| anyhow::anyhow!("a panic"))?);
        let done: Vec<(Duration, Value)> = joined.collect::<Result<_>>()?;
        let total = began.elapsed().as_secs_f64() * 1e3;
        let each: Vec<f64> = done.iter().map(|(took, _)| took.as_secs_f64() * 1e3).collect();
        Ok(Burst { p99: quantile(&each, 0.99), total, results: done.into_iter().map(|(_, result)| result).collect() })
    })
}

/// Pairs of numbers by name.
#[derive(Default)]
struct Rounds(std::collections::BTreeMap<&'static str, Vec<(f64, f64)>>);

impl Rounds {
    fn push(&mut self, name: &'static str, ours: f64, debian: f64) {
        self.0.entry(name).or_default().push((ours, debian));
    }

    fn report(&self, summary: &mut Summary) {
        for (name, pairs) in &self.0 {
            let of = |value: fn(&(f64, f64)) -> f64| pairs.iter().map(value).collect::<Vec<_>>();
            let (ratio, low, high) = median_with_bounds(&of(|(ours, debian)| ours / debian));
            summary.insert(format!("{name}_ratio"), ratio);
            summary.insert(format!("{name}_ratio_low"), low);
            summary.insert(format!("{name}_ratio_high"), high);
            summary.insert(format!("{name}_ms"), median_with_bounds(&of(|(ours, _)| *ours)).0);
            summary.insert(format!("{name}_debian_ms"), median_with_bounds(&of(|(_, debian)| *debian)).0);
        }
    }
}

/// CHECK and STATUS, one at a time.
fn idle(lab: &mut Lab, ours: &Side, summary: &mut Summary) -> Result<()> {
    let workload = lab.add("c1", &WorkloadOptions::app("idle", "3b1c"))?;
    let mut call = add_call(lab.host("c1"), &workload.options, &workload.container_id, &workload.netns);
    call.stdin["prevResult"] = workload.result.clone();
    call.stdin["cniVersion"] = "1.1.0".into();
    for (command, name) in [("CHECK", "cni_check_ms"), ("STATUS", "cni_status_ms")] {
        call.command = command.to_owned();
        let took = |_| Ok(timed(&ours.host, &ours.plugin, &call)?.0.as_secs_f64() * 1e3);
        let samples = (0..CALLS).map(took).collect::<Result<Vec<f64>>>().context(name)?;
        summary.insert(name.to_owned(), median_with_bounds(&samples).0);
    }
    lab.del("c1", &workload)
}
