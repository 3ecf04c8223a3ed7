//! The benchmarks: against Debian's plugins in the same run, in turn, as ratios; written to
//! `target/bench/summary.json`.

mod apart;
mod cni;
mod debian;
mod denials;
mod frame;
mod parallel;
mod policies;
mod programs;
mod propagation;
mod stats;
mod traffic;

use crate::lab::{Lab, LabOptions};
use crate::terminal::tell;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Name → number.
pub(crate) type Summary = BTreeMap<String, f64>;

/// Measures something in a lab.
type Measure = fn(&mut Lab, &mut Summary) -> Result<()>;

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// A packet in each program, by test runs
    Programs,
    /// ADD and DEL
    Cni,
    /// New flows under many policies, beside iptables rules
    Policies,
    /// From the POST of a policy to the first packet
    Propagation,
    /// Round trips and throughput
    Traffic,
    /// Records of denials
    Denials,
}

/// Measures what is named, or everything, prints the table and writes the summary; what is not measured
/// stays in it as it was.
///
/// # Errors
/// The lab cannot be made, or something that is measured does not work.
pub fn run(parts: &[Part]) -> Result<()> {
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let mut summary = Summary::new();
    if wanted(Part::Programs) {
        // Before there is a lab whose traffic would disturb it.
        programs::measure(&mut summary)?;
    }
    if parts.iter().any(|part| *part != Part::Programs) || parts.is_empty() {
        in_lab(wanted, &mut summary)?;
    }
    tell_and_write(&summary)
}

fn in_lab(wanted: impl Fn(Part) -> bool, summary: &mut Summary) -> Result<()> {
    let mut options = LabOptions::three(&LabOptions::unique_name("bench"));
    options.durable = true;
    for host in &mut options.hosts {
        // A denied probe is answered at once, so that probes are a millisecond apart.
        // Hundreds of addresses are used within seconds.
        host.flags = ["--deny", "reject", "--address-cool-down", "1"].map(str::to_owned).into();
    }
    let mut lab = Lab::up(options)?;
    let all: [(Part, Measure); 6] = [
        (Part::Cni, cni::measure),
        (Part::Cni, parallel::measure),
        (Part::Policies, policies::measure),
        (Part::Propagation, propagation::measure),
        (Part::Traffic, traffic::measure),
        (Part::Denials, denials::measure),
    ];
    for (_, measure) in all.iter().filter(|(part, _)| wanted(*part)) {
        measure(&mut lab, summary)?;
    }
    lab.down()
}

fn tell_and_write(summary: &Summary) -> Result<()> {
    for (name, number) in summary {
        tell(&format!("{name:<54} {number:>14.3}"));
    }
    let folder = Path::new("target/bench");
    std::fs::create_dir_all(folder).context("run this in the project's folder")?;
    let path = folder.join("summary.json");
    let before = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Summary>(&bytes).ok());
    let all: Summary = before.unwrap_or_default().into_iter().chain(summary.clone()).collect();
    std::fs::write(&path, serde_json::to_vec_pretty(&all)?)?;
    tell("written to target/bench/summary.json");
    Ok(())
}
