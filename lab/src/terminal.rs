//! What the lab tells people.

use std::io::Write;

/// Prints a line for the person at the terminal. Whoever has seen enough (`weft-lab up | head -1`)
/// must not cost a lab its life.
pub fn tell(line: &str) {
    writeln!(std::io::stdout(), "{line}").unwrap_or_default();
}
