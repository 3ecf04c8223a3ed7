//! GC as a runtime asks for it: it names the workloads it knows, of one network.

use super::collect::alias;
use super::{Core, Reply, internal, try_again};
use weft_api::agent::{GcRequest, GcResponse};
use weft_model::id::{Attachment, IfName, Token};
use weft_model::op::Op;
use weft_model::workload::host_ifname;

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
        for (attachment, _) in &unknown {
            tracing::info!(%attachment, network = request.network, "its runtime does not know it: removing it");
        }
        let failed = self.remove_links(&unknown);
        let stays = |attachment: &Attachment| failed.iter().any(|(other, _)| other == attachment);
        let gone: Vec<_> = unknown.iter().filter(|(attachment, _)| !stays(attachment)).collect();
        self.forget_all(gone.iter().map(|(attachment, token)| (attachment, Some(token))));
        let removed: Vec<Attachment> = gone.into_iter().map(|(attachment, _)| attachment.clone()).collect();
        self.collect();
        if failed.is_empty() {
            return Ok(GcResponse { removed });
        }
        Err(internal(format!(
            "GC of network {}: {} of {} could not be removed: {}",
            request.network,
            failed.len(),
            failed.len() + removed.len(),
            failed.iter().map(|(attachment, why)| format!("{attachment}: {why}")).collect::<Vec<_>>().join("; ")
        )))
    }

    /// Removes the links of these incarnations, all in one pass of the kernel; who is left, and why.
    fn remove_links(&mut self, workloads: &[(Attachment, Token)]) -> Vec<(Attachment, String)> {
        let (mut doomed, mut failed) = (Vec::new(), Vec::new());
        for (attachment, token) in workloads {
            match self.link_of(attachment, token) {
                Ok(name) => doomed.extend(name.map(|name| (attachment, token, name))),
                Err(error) => failed.push((attachment.clone(), error)),
            }
        }
        let names: Vec<IfName> = doomed.iter().map(|(_, _, name)| name.clone()).collect();
        if let Err(failure) = self.kernel.execute(&[Op::DeleteLinks(names)], None) {
            tracing::error!(%failure, "cannot remove links of workloads that no runtime knows: the next GC tries again");
            for (attachment, token, _) in doomed {
                if !self.link_of(attachment, token).is_ok_and(|left| left.is_none()) {
                    failed.push((attachment.clone(), failure.to_string()));
                }
            }
        }
        failed
    }

    /// The host's end of this incarnation, if it is there.
    fn link_of(&mut self, attachment: &Attachment, token: &Token) -> Result<Option<IfName>, String> {
        let link = self.kernel.link(&host_ifname(attachment)).map_err(|error| error.to_string())?;
        let its = |link: &weft_hostnet::LinkInfo| alias(link).is_some_and(|alias| alias.token == *token);
        Ok(link.filter(its).map(|link| link.name))
    }
}
