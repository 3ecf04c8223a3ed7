//! The thread that writes records where they are to go.

use super::Counts;
use super::counts::add;
use super::file::LogFile;
use super::kernel_log::KernelLog;
use super::queue::{Message, QueueReceiver};
use super::record::Denial;
use crate::directory::HostName;
use crate::worker::{Command, Worker};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weft_api::denial::{CfContainer, CfLogLine};
use weft_api::logging::Logging;

/// How long a file that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// The alarm's name.
const ALARM: &str = "denial-log";

/// Where records go.
pub(crate) struct Sinks {
    file: LogFile,
    /// Since when the file cannot be written, and how many records it missed.
    trouble: Option<(Instant, usize)>,
    kernel: KernelLog,
    logging: watch::Receiver<Arc<Logging>>,
    me: HostName,
    worker: Worker,
    counts: Arc<Counts>,
}

impl Sinks {
    /// What the thread needs; nothing is opened before there is a record.
    #[must_use]
    pub(crate) fn new(
        path: PathBuf,
        logging: watch::Receiver<Arc<Logging>>,
        me: HostName,
        worker: Worker,
        counts: Arc<Counts>,
    ) -> Self {
        Self { file: LogFile::new(path), trouble: None, kernel: KernelLog::new(), logging, me, worker, counts }
    }

    /// Writes for the agent's life.
    pub(crate) fn run(mut self, mut queue: QueueReceiver) {
        while let Some(message) = queue.next() {
            match message {
                Message::Records(batch) => {
                    self.write_kernel(&batch);
                    self.write_file(&batch);
                }
                Message::Reopen => self.reopen(),
            }
        }
    }

    fn reopen(&mut self) {
        self.file.close();
        self.trouble = self.trouble.map(|(_, missed)| (Instant::now() - PAUSE, missed));
        // Made now, so that whoever rotates finds it.
        self.append(&[], 0);
    }

    fn write_kernel(&mut self, batch: &[Denial]) {
        let logging = self.logging.borrow().clone();
        if logging.kernel_log {
            batch.iter().for_each(|denial| self.kernel.write(denial, logging.kernel_lines_per_second, &self.counts));
        }
    }

    fn write_file(&mut self, batch: &[Denial]) {
        if let Some((since, missed)) = &mut self.trouble
            && since.elapsed() < PAUSE
        {
            *missed += batch.len();
            add(&self.counts.not_written, batch.len());
            return;
        }
        let lines = self.lines(batch);
        self.append(&lines, batch.len());
    }

    fn lines(&self, batch: &[Denial]) -> Vec<u8> {
        let mut lines = Vec::with_capacity(1024 * batch.len());
        for denial in batch {
            let line = CfLogLine::new(&denial.record, denial.at_ns, container(denial, &self.me));
            let before = lines.len();
            match serde_json::to_writer(&mut lines, &line) {
                Ok(()) => lines.push(b'\n'),
                Err(error) => {
                    lines.truncate(before);
                    tracing::error!(%error, "a denial record cannot be written as JSON");
                }
            }
        }
        lines
    }

    fn append(&mut self, lines: &[u8], records: usize) {
        match self.file.append(lines) {
            Ok(()) => {
                add(&self.counts.written, records);
                if let Some((_, missed)) = self.trouble.take() {
                    tracing::info!(path = %self.file.path().display(), missed, "denials are logged to this file again");
                    self.worker.send(Command::Alarm { about: ALARM, text: None });
                }
            }
            Err(error) => {
                add(&self.counts.not_written, records);
                self.complain(&error, records);
                self.file.close();
            }
        }
    }

    fn complain(&mut self, error: &std::io::Error, records: usize) {
        let path = self.file.path().display();
        if self.trouble.is_none() {
            tracing::error!(%path, %error, "denials cannot be logged: counters stay exact; trying this file again every 10 s");
        }
        let missed = self.trouble.map_or(0, |(_, missed)| missed) + records;
        let text = format!("denials are not logged: {path}: {error}; trying again every 10 s");
        self.worker.send(Command::Alarm { about: ALARM, text: Some(text) });
        self.trouble = Some((Instant::now(), missed));
    }
}

fn container(denial: &Denial, me: &HostName) -> CfContainer {
    let mut container =
        CfContainer { host_ip: me.public_ip.to_string(), host_guid: me.node.to_string(), ..CfContainer::default() };
    if let Some(judge) = &denial.judge {
        container.container_id = judge.attachment.container_id.to_string();
        container.app_guid = judge.group.as_ref().map(ToString::to_string).unwrap_or_default();
        container.space_guid = judge.identity.space_id.clone().unwrap_or_default();
        container.organization_guid = judge.identity.org_id.clone().unwrap_or_default();
    }
    container
}
