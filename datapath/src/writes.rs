//! How map writes are cut into pieces, and who watches.

/// Entries a system call writes.
const CHUNK: usize = 16_384;

/// Counts pieces of work on the maps.
#[derive(Default)]
pub(crate) struct Writes {
    watched: Option<(usize, Box<dyn FnMut() + Send>)>,
}

impl Writes {
    /// See [`crate::Datapath::watch_writes`].
    pub(crate) fn watch(&mut self, every: usize, watcher: Box<dyn FnMut() + Send>) {
        self.watched = Some((every.max(1), watcher));
    }

    /// How many entries are written between two calls of [`Writes::done`].
    pub(crate) fn chunk(&self) -> usize {
        self.watched.as_ref().map_or(CHUNK, |(every, _)| *every)
    }

    /// Something was written.
    pub(crate) fn done(&mut self) {
        if let Some((_, watcher)) = &mut self.watched {
            watcher();
        }
    }
}
