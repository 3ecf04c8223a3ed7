//! Running programs and reporting what they said when they fail. The lab uses `ip`, `nsenter` and so
//! on, not weft's own code, so that what is tested is seen by an independent eye.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a command given as one line (no quoting) and returns its stdout.
///
/// # Errors
/// It cannot be started, or fails: its line, status and stderr.
pub fn sh(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("empty command")?;
    output(Command::new(program).args(words))
}

/// As [`sh`], in a network namespace.
///
/// # Errors
/// As [`sh`].
pub fn sh_in(netns: &Path, line: &str) -> Result<String> {
    sh(&format!("nsenter --net={} {line}", netns.display()))
}

/// Runs a command and returns its stdout.
///
/// # Errors
/// It cannot be started, or fails: its line, status, stdout and stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{command:?}: {status}\n{}{}", stdout.trim(), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(stdout)
}

/// A command that runs in a network namespace.
#[must_use]
pub fn command_in(netns: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).arg("--").arg(program);
    command
}

/// The path of a binary of ours: next to the running one (or, for tests, one folder above), or in the
/// folder `WEFT_BIN` names.
///
/// # Errors
/// It is not there; says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("WEFT_BIN").map(PathBuf::from).into_iter().collect();
    let own = std::env::current_exe()?;
    folders.extend(own.ancestors().skip(1).take(2).map(Path::to_path_buf));
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is in none of {folders:?}: run `make build`"))
}
