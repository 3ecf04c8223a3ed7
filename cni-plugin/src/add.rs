//! ADD: reserve, wire, commit; undo in reverse if anything fails.

use crate::args;
use crate::call::{Call, host, internal};
use crate::capabilities;
use crate::client::Agent;
use crate::delegate::Delegate;
use crate::environment::Command;
use crate::error::{CniError, Code};
use crate::fault;
use crate::ipam::{self, Delegated};
use crate::link::{HostEnd, judge};
use crate::process::Answer;
use crate::release;
use crate::requested::{Requested, requested};
use crate::result::CniResult;
use crate::section::Section;
use serde_json::{Map, Value};
use std::net::Ipv4Addr;
use weft_api::agent::{CommitRequest, CommitResponse, ReleaseRequest, ReserveRequest, ReserveResponse};
use weft_hostnet::{Executor, Netns, OpError};
use weft_model::bandwidth::{Bandwidth, shaper_ifname};
use weft_model::capability::Capabilities;
use weft_model::group::Identity;
use weft_model::id::{IfName, Slot};
use weft_model::op::Op;
use weft_model::workload::{Wiring, host_ifname, plan_host, plan_workload};

/// Wires a workload and answers with the result.
///
/// # Errors
/// The first thing that failed. Whatever was done before it is undone, as far as it can be; the
/// second part of the pair are lines for stderr about that.
pub fn add(call: &Call) -> Result<Answer, (CniError, String)> {
    let mut ground = Ground::survey(call).map_err(plain)?;
    fault::point();
    ground.delegate(call).map_err(plain)?;
    fault::point();
    let reservation = match ground.reserve(call) {
        Ok(reservation) => reservation,
        Err(error) => return Err((error, ground.undelegate(call))),
    };
    fault::point();
    let wiring = &reservation.wiring;
    let wired = ground.wire(wiring, call.config.name()).and_then(|()| ground.commit(wiring));
    match wired {
        Ok(commit) => {
            fault::point();
            Ok(Answer { stdout: ground.result(call, wiring, &commit), ..Answer::default() })
        }
        Err((error, Made { link })) => Err((error, ground.undo(wiring, link) + &ground.undelegate(call))),
    }
}

/// What the runtime says, else the config.
fn dns(call: &Call) -> Result<Map<String, Value>, CniError> {
    let asked = capabilities::dns(&call.config)?;
    let configured = call.config.object("dns")?;
    Ok(if asked.is_empty() { configured.cloned().unwrap_or_default() } else { asked })
}

fn plain(error: CniError) -> (CniError, String) {
    (error, String::new())
}

/// What an ADD works on, once everything that can be refused without the agent has been.
struct Ground {
    section: Section,
    agent: Agent,
    identity: Identity,
    ipam: Option<Delegate>,
    delegated: Option<Delegated>,
    requested: Option<Requested>,
    capabilities: Capabilities,
    dns: Map<String, Value>,
    previous: CniResult,
    netns: Netns,
    host: Executor,
    inside: Executor,
    end: HostEnd,
}

/// What must be undone besides the reservation.
struct Made {
    link: bool,
}

impl Ground {
    fn survey(call: &Call) -> Result<Self, CniError> {
        fits_alias(call)?;
        let section = Section::of(&call.config)?;
        let ipam = ipam::delegate(&call.config)?;
        let args = args::parse(&call.environment.args)?;
        let mut capabilities = capabilities::wanted(&call.config, &args)?;
        if !section.bandwidth.is_unlimited() {
            capabilities.bandwidth = section.bandwidth;
        }
        let requested = requested(&call.config, &args)?;
        let identity =
            Identity { pod_namespace: args.pod_namespace, pod_name: args.pod_name, ..call.config.identity()? };
        let dns = dns(call)?;
        let previous = CniResult::previous(&call.config)?.unwrap_or_default();
        let netns = call.namespace()?;
        let mut host = host()?;
        let link = host
            .link(&host_ifname(&call.attachment))
            .map_err(|error| internal("cannot read the host's links", &error))?;
        let inside = Executor::in_namespace(&netns)
            .map_err(|error| internal(&format!("cannot use netns {:?}", call.environment.netns), &error))?;
        let end = judge(link.as_ref(), &call.attachment);
        let agent = section.agent();
        let delegated = None;
        let mut ground = Self {
            section,
            agent,
            identity,
            ipam,
            delegated,
            requested,
            capabilities,
            dns,
            previous,
            netns,
            host,
            inside,
            end,
        };
        match ground.end {
            HostEnd::Absent => ground.refuse_taken(call)?,
            HostEnd::Ours { raised: true, .. } => return Err(twice(call)),
            HostEnd::Ours { raised: false, .. } => {}
            HostEnd::Foreign => {
                let msg = format!(
                    "link {} exists on the host and is not weft's: {} cannot be wired",
                    host_ifname(&call.attachment),
                    call.attachment
                );
                return Err(CniError::new(Code::Internal, msg));
            }
        }
        Ok(ground)
    }

