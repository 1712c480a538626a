//! Locks and durability across processes: the test binary starts itself as the other process.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use rand::Rng;
use storage_core::storage::Verified;
use tempfile::TempDir;

use super::super::{OpenMode, SqliteLedger};
use super::binding;
use crate::item::State;
use crate::ledger::conformance::{done, intend, publish};
use crate::ledger::{FileFilter, Ledger, LedgerError, RunEnd, RunId, RunKind};

const PATH: &str = "LEDGER_TEST_PATH";
const ANSWERS: &str = "LEDGER_TEST_ANSWERS";
const FIRST: &str = "LEDGER_TEST_FIRST";

/// Files of one call, which are durable together.
const FILES: usize = 3;

/// The other process: records calls from several tasks for ever, and notes the number of each that was
/// answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that other tests start"]
async fn other_process() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let first: usize = std::env::var(FIRST).unwrap().parse().unwrap();
    let answers = OpenOptions::new().append(true).open(std::env::var_os(ANSWERS).unwrap()).unwrap();
    let answers = Arc::new(Mutex::new(answers));
    let ledger = Arc::new(SqliteLedger::open(path, &binding(), OpenMode::Create).await.unwrap());
    let run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    answer(&answers, "ready");
    let callers = (0..4).map(|caller| {
        let (ledger, answers) = (Arc::clone(&ledger), Arc::clone(&answers));
        tokio::spawn(async move {
            for number in (first + caller..).step_by(4) {
                for changes in [true, false] {
                    let names = (0..FILES).map(|file| format!("{number:08}/{file}"));
                    let changes = names
                        .map(|name| if changes { intend(&name) } else { publish(&name, Verified::Backend) });
                    done(&*ledger, run, changes.collect()).await;
                }
                answer(&answers, &number.to_string());
            }
        })
    });
    futures::future::join_all(callers).await;
}

fn answer(answers: &Mutex<File>, text: &str) {
    answers.lock().unwrap().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// A process that records into the ledger at `path`; killed when dropped.
pub(super) struct Other {
    child: Child,
    answers: PathBuf,
}

impl Other {
    /// Starts it, and waits until it has the ledger. `answers` lies where nothing happens to it.
    pub(super) fn start(path: &Path, answers: &Path, first: usize) -> Self {
        fs::write(answers, "").unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["ledger::sqlite::tests::process::other_process", "--exact", "--ignored"])
            .env(PATH, path)
            .env(ANSWERS, answers)
            .env(FIRST, first.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut other = Self { child, answers: answers.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(answers).unwrap().starts_with("ready\n") {
            assert_eq!(other.child.try_wait().unwrap(), None, "the other process ended");
            assert!(Instant::now() < deadline, "the other process does not begin");
            std::thread::sleep(Duration::from_millis(2));
        }
        other
    }

    /// Returns the calls answered so far.
    pub(super) fn answered(&self) -> BTreeSet<usize> {
        let text = fs::read_to_string(&self.answers).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills it as kill -9 does.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asserts that the ledger holds every call that was answered, and of no call a part.
pub(super) async fn assert_holds(path: &Path, answered: &BTreeSet<usize>, context: &str) {
    let ledger = SqliteLedger::open(path, &binding(), OpenMode::Existing).await.expect(context);
    let files: Vec<_> = ledger.files(FileFilter::default()).try_collect().await.expect(context);
    let verified: BTreeSet<_> = files
        .iter()
        .filter(|file| file.state == State::Verified)
        .map(|file| file.id.as_str().to_owned())
        .collect();
    for number in answered {
        for file in 0..FILES {
            assert!(verified.contains(&format!("{number:08}/{file}")), "{context}: {number}/{file} is lost");
        }
    }
    for chunk in files.chunks(FILES) {
        let call: BTreeSet<_> = chunk.iter().map(|file| (file.id.parent(), file.state)).collect();
        assert_eq!((chunk.len(), call.len()), (FILES, 1), "{context}: half a call: {chunk:?}");
    }
    let mut journalled = 0;
    for run in ledger.runs(u32::MAX, None).await.unwrap() {
        journalled += ledger.outcomes(run.id).try_collect::<Vec<_>>().await.unwrap().len();
    }
    assert_eq!(journalled, verified.len(), "{context}: files and journal disagree");
}

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_ledger_until_kill_9() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    let mut other = Other::start(&path, &directory.path().join("answers"), 0);
    match SqliteLedger::open(&path, &binding(), OpenMode::Create).await {
        Err(LedgerError::Locked { holder, .. }) => {
            assert!(holder.contains(&format!("process {} on ", other.child.id())), "{holder}");
        }
        result => panic!("{result:?}"),
    }
    let reader = SqliteLedger::open_read_only(&path).await.unwrap();
    assert_eq!(reader.run(None).await.unwrap().unwrap().end, None, "status works beside it");
    drop(reader);
    other.kill();
    let ledger = SqliteLedger::open(&path, &binding(), OpenMode::Existing).await.unwrap();
    ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    let killed = ledger.run(Some(RunId(1))).await.unwrap().unwrap();
    assert_eq!(killed.end, Some(RunEnd::Aborted));
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "shows what the trial was worth")]
async fn kill_9_loses_nothing_that_was_answered() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    let mut answered = BTreeSet::new();
    for round in 0..12 {
        let mut other = Other::start(&path, &directory.path().join("answers"), round * 1_000_000);
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(5..150)));
        other.kill();
        answered.extend(other.answered());
        assert_holds(&path, &answered, &format!("round {round}")).await;
    }
    println!("12 kills, {} answered calls, none lost", answered.len());
    assert!(!answered.is_empty());
}
