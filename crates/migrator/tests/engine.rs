//! The engine over real storages in memory and on disk, and a real ledger.

#![expect(clippy::disallowed_methods, reason = "tests make and change files")]
#![expect(clippy::print_stderr, reason = "seeds are printed")]

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use migrator::collide::Folding;
use migrator::engine::{self, CopyOptions, Ended, EngineError, Job, Removal, SyncOptions, VerifyOptions};
use migrator::filter::{Criteria, Filter, Rule};
use migrator::item::State;
use migrator::ledger::sqlite::{OpenMode, SqliteLedger};
use migrator::ledger::{
    Binding, Change, FileFilter, Ledger, Outcome, Recorded, RunEnd, RunKind, RunRecord, Tally, Withheld,
};
use migrator::report;
use migrator::throttle::Bandwidth;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::error::{ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::layer::metered::MeteredStorage;
use storage_core::metadata::FileMetadata;
use storage_core::storage::{
    Access, FileStorage, FileStorageExt, ListOptions, Precondition, ResumableUpload, UploadOptions, Verified,
};
use storage_core::testkit::flaky::{Fault, FlakyStorage, Odds};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

#[path = "engine/crowd.rs"]
mod crowd;
#[path = "engine/order.rs"]
mod order;

const PART: u64 = 5 << 20;

/// A migration whose sides the test can reach behind the engine's back.
struct Bench {
    job: Job,
    source: Arc<MemoryStorage>,
    target: Arc<MemoryStorage>,
    flaky: Arc<FlakyStorage>,
    ledger: Arc<SqliteLedger>,
    _directory: TempDir,
}

async fn bench() -> Bench {
    let directory = TempDir::new().unwrap();
    let binding = Binding { source: "memory:source".into(), target: "memory:target".into() };
    let path = directory.path().join("ledger.sqlite");
    let ledger = Arc::new(SqliteLedger::open(&path, &binding, OpenMode::Create).await.unwrap());
    let source = Arc::new(MemoryStorage::named("source"));
    let target = Arc::new(MemoryStorage::named("target"));
    let flaky = Arc::new(FlakyStorage::new(target.clone()));
    // Metered as in the program: what a layer demands of those who read its streams holds here as well.
    let metered = |storage| Arc::new(MeteredStorage::new(storage));
    let job = Job::new(metered(source.clone()), metered(flaky.clone()), ledger.clone());
    Bench { job, source, target, flaky, ledger, _directory: directory }
}

impl Bench {
    async fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        self.source.upload_bytes(&id(name), bytes.into()).await.unwrap();
    }

    async fn copy(&self) -> RunRecord {
        self.copy_with(&options()).await
    }

    async fn copy_with(&self, options: &CopyOptions) -> RunRecord {
        self.ended(engine::copy(&self.job, options).await.unwrap()).await
    }

    async fn verify(&self, read_back: bool) -> (RunRecord, BTreeMap<String, Outcome>) {
        let mut options = VerifyOptions::default();
        options.read_back = read_back;
        let run = self.ended(engine::verify(&self.job, &options).await.unwrap()).await;
        // Checks that the sums of the audit add up, and that there are as many rows.
        let directory = TempDir::new().unwrap();
        report::files::write(&*self.ledger, Some(run.id), directory.path()).await.unwrap();
        let outcomes = self.outcomes(&run).await;
        (run, outcomes)
    }

    async fn ended(&self, ended: Ended) -> RunRecord {
        let run = self.ledger.run(Some(ended.run)).await.unwrap().unwrap();
        assert_eq!(run.end, Some(ended.end));
        run
    }

    async fn outcomes(&self, run: &RunRecord) -> BTreeMap<String, Outcome> {
        let lines = self.ledger.outcomes(run.id);
        lines.map_ok(|line| (line.subject, line.outcome)).try_collect().await.unwrap()
    }

    /// What the target holds is what the source holds, byte for byte, and nothing is left open.
    async fn assert_equal(&self) {
        let list = |storage: &MemoryStorage| storage.list(&Prefix::all(), ListOptions::default());
        let source: Vec<FileMetadata> = list(&self.source).try_collect().await.unwrap();
        let target: Vec<FileMetadata> = list(&self.target).try_collect().await.unwrap();
        let ids = |files: &[FileMetadata]| files.iter().map(|file| file.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&source), ids(&target));
        for file in source {
            let there = self.target.download_bytes(&file.id).await.unwrap();
            assert!(self.source.download_bytes(&file.id).await.unwrap() == there, "{} differs", file.id);
        }
        assert_eq!(self.target.stale(Duration::ZERO).await.unwrap(), []);
    }

    async fn states(&self) -> BTreeMap<String, State> {
        let rows = self.ledger.files(FileFilter::default());
        rows.map_ok(|row| (row.id.to_string(), row.state)).try_collect().await.unwrap()
    }
}

