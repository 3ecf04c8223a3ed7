//! The pool's journal: JSON lines, a header and then one [`Event`] a line.
//!
//! It lives in tmpfs: namespaces die with the boot, so do addresses. Reading never fails: whatever a
//! full disk or a killed agent left behind gives a pool without double owners, and says how it came
//! about; what is missing, the agent takes from the links' aliases ([`Pool::adopt`]).

use crate::event::Event;
use crate::pool::{Pool, Times};
use serde::{Deserialize, Serialize};
use weft_model::id::Slot;
use weft_model::net::Subnet;

/// The version written and understood.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    version: u32,
    /// `/proc/sys/kernel/random/boot_id`: times and namespaces mean something in this boot only.
    boot_id: String,
    subnet: Subnet,
    cursor: Slot,
}

/// A pool and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The pool.
    pub pool: Pool,
    /// What the journal was.
    pub origin: Origin,
    /// Lines that could not be read and are lost. A torn last line, the mark of a killed agent, counts.
    pub skipped: usize,
}

/// What a journal was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// There was none.
    Absent,
    /// This boot's: the pool is as it was.
    SameBoot,
    /// An earlier boot's: the pool is empty and goes on after the last address given.
    OtherBoot,
    /// This boot's but of another subnet: the pool is empty. Its workloads may still run.
    OtherSubnet(Subnet),
    /// Written by a version that is not understood.
    OtherVersion(u32),
    /// The header cannot be read.
    Unreadable,
}

/// The line of an event, with its line end. If appending it fails half-way, begin the next with a
/// line end of its own: empty lines are skipped.
#[must_use]
pub fn line(event: &Event) -> String {
    json_line(event)
}

/// A whole journal that restores to `pool`: for a new file, and to shorten a long one (write a new
/// file, rename it).
#[must_use]
pub fn snapshot(pool: &Pool, boot_id: &str, now: u64) -> String {
    let mut text = json_line(&Header {
        version: VERSION,
        boot_id: boot_id.to_owned(),
        subnet: pool.subnet(),
        cursor: pool.cursor(),
    });
    for (slot, at) in pool.cooling(now) {
        text += &line(&Event::Cool { slot, at });
    }
    for (attachment, entry) in pool.entries() {
        text += &line(&Event::Hold { attachment: attachment.clone(), entry: entry.clone() });
    }
    text
}

/// The pool a journal stands for. Write a [`snapshot`] before appending to it again: its last line
/// may be torn.
#[must_use]
pub fn restore(text: &[u8], boot_id: &str, subnet: Subnet, times: Times) -> Restored {
    let mut restored = Restored { pool: Pool::new(subnet, times), origin: Origin::Absent, skipped: 0 };
    let mut lines = text.split(|byte| *byte == b'\n').filter(|l| !l.is_empty());
    let Some(first) = lines.next() else {
        return restored;
    };
    let Ok(header) = serde_json::from_slice::<Header>(first) else {
        restored.origin = Origin::Unreadable;
        return restored;
    };
    if header.version != VERSION {
        restored.origin = Origin::OtherVersion(header.version);
        return restored;
    }
    restored.origin = if header.boot_id != boot_id {
        Origin::OtherBoot
    } else if header.subnet != subnet {
        Origin::OtherSubnet(header.subnet)
    } else {
        Origin::SameBoot
    };
    replay(&mut restored, lines, header.cursor);
    restored
}

/// Applies the events, or keeps only the last slot given where they mean nothing any more.
fn replay<'a>(restored: &mut Restored, lines: impl Iterator<Item = &'a [u8]>, cursor: Slot) {
    let same_boot = restored.origin == Origin::SameBoot;
    restored.pool.set_cursor(cursor);
    for line in lines {
        match serde_json::from_slice::<Event>(line) {
            Ok(event) if same_boot => restored.pool.apply(&event),
            Ok(Event::Reserve { entry, .. }) => restored.pool.set_cursor(entry.slot),
            Ok(_) => {}
            Err(_) => restored.skipped += 1,
        }
    }
}

fn json_line(value: &impl Serialize) -> String {
    #[expect(clippy::unwrap_used, reason = "structs of texts and numbers with text keys always serialise")]
    let mut text = serde_json::to_string(value).unwrap();
    text.push('\n');
    text
}
