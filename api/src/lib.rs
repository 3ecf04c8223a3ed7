//! Wire and stored types with their validation.
//!
//! `agent`: between the plugin, the command line and the agent, over the agent's unix socket.
//! `policies`: Cloud Foundry's network policy API. `stored`: our documents in the store.
//! `flannel`: flannel's documents there, which we share. `denial`: records of denied packets.
//! `logging`: what of them is logged, and where.
//! `enforced`: whether a revision of the policies is enforced everywhere. `explain`: whether a connection
//! would pass, and why.

pub mod agent;
pub mod denial;
pub mod enforced;
pub mod explain;
pub mod flannel;
pub mod logging;
pub mod policies;
pub mod stored;