fn options() -> CopyOptions {
    let mut options = CopyOptions::default();
    options.part_size = NonZeroU64::new(PART).unwrap();
    options.concurrency = NonZeroU32::new(4).unwrap();
    options
}

/// One attempt per file and one request at a time: faults hit the calls they were meant for.
fn once() -> CopyOptions {
    let mut options = options();
    options.attempts = NonZeroU32::MIN;
    options.concurrency = NonZeroU32::MIN;
    options
}

fn id(name: &str) -> FileId {
    FileId::parse(name).unwrap()
}

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// P8: every planned entry has exactly one outcome, also in runs that did not come to their end.
async fn assert_sums(ledger: &dyn Ledger, run: &RunRecord) {
    let counts = ledger.outcome_counts(run.id).await.unwrap();
    let of = |outcome| counts.get(&outcome).map_or(0, |count| count.files);
    let sum = of(Outcome::Copied) + run.tally.unchanged + of(Outcome::Skipped) + of(Outcome::Failed);
    assert_eq!(run.tally.planned, sum, "{counts:?} {:?}", run.tally);
}

#[tokio::test]
async fn copies_once_and_then_finds_everything_unchanged() {
    let bench = bench().await;
    for (name, size) in [("empty", 0), ("a/b", 10), ("a.b", 1000), ("large", 11 << 20), ("exact", 10 << 20)] {
        bench.put(name, bytes(size, size as usize)).await;
    }
    let first = bench.copy().await;
    assert_eq!((first.tally.planned, first.tally.unchanged, first.tally.parts_sent), (5, 0, 5));
    assert_eq!(first.end, Some(RunEnd::Complete));
    assert_sums(&*bench.ledger, &first).await;
    bench.assert_equal().await;
    assert!(bench.states().await.values().all(|state| *state == State::Verified));

    let calls = || [Op::List, Op::Metadata, Op::Upload].map(|op| bench.flaky.calls(op));
    let before = calls();
    let second = bench.copy().await;
    assert_eq!((second.tally.planned, second.tally.unchanged, second.tally.bytes_sent), (5, 5, 0));
    assert_sums(&*bench.ledger, &second).await;
    assert_eq!(before, calls(), "an unchanged tree costs no request per file");
}

#[tokio::test]
async fn attributes_travel_with_the_bytes() {
    let bench = bench().await;
    let options = UploadOptions::default()
        .with_content_type("text/x-odd")
        .with_file_name("Élan\n.txt")
        .with_tag("Key", "välue");
    let body = storage_core::body::Body::from_bytes("x");
    bench.source.upload(&id("a"), body, options).await.unwrap();
    bench.copy().await;
    let there = bench.target.metadata(&id("a")).await.unwrap();
    assert_eq!(there.content_type.as_deref(), Some("text/x-odd"));
    assert_eq!(there.file_name.as_deref(), Some("Élan\n.txt"));
    assert_eq!(there.tags.get("Key").map(String::as_str), Some("välue"));
}

#[tokio::test]
async fn a_broken_upload_goes_on_at_the_first_part_that_is_not_stored() {
    let bench = bench().await;
    bench.put("large", bytes(1, 52 << 20)).await;
    for _ in 0..6 {
        // Fine, as there is no body to break: these six are stored.
        bench.flaky.fail_next(Op::PutPart, Fault::Broken(u64::MAX));
    }
    bench.flaky.fail_next(Op::PutPart, Fault::Before(ErrorKind::Denied));
    let first = bench.copy_with(&once()).await;
    assert_sums(&*bench.ledger, &first).await;
    assert_eq!(bench.states().await["large"], State::Failed);
    assert_eq!(bench.target.stale(Duration::ZERO).await.unwrap().len(), 1);

    let second = bench.copy().await;
    assert_eq!(second.tally.parts_resumed + second.tally.parts_sent, 11);
    assert!(second.tally.parts_resumed >= 6, "{:?}", second.tally);
    bench.assert_equal().await;
}

#[tokio::test]
async fn a_file_that_changed_between_two_runs_is_never_resumed() {
    let bench = bench().await;
    bench.put("large", bytes(1, 21 << 20)).await;
    bench.flaky.fail_next(Op::PutPart, Fault::Broken(u64::MAX));
    bench.flaky.fail_next(Op::PutPart, Fault::Before(ErrorKind::Denied));
    bench.copy_with(&once()).await;
    // Another version of the same size: only its identity tells.
    bench.put("large", bytes(2, 21 << 20)).await;
    let second = bench.copy().await;
    assert_eq!((second.tally.parts_resumed, second.tally.parts_sent), (0, 5));
    bench.assert_equal().await;
}

