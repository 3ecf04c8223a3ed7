//! The thread that empties the ring buffer.

use super::counts::add;
use super::decision::Decisions;
use super::feed::DenialFeed;
use super::record::{Clock, Denial};
use super::share::Shares;
use super::{Counts, QueueSender};
use crate::directory::Directory;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;
use tokio::sync::watch;
use weft_api::logging::Logging;
use weft_datapath::DenialReader;

/// Records written together.
const BATCH: usize = 512;

/// What the thread needs.
pub(crate) struct Reader {
    /// Where the ring buffer comes from once programs are loaded.
    pub(crate) rings: Receiver<DenialReader>,
    /// Who is who.
    pub(crate) directory: watch::Receiver<Arc<Directory>>,
    /// The shares.
    pub(crate) logging: watch::Receiver<Arc<Logging>>,
    /// Who looks on.
    pub(crate) feed: DenialFeed,
    /// Who writes.
    pub(crate) sinks: QueueSender,
    /// What became of records.
    pub(crate) counts: Arc<Counts>,
}

impl Reader {
    /// Reads for the agent's life.
    pub(crate) fn run(self) {
        let Ok(mut ring) = self.rings.recv() else { return };
        let (mut shares, mut decisions) = (Shares::default(), Decisions::new());
        loop {
            while self.turn(&mut ring, &mut shares, &mut decisions) {}
            let mut fds = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "denials cannot be read any more; the counters stay exact");
                    return;
                }
            }
        }
    }

    /// Takes a batch of records; whether there were any.
    fn turn(&self, ring: &mut DenialReader, shares: &mut Shares, decisions: &mut Decisions) -> bool {
        let (directory, clock, now) = (self.directory.borrow().clone(), Clock::read(), Instant::now());
        let per_second = self.logging.borrow().workload_records_per_second;
        let (mut read, mut batch) = (0, Vec::new());
        for mut event in std::iter::from_fn(|| ring.try_next()).take(BATCH) {
            read += 1;
            let Some(left_out) = shares.take(event.slot, now, per_second) else { continue };
            event.suppressed = event.suppressed.saturating_add(left_out);
            let decision = decisions.of(&event, &directory, now);
            let denial = Denial::new(&event, &directory, &clock, decision);
            self.feed.push(denial.record.clone());
            batch.push(denial);
        }
        add(&self.counts.read, read);
        add(&self.counts.over_share, read - batch.len());
        self.pass_on(batch);
        read > 0
    }

    /// A full queue means that the disk is slower than the records come: they are lost, and counted.
    fn pass_on(&self, batch: Vec<Denial>) {
        if batch.is_empty() {
            return;
        }
        let records = batch.len();
        if !self.sinks.records(batch) {
            add(&self.counts.queue_full, records);
        }
    }
}
