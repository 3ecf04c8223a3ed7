//! Records of denials with every limit off: 50,000 denied packets a second, and how many of them are not in
//! the file.

use super::Summary;
use crate::lab::Lab;
use crate::probe::inside;
use crate::wait;
use crate::workload::WorkloadOptions;
use anyhow::{Result, ensure};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use weft_api::agent::Status;

const PER_MILLISECOND: u64 = 50;
const FOR: Duration = Duration::from_secs(4);
/// How long the reader may take for what is left in the ring buffer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn measure(lab: &mut Lab, summary: &mut Summary) -> Result<()> {
    let app = lab.add("c1", &WorkloadOptions::app("denier", "denier"))?;
    let stranger = lab.add("c1", &WorkloadOptions::app("stranger", "stranger"))?;
    lab.weft_on("c1", &["logging", "set", "--denials-per-second", "0", "--workload-records-per-second", "0"])?;
    let before = lab.host("c1").status()?;
    let (sent, took) = flood(&stranger.netns, (app.ip, 9).into())?;
    let after = settled(lab, &before)?;
    lab.weft_on("c1", &["logging", "reset"])?;
    let denied = grown(&before, &after, "policy");
    ensure!(denied >= sent / 2, "{denied} denials of {sent} packets");
    let written = after.logged.written - before.logged.written;
    #[expect(clippy::cast_precision_loss, reason = "numbers of packets")]
    for (name, number) in [
        ("denial_event_loss", denied.saturating_sub(written) as f64),
        ("denial_event_loss_in_ring", grown(&before, &after, "record-lost") as f64),
        ("denial_event_loss_in_queue", (after.logged.queue_full - before.logged.queue_full) as f64),
        ("denial_events", denied as f64),
        ("denial_events_per_s", denied as f64 / took.as_secs_f64()),
        ("maps_bytes", after.maps.values().sum::<u64>() as f64),
    ] {
        summary.insert(name.to_owned(), number);
    }
    lab.del("c1", &stranger)?;
    lab.del("c1", &app)
}

/// Sends at an even pace.
fn flood(from: &Path, to: SocketAddr) -> Result<(u64, Duration)> {
    let socket = inside(from, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < FOR {
        let due = u64::try_from(start.elapsed().as_millis())? * PER_MILLISECOND;
        while sent < due {
            socket.send_to(b"x", to)?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok((sent, start.elapsed()))
}

/// The status once every record was read and written or lost.
fn settled(lab: &Lab, before: &Status) -> Result<Status> {
    let done = || {
        let now = lab.host("c1").status()?;
        let told = |status: &Status| status.logged.written + status.logged.not_written + status.logged.queue_full;
        let accounted = told(&now) - told(before) + grown(before, &now, "record-lost");
        let denied = grown(before, &now, "policy");
        ensure!(accounted >= denied, "{accounted} of {denied} records");
        Ok(now)
    };
    wait::until("the records", PATIENCE, done).map(|(status, _)| status)
}

fn grown(before: &Status, after: &Status, reason: &str) -> u64 {
    let count = |status: &Status| status.counters.get(reason).copied().unwrap_or_default();
    count(after).saturating_sub(count(before))
}
