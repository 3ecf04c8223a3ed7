//! weft-lab.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
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
    /// Make a lab of three hosts and leave it running
    Up {
        /// Its name
        #[arg(default_value = "lab")]
        name: String,
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
    Bench,
}

fn main() -> ExitCode {
    let run = || -> Result<ExitCode> {
        signals::watch()?;
        match Arguments::parse().command {
            Command::Up { name } => up(&name)?,
            Command::Down { name } => teardown::down(&name)?,
            Command::List => teardown::labs().iter().for_each(|name| tell(name)),
            Command::Demo => return demo::run(),
            Command::Bench => bench::run()?,
        }
        Ok(ExitCode::SUCCESS)
    };
    run().unwrap_or_else(|error| {
        tell(&format!("weft-lab: {error:#}"));
        ExitCode::FAILURE
    })
}

fn up(name: &str) -> Result<()> {
    let lab = Lab::up(LabOptions::three(name))?;
    for host in lab.hosts() {
        let subnet = host.status()?.subnet.map(|subnet| subnet.to_string()).unwrap_or_default();
        tell(&format!("{}  {}  {subnet}  weft --socket {} status", host.name(), host.address, host.socket().display()));
    }
    tell(&format!("remove it with: weft-lab down {name}"));
    lab.keep();
    Ok(())
}
