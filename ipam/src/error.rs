//! Why the pool refuses.

use crate::pool::Usage;
use std::net::Ipv4Addr;
use weft_model::id::{Attachment, Slot, Token};
use weft_model::net::Subnet;

/// Why the pool refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Nothing is free.
    #[error(
        "subnet {subnet} is exhausted: {} of its {} workload addresses are in use, {} wait out their cool-down of {cool_down} s, {} are used by something weft does not know, {} are reserved by configuration",
        usage.in_use, usage.size, usage.cooling, usage.blocked, usage.reserved
    )]
    Exhausted {
        /// The subnet.
        subnet: Subnet,
        /// How it is used.
        usage: Usage,
        /// Seconds between owners.
        cool_down: u64,
    },
    /// An address asked for by name that cannot be given.
    #[error("{attachment} cannot have the requested address {address}: {why}")]
    Unavailable {
        /// Who asks.
        attachment: Attachment,
        /// For what.
        address: Ipv4Addr,
        /// Why not.
        why: Unavailable,
    },
    /// A commit for what was never reserved, or was collected.
    #[error("{attachment} has no reservation: it lapsed or was released")]
    NotReserved {
        /// Whose.
        attachment: Attachment,
    },
    /// A commit with the token of another incarnation.
    #[error("{attachment} is reserved under another token than {token}: that reservation lapsed or was released")]
    OtherToken {
        /// Whose.
        attachment: Attachment,
        /// What the caller has.
        token: Token,
    },
    /// A slot that is no workload's, or of another owner.
    #[error("{attachment} cannot have slot {} of subnet {subnet}: {why}", slot.0)]
    BadSlot {
        /// Whose it would be.
        attachment: Attachment,
        /// Which.
        slot: Slot,
        /// The subnet.
        subnet: Subnet,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a requested address cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Another host's, or nobody's.
    #[error("it is outside this host's subnet {0}")]
    Outside(Subnet),
    /// The subnet's first two addresses and its last one.
    #[error("it is no workload's address: in subnet {subnet} those are {first} to {last}")]
    NotAWorkloads {
        /// The subnet.
        subnet: Subnet,
        /// Its first workload address.
        first: Ipv4Addr,
        /// Its last.
        last: Ipv4Addr,
    },
    /// By configuration.
    #[error("it is kept back by the agent's setting reserved_addresses")]
    Reserved,
    /// Somebody has it.
    #[error("{0} has it")]
    Owned(Attachment),
    /// The asker has another one.
    #[error("it has {0} already: DEL must come first")]
    HasAnother(Ipv4Addr),
    /// The kernel shows it in use.
    #[error("this host uses it for something weft does not know")]
    Blocked,
}
