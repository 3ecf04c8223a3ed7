//! What can go wrong.

use std::io;
use std::path::PathBuf;
use weft_model::datapath::SetId;
use weft_model::id::Slot;

/// A failure of the data plane; what was in force before is still in force.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel refused the object.
    #[error("the kernel programs cannot be loaded: {0}")]
    Load(#[from] aya::EbpfError),
    /// The verifier refused a program.
    #[error("program {program}: {source}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// The kernel does not tell what the programs must know of it.
    #[error(
        "the kernel's type information {}: {reason} (needed: a kernel with CONFIG_DEBUG_INFO_BTF, and /sys)",
        path.display()
    )]
    KernelTypes {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel lacks something that weft cannot do without.
    #[error("this kernel ({release}) lacks {missing}: {source}")]
    Kernel {
        /// The kernel's release.
        release: String,
        /// What it lacks.
        missing: String,
        /// How that showed.
        source: Box<DatapathError>,
    },
    /// A folder or pin below the bpffs folder could not be used.
    #[error("{what} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A map of the object is missing, or of another type.
    #[error("map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// A map could not be written.
    #[error("map {map}: {source}")]
    MapWrite {
        /// Which.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A map has no room for another entry.
    #[error("map {map} is full ({capacity} entries): {what} was not put in force")]
    MapFull {
        /// Which.
        map: &'static str,
        /// How many entries it holds.
        capacity: u32,
        /// What was to be written.
        what: String,
    },
    /// Memory of a map could not be mapped.
    #[error("map {map} cannot be mapped into memory: {source}")]
    Mmap {
        /// Which.
        map: &'static str,
        /// Why.
        source: nix::Error,
    },
    /// A slot outside the endpoint array.
    #[error("slot {}: a host has slots 0 to {}", .0.0, weft_abi::MAX_SLOTS - 1)]
    Slot(Slot),
    /// A set number that does not fit its field.
    #[error("policy set {}: sets have numbers 1 to {}", .0.0, weft_model::datapath::MAX_SET_ID)]
    SetId(SetId),
    /// A set that endpoints are judged by cannot be written or removed.
    #[error("policy set {} is in use by slot {}", .set.0, .slot.0)]
    SetInUse {
        /// The set.
        set: SetId,
        /// One of its users.
        slot: Slot,
    },
    /// An endpoint may only point to a complete set.
    #[error("slot {} names policy set {}, which was never put", .slot.0, .set.0)]
    NoSuchSet {
        /// The set.
        set: SetId,
        /// The endpoint.
        slot: Slot,
    },
    /// A rule that the maps cannot express.
    #[error("rule {rule} of policy set {}: {reason}", .set.0)]
    Rule {
        /// The set.
        set: SetId,
        /// The rule's number.
        rule: u32,
        /// Why not.
        reason: &'static str,
    },
    /// A host value out of range.
    #[error("invalid {field} {value}: {allowed}")]
    Host {
        /// Which.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// There is no such interface in this network namespace.
    #[error("interface {name}: {source}")]
    Interface {
        /// Its name.
        name: String,
        /// Why.
        source: nix::Error,
    },
    /// The interface is not of the kind that a program was written for.
    #[error("interface {name}: {reason}")]
    WrongInterface {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Programs could not be attached or looked up.
    #[error("{what} on interface {name}: {source}")]
    Attach {
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel cannot wait for running programs.
    #[error("membarrier: {0} (kernels booted with nohz_full cannot wait for running programs)")]
    Barrier(io::Error),
    /// There is one reader of denials.
    #[error("the denials are already being read")]
    ReaderTaken,
}
