//! Writing many entries to a map at once, by system calls of our own: aya 0.14 knows only one at a time.

use crate::counters::Fill;
use crate::error::DatapathError;
use crate::writes::Writes;
use aya::maps::{Map, MapData};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};

/// Entries of one map, keys and values apart, as the kernel takes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entries<K, V> {
    pub(crate) keys: Vec<K>,
    pub(crate) values: Vec<V>,
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new() }
    }
}

impl<K, V> Entries<K, V> {
    pub(crate) fn push(&mut self, key: K, value: V) {
        self.keys.push(key);
        self.values.push(value);
    }
}

/// A trie's key (linux/bpf.h, `bpf_lpm_trie_key`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix<K> {
    /// How many leading bits of `data` count.
    pub(crate) bits: u32,
    pub(crate) data: K,
}

/// A layout without padding, that the kernel may read byte by byte.
///
/// # Safety
/// `repr(C)`, and its fields leave no gap.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: integers only; weft-abi asserts the sizes.
unsafe impl Plain for weft_abi::PolicyKey {}
// SAFETY: as above.
unsafe impl Plain for weft_abi::PolicyValue {}
// SAFETY: as above; four bytes before fields of four.
unsafe impl Plain for Prefix<weft_abi::RangeKey> {}
// SAFETY: as above.
unsafe impl Plain for Prefix<weft_abi::CidrKey4> {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}

/// A hash map or trie that is written in batches.
pub(crate) struct Table<K, V> {
    map: Map,
    name: &'static str,
    capacity: u32,
    /// Kernels before 5.13 have no batches for tries.
    batches: bool,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes a map, after its layout was checked.
    pub(crate) fn new(map: Map, name: &'static str, capacity: u32) -> Self {
        Self { map, name, capacity, batches: true, types: PhantomData }
    }

    /// The map, to be read.
    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// Its name, and how full it is with so many entries.
    pub(crate) fn fill(&self, entries: usize) -> (&'static str, Fill) {
        (self.name, Fill::of(entries, self.capacity))
    }

    /// Writes entries; those before the first that fails stay. `what` they are, for the error.
    pub(crate) fn write(
        &mut self,
        entries: &Entries<K, V>,
        writes: &mut Writes,
        what: impl Fn() -> String,
    ) -> Result<(), DatapathError> {
        let pieces = entries.keys.chunks(writes.chunk()).zip(entries.values.chunks(writes.chunk()));
        for (keys, values) in pieces {
            self.each(Operation::Update, keys, values).map_err(|error| self.refused(&error, &what))?;
            writes.done();
        }
        Ok(())
    }

    /// Removes entries; one that is not there is removed.
    pub(crate) fn remove(&mut self, keys: &[K], writes: &mut Writes) -> Result<(), DatapathError> {
        for keys in keys.chunks(writes.chunk()) {
            let mut left = keys;
            while let Err(Stopped { after, error }) = self.each(Operation::Delete, left, &[]) {
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(DatapathError::MapWrite { map: self.name, source: error });
                }
                left = left.get(after + 1..).unwrap_or_default();
            }
            writes.done();
        }
        Ok(())
    }

    /// Hash maps say E2BIG when they are full, tries ENOSPC.
    fn refused(&self, stopped: &Stopped, what: impl Fn() -> String) -> DatapathError {
        match stopped.error.raw_os_error() {
            Some(nix::libc::E2BIG | nix::libc::ENOSPC) => {
                DatapathError::MapFull { map: self.name, capacity: self.capacity, what: what() }
            }
            code => {
                let source = code.map_or_else(|| io::Error::other("no code"), io::Error::from_raw_os_error);
                DatapathError::MapWrite { map: self.name, source }
            }
        }
    }

    fn each(&mut self, operation: Operation, keys: &[K], values: &[V]) -> Result<(), Stopped> {
        if self.batches {
            match self.batch(operation, keys, values) {
                Err(Stopped { after: 0, error }) if is_unsupported(&error) => self.batches = false,
                result => return result,
            }
        }
        self.one_by_one(operation, keys, values)
    }

    fn batch(&self, operation: Operation, keys: &[K], values: &[V]) -> Result<(), Stopped> {
        let mut attributes = Batch {
            keys: keys.as_ptr() as u64,
            values: if values.is_empty() { 0 } else { values.as_ptr() as u64 },
            count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
            map: self.fd(),
            ..Batch::default()
        };
        if attributes.count == 0 {
            return Ok(());
        }
        // SAFETY: `count` keys and, to update, as many values, of the sizes the map was made with.
        let result = unsafe { bpf(operation.batch(), &mut attributes) };
        // The kernel says how far it came.
        let after = if attributes.count as usize == keys.len() { 0 } else { attributes.count as usize };
        result.map_err(|error| Stopped { after, error })
    }

    fn one_by_one(&self, operation: Operation, keys: &[K], values: &[V]) -> Result<(), Stopped> {
        for (after, key) in keys.iter().enumerate() {
            let value = values.get(after).map_or(0, |value| std::ptr::from_ref(value) as u64);
            let key = std::ptr::from_ref(key) as u64;
            let mut attributes = Element { map: self.fd(), key, value, ..Element::default() };
            // SAFETY: a key and, to update, a value, of the sizes the map was made with.
            unsafe { bpf(operation.element(), &mut attributes) }.map_err(|error| Stopped { after, error })?;
        }
        Ok(())
    }

    fn fd(&self) -> u32 {
        let fd = |data: &MapData| data.fd().as_fd().as_raw_fd();
        let (Map::HashMap(data) | Map::LpmTrie(data)) = &self.map else { return u32::MAX };
        u32::try_from(fd(data)).unwrap_or(u32::MAX)
    }
}

/// Where a series of writes ended, and why.
struct Stopped {
    /// How many were done.
    after: usize,
    error: io::Error,
}

/// `ENOTSUPP`, which is the kernel's own and has no name outside, or a command it has never heard of.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(524 | nix::libc::EOPNOTSUPP | nix::libc::EINVAL))
}

#[derive(Clone, Copy)]
enum Operation {
    Update,
    Delete,
}

impl Operation {
    /// `enum bpf_cmd` of linux/bpf.h.
    const fn batch(self) -> i64 {
        match self {
            Self::Update => 26,
            Self::Delete => 27,
        }
    }

    const fn element(self) -> i64 {
        match self {
            Self::Update => 2,
            Self::Delete => 3,
        }
    }
}

/// `union bpf_attr` of `BPF_MAP_*_BATCH` (since 5.6; for tries 5.13).
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// `union bpf_attr` of `BPF_MAP_*_ELEM`.
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// # Safety
/// `attributes` must be what the command takes, and what it points to must be there.
unsafe fn bpf<T>(command: i64, attributes: &mut T) -> io::Result<()> {
    // SAFETY: the caller's.
    let result =
        unsafe { nix::libc::syscall(nix::libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