    fn refuse_taken(&mut self, call: &Call) -> Result<(), CniError> {
        let name = &call.attachment.ifname;
        let found = self.inside.link(name).map_err(|error| internal("cannot read the workload's links", &error))?;
        match found {
            None => Ok(()),
            Some(_) => {
                let msg = format!("interface {name} exists already in netns {:?}", call.environment.netns);
                Err(CniError::new(Code::Internal, msg))
            }
        }
    }

    /// Has another plugin give an address, if the config says so.
    fn delegate(&mut self, call: &Call) -> Result<(), CniError> {
        let Some(delegate) = &self.ipam else { return Ok(()) };
        let read = delegate
            .add(&call.environment, &call.config)
            .and_then(|result| Delegated::of(&delegate.kind, &result))
            .and_then(|delegated| delegated.as_requested(self.requested));
        match read {
            Ok(delegated) => self.delegated = Some(delegated),
            // Where an earlier ADD left its link, the address may be its, and that workload may live.
            Err(error) if self.end != HostEnd::Absent => return Err(error),
            Err(mut error) => {
                let said = self.undelegate(call);
                if !said.is_empty() {
                    error.details = format!("{} {}", error.details, said.trim_end()).trim_start().to_owned();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has the address taken back; what a person should know about that.
    fn undelegate(&self, call: &Call) -> String {
        let Some(delegate) = &self.ipam else { return String::new() };
        match delegate.call(Command::Del, &call.environment, &call.config) {
            Ok(()) => String::new(),
            Err(error) => format!("weft-cni: undoing: {error}\n"),
        }
    }

    /// Reserves, and clears away what an ADD that was killed left of this attachment.
    fn reserve(&mut self, call: &Call) -> Result<ReserveResponse, CniError> {
        let request = ReserveRequest {
            attachment: call.attachment.clone(),
            netns: call.environment.netns.clone(),
            network: call.config.name().to_owned(),
            address: self.address(),
            identity: self.identity.clone(),
            capabilities: self.capabilities.clone(),
        };
        let reservation: ReserveResponse =
            self.agent.post("/v1/reserve", &request).map_err(|error| self.refused(error.into()))?;
        if reservation.wiring.attachment != call.attachment {
            let msg =
                format!("the agent answered for {} instead of {}", reservation.wiring.attachment, call.attachment);
            return Err(CniError::new(Code::Internal, msg));
        }
        self.refuse_less(call, &reservation)?;
        if self.end == HostEnd::Absent {
            return Ok(reservation);
        }
        // Down, but committed: an operator may have taken it down; the workload lives.
        if reservation.committed {
            return Err(twice(call));
        }
        self.delete(&reservation.wiring)
            .map_err(|error| internal("cannot remove the link of an earlier ADD", &error))?;
        self.refuse_taken(call)?;
        Ok(reservation)
    }

    /// The address somebody names; `None`: any.
    fn address(&self) -> Option<Ipv4Addr> {
        let requested = self.requested.map(|requested| requested.address);
        self.delegated.as_ref().map(|delegated| delegated.address).or(requested)
    }

    /// Says which field asked for an address, whatever the agent refused.
    fn refused(&self, error: CniError) -> CniError {
        match self.requested {
            Some(Requested { address, field }) if error.details.is_empty() => {
                error.details(format!("{field} asks for {address}"))
            }
            _ => error,
        }
    }

    /// An agent that is older than this plugin does not know what it is asked for, and says so by not repeating it.
    fn refuse_less(&mut self, call: &Call, reservation: &ReserveResponse) -> Result<(), CniError> {
        let (asked, granted) = (&self.capabilities, &reservation.capabilities);
        let mapped = asked.ports.iter().all(|mapping| granted.ports.contains(mapping));
        let addressed = self.address().is_none_or(|address| address == reservation.wiring.address);
        if reservation.committed
            || (mapped && addressed && asked.mac == granted.mac && asked.bandwidth == granted.bandwidth)
        {
            return Ok(());
        }
        let release =
            ReleaseRequest { attachment: call.attachment.clone(), token: Some(reservation.wiring.token.clone()) };
        let said = release::tell(&self.section.socket, &release).unwrap_or_default();
        let msg =
            "the weft agent does not carry out portMappings, mac, ips or bandwidth: is weftd older than weft-cni?";
        Err(CniError::new(Code::Internal, msg).details(said))
    }

    fn wire(&mut self, wiring: &Wiring, network: &str) -> Result<(), (CniError, Made)> {
        let failed =
            |error: &OpError| CniError::new(Code::Internal, format!("cannot wire {}: {error}", wiring.attachment));
        let mut plan = plan_workload(wiring);
        if let Some(delegated) = &self.delegated {
            plan.extend(delegated.plan(wiring).map_err(|error| (error, Made { link: false }))?);
        }
        fault::execute(&mut self.host, &plan_host(wiring, network), Some(&self.netns))
            // Where something of that name appeared meanwhile, it is not ours to remove.
            .map_err(|error| (failed(&error), Made { link: !error.already_exists() }))?;
        fault::execute(&mut self.inside, &plan, None).map_err(|error| (failed(&error), Made { link: true }))
    }

    fn commit(&self, wiring: &Wiring) -> Result<CommitResponse, (CniError, Made)> {
        let request = CommitRequest { attachment: wiring.attachment.clone(), token: wiring.token.clone() };
        self.agent.post("/v1/commit", &request).map_err(|error| (error.into(), Made { link: true }))
    }

    fn result(&self, call: &Call, wiring: &Wiring, commit: &CommitResponse) -> String {
        let mut result = self.previous.clone();
        result.add_workload(wiring, &call.environment.netns);
        let delegated = self.delegated.as_ref();
        for op in delegated.and_then(|delegated| delegated.plan(wiring).ok()).into_iter().flatten() {
            if let Op::ReplaceRoute(route) = op {
                result.add_route(route.destination, wiring.gateway);
            }
        }
        let dns = delegated.map(|delegated| &delegated.dns).filter(|_theirs| self.dns.is_empty());
        result.set_dns(dns.unwrap_or(&self.dns), &commit.dns_servers);
        result.to_json(call.version)
    }

    fn undo(&mut self, wiring: &Wiring, link: bool) -> String {
        let mut said = String::new();
        if link && let Err(error) = self.delete(wiring) {
            said += &format!("weft-cni: undoing: {error}\n");
        }
        let release = ReleaseRequest { attachment: wiring.attachment.clone(), token: Some(wiring.token.clone()) };
        said + &release::tell(&self.section.socket, &release).unwrap_or_default()
    }

    fn delete(&mut self, wiring: &Wiring) -> Result<(), OpError> {
        self.host.execute(&[remove(wiring.host_ifname(), wiring.slot, &self.capabilities.bandwidth)], None)
    }
}

/// The link, and what an agent that is away or died may have made for it: it is not waited for.
fn remove(link: IfName, slot: Slot, limits: &Bandwidth) -> Op {
    match limits.egress {
        None => Op::DeleteLink(link),
        Some(_) => Op::DeleteLinks(vec![link, shaper_ifname(slot)]),
    }
}

/// The link's alias has the container id in it, and the kernel takes 255 bytes; runtimes' ids have 64 or so.
fn fits_alias(call: &Call) -> Result<(), CniError> {
    const LONGEST: usize = 190;
    match call.environment.container_id.len() {
        ..=LONGEST => Ok(()),
        length => {
            let msg = format!("CNI_CONTAINERID has {length} characters: at most {LONGEST} are allowed");
            Err(CniError::new(Code::InvalidEnvironment, msg))
        }
    }
}

fn twice(call: &Call) -> CniError {
    let msg = format!("{} is wired already: ADD was called twice without DEL between", call.attachment);
    CniError::new(Code::Internal, msg)
}
