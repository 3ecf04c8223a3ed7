//! Programs on interfaces: clsact on workloads' veths, TCX links on the VXLAN device and the
//! underlay, clsact there too where the kernel has no TCX (before 6.6) or it is not to be used.

use crate::barrier::wait_for_programs;
use crate::error::DatapathError;
use crate::object::Program;
use crate::open::Datapath;
use crate::pins::error;
use crate::tc::{self, Side};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use nix::libc;
use nix::net::if_::if_nametoindex;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};
use weft_abi::{MAX_SLOTS, SLOT_IFINDEX_BASE};
use weft_model::id::{IfName, Slot};

/// What attaching had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// This version was there already.
    Unchanged,
    /// It was put there, or took the place of another version without a gap.
    Changed,
}

impl Program {
    fn side(self) -> Side {
        match self {
            Self::FromWorkload | Self::FromOverlay | Self::FromUnderlay | Self::Empty => Side::Ingress,
            Self::ToWorkload | Self::ToOverlay => Side::Egress,
        }
    }

    fn tcx(self) -> TcAttachType {
        match self.side() {
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        }
    }
}

/// How long a link may take to be gone.
const RELEASE: Duration = Duration::from_secs(2);

/// Programs on a workload's veth.
const WORKLOAD: [Program; 2] = [Program::ToWorkload, Program::FromWorkload];
/// Programs on the VXLAN device.
const VTEP: [Program; 2] = [Program::ToOverlay, Program::FromOverlay];

impl Datapath {
    /// Attaches both programs to a workload's host veth, whose index says its slot. They stay when
    /// we are gone.
    ///
    /// # Errors
    /// No such interface, an index that belongs to no slot, or the kernel refuses.
    pub fn attach_workload(&mut self, interface: &IfName) -> Result<Attached, DatapathError> {
        if self.workload_attached(interface)? {
            return Ok(Attached::Unchanged);
        }
        self.reattach_workload(interface)
    }

    /// As [`Datapath::attach_workload`], without looking: puts our programs in the place of whatever
    /// version is there, without a gap.
    ///
    /// # Errors
    /// As [`Datapath::attach_workload`].
    pub fn reattach_workload(&mut self, interface: &IfName) -> Result<Attached, DatapathError> {
        let ifindex = slot_ifindex(interface)?;
        tc::add_clsact(ifindex).map_err(failed(interface, "cannot add clsact"))?;
        for program in WORKLOAD {
            self.replace(program, interface, ifindex)?;
        }
        Ok(Attached::Changed)
    }

