//! Power cuts and kills at any moment.
//!
//! `CRASH_TRIALS` sets the number of trials of each test, `CRASH_SEED` the seed, which is printed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::body::Body;
use storage_core::error::{Effect, ErrorKind};
use storage_core::storage::{FileStorage, FileStorageExt, Precondition};
use tempfile::TempDir;
use test_rig::Strace;
use test_rig::disk::{FileSystem, Image};

use super::super::{id, ids, own};
use super::model::{Model, Verdict, attributes, content};
use super::writer::Orders;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn trials(default: u64) -> u64 {
    number("CRASH_TRIALS").unwrap_or(default)
}

#[expect(clippy::print_stderr, reason = "a failure is repeated with it")]
fn seed() -> u64 {
    let seed = number("CRASH_SEED").unwrap_or_else(|| rand::rng().random());
    eprintln!("CRASH_SEED={seed}");
    seed
}

#[expect(clippy::print_stdout, reason = "shows what the trials were worth")]
fn passed(what: &str, trials: u64, sum: Verdict) {
    println!("{what}: {trials} trials, {sum}");
    assert_eq!(sum.faults(), 0, "{what}: {sum}");
    assert!(sum.acknowledged as u64 > trials, "{what}: {sum}");
}

/// Where the extended attributes of a child go.
#[derive(Clone, Copy, PartialEq)]
enum Attributes {
    /// To the file system; too large ones to a sidecar.
    Extended,
    /// All to a sidecar: the file system says that it has none.
    Sidecar,
}

impl Attributes {
    fn command(self) -> Option<Command> {
        let exe = std::env::current_exe().unwrap();
        match self {
            Self::Extended => Some(Command::new(exe)),
            Self::Sidecar => {
                Some(Strace::new("/dev/null")?.fail_at("fsetxattr", "EOPNOTSUPP", "1+").command(exe))
            }
        }
    }
}

async fn opened(root: &Path, durability: Durability) -> LocalStorage {
    LocalStorage::open(LocalConfig::new(root).with_durability(durability)).await.unwrap()
}

async fn power_cuts(kind: FileSystem, kept: Attributes, default: u64) {
    let Some(image) = Image::new(kind) else { return };
    let (seed, trials) = (seed(), trials(default));
    let root = image.path().join("root");
    std::fs::create_dir(&root).unwrap();
    // Its entry is not what is tried here.
    std::fs::File::open(image.path()).unwrap().sync_all().unwrap();
    let (mut model, mut sum) = (Model::default(), Verdict::default());
    for trial in 0..trials {
        let seed = seed.wrapping_add(trial);
        let mut random = StdRng::seed_from_u64(seed);
        let (Some(power), Some(command)) = (image.power(), kept.command()) else { return };
        let orders = Orders::new(&root, seed, (trial + 1) * 1_000_000, &model);
        let child = orders.start(command, image.outside());
        // Right behind an acknowledgement, or anywhere.
        let first = random.random_range(0..60);
        child.wait_for(first);
        if random.random_bool(0.5) {
            std::thread::sleep(Duration::from_micros(random.random_range(0..10_000)));
        }
        let story = child.cut(|| power.cut().unwrap());
        image.restart().unwrap();
        sum.acknowledged += story.acknowledged();
        let what = format!("{kind:?} trial {trial} seed {seed}");
        let errors: Vec<_> = story.errors().collect();
        assert!(errors.is_empty(), "{what}: {errors:?}");
        model.take(&story);
        let storage = opened(&root, Durability::Durable).await;
        sum.add(model.compare(&root, &storage, &what).await);
    }
    passed(&format!("power cuts, {kind:?}"), trials, sum);
}

#[tokio::test]
async fn a_power_cut_on_ext4_loses_nothing_that_was_acknowledged() {
    power_cuts(FileSystem::Ext4, Attributes::Extended, 12).await;
}

#[tokio::test]
async fn a_power_cut_on_xfs_loses_nothing_that_was_acknowledged() {
    power_cuts(FileSystem::Xfs, Attributes::Extended, 12).await;
}

