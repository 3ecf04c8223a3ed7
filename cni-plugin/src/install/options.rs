//! The command line of `install` and `uninstall`.

use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_api::agent::DEFAULT_SOCKET;
use weft_model::id::{ContainerId, GroupId};

/// What to put where.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Folder of plugins.
    pub bin_dir: PathBuf,
    /// Folder of networks.
    pub conf_dir: PathBuf,
    /// File name of the conflist in it.
    pub conf_name: String,
    /// weftd's socket.
    pub socket: PathBuf,
    /// The network's name.
    pub name: String,
    /// `weft.timeoutSeconds`; `None`: the plugin's default.
    pub agent_timeout: Option<u64>,
    /// `metadata.policy_group_id` of every workload.
    pub policy_group: Option<String>,
    /// Plugins that come after ours.
    pub plugins: Vec<Value>,
    /// How long to wait for the agent.
    pub wait: Duration,
    /// Whether others' files of the same names go.
    pub replace: bool,
    /// Print only.
    pub print: bool,
}

impl Default for Options {
    /// The usual folders.
    fn default() -> Self {
        Self {
            bin_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/net.d".into(),
            conf_name: "10-weft.conflist".to_owned(),
            socket: DEFAULT_SOCKET.into(),
            name: "weft".to_owned(),
            agent_timeout: None,
            policy_group: None,
            plugins: Vec::new(),
            wait: Duration::from_secs(120),
            replace: false,
            print: false,
        }
    }
}

impl Options {
    /// Reads `--name value` and `--name=value`.
    ///
    /// # Errors
    /// All faults, a line each: the option, what was given, what is allowed.
    pub fn parse(args: &[OsString], install: bool) -> Result<Self, Vec<String>> {
        let (mut options, mut faults) = (Self::default(), Vec::new());
        let mut rest = args.iter().peekable();
        while let Some(arg) = rest.next() {
            let (name, inline) = split(arg);
            if install && options.switch(&name) {
                faults.extend(inline.map(|_| format!("{name}: takes no value")));
                continue;
            }
            let known = COMMON.contains(&name.as_str()) || (install && INSTALL.contains(&name.as_str()));
            if !known {
                faults.push(format!("unknown option {name:?}: see weft-cni --help"));
                // What looks like its value is none of another.
                rest.next_if(|next| inline.is_none() && !next.to_string_lossy().starts_with("--"));
                continue;
            }
            match inline.or_else(|| rest.next().cloned()) {
                None => faults.push(format!("{name}: its value is missing")),
                Some(value) => faults.extend(options.set(&name, &value).err()),
            }
        }
        if faults.is_empty() { Ok(options) } else { Err(faults) }
    }

    fn switch(&mut self, name: &str) -> bool {
        match name {
            "--replace" => self.replace = true,
            "--print" => self.print = true,
            _ => return false,
        }
        true
    }

    fn set(&mut self, name: &str, value: &OsStr) -> Result<(), String> {
        match name {
            "--bin-dir" => self.bin_dir = folder(name, value)?,
            "--conf-dir" => self.conf_dir = folder(name, value)?,
            "--conf-name" => self.conf_name = conf_name(name, value)?,
            "--socket" => self.socket = socket(name, value)?,
            "--name" => self.name = network(name, value)?,
            "--agent-timeout" => self.agent_timeout = Some(number(name, value, 1, 120)?),
            "--policy-group" => self.policy_group = Some(group(name, value)?),
            "--plugin" => self.plugins.push(plugin(name, value)?),
            _ => self.wait = Duration::from_secs(number(name, value, 0, 86_400)?),
        }
        Ok(())
    }

    /// Where the binary goes.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.bin_dir.join("weft-cni")
    }

    /// Where the conflist goes.
    #[must_use]
    pub fn conflist(&self) -> PathBuf {
        self.conf_dir.join(&self.conf_name)
    }
}

const COMMON: [&str; 4] = ["--bin-dir", "--conf-dir", "--conf-name", "--socket"];
const INSTALL: [&str; 5] = ["--name", "--agent-timeout", "--policy-group", "--plugin", "--wait"];

fn split(arg: &OsStr) -> (String, Option<OsString>) {
    let text = arg.to_string_lossy();
    match text.split_once('=') {
        Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.into())),
        _ => (text.into_owned(), None),
    }
}

fn invalid(name: &str, value: &OsStr, allowed: &str) -> String {
    format!("{name}: invalid value {value:?}: {allowed}")
}

fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str, String> {
    value.to_str().ok_or_else(|| invalid(name, value, "must be UTF-8"))
}

fn folder(name: &str, value: &OsStr) -> Result<PathBuf, String> {
    let absolute = Path::new(text(name, value)?).is_absolute();
    if absolute { Ok(value.into()) } else { Err(invalid(name, value, "an absolute path")) }
}

fn conf_name(name: &str, value: &OsStr) -> Result<String, String> {
    let file = text(name, value)?;
    let plain = file.len() <= 200 && !file.starts_with('.') && !file.contains(['/', '\0', '\n']);
    match file.strip_suffix(".conflist") {
        Some(stem) if plain && !stem.is_empty() => Ok(file.to_owned()),
        _ => Err(invalid(name, value, "a file name that ends in .conflist, without folder and no hidden one")),
    }
}

fn socket(name: &str, value: &OsStr) -> Result<PathBuf, String> {
    // sun_path has 108 bytes, the last is NUL.
    let fits = Path::new(text(name, value)?).is_absolute() && value.len() <= 107;
    if fits { Ok(value.into()) } else { Err(invalid(name, value, "an absolute path of at most 107 bytes")) }
}

/// A network's name obeys the same rule as a container id.
fn network(name: &str, value: &OsStr) -> Result<String, String> {
    let network = text(name, value)?;
    let allowed = "letters and digits, then also . _ -";
    ContainerId::new(network).map(|_| network.to_owned()).map_err(|_bad| invalid(name, value, allowed))
}

fn group(name: &str, value: &OsStr) -> Result<String, String> {
    let group = text(name, value)?;
    GroupId::new(group).map(|_| group.to_owned()).map_err(|error| invalid(name, value, &error.to_string()))
}

fn number(name: &str, value: &OsStr, least: u64, most: u64) -> Result<u64, String> {
    let number = text(name, value)?.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| invalid(name, value, &format!("a whole number from {least} to {most}")))
}

fn plugin(name: &str, value: &OsStr) -> Result<Value, String> {
    let allowed = "a JSON object with the key type";
    let plugin: Value = serde_json::from_str(text(name, value)?).map_err(|_bad| invalid(name, value, allowed))?;
    let typed = plugin.get("type").is_some_and(|kind| kind.as_str().is_some_and(|kind| !kind.is_empty()));
    if typed { Ok(plugin) } else { Err(invalid(name, value, allowed)) }
}
