//! GC as a runtime asks for it: it names the workloads it knows, of one network.

use super::{Core, Reply, internal, try_again};
use weft_api::agent::{GcRequest, GcResponse, ReleaseRequest};
use weft_model::id::{Attachment, Token};

impl Core {
    /// Removes the workloads of that network that are not in the list, link and address, and whatever
    /// else nobody stands for. One that cannot be removed keeps no other from going.
    pub(super) fn gc(&mut self, request: &GcRequest) -> Reply<GcResponse> {
        let Some(pool) = &self.pool else {
            return Err(try_again("agent not ready: nothing can be collected without a subnet"));
        };
        let unknown: Vec<(Attachment, Token)> = pool
            .entries()
            .iter()
            .filter(|(attachment, entry)| entry.network == request.network && !request.valid.contains(attachment))
            .map(|(attachment, entry)| (attachment.clone(), entry.token.clone()))
            .collect();
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        for (attachment, token) in unknown {
            tracing::info!(%attachment, network = request.network, "its runtime does not know it: removing it");
            match self.release(&ReleaseRequest { attachment: attachment.clone(), token: Some(token) }) {
                Ok(_) => removed.push(attachment),
                Err(error) => failed.push(format!("{attachment}: {}", error.message)),
            }
        }
        self.collect();
        if failed.is_empty() {
            return Ok(GcResponse { removed });
        }
        Err(internal(format!(
            "GC of network {}: {} of {} could not be removed: {}",
            request.network,
            failed.len(),
            failed.len() + removed.len(),
            failed.join("; ")
        )))
    }
}
