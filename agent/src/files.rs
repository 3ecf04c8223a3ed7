//! Small JSON documents on disk: read tolerantly, written so that a torn file cannot be.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Reads a document. A missing file is `None`; an unreadable one is an error for the caller to log,
/// which then goes on as if it were missing.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a document; what cannot be read is logged and treated as missing.
pub fn read_or_log<T: DeserializeOwned>(path: &Path) -> Option<T> {
    read(path).unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "cannot read this file: going on without it; it will be rewritten");
        None
    })
}

/// Writes a document: temporary file, flush to disk, rename.
///
/// # Errors
/// Any of the steps; the old document then still stands.
pub fn write<T: Serialize>(path: &Path, document: &T) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    serde_json::to_writer(&mut file, document)?;
    file.flush()?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_file_is_told_from_a_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), None);
        write(&path, &vec![1, 2]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        fs::write(&path, "[1,").unwrap();
        assert!(read::<Vec<u8>>(&path).is_err());
        assert_eq!(read_or_log::<Vec<u8>>(&path), None);
    }
}
