//! ADD and DEL as the plugin asks for them.

use super::journal::boot_seconds;
use super::{Core, Reply, capabilities, internal, try_again};
use crate::fault;
use weft_api::agent::{
    ApiError, CommitRequest, CommitResponse, ErrorCode, Ready, ReleaseRequest, ReleaseResponse, ReserveRequest,
    ReserveResponse,
};
use weft_ipam::{Entry, Pool, PoolError, Released, Request, State, Unavailable};
use weft_model::group::group_of;
use weft_model::id::{Attachment, Token};
use weft_model::op::Op;
use weft_model::overlay::Placement;
use weft_model::workload::{Alias, Wiring, host_ifname};

impl Core {
    /// What an ADD needs, or why it would fail.
    pub(super) fn serving(&mut self) -> Reply<(&mut Pool, &Placement)> {
        if !self.lease.serves() {
            return Err(ApiError {
                details: self
                    .alarms
                    .get("lease")
                    .or_else(|| self.alarms.get("network"))
                    .cloned()
                    .or_else(|| self.store.error.clone()),
                ..try_again(format!("agent not ready: the lease is {}", self.lease))
            });
        }
        if self.policies.is_none() {
            return Err(ApiError {
                details: self.store.error.clone(),
                ..try_again("agent not ready: no policies were ever read")
            });
        }
        if self.datapath.is_none() {
            return Err(ApiError {
                code: self.limited(),
                details: self.programs.error.clone(),
                ..try_again("agent not ready: kernel programs are not loaded")
            });
        }
        if !self.built {
            return Err(ApiError {
                code: self.limited(),
                details: self.network.error.clone(),
                ..try_again("agent not ready: the host's network is not set up")
            });
        }
        match (&mut self.pool, &self.placement) {
            (Some(pool), Some(placement)) => Ok((pool, placement)),
            _ => Err(try_again("agent not ready: no subnet yet")),
        }
    }

    /// What is wrong with the host's network or programs affects who runs here already.
    fn limited(&self) -> ErrorCode {
        if self.workloads().is_empty() { ErrorCode::TryAgain } else { ErrorCode::Limited }
    }

    pub(super) fn ready(&mut self) -> Reply<Ready> {
        let means = self.means.unwrap_or_default();
        self.serving().map(|(pool, _)| Ready { subnet: pool.subnet(), means })
    }

    pub(super) fn reserve(&mut self, request: ReserveRequest) -> Reply<ReserveResponse> {
        let group = group_of(&self.config.groups, &request.identity).map_err(|error| ApiError {
            code: ErrorCode::Invalid,
            message: error.to_string(),
            details: Some("the workload's identity cannot be accepted; it is not started with another one".to_owned()),
        })?;
        let token = Token::new(uuid::Uuid::new_v4().to_string()).map_err(|error| internal(error.to_string()))?;
        let ReserveRequest { attachment, netns, network, address, identity, capabilities } = request;
        if let Some(why) = self.cannot_limit(&capabilities.bandwidth) {
            return Err(internal(why));
        }
        let (pool, placement) = self.serving()?;
        let capabilities = capabilities::grant(pool, &attachment, capabilities, placement.port)?;
        let attachment_of = attachment.clone();
        let request =
            Request { attachment: attachment_of, token, netns, network, address, identity, group, capabilities };
        let reserved = pool.reserve(request, boot_seconds()).map_err(refusal)?;
        let wiring = wiring(placement, pool, &attachment, &reserved.entry)?;
        fault::point("reserve-chosen", &attachment);
        if let (Some(event), Some(pool)) = (&reserved.event, &self.pool) {
            self.journal.append(event, pool);
        }
        fault::point("reserve-written", &attachment);
        tracing::info!(%attachment, address = %wiring.address, group = ?reserved.entry.group.as_ref().map(ToString::to_string), "reserved");
        Ok(ReserveResponse {
            wiring,
            committed: reserved.entry.state == State::Committed,
            group: reserved.entry.group,
            capabilities: reserved.entry.capabilities,
        })
    }

