//! etcd behind the store's traits.
//!
//! `call`, `page` and `watch` speak etcd's protocol; `hosts` and `policies` say what is read and
//! written; their `fold` and `plan` modules decide, without input or output.

mod call;
mod change;
mod hosts;
mod keys;
mod page;
mod policies;
#[cfg(test)]
#[path = "../../tests/common/mod.rs"]
mod testing;
mod watch;

pub use hosts::EtcdHostsFollower;
pub use policies::EtcdPolicyFollower;

use crate::StoreError;
use keys::Keys;
use policies::tags::UsedTags;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use weft_api::flannel::DEFAULT_PREFIX;
use weft_api::stored::ROOT;

/// How to reach etcd, and under which names.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `http://host:port`, one a member; without a scheme `http://` is meant.
    pub endpoints: Vec<String>,
    /// flannel's `--etcd-prefix`.
    pub prefix: String,
    /// Where everything of ours lives.
    pub root: String,
    /// Who writes: shown in `head` and `intent`.
    pub by: String,
    /// How long a call may take, its repetitions included.
    pub timeout: Duration,
    /// etcd user and password.
    pub user: Option<(String, String)>,
    /// How long a tag that was given back stays unused at least.
    pub quarantine: Duration,
}

impl EtcdOptions {
    /// The defaults: flannel's prefix, `/weft/v1`, 5 s a call, 10 minutes of quarantine.
    #[must_use]
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>, by: impl Into<String>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: DEFAULT_PREFIX.to_owned(),
            root: ROOT.to_owned(),
            by: by.into(),
            timeout: Duration::from_secs(5),
            user: None,
            quarantine: Duration::from_secs(600),
        }
    }
}

impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The password stays out of logs.
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("root", &self.root)
            .field("by", &self.by)
            .field("timeout", &self.timeout)
            .field("user", &self.user.as_ref().map(|(user, _)| user))
            .field("quarantine", &self.quarantine)
            .finish()
    }
}

/// The etcd store. Clones share one connection and what was seen of the store.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    options: EtcdOptions,
    keys: Keys,
    client: OnceCell<etcd_client::Client>,
    seen: AtomicI64,
    memory: Mutex<Memory>,
}

/// What was seen of the store, to tell another one from it and to spare look-ups.
#[derive(Default)]
struct Memory {
    epoch: Option<String>,
    /// Tags with a document, live or in quarantine: a hint, every write checks again.
    tags: Option<UsedTags>,
}

impl EtcdStore {
    /// Checks the options; connects at the first call, so etcd may be down.
    ///
    /// # Errors
    /// [`StoreError::Option`] naming the first option that cannot be used.
    pub fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        check(&options)?;
        let keys = Keys::new(&options.prefix, &options.root);
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                keys,
                client: OnceCell::new(),
                seen: AtomicI64::new(0),
                memory: Mutex::new(Memory::default()),
            }),
        })
    }

    /// Accepts the store as it is after [`StoreError::Rewound`]: forgets what this handle and its clones
    /// have seen. Followers are not touched: start new ones, from nothing.
    pub fn accept_rewound(&self) {
        self.inner.seen.store(0, Ordering::Release);
        *self.memory() = Memory::default();
    }

    fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    fn options(&self) -> &EtcdOptions {
        &self.inner.options
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Plain data: a panicked holder leaves nothing half-done.
        self.inner.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> i64 {
        self.inner.seen.load(Ordering::Acquire)
    }

    /// Refuses a store whose revision went backwards; `before` is [`Self::seen`] from before the call.
    fn check_forward(&self, before: i64, revision: i64) -> Result<(), StoreError> {
        if revision < before {
            return Err(StoreError::Rewound(format!("its revision is {revision}, it was {before} before")));
        }
        self.inner.seen.fetch_max(revision, Ordering::AcqRel);
        Ok(())
    }
}

fn check(options: &EtcdOptions) -> Result<(), StoreError> {
    let invalid = |field, value: &str, allowed| StoreError::Option { field, value: value.to_owned(), allowed };
    if options.endpoints.is_empty() {
        return Err(invalid("endpoints", "", "at least one, such as http://192.0.2.1:2379"));
    }
    for endpoint in &options.endpoints {
        let authority = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        let fits = !authority.contains("://") && !authority.is_empty() && !authority.contains(['/', ' ', '@']);
        if !fits {
            return Err(invalid("endpoints", endpoint, "http://host:port"));
        }
    }
    for (field, path) in [("prefix", &options.prefix), ("root", &options.root)] {
        if !path.starts_with('/') || path.trim_matches('/').is_empty() {
            return Err(invalid(field, path, "a path such as /weft/v1"));
        }
    }
    if options.root.trim_end_matches('/').starts_with(&format!("{}/subnets", options.prefix.trim_end_matches('/'))) {
        return Err(invalid("root", &options.root, "a path flanneld does not read: not below <prefix>/subnets"));
    }
    if options.timeout.is_zero() {
        return Err(invalid("timeout", "0", "more than nothing"));
    }
    Ok(())
}
