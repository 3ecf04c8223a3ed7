//! Lists of any length, all of one revision.

use super::EtcdStore;
use super::call::CallError;
use super::change::Change;
use super::keys::Range;
use etcd_client::{GetOptions, GetResponse};

/// Keys a page: a list of 20,000 documents is fastest with about this many (measured).
const PAGE: i64 = 2_000;

/// All keys of a range at one revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) revision: i64,
    pub(super) changes: Vec<Change>,
}

/// The revision of the store an answer shows.
pub(super) fn shown(answer: &GetResponse) -> i64 {
    answer.header().map_or(0, etcd_client::ResponseHeader::revision)
}

impl EtcdStore {
    /// Lists `range` as of `revision`, or as of now.
    ///
    /// # Errors
    /// [`CallError::Compacted`] if the revision was compacted before the last page.
    pub(super) async fn list(
        &self,
        op: &'static str,
        range: &Range,
        revision: Option<i64>,
    ) -> Result<Listing, CallError> {
        self.pages(op, range, revision, GetOptions::new()).await
    }

    /// As [`Self::list`], without values.
    pub(super) async fn list_keys(
        &self,
        op: &'static str,
        range: &Range,
        revision: Option<i64>,
    ) -> Result<Listing, CallError> {
        self.pages(op, range, revision, GetOptions::new().with_keys_only()).await
    }

    async fn pages(
        &self,
        op: &'static str,
        range: &Range,
        revision: Option<i64>,
        options: GetOptions,
    ) -> Result<Listing, CallError> {
        let mut listing = Listing { revision: revision.unwrap_or(0), changes: Vec::new() };
        let mut from = range.from.clone();
        let mut limit = PAGE;
        loop {
            let options = options.clone().with_range(range.to.clone()).with_limit(limit);
            let answer = match self.get(op, from.clone(), options.with_revision(listing.revision)).await {
                Err(CallError::TooLarge) if limit > 1 => {
                    limit = (limit / 4).max(1);
                    continue;
                }
                answer => answer?,
            };
            if listing.revision == 0 {
                listing.revision = shown(&answer);
            }
            listing.changes.extend(answer.kvs().iter().map(Change::from));
            match answer.kvs().last() {
                Some(last) if answer.more() => from = [last.key(), &[0]].concat(),
                _ => return Ok(listing),
            }
        }
    }
}