    /// Programs, policy, bridge, then the link: nothing passes before it is judged.
    pub(super) fn commit(&mut self, request: &CommitRequest) -> Reply<CommitResponse> {
        let CommitRequest { attachment, token } = request;
        let (pool, placement) = self.serving()?;
        let entry = pool.get(attachment).filter(|entry| entry.token == *token).cloned();
        let entry = entry.ok_or_else(|| try_again(format!("{attachment}: the reservation has lapsed")))?;
        let wiring = wiring(placement, pool, attachment, &entry)?;
        let bridge = placement.bridge.clone();
        let workload = capabilities::workload(pool, &entry);
        self.check_link(&wiring)?;
        let event = match &mut self.pool {
            Some(pool) => pool.commit(attachment, token).map_err(refusal)?,
            None => None,
        };
        let limits = entry.capabilities.bandwidth;
        let mapped = workload.map_or(Ok(()), |workload| self.map_ports(&workload));
        let limited = mapped.and_then(|()| self.limit(&wiring, &limits));
        if let Err(error) = limited.and_then(|()| self.raise(&wiring, bridge)) {
            // The address stays reserved under the token; the plugin undoes and releases it.
            return Err(ApiError {
                details: Some(format!("{attachment} stays down; the runtime will try again")),
                ..internal(error)
            });
        }
        if let (Some(event), Some(pool)) = (&event, &self.pool) {
            self.journal.append(event, pool);
        }
        fault::point("commit-written", attachment);
        tracing::info!(%attachment, address = %wiring.address, link = %wiring.host_ifname(), "committed");
        self.publish();
        Ok(CommitResponse { dns_servers: self.config.dns_servers.clone() })
    }

    fn check_link(&mut self, wiring: &Wiring) -> Reply<()> {
        let name = wiring.host_ifname();
        let link = self.kernel.link(&name).map_err(|error| internal(error.to_string()))?;
        let link =
            link.ok_or_else(|| internal(format!("commit of {}: link {name} does not exist", wiring.attachment)))?;
        let ours = link.alias.as_deref().and_then(Alias::parse).is_some_and(|alias| alias == wiring.alias());
        if !ours || link.index != wiring.host_index() {
            return Err(internal(format!(
                "commit of {}: link {name} (index {}, alias {:?}) is not the one that was reserved",
                wiring.attachment, link.index, link.alias
            )));
        }
        Ok(())
    }

    fn raise(&mut self, wiring: &Wiring, bridge: weft_model::id::IfName) -> Result<(), String> {
        let name = wiring.host_ifname();
        if let Some(datapath) = &mut self.datapath {
            datapath.attach_workload(&name).map_err(|error| crate::causes::chain(&error))?;
            self.guarded.insert(wiring.attachment.clone());
        }
        fault::point("commit-guarded", &wiring.attachment);
        self.program_endpoints()?;
        if self.policies.is_some() && !self.programmed.endpoints.contains_key(&wiring.slot) {
            return Err("the policies towards its group do not fit into the maps (weft status)".to_owned());
        }
        fault::point("commit-mapped", &wiring.attachment);
        let ops = [
            Op::JoinBridge { link: name.clone(), bridge: bridge.clone() },
            Op::ReplacePortEntry(name.clone(), wiring.workload_mac()),
            Op::ReplaceNeighbour(bridge, wiring.address, wiring.workload_mac()),
            Op::SetUp(name),
        ];
        self.execute("commit-op", &ops, &wiring.attachment)
    }

    /// One batch; each op a step of its own when somebody wants to stop after one.
    pub(super) fn execute(&mut self, stage: &str, ops: &[Op], attachment: &Attachment) -> Result<(), String> {
        let steps = if fault::armed() { 1 } else { ops.len() };
        for (number, step) in ops.chunks(steps).enumerate() {
            self.kernel.execute(step, None).map_err(|error| error.to_string())?;
            fault::point(&format!("{stage}-{number}"), attachment);
        }
        Ok(())
    }

