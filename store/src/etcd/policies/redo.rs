//! A large change as text: redo lines in chunks, and the transactions they are applied in. Pure.

use super::plan::{MAX_BYTES, MAX_OPERATIONS, Writes, size};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One write, a line of JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    /// Absent: the key is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// Divides writes into chunks of at most 1 MiB (more only if a single line is longer).
pub(super) fn chunks(writes: &Writes) -> Vec<String> {
    let mut chunks = vec![String::new()];
    for (key, value) in writes {
        let line = super::document::json(&Line { key: key.clone(), value: value.clone() });
        match chunks.last_mut() {
            Some(last) if last.is_empty() || last.len() + line.len() < MAX_BYTES => {
                last.push_str(&line);
                last.push('\n');
            }
            _ => chunks.push(line + "\n"),
        }
    }
    chunks
}

/// SHA-256 of all chunks in order, hex.
pub(super) fn digest<T: AsRef<[u8]>>(chunks: &[T]) -> String {
    let mut hash = Sha256::new();
    chunks.iter().for_each(|chunk| hash.update(chunk.as_ref()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads chunks back; the error names the first line that is none.
pub(super) fn writes<T: AsRef<[u8]>>(chunks: &[T]) -> Result<Writes, String> {
    let mut writes = Writes::new();
    for (number, chunk) in chunks.iter().enumerate() {
        for line in chunk.as_ref().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line).map_err(|error| format!("chunk {number}: {error}"))?;
            writes.insert(line.key, line.value);
        }
    }
    Ok(writes)
}

/// Divides writes into transactions; one operation is left for others.
pub(super) fn batches(writes: &Writes) -> Vec<Vec<(&String, &Option<String>)>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let more = size(write);
        match batches.last_mut() {
            Some(batch) if batch.len() + 1 < MAX_OPERATIONS && bytes + more <= MAX_BYTES => {
                batch.push(write);
                bytes += more;
            }
            _ => {
                batches.push(vec![write]);
                bytes = more;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_writes() -> impl Strategy<Value = Writes> {
        let long = (200_000usize..300_000).prop_map(|length| "x".repeat(length));
        let value = proptest::option::of(prop_oneof![20 => "[^\\x00]{0,40}", 1 => long]);
        proptest::collection::btree_map("/weft/[a-z%\n\"]{1,12}", value, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn chunks_read_back(writes_before in some_writes()) {
            let chunks = chunks(&writes_before);
            prop_assert!(chunks.iter().all(|chunk| chunk.len() <= MAX_BYTES));
            prop_assert_eq!(writes(&chunks).unwrap(), writes_before);
        }

        #[test]
        fn batches_fit_and_leave_nothing_out(writes in some_writes()) {
            let batches = batches(&writes);
            for batch in &batches {
                prop_assert!(batch.len() < MAX_OPERATIONS);
                prop_assert!(batch.iter().map(|write| size(*write)).sum::<usize>() <= MAX_BYTES);
            }
            let all: Vec<_> = batches.concat();
            prop_assert_eq!(all, writes.iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_digest_sees_order_and_loss() {
        let whole = digest(&["a", "b"]);
        assert_eq!(whole.len(), 64);
        assert_eq!(whole, digest(&["ab"]));
        assert_ne!(whole, digest(&["b", "a"]));
        assert_ne!(whole, digest(&["a"]));
        assert_eq!(digest(&["abc"]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
