//! Notes for an agent that is away: it reads them when it starts.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use weft_api::agent::{NOTES_FOLDER, ReleaseRequest};
use weft_model::workload::host_ifname;

/// Leaves a note beside the agent's socket; written whole or not at all. The name comes from the
/// content, so that the three DELs of one sandbox leave one note.
///
/// # Errors
/// What the file system says: nothing is lost by it, the agent's collection finds the workload too.
/// Without the socket's folder no agent has run since the boot, so there is nobody to tell.
pub fn leave(socket: &Path, release: &ReleaseRequest) -> io::Result<PathBuf> {
    let folder = socket.parent().unwrap_or(Path::new("/")).join(NOTES_FOLDER);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let token = release.token.as_ref().map_or("any", |token| token.as_str());
    let name = format!("{}-{token}.json", host_ifname(&release.attachment));
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let target = folder.join(name);
    let written = fs::write(&draft, serde_json::to_vec(release)?).and_then(|()| fs::rename(&draft, &target));
    if written.is_err() {
        // The first failure is the one to tell.
        drop(fs::remove_file(&draft));
    }
    written.map(|()| target)
}
