//! weft: see `weft --help`.

#![forbid(unsafe_code)]

use clap::Parser;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use weft_cli::args::Arguments;
use weft_cli::error::CliError;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let token = std::env::var("WEFT_TOKEN").ok();
    match weft_cli::run(arguments, token, &mut io::stdout().lock()) {
        Ok(code) => code,
        // Whoever read our output has seen enough (`weft denials | head`).
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if standard error is gone too.
            writeln!(io::stderr(), "weft: {error}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}
