//! What the runtime says in environment variables.

use crate::error::{CniError, Code};
use std::ffi::OsString;
use weft_model::id::{Attachment, ContainerId, IfName};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Wire a workload.
    Add,
    /// Take it down.
    Del,
    /// See whether it is as ADD left it.
    Check,
    /// Remove what belongs to nobody.
    Gc,
    /// Say whether an ADD would work.
    Status,
    /// Say which versions we speak.
    Version,
}

/// The variables, present as far as the command needs them, otherwise empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: Command,
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_NETNS`
    pub netns: String,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// `CNI_ARGS`
    pub args: String,
    /// `CNI_PATH`
    pub path: String,
}

/// Reads the variables; `None` without any command: somebody tries what this program is.
///
/// # Errors
/// Code 4: the words of the reference implementation (`skel`), in its order.
pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Option<Environment>, CniError> {
    let text = |name: &str| -> Result<String, CniError> {
        get(name).unwrap_or_default().into_string().map_err(|value| {
            CniError::new(Code::InvalidEnvironment, format!("{name} is not UTF-8")).details(value.to_string_lossy())
        })
    };
    let word = text("CNI_COMMAND")?;
    if word.is_empty() {
        return Ok(None);
    }
    let command = command(&word);
    let needs = command.map_or(&[][..], needed);
    let mut missing = Vec::new();
    for name in needs {
        if text(name)?.is_empty() {
            missing.push(*name);
        }
    }
    if !missing.is_empty() {
        let msg = format!("required env variables [{}] missing", missing.join(","));
        return Err(CniError::new(Code::InvalidEnvironment, msg));
    }
    let Some(command) = command else {
        let msg = format!("unknown CNI_COMMAND: {word}");
        return Err(CniError::new(Code::InvalidEnvironment, msg));
    };
    let optional = |name| if command == Command::Version { Ok(String::new()) } else { text(name) };
    Ok(Some(Environment {
        command,
        container_id: optional("CNI_CONTAINERID")?,
        netns: optional("CNI_NETNS")?,
        ifname: optional("CNI_IFNAME")?,
        args: optional("CNI_ARGS")?,
        path: optional("CNI_PATH")?,
    }))
}

fn command(word: &str) -> Option<Command> {
    const ALL: [Command; 6] =
        [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version];
    ALL.into_iter().find(|command| command.as_str() == word)
}

/// In the order in which the reference names what is missing.
fn needed(command: Command) -> &'static [&'static str] {
    match command {
        Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
        Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
        Command::Gc | Command::Status => &["CNI_PATH"],
        Command::Version => &[],
    }
}

impl Command {
    /// As runtimes write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl Environment {
    /// Whom it is about.
    ///
    /// # Errors
    /// Code 4: the reference's words.
    pub fn attachment(&self) -> Result<Attachment, CniError> {
        let container_id = ContainerId::new(&self.container_id).map_err(|error| {
            CniError::new(Code::InvalidEnvironment, "invalid characters in containerID").details(error.value)
        })?;
        let ifname = IfName::new(&self.ifname).map_err(|error| {
            let name = error.value;
            CniError::new(Code::InvalidEnvironment, ifname_fault(&name)).details(name)
        })?;
        Ok(Attachment { container_id, ifname })
    }
}

fn ifname_fault(name: &str) -> &'static str {
    match name {
        "" => "interface name is empty",
        "." | ".." => "interface name is . or ..",
        long if long.len() > 15 => "interface name is too long",
        _ => "interface name contains / or : or whitespace characters",
    }
}
