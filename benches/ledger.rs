//! What a durable row costs, by the number of changes that share a commit, and what reading rows back costs.
//!
//! On the disk under the target directory: a temporary directory may be memory, where nothing is durable.

use std::path::Path;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::TryStreamExt;
use migrator::ledger::sqlite::{OpenMode, SqliteLedger};
use migrator::ledger::{Binding, Change, FileFilter, Ledger, Published, RunId, RunKind};
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::metadata::Version;
use storage_core::storage::Verified;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Ids ascend, as the ids of a run do.
struct Ids(u64);

impl Ids {
    fn next(&mut self) -> FileId {
        self.0 += 1;
        FileId::parse(format!("photos/{:04}/{:09}.jpg", self.0 / 1000, self.0)).expect("an id")
    }
}

fn published(id: &FileId) -> Published {
    let digest = Digest::of(id.as_str().as_bytes());
    let target_version = Some(Version::new(format!("\"{}\"", &digest.to_string()[..32])));
    Published { digest, composite: None, target_version, verified: Verified::Backend }
}

fn source_version() -> Version {
    Version::new("fe01-3c0a51-1000-674583f1.23ab12cd-674583f1.23ab12cd")
}

fn arrived(ids: &mut Ids, count: usize) -> Vec<Change> {
    (0..count)
        .map(|_| {
            let id = ids.next();
            let (published, source_version) = (published(&id), source_version());
            Change::Arrived { id, size: 4096, source_version, published, attempts: 1 }
        })
        .collect()
}

fn in_two_steps(ids: &mut Ids, count: usize) -> [Vec<Change>; 2] {
    let ids: Vec<FileId> = (0..count).map(|_| ids.next()).collect();
    let intend =
        |id: &FileId| Change::Intend { id: id.clone(), size: 4096, source_version: source_version() };
    let publish = |id: &FileId| Change::Published { id: id.clone(), published: published(id), attempts: 1 };
    [ids.iter().map(intend).collect(), ids.iter().map(publish).collect()]
}

fn open(runtime: &Runtime, directory: &Path) -> (SqliteLedger, RunId) {
    runtime.block_on(async {
        let binding = Binding { source: "dir:/srv/files".into(), target: "s3://bucket".into() };
        let ledger = SqliteLedger::open(directory.join("ledger.sqlite"), &binding, OpenMode::Create)
            .await
            .expect("a ledger");
        let run = ledger.begin_run(RunKind::Copy, "0").await.expect("a run");
        (ledger, run)
    })
}

fn ledger(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (ledger, run) = open(&runtime, directory.path());
    let mut ids = Ids(0);
    let mut group = criterion.benchmark_group("durable rows");
    group.sample_size(20);
    for count in [1, 16, 128, 512] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("in one step, per commit", count), |bencher| {
            bencher.iter_batched(
                || arrived(&mut ids, count),
                |changes| runtime.block_on(ledger.record(run, changes)).expect("recorded"),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("intent and publication, per commit", count), |bencher| {
            bencher.iter_batched(
                || in_two_steps(&mut ids, count),
                |[intents, publications]| {
                    runtime.block_on(ledger.record(run, intents)).expect("recorded");
                    runtime.block_on(ledger.record(run, publications)).expect("recorded")
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    drop(ledger);

    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (ledger, run) = open(&runtime, directory.path());
    for _ in 0..40 {
        let changes = arrived(&mut ids, 500);
        runtime.block_on(ledger.record(run, changes)).expect("recorded");
    }
    let mut group = criterion.benchmark_group("20,000 rows");
    group.throughput(Throughput::Elements(20_000));
    group.sample_size(20);
    group.bench_function("read in order", |bencher| {
        bencher.iter(|| {
            let files = ledger.files(FileFilter::default());
            let count = runtime.block_on(files.try_fold(0, async |count, _| Ok(count + 1))).expect("rows");
            assert_eq!(count, 20_000);
        });
    });
    group.finish();
}

criterion_group!(benches, ledger);
criterion_main!(benches);
