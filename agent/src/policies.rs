//! Follows policies and tags in the store, keeps them on disk, and hands them to the worker.

use crate::cache::Cache;
use crate::leases::chain;
use crate::worker::{Command, Worker};
use std::sync::Arc;
use std::time::Duration;
use weft_store::StoreError;
use weft_store::policy::{PolicyFollower, PolicyStore, PolicyView};

/// Pause after an error of the store.
const RETRY: Duration = Duration::from_millis(500);

/// Pause while the store is another one than it was.
const FROZEN: Duration = Duration::from_secs(5);

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
    loop {
        let error = match session(&store, &cache, &worker, &mut known).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let text = chain(&error);
        let frozen = matches!(error, StoreError::Rewound(_));
        // Said once; the alarm stays until it is over.
        if text != said && frozen {
            tracing::error!(error = %text, "policies are frozen as they were: restore the store, or import policies and remove policies.json from this agent's state folder");
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
    cache: &Cache,
    worker: &Worker,
    known: &mut Option<PolicyView>,
) -> Result<std::convert::Infallible, StoreError> {
    let mut follower = store.follow_policies(known.clone()).await?;
    worker.send(Command::Alarm { about: "policies", text: None });
    loop {
        let view = follower.view();
        if known.as_ref() != Some(view) {
            worker.send(Command::Policies(Arc::new(view.clone())));
            disk.keep(view);
            *known = Some(view.clone());
        }
        tokio::select! {
            changed = follower.changed() => changed?,
            () = tokio::time::sleep(DISK_RETRY), if disk.complaint.is_some() => disk.keep(follower.view()),
        }
    }
}
