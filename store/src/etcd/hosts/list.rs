//! All hosts at one revision.

use super::fold::HostsFold;
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::call::CallError;
use crate::etcd::change::Change;
use etcd_client::{GetOptions, Txn, TxnOp, TxnOpResponse};
use weft_api::stored::EpochDocument;

/// Lists that are overtaken by a compaction are begun anew, that many times.
const ATTEMPTS: u32 = 3;

/// A complete list.
pub(super) struct HostsListing {
    pub(super) fold: HostsFold,
    /// The store's epoch.
    pub(super) epoch: Option<String>,
    /// Nothing says that this store ever served a network: no configuration, no head, no epoch.
    pub(super) blank: bool,
}

impl EtcdStore {
    pub(super) async fn list_hosts(&self, op: &'static str) -> Result<HostsListing, StoreError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.list_hosts_once(op).await {
                Err(CallError::Compacted) if attempt < ATTEMPTS => {}
                result => return result.map_err(|error| error.into_store(op)),
            }
        }
    }

    async fn list_hosts_once(&self, op: &'static str) -> Result<HostsListing, CallError> {
        let (revision, marks) = self.marks(op).await?;
        let [config, head, epoch, wanted] = marks;
        let mut fold = HostsFold::new(self.keys().clone(), revision);
        if let Some(wanted) = wanted {
            fold.apply(&wanted);
        }
        for range in [self.keys().lease_range(), self.keys().host_range()] {
            for change in &self.list(op, &range, Some(revision)).await?.changes {
                fold.apply(change);
            }
        }
        let blank = config.is_none() && head.is_none() && epoch.is_none();
        let epoch = epoch.and_then(|change| serde_json::from_slice::<EpochDocument>(&change.value?).ok());
        Ok(HostsListing { fold, epoch: epoch.map(|epoch| epoch.epoch), blank })
    }

    /// The store's revision, and at it config, head, epoch and wanted.
    async fn marks(&self, op: &'static str) -> Result<(i64, [Option<Change>; 4]), CallError> {
        let keys = self.keys();
        let gets = [keys.config(), keys.head(), keys.epoch(), keys.wanted()];
        let gets = gets.map(|key| TxnOp::get(key, Some(GetOptions::new())));
        let answer = self.idempotent(op, Txn::new().and_then(gets)).await?;
        let mut marks = [None, None, None, None];
        for (mark, response) in marks.iter_mut().zip(answer.op_responses()) {
            if let TxnOpResponse::Get(got) = response {
                *mark = got.kvs().first().map(Change::from);
            }
        }
        Ok((answer.header().map_or(0, etcd_client::ResponseHeader::revision), marks))
    }

    /// Whether nothing says that this store ever served a network.
    pub(super) async fn is_blank(&self, op: &'static str) -> Result<bool, StoreError> {
        let (_, [config, head, epoch, _]) = self.marks(op).await.map_err(|error| error.into_store(op))?;
        Ok(config.is_none() && head.is_none() && epoch.is_none())
    }
}
