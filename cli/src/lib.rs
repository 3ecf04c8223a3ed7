//! weft, the command line: asks a host's agent over its socket and the policy server over HTTP.

#![forbid(unsafe_code)]

pub mod agent;
pub mod args;
pub mod doctor;
pub mod error;
pub mod render;
pub mod server;

use args::{Arguments, ChangeArgs, Command, LoggingCommand, PolicyCommand, ServerArgs};
use error::CliError;
use serde::Serialize;
use serde_json::json;
use server::{Server, encode};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use weft_api::agent::{EndpointView, Status};
use weft_api::denial::DenialRecord;
use weft_api::enforced::EnforcedReport;
use weft_api::explain::{ExplainQuery, Explanation, Verdict};
use weft_api::logging::LoggingView;
use weft_api::policies::PolicyBody;

const LOGGING: &str = "/v1/logging";

/// Does what was asked; returns the exit code. `token`: the variable `WEFT_TOKEN`.
///
/// # Errors
/// [`CliError`]: exit code 1.
pub fn run(arguments: Arguments, token: Option<String>, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let Arguments { command, json, socket } = arguments;
    let connect = |args: &ServerArgs| Server::new(args, token.clone());
    match command {
        Command::Status => {
            let status: Status = agent::get(&socket, "/v1/status")?;
            print(out, json, &status, || render::status(&status))
        }
        Command::Doctor => return doctor(&socket, json, out),
        Command::Endpoints => {
            let endpoints: Vec<EndpointView> = agent::get(&socket, "/v1/endpoints")?;
            print(out, json, &endpoints, || render::endpoints(&endpoints))
        }
        Command::Explain { source, destination, protocol, port } => {
            return explain(&socket, &ExplainQuery { source, destination, protocol, port }, json, out);
        }
        Command::Denials { follow } => denials(&socket, follow, json, out),
        Command::Logging(command) => {
            let view: LoggingView = match command {
                LoggingCommand::Show => agent::get(&socket, LOGGING)?,
                LoggingCommand::Set(arguments) => agent::put(&socket, LOGGING, &arguments.change())?,
                LoggingCommand::Reset => agent::delete(&socket, LOGGING)?,
            };
            print(out, json, &view, || render::logging(&view))
        }
        Command::Policies(PolicyCommand::List { group, server }) => {
            let list = connect(&server)?.list(group.as_ref())?;
            print(out, json, &list, || render::policies(&list))
        }
        Command::Policies(PolicyCommand::Allow(change)) => {
            let server = connect(&change.server)?;
            let revision = server.create(&change.policy())?;
            finish(&server, &change, &Change { done: "allowed", revision, last: false }, json, out)
        }
        Command::Policies(PolicyCommand::Deny(change)) => {
            let server = connect(&change.server)?;
            let policy = change.policy();
            if !server.has(&policy)? {
                return Err(CliError::NoSuchPolicy(render::policy(&policy)));
            }
            let revision = server.delete(&policy)?;
            // Only said besides: the policy is gone whether this can be asked or not.
            let last = server.list(Some(&policy.destination)).is_ok_and(|left| {
                !left.policies.iter().any(|other| other.destination.id == policy.destination.to_string())
            });
            finish(&server, &change, &Change { done: "no longer allowed", revision, last }, json, out)
        }
        Command::Policies(PolicyCommand::Wait { revision, timeout, server }) => {
            let report = connect(&server)?.wait(revision, timeout)?;
            print(out, json, &report, || said(&report))?;
            judged(&report)
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn doctor(socket: &Path, json: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let findings = doctor::examine(&agent::get(socket, "/v1/status")?);
    let healthy = doctor::is_healthy(&findings);
    print(out, json, &json!({ "healthy": healthy, "findings": findings }), || render::doctor(&findings))?;
    Ok(ExitCode::from(if healthy { 0 } else { 3 }))
}

fn explain(socket: &Path, query: &ExplainQuery, json: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let ExplainQuery { source, destination, protocol, port } = query;
    let fields = [
        ("source", Some(source)),
        ("destination", Some(destination)),
        ("protocol", Some(protocol)),
        ("port", port.as_ref()),
    ];
    let fields = fields.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_deref()?))));
    let path = format!("/v1/explain?{}", fields.collect::<Vec<_>>().join("&"));
    let explanation: Explanation = agent::get(socket, &path)?;
    print(out, json, &explanation, || render::explain(&explanation))?;
    Ok(ExitCode::from(match explanation.verdict {
        Verdict::Allowed => 0,
        Verdict::Denied => 3,
        Verdict::Elsewhere => 4,
    }))
}

fn denials(socket: &Path, follow: bool, json: bool, out: &mut impl Write) -> Result<(), CliError> {
    for record in agent::stream::<DenialRecord>(socket, &format!("/v1/denials?follow={follow}"))? {
        let record = record?;
        if json {
            writeln!(out, "{}", json!(record))?;
        } else {
            out.write_all(render::denial(&record).as_bytes())?;
        }
        // Whoever follows wants each line when it happens.
        out.flush()?;
    }
    Ok(())
}

/// Says what a change did and waits for it, if asked to.
/// What was changed.
struct Change {
    done: &'static str,
    revision: i64,
    /// No policy names the destination any more.
    last: bool,
}

fn finish(
    server: &Server,
    change: &ChangeArgs,
    &Change { done, revision, last }: &Change,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let policy = change.policy();
    if !json {
        writeln!(out, "{done}: {} (revision {revision})", render::policy(&policy))?;
        if last {
            out.write_all(render::last_policy(&policy.destination).as_bytes())?;
        }
    }
    let timeout: Option<Duration> = change.wait.then_some(change.timeout);
    let report = timeout.map(|timeout| server.wait(revision, timeout)).transpose()?;
    let document =
        json!({ "revision": revision, "policy": PolicyBody::from(&policy), "wait": report, "lastToDestination": last });
    print(out, json, &document, || report.as_ref().map(said).unwrap_or_default())?;
    report.as_ref().map_or(Ok(()), judged)
}

fn said(report: &EnforcedReport) -> String {
    let EnforcedReport { revision, enforced, hosts } = report;
    match (enforced, hosts.len()) {
        (false, _) => String::new(),
        (true, 0) => format!("revision {revision}: there are no hosts to enforce it\n"),
        (true, 1) => format!("revision {revision} is enforced by the only host\n"),
        (true, count) => format!("revision {revision} is enforced by all {count} hosts\n"),
    }
}

fn judged(report: &EnforcedReport) -> Result<(), CliError> {
    if report.enforced {
        return Ok(());
    }
    Err(CliError::NotEnforced { revision: report.revision, laggards: render::laggards(report) })
}

fn print(
    out: &mut impl Write,
    json: bool,
    document: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), CliError> {
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(document).map_err(std::io::Error::from)?)?;
    } else {
        out.write_all(text().as_bytes())?;
    }
    Ok(out.flush()?)
}
