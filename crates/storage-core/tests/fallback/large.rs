//! Files that are too large for memory, on their way from one side to the other.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use storage_core::error::{ErrorKind, Op};
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::Role;
use storage_core::storage::FileStorageExt;
use tempfile::TempDir;
use test_rig::disk::Mount;

use crate::plain::Plain;
use crate::{Rig, heal, id};

/// The files without a name that this process holds beneath a directory.
fn unnamed(directory: &std::path::Path) -> Vec<PathBuf> {
    let open =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    open.filter(|path| path.starts_with(directory) && path.to_string_lossy().ends_with("(deleted)")).collect()
}

/// What the system has for temporary files is in memory on many machines, and small.
#[tokio::test]
async fn a_large_file_heals_beside_the_journal_and_takes_its_room_once() {
    let Some(mount) = Mount::tmpfs("28m") else { return };
    let rig = Rig::within(Role::Spare, TempDir::new_in(mount.path()).unwrap());
    // It says of no upload what it has stored, so that all is read back.
    let primary = Plain::around(Arc::new(rig.primary.clone())).without_verification();
    let secondary = Arc::new(rig.secondary.clone());
    let storage = FallbackStorage::open(Arc::new(primary), secondary, rig.config.clone()).await.unwrap();
    rig.primary.set_outage(true);
    let bytes = Bytes::from(vec![7; 17 << 20]);
    storage.upload_bytes(&id("a"), bytes.clone()).await.unwrap();
    rig.primary.set_outage(false);
    let seen: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
    let (told, place) = (Arc::clone(&seen), mount.path().to_owned());
    rig.primary.before_next(Op::Upload, move || *told.lock().unwrap() = unnamed(&place));
    heal(&storage).await;
    assert_eq!(seen.lock().unwrap().len(), 1, "it is beside the journal");
    assert_eq!(rig.inside.0.download_bytes(&id("a")).await.unwrap(), bytes);
    assert_eq!(rig.primary.calls(Op::Download), 1, "it was read back");
}

#[tokio::test]
async fn large_files_go_where_they_are_told_to() {
    let place = TempDir::new().unwrap();
    let rig = Rig::new(Role::Spare).with(|config| config.with_spool(place.path()));
    let storage = rig.open().await;
    rig.primary.set_outage(true);
    storage.upload_bytes(&id("a"), Bytes::from(vec![7; 9 << 20])).await.unwrap();
    rig.primary.set_outage(false);
    let seen: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
    let (told, path) = (Arc::clone(&seen), place.path().to_owned());
    rig.primary.before_next(Op::Upload, move || *told.lock().unwrap() = unnamed(&path));
    heal(&storage).await;
    assert_eq!(seen.lock().unwrap().len(), 1);

    drop(storage);
    let rig = rig.with(|config| config.with_spool(place.path().join("missing")));
    let error = rig.try_open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("missing") && error.to_string().contains("spool"), "{error}");
}
