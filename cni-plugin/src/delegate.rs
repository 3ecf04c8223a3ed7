//! Running another plugin as the specification says ("Plugin Delegation"): found by its name in
//! `CNI_PATH`, with our environment and our stdin.

use crate::config::Config;
use crate::environment::{Command, Environment};
use crate::error::{CniError, Code};
use crate::result::CniResult;
use crate::version::Version;
use serde::Deserialize;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

/// Another plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    /// Its name, the config's `type` of it.
    pub kind: String,
}

/// An error object as plugins print it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    code: u32,
    msg: String,
    details: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    supported_versions: Vec<String>,
}

impl Delegate {
    /// The plugin of that name.
    ///
    /// # Errors
    /// Code 7 for what is no file name: nothing outside `CNI_PATH` is run.
    pub fn named(kind: &str) -> Result<Self, CniError> {
        if kind.contains('/') || kind == "." || kind == ".." {
            let msg = format!("invalid ipam.type {kind:?}: must be the name of a plugin in CNI_PATH");
            return Err(CniError::new(Code::InvalidConfig, msg));
        }
        Ok(Self { kind: kind.to_owned() })
    }

    /// Runs its ADD.
    ///
    /// # Errors
    /// Its error object, or why it could not be run; code 6 if what it printed is no result.
    pub fn add(&self, environment: &Environment, config: &Config) -> Result<CniResult, CniError> {
        let stdout = self.run(Command::Add, environment, config)?.unwrap_or_default();
        let value: Value = serde_json::from_slice(&stdout).map_err(|error| self.garbled(&error, &stdout))?;
        CniResult::read(&value).map_err(|error| self.garbled(&error, &stdout))
    }

    /// Runs another of its operations. One that it is too old for is a success: it has nothing to do.
    ///
    /// # Errors
    /// Its error object, or why it could not be run.
    pub fn call(&self, command: Command, environment: &Environment, config: &Config) -> Result<(), CniError> {
        self.run(command, environment, config).map(drop)
    }

    fn garbled(&self, error: &dyn std::fmt::Display, stdout: &[u8]) -> CniError {
        let shown: String = String::from_utf8_lossy(stdout).chars().take(200).collect();
        CniError::new(Code::Decoding, format!("ipam {} printed no result: {error}", self.kind)).details(shown)
    }

    /// Runs it in the config's version, or else in the newest that both know. `None`: it is too old to
    /// know the operation.
    fn run(&self, command: Command, environment: &Environment, config: &Config) -> Result<Option<Vec<u8>>, CniError> {
        let binary = self.find(&environment.path)?;
        let refusal = match self.exec(&binary, command, environment, &config.to_json())? {
            Ok(stdout) => return Ok(Some(stdout)),
            Err(refusal) => refusal,
        };
        if too_old(command, &refusal) {
            return Ok(None);
        }
        if refusal.code != Code::IncompatibleVersion as u32 {
            return Err(self.refused(refusal));
        }
        let known = self.versions(&binary, environment)?;
        let asked = config.version()?;
        let common = Version::ALL.into_iter().rev().find(|v| *v < asked && known.iter().any(|k| k == v.as_str()));
        match common {
            None => Err(self.refused(refusal)),
            Some(version) if version < since(command) => Ok(None),
            Some(version) => {
                let config = config.in_version(version)?;
                self.exec(&binary, command, environment, &config.to_json())?
                    .map(Some)
                    .map_err(|error| self.refused(error))
            }
        }
    }

    fn refused(&self, Refusal { code, msg, details }: Refusal) -> CniError {
        CniError { code, msg: format!("ipam {}: {msg}", self.kind), details }
    }

    fn versions(&self, binary: &Path, environment: &Environment) -> Result<Vec<String>, CniError> {
        let stdout = self.exec(binary, Command::Version, environment, b"{}")?.map_err(|error| self.refused(error))?;
        let versions: Versions = serde_json::from_slice(&stdout).map_err(|error| self.garbled(&error, &stdout))?;
        Ok(versions.supported_versions)
    }

    /// The first file of its name; the words are the reference's.
    fn find(&self, path: &str) -> Result<PathBuf, CniError> {
        let folders: Vec<&str> = path.split(':').filter(|folder| !folder.is_empty()).collect();
        let found = folders.iter().map(|folder| Path::new(folder).join(&self.kind)).find(|file| file.is_file());
        found.ok_or_else(|| {
            let msg = format!("failed to find plugin {:?} in path [{}]", self.kind, folders.join(" "));
            CniError::new(Code::Internal, msg)
        })
    }

    /// One run: what it printed, or its error object. Its stderr is ours.
    fn exec(
        &self,
        binary: &Path,
        command: Command,
        environment: &Environment,
        stdin: &[u8],
    ) -> Result<Result<Vec<u8>, Refusal>, CniError> {
        let failed = |error: std::io::Error| {
            CniError::new(Code::Io, format!("cannot run ipam {} ({}): {error}", self.kind, binary.display()))
        };
        let mut child = process::Command::new(binary)
            .env("CNI_COMMAND", command.as_str())
            .env("CNI_CONTAINERID", &environment.container_id)
            .env("CNI_NETNS", &environment.netns)
            .env("CNI_IFNAME", &environment.ifname)
            .env("CNI_ARGS", &environment.args)
            .env("CNI_PATH", &environment.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut pipe) = child.stdin.take() {
            // Who fails before reading it closes it: its error says more than ours.
            drop(pipe.write_all(stdin));
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(Ok(output.stdout));
        }
        let refusal = serde_json::from_slice::<Refusal>(&output.stdout).ok().filter(|refusal| !refusal.msg.is_empty());
        Ok(Err(refusal.unwrap_or_else(|| Refusal {
            code: Code::Internal as u32,
            msg: format!("ended with {} and no error object", output.status),
            details: String::from_utf8_lossy(&output.stdout).chars().take(200).collect(),
        })))
    }
}

/// Whether it does not know an operation that came later than it.
fn too_old(command: Command, refusal: &Refusal) -> bool {
    since(command) > Version::V030
        && refusal.code == Code::InvalidEnvironment as u32
        && refusal.msg.starts_with("unknown CNI_COMMAND")
}

fn since(command: Command) -> Version {
    match command {
        Command::Gc | Command::Status => Version::V110,
        Command::Check => Version::V040,
        Command::Add | Command::Del | Command::Version => Version::V030,
    }
}
