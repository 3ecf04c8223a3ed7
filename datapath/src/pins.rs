//! Pins: `<bpf_dir>/v<layout>/maps/<map>` and `<bpf_dir>/v<layout>/links/<program>@<interface>`; the symbolic
//! link `<bpf_dir>/current` names the layout that is in force.

use crate::error::DatapathError;
use crate::object::{CONNECTIONS, MAPS, MapLayout, Program};
use aya::maps::{MapError, MapInfo};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The folders of this layout.
#[derive(Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    layout: u32,
    maps: PathBuf,
    links: PathBuf,
}

const CURRENT: &str = "current";

impl Pins {
    /// Makes the folders.
    pub(crate) fn open(bpf_dir: &Path, layout: u32) -> Result<Self, DatapathError> {
        let root = bpf_dir.join(format!("v{layout}"));
        let pins = Self { root: bpf_dir.to_owned(), layout, maps: root.join("maps"), links: root.join("links") };
        for folder in [&pins.maps, &pins.links] {
            fs::create_dir_all(folder).map_err(error("cannot make folder", folder))?;
        }
        let kind = statfs(&root).map_err(|source| error("cannot look at", &root)(source.into()))?;
        if kind.filesystem_type() != BPF_FS_MAGIC {
            let source = io::Error::other("not on a bpffs (mount -t bpf bpf <folder>)");
            return Err(error("cannot pin maps in", &root)(source));
        }
        Ok(pins)
    }

    /// Where maps are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        self.maps.clone()
    }

    /// Where a map is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// The kernel's numbers of the maps.
    pub(crate) fn map_ids(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let id = |layout: &MapLayout| {
            let info = MapInfo::from_pin(self.map(layout.name));
            info.map(|info| info.id()).map_err(|source| DatapathError::Map { map: layout.name, source })
        };
        MAPS.iter().map(id).collect()
    }

    /// Where a program's link to an interface is pinned. A bpffs takes no dots in names.
    pub(crate) fn link(&self, program: Program, interface: &str) -> PathBuf {
        let interface = interface.replace('%', "%25").replace('.', "%2e");
        self.links.join(format!("{}@{interface}", program.name()))
    }

    /// The pinned links.
    pub(crate) fn links(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.links).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Pinned links of a program to interfaces that are gone, or have another name now.
    pub(crate) fn strays(&self, program: Program) -> Vec<PathBuf> {
        let exists = |interface: &str| {
            let interface = interface.replace("%2e", ".").replace("%25", "%");
            nix::net::if_::if_nametoindex(interface.as_str()).is_ok()
        };
        let stray = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.strip_prefix(program.name())
                .and_then(|rest| rest.strip_prefix('@'))
                .is_some_and(|interface| !exists(interface))
        };
        self.links().into_iter().filter(stray).collect()
    }

    /// The maps of another layout that is in force; `None`: ours is, or none.
    pub(crate) fn other_maps(&self) -> Option<PathBuf> {
        let current = fs::read_link(self.root.join(CURRENT)).ok()?;
        (current != self.folder_name()).then(|| self.root.join(current).join("maps"))
    }

    fn folder_name(&self) -> PathBuf {
        PathBuf::from(format!("v{}", self.layout))
    }

    /// Says that this layout is in force, and removes what earlier ones left. Later ones are their owners'.
    pub(crate) fn make_current(&self) -> Result<(), DatapathError> {
        let (current, new) = (self.root.join(CURRENT), self.root.join("current-new"));
        if fs::read_link(&current).ok().as_deref() != Some(&*self.folder_name()) {
            drop(fs::remove_file(&new));
            std::os::unix::fs::symlink(self.folder_name(), &new).map_err(error("cannot make", &new))?;
            fs::rename(&new, &current).map_err(error("cannot replace", &current))?;
            tracing::info!(layout = self.layout, "the maps of this layout are in force");
        }
        for earlier in self.layouts().filter(|layout| *layout < self.layout) {
            let folder = self.root.join(format!("v{earlier}"));
            fs::remove_dir_all(&folder).map_err(error("cannot remove an earlier layout's", &folder))?;
            tracing::info!(folder = %folder.display(), "an earlier layout's maps are removed");
        }
        Ok(())
    }

    /// The layouts that have folders.
    fn layouts(&self) -> impl Iterator<Item = u32> + use<> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix('v')?.parse().ok())
    }

    /// Moves a program's link here that another layout pinned, so that its program is replaced in place.
    pub(crate) fn adopt_link(&self, program: Program, interface: &str) -> Result<(), DatapathError> {
        let ours = self.link(program, interface);
        let Some(name) = ours.file_name().filter(|_| !ours.exists()) else { return Ok(()) };
        for layout in self.layouts().filter(|layout| *layout != self.layout) {
            let theirs = self.root.join(format!("v{layout}/links")).join(name);
            if theirs.exists() {
                return fs::rename(&theirs, &ours).map_err(error("cannot take over link", &theirs));
            }
        }
        Ok(())
    }

    /// Removes the pins of maps that do not fit this version, so that they are made anew. `all`: what is pinned
    /// is of another time.
    pub(crate) fn discard_misfits(&self, layouts: &[MapLayout], all: bool) -> Result<(), DatapathError> {
        let mut stateful = Vec::new();
        for layout in layouts {
            let path = self.map(layout.name);
            let fits = if all { fits(layout, &path)?.map(|_| false) } else { fits(layout, &path)? };
            if layout.stateful {
                stateful.push((path, fits));
            } else if fits == Some(false) {
                discard(&path)?;
            }
        }
        if stateful.iter().any(|(_, fits)| *fits != Some(true)) {
            for (path, _) in stateful.iter().filter(|(_, fits)| fits.is_some()) {
                discard(path)?;
            }
        }
        Ok(())
    }

    /// Whether every map that keeps state is pinned and fits.
    pub(crate) fn is_complete(&self, layouts: &[MapLayout]) -> Result<bool, DatapathError> {
        for layout in layouts.iter().filter(|layout| layout.stateful) {
            if fits(layout, &self.map(layout.name))? != Some(true) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the map pinned there has the keys and values of ours of that name, and is not of another size
    /// where that matters.
    pub(crate) fn has_form(name: &str, path: &Path) -> bool {
        let Some(layout) = MAPS.iter().find(|layout| layout.name == name) else { return false };
        let Ok(info) = MapInfo::from_pin(path) else { return false };
        let sized = !CONNECTIONS.contains(&name);
        (info.key_size(), info.value_size()) == (layout.key_size, layout.value_size)
            && (!sized || info.max_entries() == layout.max_entries)
    }
}

/// Whether the map pinned there has this layout; `None`: nothing is pinned.
fn fits(layout: &MapLayout, path: &Path) -> Result<Option<bool>, DatapathError> {
    match MapInfo::from_pin(path) {
        Ok(info) => Ok(Some(
            info.key_size() == layout.key_size
                && info.value_size() == layout.value_size
                && info.max_entries() == layout.max_entries,
        )),
        Err(MapError::SyscallError(source)) if source.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(MapError::SyscallError(source)) => Err(error("cannot open pinned map", path)(source.io_error)),
        Err(source) => Err(error("cannot open pinned map", path)(io::Error::other(source))),
    }
}

fn discard(path: &Path) -> Result<(), DatapathError> {
    tracing::warn!(path = %path.display(), "a pinned map does not fit this version and is made anew");
    fs::remove_file(path).map_err(error("cannot remove pinned map", path))
}

/// Makes an I/O error one of ours.
pub(crate) fn error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    let path = path.to_owned();
    move |source| DatapathError::Pin { what, path, source }
}
