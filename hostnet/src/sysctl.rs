//! Kernel settings below `/proc/sys`. Those below `net/` belong to the namespace of the thread that
//! opens the file (`net_ctl_header_lookup`), whatever `/proc` is mounted.

use crate::error::Error;
use nix::errno::Errno;
use std::path::PathBuf;

/// Why a setting could not be written: words, and the error number where there is one.
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) errno: Option<i32>,
}

fn path(key: &str) -> Option<PathBuf> {
    let plain = !key.is_empty() && key.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    plain.then(|| PathBuf::from("/proc/sys").join(key))
}

/// Reads a setting in the calling thread's namespace; `None` if the kernel has none of that name.
pub(crate) fn read(key: &str) -> Result<Option<String>, Error> {
    let failed = |text: String| Error::Sysctl { key: key.to_owned(), text };
    let path = path(key).ok_or_else(|| failed("not a path below /proc/sys".to_owned()))?;
    match std::fs::read_to_string(path) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Writes a setting in the calling thread's namespace. A missing IPv6 setting is no failure: a kernel
/// without IPv6, or a device whose MTU is too small for it, has none, and nothing to switch off.
pub(crate) fn write(key: &str, value: &str) -> Result<(), Failure> {
    let Some(path) = path(key) else {
        return Err(Failure { text: "not a path below /proc/sys".to_owned(), errno: None });
    };
    match std::fs::write(path, value) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && key.starts_with("net/ipv6/") => Ok(()),
        Err(error) => {
            let errno = error.raw_os_error();
            let words = errno.map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned());
            Err(Failure { text: words, errno })
        }
        Ok(()) => Ok(()),
    }
}
