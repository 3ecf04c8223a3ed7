//! Changes of the pool, as they stand in the journal.

use crate::entry::Entry;
use serde::{Deserialize, Serialize};
use weft_model::id::{Attachment, Slot};

/// One change. Applying the same events in the same order gives the same pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An attachment was given an address: the next one given comes after it.
    Reserve {
        /// Whose.
        attachment: Attachment,
        /// All of its entry.
        entry: Entry,
    },
    /// An attachment that has its address already: it asked again or by name, was found in the kernel, or the
    /// journal was written anew.
    Hold {
        /// Whose.
        attachment: Attachment,
        /// All of its entry.
        entry: Entry,
    },
    /// An attachment is wired.
    Commit {
        /// Whose.
        attachment: Attachment,
    },
    /// An attachment gave its address back.
    Release {
        /// Whose.
        attachment: Attachment,
        /// When, seconds since the boot.
        at: u64,
    },
    /// An address waits out its cool-down: only in journals written anew.
    Cool {
        /// Which.
        slot: Slot,
        /// When it was given back, seconds since the boot.
        at: u64,
    },
}
