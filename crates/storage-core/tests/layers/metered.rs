//! Every operation is counted once, whatever becomes of it, and by bounded labels.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use storage_core::backend::memory::MemoryStorage;
use storage_core::error::{ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::layer::metered::{MeteredStorage, names};
use storage_core::layer::retry::RetryStorage;
use storage_core::layer::retry::policy::RetryConfig;
use storage_core::storage::{DownloadOptions, FileStorage, FileStorageExt, ListOptions, Precondition};
use storage_core::testkit::flaky::{Fault, FlakyStorage};

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

/// Runs the work and returns every series as `name{label=value,...}` with its value; of a histogram, how many
/// were recorded.
pub(crate) fn recorded(work: impl Future<Output = ()>) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(work));
    let series = snapshotter.snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let labels: Vec<_> =
            key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        (format!("{}{{{}}}", key.key().name(), labels.join(",")), value)
    });
    series.collect()
}

fn metered() -> (FlakyStorage, MeteredStorage) {
    let flaky = FlakyStorage::new(Arc::new(MemoryStorage::named("disk")));
    (flaky.clone(), MeteredStorage::new(Arc::new(flaky)))
}

fn operations(op: &str, outcome: &str) -> String {
    format!("{}{{backend=disk,operation={op},outcome={outcome}}}", names::OPERATIONS)
}

#[test]
fn counts_operations_bytes_and_time_by_outcome() {
    let series = recorded(async {
        let (flaky, storage) = metered();
        storage.upload_bytes(&id("a"), vec![1; 1_000].into()).await.unwrap();
        storage.upload_bytes(&id("b"), vec![1; 500].into()).await.unwrap();
        flaky.fail_next(Op::Upload, Fault::Before(ErrorKind::Throttled));
        storage.upload_bytes(&id("c"), vec![1; 100].into()).await.unwrap_err();
        storage.download_bytes(&id("a")).await.unwrap();
        storage.metadata(&id("missing")).await.unwrap_err();
        storage.delete(&id("b"), Precondition::None).await.unwrap();
        let _: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).try_collect().await.unwrap();
        storage.probe(Duration::from_secs(1)).await.unwrap();
    });
    for (name, due) in [
        (operations("upload", "ok"), 2.0),
        (operations("upload", "throttled"), 1.0),
        (operations("download", "ok"), 1.0),
        (operations("metadata", "not_found"), 1.0),
        (operations("delete", "ok"), 1.0),
        (operations("list", "ok"), 1.0),
        (operations("probe", "ok"), 1.0),
        (format!("{}{{backend=disk,direction=write}}", names::BYTES), 1_500.0),
        (format!("{}{{backend=disk,direction=read}}", names::BYTES), 1_000.0),
        (format!("{}{{backend=disk,operation=upload,outcome=ok}}", names::DURATION), 2.0),
        (format!("{}{{backend=disk,operation=list,outcome=ok}}", names::DURATION), 1.0),
    ] {
        assert_eq!(series.get(&name), Some(&due), "{name} of {series:#?}");
    }
}

/// A gauge that is not taken back at a drop grows for ever.
#[test]
fn nothing_is_in_flight_after_drops_failures_and_ends() {
    let series = recorded(async {
        let (flaky, storage) = metered();
        storage.upload_bytes(&id("a"), vec![1; 1_000_000].into()).await.unwrap();
        flaky.fail_next(Op::Metadata, Fault::Never);
        let asked = id("a");
        assert!(tokio::time::timeout(Duration::from_secs(1), storage.metadata(&asked)).await.is_err());
        let mut half = storage.download(&id("a"), DownloadOptions::default()).await.unwrap();
        half.body.try_next().await.unwrap();
        drop(half);
        flaky.fail_next(Op::Download, Fault::Broken(10));
        storage.download_bytes(&id("a")).await.unwrap_err();
        drop(storage.list(&Prefix::all(), ListOptions::default()));
        flaky.fail_next(Op::List, Fault::Before(ErrorKind::Unavailable));
        let _: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).collect().await;
    });
    let inflight: Vec<_> = series.iter().filter(|(name, _)| name.starts_with(names::INFLIGHT)).collect();
    assert_eq!(inflight.len(), 4, "{series:#?}");
    assert!(inflight.iter().all(|(_, value)| **value == 0.0), "{inflight:#?}");
    for (op, outcome) in [
        ("metadata", "dropped"),
        ("download", "dropped"),
        ("download", "unavailable"),
        ("list", "dropped"),
        ("list", "unavailable"),
    ] {
        assert_eq!(series.get(&operations(op, outcome)), Some(&1.0), "{op} {outcome}: {series:#?}");
    }
}

/// One series per file would take down the server that collects them, and tell it the users' file names.
#[test]
fn no_id_gets_into_a_label() {
    let series = recorded(async {
        let (_, storage) = metered();
        let retry = RetryStorage::new(Arc::new(storage), RetryConfig::default()).unwrap();
        for number in 0..100 {
            retry.upload_bytes(&id(&format!("user/secret-{number}")), "x".into()).await.unwrap();
            retry.download_bytes(&id(&format!("user/secret-{number}"))).await.unwrap();
            retry.metadata(&id(&format!("user/missing-{number}"))).await.unwrap_err();
        }
    });
    assert!(series.keys().all(|name| !name.contains("secret") && !name.contains("missing")), "{series:#?}");
    assert!(series.len() < 20, "{series:#?}");
}

#[test]
fn retries_are_counted_by_reason() {
    let series = recorded(async {
        let flaky = FlakyStorage::new(Arc::new(MemoryStorage::named("disk")));
        let storage = RetryStorage::new(Arc::new(flaky.clone()), RetryConfig::default()).unwrap();
        flaky.fail_next(Op::Upload, Fault::Before(ErrorKind::Throttled));
        flaky.fail_next(Op::Upload, Fault::After(ErrorKind::Timeout));
        storage.upload_bytes(&id("a"), "x".into()).await.unwrap();
        storage.metadata(&id("missing")).await.unwrap_err();
    });
    let name = |reason| format!("{}{{backend=disk,operation=upload,reason={reason}}}", names::RETRIES);
    assert_eq!(series.get(&name("throttled")), Some(&1.0), "{series:#?}");
    assert_eq!(series.get(&name("timeout")), Some(&1.0), "{series:#?}");
    assert_eq!(series.len(), 2);
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A line break in a name must not make a line of its own in a log.
#[test]
fn a_span_names_storage_operation_file_and_outcome() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        recorded(async {
            let (_, storage) = metered();
            storage.metadata(&id("a\nINFO forged")).await.unwrap_err();
        })
    });
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in ["storage=\"disk\"", "op=\"metadata\"", "a\\nINFO forged", "outcome=\"not_found\""] {
        assert!(log.contains(part), "{part} in {log}");
    }
}
