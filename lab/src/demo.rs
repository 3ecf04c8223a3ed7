//! The demo.
use std::process::ExitCode;

/// Prints a line for the person at the terminal.
#[expect(clippy::print_stdout, reason = "this is the lab's output")]
pub fn tell(line: &str) {
    println!("{line}");
}

/// Plays the story.
///
/// # Errors
/// The lab cannot be made.
pub fn run() -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
