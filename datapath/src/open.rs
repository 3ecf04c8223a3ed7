//! Opening the data plane and applying changes to it.

use crate::barrier::wait_for_programs;
use crate::connections::Connections;
use crate::counters::{self, Fill};
use crate::denials::DenialReader;
use crate::endpoints::{EndpointView, Endpoints};
use crate::error::DatapathError;
use crate::features::{self, Features};
use crate::former::{self, Former};
use crate::object::{CONNECTIONS, Program, maps};
use crate::pins::Pins;
use crate::pod::Raw;
use crate::sets::Sets;
use crate::skb;
use crate::surroundings::{SurroundingsMaps, wire};
use crate::version::Version;
use crate::writes::Writes;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;
use weft_abi::{FlowShares, host_flag};
use weft_model::datapath::{Endpoint, Host, MAX_SET_ID, MapOp, MapSizes, SetId, Surroundings};
use weft_model::id::Slot;
use weft_model::ports::mapped_mark;

/// The programs and maps of this host.
pub struct Datapath {
    pub(crate) pins: Pins,
    pub(crate) programs: Ebpf,
    host: Array<MapData, Raw<weft_abi::Host>>,
    endpoints: Endpoints,
    sets: Sets,
    surroundings: SurroundingsMaps,
    connections: Connections,
    counters: PerCpuArray<MapData, u64>,
    writes: Writes,
    /// The kernel's numbers of the pinned maps.
    pub(crate) maps: BTreeSet<u32>,
    pub(crate) features: Features,
    /// Another version's connections, until ours have replaced them.
    former: Option<Former>,
}

