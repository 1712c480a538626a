//! A cache may save the way to the storage, and nothing else may tell that it is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use storage_core::backend::memory::MemoryStorage;
use storage_core::checksum::Digest;
use storage_core::error::{ErrorKind, Op};
use storage_core::id::FileId;
use storage_core::layer::cache::{
    CacheConfig, CacheEntry, CacheError, CacheStore, CachedStorage, MemoryCache,
};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{
    ByteRange, DownloadOptions, FileStorage, FileStorageExt, FinishOptions, PartNumber, Precondition,
    UploadOptions,
};
use storage_core::testkit::conformance::Fixture;
use storage_core::testkit::flaky::{Fault, FlakyStorage};
use tokio::sync::Semaphore;

#[path = "cache/slow.rs"]
mod slow;
#[path = "cache/threads.rs"]
mod threads;

use slow::SlowStorage;

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

/// A cache over a storage that counts calls, over a storage in memory that the test can write behind its back.
fn cached_with(config: CacheConfig) -> (MemoryStorage, FlakyStorage, CachedStorage) {
    let memory = MemoryStorage::named("disk");
    let flaky = FlakyStorage::new(Arc::new(memory.clone()));
    let cached = CachedStorage::new(Arc::new(flaky.clone()), config).unwrap();
    (memory, flaky, cached)
}

fn cached() -> (MemoryStorage, FlakyStorage, CachedStorage) {
    // Nothing here waits for an entry to age, unless it says so.
    let hour = Duration::from_secs(3_600);
    cached_with(CacheConfig::default().with_ttl(hour).with_negative_ttl(hour))
}

/// Keeps entries as bytes, as a store in another process must.
#[derive(Debug, Default)]
struct ByteStore(Mutex<HashMap<FileId, Bytes>>);

#[async_trait]
impl CacheStore for ByteStore {
    fn tier(&self) -> &'static str {
        "bytes"
    }

    async fn get(&self, id: &FileId) -> Result<Option<CacheEntry>, CacheError> {
        let bytes = self.0.lock().unwrap().get(id).cloned();
        bytes.map(|bytes| CacheEntry::from_bytes(&bytes)).transpose()
    }

    async fn put(&self, id: &FileId, entry: CacheEntry, _ttl: Duration) -> Result<(), CacheError> {
        let bytes = entry.to_bytes()?;
        self.0.lock().unwrap().insert(id.clone(), bytes);
        Ok(())
    }

    async fn invalidate(&self, id: &FileId) -> Result<(), CacheError> {
        self.0.lock().unwrap().remove(id);
        Ok(())
    }
}

/// How a [`BrokenStore`] answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Breakage {
    Hangs,
    Fails,
    /// Keeps and gives, and can forget nothing.
    NeverForgets,
}

#[derive(Debug)]
struct BrokenStore {
    breakage: Breakage,
    inner: ByteStore,
    calls: AtomicU64,
}

impl BrokenStore {
    fn new(breakage: Breakage) -> Arc<Self> {
        Arc::new(Self { breakage, inner: ByteStore::default(), calls: AtomicU64::new(0) })
    }

    async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, CacheError>> + Send,
    ) -> Result<T, CacheError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.breakage {
            Breakage::Hangs => std::future::pending().await,
            Breakage::Fails => Err("on purpose".into()),
            Breakage::NeverForgets => work.await,
        }
    }
}

#[async_trait]
impl CacheStore for BrokenStore {
    fn tier(&self) -> &'static str {
        "broken"
    }

    async fn get(&self, id: &FileId) -> Result<Option<CacheEntry>, CacheError> {
        self.answer(self.inner.get(id)).await
    }

    async fn put(&self, id: &FileId, entry: CacheEntry, ttl: Duration) -> Result<(), CacheError> {
        self.answer(self.inner.put(id, entry, ttl)).await
    }

    async fn invalidate(&self, _: &FileId) -> Result<(), CacheError> {
        self.answer(async { Err("on purpose".into()) }).await
    }
}

/// The second handle is the same one: another process's writes are seen late, which the documentation says.
fn fixture(layer: impl Fn(Arc<dyn FileStorage>) -> CachedStorage) -> Fixture {
    let memory = MemoryStorage::new();
    let broken = memory.clone();
    Fixture::new(Arc::new(layer(Arc::new(memory.clone()))))
        .with_read_only(Arc::new(layer(Arc::new(memory.read_only()))))
        .with_corruption(move |id| assert!(broken.corrupt(id), "{id} has no byte to flip"))
}

