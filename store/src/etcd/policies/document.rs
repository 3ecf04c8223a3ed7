//! Documents as they stand in keys. Pure.

use crate::StoreError;
use crate::etcd::change::Change;
use crate::etcd::keys::group_of;
use serde::de::DeserializeOwned;
use weft_api::stored::{GroupDocument, SourceDocument};

/// A document and the modification revision of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored<T> {
    pub(super) document: T,
    pub(super) revision: i64,
}

/// Reads a key's document.
pub(super) fn parse<T: DeserializeOwned>(change: &Change) -> Result<Stored<T>, StoreError> {
    let document = serde_json::from_slice(change.value.as_deref().unwrap_or_default())
        .map_err(|error| complain(change, error.to_string()))?;
    Ok(Stored { document, revision: change.revision })
}

/// Reads a source group's document and checks that it stands where it belongs.
pub(super) fn parse_source(change: &Change) -> Result<Stored<SourceDocument>, StoreError> {
    let stored = parse::<SourceDocument>(change)?;
    if group_of(&change.key).as_ref() != Some(&stored.document.source) {
        return Err(complain(
            change,
            format!("source: {:?} stands in another group's key", stored.document.source.as_str()),
        ));
    }
    Ok(stored)
}

/// Reads a group's document and checks that it stands where it belongs.
pub(super) fn parse_group(change: &Change) -> Result<Stored<GroupDocument>, StoreError> {
    let stored = parse::<GroupDocument>(change)?;
    if group_of(&change.key).as_ref() != Some(&stored.document.group) {
        return Err(complain(
            change,
            format!("group: {:?} stands in another group's key", stored.document.group.as_str()),
        ));
    }
    Ok(stored)
}

fn complain(change: &Change, complaint: String) -> StoreError {
    StoreError::Document { key: change.key.clone(), complaint }
}

/// A document's text.
#[expect(clippy::unwrap_used, reason = "our documents have text keys and no values that can fail")]
pub(super) fn json(document: &impl serde::Serialize) -> String {
    serde_json::to_string(document).unwrap()
}

/// Now, RFC 3339, milliseconds.
pub(super) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
