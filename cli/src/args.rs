//! The command line.

use clap::{Args, Parser, Subcommand};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use weft_api::agent::DEFAULT_SOCKET;
use weft_api::enforced::parse_wait;
use weft_api::logging::LoggingChange;
use weft_api::policies::parse_ports;
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};

/// Looks at a weft host and its policies.
///
/// Exit codes: 0 done, 1 not done, 2 wrong usage; of explain also 3 denied, 4 another host has the last word; of doctor
/// also 3 something is wrong.
#[derive(Debug, Parser)]
#[command(name = "weft", version)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// weftd's socket, for status, doctor, endpoints, explain and denials
    #[arg(long, global = true, value_name = "PATH", env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// How this host is: lease, peers, policies, counters, alarms
    Status,
    /// Whether anything is wrong with this host, and what to do about it
    ///
    /// Looks at lease, etcd, network, kernel programs, and at what other software does to them: firewalls, routing rules,
    /// other programs. Exit codes: 0 nothing is wrong, 3 something is, 1 weftd does not answer.
    Doctor,
    /// The workloads on this host
    Endpoints,
    /// Packets this host denied lately
    Denials {
        /// Go on with new ones until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Whether a new connection would pass, and what decides
    ///
    /// Asks this host's agent. Exit codes: 0 it would pass, 3 it would be denied, 4 nothing here stops it and another host
    /// has the last word, 1 the question cannot be answered.
    Explain {
        /// Who connects: an address, a container id or its beginning, or a group
        source: String,
        /// To whom: the same
        destination: String,
        /// tcp, udp, sctp, icmp, or a protocol's number
        protocol: String,
        /// A port; for icmp a type or type/code [default for icmp: 8, an echo request]
        port: Option<String>,
    },
    /// Read and change who may reach whom
    #[command(subcommand)]
    Policies(PolicyCommand),
    /// Read and change what this host logs, and what it only logs (audit)
    #[command(subcommand)]
    Logging(LoggingCommand),
}

/// What can be done about logging.
#[derive(Debug, Subcommand)]
pub enum LoggingCommand {
    /// What is logged, where, and what became of records
    Show,
    /// Log otherwise, from now until `reset` or the host's next start
    Set(Box<LoggingArgs>),
    /// Log as weftd's configuration says
    Reset,
}

/// What is to be different; what is not named stays.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct LoggingArgs {
    /// Whether denied packets pass and are only logged
    #[arg(long, value_name = "on|off", value_parser = switch)]
    pub audit: Option<bool>,
    /// Groups for whose workloads that is so, comma separated: all of them, '' for none
    #[arg(long, value_name = "GROUPS", value_parser = groups)]
    pub audit_groups: Option<Groups>,
    /// Whether allowed connections are logged, by their first packet
    #[arg(long, value_name = "on|off", value_parser = switch)]
    pub allowed: Option<bool>,
    /// Whether lines go to the kernel log too
    #[arg(long, value_name = "on|off", value_parser = switch)]
    pub kernel_log: Option<bool>,
    /// Lines a second in the kernel log
    #[arg(long, value_name = "NUMBER")]
    pub kernel_lines_per_second: Option<u32>,
    /// Denial records a second of one pair of addresses; 0: no limit
    #[arg(long, value_name = "NUMBER")]
    pub denials_per_second: Option<u32>,
    /// Denial records such a pair may have at once
    #[arg(long, value_name = "NUMBER")]
    pub denials_burst: Option<u32>,
    /// Records of allowed connections a second of one pair of addresses; 0: no limit
    #[arg(long, value_name = "NUMBER")]
    pub allowed_per_second: Option<u32>,
    /// Records of allowed connections such a pair may have at once
    #[arg(long, value_name = "NUMBER")]
    pub allowed_burst: Option<u32>,
    /// Records of any kind a second of one workload; 0: no limit
    #[arg(long, value_name = "NUMBER")]
    pub workload_records_per_second: Option<u32>,
}

/// Groups, of one argument.
pub type Groups = BTreeSet<GroupId>;

