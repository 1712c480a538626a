//! What finding out costs that nothing has changed: a bare walk, the sorted listing, and its merge with the ledger.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{StreamExt, TryStreamExt};
use migrator::collide::Folding;
use migrator::engine;
use migrator::filter::Filter;
use migrator::ledger::sqlite::{OpenMode, SqliteLedger};
use migrator::ledger::{Binding, Change, Ledger, Published, RunKind};
use migrator::plan::identity;
use migrator::scan::{self, Entry};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::checksum::Digest;
use storage_core::stack::{LayersConfig, layered};
use storage_core::storage::{Access, FileStorage, Verified};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const FILES: u64 = 20_000;

#[expect(clippy::disallowed_methods, reason = "the bench makes its own files")]
fn make(directory: &Path) {
    for number in 0..FILES {
        let parent = directory.join(format!("{:03}", number / 500));
        if number % 500 == 0 {
            fs::create_dir_all(&parent).expect("a directory");
        }
        fs::write(parent.join(format!("{number:06}")), number.to_le_bytes()).expect("a file");
    }
}

fn walk(directory: &Path) -> u64 {
    let mut count = 0;
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            count += walk(&entry.path());
        } else {
            count += u64::from(entry.metadata().expect("metadata").len() > 0);
        }
    }
    count
}

fn scan(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (files, books) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    make(files.path());
    let (source, ledger) = runtime.block_on(async {
        let config = LocalConfig::new(files.path()).with_access(Access::ReadOnly);
        let local: Arc<dyn FileStorage> = Arc::new(LocalStorage::open(config).await.expect("a storage"));
        let source = layered(local, &LayersConfig::default()).expect("layers");
        let binding = Binding { source: "source".into(), target: "target".into() };
        let ledger = SqliteLedger::open(books.path().join("ledger"), &binding, OpenMode::Create);
        let ledger = ledger.await.expect("a ledger");
        let run = ledger.begin_run(RunKind::Copy, "0").await.expect("a run");
        let mut entries = scan::entries(&*source, Filter::default()).ready_chunks(500);
        while let Some(entries) = entries.next().await {
            let changes = entries.into_iter().map(|entry| {
                let Ok(Entry::File(file)) = entry else { unreachable!("there are only files") };
                let digest = Digest::of(file.id.as_str().as_bytes());
                let verified = Verified::Backend;
                let published = Published { digest, composite: None, target_version: None, verified };
                let source_version = identity(&file);
                Change::Arrived { id: file.id, size: file.size, source_version, published, attempts: 1 }
            });
            ledger.record(run, changes.collect()).await.expect("recorded");
        }
        (source, ledger)
    });
    let target = MemoryStorage::new().capabilities();

    let mut group = criterion.benchmark_group("20,000 unchanged files");
    group.throughput(Throughput::Elements(FILES));
    group.sample_size(20);
    group.bench_function("walk and stat", |bencher| bencher.iter(|| assert_eq!(walk(files.path()), FILES)));
    group.bench_function("list in order", |bencher| {
        bencher.iter(|| {
            let entries = scan::entries(&*source, Filter::default());
            let count = runtime.block_on(entries.try_fold(0, async |count, _| Ok(count + 1)));
            assert_eq!(count.expect("a listing"), FILES);
        });
    });
    group.bench_function("list, merged with the ledger", |bencher| {
        bencher.iter(|| {
            let filter = Filter::default();
            let plan = engine::plan(&*source, &target, None, Folding::default(), Some(&ledger), &filter, 0);
            runtime.block_on(plan).expect("a plan")
        });
    });
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
