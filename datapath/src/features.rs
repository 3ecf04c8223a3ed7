//! What this kernel can do, found out by trying: distributions carry features back, so that a version
//! says little.

use crate::error::DatapathError;
use crate::tc::{self, Side};
use aya::maps::MapType;
use aya::programs::{ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::os::fd::BorrowedFd;

/// What weft can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// TCX links (Linux 6.6).
    pub tcx: bool,
    /// `bpf_redirect_peer`, `bpf_redirect_neigh` (5.10) and `bpf_check_mtu` (5.12): the way past the host's stack.
    pub redirect_peer: bool,
}

impl Features {
    /// Tries them; nothing is left behind.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            // Every namespace has a loopback device; asking changes nothing.
            tcx: SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok(),
            redirect_peer: [
                BpfHelper::BPF_FUNC_redirect_peer,
                BpfHelper::BPF_FUNC_redirect_neigh,
                BpfHelper::BPF_FUNC_check_mtu,
            ]
            .into_iter()
            .all(has_helper),
        }
    }

    /// What is missing and what follows, a line each.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let table = [
            (
                self.tcx,
                "no TCX (Linux 6.6): the programs of VXLAN device and underlay are attached by clsact, where \
                 another program can be put before them",
            ),
            (
                self.redirect_peer,
                "no bpf_redirect_peer, bpf_redirect_neigh or bpf_check_mtu (Linux 5.12): no fast path",
            ),
        ];
        table.into_iter().filter(|(there, _)| !there).map(|(_, text)| text).collect()
    }
}

/// The kernel's name for itself, such as `6.1.0-56-cloud-amd64`.
#[must_use]
pub fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

fn has_helper(helper: BpfHelper) -> bool {
    // What cannot be told is tried in earnest, and then says better what is wrong.
    is_helper_supported(ProgramType::SchedClassifier, helper).unwrap_or(true)
}

/// Makes the error of a refused object say which of the features it needs this kernel lacks.
pub(crate) fn explain(error: DatapathError) -> DatapathError {
    let maps = [
        (MapType::LruHash, "LRU maps (Linux 4.10)"),
        (MapType::LpmTrie, "LPM tries (4.11)"),
        (MapType::RingBuf, "ring buffers (5.8)"),
    ];
    let helpers = [
        (BpfHelper::BPF_FUNC_skb_adjust_room, "bpf_skb_adjust_room (4.13)"),
        (BpfHelper::BPF_FUNC_ktime_get_coarse_ns, "bpf_ktime_get_coarse_ns (5.11)"),
    ];
    let maps = maps.into_iter().filter(|(kind, _)| !is_map_supported(*kind).unwrap_or(true)).map(|(_, name)| name);
    let helpers = helpers.into_iter().filter(|(helper, _)| !has_helper(*helper)).map(|(_, name)| name);
    let missing: Vec<&str> = maps.chain(helpers).collect();
    if missing.is_empty() {
        return error;
    }
    DatapathError::Kernel { release: kernel_release(), missing: missing.join(", "), source: Box::new(error) }
}

/// Whether programs can be put on clsact here (`sch_ingress`, `cls_bpf`): tried on the loopback device of a
/// network namespace that ends with the thread.
pub(crate) fn try_clsact(program: BorrowedFd<'_>) -> Result<(), DatapathError> {
    const LOOPBACK: u32 = 1;
    let attempt = || -> Result<(), (&'static str, io::Error)> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| ("a network namespace", error.into()))?;
        tc::add_clsact(LOOPBACK).map_err(|error| ("qdisc clsact (module sch_ingress)", error))?;
        tc::replace(LOOPBACK, Side::Ingress, program, "probe").map_err(|error| ("filter bpf (module cls_bpf)", error))
    };
    let outcome = std::thread::scope(|scope| scope.spawn(attempt).join());
    let unsupported = |(what, source): (&str, io::Error)| DatapathError::Kernel {
        release: kernel_release(),
        missing: what.to_owned(),
        source: Box::new(DatapathError::Attach { name: "lo".to_owned(), what: "cannot attach a program", source }),
    };
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(unsupported)
}
