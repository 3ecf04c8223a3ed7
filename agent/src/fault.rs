//! Where tests stop the agent, and shorten what it waits for. Only debug builds have it.

use weft_model::bandwidth::Means;
use weft_model::id::Attachment;

/// A step of an ADD is done: the process ends here, without a word, if `WEFTD_STOP_AT` is
/// `<step>:<container id>`.
#[cfg(debug_assertions)]
pub(crate) fn point(step: &str, attachment: &Attachment) {
    if std::env::var("WEFTD_STOP_AT").is_ok_and(|at| at == format!("{step}:{}", attachment.container_id)) {
        std::process::abort();
    }
}

/// A step of an ADD is done.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) const fn point(_step: &str, _attachment: &Attachment) {}

/// A kernel that lacks what the file `WEFTD_LACKS` names: `ifb`, `tbf` or both. A file, so that a module can be
/// loaded, so to speak.
pub(crate) fn means() -> Option<Means> {
    #[cfg(debug_assertions)]
    if let Some(file) = std::env::var_os("WEFTD_LACKS") {
        let lacks = std::fs::read_to_string(file).unwrap_or_default();
        return Some(Means { buckets: !lacks.contains("tbf"), devices: !lacks.contains("ifb") });
    }
    None
}

/// Whether somebody wants to stop after single steps.
pub(crate) fn armed() -> bool {
    cfg!(debug_assertions) && std::env::var_os("WEFTD_STOP_AT").is_some()
}

/// Seconds after which a reservation lapses.
pub(crate) fn reservation_seconds() -> u64 {
    #[cfg(debug_assertions)]
    if let Some(seconds) = std::env::var("WEFTD_RESERVATION_SECONDS").ok().and_then(|text| text.parse().ok()) {
        return seconds;
    }
    weft_ipam::Times::default().reservation
}