fn over(store: impl Fn() -> Arc<dyn CacheStore>, config: CacheConfig) -> Fixture {
    fixture(|inner| CachedStorage::with_store(inner, store(), config).unwrap())
}

async fn an_ordinary_cache() -> Fixture {
    fixture(|inner| CachedStorage::new(inner, CacheConfig::default()).unwrap())
}

async fn a_cache_that_holds_large_files() -> Fixture {
    let config = CacheConfig::default().with_max_file(32 << 20);
    fixture(|inner| CachedStorage::new(inner, config).unwrap())
}

async fn a_cache_with_room_for_next_to_nothing() -> Fixture {
    let config = CacheConfig::default().with_capacity(2_000).with_max_file(2_000);
    fixture(|inner| CachedStorage::new(inner, config).unwrap())
}

async fn a_cache_of_bytes() -> Fixture {
    over(|| Arc::new(ByteStore::default()), CacheConfig::default())
}

/// With a short pause, so that the deadline is met again and again.
async fn a_hanging_cache() -> Fixture {
    let config =
        CacheConfig::default().with_deadline(Duration::from_millis(1)).with_pause(Duration::from_millis(100));
    over(|| BrokenStore::new(Breakage::Hangs), config)
}

async fn a_failing_cache() -> Fixture {
    over(|| BrokenStore::new(Breakage::Fails), CacheConfig::default().with_pause(Duration::ZERO))
}

async fn a_cache_that_never_forgets() -> Fixture {
    over(|| BrokenStore::new(Breakage::NeverForgets), CacheConfig::default().with_pause(Duration::ZERO))
}

storage_core::conformance!(an_ordinary_one_keeps_the_promises, an_ordinary_cache);
storage_core::conformance!(one_of_large_files_keeps_the_promises, a_cache_that_holds_large_files);
storage_core::conformance!(a_tiny_one_keeps_the_promises, a_cache_with_room_for_next_to_nothing);
storage_core::conformance!(one_of_bytes_keeps_the_promises, a_cache_of_bytes);
storage_core::conformance!(a_hanging_one_keeps_the_promises, a_hanging_cache);
storage_core::conformance!(a_failing_one_keeps_the_promises, a_failing_cache);
storage_core::conformance!(one_that_never_forgets_keeps_the_promises, a_cache_that_never_forgets);

#[tokio::test]
async fn what_was_read_once_is_not_read_again() {
    let (_, flaky, storage) = cached();
    storage.upload_bytes(&id("a"), "abcdef".into()).await.unwrap();
    let first = storage.metadata(&id("a")).await.unwrap();
    assert_eq!(storage.metadata(&id("a")).await.unwrap(), first);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abcdef");
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abcdef");
    for (range, due) in
        [(ByteRange::From(2), "cdef"), (ByteRange::Between(1, 99), "bcdef"), (ByteRange::Last(1), "f")]
    {
        let download =
            storage.download(&id("a"), DownloadOptions::default().with_range(range)).await.unwrap();
        assert_eq!(download.metadata, first);
        assert_eq!(download.bytes().await.unwrap(), due);
    }
    assert!(!storage.exists(&id("missing")).await.unwrap());
    assert!(!storage.exists(&id("missing")).await.unwrap());
    let error = storage.download_bytes(&id("missing")).await.unwrap_err();
    assert_eq!((error.kind(), error.op()), (ErrorKind::NotFound, Op::Download));
    assert_eq!((error.id(), error.storage()), (Some(&id("missing")), Some("disk")));
    assert_eq!((flaky.calls(Op::Metadata), flaky.calls(Op::Download)), (2, 1));
}

/// Who asks for the bytes of one file more than the cache takes gets them all the same, without a copy in memory.
#[tokio::test]
async fn large_files_pass_by() {
    let (_, flaky, storage) = cached_with(CacheConfig::default().with_max_file(5));
    storage.upload_bytes(&id("a"), "abcdef".into()).await.unwrap();
    for count in 1..4 {
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abcdef");
        assert_eq!(flaky.calls(Op::Download), count);
    }
    storage.metadata(&id("a")).await.unwrap();
    assert_eq!(flaky.calls(Op::Metadata), 0, "the download told them");
}

