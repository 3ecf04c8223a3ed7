//! Integration tests: one file a behaviour, real binaries on the real kernel.
//!
//! What several of them need is here; everything else is in the lab.

use weft_lab::{Lab, LabOptions};

/// How long anything may take that normally takes milliseconds, on a machine that is busy.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// A lab of two Kubernetes hosts (`n1`, `n2`) and a cell (`c1`), ready, that refuses at once
/// everywhere.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn lab(stem: &str) -> Lab {
    let mut options = LabOptions::three(&LabOptions::unique_name(stem));
    for host in &mut options.hosts {
        host.flags = vec!["--deny".to_owned(), "reject".to_owned()];
    }
    Lab::up(options).unwrap_or_else(|error| panic!("the lab: {error:#}"))
}