#[tokio::test]
async fn a_finish_whose_answer_was_lost_is_found_to_have_happened() {
    let bench = bench().await;
    bench.put("large", bytes(1, 12 << 20)).await;
    bench.flaky.fail_next(Op::FinishUpload, Fault::After(ErrorKind::Unavailable));
    let run = bench.copy().await;
    assert_sums(&*bench.ledger, &run).await;
    assert_eq!(bench.states().await["large"], State::Verified);
    assert_eq!(bench.flaky.calls(Op::PutPart), 3, "nothing is sent again: {:?}", run.tally);
    bench.assert_equal().await;
}

#[tokio::test]
async fn an_upload_that_was_begun_and_never_recorded_is_swept_by_the_next_run() {
    let bench = bench().await;
    bench.put("large", bytes(1, 12 << 20)).await;
    // The intent is recorded, the upload is begun, and its answer is lost: the ledger has no ticket.
    bench.flaky.fail_next(Op::BeginUpload, Fault::After(ErrorKind::Denied));
    bench.copy_with(&once()).await;
    let foreign = bench.target.begin(&id("somebody-else"), PART, UploadOptions::default()).await.unwrap();
    assert_eq!(bench.target.stale(Duration::ZERO).await.unwrap().len(), 2);
    bench.copy().await;
    assert_eq!(bench.target.stale(Duration::ZERO).await.unwrap(), [foreign], "another's upload stays");
}

/// The second attempt succeeds, and nothing would ever lead back to the upload of the first.
#[tokio::test]
async fn an_upload_whose_beginning_was_not_answered_is_swept_before_the_next_attempt() {
    let bench = bench().await;
    bench.put("large", bytes(1, 12 << 20)).await;
    bench.flaky.fail_next(Op::BeginUpload, Fault::After(ErrorKind::Unavailable));
    let run = bench.copy().await;
    assert_eq!(run.tally.retries, 1);
    bench.assert_equal().await;
}

#[tokio::test]
async fn an_audit_finds_what_is_missing_different_extra_unproven_and_outdated() {
    let bench = bench().await;
    for name in ["deleted", "fine", "flipped", "outdated", "overwritten", "resized"] {
        bench.put(name, bytes(3, 100)).await;
    }
    bench.copy().await;
    bench.target.delete(&id("deleted"), Precondition::None).await.unwrap();
    bench.target.upload_bytes(&id("overwritten"), bytes(4, 100).into()).await.unwrap();
    bench.target.upload_bytes(&id("resized"), bytes(4, 99).into()).await.unwrap();
    bench.target.upload_bytes(&id("extra"), Bytes::from_static(b"x")).await.unwrap();
    assert!(bench.target.corrupt(&id("flipped")));
    bench.put("outdated", bytes(5, 100)).await;
    bench.put("late", bytes(5, 100)).await;
    bench.target.upload_bytes(&id("late"), bytes(5, 100).into()).await.unwrap();

    let (run, outcomes) = bench.verify(false).await;
    let mut expected = BTreeMap::from([
        ("deleted".to_owned(), Outcome::Missing),
        ("extra".to_owned(), Outcome::Extra),
        ("late".to_owned(), Outcome::Unverified),
        ("outdated".to_owned(), Outcome::Outdated),
        ("overwritten".to_owned(), Outcome::Different),
        ("resized".to_owned(), Outcome::Different),
    ]);
    assert_eq!(outcomes, expected);
    assert_eq!((run.tally.planned, run.tally.unchanged), (7, 2));

    // Only reading finds a bit that flipped at rest; and reading both sides proves what the ledger never saw.
    let (run, outcomes) = bench.verify(true).await;
    expected.insert("flipped".to_owned(), Outcome::Different);
    expected.insert("late".to_owned(), Outcome::Matched);
    assert_eq!(outcomes, expected);
    assert_eq!((run.tally.planned, run.tally.unchanged), (7, 2));

    // What an audit found is copied again.
    let run = bench.copy().await;
    assert_sums(&*bench.ledger, &run).await;
    bench.target.delete(&id("extra"), Precondition::None).await.unwrap();
    bench.assert_equal().await;
    let (_, outcomes) = bench.verify(true).await;
    assert_eq!(outcomes, BTreeMap::new());
}