/// A range that no file has is for the storage to refuse, in its own words.
#[tokio::test]
async fn a_range_behind_the_kept_bytes_is_refused_by_the_storage() {
    let (_, flaky, storage) = cached();
    storage.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    storage.download_bytes(&id("a")).await.unwrap();
    let options = DownloadOptions::default().with_range(ByteRange::From(3));
    assert_eq!(storage.download(&id("a"), options).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(flaky.calls(Op::Download), 2);
}

/// "Give me that version or fail" is a question about now, which kept bytes of another version cannot answer.
#[tokio::test]
async fn a_version_that_is_not_the_kept_one_is_asked_of_the_storage() {
    let (memory, flaky, storage) = cached();
    let version = |metadata: FileMetadata| metadata.version.unwrap();
    let when = |version| DownloadOptions::default().with_when(Precondition::Version(version));
    let first = version(storage.upload_bytes(&id("a"), "first".into()).await.unwrap().metadata);
    storage.download_bytes(&id("a")).await.unwrap();
    assert_eq!(
        storage.download(&id("a"), when(first.clone())).await.unwrap().bytes().await.unwrap(),
        "first"
    );
    assert_eq!(flaky.calls(Op::Download), 1, "the version that is kept");
    let second = version(memory.upload_bytes(&id("a"), "second".into()).await.unwrap().metadata);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "first", "another's write is seen late");
    let read = storage.download(&id("a"), when(second)).await.unwrap();
    assert_eq!(read.bytes().await.unwrap(), "second");
    memory.delete(&id("a"), Precondition::None).await.unwrap();
    let third = version(memory.upload_bytes(&id("b"), "third".into()).await.unwrap().metadata);
    let gone = storage.download(&id("a"), when(third)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// Every way to write, for what is there and for what is not.
#[tokio::test]
async fn nothing_kept_survives_a_write() {
    let (memory, _, storage) = cached();
    let parts = storage.resumable().unwrap();
    memory.upload_bytes(&id("source"), "copied".into()).await.unwrap();
    for before in [None, Some("before")] {
        for way in ["upload", "copy", "finish", "delete"] {
            let name = id(&format!("{way}-{}", before.is_some()));
            if let Some(before) = before {
                memory.upload_bytes(&name, before.into()).await.unwrap();
            }
            assert_eq!(storage.download_bytes(&name).await.ok(), before.map(Bytes::from));
            assert_eq!(storage.metadata(&name).await.is_ok(), before.is_some());
            let due = match way {
                "upload" => {
                    storage.upload_bytes(&name, "uploaded".into()).await.unwrap();
                    Some("uploaded")
                }
                "copy" => {
                    storage.copy(&id("source"), &name, UploadOptions::default()).await.unwrap();
                    Some("copied")
                }
                "finish" => {
                    let ticket = parts.begin(&name, 8, UploadOptions::default()).await.unwrap();
                    let digest = Digest::of(b"finished");
                    let part =
                        parts.put_part(&ticket, PartNumber::MIN, "finished".into(), digest).await.unwrap();
                    assert_eq!(storage.download_bytes(&name).await.ok(), before.map(Bytes::from));
                    parts.finish(&ticket, &[part], FinishOptions::default()).await.unwrap();
                    Some("finished")
                }
                _ => {
                    assert_eq!(storage.delete(&name, Precondition::None).await.unwrap(), before.is_some());
                    None
                }
            };
            assert_eq!(storage.download_bytes(&name).await.ok(), due.map(Bytes::from), "{name}");
            let size = storage.metadata(&name).await.ok().map(|metadata| metadata.size);
            assert_eq!(size, due.map(|due| due.len() as u64), "{name}");
        }
    }
}

/// The caller was told "unknown", or went away; the file is there.
#[tokio::test]
async fn a_write_whose_answer_was_lost_is_seen() {
    let (_, flaky, storage) = cached();
    for fault in [Fault::After(ErrorKind::Timeout), Fault::NeverAfter] {
        storage.upload_bytes(&id("a"), "before".into()).await.unwrap();
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "before");
        flaky.fail_next(Op::Upload, fault);
        let answer = storage.upload_bytes(&id("a"), "after".into()).now_or_never();
        assert!(!matches!(answer, Some(Ok(_))));
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "after", "{fault:?}");
        flaky.fail_next(Op::Delete, fault);
        let answer = storage.delete(&id("a"), Precondition::None).now_or_never();
        assert!(!matches!(answer, Some(Ok(_))));
        assert!(!storage.exists(&id("a")).await.unwrap(), "{fault:?}");
    }
}

