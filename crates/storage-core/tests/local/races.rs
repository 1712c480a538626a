//! Directories and files that are swapped for symbolic links while the storage works on them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{Mode, OFlags, RenameFlags, openat, renameat_with};
use storage_core::checksum::Digest;
use storage_core::storage::{
    FileStorage, FileStorageExt, FinishOptions, PartNumber, Precondition, ResumableUpload, UploadOptions,
};
use tempfile::TempDir;

use super::*;

/// Operations in all, where the environment does not say: some seconds' worth.
const OPERATIONS: u64 = 8_000;
/// More of them: the long run.
const VARIABLE: &str = "SYMLINK_RACES";
const WORKERS: u64 = 4;

/// As long as nothing else here, so that a size alone gives it away.
const SECRET: &str = "what lies outside of the root, which nobody may read, write or remove";

/// Runs until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn new(swap: impl Fn() + Send + 'static) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, swaps) = (Arc::clone(&stop), Arc::clone(&swaps));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    swap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// Everything that a change leaves a trace in: names, inodes, sizes, change times, bytes.
fn snapshot(directory: &Path) -> BTreeMap<String, (u64, u64, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let stat = entry.metadata().unwrap();
        let bytes = if stat.is_file() { std::fs::read(entry.path()).unwrap() } else { Vec::new() };
        let name = entry.file_name().into_string().unwrap();
        all.insert(name, (stat.ino(), stat.size(), stat.ctime(), stat.ctime_nsec(), bytes));
    }
    let own = std::fs::metadata(directory).unwrap();
    all.insert(String::new(), (own.ino(), own.nlink(), own.ctime(), own.ctime_nsec(), Vec::new()));
    all
}

#[derive(Default)]
struct Seen {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Seen {
    fn count<T, E>(&self, result: Result<T, E>) -> Option<T> {
        let counter = if result.is_ok() { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        result.ok()
    }
}

/// How many operations, and the seed of their choice.
#[expect(clippy::print_stderr, reason = "the seed of a random test")]
fn orders() -> (u64, u64) {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    (std::env::var(VARIABLE).ok().map_or(OPERATIONS, |text| text.parse().unwrap()), seed)
}

/// One operation on a name that is swapped; whatever it answers, it comes from inside.
async fn operate(storage: &LocalStorage, random: &mut StdRng, seen: &Seen) {
    let names = ["d/old", "d/new", "d/deep/old", "d/deep/new", "leaf"];
    let name = id(names[random.random_range(0..names.len())]);
    let inside = bytes("inside");
    match random.random_range(0..8) {
        0 | 1 => {
            seen.count(storage.upload_bytes(&name, inside).await);
        }
        2 => {
            if let Some(read) = seen.count(storage.download_bytes(&name).await) {
                assert_eq!(read, inside, "{name}");
            }
        }
        3 => {
            if let Some(metadata) = seen.count(storage.metadata(&name).await) {
                assert_eq!(metadata.size, inside.len() as u64, "{name}");
            }
        }
        4 => {
            seen.count(storage.delete(&name, Precondition::None).await);
        }
        5 => {
            let prefix = Prefix::parse(["", "d/", "d/d", "leaf"][random.random_range(0..4)]).unwrap();
            let mut listing = storage.list(&prefix, ListOptions::default());
            while let Some(file) = listing.next().await {
                if let Some(file) = seen.count(file) {
                    assert_ne!(file.size, SECRET.len() as u64, "{}", file.id);
                    assert!(!file.id.as_str().contains("secret"), "{}", file.id);
                }
            }
        }
        6 => {
            let copy = id(&format!("copies/{}", random.random_range(0..4)));
            if seen.count(storage.copy(&name, &copy, UploadOptions::default()).await).is_some()
                && let Some(read) = seen.count(storage.download_bytes(&copy).await)
            {
                assert_eq!(read, inside, "a copy of {name}");
            }
        }
        _ => {
            seen.count(storage.copy(&id("kept"), &name, UploadOptions::default()).await);
        }
    }
}

#[expect(clippy::print_stderr, reason = "the counts of a random test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_swapped_for_a_link_meanwhile_leads_nowhere() {
    let (operations, seed) = orders();
    let (root, storage) = storage().await;
    let outside = TempDir::new().unwrap();
    std::fs::create_dir(outside.path().join("deep")).unwrap();
    for name in ["old", "new", "secret", "deep/old", "deep/new", "deep/secret"] {
        std::fs::write(outside.path().join(name), SECRET).unwrap();
    }
    for name in ["d/old", "d/deep/old", "leaf", "kept"] {
        storage.upload_bytes(&id(name), bytes("inside")).await.unwrap();
    }
    let before = (snapshot(outside.path()), snapshot(&outside.path().join("deep")));