/// Why the first attempts failed is not forgotten because the last one did not.
#[tokio::test]
async fn every_attempt_at_a_file_is_kept_and_how_the_run_went() {
    let bench = bench().await;
    for name in ["a", "b"] {
        bench.put(name, "abc").await;
    }
    bench.flaky.fail_next(Op::Upload, Fault::Before(ErrorKind::Timeout));
    bench.flaky.fail_next(Op::Upload, Fault::Before(ErrorKind::Throttled));
    let mut options = once();
    options.attempts = NonZeroU32::new(3).unwrap();
    let run = bench.copy_with(&options).await;
    assert_eq!((run.tally.retries, run.tally.planned), (2, 2));
    let mut reasons = Vec::new();
    for name in ["a", "b"] {
        for attempt in bench.ledger.attempts(&id(name)).await.unwrap() {
            assert_eq!((attempt.run, attempt.number), (run.id, 1));
            assert!(!attempt.detail.is_empty());
            reasons.push(attempt.reason);
        }
    }
    reasons.sort();
    assert_eq!(reasons, ["throttled", "timeout"]);

    let course = bench.ledger.course(run.id).await.unwrap().unwrap();
    assert_eq!(course.settings["attempts"], "3");
    assert_eq!(course.timeline.iter().map(|point| point.sent).sum::<u64>(), run.tally.bytes_sent);
    assert_eq!(course.timeline.iter().map(|point| point.done).sum::<u64>(), 2);
    let mut slowest: Vec<_> = course.slowest.iter().map(|slow| slow.id.as_str()).collect();
    slowest.sort_unstable();
    assert_eq!(slowest, ["a", "b"]);
}

#[tokio::test]
async fn a_file_gone_from_the_source_stays_in_the_target() {
    let bench = bench().await;
    bench.put("a", bytes(1, 10)).await;
    bench.put("b", bytes(2, 10)).await;
    bench.copy().await;
    bench.source.delete(&id("a"), Precondition::None).await.unwrap();
    let run = bench.copy().await;
    assert_sums(&*bench.ledger, &run).await;
    assert_eq!(bench.outcomes(&run).await, BTreeMap::from([("a".to_owned(), Outcome::Gone)]));
    assert!(bench.target.exists(&id("a")).await.unwrap());
    // Told once, and known again when it comes back.
    assert_eq!(bench.outcomes(&bench.copy().await).await, BTreeMap::new());
    bench.put("a", bytes(3, 10)).await;
    assert_eq!(
        bench.outcomes(&bench.copy().await).await,
        BTreeMap::from([("a".to_owned(), Outcome::Copied)])
    );
    bench.assert_equal().await;
}

/// A directory that is not mounted looks like one that is empty.
#[tokio::test]
async fn an_empty_source_makes_nothing_gone() {
    let bench = bench().await;
    bench.put("a", bytes(1, 10)).await;
    bench.copy().await;
    bench.source.delete(&id("a"), Precondition::None).await.unwrap();
    for error in [
        engine::copy(&bench.job, &options()).await.unwrap_err(),
        engine::verify(&bench.job, &VerifyOptions::default()).await.unwrap_err(),
    ] {
        assert!(matches!(error, EngineError::EmptySource { files: 1, removal: None }), "{error}");
    }
    assert_eq!(bench.states().await["a"], State::Verified);
    let mut really = options();
    really.allow_empty_source = true;
    bench.copy_with(&really).await;
    assert_eq!(bench.states().await["a"], State::Gone);
    // Known as gone, it is no longer missed.
    bench.copy().await;
}

/// What is published and could not be compared is compared later, and not sent again.
#[tokio::test]
async fn a_failed_comparison_does_not_throw_the_copy_away() {
    let to = TempDir::new().unwrap();
    let mut bench = bench().await;
    bench.flaky = Arc::new(FlakyStorage::new(local(to.path(), Access::ReadWrite).await));
    bench.job.target = bench.flaky.clone();
    bench.put("a", bytes(1, 1000)).await;
    bench.put("b", bytes(2, 2000)).await;
    // A directory reads parts back itself, as it puts them.
    bench.put("large", bytes(3, 12 << 20)).await;
    for _ in 0..2 {
        bench.flaky.fail_next(Op::Download, Fault::Before(ErrorKind::Denied));
    }
    let run = bench.copy_with(&once()).await;
    assert_sums(&*bench.ledger, &run).await;
    let states = bench.states().await;
    assert_eq!([states["a"], states["b"], states["large"]], [State::Copied, State::Copied, State::Verified]);
    let sent = [Op::Upload, Op::PutPart].map(|op| bench.flaky.calls(op));
    // An attempt of the next run fails as well, and its second one does not send either.
    bench.flaky.fail_next(Op::Download, Fault::Before(ErrorKind::Unavailable));
    let run = bench.copy().await;
    assert_sums(&*bench.ledger, &run).await;
    assert!(bench.states().await.values().all(|state| *state == State::Verified));
    assert_eq!(sent, [Op::Upload, Op::PutPart].map(|op| bench.flaky.calls(op)), "nothing is sent again");
}

