//! CHECK: is the workload as ADD left it?

use crate::call::{Call, host, internal};
use crate::error::{CniError, Code};
use crate::link::{HostEnd, judge};
use crate::process::Answer;
use crate::result::CniResult;
use crate::section::Section;
use weft_api::agent::EndpointView;
use weft_hostnet::Executor;
use weft_model::workload::host_ifname;

/// Compares kernel, agent and the chain's result. Later plugins of the chain may have added to it.
///
/// # Errors
/// The first difference, code 999.
pub fn check(call: &Call) -> Result<Answer, CniError> {
    let wrong = |what: String| CniError::new(Code::Internal, format!("{}: {what}", call.attachment));
    let section = Section::of(&call.config)?;
    let Some(previous) = CniResult::previous(&call.config)? else {
        return Err(CniError::new(Code::InvalidConfig, "Required prevResult missing"));
    };
    let netns = call.namespace()?;
    let endpoints: Vec<EndpointView> = section.agent().get("/v1/endpoints")?;
    let Some(endpoint) = endpoints.into_iter().find(|endpoint| endpoint.attachment == call.attachment) else {
        return Err(wrong("the agent does not know it".to_owned()));
    };
    if endpoint.state != "committed" {
        return Err(wrong(format!("it is {} and not committed", endpoint.state)));
    }
    let (ifname, sandbox) = (&call.attachment.ifname, &call.environment.netns);
    if !previous.has(ifname.as_str(), sandbox, endpoint.address) {
        return Err(wrong(format!("prevResult lacks {}/32 on {ifname} in {sandbox:?}", endpoint.address)));
    }
    let end = host()?
        .link(&host_ifname(&call.attachment))
        .map_err(|error| internal("cannot read the host's links", &error))?;
    if !matches!(judge(end.as_ref(), &call.attachment), HostEnd::Ours { raised: true, .. }) {
        return Err(wrong(format!("its host end {} is missing or down", host_ifname(&call.attachment))));
    }
    let mut inside = Executor::in_namespace(&netns).map_err(|error| internal("cannot use CNI_NETNS", &error))?;
    let reading = |error| internal("cannot read the workload's network", &error);
    let Some(link) = inside.link(ifname).map_err(reading)?.filter(|link| link.up) else {
        return Err(wrong(format!("{ifname} is missing or down in {sandbox:?}")));
    };
    let addresses = inside.addresses_of(&link).map_err(reading)?;
    if !addresses.iter().any(|address| address.ip() == endpoint.address && address.prefix() == 32) {
        return Err(wrong(format!("{ifname} lacks its address {}/32 in {sandbox:?}", endpoint.address)));
    }
    Ok(Answer::default())
}
