//! `weft-cni install` and `weft-cni uninstall`: the plugin puts itself and its conflist where the
//! runtime looks, and takes back what it put there.
//!
//! Everything that can fail for want of a right, of room or of an agent is done before the first name
//! changes: both files are written next to where they go, the agent is waited for, and then there are
//! only renames. The conflist comes last: a runtime starts workloads as soon as it sees it.

mod conflist;
mod files;
mod manifest;
mod options;
mod place;
mod ready;
mod take_back;

use crate::process::Answer;
use std::ffi::OsString;

pub use conflist::render;
pub use options::Options;

const USAGE: &str = "\
weft-cni: the CNI plugin of weft. Runtimes call it with CNI_COMMAND in the environment; people with:

  weft-cni install [options]     put this binary and a conflist in place, once weftd is ready
  weft-cni uninstall [options]   take back what install put there
  weft-cni --version

  --bin-dir DIR          where the runtime looks for plugins (/opt/cni/bin)
  --conf-dir DIR         where it looks for networks (/etc/cni/net.d)
  --conf-name NAME       the conflist's file name; runtimes take the first by name (10-weft.conflist)
  --socket FILE          weftd's socket (/run/weft/agent.sock)

only install:
  --name NAME            the network's name (weft)
  --agent-timeout SECS   how long a call waits for a weftd that restarts, 1 to 120 (10)
  --policy-group ID      the group of every workload, for runtimes that tell none (ctr); cells only
  --plugin JSON          a plugin to call after weft-cni, such as '{\"type\":\"tuning\"}'; may be repeated
  --wait SECS            how long to wait for weftd to be ready, 0 to 86400 (120)
  --replace              replace files of these names that somebody else put there
  --print                print the conflist and change nothing
";

/// Does what a person asks for on the command line; `None` if nothing is asked for.
#[must_use]
pub fn command(mut args: impl Iterator<Item = OsString>) -> Option<Answer> {
    let word = args.next()?;
    let rest: Vec<OsString> = args.collect();
    Some(match word.to_str() {
        Some("install") => with_options(&rest, true, place::install),
        Some("uninstall") => with_options(&rest, false, take_back::uninstall),
        Some("--version" | "-V" | "version") => said(format!("weft-cni {}\n", env!("CARGO_PKG_VERSION"))),
        Some("--help" | "-h" | "help") => said(USAGE.to_owned()),
        _ => refused(2, &format!("unknown command {word:?}\n{USAGE}")),
    })
}

fn with_options(args: &[OsString], install: bool, work: impl FnOnce(&Options) -> Result<String, String>) -> Answer {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return said(USAGE.to_owned());
    }
    match Options::parse(args, install) {
        Err(faults) => refused(2, &faults.join("\n")),
        Ok(options) => match work(&options) {
            Ok(text) => said(text),
            Err(error) => refused(1, &error),
        },
    }
}

fn said(stdout: String) -> Answer {
    Answer { stdout, ..Answer::default() }
}

fn refused(status: u8, why: &str) -> Answer {
    let stderr = why.lines().map(|line| format!("weft-cni: {line}\n")).collect();
    Answer { stderr, status, ..Answer::default() }
}