    /// A hint from the plugin: what the kernel shows decides.
    pub(super) fn release(&mut self, request: &ReleaseRequest) -> Reply<ReleaseResponse> {
        let ReleaseRequest { attachment, token } = request;
        let Some(entry) = self.pool.as_ref().and_then(|pool| pool.get(attachment)).cloned() else {
            return Ok(ReleaseResponse { released: false });
        };
        let name = host_ifname(attachment);
        let link = self.kernel.link(&name).map_err(|error| internal(error.to_string()))?;
        if link.is_some_and(|link| self.token_of(&link).as_ref() == Some(&entry.token)) {
            if token.as_ref() != Some(&entry.token) {
                tracing::info!(%attachment, "a release that does not name the living link's token is late: ignored");
                return Ok(ReleaseResponse { released: false });
            }
            let devices = self.devices(entry.slot, Some(name));
            self.kernel.execute(&[Op::DeleteLinks(devices)], None).map_err(|error| internal(error.to_string()))?;
        }
        let released = self.forget(attachment, token.as_ref());
        Ok(ReleaseResponse { released })
    }

    /// Takes a workload out of the data plane and gives its address back; whether there was one.
    pub(super) fn forget(&mut self, attachment: &Attachment, token: Option<&Token>) -> bool {
        self.forget_all([(attachment, token)]) == [true]
    }

    /// As [`Core::forget`], for many: maps, neighbours and directory are brought up to date once.
    pub(super) fn forget_all<'a>(
        &mut self,
        workloads: impl IntoIterator<Item = (&'a Attachment, Option<&'a Token>)>,
    ) -> Vec<bool> {
        let mut neighbours = Vec::new();
        let mut mapped = Vec::new();
        let mut forgotten = Vec::new();
        for (attachment, token) in workloads {
            let released = self.pool.as_mut().map(|pool| pool.release(attachment, token, boot_seconds()));
            let (Some(Released::Yes(freed)), Some(pool)) = (released, &self.pool) else {
                forgotten.push(false);
                continue;
            };
            let address = pool.address(freed.entry.slot);
            mapped.extend(capabilities::workload(pool, &freed.entry).filter(|workload| !workload.ports.is_empty()));
            self.guarded.remove(attachment);
            self.journal.append(&freed.event, pool);
            if let (Some(placement), Some(address)) = (&self.placement, address) {
                neighbours.push(Op::DeleteNeighbour(placement.bridge.clone(), address));
            }
            tracing::info!(%attachment, address = ?address, "released");
            forgotten.push(true);
        }
        if forgotten.contains(&true) {
            if let Err(error) = self.program_endpoints() {
                tracing::error!(error, "slots could not be emptied: trying again with the next pass");
            }
            if let Err(errors) = self.kernel.execute_all(&neighbours, None) {
                tracing::debug!(?errors, "neighbour entries are gone already or go with the next pass");
            }
            self.unmap_ports(&mapped);
            self.publish();
        }
        forgotten
    }
}

pub(super) fn wiring(placement: &Placement, pool: &Pool, attachment: &Attachment, entry: &Entry) -> Reply<Wiring> {
    let address = pool
        .address(entry.slot)
        .ok_or_else(|| internal(format!("slot {} is outside {}", entry.slot.0, pool.subnet())))?;
    Ok(Wiring {
        attachment: attachment.clone(),
        token: entry.token.clone(),
        slot: entry.slot,
        address,
        gateway: placement.subnet.gateway(),
        gateway_mac: placement.subnet.gateway_mac(),
        mtu: placement.mtu,
        bridge: Some(placement.bridge.clone()),
        mac: entry.capabilities.mac,
    })
}

fn refusal(error: PoolError) -> ApiError {
    match error {
        PoolError::Exhausted { .. } | PoolError::NotReserved { .. } | PoolError::OtherToken { .. } => {
            try_again(error.to_string())
        }
        PoolError::Unavailable { ref why, .. } => {
            let code = match why {
                Unavailable::Outside(_) | Unavailable::NotAWorkloads { .. } | Unavailable::Reserved => {
                    ErrorCode::Invalid
                }
                // Its owner may be about to go.
                Unavailable::Owned(_) | Unavailable::Blocked => ErrorCode::TryAgain,
                Unavailable::HasAnother(_) => ErrorCode::Exists,
            };
            ApiError { code, message: error.to_string(), details: None }
        }
        PoolError::BadSlot { .. } => internal(error.to_string()),
    }
}
