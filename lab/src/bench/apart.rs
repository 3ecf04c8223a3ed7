//! A data plane apart from the host's: the benchmarks of programs need no lab.

use crate::shell::sh;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use weft_model::datapath::{DenyAction, Endpoint, Limited, SetId};
use weft_model::id::{Slot, Tag};
use weft_model::mac::Mac;

/// Moves the thread into namespaces of its own, which end with it, with a bpffs in the folder.
pub(super) fn isolate() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("root and namespaces are needed")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let folder = std::env::temp_dir();
    mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), none)?;
    sh("ip link set lo up")?;
    Ok(folder)
}

/// An isolated workload that drops what it is not to get.
pub(super) fn endpoint(slot: Slot, ip: Ipv4Addr, tag: Option<Tag>, set: SetId) -> Endpoint {
    Endpoint {
        slot,
        ip,
        mac: Mac::for_workload(ip),
        tag,
        set,
        isolated: true,
        hosts_may_reach: false,
        host_listed_only: false,
        deny: DenyAction::Drop,
        audit: false,
        limited: Limited::default(),
    }
}
