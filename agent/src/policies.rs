//! Follows policies and tags in the store, keeps them on disk, and hands them to the worker.

use crate::cache::Cache;
use crate::causes::chain;
use crate::worker::{Command, Worker};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use weft_store::StoreError;
use weft_store::policy::{PolicyFollower, PolicyStore, PolicyView};

/// Pause after an error of the store.
const RETRY: Duration = Duration::from_millis(500);

/// Pause while the store is another one than it was.
const FROZEN: Duration = Duration::from_secs(5);

/// A follower that goes on from a known view asks nothing at first: only one that has not complained for
/// longer than its calls may take follows. Also the pause before a disk that refused is tried again.
const CALM: Duration = Duration::from_secs(6);

/// The disk's copy, and why it is an older one, said once.
struct Disk {
    cache: Cache,
    worker: Worker,
    complaint: Option<String>,
}

impl Disk {
    fn keep(&mut self, view: &PolicyView) {
        let complaint = self.cache.put_policies(view).err().map(|error| {
            format!("state_dir: cannot keep the policies on disk: a restart with the store away would use older ones: {error}")
        });
        if complaint != self.complaint {
            match &complaint {
                Some(text) => tracing::error!("{text}; trying again"),
                None => tracing::info!("the policies are on disk again"),
            }
            self.worker.send(Command::Alarm { about: "state_dir policies", text: complaint.clone() });
            self.complaint = complaint;
        }
    }
}

/// Runs for the agent's life. What the disk has is in force at once; an unreachable, empty or
/// restored store never takes it away.
pub async fn follow<S: PolicyStore>(store: S, cache: Cache, worker: Worker) {
    let mut known = cache.policies();
    if let Some(view) = &known {
        tracing::info!(
            revision = view.revision,
            policies = view.policies.len(),
            "going on with the policies kept on disk"
        );
        worker.send(Command::Policies(Arc::new(view.clone())));
    }
    let mut said = String::new();
    let mut disk = Disk { cache, worker: worker.clone(), complaint: None };
    loop {
        let error = match session(&store, &mut disk, &worker, &mut known, &mut said).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let text = chain(&error);
        let frozen = matches!(error, StoreError::Rewound(_));
        // Said once; the alarm stays until it is over.
        if text != said && frozen {
            tracing::error!(error = %text, "policies are frozen as they were: restore the store, or import policies, remove policies.json from this agent's state folder and restart it");
        } else if text != said {
            tracing::warn!(error = %text, "cannot follow policies: going on with those in force, trying again");
        }
        said.clone_from(&text);
        let alarm = if frozen {
            format!("policies are frozen: {text}")
        } else {
            format!("policies cannot be followed: {text}")
        };
        worker.send(Command::Alarm { about: "policies", text: Some(alarm) });
        tokio::time::sleep(if frozen { FROZEN } else { RETRY }).await;
    }
}

async fn session<S: PolicyStore>(
    store: &S,
    disk: &mut Disk,
    worker: &Worker,
    known: &mut Option<PolicyView>,
    said: &mut String,
) -> Result<std::convert::Infallible, StoreError> {
    let mut follower = store.follow_policies(known.clone()).await?;
    loop {
        let view = follower.view();
        if known.as_ref() != Some(view) {
            worker.send(Command::Policies(Arc::new(view.clone())));
            disk.keep(view);
            *known = Some(view.clone());
        }
        let mut changed = pin!(follower.changed());
        loop {
            tokio::select! {
                // An error that is there by then counts, however late both were looked at.
                biased;
                changed = &mut changed => break changed?,
                () = tokio::time::sleep(CALM) => {
                    followed(worker, said);
                    if let Some(view) = known.as_ref().filter(|_| disk.complaint.is_some()) {
                        disk.keep(view);
                    }
                }
            }
        }
        followed(worker, said);
    }
}

/// The store is followed: what was said of it is over.
fn followed(worker: &Worker, said: &mut String) {
    if !std::mem::take(said).is_empty() {
        tracing::info!("following policies again");
        worker.send(Command::Alarm { about: "policies", text: None });
    }
}
