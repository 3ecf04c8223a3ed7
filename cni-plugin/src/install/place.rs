//! `install`.

use super::files::{Draft, digest};
use super::manifest::{self, Installed, Manifest, Owner};
use super::{Options, ready, render};
use std::fs;
use std::path::{Path, PathBuf};

/// Puts binary and conflist in place; the lines to print.
///
/// # Errors
/// The first thing in the way. Nothing is changed then, unless a rename itself failed.
pub(super) fn install(options: &Options) -> Result<String, String> {
    let conflist = render(options);
    if options.print {
        return Ok(conflist);
    }
    let _lock = manifest::lock(options)?;
    let before = Manifest::read(options)?;
    let files = [
        File::new(options.binary(), own_binary()?, 0o755),
        File::new(options.conflist(), conflist.into_bytes(), 0o644),
    ];
    check_folder("--bin-dir", &options.bin_dir)?;
    for file in &files {
        file.refuse_foreign(&before, options)?;
    }
    let drafts = files.iter().map(File::draft).collect::<Result<Vec<_>, _>>()?;
    ready::wait(options)?;
    // Whoever is killed between the next lines leaves files the manifest knows.
    let others = before.files.iter().filter(|old| files.iter().all(|file| file.path != old.path)).cloned();
    let manifest =
        |known: &Manifest| Manifest::of(files.iter().map(|file| file.installed(known)).chain(others.clone()).collect());
    manifest(&before).write(options)?;
    for draft in drafts {
        draft.place()?;
    }
    manifest(&Manifest::default()).write(options)?;
    let lines = files.iter().map(|file| format!("installed {} ({} bytes)\n", file.path.display(), file.bytes.len()));
    Ok(lines.chain(remarks(options)).collect())
}

/// A file to be put in place.
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: String,
    mode: u32,
}

impl File {
    fn new(path: PathBuf, bytes: Vec<u8>, mode: u32) -> Self {
        let sha256 = digest(&bytes);
        Self { path, bytes, sha256, mode }
    }

    fn draft(&self) -> Result<Draft, String> {
        Draft::write(&self.path, &self.bytes, self.mode)
    }

    fn installed(&self, before: &Manifest) -> Installed {
        let mut sha256 = before.digests(&self.path);
        if !sha256.contains(&self.sha256) {
            sha256.push(self.sha256.clone());
        }
        Installed { path: self.path.clone(), sha256 }
    }

    /// What is there and is neither what we put there nor what we would is somebody else's.
    fn refuse_foreign(&self, before: &Manifest, options: &Options) -> Result<(), String> {
        let known = Manifest::of(vec![self.installed(before)]);
        if options.replace || known.owner(&self.path)? != Owner::Foreign {
            return Ok(());
        }
        Err(format!(
            "{} is there already and is not what weft-cni install put there: move it away, or say --replace",
            self.path.display()
        ))
    }
}

fn own_binary() -> Result<Vec<u8>, String> {
    fs::read("/proc/self/exe").map_err(|error| format!("cannot read this binary: {error}"))
}

fn check_folder(option: &str, path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{option}: {} is no folder", path.display())),
        Err(error) => Err(format!("{option}: cannot open {}: {error}; make it first, or name another", path.display())),
    }
}

/// What a runtime would make of it, for people.
fn remarks(options: &Options) -> Vec<String> {
    let mut remarks = Vec::new();
    let names = fs::read_dir(&options.conf_dir).into_iter().flatten().flatten();
    let earlier = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending)))
        .filter(|name| *name < options.conf_name)
        .min();
    if let Some(first) = earlier {
        let folder = options.conf_dir.display();
        remarks.push(format!("note: {folder}/{first} comes first by name: containerd and CRI-O use that one\n"));
    }
    if !options.bin_dir.join("loopback").exists() {
        let folder = options.bin_dir.display();
        remarks.push(format!("note: {folder} has no plugin loopback, which containerd calls for every pod\n"));
    }
    remarks
}
