//! weftd.

use clap::Parser;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use weft_agent::config::{self, Raw};
use weft_agent::{dry_run, run};

fn main() -> ExitCode {
    let raw = Raw::parse();
    let (dry, json) = (raw.dry_run, raw.log_json);
    log_to_stderr(json);
    let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let config = match config::load(raw.clone(), hostname.as_deref().unwrap_or("localhost")) {
        Ok(config) => config,
        Err(errors) => {
            tracing::error!("{errors}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let result =
            runtime.block_on(async { if dry { dry_run::print(config).await } else { run::run(config, raw).await } });
        // Tasks that wait for the store or the ring buffer have nothing to finish.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(json: bool) {
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_unset| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if json { builder.json().init() } else { builder.with_ansi(false).init() }
}
