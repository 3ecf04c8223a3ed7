//! What other software made: read, and added to in the one place where everybody does.

use crate::error::Error;
use crate::executor::Executor;
use crate::nft;
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::process::Command;
use weft_model::id::IfName;
use weft_model::others::{Forward, LEGACY, MarkRule};

impl Executor {
    /// The IPv4 routing rules that look at marks.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn mark_rules(&mut self) -> Result<Vec<MarkRule>, Error> {
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::Inet;
        let found = self.connection.dump("routing rules", RouteNetlinkMessage::GetRule(request))?;
        Ok(found.iter().filter_map(mark_rule).collect())
    }

    /// Other people's chains that drop forwarded packets they do not know.
    ///
    /// # Errors
    /// `nft` fails, or the namespace cannot be entered.
    pub fn forward_chains(&mut self) -> Result<Vec<Forward>, Error> {
        let own = format!("ip {}", self.nft_table);
        self.namespace.run(|| {
            let mut chains = nft::forward_chains(&own)?;
            chains.extend(legacy_forward());
            Ok(chains)
        })?
    }
}

fn mark_rule(message: &RouteNetlinkMessage) -> Option<MarkRule> {
    let RouteNetlinkMessage::NewRule(rule) = message else { return None };
    let (mut found, mut marked) = (MarkRule { priority: 0, mark: 0, mask: u32::MAX }, false);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => found.priority = *priority,
            RuleAttribute::FwMark(mark) => (found.mark, marked) = (*mark, true),
            RuleAttribute::FwMask(mask) => found.mask = *mask,
            _ => {}
        }
    }
    marked.then_some(found)
}

/// The chain FORWARD of the old interface, in the calling thread's namespace, where it is in use and drops.
fn legacy_forward() -> Option<Forward> {
    let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").ok()?;
    tables.lines().find(|table| *table == "filter")?;
    let output = Command::new("iptables-legacy").args(["-w", "5", "-S", "FORWARD"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let drops = text.lines().any(|line| line == "-P FORWARD DROP");
    drops.then(|| Forward { table: LEGACY.to_owned(), chain: "FORWARD".to_owned(), text })
}

/// Accepts, in front of everything else, what comes from the bridge and what goes there, in the calling thread's
/// namespace.
pub(crate) fn accept_forward(table: &str, bridge: &IfName) -> Result<(), String> {
    if table != LEGACY {
        return nft::accept_forward(table, bridge);
    }
    for side in ["-i", "-o"] {
        let rule =
            ["-w", "5", "-I", "FORWARD", side, bridge.as_str(), "-m", "comment", "--comment", "weft", "-j", "ACCEPT"];
        let output = Command::new("iptables-legacy").args(rule).output();
        let output = output.map_err(|error| format!("cannot run `iptables-legacy`: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
    }
    Ok(())
}