    // A directory and a link that leads out, exchanged for ever; and one that leads to a directory further down.
    let path = root.path().to_owned();
    symlink(outside.path(), path.join("link")).unwrap();
    symlink(outside.path().join("deep"), path.join("deep-link")).unwrap();
    let top = File::open(&path).unwrap();
    let directories = Swapper::new(move || {
        let exchange = |at: &File, name: &str, link: &str| {
            // Either may be gone for the moment: an empty directory is pruned.
            let _ = renameat_with(at, name, &top, link, RenameFlags::EXCHANGE);
        };
        exchange(&top, "d", "link");
        // By its descriptor: what is called `d` may be the link.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if let Ok(inner) = openat(&top, "d", flags, Mode::empty()) {
            exchange(&inner.into(), "deep", "deep-link");
        }
    });
    // A file that becomes a link to a file outside, and a file again. An upload replaces either.
    let (path, secret) = (root.path().to_owned(), outside.path().join("secret"));
    let files = Swapper::new(move || {
        let (link, file, leaf) = (path.join("next-link"), path.join("next-file"), path.join("leaf"));
        symlink(&secret, &link).unwrap();
        std::fs::rename(&link, &leaf).unwrap();
        std::fs::write(&file, "inside").unwrap();
        std::fs::rename(&file, &leaf).unwrap();
    });