    /// Whether both programs of this version, with these maps, are attached.
    ///
    /// # Errors
    /// No such interface, an index that belongs to no slot, or the kernel does not tell.
    pub fn workload_attached(&self, interface: &IfName) -> Result<bool, DatapathError> {
        let ifindex = slot_ifindex(interface)?;
        for program in WORKLOAD {
            if !self.has_clsact(program, interface, ifindex)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Attaches `to_overlay` and `from_overlay` to the VXLAN device.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn attach_vtep(&mut self, interface: &IfName) -> Result<Attached, DatapathError> {
        let mut outcome = Attached::Unchanged;
        for program in VTEP {
            if self.attach_device(program, interface)? == Attached::Changed {
                outcome = Attached::Changed;
            }
        }
        // Last: what goes there by its index goes past the route, which there may not be without programs.
        self.set_vxlan_ifindex(index(interface)?)?;
        Ok(outcome)
    }

    /// Attaches `from_underlay` to a device of the underlay.
    ///
    /// # Errors
    /// No such interface, one without Ethernet headers, or the kernel refuses.
    pub fn attach_underlay(&mut self, interface: &IfName) -> Result<Attached, DatapathError> {
        check_ethernet(interface)?;
        self.attach_device(Program::FromUnderlay, interface)
    }

    /// Removes our programs from an interface, if it is there and has any.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&mut self, interface: &IfName) -> Result<(), DatapathError> {
        for program in Program::ALL {
            let path = self.pins.link(program, interface.as_str());
            if path.exists() {
                fs::remove_file(&path).map_err(error("cannot remove link", &path))?;
            }
        }
        if let Ok(ifindex) = if_nametoindex(interface.as_str()) {
            for side in [Side::Ingress, Side::Egress] {
                tc::remove(ifindex, side).map_err(failed(interface, "cannot remove programs"))?;
            }
        }
        Ok(())
    }

    /// How many links of ours are pinned.
    #[must_use]
    pub fn pinned_links(&self) -> usize {
        self.pins.links().len()
    }

    /// Names of other people's TCX programs on an interface. They run before clsact, and one that
    /// lets a packet pass for good keeps it from ours.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn foreign_tcx(&self, interface: &IfName) -> Result<Vec<String>, DatapathError> {
        let mut names = Vec::new();
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            for info in self.tcx(interface, side)? {
                let ours = Program::ALL.iter().any(|program| info.name_as_str() == Some(program.name()));
                if !ours {
                    names.push(String::from_utf8_lossy(info.name()).into_owned());
                }
            }
        }
        Ok(names)
    }

    fn has_clsact(&self, program: Program, interface: &IfName, ifindex: u32) -> Result<bool, DatapathError> {
        let id = tc::attached(ifindex, program.side()).map_err(failed(interface, "cannot look up programs"))?;
        self.is_current(program, id)
    }

    fn replace(&self, program: Program, interface: &IfName, ifindex: u32) -> Result<(), DatapathError> {
        let loaded = self.program(program).and_then(SchedClassifier::fd);
        let fd = loaded.map_err(|source| DatapathError::Program { program: program.name(), source })?;
        let replaced = tc::replace(ifindex, program.side(), fd.as_fd(), program.name());
        replaced.map_err(failed(interface, "cannot attach programs"))
    }

    /// Attaches a program by the way this kernel offers, and then takes it off the other way: a host may have
    /// been told to change, and for a moment a packet meets the program twice rather than not at all.
    fn attach_device(&mut self, program: Program, interface: &IfName) -> Result<Attached, DatapathError> {
        let ifindex = index(interface)?;
        let (attached, removed) = if self.features.tcx {
            (self.attach_tcx(program, interface)?, self.leave_clsact(program, interface, ifindex)?)
        } else {
            (self.attach_clsact(program, interface, ifindex)?, self.unpin(program, interface)?)
        };
        Ok(if removed { Attached::Changed } else { attached })
    }

    fn attach_clsact(&self, program: Program, interface: &IfName, ifindex: u32) -> Result<Attached, DatapathError> {
        if self.has_clsact(program, interface, ifindex)? {
            return Ok(Attached::Unchanged);
        }
        tc::add_clsact(ifindex).map_err(failed(interface, "cannot add clsact"))?;
        self.replace(program, interface, ifindex)?;
        Ok(Attached::Changed)
    }

    /// Removes our filter, of whatever version, if there is one.
    fn leave_clsact(&self, program: Program, interface: &IfName, ifindex: u32) -> Result<bool, DatapathError> {
        let side = program.side();
        let id = tc::attached(ifindex, side).map_err(failed(interface, "cannot look up programs"))?;
        let ours = id.and_then(program_info).is_some_and(|info| info.name_as_str() == Some(program.name()));
        if ours {
            tc::remove(ifindex, side).map_err(failed(interface, "cannot remove programs"))?;
        }
        Ok(ours)
    }

    /// Removes our link, if one is pinned.
    fn unpin(&self, program: Program, interface: &IfName) -> Result<bool, DatapathError> {
        self.pins.adopt_link(program, interface.as_str())?;
        let path = self.pins.link(program, interface.as_str());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(error("cannot remove link", &path)(source)),
        }
    }

    fn attach_tcx(&mut self, program: Program, interface: &IfName) -> Result<Attached, DatapathError> {
        if self.has_tcx(program, interface)? {
            return Ok(Attached::Unchanged);
        }
        self.pins.adopt_link(program, interface.as_str())?;
        let path = self.pins.link(program, interface.as_str());
        if self.follow_rename(program, interface, &path)? {
            return Ok(Attached::Changed);
        }
        // A link that lost its device, or whose device has another name now, cannot be used again.
        if !(self.update_link(program, &path) && self.has_tcx(program, interface)?) {
            self.unpin(program, interface)?;
            self.new_link_in_time(program, interface, &path)?;
        }
        Ok(Attached::Changed)
    }

    /// A device that was given another name keeps its link, pinned under the old one: the kernel would not
    /// attach the same program a second time.
    fn follow_rename(&self, program: Program, interface: &IfName, path: &Path) -> Result<bool, DatapathError> {
        if path.exists() || !self.runs_tcx(program, interface)? {
            return Ok(false);
        }
        let [stray] = &self.pins.strays(program)[..] else { return Ok(false) };
        fs::rename(stray, path).map_err(error("cannot rename link", stray))?;
        Ok(true)
    }

    /// Puts the program into a pinned link in place of an earlier version.
    fn update_link(&mut self, program: Program, path: &Path) -> bool {
        let Ok(link) = PinnedLink::from_pin(path) else {
            return false;
        };
        let Ok(link) = FdLink::from(link).try_into() else {
            return false;
        };
        let updated = self.program_mut(program).and_then(|classifier| {
            let id = classifier.attach_to_link(link)?;
            // Only the pin shall hold the link: removing it must detach the program.
            classifier.take_link(id)
        });
        updated.inspect_err(|error| tracing::debug!(path = %path.display(), %error, "pinned link not usable")).is_ok()
    }

    /// A link whose pin was removed is released a moment later (an RCU callback, then a work queue),
    /// and until then the kernel will not attach the same program again.
    fn new_link_in_time(&mut self, program: Program, interface: &IfName, path: &Path) -> Result<(), DatapathError> {
        let deadline = Instant::now() + RELEASE;
        loop {
            match self.new_link(program, interface, path) {
                Err(DatapathError::Program { source, .. })
                    if errno(&source) == Some(libc::EEXIST) && Instant::now() < deadline =>
                {
                    wait_for_programs()?;
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    fn new_link(&mut self, program: Program, interface: &IfName, path: &Path) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Program { program: program.name(), source };
        let classifier = self.program_mut(program).map_err(failed)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = classifier.attach_with_options(interface.as_str(), program.tcx(), options).map_err(failed)?;
        let link = classifier.take_link(id).map_err(failed)?;
        let unpinned = |source| error("cannot pin link", path)(io::Error::other(source));
        let link: FdLink = link.try_into().map_err(|source: LinkError| unpinned(source.to_string()))?;
        // A name that is taken fails here; then the link goes with its descriptor.
        link.pin(path).map(drop).map_err(|source| unpinned(source.to_string()))
    }

    fn has_tcx(&self, program: Program, interface: &IfName) -> Result<bool, DatapathError> {
        Ok(self.pins.link(program, interface.as_str()).exists() && self.runs_tcx(program, interface)?)
    }

    fn runs_tcx(&self, program: Program, interface: &IfName) -> Result<bool, DatapathError> {
        for info in self.tcx(interface, program.tcx())? {
            if self.is_same(program, &info)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tcx(&self, interface: &IfName, side: TcAttachType) -> Result<Vec<ProgramInfo>, DatapathError> {
        match SchedClassifier::query_tcx(interface.as_str(), side) {
            Ok((_, programs)) => Ok(programs),
            Err(source) if is_unsupported(&source) => Ok(Vec::new()),
            Err(source) => Err(failed(interface, "cannot look up programs")(io::Error::other(source))),
        }
    }

    /// Whether the program of that id is what we would attach.
    fn is_current(&self, program: Program, id: Option<u32>) -> Result<bool, DatapathError> {
        let Some(id) = id else { return Ok(false) };
        let failed = |source| DatapathError::Program { program: program.name(), source };
        if self.program(program).and_then(SchedClassifier::info).map_err(failed)?.id() == id {
            return Ok(true);
        }
        program_info(id).map_or(Ok(false), |info| self.is_same(program, &info))
    }

    /// Same instructions (the tag is their hash, without map numbers) and the very same pinned maps. Constants
    /// are in a map of their own for every load, and the same for every load in one kernel.
    fn is_same(&self, program: Program, other: &ProgramInfo) -> Result<bool, DatapathError> {
        let failed = |source| DatapathError::Program { program: program.name(), source };
        let ours = self.program(program).and_then(SchedClassifier::info).map_err(failed)?;
        let maps = |info: &ProgramInfo| {
            let ids = info.map_ids()?.unwrap_or_default();
            Ok(ids.into_iter().filter(|id| self.maps.contains(id)).collect::<BTreeSet<_>>())
        };
        Ok(ours.tag() == other.tag() && maps(&ours).map_err(failed)? == maps(other).map_err(failed)?)
    }
}

fn program_info(id: u32) -> Option<ProgramInfo> {
    loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)
}

fn index(interface: &IfName) -> Result<u32, DatapathError> {
    let found = if_nametoindex(interface.as_str());
    found.map_err(|source| DatapathError::Interface { name: interface.to_string(), source })
}

/// The index of a workload's host veth.
fn slot_ifindex(interface: &IfName) -> Result<u32, DatapathError> {
    let ifindex = index(interface)?;
    let number = ifindex.checked_sub(SLOT_IFINDEX_BASE).filter(|number| *number < MAX_SLOTS);
    match number.and_then(|number| u16::try_from(number).ok()).map(Slot) {
        Some(_) => Ok(ifindex),
        None => Err(DatapathError::WrongInterface {
            name: interface.to_string(),
            reason: format!(
                "index {ifindex} belongs to no slot: {SLOT_IFINDEX_BASE} to {}",
                SLOT_IFINDEX_BASE + MAX_SLOTS - 1
            ),
        }),
    }
}

/// `from_underlay` reads Ethernet headers (ARPHRD_ETHER; a loopback device writes them too).
fn check_ethernet(interface: &IfName) -> Result<(), DatapathError> {
    let path = format!("/sys/class/net/{interface}/type");
    match fs::read_to_string(path).as_deref().map(str::trim) {
        Ok(kind) if !matches!(kind, "1" | "772") => Err(DatapathError::WrongInterface {
            name: interface.to_string(),
            reason: format!("ARPHRD type {kind} has no Ethernet headers"),
        }),
        // sysfs shows the namespace it was mounted in, which may be another one.
        _ => Ok(()),
    }
}

/// Kernels before 6.6 know no TCX.
fn is_unsupported(error: &ProgramError) -> bool {
    errno(error) == Some(libc::EINVAL)
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

fn failed(interface: &IfName, what: &'static str) -> impl FnOnce(io::Error) -> DatapathError {
    let name = interface.to_string();
    move |source| DatapathError::Attach { name, what, source }
}
