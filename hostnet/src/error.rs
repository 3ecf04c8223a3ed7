//! What can go wrong, in the kernel's words where it has any.

use crate::netns::NetnsError;
use nix::errno::Errno;

/// The kernel's answer to a request: an error number and, where the kernel gives one, its extended
/// acknowledgement ("Nexthop has invalid gateway").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) text: Option<String>,
}

impl Refusal {
    /// The extended text, else what `strerror` says.
    pub(crate) fn words(&self) -> String {
        self.text.clone().unwrap_or_else(|| self.errno.desc().to_owned())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.words(), self.errno)
    }
}

/// Something other than an op failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace could not be found or entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The netlink socket failed.
    #[error("netlink socket: cannot {doing}: {source}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel refused to tell.
    #[error("cannot read {what}: {text}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The kernel's words and error number.
        text: String,
    },
    /// What was being read kept changing.
    #[error("cannot read {what}: it changed during each of {tries} attempts")]
    Unstable {
        /// What was asked for.
        what: &'static str,
        /// How often.
        tries: u32,
    },
    /// The kernel's answer makes no sense to us.
    #[error("cannot read {what}: malformed answer: {detail}")]
    Malformed {
        /// What was asked for.
        what: &'static str,
        /// Where it stops to make sense.
        detail: String,
    },
    /// `nft` failed.
    #[error("nftables: {0}")]
    Nft(String),
    /// A list of sockets could not be read.
    #[error("cannot read the list of {list} sockets: {source}")]
    Sockets {
        /// Of which protocol.
        list: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A kernel setting could not be read.
    #[error("sysctl {key}: {text}")]
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// Why not.
        text: String,
    },
}

impl Error {
    pub(crate) fn socket(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Socket { doing, source }
    }
}

/// An op failed. Ops before it are done. Netlink ops after it that went to the kernel in the same
/// datagram may be done too: the kernel does not stop at an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {text}{}", errno_suffix(*errno))]
pub struct OpError {
    /// Position in the plan.
    pub index: usize,
    /// The op as text.
    pub op: String,
    /// The kernel's words, or those of `nft`.
    pub text: String,
    /// The error number, where there is one.
    pub errno: Option<i32>,
}

impl OpError {
    /// Whether it failed because what it was to create is there already (EEXIST).
    #[must_use]
    pub fn already_exists(&self) -> bool {
        self.errno == Some(Errno::EEXIST as i32)
    }
}

fn errno_suffix(errno: Option<i32>) -> String {
    errno.map(|number| format!(" ({:?})", Errno::from_raw(number))).unwrap_or_default()
}
