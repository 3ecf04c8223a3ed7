//! Integration tests: one file a behaviour, real binaries on the real kernel.
//!
//! What several of them need is here; everything else is in the lab.

pub mod containerd;
pub mod frames;
pub mod hostile;
pub mod one_port;
pub mod ports;
pub mod tcx;

pub use weft_lab::wait::PATIENCE;
use weft_lab::{Host, HostOptions, Lab, LabOptions};

/// A lab of two Kubernetes hosts (`n1`, `n2`) and a cell (`c1`), ready, that refuses at once
/// everywhere.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn lab(stem: &str) -> Lab {
    lab_with(stem, |_| {})
}

/// As [`lab`], with changes to its hosts.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn lab_with(stem: &str, change: impl Fn(&mut HostOptions)) -> Lab {
    let mut options = LabOptions::three(&LabOptions::unique_name(stem));
    for host in &mut options.hosts {
        host.flags = vec!["--deny".to_owned(), "reject".to_owned()];
        change(host);
    }
    Lab::up(options).unwrap_or_else(|error| panic!("the lab: {error:#}"))
}

/// Waits until a host has so many endpoints after a DEL, which goes on without an agent that is slow to answer,
/// and leaves it a note.
///
/// # Panics
/// It keeps others.
#[track_caller]
pub fn wait_endpoints(host: &Host, count: usize) {
    let left = || {
        let endpoints = host.endpoints()?;
        anyhow::ensure!(endpoints.len() == count, "{endpoints:?}");
        Ok(())
    };
    weft_lab::wait::until(&format!("{count} endpoints to be left"), PATIENCE, left).unwrap_or_else(|e| panic!("{e:#}"));
}

/// The process of the plugin that was called for a container, while it runs.
#[must_use]
pub fn plugin_process(container_id: &str) -> Option<u32> {
    let wanted = format!("CNI_CONTAINERID={container_id}");
    let called_for = |id: &u32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(called_for)
}