/// A store whose entries come to lie only when the gate opens.
#[derive(Debug)]
struct GatedStore {
    inner: MemoryCache,
    gate: Semaphore,
    waiting: AtomicU64,
}

#[async_trait]
impl CacheStore for GatedStore {
    fn tier(&self) -> &'static str {
        "gated"
    }

    async fn get(&self, id: &FileId) -> Result<Option<CacheEntry>, CacheError> {
        self.inner.get(id).await
    }

    async fn put(&self, id: &FileId, entry: CacheEntry, ttl: Duration) -> Result<(), CacheError> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await?.forget();
        self.inner.put(id, entry, ttl).await
    }

    async fn invalidate(&self, id: &FileId) -> Result<(), CacheError> {
        self.inner.invalidate(id).await
    }
}

/// The old file was read before the write and comes to lie in the store after it was forgotten there.
#[tokio::test]
async fn an_entry_that_is_put_after_a_write_is_not_shown() {
    let memory = MemoryStorage::new();
    let store = Arc::new(GatedStore {
        inner: MemoryCache::new(1 << 20),
        gate: Semaphore::new(0),
        waiting: AtomicU64::new(0),
    });
    let config = CacheConfig::default().with_deadline(Duration::from_secs(60));
    let kept: Arc<dyn CacheStore> = Arc::clone(&store) as _;
    let storage = Arc::new(CachedStorage::with_store(Arc::new(memory), kept, config).unwrap());
    storage.upload_bytes(&id("a"), "old".into()).await.unwrap();
    let reader = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.download_bytes(&id("a")).await }
    });
    while store.waiting.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    storage.upload_bytes(&id("a"), "new".into()).await.unwrap();
    store.gate.add_permits(1);
    assert_eq!(reader.await.unwrap().unwrap(), "old");
    assert!(store.inner.get(&id("a")).await.unwrap().is_some(), "the old entry should lie in the store now");
    store.gate.add_permits(100);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "new");
    assert_eq!(storage.metadata(&id("a")).await.unwrap().size, 3);
}

/// The same race one step earlier: the storage has answered, and the answer is on its way to the reader.
#[tokio::test]
async fn an_answer_from_before_a_write_is_neither_kept_nor_shared() {
    let slow = SlowStorage::gated(Arc::new(MemoryStorage::new()));
    let storage = Arc::new(CachedStorage::new(Arc::new(slow.clone()), CacheConfig::default()).unwrap());
    storage.upload_bytes(&id("a"), "old".into()).await.unwrap();
    let read = || {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move { storage.download_bytes(&id("a")).await.unwrap() })
    };
    let before = read();
    slow.wait_for(1).await;
    storage.upload_bytes(&id("a"), "new".into()).await.unwrap();
    let after = read();
    slow.wait_for(2).await;
    slow.open();
    assert_eq!(before.await.unwrap(), "old");
    assert_eq!(after.await.unwrap(), "new", "a reader that began after the write joined an earlier one");
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "new");
}

/// A page that a hundred browsers ask for at once costs one request, also where there is nothing.
#[tokio::test]
async fn of_many_readers_one_asks_the_storage() {
    let memory = MemoryStorage::new();
    memory.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    for name in ["a", "missing"] {
        let flaky = FlakyStorage::new(Arc::new(memory.clone()));
        let slow = SlowStorage::gated(Arc::new(flaky.clone()));
        let storage = CachedStorage::new(Arc::new(slow.clone()), CacheConfig::default()).unwrap();
        let name = id(name);
        let readers = join_all((0..100).map(|_| storage.download_bytes(&name)));
        let askers = join_all((0..100).map(|_| storage.metadata(&name)));
        let open = async {
            slow.wait_for(2).await;
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            slow.open();
        };
        let (contents, metadata, ()) = tokio::join!(readers, askers, open);
        assert!(contents.iter().all(|read| read.is_ok() == (name == id("a"))));
        assert!(metadata.iter().all(|read| read.is_ok() == (name == id("a"))));
        assert_eq!((flaky.calls(Op::Download), flaky.calls(Op::Metadata)), (1, 1), "{name}");
    }
}

