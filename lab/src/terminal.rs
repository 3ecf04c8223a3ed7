//! What the lab says to the person at the terminal.

/// Prints a line.
#[expect(clippy::print_stdout, reason = "this is the lab's output")]
pub fn tell(line: &str) {
    println!("{line}");
}
