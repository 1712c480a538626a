//! Power cuts: what was acknowledged in an outage is in the journal of a machine that lost its power.
//!
//! A child process writes and deletes with its primary out, the journal on a file system of its own, and says what it
//! is about to do and what was acknowledged. The parent cuts the power, restarts the file system, opens the journal and
//! compares.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::checksum::Digest;
use storage_core::error::ErrorKind;
use storage_core::id::Prefix;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::FallbackConfig;
use storage_core::storage::{FileStorage, FileStorageExt, ListOptions, Precondition};
use storage_core::testkit::flaky::FlakyStorage;

use crate::{id, no_breaker};

const PLACE: &str = "FALLBACK_TEST_POWER";
const SEED: &str = "FALLBACK_TEST_POWER_SEED";

/// Writers at a time, whose changes share commits, and the ids of each.
const WRITERS: u64 = 4;
const IDS: u64 = 12;

/// What the secondary is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Secondary {
    /// Gone with the process: what is tried is the journal alone, which nobody else's sync makes durable.
    Memory,
    /// A directory beside the journal: what is tried is the whole promise.
    Disk,
}

/// Opens the pair at a place; the primary is out.
async fn open(place: &Path) -> (FallbackStorage, FlakyStorage) {
    let primary = FlakyStorage::new(Arc::new(MemoryStorage::named("main")));
    primary.set_outage(true);
    let root = place.join("spare");
    let secondary: Arc<dyn FileStorage> = if root.exists() {
        Arc::new(LocalStorage::open(LocalConfig::new(root).with_name("spare")).await.unwrap())
    } else {
        Arc::new(MemoryStorage::named("spare"))
    };
    let config = FallbackConfig::new(place.join("journal")).with_breaker(no_breaker());
    let storage = FallbackStorage::open(Arc::new(primary.clone()), secondary, config).await.unwrap();
    (storage, primary)
}

/// The harness may have begun a line of its own; a child that nobody listens to ends.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(format!("\n{text}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Not a test of its own: what loses its power.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_in_an_outage_until_the_power_goes() {
    let (Some(place), Ok(seed)) = (std::env::var_os(PLACE), std::env::var(SEED)) else { return };
    let seed: u64 = seed.parse().unwrap();
    let (storage, _) = open(Path::new(&place)).await;
    let writers = (0..WRITERS).map(|writer| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(writer << 32));
            for n in 0_u64.. {
                let name = format!("{writer}/{}", random.random_range(0..IDS));
                let operation = format!("{writer}.{n}");
                let result = if random.random_bool(0.3) {
                    say(&format!("START {operation} {name} -"));
                    storage.delete(&id(&name), Precondition::None).await.map(drop)
                } else {
                    let text = format!("{seed:x}-{operation}");
                    say(&format!("START {operation} {name} {text}"));
                    storage.upload_bytes(&id(&name), Bytes::from(text)).await.map(drop)
                };
                match result {
                    Ok(()) => say(&format!("DONE {operation}")),
                    Err(error) => return say(&format!("FAILED {operation} {error}")),
                }
            }
        })
    });
    join_all(writers).await;
    std::future::pending::<()>().await;
}

#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

/// A child that is working; killed when dropped.
struct Working {
    child: Child,
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
}

