//! The only user of aya: loads, attaches and fills the kernel programs.
//!
//! Everything here blocks, and works in the network namespace of the calling thread. What is in
//! force lives in the kernel: programs on interfaces, maps and links pinned below a folder of a
//! bpffs. A [`Datapath`] can be dropped, or its process killed, without a packet noticing; the next
//! one [opens](Datapath::open) what it finds.

mod attach;
mod barrier;
mod btf;
mod connections;
mod counters;
mod denials;
mod encode;
mod endpoints;
mod error;
mod features;
mod former;
mod object;
mod open;
mod pins;
mod pod;
mod probe;
mod sets;
mod skb;
mod surroundings;
mod table;
mod tc;
mod version;
mod writes;

pub use attach::Attached;
pub use counters::Fill;
pub use denials::DenialReader;
pub use endpoints::EndpointView;
pub use error::DatapathError;
pub use features::{Features, kernel_release};
pub use object::Program;
pub use open::{Datapath, Report};
pub use probe::{Outcome, Probe};
pub use version::Version;
pub use weft_abi::{DenialEvent, Reason, action, direction};

// The agent moves both to threads of their own.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Datapath>();
    is_send::<DenialReader>();
};