/// The one that asks for all may be dropped or fail: the others have their answer all the same.
#[tokio::test]
async fn a_reader_that_is_dropped_or_fails_takes_no_other_with_it() {
    for what in ["metadata", "content"] {
        for fault in [None, Some(Fault::Before(ErrorKind::Unavailable)), Some(Fault::Broken(1))] {
            let memory = MemoryStorage::new();
            memory.upload_bytes(&id("a"), "abc".into()).await.unwrap();
            let flaky = FlakyStorage::new(Arc::new(memory));
            let slow = SlowStorage::gated(Arc::new(flaky.clone()));
            let storage =
                Arc::new(CachedStorage::new(Arc::new(slow.clone()), CacheConfig::default()).unwrap());
            if let Some(fault) = fault {
                flaky.fail_next(if what == "metadata" { Op::Metadata } else { Op::Download }, fault);
            }
            let read = || {
                let storage = Arc::clone(&storage);
                tokio::spawn(async move {
                    match what {
                        "metadata" => storage.metadata(&id("a")).await.map(|metadata| metadata.size),
                        _ => storage.download_bytes(&id("a")).await.map(|bytes| bytes.len() as u64),
                    }
                })
            };
            let leader = read();
            slow.wait_for(1).await;
            let followers: Vec<_> = (0..10).map(|_| read()).collect();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            if fault.is_none() {
                leader.abort();
            }
            slow.open();
            for follower in followers {
                assert_eq!(follower.await.unwrap().unwrap(), 3, "{what} {fault:?}");
            }
            assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abc");
        }
    }
}

#[tokio::test]
async fn an_error_is_not_kept() {
    let (_, flaky, storage) = cached();
    storage.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    flaky.fail_next(Op::Download, Fault::Before(ErrorKind::Denied));
    flaky.fail_next(Op::Download, Fault::Broken(1));
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "abc");
}

