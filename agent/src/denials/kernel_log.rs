//! The kernel log, where operators of Silk look with `dmesg -w | grep DENY`.

use super::counts::{Counts, add};
use super::record::Denial;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};
use weft_model::id::Tag;

/// Where the kernel takes lines.
const KMSG: &str = "/dev/kmsg";
/// How long a log that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest prefix netfilter's LOG target takes, without its blank.
const PREFIX: usize = 28;

/// The kernel log: everybody shares it, so lines have a rate.
pub(super) struct KernelLog {
    file: Option<File>,
    failed: Option<Instant>,
    window: (Instant, u32),
}

impl KernelLog {
    pub(super) fn new() -> Self {
        Self { file: None, failed: None, window: (Instant::now(), 0) }
    }

    /// Writes a line, if the rate allows.
    pub(super) fn write(&mut self, denial: &Denial, per_second: u32, counts: &Counts) {
        if self.window.0.elapsed() >= Duration::from_secs(1) {
            self.window = (Instant::now(), 0);
        }
        let written = self.window.1 < per_second && self.try_write(&line(denial));
        self.window.1 += u32::from(written);
        add(if written { &counts.kernel_lines } else { &counts.kernel_left_out }, 1);
    }

    fn try_write(&mut self, line: &str) -> bool {
        if self.failed.is_some_and(|since| since.elapsed() < PAUSE) {
            return false;
        }
        let result = match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => OpenOptions::new().write(true).open(KMSG).and_then(|mut file| {
                file.write_all(line.as_bytes())?;
                self.file = Some(file);
                Ok(())
            }),
        };
        match result {
            Ok(()) => self.failed = None,
            Err(error) => {
                if self.failed.is_none() {
                    tracing::warn!(path = KMSG, %error, "the kernel log cannot be written: trying again every 10 s");
                }
                self.file = None;
                self.failed = Some(Instant::now());
            }
        }
        self.failed.is_none()
    }
}

/// As netfilter's LOG target writes it. Level 5, notice, facility user.
fn line(denial: &Denial) -> String {
    let record = &denial.record;
    let (input, output) =
        if record.direction == "ingress" { ("", record.interface.as_str()) } else { (record.interface.as_str(), "") };
    let ends = match (record.icmp_type, record.icmp_code) {
        (Some(kind), Some(code)) => format!("TYPE={kind} CODE={code}"),
        _ => format!("SPT={} DPT={}", record.source.port, record.destination.port),
    };
    format!(
        "<13>{} IN={input} OUT={output} SRC={} DST={} LEN={} PROTO={} {ends} {}MARK={:#x} REASON={}{}\n",
        prefix(denial),
        record.source.ip,
        record.destination.ip,
        denial.length,
        record.protocol,
        record.tcp_flags.split(',').filter(|flag| !flag.is_empty()).map(|flag| format!("{flag} ")).collect::<String>(),
        tag(denial),
        record.reason,
        rule(denial),
    )
}

/// Which rule decided, where one was asked.
fn rule(denial: &Denial) -> String {
    match (denial.record.rule, &denial.record.decision) {
        (Some(rule), _) => format!(" RULE={rule}"),
        (None, Some(_)) => " RULE=none".to_owned(),
        (None, None) => String::new(),
    }
}

fn tag(denial: &Denial) -> u16 {
    denial.record.source.tag.map_or(0, Tag::get)
}

/// Silk's prefixes: `DENY_C2C_<handle>`; allowed: `OK_<tag>_<app GUID>` towards an app, else `OK_<handle>`.
/// And our `AUDIT_C2C_<handle>`.
fn prefix(denial: &Denial) -> String {
    let handle = denial.judge.as_ref().map_or("", |judge| judge.attachment.container_id.as_str());
    let group = denial.judge.as_ref().and_then(|judge| judge.group.as_ref()).map_or("", |group| group.as_str());
    let prefix = match (denial.record.action.as_str(), denial.record.direction.as_str()) {
        ("allow", "ingress") => format!("OK_{:04X}_{group}", tag(denial)),
        ("allow", _) => format!("OK_{handle}"),
        ("audit", _) => format!("AUDIT_C2C_{handle}"),
        _ => format!("DENY_C2C_{handle}"),
    };
    prefix.chars().take(PREFIX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denials::record::tests::denial;

    #[test]
    fn silks_prefixes() {
        for (action, direction, want) in [
            ("reject", "ingress", "DENY_C2C_6e2ad364-5bb4-4f1c-"),
            ("drop", "egress", "DENY_C2C_6e2ad364-5bb4-4f1c-"),
            ("audit", "ingress", "AUDIT_C2C_6e2ad364-5bb4-4f1c"),
            ("allow", "ingress", "OK_0A05_0d1c1c93-77d8-4a0e-a"),
            ("allow", "egress", "OK_6e2ad364-5bb4-4f1c-bd5c-9"),
        ] {
            assert_eq!(prefix(&denial(action, direction)), want, "{action} {direction}");
        }
    }

    #[test]
    fn the_line_of_netfilters_log_target() {
        assert_eq!(
            line(&denial("reject", "ingress")),
            "<13>DENY_C2C_6e2ad364-5bb4-4f1c- IN= OUT=weft0123 SRC=10.255.2.9 DST=10.255.1.5 LEN=60 PROTO=TCP SPT=40000 DPT=80 SYN MARK=0xa05 REASON=policy\n"
        );
    }

    #[test]
    fn the_rule_or_its_absence_ends_the_line() {
        assert!(line(&denial("allow", "ingress")).ends_with(" REASON=passed RULE=3\n"));
        let mut denied = denial("reject", "ingress");
        let decision = r#"{"text":"no rule allows it","because":"isolated","revision":1}"#;
        std::sync::Arc::make_mut(&mut denied.record).decision = serde_json::from_str(decision).ok();
        assert!(line(&denied).ends_with(" REASON=policy RULE=none\n"));
    }

    #[test]
    fn lines_beyond_the_rate_are_counted() {
        let (mut log, counts) = (KernelLog::new(), Counts::default());
        log.file = Some(tempfile::tempfile().unwrap());
        // A second that does not end while we write, and one that is over.
        for (begin, lines, left_out) in
            [(Instant::now() + PAUSE * 1000, 2, 3), (Instant::now().checked_sub(PAUSE).unwrap(), 3, 3)]
        {
            log.window.0 = begin;
            let writes = if lines == 2 { 5 } else { 1 };
            (0..writes).for_each(|_| log.write(&denial("drop", "ingress"), 2, &counts));
            let counts = counts.now();
            assert_eq!((counts.kernel_lines, counts.kernel_left_out), (lines, left_out));
        }
    }
}