#[tokio::test]
async fn a_power_cut_loses_no_attributes_that_are_in_sidecars() {
    power_cuts(FileSystem::Ext4, Attributes::Sidecar, 8).await;
    power_cuts(FileSystem::Xfs, Attributes::Sidecar, 8).await;
}

async fn kills(durability: Durability, kept: Attributes, default: u64) {
    let (place, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let root = place.path();
    let (seed, trials) = (seed(), trials(default));
    let (mut model, mut sum) = (Model::default(), Verdict::default());
    for trial in 0..trials {
        let seed = seed.wrapping_add(trial);
        let mut random = StdRng::seed_from_u64(seed);
        let Some(command) = kept.command() else { return };
        let mut orders = Orders::new(root, seed, (trial + 1) * 1_000_000, &model);
        orders.durability = durability;
        let child = orders.start(command, outside.path());
        child.wait_for(random.random_range(0..60));
        std::thread::sleep(Duration::from_micros(random.random_range(0..5_000)));
        let story = child.killed();
        sum.acknowledged += story.acknowledged();
        let what = format!("{durability:?} kill {trial} seed {seed}");
        let errors: Vec<_> = story.errors().collect();
        assert!(errors.is_empty(), "{what}: {errors:?}");
        model.take(&story);
        let storage = opened(root, durability).await;
        sum.add(model.compare(root, &storage, &what).await);
    }
    passed(&format!("kills, {durability:?}"), trials, sum);
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    kills(Durability::Durable, Attributes::Extended, 10).await;
}

/// All that a relaxed storage gives up is the power cut.
#[tokio::test]
async fn kill_9_of_a_relaxed_storage_tears_and_loses_nothing() {
    kills(Durability::Relaxed, Attributes::Extended, 20).await;
    kills(Durability::Relaxed, Attributes::Sidecar, 10).await;
}

/// Fills a small disk, of which the bytes or the number of files end first.
async fn full_disk(size: u64, mkfs: &[&str], file: usize) {
    let Some(image) = Image::with(FileSystem::Ext4, size, mkfs) else { return };
    let root = image.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let storage = opened(&root, Durability::Durable).await;
    let put = async |name: &str, number: u64| {
        let body = Body::from_bytes(content(number, file));
        storage.upload(&id(name), body, attributes(number)).await
    };
    let mut stored = BTreeMap::new();
    let refused = loop {
        let number = stored.len() as u64;
        assert!(number < 10_000, "the disk is never full");
        let name = format!("d{}/{number}", number % 7);
        match put(&name, number).await {
            Ok(_) => drop(stored.insert(name, number)),
            Err(error) => break error,
        }
    };
    assert!(stored.len() > 5, "{refused}");
    assert_eq!((refused.kind(), refused.effect()), (ErrorKind::StorageFull, Effect::None), "{refused}");
    let overwritten = put("d0/0", 9_999).await.unwrap_err();
    assert_eq!((overwritten.kind(), overwritten.effect()), (ErrorKind::StorageFull, Effect::None));
    let new_directory = put("not/there/yet", 9_998).await.unwrap_err();
    assert_eq!((new_directory.kind(), new_directory.effect()), (ErrorKind::StorageFull, Effect::None));
    assert_eq!(own(&root, "tmp"), Vec::<String>::new());
    assert!(!root.join("not").exists());
    // A service that is started again on the full disk still reads, and can make room.
    let storage = opened(&root, Durability::Durable).await;
    assert_eq!(ids(&storage).await.len(), stored.len());
    for (name, number) in &stored {
        assert_eq!(storage.download_bytes(&id(name)).await.unwrap(), content(*number, file), "{name}");
        assert_eq!(storage.metadata(&id(name)).await.unwrap().tags, attributes(*number).tags, "{name}");
    }
    for name in stored.keys().take(3) {
        assert!(storage.delete(&id(name), Precondition::None).await.unwrap());
    }
    put("new", 12).await.unwrap();
}

#[tokio::test]
async fn a_disk_without_room_for_bytes_refuses_and_keeps_what_it_has() {
    full_disk(8 << 20, &["-m", "0"], 100_000).await;
}

#[tokio::test]
async fn a_disk_without_room_for_files_refuses_and_keeps_what_it_has() {
    full_disk(16 << 20, &["-m", "0", "-N", "64"], 100).await;
}
