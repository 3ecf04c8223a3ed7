//! A key's value as lists and watches show it.

use etcd_client::{Event, EventType, KeyValue};

/// One key at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// The key; bytes that are no UTF-8 become U+FFFD, such a key is none of ours.
    pub(super) key: String,
    /// Its value; `None`: deleted.
    pub(super) value: Option<Vec<u8>>,
    /// Its modification revision.
    pub(super) revision: i64,
    /// The etcd lease it hangs on; 0: none.
    pub(super) lease: i64,
}

impl Change {
    pub(super) fn of(event: &Event) -> Option<Self> {
        let kv = event.kv()?;
        let mut change = Self::from(kv);
        if event.event_type() == EventType::Delete {
            change.value = None;
        }
        Some(change)
    }
}

impl From<&KeyValue> for Change {
    fn from(kv: &KeyValue) -> Self {
        Self {
            key: String::from_utf8_lossy(kv.key()).into_owned(),
            value: Some(kv.value().to_vec()),
            revision: kv.mod_revision(),
            lease: kv.lease(),
        }
    }
}
