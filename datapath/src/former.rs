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
use aya::maps::{HashMap, Map, MapData};
use std::path::Path;
use weft_abi::{Conn, ConnKey4, tcp_state};
use weft_model::id::Slot;

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

    /// Copies to `to` what its endpoints' present workloads have open; how many there were. `last`: our programs
    /// run. Before that, what is closed is left out: its ports may be opened anew under the other programs, and
    /// a packet of the new connection must not meet the old one here.
    pub(crate) fn carry(
        &self,
        endpoints: &Endpoints,
        to: &mut [(&'static str, Table)],
        last: bool,
    ) -> Result<usize, DatapathError> {
        let mut carried = 0;
        for (name, target) in to {
            let failed = |source| DatapathError::Map { map: name, source };
            let Some((_, table)) = self.tables.iter().find(|(known, _)| known == name) else { continue };
            for entry in table.iter() {
                let (Raw(key), Raw(conn)) = entry.map_err(failed)?;
                let Some(conn) = self.judged_again(endpoints, &key, conn) else { continue };
                // What our programs have judged is newer; a copy that they have not may be older.
                let judged = target.get(&Raw(key), 0).is_ok_and(|Raw(there)| there.generation != 0);
                if judged || (!last && is_closed(&conn)) {
                    continue;
                }
                target.insert(Raw(key), Raw(conn), 0).map_err(failed)?;
                carried += 1;
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

fn is_closed(conn: &Conn) -> bool {
    let both = tcp_state::FIN_LOCAL | tcp_state::FIN_REMOTE;
    conn.tcp & tcp_state::RST != 0 || conn.tcp & both == both
}
