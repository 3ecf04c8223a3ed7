//! Which boot of the machine this is.

use std::io;

/// The kernel's random id of this boot, from `random/boot_id`. Addresses, links and namespaces mean
/// something in one boot only; and two machines never share one, not even copies of one disk.
///
/// # Errors
/// procfs is not there.
pub fn id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
