//! Counters and gauges, in Prometheus' text format 0.0.4: on the socket, and where the configuration
//! says over TCP.

use crate::worker::{Command, Worker};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::fmt::{self, Display, Write};
use std::io;
use std::net::SocketAddr;
use weft_api::agent::{MapFill, Status};
use weft_api::logging::LogCounts;

/// Serves `/metrics` on an address for the agent's life.
///
/// # Errors
/// The address cannot be had.
pub async fn serve(address: SocketAddr, worker: Worker) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let router = Router::new().route("/metrics", get(answer)).with_state(worker);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%address, %error, "metrics are not served any more");
        }
    });
    Ok(())
}

pub(crate) async fn answer(State(worker): State<Worker>) -> Response {
    match worker.ask(Command::Status).await {
        Ok(status) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text(&status)).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.message).into_response(),
    }
}

/// A host's status as metrics.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    write(&mut text, status).unwrap_or_default();
    text
}

fn write(text: &mut String, status: &Status) -> fmt::Result {
    let packets = status.counters.iter().map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), *count));
    family(
        text,
        "weft_packets_total",
        "counter",
        "Packets by what became of them, since the maps were made.",
        packets,
    )?;
    let records = records(&status.logged).map(|(fate, count)| (format!("{{fate=\"{fate}\"}}"), count));
    family(
        text,
        "weft_records_total",
        "counter",
        "Records of denials and connections, by what became of them.",
        records,
    )?;
    let maps = status.maps.iter().map(|(map, bytes)| (format!("{{map=\"{map}\"}}"), *bytes));
    family(text, "weft_map_bytes", "gauge", "Kernel memory of the programs' maps.", maps)?;
    let fill = |name: &'static str, help, value: fn(&MapFill) -> u64, text: &mut String| {
        let values = status.map_fill.iter().map(|(map, fill)| (format!("{{map=\"{map}\"}}"), value(fill)));
        family(text, name, "gauge", help, values)
    };
    fill(
        "weft_map_entries",
        "Entries of the programs' maps; of ct_est4 as of the last sweep, once a minute.",
        |fill| fill.entries,
        text,
    )?;
    fill("weft_map_capacity", "Entries that the programs' maps take.", |fill| fill.capacity, text)?;
    let parts = [("network", &status.network), ("programs", &status.datapath)];
    let in_sync = parts.iter().map(|(part, sync)| (format!("{{part=\"{part}\"}}"), u64::from(sync.in_sync)));
    family(text, "weft_in_sync", "gauge", "Whether a part of the host is as it should be.", in_sync)?;
    let changes = parts.iter().map(|(part, sync)| (format!("{{part=\"{part}\"}}"), sync.changes));
    family(
        text,
        "weft_changes_total",
        "counter",
        "Changes made to a part of the host since the agent's start.",
        changes,
    )?;
    for (name, help, value) in [
        ("weft_workloads", "Committed workloads.", u64::from(status.endpoints)),
        ("weft_free_addresses", "Addresses free to give.", u64::from(status.free_addresses)),
        ("weft_peers", "Other hosts in use.", status.peers.len() as u64),
        ("weft_refused_peers", "Other hosts that are not used.", status.refused_peers.len() as u64),
        ("weft_store_connected", "Whether the store answers.", u64::from(status.store.connected)),
        ("weft_lease_held", "Whether this host holds its lease.", u64::from(status.lease == "held")),
        ("weft_alarms", "Matters that need a person's eye.", status.alarms.len() as u64),
    ] {
        family(text, name, "gauge", help, [(String::new(), value)])?;
    }
    let revision = [(String::new(), status.enforced_revision)];
    family(text, "weft_enforced_revision", "gauge", "Revision of policies the programs judge by.", revision)
}

fn records(counts: &LogCounts) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("read", counts.read),
        ("over-share", counts.over_share),
        ("queue-full", counts.queue_full),
        ("written", counts.written),
        ("not-written", counts.not_written),
        ("kernel-log", counts.kernel_lines),
        ("kernel-log-left-out", counts.kernel_left_out),
        ("missed-by-readers", counts.missed_by_readers),
    ]
    .into_iter()
}

fn family<V: Display>(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: impl IntoIterator<Item = (String, V)>,
) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    values.into_iter().try_for_each(|(labels, value)| writeln!(text, "{name}{labels} {value}"))
}
