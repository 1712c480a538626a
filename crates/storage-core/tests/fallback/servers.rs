//! Real servers that go away in the middle: behind a proxy that refuses and stalls, and as a process of its own that
//! is killed.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use s3_server::{Server, ServerConfig};
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::checksum::{CompositeDigest, Digest};
use storage_core::error::{ErrorKind, Op};
use storage_core::id::Prefix;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::FallbackConfig;
use storage_core::layer::retry::policy::RetryConfig;
use storage_core::layer::timeout::TimeoutConfig;
use storage_core::stack::{self, BackendConfig, Layer, LayersConfig, PairConfig, StackConfig, layered};
use storage_core::storage::{DownloadOptions, FileStorage, FileStorageExt, Precondition, UploadOptions};
use storage_core::testkit::flaky::FlakyStorage;
use test_rig::process::{self, DeathSignal};
use test_rig::scratch::Scratch;
use test_rig::{Fault, Garage, Proxy, S3Endpoint, shared};

use crate::id;

/// The least part that S3 allows.
const PART: u64 = 5 << 20;

const BUCKET: &str = "files";
const KEY: &str = "AKIDFALLBACK";
const SECRET: &str = "a-secret-of-the-fallback-tests";

fn s3(address: SocketAddr) -> S3Config {
    S3Config::new(BUCKET)
        .with_endpoint(format!("http://{address}"))
        .with_static_credentials(KEY, SECRET)
        .with_name("server")
        .with_part_size(PART)
}

/// What the stack puts around a side, with a patience of seconds.
fn side(storage: Arc<dyn FileStorage>) -> Arc<dyn FileStorage> {
    let mut layers = LayersConfig::default();
    layers.off = vec![Layer::Metered];
    layers.retry = RetryConfig::default().with_max_attempts(std::num::NonZeroU32::new(2).unwrap());
    layers.timeout = TimeoutConfig::default().with_base(Duration::from_secs(5));
    layered(storage, &layers).unwrap()
}

async fn open(primary: S3Storage, scratch: &Scratch) -> FallbackStorage {
    let disk = LocalConfig::new(scratch.join("spare")).with_create_root().with_name("disk");
    let disk = LocalStorage::open(disk).await.unwrap();
    let config = FallbackConfig::new(scratch.join("journal"))
        .with_deadline(TimeoutConfig::default().with_base(Duration::from_secs(8)))
        .with_heal_every(Duration::from_millis(200));
    FallbackStorage::open(side(Arc::new(primary)), side(Arc::new(disk)), config).await.unwrap()
}

/// Files that go to the server in parts: one in 500, none of them among the first 300.
fn is_large(n: usize) -> bool {
    n % 500 == 310
}

fn content(n: usize) -> Bytes {
    if is_large(n) {
        let line = format!("large file number {n:08}\n");
        return Bytes::from(line.repeat(1 + PART as usize / line.len() + n % 100));
    }
    Bytes::from(format!("file number {n} ").repeat(1 + n % 300))
}

fn options(n: usize) -> UploadOptions {
    UploadOptions::default()
        .with_content_type("text/x-numbered")
        .with_file_name(format!("№ {n}.txt"))
        .with_created(SystemTime::UNIX_EPOCH + Duration::from_nanos(n as u64))
        .with_tag("number", n.to_string())
}

fn name(n: usize) -> String {
    format!("{:02}/{n}", n % 100)
}

/// Uploads all files; every upload must be acknowledged. `at` is called with the number of those that are.
async fn upload_all(storage: &FallbackStorage, count: usize, at: impl Fn(usize) + Sync) {
    let done = AtomicUsize::new(0);
    stream::iter(0..count)
        .map(|n| {
            let (storage, done, at) = (storage.clone(), &done, &at);
            async move {
                let result = storage.upload(&id(&name(n)), content(n).into(), options(n)).await;
                result.unwrap_or_else(|error| panic!("{error}"));
                at(done.fetch_add(1, Ordering::SeqCst) + 1);
            }
        })
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await;
}

