//! The crate graph is the one ARCHITECTURE.md shows: who may import whom, and what never.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate → the workspace crates it may import. `*`: all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("agent", &["model", "api", "ipam", "hostnet", "datapath", "store", "policy-server"]),
    ("api", &["model"]),
    ("cli", &["model", "api"]),
    ("cni-plugin", &["model", "api", "hostnet"]),
    ("datapath", &["model", "abi"]),
    ("ebpf", &["abi"]),
    ("hostnet", &["model"]),
    ("ipam", &["model"]),
    ("lab", &["*"]),
    ("model", &[]),
    ("policy-server", &["model", "api", "store"]),
    ("store", &["model", "api"]),
    ("tests", &["*"]),
];

/// Crate → foreign crates it must not have, directly or through others.
const NEVER: &[(&str, &[&str])] = &[
    ("model", &["tokio", "netlink-sys", "netlink-packet-route", "rtnetlink", "aya", "etcd-client", "nix"]),
    ("api", &["tokio", "netlink-sys", "aya", "etcd-client", "nix"]),
    ("datapath", &["etcd-client", "netlink-packet-route", "rtnetlink", "tokio"]),
    ("hostnet", &["aya", "etcd-client"]),
    ("store", &["aya", "netlink-sys", "netlink-packet-route", "rtnetlink"]),
    ("ipam", &["tokio", "netlink-sys", "aya", "etcd-client"]),
    ("cni-plugin", &["tokio", "aya", "etcd-client", "clap"]),
    ("policy-server", &["aya", "netlink-sys", "rtnetlink"]),
    ("cli", &["aya", "etcd-client", "netlink-sys", "rtnetlink"]),
];

/// Foreign crate → the only crate that may name it.
const ONLY_DOOR: &[(&str, &str)] = &[
    ("aya", "datapath"),
    ("aya-ebpf", "ebpf"),
    ("etcd-client", "store"),
    ("netlink-packet-core", "hostnet"),
    ("netlink-packet-route", "hostnet"),
    ("netlink-sys", "hostnet"),
    ("rtnetlink", "hostnet"),
];

fn metadata() -> Value {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path", manifest])
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Crate → names of its normal and build dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("a name").trim_start_matches("weft-").to_owned();
            let all = package["dependencies"].as_array().expect("dependencies");
            let shipped = all.iter().filter(|dependency| dependency["kind"] != "dev");
            let names = shipped.map(|dependency| dependency["name"].as_str().expect("a name").to_owned());
            (name, names.collect())
        })
        .collect()
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let actual = dependencies();
    assert_eq!(actual.keys().map(String::as_str).collect::<Vec<_>>(), allowed.keys().copied().collect::<Vec<_>>());
    for (name, dependencies) in &actual {
        let ours = dependencies.iter().filter_map(|dependency| dependency.strip_prefix("weft-"));
        for import in ours {
            let may = allowed[name.as_str()];
            assert!(may.contains(&import) || may == ["*"], "{name} must not import {import}");
        }
    }
}

#[test]
fn each_door_to_the_outside_is_one_crate() {
    for (name, dependencies) in dependencies() {
        for (foreign, door) in ONLY_DOOR {
            assert!(!dependencies.contains(*foreign) || name == *door, "{name} uses {foreign}; only {door} may");
        }
    }
}

/// With everything they pull in.
#[test]
fn forbidden_crates_are_not_even_pulled_in() {
    for (name, forbidden) in NEVER {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "-e", "normal", "--prefix", "none", "-p", &format!("weft-{name}")])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .expect("cargo tree");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout);
        let pulled: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        for foreign in *forbidden {
            assert!(!pulled.contains(foreign), "{name} pulls in {foreign}");
        }
    }
}

/// The folder is the package's name.
#[test]
fn folders_are_named_after_their_crates() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let manifest = package["manifest_path"].as_str().expect("a path");
        let folder = manifest.trim_end_matches("/Cargo.toml").rsplit('/').next().expect("a folder");
        assert_eq!(name, format!("weft-{folder}"));
    }
}