    let seen = Arc::new(Seen::default());
    let workers = (0..WORKERS).map(|worker| {
        let (storage, seen) = (storage.clone(), Arc::clone(&seen));
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(worker));
        tokio::spawn(async move {
            for _ in 0..operations / WORKERS {
                operate(&storage, &mut random, &seen).await;
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
    let swaps = (directories.swaps.load(Ordering::Relaxed), files.swaps.load(Ordering::Relaxed));
    drop((directories, files));

    let (succeeded, failed) = (seen.succeeded.load(Ordering::Relaxed), seen.failed.load(Ordering::Relaxed));
    eprintln!("{operations} operations, {succeeded} answers and {failed} errors, {swaps:?} swaps");
    assert!(succeeded > operations / 10 && failed > operations / 100, "{succeeded} and {failed}");
    assert!(
        swaps.0 > operations / 10 && swaps.1 > operations / 100,
        "{swaps:?} swaps are too few for a race"
    );
    let after = (snapshot(outside.path()), snapshot(&outside.path().join("deep")));
    assert!(before == after, "outside of the root something changed (seed {seed})\n{before:?}\n{after:?}");
}

/// Bytes of a part.
const PART: &str = "inside";

/// One upload in parts of one or two parts, each step of which may find its directory swapped; now and then a sweep.
async fn upload_in_parts(storage: &LocalStorage, random: &mut StdRng, seen: &Seen) {
    let name = id(["d/new", "d/deep/new", "parts"][random.random_range(0..3)]);
    let size = if random.random_bool(0.5) { PART.len() as u64 } else { 0 };
    let Some(ticket) = seen.count(storage.begin(&name, size, UploadOptions::default()).await) else { return };
    let mut held = Vec::new();
    for number in 1..=random.random_range(1..=2) {
        let number = PartNumber::new(number).unwrap();
        let part = storage.put_part(&ticket, number, bytes(PART), Digest::of(PART.as_bytes())).await;
        held.extend(seen.count(part));
    }
    if let Some(parts) = seen.count(storage.parts(&ticket).await) {
        for part in parts {
            assert_ne!(part.size, SECRET.len() as u64, "{name}");
        }
    }
    if random.random_bool(0.3) {
        seen.count(storage.sweep(Duration::ZERO).await);
    }
    if let Some(stale) = seen.count(storage.stale(Duration::ZERO).await) {
        assert!(stale.iter().all(|ticket| !ticket.id.as_str().contains("secret")), "{stale:?}");
    }
    let published = seen.count(storage.finish(&ticket, &held, FinishOptions::default()).await);
    if published.is_some()
        && let Some(read) = seen.count(storage.download_bytes(&name).await)
    {
        assert!(read.is_empty() || read == PART || read == PART.repeat(2), "{name}: {read:?}");
    }
    seen.count(storage.abandon(&ticket).await);
}

/// The same for parts and what clears them away: the directory of an upload becomes a link to one outside that looks
/// like an upload, ticket and part and all.
#[expect(clippy::print_stderr, reason = "the counts of a random test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_swapped_for_a_link_meanwhile_leads_nowhere() {
    let (operations, seed) = orders();
    let (root, storage) = storage().await;
    let outside = TempDir::new().unwrap();
    let ticket = storage.begin(&id("secret"), SECRET.len() as u64, UploadOptions::default()).await.unwrap();
    let (first, digest) = (PartNumber::MIN, Digest::of(SECRET.as_bytes()));
    storage.put_part(&ticket, first, bytes(SECRET), digest).await.unwrap();
    let uploads = root.path().join(".storage/uploads");
    std::fs::rename(uploads.join(&ticket.upload), outside.path().join("upload")).unwrap();
    let target = outside.path().join("upload");
    std::fs::create_dir(target.join("deep")).unwrap();
    for name in ["old", "deep/old"] {
        std::fs::write(target.join(name), SECRET).unwrap();
    }
    for name in ["d/old", "d/deep/old"] {
        storage.upload_bytes(&id(name), bytes("inside")).await.unwrap();
    }
    let look = || [outside.path(), &target, &target.join("deep")].map(snapshot);
    let before = look();

    symlink(&target, root.path().join("upload-link")).unwrap();
    symlink(&target, root.path().join("link")).unwrap();
    let top = File::open(root.path()).unwrap();
    let swapper = Swapper::new(move || {
        let exchange = |at: &File, name: &std::ffi::OsStr, link: &str| {
            // Either may be gone for the moment.
            renameat_with(at, name, &top, link, RenameFlags::EXCHANGE)
        };
        let _ = exchange(&top, "d".as_ref(), "link");
        let at = File::open(&uploads).unwrap();
        for entry in std::fs::read_dir(&uploads).unwrap().filter_map(Result::ok) {
            if exchange(&at, &entry.file_name(), "upload-link").is_ok() {
                std::thread::yield_now();
                let _ = exchange(&at, &entry.file_name(), "upload-link");
            }
        }
    });

    let seen = Arc::new(Seen::default());
    let uploads = operations / 8;
    let workers = (0..WORKERS).map(|worker| {
        let (storage, seen) = (storage.clone(), Arc::clone(&seen));
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(worker));
        tokio::spawn(async move {
            for _ in 0..uploads / WORKERS {
                upload_in_parts(&storage, &mut random, &seen).await;
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
    let swaps = swapper.swaps.load(Ordering::Relaxed);
    drop(swapper);

    let (succeeded, failed) = (seen.succeeded.load(Ordering::Relaxed), seen.failed.load(Ordering::Relaxed));
    eprintln!("{uploads} uploads, {succeeded} answers and {failed} errors, {swaps} swaps");
    assert!(succeeded > uploads && failed > uploads / 100, "{succeeded} and {failed}");
    assert!(swaps > uploads / 10, "{swaps} swaps are too few for a race");
    let after = look();
    assert!(before == after, "outside of the root something changed (seed {seed})\n{before:?}\n{after:?}");
}