/// Asks the primary itself for all files: bytes, digest, tags and the rest.
async fn verify_all(primary: &S3Storage, count: usize) {
    let listed: Vec<_> = primary.list(&Prefix::all(), Default::default()).try_collect().await.unwrap();
    assert_eq!(listed.len(), count, "files on the primary");
    stream::iter(0..count)
        .map(|n| async move {
            let download = primary.download(&id(&name(n)), DownloadOptions::default()).await.unwrap();
            let metadata = download.metadata.clone();
            let bytes = download.bytes().await.unwrap();
            assert!(bytes == content(n), "{n}: {} bytes, of {}", bytes.len(), content(n).len());
            // What went up in parts while the server was well, of which nobody had said a digest, has one of its parts.
            let parts = metadata.digest.is_none().then_some(metadata.composite).flatten();
            match parts {
                Some(found) => {
                    let digests: Vec<_> = bytes.chunks(found.part_size as usize).map(Digest::of).collect();
                    assert_eq!(found, CompositeDigest::of_parts(found.part_size, &digests), "{n}");
                    assert!(is_large(n), "{n} has no digest of its own");
                }
                None => assert_eq!(metadata.digest, Some(Digest::of(&bytes)), "{n}"),
            }
            assert_eq!(metadata.tags, options(n).tags, "{n}");
            assert_eq!(metadata.file_name, options(n).file_name, "{n}");
            assert_eq!(metadata.created, options(n).created, "{n}");
            assert_eq!(metadata.content_type, options(n).content_type, "{n}");
            // By the composite that the server keeps, or an ETag that tells the number of parts.
            let etag = metadata.version.unwrap();
            let in_parts = metadata.composite.is_some_and(|composite| composite.parts == 2)
                || etag.as_str().trim_matches('"').ends_with("-2");
            assert_eq!(in_parts, is_large(n), "{n}: {etag}");
        })
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await;
}

/// Heals in the background while `work` is done, and until nothing is left.
async fn while_healing(storage: &FallbackStorage, work: impl Future<Output = ()>) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let healer = storage.clone();
    let running = tokio::spawn(async move { healer.run(async { drop(stopped.await) }).await });
    work.await;
    loop {
        let pending = storage.pending();
        if pending.files + pending.tombstones + pending.stale + pending.open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_or_stalls_in_the_middle_misses_nothing() {
    const COUNT: usize = 300;
    let memory = MemoryStorage::new();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(memory)).with_credentials(KEY, SECRET);
    let server = Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    for fault in [Fault::Refuse, Fault::Stall, Fault::LoseAnswer] {
        let proxy = Proxy::start(server.local_addr()).unwrap();
        let scratch = Scratch::new("fallback-proxy").unwrap();
        let primary = S3Storage::connect(s3(proxy.address())).await.unwrap();
        let known = primary.capabilities();
        let storage = open(primary, &scratch).await;
        upload_all(&storage, COUNT / 3, |_| {}).await;
        proxy.set(fault);
        // The service restarts while its server is out.
        drop(storage);
        let primary = S3Storage::with_capabilities(s3(proxy.address()), &known).await.unwrap();
        let storage = open(primary, &scratch).await;
        let deleted = storage.delete(&id(&name(0)), Precondition::None).await;
        deleted.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        while_healing(&storage, async {
            upload_all(&storage, COUNT, |done| {
                if done == COUNT * 2 / 3 {
                    proxy.set(Fault::Pass);
                }
            })
            .await;
        })
        .await;
        let primary = S3Storage::with_capabilities(s3(server.local_addr()), &known).await.unwrap();
        verify_all(&primary, COUNT).await;
        for n in 0..COUNT {
            primary.delete(&id(&name(n)), Precondition::None).await.unwrap();
        }
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_starts_and_works_while_its_server_is_out() {
    let memory = MemoryStorage::new();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(memory)).with_credentials(KEY, SECRET);
    let server = Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    let proxy = Proxy::start(server.local_addr()).unwrap();
    let scratch = Scratch::new("fallback-start").unwrap();
    let build = async || {
        let primary = StackConfig::new(BackendConfig::S3(s3(proxy.address())));
        let disk = LocalConfig::new(scratch.join("spare")).with_create_root().with_name("disk");
        let secondary = StackConfig::new(BackendConfig::Local(disk));
        let settings = FallbackConfig::new(scratch.join("journal"));
        stack::build_pair(PairConfig::new(primary, secondary, settings), &LayersConfig::default()).await
    };
    proxy.set(Fault::Refuse);
    // Nobody knows yet what the server can do.
    assert!(build().await.unwrap_err().is_outage());
    proxy.set(Fault::Pass);
    let (storage, fallback) = build().await.unwrap();
    let known = storage.capabilities();
    drop((storage, fallback));
    proxy.set(Fault::Refuse);
    let (storage, fallback) = build().await.unwrap();
    assert_eq!(storage.capabilities(), known);
    storage.upload(&id("a"), content(1).into(), options(1)).await.unwrap();
    assert_eq!(fallback.pending().files, 1);
    drop((storage, fallback));
    let (storage, fallback) = build().await.unwrap();
    assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), content(1));
    proxy.set(Fault::Pass);
    while_healing(&fallback, async {}).await;
    let primary = S3Storage::connect(s3(server.local_addr())).await.unwrap();
    assert_eq!(primary.download_bytes(&id("a")).await.unwrap(), content(1));
    assert_eq!(primary.metadata(&id("a")).await.unwrap().tags, options(1).tags);
    server.shutdown().await;
}

