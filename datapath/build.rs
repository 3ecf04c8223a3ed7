//! Builds the kernel programs (package `weft-ebpf`) and leaves the object in `OUT_DIR/weft.o`.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};
use toolchain::Toolchain;

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    if let Err(message) = run() {
        println!("cargo::error={}", message.replace('\n', " / "));
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run by cargo only")?);
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    for input in ["ebpf/src", "ebpf/Cargo.toml", "abi/src", "abi/Cargo.toml", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    let linker = toolchain::linker()?;
    let mut failures = Vec::new();
    for candidate in toolchain::candidates() {
        match build(&candidate, &linker, &workspace, &out) {
            Ok(()) => return Ok(()),
            Err(failure) => failures.push(format!("with {}: {failure}", candidate.name)),
        }
    }
    if failures.is_empty() {
        return Err(format!(
            "the kernel programs need a Rust toolchain that knows {TARGET}, and there is none: {}",
            toolchain::HINT
        ));
    }
    Err(format!("the kernel programs do not build. {}", failures.join("; ")))
}

/// Runs the inner cargo; what the outer one tells its children about itself must not reach it.
fn build(toolchain: &Toolchain, linker: &Path, workspace: &Path, out: &Path) -> Result<(), String> {
    let target_dir = out.join("ebpf");
    let flags = [
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // Else every memset is a call of a loop that writes byte by byte.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // aya-ebpf asks for which machine's registers the kernel's are; ours use none.
        format!("--cfg=bpf_target_arch=\"{}\"", env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default()),
    ];
    let mut cargo = Command::new(&toolchain.cargo);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let keep =
            name_text == "CARGO_HOME" || name_text.starts_with("CARGO_NET_") || name_text.starts_with("CARGO_HTTP_");
        if !keep
            && (name_text.starts_with("CARGO")
                || name_text.starts_with("RUSTC")
                || matches!(
                    &*name_text,
                    "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" | "CLIPPY_ARGS" | "TARGET" | "HOST" | "OUT_DIR" | "PROFILE"
                ))
        {
            cargo.env_remove(&name);
        }
    }
    cargo
        .args(&toolchain.cargo_prefix)
        .args(["build", "--quiet", "--package", "weft-ebpf", "--profile", "ebpf", "--target", TARGET])
        .args(&toolchain.build_args)
        .arg("--manifest-path")
        .arg(workspace.join("ebpf/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .envs(toolchain.env.iter().map(|(name, value)| (name, value)));
    let output = cargo.output().map_err(|error| format!("{}: {error}", toolchain.cargo.display()))?;
    if !output.status.success() {
        return Err(last_lines(&String::from_utf8_lossy(&output.stderr), 40));
    }
    let object = target_dir.join(TARGET).join("ebpf/weft-ebpf");
    fs::copy(&object, out.join("weft.o")).map_err(|error| format!("{}: {error}", object.display()))?;
    Ok(())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
