//! Directories for servers' data, removed by their owner or by the next one.
//!
//! A process that is killed removes nothing. Each directory therefore holds a file that its owner keeps locked;
//! whoever makes a new directory removes those whose lock is free.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::disk;

const PREFIX: &str = "storage-rig-";
const LOCK: &str = "owner.lock";

/// Younger ones may belong to a process that has not locked its own yet.
const SETTLED: Duration = Duration::from_secs(60);

/// A directory that goes with its owner.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    _lock: File,
}

impl Scratch {
    /// Makes one in the system's directory for temporary files, and removes those that dead owners left.
    ///
    /// # Errors
    /// When it cannot be made. What cannot be swept is left.
    pub fn new(name: &str) -> Result<Self> {
        Self::new_in(&env::temp_dir(), name, SETTLED)
    }

    fn new_in(parent: &Path, name: &str, settled: Duration) -> Result<Self> {
        sweep(parent, settled);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{name}-"))
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let lock = File::create(dir.path().join(LOCK))?;
        lock.lock().context("cannot lock a file of our own")?;
        Ok(Self { dir, _lock: lock })
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn sweep(parent: &Path, settled: Duration) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && abandoned(&entry.path(), settled)
        {
            disk::unmount_beneath(&entry.path());
            // Another process may be removing it too: what is left after both is nothing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn abandoned(dir: &Path, settled: Duration) -> bool {
    let Ok(lock) = File::open(dir.join(LOCK)) else { return false };
    let age =
        lock.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age >= settled) && lock.try_lock().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_owner_left_is_removed_and_what_has_an_owner_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let orphan = Scratch::new_in(parent.path(), "orphan", Duration::ZERO).unwrap();
        let orphan_path = orphan.path().to_owned();
        let Scratch { dir, _lock } = orphan;
        let _ = dir.keep();
        drop(_lock);
        let foreign = parent.path().join("something-else");
        fs::create_dir(&foreign).unwrap();

        let young = Scratch::new_in(parent.path(), "young", SETTLED).unwrap();
        assert!(orphan_path.exists(), "may not have taken its lock yet");
        let owned = Scratch::new_in(parent.path(), "owned", Duration::ZERO).unwrap();
        assert!(!orphan_path.exists());
        assert!(young.path().exists() && owned.path().exists() && foreign.exists());
    }
}
