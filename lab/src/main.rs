//! weft-lab.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use weft_lab::services::PolicyServer;
use weft_lab::terminal::tell;
use weft_lab::{Lab, LabOptions, bench, demo, signals, teardown};

/// A network of hosts in namespaces of this machine, to look at weft without risk
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a lab and leave it running
    Up {
        /// Its name
        #[arg(default_value = "lab")]
        name: String,
        /// How many hosts of kind kubernetes: n1, n2, …
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// How many hosts of kind cell: c1, c2, …
        #[arg(long, default_value_t = 1)]
        cells: u8,
    },
    /// Remove a lab, whatever made it
    Down {
        /// Its name
        #[arg(default_value = "lab")]
        name: String,
    },
    /// List labs
    List,
    /// Play the whole story with real traffic and remove everything again
    Demo,
    /// Measure, and write target/bench/summary.json
    Bench {
        /// Only these
        parts: Vec<bench::Part>,
    },
}

fn main() -> ExitCode {
    let run = || -> Result<ExitCode> {
        signals::watch()?;
        match Arguments::parse().command {
            Command::Up { name, nodes, cells } => up(&name, nodes, cells)?,
            Command::Down { name } => teardown::down(&name)?,
            Command::List => teardown::labs().iter().for_each(|name| tell(name)),
            Command::Demo => return demo::run(),
            Command::Bench { parts } => bench::run(&parts)?,
        }
        Ok(ExitCode::SUCCESS)
    };
    let ended = run();
    signals::stop_if_ending();
    ended.unwrap_or_else(|error| {
        tell(&format!("weft-lab: {error:#}"));
        ExitCode::FAILURE
    })
}

fn up(name: &str, nodes: u8, cells: u8) -> Result<()> {
    let lab = Lab::up(LabOptions::of(name, nodes, cells))?;
    for host in lab.hosts() {
        let subnet = host.status()?.subnet.map(|subnet| subnet.to_string()).unwrap_or_default();
        tell(&format!("{}  {}  {subnet}  weft --socket {} status", host.name(), host.address, host.socket().display()));
    }
    tell(&format!(
        "policies: nsenter --net={} weft policies list --server {} --token-file {}",
        lab.ctl().display(),
        PolicyServer::url(),
        lab.folder.join("token").display()
    ));
    tell(&format!("remove it with: weft-lab down {name}"));
    lab.keep();
    Ok(())
}