impl Working {
    fn start(place: &Path, seed: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "power::child_writes_in_an_outage_until_the_power_goes", "--nocapture"]);
        command.env(PLACE, place).env(SEED, seed.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let heard = Arc::new(Heard::default());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                for line in lines.map_while(Result::ok) {
                    heard.lines.lock().unwrap().push(line);
                    heard.more.notify_all();
                }
            }
        });
        Self { child, heard, reader: Some(reader) }
    }

    fn wait_for(&self, acknowledged: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut lines = self.heard.lines.lock().unwrap();
        while lines.iter().filter(|line| line.starts_with("DONE ")).count() < acknowledged {
            assert!(Instant::now() < deadline, "the child stands still after {:?}", lines.last());
            lines = self.heard.more.wait_timeout(lines, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// Does `cut`, then kills the child. Returns what was heard, and how much of it before the cut: an acknowledgement
    /// of later may be of a sync that only seemed to succeed.
    fn cut(mut self, cut: impl FnOnce()) -> (Vec<String>, usize) {
        let certain = {
            let lines = self.heard.lines.lock().unwrap();
            cut();
            lines.len()
        };
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (std::mem::take(&mut self.heard.lines.lock().unwrap()), certain)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What the journal says of an id.
#[derive(Clone, Debug, PartialEq)]
enum Row {
    Nothing,
    Tombstone,
    File(Digest),
}

/// What may be known of each id after a story, and which of it was acknowledged, by the last operation.
#[derive(Default)]
struct Model {
    allowed: BTreeMap<String, Vec<Row>>,
    acknowledged: usize,
}

impl Model {
    fn take(&mut self, lines: &[String], certain: usize) {
        let mut started: BTreeMap<&str, (&str, Row)> = BTreeMap::new();
        for (at, line) in lines.iter().enumerate() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["START", operation, name, text] => {
                    let row =
                        if text == "-" { Row::Tombstone } else { Row::File(Digest::of(text.as_bytes())) };
                    self.of(name).push(row.clone());
                    started.insert(operation, (name, row));
                }
                ["DONE", operation] if at < certain => {
                    let (name, row) = started.remove(operation).unwrap();
                    *self.of(name) = vec![row];
                    self.acknowledged += 1;
                }
                ["FAILED", ..] => assert!(at >= certain, "{line}"),
                _ => {}
            }
        }
    }

    fn of(&mut self, name: &str) -> &mut Vec<Row> {
        self.allowed.entry(name.to_owned()).or_insert_with(|| vec![Row::Nothing])
    }
}

/// What the journal says of all ids.
async fn rows(storage: &FallbackStorage) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    let mut listing = storage.list(&Prefix::all(), ListOptions::default());
    while let Some(item) = listing.next().await {
        match item {
            Ok(file) => drop(rows.insert(file.id.to_string(), Row::File(file.digest.unwrap()))),
            // The spare has no more than the journal says.
            Err(error) => assert!(error.is_outage(), "{error}"),
        }
    }
    for name in (0..WRITERS).flat_map(|writer| (0..IDS).map(move |n| format!("{writer}/{n}"))) {
        if let Entry::Vacant(unnamed) = rows.entry(name) {
            let error = storage.metadata(&id(unnamed.key())).await.unwrap_err();
            let row = if error.kind() == ErrorKind::NotFound { Row::Tombstone } else { Row::Nothing };
            unnamed.insert(row);
        }
    }
    rows
}

/// What the primary has once it is back and healed.
async fn healed(storage: &FallbackStorage, primary: &FlakyStorage) -> BTreeMap<String, Row> {
    primary.set_outage(false);
    crate::heal(storage).await;
    assert_eq!(storage.pending().open, 0);
    let mut rows = BTreeMap::new();
    for name in (0..WRITERS).flat_map(|writer| (0..IDS).map(move |n| format!("{writer}/{n}"))) {
        let row = match primary.download_bytes(&id(&name)).await {
            Ok(bytes) => Row::File(Digest::of(&bytes)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                Row::Nothing
            }
        };
        rows.insert(name, row);
    }
    rows
}

mod heavy {
    use test_rig::disk::{FileSystem, Image};

    use super::*;

    fn number(variable: &str) -> Option<u64> {
        std::env::var(variable).ok().map(|text| text.parse().unwrap())
    }

    async fn power_cuts(kind: FileSystem, secondary: Secondary) {
        let Some(image) = Image::new(kind) else { return };
        let trials = number("CRASH_TRIALS").unwrap_or(8);
        let seed = number("CRASH_SEED").unwrap_or_else(|| rand::rng().random());
        eprintln!("CRASH_SEED={seed}");
        let place = image.path().join("service");
        std::fs::create_dir(&place).unwrap();
        if secondary == Secondary::Disk {
            std::fs::create_dir(place.join("spare")).unwrap();
        }
        // Their entries are not what is tried here.
        std::fs::File::open(&place).unwrap().sync_all().unwrap();
        std::fs::File::open(image.path()).unwrap().sync_all().unwrap();
        let (mut model, mut lost) = (Model::default(), Vec::new());
        for trial in 0..trials {
            let seed = seed.wrapping_add(trial);
            let mut random = StdRng::seed_from_u64(seed);
            let Some(power) = image.power() else { return };
            let child = Working::start(&place, seed);
            child.wait_for(random.random_range(1..80));
            if random.random_bool(0.5) {
                std::thread::sleep(Duration::from_micros(random.random_range(0..10_000)));
            }
            let (lines, certain) = child.cut(|| power.cut().unwrap());
            image.restart().unwrap();
            model.take(&lines, certain);
            let (storage, primary) = open(&place).await;
            let rows = rows(&storage).await;
            for (name, allowed) in &model.allowed {
                let row = &rows[name];
                if !allowed.contains(row) {
                    lost.push(format!("trial {trial} seed {seed}: {name}: {row:?}, not one of {allowed:?}"));
                }
            }
            if secondary == Secondary::Disk {
                // A write that was begun may take effect late: with the heal.
                for (name, row) in healed(&storage, &primary).await {
                    let mut allowed = model.allowed.get(&name).cloned().unwrap_or_default();
                    allowed.push(rows[&name].clone());
                    let gone = row == Row::Nothing && allowed.contains(&Row::Tombstone);
                    if !gone && !allowed.contains(&row) {
                        lost.push(format!(
                            "trial {trial} seed {seed}: healed {name}: {row:?}, not {allowed:?}"
                        ));
                    }
                }
                model.allowed.clear();
            } else {
                model.allowed = rows.into_iter().map(|(name, row)| (name, vec![row])).collect();
            }
        }
        let acknowledged = model.acknowledged;
        eprintln!(
            "{kind:?}, {secondary:?}: {trials} power cuts, {acknowledged} acknowledged, {} lost",
            lost.len()
        );
        assert!(lost.is_empty(), "{lost:#?}");
        assert!(acknowledged as u64 > trials, "{acknowledged}");
    }

    #[tokio::test]
    async fn a_power_cut_on_ext4_loses_no_row_of_an_acknowledged_write_or_deletion() {
        power_cuts(FileSystem::Ext4, Secondary::Memory).await;
    }

    #[tokio::test]
    async fn a_power_cut_on_xfs_loses_no_row_of_an_acknowledged_write_or_deletion() {
        power_cuts(FileSystem::Xfs, Secondary::Memory).await;
    }

    #[tokio::test]
    async fn a_power_cut_loses_nothing_that_was_acknowledged_in_an_outage() {
        power_cuts(FileSystem::Ext4, Secondary::Disk).await;
        power_cuts(FileSystem::Xfs, Secondary::Disk).await;
    }
}