/// What [`Datapath::apply`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Ops done.
    pub ops: usize,
    /// Entries of policy sets written.
    pub entries_written: usize,
    /// Entries of policy sets removed.
    pub entries_removed: usize,
    /// New generations of endpoints.
    pub generations: BTreeMap<Slot, u32>,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs and takes over the maps pinned below `bpf_dir`, a folder of a bpffs; makes
    /// those that are missing or do not fit this version. Interfaces keep the programs they have
    /// until they are attached again.
    ///
    /// # Errors
    /// The kernel refuses the object (not root, kernel older than 5.12), `bpf_dir` is not on a
    /// bpffs, or `host` is out of range.
    pub fn open(bpf_dir: &Path, host: &Host) -> Result<Self, DatapathError> {
        Self::open_sized(bpf_dir, host, &MapSizes::default())
    }

    /// As [`Datapath::open`], with maps of other sizes. A map that is there in another size is made anew; the
    /// tables of endpoints, policies and connections only together, and connections are taken along.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_sized(bpf_dir: &Path, host: &Host, sizes: &MapSizes) -> Result<Self, DatapathError> {
        Self::open_as(Version::of_this_build(), bpf_dir, host, sizes)
    }

    /// As [`Datapath::open_sized`], as another version: for tests of upgrades.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_as(version: Version, bpf_dir: &Path, host: &Host, sizes: &MapSizes) -> Result<Self, DatapathError> {
        let features = Features::probe();
        let value = encode_host(host, features)?;
        let pins = Pins::open(bpf_dir, version.layout)?;
        let layouts = maps(sizes);
        let other = pins.other_maps();
        let former = match &other {
            Some(maps) => Former::open(maps),
            None if !pins.is_complete(&layouts)? => Former::open(&pins.maps()),
            None => None,
        };
        pins.discard_misfits(&layouts, other.is_some())?;
        let skb = Raw(skb::layout()?);
        let mut loader = EbpfLoader::new();
        let shares = Raw(FlowShares::of(sizes.connections, sizes.unanswered));
        loader.override_global("SKB_LAYOUT", &skb, true).override_global("FLOW_SHARES", &shares, true);
        let redirect_peer = u32::from(features.redirect_peer);
        loader.override_global("REDIRECT_PEER", &redirect_peer, true);
        for layout in &layouts {
            loader.map_pin_path(layout.name, pins.map(layout.name)).map_max_entries(layout.name, layout.max_entries);
        }
        let mut programs = load_all(&mut loader, &version.object()).map_err(features::explain)?;
        let mut datapath = Self {
            host: map(&mut programs, "host")?,
            endpoints: Endpoints::map(map_data(&mut programs, "ep")?.fd())?,
            sets: Sets::new(
                take(&mut programs, "pol")?,
                take(&mut programs, "ranges")?,
                take(&mut programs, "cidr4")?,
                sizes.policy_entries,
            )?,
            surroundings: SurroundingsMaps {
                peers: map(&mut programs, "peers4")?,
                addresses: map(&mut programs, "host4")?,
                mapped: map(&mut programs, "mapped")?,
            },
            connections: Connections {
                established: map(&mut programs, "ct_est4")?,
                shares: map(&mut programs, "ct_share")?,
                capacity: sizes.connections,
                counted: 0,
            },
            counters: map(&mut programs, "counters")?,
            writes: Writes::default(),
            maps: pins.map_ids()?,
            features,
            former,
            pins,
            programs,
        };
        datapath.check_clsact()?;
        // Last: programs that run already are not disturbed by a version that does not load.
        datapath.write_host(value)?;
        Ok(datapath)
    }

    /// Whether the maps were made anew while another version's programs go on with theirs: then endpoints have to
    /// be put before programs are attached, or workloads would be cut off.
    #[must_use]
    pub fn replaces_another(&self) -> bool {
        self.former.is_some()
    }

    /// Takes over connections from the version that this one replaces; how many. To be called when the
    /// endpoints are put, before programs are attached, and again afterwards (`last`).
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn take_over(&mut self, last: bool) -> Result<usize, DatapathError> {
        let Some(former) = &self.former else { return Ok(0) };
        // A program that was replaced may still be about to write what it opened.
        wait_for_programs()?;
        let open = |name: &'static str| Some((name, former::table(name, &self.pins.map(name))?));
        let mut tables: Vec<_> = CONNECTIONS.into_iter().filter_map(open).collect();
        former.carry(&self.endpoints, &mut tables, last)
    }

    /// The programs are attached everywhere: the version that was replaced can go.
    ///
    /// # Errors
    /// Its pins cannot be removed.
    pub fn settle(&mut self) -> Result<(), DatapathError> {
        self.former = None;
        self.pins.make_current()
    }

    fn check_clsact(&self) -> Result<(), DatapathError> {
        let program = Program::Empty;
        let fd = self.program(program).and_then(SchedClassifier::fd);
        let fd = fd.map_err(|source| DatapathError::Program { program: program.name(), source })?;
        features::try_clsact(fd.as_fd())
    }

    /// What this kernel can do.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Treats the kernel as one without TCX: programs of VXLAN device and underlay go on clsact.
    pub fn avoid_tcx(&mut self) {
        self.features.tcx = false;
    }

    /// Tells the programs of a changed host.
    ///
    /// # Errors
    /// A value out of range.
    pub fn set_host(&mut self, host: &Host) -> Result<(), DatapathError> {
        self.write_host(encode_host(host, self.features)?)
    }

    /// Writes what the configuration says; the VXLAN device stays the one that is known.
    fn write_host(&mut self, value: weft_abi::Host) -> Result<(), DatapathError> {
        let vxlan_ifindex = self.read_host()?.vxlan_ifindex;
        self.put_host(weft_abi::Host { vxlan_ifindex, ..value })
    }

    /// Tells the programs by which index the VXLAN device is found.
    pub(crate) fn set_vxlan_ifindex(&mut self, vxlan_ifindex: u32) -> Result<(), DatapathError> {
        match self.read_host()? {
            host if host.vxlan_ifindex == vxlan_ifindex => Ok(()),
            host => self.put_host(weft_abi::Host { vxlan_ifindex, ..host }),
        }
    }

    fn read_host(&self) -> Result<weft_abi::Host, DatapathError> {
        let value = self.host.get(&0, 0).map_err(|source| DatapathError::Map { map: "host", source })?;
        Ok(value.0)
    }

    fn put_host(&mut self, value: weft_abi::Host) -> Result<(), DatapathError> {
        self.host.set(0, Raw(value), 0).map_err(|source| DatapathError::Map { map: "host", source })
    }

    /// Does the ops in their order, and stops at the first that fails; what it did before stays.
    ///
    /// # Errors
    /// A full map, a number out of range, a set that is in use or missing.
    pub fn apply(&mut self, ops: &[MapOp]) -> Result<Report, DatapathError> {
        let mut report = Report::default();
        for op in ops {
            self.apply_one(op, &mut report)?;
            report.ops += 1;
        }
        Ok(report)
    }

    fn apply_one(&mut self, op: &MapOp, report: &mut Report) -> Result<(), DatapathError> {
        match op {
            MapOp::PutSet(id, set) => {
                self.check_free(*id)?;
                report.entries_written += self.sets.put(*id, set, &mut self.writes)?;
            }
            MapOp::RemoveSet(id) => {
                self.check_free(*id)?;
                report.entries_removed += self.sets.remove(*id, &mut self.writes)?;
            }
            MapOp::PutEndpoint(endpoint) => {
                self.check_set(endpoint)?;
                let generation = self.endpoints.put(endpoint, self.sets.flags(endpoint.set))?;
                report.generations.insert(endpoint.slot, generation);
                self.writes.done();
            }
            MapOp::RemoveEndpoint(slot) => {
                self.endpoints.remove(*slot)?;
                self.writes.done();
            }
            MapOp::Barrier => wait_for_programs()?,
            MapOp::PutPeer(subnet, peer) => self.surroundings.put_peer(*subnet, peer)?,
            MapOp::RemovePeer(subnet) => self.surroundings.remove_peer(*subnet)?,
            MapOp::PutHostAddress(ip) => self.surroundings.put_address(*ip)?,
            MapOp::RemoveHostAddress(ip) => self.surroundings.remove_address(*ip)?,
            MapOp::PutMappedPort(protocol, port) => self.surroundings.put_mapped(*protocol, *port)?,
            MapOp::RemoveMappedPort(protocol, port) => self.surroundings.remove_mapped(*protocol, *port)?,
        }
        Ok(())
    }

    /// Cuts map writes into pieces of `every` entries, and calls `watcher` after each piece and each endpoint:
    /// for tests, which look at the data plane as it is when a writer dies there.
    #[doc(hidden)]
    pub fn watch_writes(&mut self, every: usize, watcher: Box<dyn FnMut() + Send>) {
        self.writes.watch(every, watcher);
    }

    /// Only a set that no endpoint is judged by may change.
    fn check_free(&self, set: SetId) -> Result<(), DatapathError> {
        if set.0 == 0 || set.0 > MAX_SET_ID {
            return Err(DatapathError::SetId(set));
        }
        match self.endpoints.active().find(|view| view.endpoint.set == set) {
            Some(user) => Err(DatapathError::SetInUse { set, slot: user.endpoint.slot }),
            None => Ok(()),
        }
    }

    fn check_set(&self, endpoint: &Endpoint) -> Result<(), DatapathError> {
        let set = endpoint.set;
        let known = self.sets.ids().any(|id| id == set) || self.endpoints.active().any(|view| view.endpoint.set == set);
        if known { Ok(()) } else { Err(DatapathError::NoSuchSet { set, slot: endpoint.slot }) }
    }

    /// The endpoints in force.
    #[must_use]
    pub fn endpoints(&self) -> BTreeMap<Slot, EndpointView> {
        self.endpoints.active().map(|view| (view.endpoint.slot, view)).collect()
    }

    /// The policy sets that have entries, or that an endpoint is judged by.
    #[must_use]
    pub fn sets(&self) -> BTreeSet<SetId> {
        self.sets.ids().chain(self.endpoints.active().map(|view| view.endpoint.set)).collect()
    }

    /// The peers and host addresses in force.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn surroundings(&self) -> Result<Surroundings, DatapathError> {
        self.surroundings.read()
    }

    /// Packets by [`weft_abi::Reason`]'s name, since the maps were made.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        counters::read(&self.counters)
    }

    /// Removes established connections that ended unseen, and counts what each workload holds; how many were removed.
    /// Without it, workloads that leave many such connections lose their share of the table.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn sweep_connections(&mut self) -> Result<usize, DatapathError> {
        self.connections.sweep(&self.endpoints())
    }

    /// Bytes of kernel memory that each map takes now.
    ///
    /// # Errors
    /// A pin is gone.
    pub fn map_memory(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        counters::memory(&self.pins)
    }

    /// How full the maps are that refuse what does not fit, and `ct_est4`, whose oldest give way, at the last
    /// [`Self::sweep_connections`].
    #[must_use]
    pub fn map_fill(&self) -> BTreeMap<&'static str, Fill> {
        self.sets.fill().into_iter().chain(self.surroundings.fill()).chain([self.connections.fill()]).collect()
    }

    /// The reader of denial records; there is one.
    ///
    /// # Errors
    /// It was taken before.
    pub fn denial_reader(&mut self) -> Result<DenialReader, DatapathError> {
        let map = self.programs.take_map("denials").ok_or(DatapathError::ReaderTaken)?;
        let ring = RingBuf::try_from(map).map_err(|source| DatapathError::Map { map: "denials", source })?;
        Ok(DenialReader::new(ring))
    }

    /// How many instructions the verifier looked at for each program; its limit is a million.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn verified_instructions(&self) -> Result<BTreeMap<Program, u32>, DatapathError> {
        let count = |program: Program| {
            let info = self.program(program).and_then(SchedClassifier::info);
            let info = info.map_err(|source| DatapathError::Program { program: program.name(), source })?;
            Ok((program, info.verified_instruction_count().unwrap_or_default()))
        };
        Program::ALL.into_iter().map(count).collect()
    }

    /// The kernel's ids of the programs, as `bpftool prog` knows them.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn program_ids(&self) -> Result<BTreeMap<Program, u32>, DatapathError> {
        let id = |program: Program| {
            let info = self.program(program).and_then(SchedClassifier::info);
            Ok((program, info.map_err(|source| DatapathError::Program { program: program.name(), source })?.id()))
        };
        Program::ALL.into_iter().map(id).collect()
    }

    pub(crate) fn program(&self, program: Program) -> Result<&SchedClassifier, ProgramError> {
        self.programs.program(program.name()).ok_or(ProgramError::NotLoaded)?.try_into()
    }

    pub(crate) fn program_mut(&mut self, program: Program) -> Result<&mut SchedClassifier, ProgramError> {
        find_mut(&mut self.programs, program)
    }
}