#[tokio::test]
async fn an_audit_of_a_part_says_nothing_of_the_rest() {
    let mut bench = bench().await;
    for name in ["a", "b", "gone"] {
        bench.put(name, bytes(3, 100)).await;
    }
    bench.copy().await;
    bench.source.delete(&id("gone"), Precondition::None).await.unwrap();
    bench.target.delete(&id("gone"), Precondition::None).await.unwrap();
    let rules = vec![Rule::include("/a").unwrap(), Rule::exclude("**").unwrap()];
    let mut criteria = Criteria::default();
    criteria.rules = rules;
    bench.job.filter = Filter::new(criteria);
    let (run, outcomes) = bench.verify(false).await;
    assert_eq!((run.tally.planned, run.tally.unchanged), (1, 1));
    let expected = [("b".to_owned(), Outcome::Excluded), ("gone".to_owned(), Outcome::Gone)];
    assert_eq!(outcomes, BTreeMap::from(expected));
}

#[tokio::test]
async fn an_audit_that_is_stopped_calls_nothing_matched_that_it_has_not_compared() {
    let mut bench = bench().await;
    for name in ["a", "b", "c"] {
        bench.put(name, bytes(3, 4 << 20)).await;
    }
    bench.copy().await;
    let mut slow = VerifyOptions::default();
    slow.read_back = true;
    slow.bandwidth = NonZeroU64::new(1 << 20).map(Bandwidth::fixed);
    let stop = bench.job.stop.clone();
    let (ended, ()) = tokio::join!(engine::verify(&bench.job, &slow), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.cancel();
    });
    let run = bench.ended(ended.unwrap()).await;
    assert_eq!((run.end, run.tally.unchanged), (Some(RunEnd::Interrupted), 0));
    assert!(bench.outcomes(&run).await.values().all(|outcome| *outcome == Outcome::Unverified));
    assert_eq!(bench.outcomes(&run).await.len() as u64, run.tally.planned);
    bench.job.stop = CancellationToken::new();
}

#[tokio::test]
async fn a_run_that_is_stopped_accounts_for_every_planned_file_and_the_next_goes_on() {
    let mut bench = bench().await;
    for number in 0..40 {
        bench.put(&format!("{number:02}"), bytes(number, 200_000)).await;
    }
    bench.put("large", bytes(99, 30 << 20)).await;
    let mut slow = options();
    slow.bandwidth = NonZeroU64::new(4 << 20).map(Bandwidth::fixed);
    let stop = bench.job.stop.clone();
    let (ended, ()) = tokio::join!(engine::copy(&bench.job, &slow), async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        stop.cancel();
    });
    let ended = ended.unwrap();
    assert_eq!(ended.end, RunEnd::Interrupted);
    let run = bench.ended(ended).await;
    assert_sums(&*bench.ledger, &run).await;

    bench.job.stop = CancellationToken::new();
    assert_eq!(bench.copy().await.end, Some(RunEnd::Complete));
    bench.assert_equal().await;
}

#[tokio::test]
async fn a_target_that_is_down_ends_the_run_and_loses_no_place() {
    let bench = bench().await;
    for number in 0..50 {
        bench.put(&format!("{number:02}"), bytes(number, 100)).await;
    }
    bench.flaky.set_outage(true);
    let error = engine::copy(&bench.job, &options()).await.unwrap_err();
    assert!(matches!(&error, EngineError::Target(error) if error.is_outage()), "{error}");
    bench.flaky.set_outage(false);
    for _ in 0..20 {
        bench.flaky.fail_next(Op::Upload, Fault::Before(ErrorKind::Unavailable));
    }
    let error = engine::copy(&bench.job, &options()).await.unwrap_err();
    assert!(matches!(&error, EngineError::Target(error) if error.is_outage()), "{error}");
    let run = bench.ledger.run(None).await.unwrap().unwrap();
    assert_eq!(run.end, Some(RunEnd::Aborted));
    assert_sums(&*bench.ledger, &run).await;
    let run = bench.copy().await;
    assert_sums(&*bench.ledger, &run).await;
    bench.assert_equal().await;
}

