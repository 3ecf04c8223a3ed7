//! Recent and live records, for `weft denials`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;
use weft_api::denial::DenialRecord;

/// Records kept for readers that come later.
const RECENT: usize = 1000;
/// Records a live reader may lag behind.
const LAG: usize = 4096;

/// Recent and live records. They become JSON only for who reads them.
#[derive(Clone)]
pub struct DenialFeed {
    recent: Arc<Mutex<VecDeque<Arc<DenialRecord>>>>,
    live: broadcast::Sender<Arc<DenialRecord>>,
}

impl Default for DenialFeed {
    fn default() -> Self {
        Self { recent: Arc::default(), live: broadcast::channel(LAG).0 }
    }
}

impl DenialFeed {
    /// The recent records and a receiver of those to come.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<Arc<DenialRecord>>, broadcast::Receiver<Arc<DenialRecord>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.live.subscribe())
    }

    pub(super) fn push(&self, record: Arc<DenialRecord>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(record.clone());
        // Nobody listening is no error.
        drop(self.live.send(record));
    }
}

/// A record as a line of JSON.
#[must_use]
pub(crate) fn line(record: &DenialRecord) -> String {
    serde_json::to_string(record).map_or_else(
        |error| {
            tracing::error!(%error, "a denial record cannot be written as JSON");
            String::new()
        },
        |line| line + "\n",
    )
}
