//! Finds what can compile and link for bpf: bpf-linker, and a compiler of the same or an older LLVM.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to do about a missing tool.
pub(crate) const HINT: &str = "run `make setup`, or install bpf-linker 0.13 and either a rustup nightly with rust-src, \
     or Debian's rustc-web, cargo-web and libstd-rust-web-dev-bpf (WEFT_BPF_LINKER, WEFT_EBPF_RUSTC and \
     WEFT_EBPF_CARGO name other ones)";

/// A compiler to try.
pub(crate) struct Toolchain {
    /// For messages.
    pub(crate) name: String,
    /// The cargo to run.
    pub(crate) cargo: PathBuf,
    /// Arguments in front of `build`.
    pub(crate) cargo_prefix: Vec<&'static str>,
    /// Arguments after it.
    pub(crate) build_args: Vec<&'static str>,
    /// Variables to set.
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// bpf-linker: `WEFT_BPF_LINKER`, PATH, then the folder `make setup` installs it in.
pub(crate) fn linker() -> Result<PathBuf, String> {
    for variable in ["WEFT_BPF_LINKER", "PATH", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Some(path) = env::var_os("WEFT_BPF_LINKER").map(PathBuf::from) {
        let missing = || format!("WEFT_BPF_LINKER is {}, where there is no file", path.display());
        return path.is_file().then(|| path.clone()).ok_or_else(missing);
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .chain(cache.map(|cache| cache.join("weft/bpf-linker-0.13.0/bin")))
        .map(|folder| folder.join("bpf-linker"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!("the kernel programs need bpf-linker, which is neither on PATH nor in ~/.cache/weft: {HINT}")
        })
}

/// The toolchains of this machine, the preferred first.
pub(crate) fn candidates() -> Vec<Toolchain> {
    println!("cargo::rerun-if-env-changed=WEFT_EBPF_RUSTC");
    println!("cargo::rerun-if-env-changed=WEFT_EBPF_CARGO");
    if let Some(rustc) = env::var_os("WEFT_EBPF_RUSTC").map(PathBuf::from) {
        return with_rustc(rustc).into_iter().collect();
    }
    let debian = PathBuf::from("/usr/bin/rustc");
    nightly().into_iter().chain(debian.is_file().then(|| with_rustc(debian)).flatten()).collect()
}

/// rustup's nightly, if it has the standard library's source.
fn nightly() -> Option<Toolchain> {
    let sysroot = stdout(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    has_source(Path::new(&sysroot)).then(|| Toolchain {
        name: "rustup's nightly".to_owned(),
        cargo: PathBuf::from("rustup"),
        cargo_prefix: vec!["run", "nightly", "cargo"],
        build_args: vec!["-Z", "build-std=core"],
        env: Vec::new(),
    })
}

/// A compiler that is given by its path, with the cargo beside it: core comes precompiled or is
/// built from source. aya-ebpf uses unstable features, hence the bootstrap switch.
fn with_rustc(rustc: PathBuf) -> Option<Toolchain> {
    let sysroot = PathBuf::from(stdout(Command::new(&rustc).args(["--print", "sysroot"]))?);
    let precompiled = sysroot.join("lib/rustlib/bpfel-unknown-none").is_dir();
    if !precompiled && !has_source(&sysroot) {
        return None;
    }
    let cargo = env::var_os("WEFT_EBPF_CARGO").map_or_else(|| rustc.with_file_name("cargo"), PathBuf::from);
    Some(Toolchain {
        name: rustc.display().to_string(),
        cargo,
        cargo_prefix: Vec::new(),
        build_args: if precompiled { Vec::new() } else { vec!["-Z", "build-std=core"] },
        env: vec![("RUSTC", rustc.into_os_string()), ("RUSTC_BOOTSTRAP", "1".into())],
    })
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}

fn stdout(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
