//! weft-policy-server: see `weft-policy-server --help`.

#![forbid(unsafe_code)]

use clap::Parser;
use std::io::{self, Write};
use std::process::ExitCode;
use tracing::error;
use tracing_subscriber::EnvFilter;
use weft_policy_server::config::{Config, Flags, LogFormat};

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match Config::load(flags, std::env::var("WEFT_TOKEN").ok()) {
        Ok(config) => config,
        Err(errors) => return wrong_configuration(&errors.0),
    };
    if let Err(fault) = log(&config) {
        return wrong_configuration(&[fault]);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(weft_policy_server::run(&config));
    // A request that waits for hosts must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// One line a fault, exit code 2.
fn wrong_configuration(faults: &[String]) -> ExitCode {
    let mut stderr = io::stderr().lock();
    for fault in faults {
        // Nobody is left to be told if standard error is gone.
        writeln!(stderr, "weft-policy-server: {fault}").unwrap_or_default();
    }
    ExitCode::from(2)
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    error!(%error, "ended");
    ExitCode::FAILURE
}

/// Logs go to standard error.
fn log(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| format!("log {:?}: {error}", config.log))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