impl LoggingArgs {
    /// As weftd takes it.
    #[must_use]
    pub fn change(self) -> LoggingChange {
        LoggingChange {
            audit: self.audit,
            audit_groups: self.audit_groups,
            allowed: self.allowed,
            kernel_log: self.kernel_log,
            kernel_lines_per_second: self.kernel_lines_per_second,
            denials_per_second: self.denials_per_second,
            denials_burst: self.denials_burst,
            allowed_per_second: self.allowed_per_second,
            allowed_burst: self.allowed_burst,
            workload_records_per_second: self.workload_records_per_second,
        }
    }
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show policies
    List {
        /// Only those whose source or destination is this group
        #[arg(short, long)]
        group: Option<GroupId>,
        /// How to reach the policy server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Let a group open connections to another
    Allow(ChangeArgs),
    /// Take back what `allow` gave; connections made under it end
    Deny(ChangeArgs),
    /// Wait until every host enforces a revision
    Wait {
        /// The revision, as printed by `allow` and `deny`
        #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
        revision: i64,
        /// How long to wait at most
        #[arg(long, value_name = "TIME", value_parser = parse_wait, default_value = "10s")]
        timeout: Duration,
        /// How to reach the policy server
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// A policy and what to do after it is stored.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// The group that connects: an app's GUID, or k8s:<cluster>/<namespace>[/<name>]
    #[arg(long, value_name = "GROUP")]
    pub from: GroupId,
    /// The group that is connected to
    #[arg(long, value_name = "GROUP")]
    pub to: GroupId,
    /// A port, or the first and last of a range
    #[arg(long, value_name = "PORT[-PORT]", value_parser = ports)]
    pub port: PortRange,
    /// tcp or udp
    #[arg(long, value_parser = protocol, default_value = "tcp")]
    pub protocol: Protocol,
    /// Return only when every host enforces the change
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", value_parser = parse_wait, default_value = "10s", requires = "wait")]
    pub timeout: Duration,
    /// How to reach the policy server
    #[command(flatten)]
    pub server: ServerArgs,
}

impl ChangeArgs {
    /// The policy named.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy { source: self.from.clone(), destination: self.to.clone(), protocol: self.protocol, ports: self.port }
    }
}

/// How to reach the policy server.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The policy server's URL
    #[arg(long, value_name = "URL", env = "WEFT_SERVER", default_value = "http://127.0.0.1:4002")]
    pub server: String,
    /// A file with the token to show; else the environment variable WEFT_TOKEN
    #[arg(long, value_name = "FILE", env = "WEFT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

fn groups(text: &str) -> Result<Groups, String> {
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.parse().map_err(|error| format!("{name}: {error}"))).collect()
}

fn ports(text: &str) -> Result<PortRange, String> {
    parse_ports(text).ok_or_else(|| "must be a port from 1 to 65535, or two of them such as 8080-8090".to_owned())
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err("must be tcp or udp".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace()).map(|arguments| arguments.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_socket_is_named_before_or_after_the_command() {
        for line in ["weft --socket /s status", "weft status --socket /s", "weft denials -f --socket /s"] {
            let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
            assert_eq!(arguments.socket, PathBuf::from("/s"), "{line}");
        }
    }

    #[test]
    fn a_policy_from_flags() {
        let line = "weft policies allow --from app --to k8s:east/shop/web --port 8080-8090 --protocol udp";
        let Command::Policies(PolicyCommand::Allow(change)) = parse(line).unwrap() else {
            panic!("not allow");
        };
        let policy = change.policy();
        assert_eq!((policy.source.as_str(), policy.destination.as_str()), ("app", "k8s:east/shop/web"));
        assert_eq!((policy.ports.to_string(), policy.protocol), ("8080-8090".to_owned(), Protocol::Udp));
        assert_eq!((change.wait, change.timeout), (false, Duration::from_secs(10)));
    }

    #[test]
    fn a_change_of_logging_from_flags() {
        let line = "weft logging set --audit off --audit-groups app,k8s:east/shop --allowed on --denials-per-second 0";
        let Command::Logging(LoggingCommand::Set(arguments)) = parse(line).unwrap() else { panic!("not set") };
        let change = arguments.change();
        assert_eq!((change.audit, change.allowed, change.kernel_log), (Some(false), Some(true), None));
        assert_eq!((change.audit_groups.unwrap().len(), change.denials_per_second), (2, Some(0)));
        assert_eq!(groups("").unwrap(), Groups::new());
    }

    #[test]
    fn wrong_usage_names_the_flag_and_what_is_allowed() {
        for (line, words) in [
            ("weft policies allow --from a --to b --port 0", ["--port", "1 to 65535"]),
            ("weft policies allow --from a --to b --port 9-8", ["--port", "1 to 65535"]),
            ("weft policies allow --from a --to b --port 80 --protocol icmp", ["--protocol", "tcp or udp"]),
            ("weft policies allow --from a --to b", ["--port", "required"]),
            ("weft policies allow --from a --to b --port 80 --timeout 1s", ["--wait", "required"]),
            ("weft logging set", ["--audit", "required"]),
            ("weft logging set --audit yes", ["--audit", "on or off"]),
            ("weft logging set --denials-burst -1", ["-1", "unexpected"]),
            ("weft policies wait --revision -1", ["-1", "unexpected"]),
            ("weft policies wait --revision 1 --timeout 5", ["--timeout", "at most 10m"]),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            for word in words {
                assert!(text.contains(word), "{line}: {text}");
            }
        }
    }
}
