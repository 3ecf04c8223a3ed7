//! Denials: from the ring buffer to people and log pipelines.

mod record;
mod share;
mod sinks;

use crate::config::Config;
use crate::directory::{Directory, HostName};
use share::Shares;
use sinks::Sinks;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, watch};
use weft_datapath::{DenialEvent, DenialReader};

/// Records kept for readers that come later.
const RECENT: usize = 1000;
/// Records a live reader may lag behind.
const LAG: usize = 4096;
/// Records read before other tasks have their turn.
const TURN: usize = 256;

/// Recent and live records as JSON lines.
#[derive(Clone)]
pub struct DenialFeed {
    recent: Arc<Mutex<VecDeque<String>>>,
    live: broadcast::Sender<String>,
}

impl Default for DenialFeed {
    fn default() -> Self {
        Self { recent: Arc::default(), live: broadcast::channel(LAG).0 }
    }
}

impl DenialFeed {
    /// The recent records and a receiver of those to come.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<String>, broadcast::Receiver<String>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.live.subscribe())
    }

    fn push(&self, line: &str) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(line.to_owned());
        // Nobody listening is no error.
        drop(self.live.send(line.to_owned()));
    }
}

/// Reads the ring buffer for the agent's life.
///
/// # Errors
/// The ring buffer cannot be waited for.
pub async fn run(
    mut reader: DenialReader,
    config: Arc<Config>,
    me: HostName,
    directory: watch::Receiver<Arc<Directory>>,
    feed: DenialFeed,
) -> io::Result<()> {
    let ready = Ready::new(reader.as_raw_fd())?;
    let (mut sinks, mut shares) = (Sinks::open(&config), Shares::default());
    loop {
        let mut read = 0;
        while let Some(mut event) = reader.try_next() {
            read += 1;
            if read % TURN == 0 {
                tokio::task::yield_now().await;
            }
            let Some(left_out) = shares.take(event.slot, Instant::now()) else { continue };
            event.suppressed = event.suppressed.saturating_add(left_out);
            tell(&event, &directory.borrow().clone(), &feed, &mut sinks, &me);
        }
        ready.wait().await?;
    }
}

/// Tells one record to everybody.
fn tell(event: &DenialEvent, directory: &Directory, feed: &DenialFeed, sinks: &mut Sinks, me: &HostName) {
    let denial = record::Denial::new(event, directory);
    match serde_json::to_string(&denial.record) {
        Ok(mut line) => {
            line.push('\n');
            feed.push(&line);
        }
        Err(error) => tracing::error!(%error, "a denial record cannot be written as JSON"),
    }
    sinks.write(&denial, me);
}

/// Readiness of a descriptor that somebody else owns.
struct Ready(AsyncFd<Borrowed>);

struct Borrowed(RawFd);

impl AsRawFd for Borrowed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Ready {
    fn new(fd: RawFd) -> io::Result<Self> {
        #[expect(deprecated, reason = "the replacement is unsafe, and this crate forbids unsafe code")]
        AsyncFd::with_interest(Borrowed(fd), Interest::READABLE).map(Self)
    }

    async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
