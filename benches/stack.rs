//! What each layer costs per call, over a storage in memory, and what the local backend costs beside its peers.
//!
//! Peers sync nothing and keep no attributes and no digest: `relaxed` is what to compare them with, `durable` is what
//! survives a power cut.

use std::sync::Arc;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use object_store::{ObjectStoreExt, PutPayload};
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::id::FileId;
use storage_core::layer::cache::CacheConfig;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::FallbackConfig;
use storage_core::stack::{Layer, LayersConfig, layered};
use storage_core::storage::{FileStorage, FileStorageExt};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const ALL: [Layer; 4] = [Layer::Metered, Layer::Retry, Layer::Limit, Layer::Timeout];

fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn only(layers: &[Layer], cache: bool) -> LayersConfig {
    let mut config = LayersConfig::default();
    config.off = ALL.into_iter().filter(|layer| !layers.contains(layer)).collect();
    config.cache = cache.then(CacheConfig::default);
    config
}

fn layers(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let books = TempDir::new().expect("a directory");
    let memory = || -> Arc<dyn FileStorage> { Arc::new(MemoryStorage::new()) };
    let with = |layers: &[Layer], cache| layered(memory(), &only(layers, cache)).expect("layers");
    let fallback = runtime.block_on(async {
        let config = FallbackConfig::new(books.path().join("journal.sqlite"));
        let (one, other) = (MemoryStorage::named("one"), MemoryStorage::named("other"));
        FallbackStorage::open(Arc::new(one), Arc::new(other), config).await.expect("a fallback")
    });
    let stacks: Vec<(&str, Arc<dyn FileStorage>)> = vec![
        ("none", memory()),
        ("timeout", with(&[Layer::Timeout], false)),
        ("limit", with(&[Layer::Limit], false)),
        ("retry", with(&[Layer::Retry], false)),
        ("metered", with(&[Layer::Metered], false)),
        ("metered, retry, limit, timeout", with(&ALL, false)),
        ("these and cache", with(&ALL, true)),
        ("fallback, healthy", Arc::new(fallback)),
    ];
    let id = FileId::parse("photos/a.jpg").expect("an id");
    let bytes = Bytes::from(vec![7; 1024]);
    for (operation, name) in [(0, "metadata"), (1, "upload 1 KiB"), (2, "download 1 KiB")] {
        let mut group = criterion.benchmark_group(name);
        for (stack, storage) in &stacks {
            runtime.block_on(storage.upload_bytes(&id, bytes.clone())).expect("an upload");
            group.bench_function(BenchmarkId::from_parameter(stack), |bencher| {
                bencher.to_async(&runtime).iter(async || match operation {
                    0 => drop(storage.metadata(&id).await.expect("metadata")),
                    1 => drop(storage.upload_bytes(&id, bytes.clone()).await.expect("an upload")),
                    _ => drop(storage.download_bytes(&id).await.expect("a download")),
                });
            });
        }
        group.finish();
    }
}

fn local(criterion: &mut Criterion) {
    let runtime = runtime();
    // Not where temporary files may be memory: what is synced goes to a disk.
    let place = || TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (durable, relaxed, store, dal) = (place(), place(), place(), place());
    let open = |root: &TempDir, durability| {
        let config = LocalConfig::new(root.path()).with_durability(durability);
        runtime.block_on(LocalStorage::open(config)).expect("a storage")
    };
    let (durable, relaxed) = (open(&durable, Durability::Durable), open(&relaxed, Durability::Relaxed));
    let store = object_store::local::LocalFileSystem::new_with_prefix(store.path()).expect("a store");
    let fs = opendal::services::Fs::default().root(&dal.path().to_string_lossy());
    let dal = opendal::Operator::new(fs).expect("an operator");
    for (size, name) in [(4 << 10, "4 KiB"), (1 << 20, "1 MiB")] {
        let bytes = Bytes::from(vec![7; size]);
        let id = FileId::parse("photos/a.jpg").expect("an id");
        let path = object_store::path::Path::from("photos/a.jpg");
        let mut group = criterion.benchmark_group(format!("put {name}"));
        group.sample_size(50);
        for (name, storage) in [("local, durable", &durable), ("local, relaxed", &relaxed)] {
            group.bench_function(name, |bencher| {
                bencher
                    .to_async(&runtime)
                    .iter(async || storage.upload_bytes(&id, bytes.clone()).await.expect("an upload"));
            });
        }
        group.bench_function("object_store", |bencher| {
            let put = async || store.put(&path, PutPayload::from(bytes.clone())).await.expect("a put");
            bencher.to_async(&runtime).iter(put);
        });
        group.bench_function("OpenDAL fs", |bencher| {
            let put = async || dal.write("photos/a.jpg", bytes.clone()).await.expect("a write");
            bencher.to_async(&runtime).iter(put);
        });
        group.finish();
        let mut group = criterion.benchmark_group(format!("get {name}"));
        group.bench_function("local, verified", |bencher| {
            bencher.to_async(&runtime).iter(async || relaxed.download_bytes(&id).await.expect("a download"));
        });
        group.bench_function("object_store", |bencher| {
            let get = async || store.get(&path).await.expect("a get").bytes().await.expect("bytes");
            bencher.to_async(&runtime).iter(get);
        });
        group.bench_function("OpenDAL fs", |bencher| {
            bencher.to_async(&runtime).iter(async || dal.read("photos/a.jpg").await.expect("a read"));
        });
        group.finish();
    }
}

criterion_group!(benches, layers, local);
criterion_main!(benches);
