//! What a host logs.

use super::plain;
use std::fmt::Write;
use weft_api::logging::{Logging, LoggingChange, LoggingView};

/// A page about logging.
#[must_use]
pub fn logging(view: &LoggingView) -> String {
    let LoggingView { in_force: log, changed, file, counts } = view;
    let mut page = String::new();
    push(&mut page, "audit", &audit(log));
    push(&mut page, "denied", &format!("logged, {}", rate(log.denials_per_second, log.denials_burst)));
    let allowed = rate(log.allowed_per_second, log.allowed_burst);
    push(&mut page, "allowed", &if log.allowed { format!("logged, {allowed}") } else { "not logged".to_owned() });
    let share = match log.workload_records_per_second {
        0 => "no limit".to_owned(),
        records => format!("{records} records a second"),
    };
    push(&mut page, "a workload's", &share);
    push(&mut page, "file", file);
    let kernel = format!("yes, {} lines a second", log.kernel_lines_per_second);
    push(&mut page, "kernel log", if log.kernel_log { &kernel } else { "no" });
    if *changed != LoggingChange::default() {
        push(&mut page, "", "not as configured; `weft logging reset` takes it back");
    }
    page.push('\n');
    push(&mut page, "records", &format!("{} read, {} written", counts.read, counts.written));
    let lost = [
        ("left out, their workload had its share", counts.over_share),
        ("lost, the file was too slow", counts.queue_full),
        ("not written, the file could not be", counts.not_written),
        ("left out of the kernel log", counts.kernel_left_out),
        ("missed by slow readers", counts.missed_by_readers),
    ];
    for (what, records) in lost.iter().filter(|(_, records)| *records > 0) {
        push(&mut page, "", &format!("{records} {what}"));
    }
    page
}

fn audit(log: &Logging) -> String {
    let groups: Vec<&str> = log.audit_groups.iter().map(|group| group.as_str()).collect();
    match (log.audit, groups.is_empty()) {
        (true, _) => "EVERYTHING that is denied passes".to_owned(),
        (false, true) => "off".to_owned(),
        (false, false) => format!("what is denied to these groups passes: {}", groups.join(", ")),
    }
}

fn rate(per_second: u32, burst: u32) -> String {
    match per_second {
        0 => "no limit".to_owned(),
        _ => format!("{per_second} a second of one pair of addresses, {burst} at once"),
    }
}

fn push(page: &mut String, what: &str, text: &str) {
    // Writing to a String cannot fail.
    writeln!(page, "{what:<16}{}", plain(text)).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_api::logging::LogCounts;

    #[test]
    fn as_configured_and_changed() {
        let mut view = LoggingView {
            in_force: Logging::default(),
            changed: LoggingChange::default(),
            file: "/run/weft/denials.log".to_owned(),
            counts: LogCounts { read: 7, written: 7, ..LogCounts::default() },
        };
        assert_eq!(
            logging(&view),
            "audit           off\n\
             denied          logged, 1 a second of one pair of addresses, 5 at once\n\
             allowed         not logged\n\
             a workload's    50 records a second\n\
             file            /run/weft/denials.log\n\
             kernel log      no\n\
             \n\
             records         7 read, 7 written\n"
        );
        view.changed.audit_groups = Some(["app".parse().unwrap()].into());
        view.in_force = view.in_force.with(&view.changed);
        (view.in_force.denials_per_second, view.counts.queue_full) = (0, 3);
        let shown = logging(&view);
        for line in [
            "audit           what is denied to these groups passes: app\n",
            "denied          logged, no limit\n",
            "                not as configured; `weft logging reset` takes it back\n",
            "                3 lost, the file was too slow\n",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
    }
}
