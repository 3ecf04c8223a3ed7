//! Pins: `<bpf_dir>/v<layout>/maps/<map>` and `<bpf_dir>/v<layout>/links/<program>@<interface>`.

use crate::error::DatapathError;
use crate::object::{MAPS, MapLayout, Program};
use aya::maps::{MapError, MapInfo};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The folders of this layout.
#[derive(Debug)]
pub(crate) struct Pins {
    maps: PathBuf,
    links: PathBuf,
}

impl Pins {
    /// Makes the folders.
    pub(crate) fn open(bpf_dir: &Path) -> Result<Self, DatapathError> {
        let root = bpf_dir.join(format!("v{}", weft_abi::LAYOUT_VERSION));
        let pins = Self { maps: root.join("maps"), links: root.join("links") };
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

    /// Removes the pins of maps that do not fit this version, so that they are made anew.
    pub(crate) fn discard_misfits(&self, layouts: &[MapLayout]) -> Result<(), DatapathError> {
        let mut stateful = Vec::new();
        for layout in layouts {
            let path = self.map(layout.name);
            let fits = fits(layout, &path)?;
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