/// A cache that is down must cost its deadline once, and not once per operation.
#[tokio::test(start_paused = true)]
async fn a_hanging_cache_costs_its_deadline_and_is_then_left_alone() {
    let store = BrokenStore::new(Breakage::Hangs);
    let kept: Arc<dyn CacheStore> = Arc::clone(&store) as _;
    let memory = MemoryStorage::new();
    memory.upload_bytes(&id("a"), "abc".into()).await.unwrap();
    let config =
        CacheConfig::default().with_deadline(Duration::from_millis(50)).with_pause(Duration::from_secs(1));
    let storage = CachedStorage::with_store(Arc::new(memory), kept, config).unwrap();
    let hour = Duration::from_secs(3_600);
    let read = || async { tokio::time::timeout(hour, storage.download_bytes(&id("a"))).await };
    let start = tokio::time::Instant::now();
    assert_eq!(read().await.expect("no deadline").unwrap(), "abc");
    for _ in 0..10 {
        assert_eq!(read().await.expect("no deadline").unwrap(), "abc");
        storage.upload_bytes(&id("b"), "b".into()).await.unwrap();
    }
    // The clock stands still but for what is waited for.
    assert_eq!(start.elapsed(), Duration::from_millis(50));
    assert_eq!(store.calls.load(Ordering::SeqCst), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    read().await.expect("no deadline").unwrap();
    assert_eq!(store.calls.load(Ordering::SeqCst), 2, "it is tried again");
}

/// Waits until the storage shows what was written behind the cache.
async fn eventually(storage: &CachedStorage, name: &str, due: Option<&'static str>) {
    for _ in 0..1_000 {
        if storage.download_bytes(&id(name)).await.ok() == due.map(Bytes::from) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is still kept");
}

#[tokio::test]
async fn entries_age_and_those_of_nothing_faster() {
    let (hour, moment) = (Duration::from_secs(3_600), Duration::from_millis(30));
    let (memory, _, storage) = cached_with(CacheConfig::default().with_ttl(hour).with_negative_ttl(moment));
    memory.upload_bytes(&id("there"), "old".into()).await.unwrap();
    storage.download_bytes(&id("there")).await.unwrap();
    storage.download_bytes(&id("nothing")).await.unwrap_err();
    memory.upload_bytes(&id("there"), "new".into()).await.unwrap();
    memory.upload_bytes(&id("nothing"), "new".into()).await.unwrap();
    eventually(&storage, "nothing", Some("new")).await;
    assert_eq!(storage.download_bytes(&id("there")).await.unwrap(), "old", "its hour has not passed");

    let (memory, _, storage) = cached_with(CacheConfig::default().with_ttl(moment).with_negative_ttl(hour));
    memory.upload_bytes(&id("there"), "old".into()).await.unwrap();
    storage.download_bytes(&id("there")).await.unwrap();
    memory.delete(&id("there"), Precondition::None).await.unwrap();
    eventually(&storage, "there", None).await;
    memory.upload_bytes(&id("there"), "new".into()).await.unwrap();
    storage.download_bytes(&id("there")).await.unwrap_err();

    let never = CacheConfig::default().with_negative_ttl(Duration::ZERO);
    let (memory, _, storage) = cached_with(never);
    storage.download_bytes(&id("nothing")).await.unwrap_err();
    memory.upload_bytes(&id("nothing"), "new".into()).await.unwrap();
    assert_eq!(storage.download_bytes(&id("nothing")).await.unwrap(), "new");
}

/// Bytes count, not entries: a thousand large files must not take a thousand times what was allowed.
#[tokio::test]
async fn the_entries_stay_within_the_capacity() {
    let capacity = 100_000;
    let store = Arc::new(MemoryCache::new(capacity));
    let kept: Arc<dyn CacheStore> = Arc::clone(&store) as _;
    let config = CacheConfig::default().with_capacity(capacity).with_max_file(20_000);
    let storage = CachedStorage::with_store(Arc::new(MemoryStorage::new()), kept, config).unwrap();
    for number in 0..500 {
        let name = id(&format!("file-{number}"));
        storage.upload_bytes(&name, vec![1; 10_000].into()).await.unwrap();
        storage.download_bytes(&name).await.unwrap();
        storage.metadata(&id(&format!("missing-{number}"))).await.unwrap_err();
    }
    let weight = store.weight().await;
    assert!(weight > 0 && weight <= capacity, "{weight} bytes");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let memory: Arc<dyn FileStorage> = Arc::new(MemoryStorage::new());
    for config in [
        CacheConfig::default().with_capacity(0),
        CacheConfig::default().with_ttl(Duration::ZERO),
        CacheConfig::default().with_deadline(Duration::ZERO),
        CacheConfig::default().with_capacity(10).with_max_file(11),
    ] {
        let refused = CachedStorage::new(Arc::clone(&memory), config).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Misconfigured, "{config:?}");
    }
}

#[test]
fn lookups_are_counted_by_what_came_of_them() {
    use storage_core::layer::metered::names;
    let series = super::metered::recorded(async {
        let (_, _, storage) = cached();
        storage.upload_bytes(&id("a"), "abc".into()).await.unwrap();
        for _ in 0..3 {
            storage.metadata(&id("a")).await.unwrap();
            storage.metadata(&id("missing")).await.unwrap_err();
        }
        for breakage in [Breakage::Hangs, Breakage::Fails] {
            let memory = Arc::new(MemoryStorage::new());
            let store = BrokenStore::new(breakage);
            let broken = CachedStorage::with_store(memory, store, CacheConfig::default()).unwrap();
            broken.metadata(&id("a")).await.unwrap_err();
            broken.metadata(&id("a")).await.unwrap_err();
        }
    });
    let requests = |tier, result| format!("{}{{tier={tier},result={result}}}", names::CACHE_REQUESTS);
    for (tier, result, due) in [
        ("memory", names::HIT, 4.0),
        ("memory", names::MISS, 2.0),
        ("broken", names::TIMEOUT, 1.0),
        ("broken", names::ERROR, 1.0),
        ("broken", names::BYPASSED, 2.0),
    ] {
        assert_eq!(series.get(&requests(tier, result)), Some(&due), "{tier} {result}: {series:#?}");
    }
    let took =
        |operation| format!("{}{{tier=memory,operation={operation},result=ok}}", names::CACHE_DURATION);
    for (operation, due) in [("get", 6.0), ("put", 2.0), ("invalidate", 2.0)] {
        assert_eq!(series.get(&took(operation)), Some(&due), "{operation}: {series:#?}");
    }
}