#[tokio::test]
async fn refused_credentials_end_the_run_at_the_first_file() {
    let bench = bench().await;
    for number in 0..50 {
        bench.put(&format!("{number:02}"), bytes(number, 100)).await;
    }
    for _ in 0..50 {
        bench.flaky.fail_next(Op::Upload, Fault::Before(ErrorKind::Unauthenticated));
    }
    let error = engine::copy(&bench.job, &options()).await.unwrap_err();
    assert!(matches!(&error, EngineError::Target(error) if error.kind() == ErrorKind::Unauthenticated));
    assert!(bench.flaky.calls(Op::Upload) < 20);
}

/// Whatever fails, before or after its effect: after enough runs everything is there, and no run ever called a
/// file copied whose bytes are not.
#[tokio::test]
async fn faults_at_random_lose_nothing_and_report_nothing_wrong() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..4 {
        let mut bench = bench().await;
        let odds = Odds::default().with_before(0.1).with_after(0.1).with_broken(0.05);
        bench.flaky = Arc::new(FlakyStorage::new(bench.target.clone()).with_odds(odds, random.random()));
        bench.job.target = bench.flaky.clone();
        for number in 0..20 {
            let size = if random.random_bool(0.1) { 12 << 20 } else { random.random_range(0..100_000) };
            bench.put(&format!("{number:02}"), bytes(random.random(), size)).await;
        }
        let mut runs = 0;
        loop {
            runs += 1;
            assert!(runs < 200, "seed {seed} round {round} does not come to an end");
            let ended = engine::copy(&bench.job, &options()).await;
            let Some(run) = bench.ledger.run(None).await.unwrap() else { continue };
            for (name, outcome) in bench.outcomes(&run).await {
                if outcome == Outcome::Copied {
                    let name = id(&name);
                    let (source, target) =
                        tokio::join!(bench.source.download_bytes(&name), bench.target.download_bytes(&name));
                    assert!(source.unwrap() == target.unwrap(), "seed {seed} round {round}: {name}");
                }
            }
            if ended.is_ok() {
                assert_sums(&*bench.ledger, &run).await;
            }
            let states = bench.states().await;
            if states.len() == 20 && states.values().all(|state| *state == State::Verified) {
                break;
            }
        }
        bench.job.target = bench.target.clone();
        bench.copy().await;
        bench.assert_equal().await;
    }
}

async fn local(root: &std::path::Path, access: Access) -> Arc<LocalStorage> {
    Arc::new(LocalStorage::open(LocalConfig::new(root).with_access(access)).await.unwrap())
}

#[tokio::test]
async fn from_disk_to_disk_every_byte_is_read_back() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::create_dir(from.path().join("d")).unwrap();
    std::fs::write(from.path().join("d/small"), bytes(1, 1000)).unwrap();
    std::fs::write(from.path().join("large"), bytes(2, 12 << 20)).unwrap();
    let mut bench = bench().await;
    bench.job.source = local(from.path(), Access::ReadOnly).await;
    bench.job.target = local(to.path(), Access::ReadWrite).await;
    let run = bench.copy().await;
    assert_sums(&*bench.ledger, &run).await;
    assert_eq!(bench.outcomes(&run).await.len(), 2);
    for name in ["d/small", "large"] {
        let read = |root: &TempDir| std::fs::read(root.path().join(name)).unwrap();
        assert!(read(&from) == read(&to), "{name}");
        let row = bench.ledger.file(&id(name)).await.unwrap().unwrap();
        assert_eq!(row.verified, Some(Verified::ReadBack));
    }
    assert!(!from.path().join(".storage").exists(), "nothing is written into the source");
    assert_eq!(bench.copy().await.tally.unchanged, 2);
}

/// The storage is told that the copier compares: so it must.
#[tokio::test]
async fn a_source_whose_bytes_are_not_those_of_its_digest_is_never_published() {
    let bench = bench().await;
    for (name, size) in [("fine", 100), ("small", 100), ("large", 12 << 20)] {
        bench.put(name, bytes(6, size)).await;
    }
    for name in ["small", "large"] {
        assert!(bench.source.corrupt(&id(name)));
    }
    let run = bench.copy().await;
    let outcomes = bench.outcomes(&run).await;
    for (name, outcome) in [("fine", Outcome::Copied), ("small", Outcome::Failed), ("large", Outcome::Failed)]
    {
        assert_eq!(outcomes.get(name), Some(&outcome), "{name}");
        assert_eq!(bench.target.exists(&id(name)).await.unwrap(), outcome == Outcome::Copied, "{name}");
    }
}

async fn sync(bench: &Bench) -> RunRecord {
    let mut sync = SyncOptions::default();
    (sync.copy, sync.removal) = (options(), Some(Removal::default()));
    let run = bench.ended(engine::sync(&bench.job, &sync).await.unwrap()).await;
    let directory = TempDir::new().unwrap();
    report::files::write(&*bench.ledger, Some(run.id), directory.path()).await.unwrap();
    run
}

