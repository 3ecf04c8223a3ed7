//! weft-cni, the CNI plugin: wires one workload, in a millisecond or two.
//!
//! [`respond`] is the whole of it: environment and stdin in, an [`Answer`] out. Everything that needs
//! state is asked of the agent.

#![forbid(unsafe_code)]

pub mod add;
pub mod args;
pub mod bandwidth;
pub mod call;
pub mod capabilities;
pub mod check;
pub mod client;
pub mod config;
pub mod del;
pub mod delegate;
pub mod environment;
pub mod error;
pub mod fault;
pub mod host_wide;
pub mod http;
pub mod install;
pub mod ipam;
pub mod link;
pub mod note;
pub mod process;
pub mod release;
pub mod requested;
pub mod result;
pub mod section;
pub mod version;

use call::Call;
use config::Config;
use environment::{Command, Environment};
use error::{CniError, Code};
use process::Answer;
use std::ffi::OsString;
use std::io::Read;
use version::Version;

/// Does what the environment and stdin ask for.
#[must_use]
pub fn respond(get: impl Fn(&str) -> Option<OsString>, stdin: impl Read) -> Answer {
    let mut version = Version::NEWEST;
    dispatch(get, stdin, &mut version).unwrap_or_else(|(error, stderr)| Answer {
        stdout: error.to_json(version),
        stderr,
        status: 1,
    })
}

/// The order of checks is the reference's: environment, config, names, version.
fn dispatch(
    get: impl Fn(&str) -> Option<OsString>,
    stdin: impl Read,
    version: &mut Version,
) -> Result<Answer, (CniError, String)> {
    let plain = |error| (error, String::new());
    let Some(environment) = environment::read(get).map_err(plain)? else {
        return Ok(about());
    };
    if environment.command == Command::Version {
        return Ok(Answer { stdout: version::document(), ..Answer::default() });
    }
    let config = read(stdin).and_then(|bytes| Config::parse(&bytes)).map_err(plain)?;
    match environment.command {
        Command::Add | Command::Del | Command::Check => about_workload(environment, config, version),
        Command::Gc | Command::Status | Command::Version => about_host(&environment, &config, version).map_err(plain),
    }
}

fn about_workload(
    environment: Environment,
    config: Config,
    version: &mut Version,
) -> Result<Answer, (CniError, String)> {
    let plain = |error| (error, String::new());
    let attachment = environment.attachment().map_err(plain)?;
    *version = config.version().map_err(plain)?;
    let call = Call { environment, config, version: *version, attachment };
    match call.environment.command {
        Command::Add => add::add(&call),
        Command::Del => del::del(&call).map_err(plain),
        _ => since(call.version, Version::V040, "CHECK").and_then(|()| check::check(&call)).map_err(plain),
    }
}

fn about_host(environment: &Environment, config: &Config, version: &mut Version) -> Result<Answer, CniError> {
    *version = config.version()?;
    if environment.command == Command::Gc {
        since(*version, Version::V110, "GC")?;
        return host_wide::gc(environment, config);
    }
    since(*version, Version::V110, "STATUS")?;
    host_wide::status(environment, config)
}

fn since(version: Version, first: Version, command: &str) -> Result<(), CniError> {
    if version >= first {
        return Ok(());
    }
    Err(CniError::new(Code::IncompatibleVersion, format!("config version does not allow {command}")))
}

/// Annotations of a pod alone may be 256 KiB, so there is no limit.
fn read(mut stdin: impl Read) -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    stdin
        .read_to_end(&mut bytes)
        .map_err(|error| CniError::new(Code::Io, format!("error reading from stdin: {error}")))?;
    Ok(bytes)
}

/// Without a command: somebody tries what this is. The reference says so on stderr and succeeds; our
/// stdout has one document always.
fn about() -> Answer {
    let versions: Vec<&str> = Version::ALL.iter().map(|version| version.as_str()).collect();
    Answer {
        stdout: version::document(),
        stderr: format!(
            "weft-cni {}: the CNI plugin of weft\nCNI protocol versions supported: {}\n",
            env!("CARGO_PKG_VERSION"),
            versions.join(", ")
        ),
        status: 0,
    }
}