fn find_mut(programs: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, ProgramError> {
    programs.program_mut(program.name()).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// Makes the maps and loads every program.
fn load_all(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, DatapathError> {
    let mut programs = loader.load(object)?;
    for program in Program::ALL {
        let loaded = find_mut(&mut programs, program).and_then(load);
        loaded.map_err(|source| DatapathError::Program { program: program.name(), source })?;
    }
    Ok(programs)
}

fn encode_host(host: &Host, features: Features) -> Result<weft_abi::Host, DatapathError> {
    if host.mark_shift > 16 {
        let value = host.mark_shift.to_string();
        return Err(DatapathError::Host { field: "mark shift", value, allowed: "0 to 16" });
    }
    if host.vni == 0 || host.vni >= 1 << 24 {
        return Err(DatapathError::Host { field: "VNI", value: host.vni.to_string(), allowed: "1 to 16777215" });
    }
    let link_local = if host.link_local { host_flag::LINK_LOCAL } else { 0 };
    let log_allowed = if host.allowed.is_some() { host_flag::LOG_ALLOWED } else { 0 };
    let direct = if host.fast_path && features.redirect_peer { host_flag::DIRECT } else { 0 };
    Ok(weft_abi::Host {
        overlay: wire(host.overlay.network()),
        overlay_mask: wire(host.overlay.mask()),
        gateway: wire(host.gateway),
        vtep: wire(host.vtep),
        vni: host.vni,
        vxlan_port: host.vxlan_port.to_be(),
        mark_shift: host.mark_shift,
        flags: link_local | log_allowed | direct,
        denials_per_second: host.denials_per_second,
        denials_burst: host.denials_burst,
        allowed_per_second: host.allowed.map_or(0, |rate| rate.per_second),
        allowed_burst: host.allowed.map_or(0, |rate| rate.burst),
        mapped_mark: mapped_mark(host.mark_shift),
        vxlan_ifindex: 0,
        reserved: [0; 16],
    })
}

fn take(programs: &mut Ebpf, name: &'static str) -> Result<Map, DatapathError> {
    let missing = || DatapathError::Map { map: name, source: MapError::InvalidName { name: name.to_owned() } };
    programs.take_map(name).ok_or_else(missing)
}

fn map<T: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &'static str) -> Result<T, DatapathError> {
    T::try_from(take(programs, name)?).map_err(|source| DatapathError::Map { map: name, source })
}

fn map_data(programs: &mut Ebpf, name: &'static str) -> Result<MapData, DatapathError> {
    match take(programs, name)? {
        Map::Array(data) => Ok(data),
        _ => Err(DatapathError::Map { map: name, source: MapError::InvalidName { name: name.to_owned() } }),
    }
}

/// How often a load is tried that a signal cut short.
const LOAD_ATTEMPTS: u32 = 10;

/// Loads a program. The verifier gives up with EAGAIN while a signal is pending for the thread
/// (kernel/bpf/verifier.c, `do_check`): that says nothing about the program.
fn load(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    let interrupted = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => io_error.kind() == std::io::ErrorKind::WouldBlock,
        _ => false,
    };
    let mut attempts = 1;
    loop {
        match program.load() {
            Err(error) if interrupted(&error) && attempts < LOAD_ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}
