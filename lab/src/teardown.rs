//! Removing a lab by name, and looking whether anything is left: what made it may be dead.

use crate::shell::sh;
use crate::underlay::prefix;
use crate::wait::PATIENCE;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where labs keep their folders.
pub const ROOT: &str = "/run/weft-lab";

/// The folder of a lab.
#[must_use]
pub fn folder(lab: &str) -> PathBuf {
    Path::new(ROOT).join(lab)
}

/// Names of all labs that have left a folder.
#[must_use]
pub fn labs() -> Vec<String> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Removes everything of a lab; goes on over errors and reports them together. Does not return once a
/// signal has begun to remove it.
///
/// # Errors
/// What could not be removed.
pub fn down(lab: &str) -> Result<()> {
    crate::signals::stop_if_ending();
    let removed = remove(lab);
    crate::signals::stop_if_ending();
    removed
}

/// As [`down`], for the thread that a signal woke.
pub(crate) fn remove(lab: &str) -> Result<()> {
    let mut complaints = Vec::new();
    // Again and again: one that was started while we looked may have been missed, and one that ends by itself is gone.
    let gone = crate::wait::until("the lab's processes to end", PATIENCE, || {
        let left: Vec<(Pid, nix::Result<()>)> =
            processes(lab).into_iter().map(|pid| (pid, kill(pid, Signal::SIGKILL))).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    complaints.extend(gone.err().map(|error| error.to_string()));
    for netns in namespaces(lab) {
        complaints.extend(sh(&format!("ip netns del {netns}")).err().map(|error| error.to_string()));
    }
    for mount in mounts(lab) {
        // Busy for a moment after the agent's end: the kernel lets go of its maps and links behind its back.
        let what = format!("{} to be unmounted", mount.display());
        let gone = crate::wait::until(&what, PATIENCE, || nix::mount::umount(&mount));
        complaints.extend(gone.err().map(|error| error.to_string()));
    }
    let folder = folder(lab);
    if folder.exists() {
        complaints.extend(fs::remove_dir_all(&folder).err().map(|error| format!("{}: {error}", folder.display())));
    }
    anyhow::ensure!(complaints.is_empty(), "could not remove all of lab {lab}:\n  {}", complaints.join("\n  "));
    Ok(())
}

/// What is left of a lab, a line each; empty is clean.
#[must_use]
pub fn leftovers(lab: &str) -> Vec<String> {
    let mut left: Vec<String> = namespaces(lab).into_iter().map(|name| format!("namespace {name}")).collect();
    left.extend(processes(lab).into_iter().map(|pid| format!("process {pid}")));
    left.extend(mounts(lab).into_iter().map(|path| format!("mount {}", path.display())));
    if folder(lab).exists() {
        left.push(format!("folder {}", folder(lab).display()));
    }
    left
}

/// Named namespaces of a lab, hosts' and workloads'.
fn namespaces(lab: &str) -> Vec<String> {
    let prefix = prefix(lab);
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
}

/// Processes that live in one of the lab's network namespaces. Never ourselves: a thread of the lab
/// that visits a namespace is no process.
fn processes(lab: &str) -> Vec<Pid> {
    let inodes: BTreeSet<PathBuf> = namespaces(lab)
        .iter()
        .filter_map(|name| fs::metadata(Path::new("/run/netns").join(name)).ok())
        .map(|metadata| PathBuf::from(format!("net:[{}]", std::os::unix::fs::MetadataExt::ino(&metadata))))
        .collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != i32::try_from(std::process::id()).unwrap_or(0))
        .filter(|pid| {
            let inside = fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| inodes.contains(&link));
            inside || names_folder(*pid, lab)
        })
        .filter(|pid| alive(*pid))
        .map(Pid::from_raw)
        .collect()
}

/// Whether a process was given a path of the lab's folder: an agent whose namespace's name is gone.
fn names_folder(pid: i32, lab: &str) -> bool {
    let folder = format!("{}/", folder(lab).display());
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&folder))
}

/// Whether a thread of it is no zombie: those hold nothing and go with their parent. The first one may be
/// while others still end, in the middle of what they write.
fn alive(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .any(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])))
}

/// bpffs mounts below the lab's folder.
fn mounts(lab: &str) -> Vec<PathBuf> {
    let folder = folder(lab);
    let table = fs::read_to_string("/proc/self/mounts").context("mounts").unwrap_or_default();
    let paths = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    paths.filter(|path| path.starts_with(&folder)).collect()
}