/// A mirror of two files, of which the source has lost one.
async fn mirror() -> Bench {
    let bench = bench().await;
    for name in ["a", "b"] {
        bench.put(name, name).await;
    }
    sync(&bench).await;
    bench.source.delete(&id("a"), Precondition::None).await.unwrap();
    bench
}

#[tokio::test]
async fn a_file_that_is_in_the_source_again_when_its_turn_comes_is_not_removed() {
    let mut bench = mirror().await;
    let source = Arc::clone(&bench.source);
    let asked = Arc::new(FlakyStorage::new(bench.source.clone()));
    bench.job.source = asked.clone();
    // Both walks are over when the source is asked for single files.
    asked.before_next(Op::Metadata, move || {
        let _ = source.upload_bytes(&id("a"), "back".into()).now_or_never().unwrap();
    });
    let run = sync(&bench).await;
    assert_eq!(bench.outcomes(&run).await["a"], Outcome::NotDeleted);
    assert!(bench.target.exists(&id("a")).await.unwrap());
    // What cannot be asked for is not taken for absent either.
    bench.source.delete(&id("a"), Precondition::None).await.unwrap();
    asked.fail_next(Op::Metadata, Fault::Before(ErrorKind::Denied));
    let run = sync(&bench).await;
    assert_eq!(bench.outcomes(&run).await["a"], Outcome::NotDeleted);
    assert!(bench.target.exists(&id("a")).await.unwrap());
}

#[tokio::test]
async fn a_file_that_the_target_got_anew_is_not_removed() {
    for conditional in [Op::Metadata, Op::Delete] {
        let bench = mirror().await;
        let target = Arc::clone(&bench.target);
        bench.flaky.before_next(conditional, move || {
            let _ = target.upload_bytes(&id("a"), "anew".into()).now_or_never().unwrap();
        });
        let run = sync(&bench).await;
        assert_eq!(bench.outcomes(&run).await["a"], Outcome::NotDeleted, "{conditional:?}");
        assert_eq!(bench.target.download_bytes(&id("a")).await.unwrap(), "anew");
    }
}

#[tokio::test]
async fn a_removal_that_fails_is_told_and_done_by_the_next_run() {
    for op in [Op::Metadata, Op::Copy, Op::Delete] {
        let bench = mirror().await;
        bench.flaky.fail_next(op, Fault::Before(ErrorKind::Denied));
        let run = sync(&bench).await;
        assert_eq!(bench.outcomes(&run).await["a"], Outcome::NotDeleted, "{op:?}");
        assert_eq!((run.tally.candidates, run.tally.withheld), (1, None));
        assert!(bench.target.exists(&id("a")).await.unwrap());
        let run = sync(&bench).await;
        assert_eq!(bench.outcomes(&run).await["a"], Outcome::Quarantined, "{op:?}");
        assert!(!bench.target.exists(&id("a")).await.unwrap());
    }
}

#[tokio::test]
async fn a_listing_of_the_target_that_breaks_off_deletes_nothing() {
    let bench = mirror().await;
    bench.flaky.fail_next(Op::List, Fault::Before(ErrorKind::Unavailable));
    let run = sync(&bench).await;
    assert_eq!(run.tally.withheld, Some(Withheld::TargetIncomplete));
    assert!(bench.target.exists(&id("a")).await.unwrap());
}

/// What is tried again is what failed, at the cost of itself: nothing is listed, and nothing else is judged.
#[tokio::test]
async fn a_run_of_named_files_touches_these_alone_and_its_sums_add_up() {
    let mut bench = bench().await;
    for name in ["a", "b", "c", "gone", "left"] {
        bench.put(name, vec![7; 100]).await;
    }
    bench.copy().await;
    bench.put("b", vec![8; 200]).await;
    bench.put("c", vec![9; 300]).await;
    bench.put("new", vec![1; 10]).await;
    bench.source.delete(&id("gone"), Precondition::None).await.unwrap();
    bench.source.delete(&id("left"), Precondition::None).await.unwrap();

    let only = ["a", "b", "gone", "never", "new"].map(id);
    bench.job.only = Some(Arc::from(only));
    let run = bench.copy().await;
    let due = BTreeMap::from([
        ("a".to_owned(), Outcome::Unchanged),
        ("b".to_owned(), Outcome::Copied),
        ("gone".to_owned(), Outcome::Gone),
        ("new".to_owned(), Outcome::Copied),
    ]);
    assert_eq!(bench.outcomes(&run).await, due);
    assert!(run.scan_complete, "what it was about was seen");
    assert_eq!((run.scanned_to.clone(), run.tally.planned, run.tally.unchanged), (None, 3, 1));
    // The rows of the report are as many as the sums say.
    let directory = TempDir::new().unwrap();
    report::files::write(&*bench.ledger, Some(run.id), directory.path()).await.unwrap();
    let states = bench.states().await;
    assert_eq!(
        (states["left"], states["gone"], states["c"]),
        (State::Verified, State::Gone, State::Verified)
    );
    assert_eq!(bench.target.download_bytes(&id("c")).await.unwrap().len(), 100, "not asked for");

    bench.job.only = None;
    bench.copy().await;
    assert_eq!(bench.states().await["left"], State::Gone);
    assert_eq!(bench.target.download_bytes(&id("c")).await.unwrap().len(), 300);
}

