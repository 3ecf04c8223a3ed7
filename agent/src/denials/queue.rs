//! The queue between reader and writer: bounded by records, not by batches, which are small while the
//! reader keeps up.

use super::record::Denial;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

/// Records that may wait while the disk is slow: some 25 MiB.
const CAPACITY: usize = 16_384;
/// Records written together at most, and some more: a batch is not divided.
const TOGETHER: usize = 4_096;

/// What the writer is told.
pub(crate) enum Message {
    /// Write these.
    Records(Vec<Denial>),
    /// The log file was rotated.
    Reopen,
}

/// The sending end.
#[derive(Clone)]
pub(crate) struct QueueSender {
    sender: Sender<Message>,
    waiting: Arc<AtomicUsize>,
}

/// The receiving end.
pub(crate) struct QueueReceiver {
    receiver: Receiver<Message>,
    waiting: Arc<AtomicUsize>,
    /// A request to reopen that was met among batches: it is next.
    reopen: bool,
}

/// A queue.
pub(crate) fn queue() -> (QueueSender, QueueReceiver) {
    let (sender, receiver) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (QueueSender { sender, waiting: waiting.clone() }, QueueReceiver { receiver, waiting, reopen: false })
}

impl QueueSender {
    /// Queues records; whether there was room.
    pub(super) fn records(&self, batch: Vec<Denial>) -> bool {
        // One thread sends records: what it reads can only have become less.
        if self.waiting.load(Ordering::Relaxed) + batch.len() > CAPACITY {
            return false;
        }
        self.waiting.fetch_add(batch.len(), Ordering::Relaxed);
        self.sender.send(Message::Records(batch)).is_ok()
    }

    /// Has the file opened anew, after what waits.
    pub(crate) fn reopen(&self) {
        // A writer that is gone has no file.
        drop(self.sender.send(Message::Reopen));
    }
}

impl QueueReceiver {
    /// The next message, batches that wait together as one; `None`: nobody sends any more.
    pub(super) fn next(&mut self) -> Option<Message> {
        if std::mem::take(&mut self.reopen) {
            return Some(Message::Reopen);
        }
        let mut records = match self.receiver.recv().ok()? {
            Message::Records(batch) => batch,
            Message::Reopen => return Some(Message::Reopen),
        };
        while records.len() < TOGETHER && !self.reopen {
            match self.receiver.try_recv() {
                Ok(Message::Records(batch)) => records.extend(batch),
                Ok(Message::Reopen) => self.reopen = true,
                Err(_) => break,
            }
        }
        self.waiting.fetch_sub(records.len(), Ordering::Relaxed);
        Some(Message::Records(records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denials::record::tests::denial;

    fn batch(records: usize) -> Vec<Denial> {
        (0..records).map(|_| denial("drop", "ingress")).collect()
    }

    #[test]
    fn many_small_batches_have_room_and_are_written_together() {
        let (sender, mut receiver) = queue();
        assert!((0..1000).all(|_| sender.records(batch(1))), "bounded by batches");
        assert!(matches!(receiver.next(), Some(Message::Records(records)) if records.len() == 1000));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_room_comes_back() {
        let (sender, mut receiver) = queue();
        assert!(sender.records(batch(CAPACITY)));
        assert!(!sender.records(batch(1)));
        assert!(matches!(receiver.next(), Some(Message::Records(_))));
        assert!(sender.records(batch(1)));
    }

    #[test]
    fn a_file_is_opened_anew_between_what_came_before_and_what_comes_after() {
        let (sender, mut receiver) = queue();
        assert!(sender.records(batch(1)) && sender.records(batch(2)));
        sender.reopen();
        assert!(sender.records(batch(4)));
        let lengths: Vec<usize> = (0..3)
            .map(|_| match receiver.next() {
                Some(Message::Records(records)) => records.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(lengths, [3, 0, 4]);
    }
}
