//! DEL: the agent takes the workload down, many in one pass of the kernel; where no agent answers, this
//! process does, and leaves the agent a note. It never looks at `CNI_NETNS`: the workload's end goes with
//! the host's, whether its namespace is there, is gone, is an ordinary file after a reboot, or is, by a
//! runtime's mistake, the host's own.

use crate::call::{Call, host, internal};
use crate::client::{Agent, AgentError, Patience};
use crate::environment::Command;
use crate::error::CniError;
use crate::fault;
use crate::ipam;
use crate::link::{HostEnd, judge};
use crate::process::Answer;
use crate::release;
use crate::section::Section;
use std::time::Duration;
use weft_api::agent::{ReleaseRequest, RemoveRequest, RemoveResponse};
use weft_hostnet::{Executor, LinkInfo};
use weft_model::bandwidth::{shaper_ifname, shapers_slot, veths_slot};
use weft_model::id::IfName;
use weft_model::op::Op;
use weft_model::overlay::LinkKind;
use weft_model::workload::host_ifname;

/// How long the agent has for it. A hundred at once took it 1 to 2 s on a machine with ten busy processes a
/// core; a hundred plugins that give up and remove their links one by one would make it worse.
const LIMIT: Duration = Duration::from_secs(5);

/// Takes a workload down; nothing there is a success.
///
/// # Errors
/// When the link is there and the kernel does not remove it: trying again may help.
pub fn del(call: &Call) -> Result<Answer, CniError> {
    let mut said = String::new();
    // A config that no ADD could have worked with must not keep a sandbox from going.
    let section = Section::of(&call.config).unwrap_or_else(|error| {
        said += &format!("weft-cni: {error}; going on with the default\n");
        Section::default()
    });
    fault::point();
    let agent = Agent { socket: section.socket.clone(), patience: Patience::Once(LIMIT) };
    let request = RemoveRequest { attachment: call.attachment.clone() };
    match agent.post::<_, RemoveResponse>("/v1/remove", &request) {
        Ok(RemoveResponse { foreign: true, .. }) => said += &stays(call),
        Ok(_) => {}
        Err(error) => said += &by_hand(call, &section, &error)?,
    }
    fault::point();
    said += &undelegate(call)?;
    Ok(Answer { stderr: said, ..Answer::default() })
}

/// Has another plugin take its address back, after the link is gone: until then it was in use.
fn undelegate(call: &Call) -> Result<String, CniError> {
    match ipam::delegate(&call.config) {
        Ok(Some(delegate)) => delegate.call(Command::Del, &call.environment, &call.config).map(|()| String::new()),
        Ok(None) => Ok(String::new()),
        Err(error) => Ok(format!("weft-cni: {error}; no address is given back to another plugin\n")),
    }
}

/// Removes the link without the agent, which is told afterwards, if it can be; what a person should know.
fn by_hand(call: &Call, section: &Section, error: &AgentError) -> Result<String, CniError> {
    let mut said = String::new();
    let name = host_ifname(&call.attachment);
    let mut host = host()?;
    let link = host.link(&name).map_err(|error| internal("cannot read the host's links", &error))?;
    let token = match judge(link.as_ref(), &call.attachment) {
        HostEnd::Absent => None,
        HostEnd::Foreign => {
            said += &stays(call);
            None
        }
        HostEnd::Ours { token, .. } => {
            let shaper = link.and_then(|link| shaper_of(&mut host, &link));
            let gone = shaper.map_or(Op::DeleteLink(name.clone()), |shaper| Op::DeleteLinks(vec![name, shaper]));
            fault::execute(&mut host, &[gone], None)
                .map_err(|error| internal(&format!("cannot take {} down", call.attachment), &error))?;
            token
        }
    };
    let release = ReleaseRequest { attachment: call.attachment.clone(), token };
    Ok(said
        + &match error {
            // It would not answer a second time either.
            AgentError::Away { .. } => release::leave_note(&section.socket, &release, error),
            _ => release::tell(&section.socket, &release).unwrap_or_default(),
        })
}

/// The device that what a limited workload sends goes through; where the kernel does not say, the agent finds it.
fn shaper_of(host: &mut Executor, link: &LinkInfo) -> Option<IfName> {
    let name = shaper_ifname(veths_slot(link.index)?);
    let found = host.link(&name).ok()??;
    let ours = found.kind == LinkKind::Ifb && shapers_slot(&found.name, found.index).is_some();
    ours.then_some(name)
}

fn stays(call: &Call) -> String {
    format!("weft-cni: link {} is not weft's and stays\n", host_ifname(&call.attachment))
}
