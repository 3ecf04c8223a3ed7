//! The benchmarks: against Debian's plugins in the same run, in turn, as ratios; written to
//! `target/bench/summary.json`.

mod cni;
mod propagation;
mod stats;

use crate::lab::{Lab, LabOptions};
use crate::terminal::tell;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Name → number.
pub(crate) type Summary = BTreeMap<String, f64>;

/// Measures everything, prints the table and writes the summary.
///
/// # Errors
/// The lab cannot be made, or something that is measured does not work.
pub fn run() -> Result<()> {
    let mut summary = Summary::new();
    let mut options = LabOptions::three(&LabOptions::unique_name("bench"));
    for host in &mut options.hosts {
        // A denied probe is answered at once, so that probes are a millisecond apart.
        host.flags = vec!["--deny".to_owned(), "reject".to_owned()];
    }
    let mut lab = Lab::up(options)?;
    cni::measure(&mut lab, &mut summary)?;
    propagation::measure(&mut lab, &mut summary)?;
    lab.down()?;
    for (name, number) in &summary {
        tell(&format!("{name:<36} {number:>10.3}"));
    }
    let folder = Path::new("target/bench");
    std::fs::create_dir_all(folder).context("run this in the project's folder")?;
    std::fs::write(folder.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?;
    tell("written to target/bench/summary.json");
    Ok(())
}
