//! The benchmarks.

/// Measures.
///
/// # Errors
/// The lab cannot be made.
pub fn run() -> anyhow::Result<()> {
    Ok(())
}
