//! Readers and writers on real threads: nobody is shown what is older than the last acknowledged write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use storage_core::backend::memory::MemoryStorage;
use storage_core::error::ErrorKind;
use storage_core::id::FileId;
use storage_core::layer::cache::{CacheConfig, CachedStorage};
use storage_core::storage::{FileStorage, FileStorageExt, Precondition};

use super::slow::SlowStorage;

const FILES: usize = 3;
const WRITES: u64 = 400;
const READERS: usize = 6;

/// What is known of one file: writes are numbered, every third one deletes.
#[derive(Debug, Default)]
struct Known {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

fn deletes(number: u64) -> bool {
    number.is_multiple_of(3)
}

fn id(file: usize) -> FileId {
    FileId::parse(format!("file-{file}")).unwrap()
}

async fn write(storage: &CachedStorage, known: &Known, file: usize) {
    for number in 1..=WRITES {
        known.begun.store(number, Ordering::SeqCst);
        if deletes(number) {
            assert!(storage.delete(&id(file), Precondition::None).await.unwrap());
        } else {
            storage.upload_bytes(&id(file), number.to_string().into()).await.unwrap();
        }
        known.acknowledged.store(number, Ordering::SeqCst);
        if number.is_multiple_of(8) {
            tokio::time::sleep(std::time::Duration::from_micros(300)).await;
        }
    }
}

async fn read(storage: &CachedStorage, known: &Known, file: usize, seen: &mut u64) {
    let oldest = known.acknowledged.load(Ordering::SeqCst);
    let answer = if rand::random() {
        storage.download_bytes(&id(file)).await.map(|bytes| {
            let text = std::str::from_utf8(&bytes).unwrap().to_owned();
            text.parse::<u64>().unwrap()
        })
    } else {
        // The storage in memory counts versions of all files; the size tells enough of one.
        match storage.metadata(&id(file)).await {
            Ok(_) => return,
            Err(error) => Err(error),
        }
    };
    let newest = known.begun.load(Ordering::SeqCst);
    match answer {
        Ok(number) => {
            assert!(
                (oldest..=newest).contains(&number),
                "file {file}: shown {number} after {oldest} was acknowledged and {newest} had begun"
            );
            assert!(number >= *seen, "file {file}: shown {number} after {seen}");
            *seen = number;
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            let possible = oldest == 0 || (oldest..=newest).any(deletes);
            assert!(possible, "file {file}: shown nothing, between {oldest} and {newest}");
        }
    }
}

/// Runs the work on a thread of its own, with a runtime of its own.
fn on_a_thread<'scope, W>(scope: &'scope thread::Scope<'scope, '_>, work: impl FnOnce() -> W + Send + 'scope)
where
    W: Future<Output = ()>,
{
    scope.spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
    });
}

#[test]
fn readers_are_never_shown_what_is_older_than_the_last_acknowledged_write() {
    let slow = SlowStorage::random(Arc::new(MemoryStorage::new()));
    let cached = CachedStorage::new(Arc::new(slow), CacheConfig::default()).unwrap();
    let known: [Known; FILES] = Default::default();
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let (cached, known, done, reads) = (&cached, &known, &done, &reads);
    thread::scope(|scope| {
        for reader in 0..READERS {
            on_a_thread(scope, move || async move {
                let mut seen = [0; FILES];
                while !done.load(Ordering::SeqCst) {
                    for file in 0..FILES {
                        read(cached, &known[file], file, &mut seen[file]).await;
                    }
                    reads.fetch_add(1, Ordering::SeqCst);
                    if reader == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        let writers: Vec<_> = (0..FILES)
            .map(|file| {
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(write(cached, &known[file], file));
                })
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        // Also when a writer panicked: the readers would go on for ever.
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert!(reads.load(Ordering::SeqCst) > 0);
}
