//! DEL: takes the host's end away and tells the agent. It never looks at `CNI_NETNS`: the workload's
//! end goes with the host's, whether its namespace is there, is gone, is an ordinary file after a
//! reboot, or is, by a runtime's mistake, the host's own.

use crate::call::{Call, host, internal};
use crate::error::CniError;
use crate::link::{HostEnd, judge};
use crate::process::Answer;
use crate::release;
use crate::section::Section;
use weft_api::agent::ReleaseRequest;
use weft_model::op::Op;
use weft_model::workload::host_ifname;

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
    let name = host_ifname(&call.attachment);
    let mut host = host()?;
    let link = host.link(&name).map_err(|error| internal("cannot read the host's links", &error))?;
    let token = match judge(link.as_ref(), &call.attachment) {
        HostEnd::Absent => None,
        HostEnd::Foreign => {
            said += &format!("weft-cni: link {name} is not weft's and stays\n");
            None
        }
        HostEnd::Ours { token, .. } => {
            host.execute(&[Op::DeleteLink(name)], None)
                .map_err(|error| internal(&format!("cannot take {} down", call.attachment), &error))?;
            token
        }
    };
    let release = ReleaseRequest { attachment: call.attachment.clone(), token };
    said += &release::tell(&section.socket, &release).unwrap_or_default();
    Ok(Answer { stderr: said, ..Answer::default() })
}
