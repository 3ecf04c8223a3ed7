//! CHECK: is the workload as ADD left it?

use crate::call::{Call, internal};
use crate::environment::Command;
use crate::error::{CniError, Code};
use crate::ipam::{self, through_gateway};
use crate::process::Answer;
use crate::result::CniResult;
use crate::section::Section;
use ipnetwork::Ipv4Network;
use weft_api::agent::{CheckRequest, CheckResponse};
use weft_hostnet::{Executor, Netns};
use weft_model::op::Op;
use weft_model::wired::{differences, sysctls_of};
use weft_model::workload::{Wiring, plan_workload};

/// The agent compares the host's side, with programs and maps; here the workload's side and the
/// chain's result are. Later plugins of the chain may have added to it.
///
/// # Errors
/// All differences, code 999.
pub fn check(call: &Call) -> Result<Answer, CniError> {
    let section = Section::of(&call.config)?;
    let delegate = ipam::delegate(&call.config)?;
    let Some(previous) = CniResult::previous(&call.config)? else {
        return Err(CniError::new(Code::InvalidConfig, "Required prevResult missing"));
    };
    let netns = call.namespace()?;
    let request = CheckRequest { attachment: call.attachment.clone() };
    let CheckResponse { wiring } = section.agent().post("/v1/check", &request)?;
    let mut found: Vec<String> = of_result(call, &previous, &wiring, &netns).into_iter().collect();
    found.extend(of_namespace(&previous, &wiring, &netns)?);
    if !found.is_empty() {
        return Err(CniError::new(Code::Internal, format!("{}: {}", call.attachment, found.join("; "))));
    }
    if let Some(delegate) = delegate {
        delegate.call(Command::Check, &call.environment, &call.config)?;
    }
    Ok(Answer::default())
}

/// Whether the result still has the workload's address on its interface.
fn of_result(call: &Call, previous: &CniResult, wiring: &Wiring, netns: &Netns) -> Option<String> {
    let (ifname, sandbox) = (&call.attachment.ifname, &call.environment.netns);
    // A namespace may have several names.
    let same = |path: &str| path == sandbox || Netns::open(path).is_ok_and(|other| other.is_same_as(netns));
    (!previous.has(ifname.as_str(), same, wiring.address))
        .then(|| format!("prevResult lacks {}/32 on {ifname} in {sandbox:?}", wiring.address))
}

fn of_namespace(previous: &CniResult, wiring: &Wiring, netns: &Netns) -> Result<Vec<String>, CniError> {
    let mut plan = plan_workload(wiring);
    plan.extend(routes(previous, wiring).map(|destination| Op::ReplaceRoute(through_gateway(wiring, destination))));
    let mut inside = Executor::in_namespace(netns).map_err(|error| internal("cannot use CNI_NETNS", &error))?;
    let seen = inside
        .inside(&wiring.attachment.ifname, &sysctls_of(&plan))
        .map_err(|error| internal("cannot read the workload's network", &error))?;
    Ok(differences(wiring, &plan, &seen))
}

/// The result's routes through our gateway, which a delegate gave, beside the default route.
fn routes(previous: &CniResult, wiring: &Wiring) -> impl Iterator<Item = Ipv4Network> {
    let gateway = wiring.gateway.to_string();
    previous.routes().filter_map(move |route| {
        let through_ours = route.get("gw").and_then(|gw| gw.as_str()) == Some(gateway.as_str());
        let destination: Ipv4Network = route.get("dst")?.as_str()?.parse().ok()?;
        (through_ours && destination.prefix() != 0).then_some(destination)
    })
}