const SERVE: &str = "FALLBACK_TEST_SERVE";

/// Not a test of its own: the server's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_serves_until_it_is_killed() {
    let Ok(serve) = std::env::var(SERVE) else { return };
    let (address, root) = serve.split_once('|').unwrap();
    let local = LocalConfig::new(root).with_create_root().with_durability(Durability::Relaxed);
    let local = LocalStorage::open(local).await.unwrap();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(local)).with_credentials(KEY, SECRET);
    let server = Server::bind(config, address.parse().unwrap()).await.unwrap();
    let _running = server.spawn();
    std::future::pending::<()>().await;
}

fn start_server(scratch: &Scratch, address: SocketAddr) -> process::Server {
    let program = std::env::current_exe().unwrap();
    let mut command = process::command(&program, DeathSignal::Kill);
    command.args(["--exact", "servers::child_serves_until_it_is_killed", "--nocapture"]);
    command.env(SERVE, format!("{address}|{}", scratch.join("server").display()));
    let mut server = process::Server::start("server", command, scratch.join("server.log")).unwrap();
    server.wait_until(Duration::from_secs(60), || TcpStream::connect(address).is_ok()).unwrap();
    server
}

/// A server that can be killed and started again.
trait Restart: Send + Sync {
    fn config(&self) -> S3Config;
    /// kill -9: whatever is under way ends without an answer.
    fn kill(&self);
    fn start(&self);
}

/// The in-process server of the other tests, as a process of its own over a directory.
struct Own {
    scratch: Scratch,
    address: SocketAddr,
    running: Mutex<Option<process::Server>>,
}

impl Own {
    fn new() -> Self {
        let [port] = process::free_ports().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let own =
            Self { scratch: Scratch::new("fallback-server").unwrap(), address, running: Mutex::new(None) };
        own.start();
        own
    }
}

impl Restart for Own {
    fn config(&self) -> S3Config {
        s3(self.address)
    }

    fn kill(&self) {
        self.running.lock().unwrap().take().unwrap().kill().unwrap();
    }

    fn start(&self) {
        *self.running.lock().unwrap() = Some(start_server(&self.scratch, self.address));
    }
}

struct OfGarage(Mutex<Garage>);

impl OfGarage {
    /// Nothing, and the test is reported as skipped, where it is not installed. Not the one that tests share: it is
    /// killed.
    fn new() -> Option<Self> {
        test_rig::tools::require("garage")?;
        Some(Self(Mutex::new(Garage::start().unwrap())))
    }
}

impl Restart for OfGarage {
    fn config(&self) -> S3Config {
        let garage = self.0.lock().unwrap();
        let S3Endpoint { endpoint, access_key, secret_key, region, bucket, .. } = garage.endpoint();
        S3Config::new(bucket)
            .with_endpoint(endpoint)
            .with_region(region)
            .with_static_credentials(access_key, secret_key)
            .with_name("server")
            .with_part_size(PART)
    }

    fn kill(&self) {
        self.0.lock().unwrap().server().kill().unwrap();
    }

    fn start(&self) {
        self.0.lock().unwrap().restart().unwrap();
    }
}

