//! What can go wrong with a store.

/// An error of a store. All but `Unreachable` need a person or a decision.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer, or not now (no leader, time-out, overloaded, full). Going on with
    /// what one has, and trying again, is right.
    #[error("{op}: the store cannot be reached: {source}")]
    Unreachable {
        /// What was tried.
        op: &'static str,
        /// etcd's text.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store is younger than what we have seen of it: restored, wiped, or another one.
    #[error("the store was wiped or restored to an older state: {0}")]
    Rewound(String),
    /// A document of ours cannot be read.
    #[error("{key}: {complaint}")]
    Document {
        /// Its key.
        key: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// A conditional write lost, again and again.
    #[error("{op}: gave up after {attempts} conflicting changes by others")]
    Contended {
        /// What was tried.
        op: &'static str,
        /// How often.
        attempts: u32,
    },
    /// All 65,535 tags are in use or in quarantine.
    #[error("no policy tag is free: all 65535 are in use or in quarantine")]
    NoTagFree,
    /// A document would outgrow what the store takes.
    #[error("{key}: {bytes} bytes, at most {limit} are allowed: {remedy}")]
    TooLarge {
        /// Its key.
        key: String,
        /// How large it would be.
        bytes: usize,
        /// How large it may be.
        limit: usize,
        /// What helps.
        remedy: &'static str,
    },
    /// A setting of the store's client cannot be used.
    #[error("{field}: invalid value {value:?}: {allowed}")]
    Option {
        /// Which one.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// etcd refuses the request as such; trying again will not help.
    #[error("{op}: refused: {message}")]
    Refused {
        /// What was tried.
        op: &'static str,
        /// etcd's text.
        message: String,
    },
    /// We may not (etcd's roles).
    #[error("{op}: not permitted: {message}")]
    NotPermitted {
        /// What was tried.
        op: &'static str,
        /// etcd's text.
        message: String,
    },
}
