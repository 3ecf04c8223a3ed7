//! Connections that another version's maps hold, for when ours had to be made anew (another layout, other
//! sizes): they are taken over, to be judged again at their next packet.
//!
//! A map whose form changes gets another name, so that what bears a known name is known. The other version's
//! programs go on with their maps until ours are attached; so connections are taken over twice, before and after.

use crate::endpoints::Endpoints;
use crate::error::DatapathError;
use crate::object::CONNECTIONS;
use crate::pins::Pins;
use crate::pod::Raw;
use aya::maps::{HashMap, Map, MapData, MapError};
use std::path::Path;
use weft_abi::{Conn, ConnKey4};
use weft_model::id::Slot;

/// `BPF_NOEXIST`: what is there already is newer.
const NO_EXIST: u64 = 1;

pub(crate) type Table = HashMap<MapData, Raw<ConnKey4>, Raw<Conn>>;

/// Another version's endpoints and connections. Open descriptors: their pins may go.
pub(crate) struct Former {
    endpoints: Endpoints,
    tables: Vec<(&'static str, Table)>,
}

impl Former {
    /// What can be read in a folder of maps; `None`: nothing of use.
    pub(crate) fn open(maps: &Path) -> Option<Self> {
        let endpoints = MapData::from_pin(maps.join("ep")).ok()?;
        if !Pins::has_form("ep", &maps.join("ep")) {
            return None;
        }
        let tables: Vec<(&'static str, Table)> =
            CONNECTIONS.iter().filter_map(|name| Some((*name, table(name, &maps.join(name))?))).collect();
        Some(Self { endpoints: Endpoints::map(endpoints.fd()).ok()?, tables })
    }

    /// Copies to `to` what its endpoints' present workloads have open; how many there were.
    pub(crate) fn carry(
        &self,
        endpoints: &Endpoints,
        to: &mut [(&'static str, Table)],
    ) -> Result<usize, DatapathError> {
        let mut carried = 0;
        for (name, target) in to {
            let failed = |source| DatapathError::Map { map: name, source };
            let Some((_, table)) = self.tables.iter().find(|(known, _)| known == name) else { continue };
            for entry in table.iter() {
                let (Raw(key), Raw(conn)) = entry.map_err(failed)?;
                let Some(conn) = self.judged_again(endpoints, &key, conn) else { continue };
                match target.insert(Raw(key), Raw(conn), NO_EXIST) {
                    Ok(()) => carried += 1,
                    Err(source) if is(&source, nix::libc::EEXIST) => {}
                    Err(source) => return Err(failed(source)),
                }
            }
        }
        Ok(carried)
    }

    /// The connection as ours: of no generation, so that policy is asked at its next packet, in the direction
    /// in which it was opened. A workload that is gone or another one has none.
    fn judged_again(&self, endpoints: &Endpoints, key: &ConnKey4, conn: Conn) -> Option<Conn> {
        let slot = Slot(u16::try_from(key.slot).ok()?);
        let (theirs, ours) = (self.endpoints.view(slot)?, endpoints.view(slot)?);
        let same = theirs.incarnation == conn.incarnation
            && (theirs.endpoint.ip, theirs.endpoint.mac) == (ours.endpoint.ip, ours.endpoint.mac);
        same.then_some(Conn { generation: 0, incarnation: ours.incarnation, ..conn })
    }
}

/// A pinned connection table of the form we know, of whatever size.
pub(crate) fn table(name: &str, pin: &Path) -> Option<Table> {
    Pins::has_form(name, pin).then(|| Table::try_from(Map::LruHashMap(MapData::from_pin(pin).ok()?)).ok()).flatten()
}

fn is(error: &MapError, errno: i32) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(errno))
}
