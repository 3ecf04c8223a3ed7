//! The command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use weft_api::agent::DEFAULT_SOCKET;
use weft_api::enforced::parse_wait;
use weft_api::policies::parse_ports;
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};

/// Looks at a weft host and its policies.
///
/// Exit codes: 0 done, 1 not done, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "weft", version)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// weftd's socket, for status, endpoints and denials
    #[arg(long, global = true, value_name = "PATH", env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// How this host is: lease, peers, policies, counters, alarms
    Status,
    /// The workloads on this host
    Endpoints,
    /// Packets this host denied lately
    Denials {
        /// Go on with new ones until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Read and change who may reach whom
    #[command(subcommand)]
    Policies(PolicyCommand),
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
    fn wrong_usage_names_the_flag_and_what_is_allowed() {
        for (line, words) in [
            ("weft policies allow --from a --to b --port 0", ["--port", "1 to 65535"]),
            ("weft policies allow --from a --to b --port 9-8", ["--port", "1 to 65535"]),
            ("weft policies allow --from a --to b --port 80 --protocol icmp", ["--protocol", "tcp or udp"]),
            ("weft policies allow --from a --to b", ["--port", "required"]),
            ("weft policies allow --from a --to b --port 80 --timeout 1s", ["--wait", "required"]),
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
