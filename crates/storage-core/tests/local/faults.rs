//! Faults of real file systems. What needs root, `mount` or `strace` says so where it cannot be done.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, ErrorKind};
use storage_core::storage::{
    Access, FileStorage, FileStorageExt, FinishOptions, Precondition, ResumableUpload, UploadOptions,
};
use test_rig::{Strace, skip};

use super::attributes::{attributes_travel, odd_options};
use super::*;

/// A file system of its own, unmounted when dropped.
struct Mounted(TempDir);

impl Mounted {
    fn new(kind: &str, options: &str) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", kind, "-o", options, "none"]).arg(directory.path());
        match command.output() {
            Ok(output) if output.status.success() => Some(Self(directory)),
            Ok(output) => {
                skip::unable(&format!("mount {kind}: {}", String::from_utf8_lossy(&output.stderr)));
                None
            }
            Err(error) => {
                skip::unable(&format!("mount: {error}"));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_file_system_without_extended_attributes_keeps_them_all_the_same() {
    let Some(mounted) = Mounted::new("ramfs", "mode=0755") else { return };
    let root = mounted.0.path();
    let storage = open(root).await;
    storage.upload(&id("a"), Body::from_bytes("abc"), odd_options()).await.unwrap();
    assert_eq!(own(root, "attributes").len(), 1, "this file system was to have none");
    assert!(storage.delete(&id("a"), Precondition::None).await.unwrap());
    attributes_travel(root, &storage, odd_options()).await;
    // Opened for reading, it finds them as well.
    storage.upload(&id("a"), Body::from_bytes("abc"), odd_options()).await.unwrap();
    let config = LocalConfig::new(root).with_access(Access::ReadOnly);
    let reader = LocalStorage::open(config).await.unwrap();
    assert_eq!(reader.metadata(&id("a")).await.unwrap().tags, odd_options().tags);
}

#[tokio::test]
async fn a_full_disk_is_told_and_keeps_the_old_file() {
    let Some(mounted) = Mounted::new("tmpfs", "size=1m,mode=0755") else { return };
    let root = mounted.0.path();
    let storage = open(root).await;
    storage.upload_bytes(&id("a"), bytes("old")).await.unwrap();
    let large = Bytes::from(vec![7; 2 << 20]);
    assert_eq!(kind(storage.upload_bytes(&id("a"), large.clone()).await), ErrorKind::StorageFull);
    let ticket = storage.resumable().unwrap().begin(&id("b"), 5, UploadOptions::default()).await.unwrap();
    let number = std::num::NonZeroU32::MIN;
    let digest = storage_core::checksum::Digest::of(&large);
    let put = storage.resumable().unwrap().put_part(&ticket, number, large, digest).await;
    assert_eq!(kind(put), ErrorKind::StorageFull);
    assert_eq!(own(root, "tmp"), Vec::<String>::new());
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "old");
}

#[tokio::test]
async fn a_directory_mounted_inside_is_listed_and_a_write_into_it_is_a_clear_error() {
    let Some(mounted) = Mounted::new("tmpfs", "size=1m,mode=0755") else { return };
    let (root, storage) = storage().await;
    let inside = root.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let bound = Command::new("mount").arg("--bind").arg(mounted.0.path()).arg(&inside).status().unwrap();
    assert!(bound.success());
    std::fs::write(inside.join("file"), "x").unwrap();
    let listed = ids(&storage).await;
    let read = storage.download_bytes(&id("inside/file")).await;
    let written = storage.upload_bytes(&id("inside/new"), bytes("x")).await;
    Command::new("umount").arg("-l").arg(&inside).status().unwrap();
    assert_eq!(listed, ["inside/file"]);
    assert_eq!(read.unwrap(), "x");
    assert_eq!(kind(written), ErrorKind::Misconfigured);
}

/// What a test starts in a process of its own, by the name in `CHILD`, on the root in `CHILD_ROOT`.
#[tokio::test]
#[ignore = "started by other tests"]
async fn child() {
    let root = PathBuf::from(std::env::var_os("CHILD_ROOT").unwrap());
    match std::env::var("CHILD").unwrap().as_str() {
        "unreadable" => unreadable(&root).await,
        "durable" => {
            let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
            storage.upload_bytes(&id("new/deep/file"), bytes("x")).await.unwrap();
        }
        "relaxed" => {
            open(&root).await.upload_bytes(&id("new/deep/file"), bytes("x")).await.unwrap();
        }
        "parts" => {
            let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
            let ticket = storage.begin(&id("in/parts"), 5, UploadOptions::default()).await.unwrap();
            let number = std::num::NonZeroU32::MIN;
            let part = storage.put_part(&ticket, number, bytes("abc"), Digest::of(b"abc")).await.unwrap();
            storage.finish(&ticket, &[part], FinishOptions::default()).await.unwrap();
        }
        // One group of writers loses its sync: told to each of them, and never again to anybody else.
        "group" => {
            let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
            let (mut failed, mut stored) = (0, 0);
            for round in 0..4 {
                let uploads = (0..24).map(|number| {
                    let storage = storage.clone();
                    async move {
                        let name = format!("{round}/{number}");
                        (storage.upload_bytes(&id(&name), bytes(&name)).await, name)
                    }
                });
                for (uploaded, name) in futures::future::join_all(uploads).await {
                    match uploaded {
                        Ok(_) => {
                            assert_eq!(storage.download_bytes(&id(&name)).await.unwrap(), name);
                            stored += 1;
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Other, "{error}");
                            let there = storage.download_bytes(&id(&name)).await;
                            match error.effect() {
                                Effect::None => assert_eq!(kind(there), ErrorKind::NotFound, "{name}"),
                                _ => assert_eq!(there.unwrap(), name),
                            }
                            failed += 1;
                        }
                    }
                }
            }
            assert!(failed > 0 && stored >= 72, "{failed} failed, {stored} stored");
            assert_eq!(own(&root, "tmp"), Vec::<String>::new());
        }
        "mounted inside" => {
            let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
            let deletions = (0..24).map(|number| {
                let storage = storage.clone();
                async move { storage.delete(&id(&format!("inside/{number}")), Precondition::None).await }
            });
            for deleted in futures::future::join_all(deletions).await {
                assert!(deleted.unwrap());
            }
        }
        other => panic!("no child {other}"),
    }
}

fn run_child(mut command: Command, name: &str, root: &Path) -> Output {
    command.args(["--exact", "faults::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("CHILD", name).env("CHILD_ROOT", root);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn an_unreadable_directory_is_reported_and_hides_no_other() {
    let place = TempDir::new().unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = place.path().join("root");
    for directory in ["", "a", "b/dark", "c", "d"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in ["a/file", "b/dark/file", "c/file", "d/file"] {
        std::fs::write(root.join(file), "x").unwrap();
    }
    let dark = [("b/dark", 0o000), ("c", 0o444), ("d/file", 0o000)];
    for (path, mode) in dark {
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let exe = std::env::current_exe().unwrap();
    if rustix::process::geteuid().is_root() {
        // To root no permission bit means anything: the child is nobody, who may not reach the build directory.
        let copy = place.path().join("child");
        std::fs::copy(exe, &copy).unwrap();
        let mut command = Command::new(copy);
        command.uid(65_534).gid(65_534).current_dir("/");
        run_child(command, "unreadable", &root);
    } else {
        run_child(Command::new(exe), "unreadable", &root);
    }
    for (path, _) in dark {
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

async fn unreadable(root: &Path) {
    let config = LocalConfig::new(root).with_access(Access::ReadOnly);
    let storage = LocalStorage::open(config).await.unwrap();
    let items: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).collect().await;
    let told: Vec<_> = items
        .iter()
        .map(|item| match item {
            Ok(file) => file.id.to_string(),
            Err(error) => {
                let about = error.subject().unwrap_or_else(|| error.id().unwrap().as_str());
                format!("{about}: {}", error.kind().as_str())
            }
        })
        .collect();
    assert_eq!(told, ["a/file", "b/dark/: denied", "c/file: denied", "d/file"]);
    assert_eq!(kind(storage.download_bytes(&id("b/dark/file")).await), ErrorKind::Denied);
    assert_eq!(kind(storage.download_bytes(&id("d/file")).await), ErrorKind::Denied);
    assert_eq!(kind(storage.metadata(&id("c/file")).await), ErrorKind::Denied);
    let dark = Prefix::parse("b/dark/").unwrap();
    let items: Vec<_> = storage.list(&dark, ListOptions::default()).collect().await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].as_ref().unwrap_err().subject(), Some("b/dark/"));
    let config = LocalConfig::new(root.join("b/dark")).with_access(Access::ReadOnly);
    assert_eq!(kind(LocalStorage::open(config).await), ErrorKind::Denied);
}

/// Returns the calls that order bytes on the disk, of an upload into new directories.
fn trace(name: &str) -> Option<Vec<String>> {
    let place = TempDir::new().unwrap();
    // What opening does is no part of it.
    let root = place.path().join("root");
    std::fs::create_dir_all(root.join(".storage")).unwrap();
    for directory in ["tmp", "attributes", "uploads"] {
        std::fs::create_dir(root.join(".storage").join(directory)).unwrap();
    }
    let log = place.path().join("log");
    let mut command = Command::new("strace");
    if command.arg("-V").output().is_err() {
        skip::missing("strace");
        return None;
    }
    let calls = "trace=pwrite64,fsync,fdatasync,renameat,renameat2,linkat,mkdirat,fsetxattr";
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq", "-e", calls, "-o"]).arg(&log).arg(std::env::current_exe().unwrap());
    run_child(command, name, &root);
    let root = root.canonicalize().unwrap();
    let log = std::fs::read_to_string(log).unwrap().replace(root.to_str().unwrap(), "ROOT");
    Some(log.lines().filter(|line| !line.contains("EEXIST")).map(str::to_owned).collect())
}

/// Returns where the last call is that says all of this: opening has its own before it.
fn last(calls: &[String], what: &[&str]) -> usize {
    calls
        .iter()
        .rposition(|call| what.iter().all(|what| call.contains(what)))
        .unwrap_or_else(|| panic!("no {what:?} in {calls:#?}"))
}

#[test]
fn a_file_is_acknowledged_only_after_it_its_entry_and_its_directories_were_synced() {
    let Some(calls) = trace("durable") else { return };
    let at = |what: &[&str]| last(&calls, what);
    let attributes = at(&["fsetxattr", ".storage/tmp/"]);
    let file = at(&["fsync", "<ROOT/.storage/tmp/"]);
    let outer = at(&["mkdirat", "<ROOT>", "\"new\""]);
    let inner = at(&["mkdirat", "<ROOT/new>", "\"deep\""]);
    let rename = at(&["rename", "<ROOT/.storage/tmp>", "\"file\""]);
    let entry = at(&["fsync", "<ROOT/new/deep>"]);
    assert!(attributes < file && file < rename && rename < entry, "{calls:#?}");
    for (made, synced) in [(outer, at(&["fsync", "<ROOT>)"])), (inner, at(&["fsync", "<ROOT/new>"]))] {
        assert!(made < synced, "{calls:#?}");
    }
}

/// The bytes of a part are on the disk before anything says that it is there.
#[test]
fn a_part_is_acknowledged_only_after_it_and_its_entry_were_synced() {
    let Some(calls) = trace("parts") else { return };
    let at = |what: &[&str]| last(&calls, what);
    let written = at(&["pwrite64", "/whole>"]);
    let synced = at(&["fdatasync", "/whole>"]);
    let named = at(&["rename", ".claim\"", ".in-place\""]);
    let published = at(&["rename", "\"whole.done\"", "\"parts\""]);
    let entries: Vec<_> = (named..published).filter(|index| calls[*index].contains(" fsync(")).collect();
    assert!(written < synced && synced < named && named < published, "{calls:#?}");
    assert!(entries.iter().any(|index| !calls[*index].contains("/whole")), "{calls:#?}");
}

#[test]
fn a_sync_of_many_that_fails_is_told_to_each_of_them_and_is_the_last() {
    let root = TempDir::new().unwrap();
    let me = std::env::current_exe().unwrap();
    let log = TempDir::new().unwrap();
    let traced = log.path().join("log");
    let Some(strace) = Strace::new(&traced) else { return };
    run_child(strace.trace(&["syncfs"]).fail_at("syncfs", "EIO", "1+").command(me), "group", root.path());
    let log = std::fs::read_to_string(traced).unwrap();
    assert_eq!(log.matches("syncfs(").count(), 1, "{log}");
}

/// What is mounted inside the root is another file system: a sync of the root's says nothing of it.
#[test]
fn what_is_mounted_inside_is_synced_by_itself_however_many_wait() {
    let root = TempDir::new().unwrap();
    let inside = root.path().join("inside");
    let other = Mounted::new("tmpfs", "size=1m");
    let Some(other) = other else { return };
    std::fs::create_dir(&inside).unwrap();
    for number in 0..24 {
        std::fs::write(other.0.path().join(number.to_string()), "x").unwrap();
    }
    let bound = Command::new("mount").arg("--bind").arg(other.0.path()).arg(&inside).status().unwrap();
    assert!(bound.success());
    let log = TempDir::new().unwrap();
    let traced = log.path().join("log");
    let strace = Strace::new(&traced);
    if let Some(strace) = &strace {
        // Slow enough for the others to wait: on a tmpfs nobody would.
        let strace = strace.clone().trace(&["fsync", "syncfs"]).inject("fsync", "delay_enter=20000");
        run_child(strace.command(std::env::current_exe().unwrap()), "mounted inside", root.path());
    }
    Command::new("umount").arg("-l").arg(&inside).status().unwrap();
    if strace.is_some() {
        let log = std::fs::read_to_string(traced).unwrap();
        assert!(log.matches("fsync(").count() >= 24 && !log.contains("syncfs("), "{log}");
    }
}

#[test]
fn a_relaxed_storage_gives_up_syncing_and_nothing_else() {
    let Some(calls) = trace("relaxed") else { return };
    assert!(!calls.iter().any(|call| call.contains("sync(")), "{calls:#?}");
    assert!(calls.iter().any(|call| call.contains("rename")), "{calls:#?}");
}