/// What the background task learns of a real server's clock is what tells an old file from a stranger's: writes there are
/// not told a time, so it looks, and not oftener than once a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_garage_a_file_is_replaced_only_where_its_clock_proves_it_older() {
    let Some(server) = shared::garage() else { return };
    let config = S3Config::new(&server.bucket)
        .with_endpoint(&server.endpoint)
        .with_region(&server.region)
        .with_static_credentials(&server.access_key, &server.secret_key)
        .with_prefix(shared::unique_prefix())
        .with_name("server");
    let garage = S3Storage::connect(config).await.unwrap();
    assert!(!garage.capabilities().conditional_replace, "a server that ignores preconditions");
    let primary = FlakyStorage::new(Arc::new(garage.clone()));
    let scratch = Scratch::new("fallback-clock").unwrap();
    for looked in [true, false] {
        let place = |name: &str| scratch.join(&format!("{name}-{looked}"));
        let open = async || {
            let disk = LocalConfig::new(place("spare")).with_create_root().with_name("disk");
            let disk = Arc::new(LocalStorage::open(disk).await.unwrap());
            // Times are told in seconds.
            let config = FallbackConfig::new(place("journal"))
                .with_clock_margin(Duration::from_secs(2))
                .with_heal_every(Duration::from_millis(10));
            FallbackStorage::open(Arc::new(primary.clone()), disk, config).await.unwrap()
        };
        let file = |name: &str| id(&format!("{looked}/{name}"));
        let storage = open().await;
        for name in ["old", "met", "deleted"] {
            storage.upload_bytes(&file(name), Bytes::from("old")).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        storage.upload_bytes(&file("last"), Bytes::from("last")).await.unwrap();
        if looked {
            let (before, began) = (primary.calls(Op::Metadata), std::time::Instant::now());
            let some_rounds = async {
                while primary.calls(Op::Metadata) == before {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                storage.upload_bytes(&file("another"), Bytes::from("another")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            };
            storage.run(some_rounds).await;
            let looks = primary.calls(Op::Metadata) - before;
            assert!(looks <= 1 + began.elapsed().as_secs() / 60, "{looks} looks at the clock");
        }
        // The process that begins in the outage has seen none of them, and has what the journal says of the clock.
        drop(storage);
        primary.set_outage(true);
        let storage = open().await;
        for name in ["old", "met", "last"] {
            storage.upload_bytes(&file(name), Bytes::from("ours")).await.unwrap();
        }
        storage.delete(&file("deleted"), Precondition::None).await.unwrap();
        garage.upload_bytes(&file("met"), Bytes::from("theirs")).await.unwrap();
        primary.set_outage(false);
        let report = storage.heal().await;
        assert!(report.failed.is_empty() && report.stopped.is_none(), "{report:?}");
        let mut told: Vec<_> = report.conflicts.iter().map(|conflict| conflict.id.file_name()).collect();
        told.sort();
        // Without a look nothing is proven, and all is kept beside ours and told.
        let due: &[_] = if looked { &["last", "met"] } else { &["deleted", "last", "met", "old"] };
        assert_eq!(told, due, "looked {looked}");
        let held = async |name: &str| garage.download_bytes(&file(name)).await.map_err(|error| error.kind());
        let (old, deleted) = match looked {
            true => (Ok(Bytes::from("ours")), Err(ErrorKind::NotFound)),
            false => (Ok(Bytes::from("old")), Ok(Bytes::from("old"))),
        };
        assert_eq!((held("old").await, held("deleted").await), (old, deleted), "looked {looked}");
        assert_eq!(held("met").await.unwrap(), "theirs");
        assert_eq!(held("last").await.unwrap(), "last");
    }
}

mod heavy {
    use super::*;

    /// `FALLBACK_FILES` sets how many files, 10,000 for the record.
    async fn killed_and_restarted_in_the_middle(server: &dyn Restart, count: usize) {
        let count = std::env::var("FALLBACK_FILES").map_or(count, |text| text.parse().unwrap());
        let scratch = Scratch::new("fallback-kill").unwrap();
        let storage = open(S3Storage::connect(server.config()).await.unwrap(), &scratch).await;
        let begun = std::time::Instant::now();
        let (degraded, large) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let spare = |n: usize| scratch.join("spare").join(name(n));
        while_healing(&storage, async {
            upload_all(&storage, count, |done| {
                if done == count / 3 {
                    server.kill();
                } else if done == count * 2 / 3 {
                    degraded.store(storage.pending().files, Ordering::SeqCst);
                    let waiting = (0..count).filter(|n| is_large(*n) && spare(*n).is_file()).count();
                    large.store(waiting, Ordering::SeqCst);
                    server.start();
                }
            })
            .await;
        })
        .await;
        let (degraded, took) = (degraded.load(Ordering::SeqCst), begun.elapsed());
        let large = large.load(Ordering::SeqCst);
        assert!(degraded > count / 4, "only {degraded} writes met the outage");
        assert!(large > 0, "no file that is healed in parts met the outage");
        verify_all(&S3Storage::connect(server.config()).await.unwrap(), count).await;
        let spare = LocalStorage::open(LocalConfig::new(scratch.join("spare"))).await.unwrap();
        let left: BTreeMap<_, _> = spare
            .list(&Prefix::all(), Default::default())
            .map_ok(|file| (file.id, file.size))
            .try_collect()
            .await
            .unwrap();
        assert!(left.is_empty(), "left on the spare: {left:?}");
        eprintln!("{count} files, {degraded} of them in the outage, {large} of those in parts, {took:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_killed_and_restarted_in_the_middle_ends_with_every_file() {
        killed_and_restarted_in_the_middle(&Own::new(), 2_000).await;
    }

    /// Garage answers conditions with a 200 and ignores them, so the replay has none: what it finds before it writes is
    /// all that keeps a stranger's file.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_garage_killed_and_restarted_in_the_middle_ends_with_every_file() {
        let Some(garage) = OfGarage::new() else { return };
        killed_and_restarted_in_the_middle(&garage, 500).await;
    }
}