/// rclone and others let the one replace the other, and report two files copied.
#[tokio::test]
async fn names_that_are_one_to_the_target_are_refused_before_a_byte_moves() {
    let mut bench = bench().await;
    for name in ["README", "readme", "caf\u{e9}", "cafe\u{301}", "d/x", "other"] {
        bench.put(name, name.as_bytes().to_vec()).await;
    }
    bench.job.folding = Folding { case: true, unicode: true };
    let run = bench.copy().await;
    let (able, filter) = (bench.target.capabilities(), Filter::default());
    let plan = engine::plan(&*bench.source, &able, None, bench.job.folding, None, &filter, 20);
    let plan = plan.await.unwrap();
    assert_eq!(plan.failed, [("same_name".to_owned(), 4)].into(), "the plan says what the copy does");
    assert_eq!((plan.to_copy().files, plan.twins.len()), (2, 2));
    let outcomes = bench.outcomes(&run).await;
    let failed: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Failed).map(|(id, _)| &**id).collect();
    assert_eq!(failed, ["README", "cafe\u{301}", "caf\u{e9}", "readme"]);
    let listed: Vec<_> =
        bench.target.list(&Prefix::all(), ListOptions::default()).try_collect().await.unwrap();
    assert_eq!(listed.into_iter().map(|file| file.id.to_string()).collect::<Vec<_>>(), ["d/x", "other"]);
    // One of them alone is copied; another that comes later does not replace it.
    for name in ["README", "caf\u{e9}"] {
        bench.source.delete(&id(name), Precondition::None).await.unwrap();
    }
    bench.copy().await;
    bench.put("README", "later").await;
    let run = bench.copy().await;
    assert_eq!(bench.outcomes(&run).await["README"], Outcome::Failed);
    assert_eq!(bench.states().await["readme"], State::Verified);
    assert!(bench.target.download_bytes(&id("README")).await.is_err());
}

/// The target's copy of a file that was moved away may be the only one: no newcomer whose name is the same there takes
/// its place.
#[tokio::test]
async fn a_name_that_is_one_with_that_of_a_file_that_was_moved_away_is_refused() {
    let mut bench = bench().await;
    for name in ["README", "other"] {
        bench.put(name, "moved").await;
    }
    bench.job.folding = Folding { case: true, unicode: false };
    bench.copy().await;
    let run = bench.ledger.begin_run(RunKind::Copy, "test").await.unwrap();
    for name in ["README", "other"] {
        let retired = Change::Retired { id: id(name), place: format!("quarantine/{name}") };
        assert_eq!(bench.ledger.record(run, vec![retired]).await.unwrap(), [Recorded::Done]);
        bench.source.delete(&id(name), Precondition::None).await.unwrap();
    }
    bench.ledger.finish_run(run, RunEnd::Complete, Tally::default(), true).await.unwrap();
    // Its own name it may have.
    for name in ["readme", "other"] {
        bench.put(name, "newer").await;
    }
    let (able, filter) = (bench.target.capabilities(), Filter::default());
    let ledger: &dyn Ledger = &*bench.ledger;
    let plan = engine::plan(&*bench.source, &able, None, bench.job.folding, Some(ledger), &filter, 20)
        .await
        .unwrap();
    assert_eq!(plan.failed, [("same_name".to_owned(), 1)].into());
    for _ in 0..2 {
        let run = bench.copy().await;
        assert_eq!(bench.outcomes(&run).await["readme"], Outcome::Failed);
    }
    assert!(bench.target.download_bytes(&id("readme")).await.is_err());
    assert_eq!(bench.target.download_bytes(&id("other")).await.unwrap().len(), 5);
    assert_eq!(bench.states().await["README"], State::Retired);
}
