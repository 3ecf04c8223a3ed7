//! `uninstall`.

use super::Options;
use super::files::{draft_of, remove};
use super::manifest::{self, Manifest, Owner};
use crate::client::{Agent, Patience};
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_api::agent::EndpointView;

/// Removes what `install` put there and nobody changed since; the lines to print. The conflist goes
/// first: what is started meanwhile would find no plugin.
///
/// # Errors
/// Something of ours cannot be removed.
pub(super) fn uninstall(options: &Options) -> Result<String, String> {
    let _lock = manifest::lock(options)?;
    let manifest = Manifest::read(options)?;
    let mut said = String::new();
    for path in paths(options, &manifest) {
        said += &take(&manifest, &path)?;
        remove(&draft_of(&path)).map_err(|error| format!("cannot remove {}: {error}", draft_of(&path).display()))?;
    }
    Manifest::remove(options)?;
    Ok(said + &workloads(options))
}

/// The conflist, the binary, and a binary that was installed into another folder before.
fn paths(options: &Options, manifest: &Manifest) -> Vec<PathBuf> {
    let mut paths = vec![options.conflist(), options.binary()];
    let others = manifest.files.iter().map(|file| &file.path).filter(|path| !paths.contains(path));
    let others: Vec<PathBuf> = others.cloned().collect();
    paths.extend(others);
    paths
}

fn take(manifest: &Manifest, path: &Path) -> Result<String, String> {
    let shown = path.display();
    Ok(match manifest.owner(path)? {
        Owner::Nobody => format!("{shown} is not there\n"),
        Owner::Foreign if manifest.digests(path).is_empty() => {
            format!("{shown} was not put there by weft-cni install and stays\n")
        }
        Owner::Foreign => format!("{shown} was changed since weft-cni install and stays\n"),
        Owner::Ours => {
            remove(path).map_err(|error| format!("cannot remove {shown}: {error}"))?;
            format!("removed {shown}\n")
        }
    })
}

/// A runtime cannot take down what still runs.
fn workloads(options: &Options) -> String {
    let agent = Agent { socket: options.socket.clone(), patience: Patience::Once(Duration::from_secs(1)) };
    match agent.get::<Vec<EndpointView>>("/v1/endpoints") {
        Ok(endpoints) if !endpoints.is_empty() => format!(
            "note: {} workload(s) of weft still run here: their runtime finds no plugin when it ends them; weftd frees their addresses once their namespaces are gone\n",
            endpoints.len()
        ),
        _ => String::new(),
    }
}
