//! Network namespaces: naming, comparing and entering them.

use nix::sched::CloneFlags;
use nix::sys::statfs::{FsType, fstatfs};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Magic number of the file system namespaces live in (`include/uapi/linux/magic.h`, NSFS_MAGIC).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// `_IO(0xb7, 0x3)`: which kind of namespace a descriptor is (`include/uapi/linux/nsfs.h`, since 4.11).
const NS_GET_NSTYPE: u32 = 0xb703;

/// Why a network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no such file.
    #[error("network namespace {0}: no such file")]
    Missing(PathBuf),
    /// There is a file, but it is no network namespace: after a reboot a runtime's bind mount is an
    /// ordinary empty file.
    #[error("network namespace {path}: not a network namespace but {what}")]
    NotANamespace {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It could not be opened.
    #[error("network namespace {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It could not be entered.
    #[error("cannot enter network namespace {path}: {source}")]
    Enter {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl NetnsError {
    /// Whether there is nothing (left) that could be a namespace: no file, or an ordinary one. To DEL
    /// both mean that the namespace is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::NotANamespace { .. })
    }
}

/// A network namespace, held open: it stays as long as this value, whatever happens to its file.
/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    path: PathBuf,
    identity: (u64, u64),
}

impl Netns {
    /// The calling thread's.
    ///
    /// # Errors
    /// [`NetnsError`] when `/proc` is not there.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The one a file stands for, such as `/run/netns/x` or `/proc/1/ns/net`.
    ///
    /// # Errors
    /// [`NetnsError::Missing`], [`NetnsError::NotANamespace`] or [`NetnsError::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref().to_path_buf();
        // Non-blocking: a FIFO somebody put in its place must not hang us.
        let opened = File::options().read(true).custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK).open(&path);
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => NetnsError::Missing(path.clone()),
            _ => NetnsError::Open { path: path.clone(), source },
        };
        let file = opened.map_err(failed)?;
        let magic = fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
        if magic != NSFS_MAGIC {
            return Err(NetnsError::NotANamespace { path, what: "an ordinary file" });
        }
        if namespace_kind(&file) != nix::libc::CLONE_NEWNET {
            return Err(NetnsError::NotANamespace { path, what: "a namespace of another kind" });
        }
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self { file: Arc::new(file), identity: (metadata.dev(), metadata.ino()), path })
    }

    /// The file it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are the same namespace.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Runs `work` inside, on the calling thread, which is back when this returns (also by a panic).
    /// Threads and programs that `work` starts begin inside. A thread of its own would cost the plugin
    /// up to 5 ms on a busy host, where the way there and back takes microseconds.
    ///
    /// # Errors
    /// [`NetnsError`] when the namespace cannot be entered; `work` has not run then.
    ///
    /// # Aborts
    /// The process ends if the thread cannot go back: on the wrong side, anything it does is wrong. The
    /// kernel refuses only who has lost CAP_SYS_ADMIN on the way.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let outside = Self::current()?;
        if outside.is_same_as(self) {
            return Ok(work());
        }
        self.enter()?;
        let _way_back = WayBack(outside);
        Ok(work())
    }

    /// Moves the calling thread in, for good. For threads that have nothing left to do outside; everybody
    /// else wants [`Netns::run`].
    ///
    /// # Errors
    /// [`NetnsError::Enter`]; the thread is where it was.
    #[expect(clippy::disallowed_methods, reason = "the one place where threads change namespaces")]
    pub fn enter(&self) -> Result<(), NetnsError> {
        nix::sched::setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetnsError::Enter { path: self.path.clone(), source: errno.into() })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Takes the thread back to where it came from.
struct WayBack(Netns);

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(error) = self.0.enter() {
            tracing::error!(%error, "cannot go back to the thread's own network namespace: ending the process");
            std::process::abort();
        }
    }
}

fn namespace_kind(file: &File) -> nix::libc::c_int {
    // SAFETY: NS_GET_NSTYPE takes no argument and writes to no memory of ours; the descriptor is open
    // for as long as `file` is borrowed.
    unsafe { nix::libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE.into()) }
}
