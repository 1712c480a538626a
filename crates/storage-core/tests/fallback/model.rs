//! Random operations, outages, lost answers, calls that never answer, dropped calls, restarts and heals, against a map of
//! what may be there; with a primary that compares preconditions, and with one that compares nothing.
//!
//! `FALLBACK_SEQUENCES` sets how many sequences are run for each role and primary (default 300), `FALLBACK_SEED` repeats a run; the seed is
//! printed, and so is how often what matters came up, of which each must. A failure is shrunk to the steps it needs.
//!
//! The map holds, for each id, every state that may be: one after an acknowledged write; one more for each write
//! whose answer was lost. What is read must be among them, in an outage too. After each complete heal the primary
//! itself must hold one of them; when all is settled, the spare must be empty and the replica equal.
//!
//! A stranger writes to the primary too (beside a spare: a replica knows nothing of strangers). What it wrote after our
//! last write is on the primary after each heal, and what we wrote meanwhile and were told is served, as a conflict.
//! Without a stranger there is none, but of a write whose answer was lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use storage_core::backend::memory::MemoryStorage;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, Error, ErrorKind, Op};
use storage_core::id::{FileId, Prefix};
use storage_core::layer::breaker::BreakerConfig;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{ListPolicy, Role};
use storage_core::layer::fallback::event::{Conflict, HealReport, Keep};
use storage_core::layer::timeout::TimeoutConfig;
use storage_core::metadata::{FileMetadata, Tags, Version};
use storage_core::storage::{
    DownloadOptions, FileStorage, FileStorageExt, ListOptions, Precondition, UploadOptions,
};
use storage_core::testkit::flaky::Fault;
use tempfile::TempDir;

use crate::Rig;
use crate::plain::Plain;

const IDS: [&str; 4] = ["a", "a/b", "b", "c"];

/// The first value of a stranger.
const STRANGERS: u8 = 10;

#[derive(Clone, Copy, Debug)]
enum Side {
    Primary,
    Secondary,
}

#[derive(Clone, Copy, Debug)]
enum If {
    Absent,
    Current,
    Wrong,
}

#[derive(Clone, Debug)]
enum Step {
    Upload {
        id: usize,
        value: u8,
    },
    UploadIf {
        id: usize,
        value: u8,
        when: If,
    },
    /// An upload that its caller drops after so many polls.
    Dropped {
        id: usize,
        value: u8,
        polls: u8,
    },
    Delete {
        id: usize,
    },
    DeleteIf {
        id: usize,
        when: If,
    },
    Copy {
        from: usize,
        to: usize,
    },
    Download {
        id: usize,
    },
    Metadata {
        id: usize,
    },
    List,
    Outage {
        side: Side,
        on: bool,
    },
    /// The next call of this kind happens, and its answer is lost.
    Lose {
        side: Side,
        op: Op,
    },
    /// The next call of this kind never answers, whether it happens or not; of a download, its body may not end.
    Hang {
        side: Side,
        op: Op,
        after: bool,
    },
    /// The next body breaks off.
    Break {
        side: Side,
    },
    Restart,
    Heal,
    /// Somebody else writes to the primary, past this storage, whether that can reach it or not.
    Stranger {
        id: usize,
    },
    /// Everything is up, and healed: the sides are looked at.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..IDS.len();
    let value = || 0..4u8;
    let side = || prop_oneof![3 => Just(Side::Primary), 1 => Just(Side::Secondary)];
    let when = || prop_oneof![Just(If::Absent), Just(If::Current), Just(If::Wrong)];
    let op = prop_oneof![Just(Op::Upload), Just(Op::Delete), Just(Op::Copy), Just(Op::Metadata)];
    let hanging = prop_oneof![
        Just(Op::Upload),
        Just(Op::Delete),
        Just(Op::Copy),
        Just(Op::Metadata),
        Just(Op::Download),
        Just(Op::List),
    ];
    prop_oneof![
        8 => (id(), value()).prop_map(|(id, value)| Step::Upload { id, value }),
        4 => (id(), value(), when()).prop_map(|(id, value, when)| Step::UploadIf { id, value, when }),
        2 => (id(), value(), 1..6u8).prop_map(|(id, value, polls)| Step::Dropped { id, value, polls }),
        4 => id().prop_map(|id| Step::Delete { id }),
        2 => (id(), when()).prop_map(|(id, when)| Step::DeleteIf { id, when }),
        4 => (id(), id()).prop_map(|(from, to)| Step::Copy { from, to }),
        4 => id().prop_map(|id| Step::Download { id }),
        2 => id().prop_map(|id| Step::Metadata { id }),
        2 => Just(Step::List),
        6 => (side(), any::<bool>()).prop_map(|(side, on)| Step::Outage { side, on }),
        3 => (side(), op).prop_map(|(side, op)| Step::Lose { side, op }),
        2 => (side(), hanging, any::<bool>()).prop_map(|(side, op, after)| Step::Hang { side, op, after }),
        1 => side().prop_map(|side| Step::Break { side }),
        2 => Just(Step::Restart),
        2 => Just(Step::Heal),
        2 => id().prop_map(|id| Step::Stranger { id }),
        1 => Just(Step::Settle),
    ]
}

/// A file as far as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    bytes: Bytes,
    content_type: Option<String>,
    file_name: Option<String>,
    created: Option<SystemTime>,
    tags: Tags,
}

fn content(value: u8) -> Bytes {
    // Few values, so that equal bytes under different attributes come up.
    Bytes::from(vec![b'0' + value % 3; 1 + usize::from(value)])
}

fn options(value: u8) -> UploadOptions {
    let options = UploadOptions::default()
        .with_content_type(format!("text/{value}"))
        .with_created(SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::from(value)))
        .with_tag("value", value.to_string());
    if value.is_multiple_of(2) { options.with_file_name(format!("ü{value}")) } else { options }
}

fn file(value: u8) -> File {
    let options = options(value);
    File {
        bytes: content(value),
        content_type: options.content_type,
        file_name: options.file_name,
        created: options.created,
        tags: options.tags,
    }
}

fn seen(metadata: &FileMetadata, bytes: Bytes) -> File {
    File {
        bytes,
        content_type: metadata.content_type.clone(),
        file_name: metadata.file_name.clone(),
        created: metadata.created,
        tags: metadata.tags.clone(),
    }
}

/// What may be under an id.
type Possible = Vec<Option<File>>;

/// What is known of others' writes to an id.
#[derive(Clone, Debug, Default)]
struct Theirs {
    /// The file, where nothing of ours came after it.
    newest: Option<File>,
    /// It met one of ours that was acknowledged: both must be there.
    met: bool,
    /// Whether there may be a conflict at all: a stranger wrote, or an answer of ours was lost.
    possible: bool,
}

/// How often what this is about came up.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    degraded: u64,
    tombstones: u64,
    replayed: u64,
    deleted: u64,
    restarts: u64,
    met: u64,
    conflicts: u64,
    hung: u64,
    refused: u64,
}

impl Counts {
    fn add(&mut self, one: Self) {
        self.degraded += one.degraded;
        self.tombstones += one.tombstones;
        self.replayed += one.replayed;
        self.deleted += one.deleted;
        self.restarts += one.restarts;
        self.met += one.met;
        self.conflicts += one.conflicts;
        self.hung += one.hung;
        self.refused += one.refused;
    }
}

/// What the primary compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compares {
    Versions,
    Nothing,
}

/// How long a side may take. What answers at all does so when it is asked first, so this is short.
const DEADLINE: Duration = Duration::from_millis(30);

struct World {
    role: Role,
    compares: Compares,
    rig: Rig,
    storage: Option<FallbackStorage>,
    model: BTreeMap<usize, Possible>,
    theirs: BTreeMap<usize, Theirs>,
    /// Files that strangers wrote, no two of them alike, nor like one of ours.
    strangers: u8,
    counts: Counts,
    /// Whether something is out or about to fail, so that calls may.
    trouble: bool,
}

type Verdict = Result<(), TestCaseError>;

macro_rules! wrong {
    ($($text:tt)*) => { return Err(TestCaseError::fail(format!($($text)*))) };
}

async fn open(rig: &Rig, compares: Compares) -> FallbackStorage {
    match compares {
        Compares::Versions => rig.open().await,
        Compares::Nothing => {
            let primary = Arc::new(Plain::around(Arc::new(rig.primary.clone())));
            let secondary = Arc::new(rig.secondary.clone());
            FallbackStorage::open(primary, secondary, rig.config.clone()).await.unwrap()
        }
    }
}

impl World {
    async fn new(role: Role, compares: Compares) -> Self {
        // Durability has its tests; here the memory behind /dev/shm spares thousands of syncs.
        let shm = std::path::Path::new("/dev/shm");
        let directory = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() }.unwrap();
        let short = Duration::from_micros(300);
        let breaker = BreakerConfig::default().with_threshold(3, 0.5).with_open_for(short, short);
        let both = ListPolicy::default().with_both_sides(role == Role::Replica);
        let rig = Rig::within(role, directory).with(|config| config.with_breaker(breaker).with_list(both));
        let mut deadline = TimeoutConfig::default().with_base(DEADLINE).with_stall(DEADLINE);
        deadline.server_side = DEADLINE;
        let rig = rig.with(|config| config.with_clock_margin(Duration::ZERO).with_deadline(deadline));
        let storage = Some(open(&rig, compares).await);
        let model = (0..IDS.len()).map(|id| (id, vec![None])).collect();
        let theirs = (0..IDS.len()).map(|id| (id, Theirs::default())).collect();
        let counts = Counts::default();
        Self { role, compares, rig, storage, model, theirs, strangers: 0, counts, trouble: false }
    }

    fn storage(&self) -> &FallbackStorage {
        self.storage.as_ref().unwrap()
    }

    fn may(&self, id: usize) -> &Possible {
        &self.model[&id]
    }

    fn written(&mut self, id: usize) -> &mut Theirs {
        let theirs = self.theirs.get_mut(&id).unwrap();
        (theirs.newest, theirs.met) = (None, false);
        theirs
    }

    fn set(&mut self, id: usize, states: Possible) {
        self.written(id);
        self.model.insert(id, states);
    }

    fn add(&mut self, id: usize, states: impl IntoIterator<Item = Option<File>>) {
        self.written(id).possible = true;
        let all = self.model.get_mut(&id).unwrap();
        for state in states {
            if !all.contains(&state) {
                all.push(state);
            }
        }
    }

    /// An error of a write: allowed in trouble only, and what it may have done may be.
    fn failed(&mut self, id: usize, error: &Error, states: Possible) -> Verdict {
        if !error.is_outage() || !self.trouble {
            wrong!("{error}: {error:?}");
        }
        if error.effect() != Effect::None {
            self.add(id, states);
        }
        Ok(())
    }

    async fn version(&self, id: usize) -> Option<Version> {
        self.storage().metadata(&crate::id(IDS[id])).await.ok()?.version
    }

    async fn when(&self, id: usize, when: If) -> Option<Precondition> {
        Some(match when {
            If::Absent => Precondition::Absent,
            If::Current => Precondition::Version(self.version(id).await?),
            If::Wrong => Precondition::Version(Version::new("none of them")),
        })
    }

    async fn upload(&mut self, id: usize, value: u8, when: Precondition) -> Verdict {
        let options = options(value).with_when(when.clone());
        let result = self.storage().upload(&crate::id(IDS[id]), content(value).into(), options).await;
        let there = self.may(id).iter().any(Option::is_some);
        let missing = self.may(id).contains(&None);
        match (result, &when) {
            (Ok(receipt), _) => {
                if receipt.digest != Some(Digest::of(&content(value))) {
                    wrong!("a receipt of other bytes: {receipt:?}");
                }
                let held = match &when {
                    Precondition::None => true,
                    Precondition::Absent => missing,
                    Precondition::Version(version) => there && version.as_str() != "none of them",
                };
                if !held {
                    wrong!("{when:?} did not hold, and the upload took place");
                }
                self.set(id, vec![Some(file(value))]);
                Ok(())
            }
            (Err(error), _) if self.refuses(&when, &error) => Ok(()),
            (Err(error), Precondition::Absent) if error.kind() == ErrorKind::AlreadyExists && there => {
                // It may have met its own file.
                self.failed_precondition(id, &error, value)
            }
            (Err(error), Precondition::Version(version))
                if error.kind() == ErrorKind::VersionMismatch
                    && (self.trouble || missing || version.as_str() == "none of them") =>
            {
                self.failed_precondition(id, &error, value)
            }
            (Err(error), _) => self.failed(id, &error, vec![Some(file(value))]),
        }
    }

    /// A precondition that the primary cannot compare is refused, without an effect.
    fn refuses(&mut self, when: &Precondition, error: &Error) -> bool {
        let refused = self.compares == Compares::Nothing
            && *when != Precondition::None
            && (error.kind(), error.effect()) == (ErrorKind::Unsupported, Effect::None);
        self.counts.refused += u64::from(refused);
        refused
    }

    fn failed_precondition(&mut self, id: usize, error: &Error, value: u8) -> Verdict {
        if error.effect() != Effect::None {
            self.add(id, [Some(file(value))]);
        }
        Ok(())
    }

    async fn delete(&mut self, id: usize, when: Precondition) -> Verdict {
        let result = self.storage().delete(&crate::id(IDS[id]), when.clone()).await;
        let (there, missing) = (self.may(id).iter().any(Option::is_some), self.may(id).contains(&None));
        match result {
            Ok(false) if !missing => wrong!("there was something to delete"),
            Ok(true) if !there && !self.trouble => wrong!("there was nothing to delete"),
            Ok(true) if matches!(&when, Precondition::Version(version) if version.as_str() == "none of them") =>
            {
                wrong!("another version was deleted")
            }
            Ok(_) => self.set(id, vec![None]),
            Err(error)
                if error.kind() == ErrorKind::VersionMismatch && when != Precondition::None && there => {}
            Err(error) if self.refuses(&when, &error) => {}
            Err(error) => self.failed(id, &error, vec![None])?,
        }
        Ok(())
    }

    async fn copy(&mut self, from: usize, to: usize) -> Verdict {
        let (source, target) = (crate::id(IDS[from]), crate::id(IDS[to]));
        let result = self.storage().copy(&source, &target, UploadOptions::default()).await;
        let sources: Possible = self.may(from).iter().filter(|state| state.is_some()).cloned().collect();
        match result {
            Ok(_) if sources.is_empty() => wrong!("there was nothing to copy"),
            Ok(_) => self.set(to, sources),
            Err(error) if error.kind() == ErrorKind::NotFound && self.may(from).contains(&None) => {}
            Err(error) => self.failed(to, &error, sources)?,
        }
        Ok(())
    }

    fn read(&self, id: usize, result: Result<File, Error>) -> Verdict {
        match result {
            Ok(file) if !self.may(id).contains(&Some(file.clone())) => {
                wrong!("{} reads as {file:?}, possible are {:?}", IDS[id], self.may(id))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !self.may(id).contains(&None) => {
                wrong!("{} is not found, possible are {:?}", IDS[id], self.may(id))
            }
            Err(error) if error.kind() != ErrorKind::NotFound && !(error.is_outage() && self.trouble) => {
                wrong!("{}: {error}", IDS[id])
            }
            _ => Ok(()),
        }
    }

    async fn download(&self, id: usize) -> Verdict {
        let result = async {
            let download = self.storage().download(&crate::id(IDS[id]), DownloadOptions::default()).await?;
            let metadata = download.metadata.clone();
            Ok(seen(&metadata, download.bytes().await?))
        };
        self.read(id, result.await)
    }

    async fn metadata(&self, id: usize) -> Verdict {
        let result = self.storage().metadata(&crate::id(IDS[id])).await.map(|metadata| {
            let of_these = |value| metadata.digest == Some(Digest::of(&content(value)));
            let bytes = (0..4)
                .chain(STRANGERS..STRANGERS + self.strangers)
                .find(|value| of_these(*value))
                .map(content)
                .unwrap_or_default();
            seen(&metadata, bytes)
        });
        self.read(id, result)
    }

    async fn list(&self) -> Verdict {
        let mut listing = self.storage().list(&Prefix::all(), ListOptions::default());
        let (mut listed, mut doubtful, mut complete) = (Vec::new(), Vec::new(), false);
        loop {
            match listing.try_next().await {
                Ok(Some(file)) => listed.push(file.id.to_string()),
                Ok(None) => {
                    complete = true;
                    break;
                }
                Err(error) if !self.trouble => wrong!("{error}"),
                Err(error) if error.id().is_some() => doubtful.extend(error.id().map(ToString::to_string)),
                Err(_) => break,
            }
        }
        if !listed.is_sorted_by(|a, b| a < b) {
            wrong!("not in order: {listed:?}");
        }
        for (number, name) in IDS.iter().enumerate() {
            let shown = listed.iter().any(|listed| listed == name);
            if shown && self.may(number).iter().all(Option::is_none) {
                wrong!("{name} is listed and gone");
            }
            let left_out = complete && !shown && !doubtful.iter().any(|doubtful| doubtful == name);
            if left_out && !self.may(number).contains(&None) {
                wrong!("{name} is missing in {listed:?}");
            }
        }
        Ok(())
    }

    async fn contents(memory: &MemoryStorage) -> BTreeMap<String, File> {
        let files: Vec<_> = memory.list(&Prefix::all(), ListOptions::default()).try_collect().await.unwrap();
        let mut contents = BTreeMap::new();
        for file in files {
            let bytes = memory.download_bytes(&file.id).await.unwrap();
            contents.insert(file.id.to_string(), seen(&file, bytes));
        }
        contents
    }

    async fn stranger(&mut self, id: usize) {
        if self.role == Role::Replica {
            return;
        }
        // A version of the spare is that of a write which the primary has missed.
        let awaits = self.storage().pending().files > 0
            && self.version(id).await.is_some_and(|version| version.as_str().starts_with("secondary:"));
        let value = STRANGERS + self.strangers;
        self.strangers += 1;
        self.rig.inside.0.upload(&crate::id(IDS[id]), content(value).into(), options(value)).await.unwrap();
        let theirs = Theirs { newest: Some(file(value)), met: awaits, possible: true };
        let met = self.theirs[&id].met;
        self.theirs.insert(id, Theirs { met: met || awaits, ..theirs });
        self.model.get_mut(&id).unwrap().push(Some(file(value)));
        self.counts.met += u64::from(awaits);
    }

    /// Heals, and looks at the primary where that came to an end.
    async fn heal(&mut self) -> Result<HealReport, TestCaseError> {
        let report = self.storage().heal().await;
        self.counts.replayed += report.healed;
        self.counts.deleted += report.deleted;
        let conflicts: Vec<_> = report.conflicts.iter().map(|conflict| conflict.id.to_string()).collect();
        let complete = report.left == conflicts.len();
        let primary = Self::contents(&self.rig.inside.0).await;
        for (number, name) in IDS.iter().enumerate() {
            let (there, theirs) = (primary.get(*name).cloned(), &self.theirs[&number]);
            let conflict = conflicts.iter().any(|conflict| conflict == name);
            if conflict && !theirs.possible {
                wrong!("a conflict about {name}, and nobody else wrote: {report:?}");
            }
            if theirs.newest.is_some() && there != theirs.newest {
                wrong!("{name} was a stranger's newer file {:?} and is {there:?}", theirs.newest);
            }
            if complete && theirs.met && !conflict {
                wrong!("an acknowledged write of {name} met a stranger's, and nobody is told: {report:?}");
            }
            if complete && !conflict && !self.may(number).contains(&there) {
                wrong!("the primary holds {there:?} under {name}, possible are {:?}", self.may(number));
            }
        }
        Ok(report)
    }

    /// Ends each conflict, one way or the other.
    async fn resolve(&mut self, conflicts: &[Conflict]) -> Verdict {
        for conflict in conflicts {
            self.counts.conflicts += 1;
            let id = &conflict.id;
            let number = IDS.iter().position(|name| *name == id.as_str()).unwrap();
            let keep = if self.strangers.is_multiple_of(2) { Keep::Ours } else { Keep::Theirs };
            let kept = match keep {
                Keep::Ours => Self::contents_through(self.storage(), id).await,
                Keep::Theirs => Self::contents_through(&self.rig.inside.0, id).await,
            };
            if keep == Keep::Ours && !self.may(number).contains(&kept) {
                wrong!("{id} was {kept:?} before its conflict ended, possible were {:?}", self.may(number));
            }
            let mut resolved = self.storage().resolve(id, keep).await;
            if resolved.as_ref().is_err_and(|error| error.kind() == ErrorKind::VersionMismatch) {
                // A stranger wrote again since the conflict was told, and this is told now.
                resolved = self.storage().resolve(id, keep).await;
            }
            if let Err(error) = resolved {
                wrong!("{id}: {keep:?}: {error}");
            }
            let there = Self::contents_through(&self.rig.inside.0, id).await;
            if there != kept {
                wrong!("{keep:?} of {id} was {kept:?}, the primary holds {there:?}");
            }
            self.set(number, vec![kept]);
        }
        Ok(())
    }

    async fn contents_through(storage: &dyn FileStorage, id: &FileId) -> Option<File> {
        let metadata = storage.metadata(id).await.ok()?;
        let bytes = storage.download_bytes(id).await.unwrap();
        Some(seen(&metadata, bytes))
    }

    async fn settle(&mut self) -> Verdict {
        for side in [&self.rig.primary, &self.rig.secondary] {
            side.set_outage(false);
            side.forget_faults();
        }
        self.trouble = false;
        // Longer than a breaker is open.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut report = self.heal().await?;
        for _ in 0..3 {
            if report.left == report.conflicts.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            report = self.heal().await?;
        }
        self.resolve(&report.conflicts).await?;
        if !report.conflicts.is_empty() {
            report = self.heal().await?;
        }
        if !report.is_complete() {
            wrong!("not healed: {report:?}");
        }
        let primary = Self::contents(&self.rig.inside.0).await;
        let secondary = Self::contents(&self.rig.inside.1).await;
        match self.role {
            Role::Spare if !secondary.is_empty() => wrong!("left on the spare: {secondary:?}"),
            Role::Replica if secondary != primary => wrong!("primary {primary:?}, replica {secondary:?}"),
            _ => {}
        }
        for (number, name) in IDS.iter().enumerate() {
            let there = primary.get(*name).cloned();
            if !self.may(number).contains(&there) {
                wrong!("the primary holds {there:?} under {name}, possible are {:?}", self.may(number));
            }
            self.set(number, vec![there]);
        }
        Ok(())
    }

    async fn act(&mut self, step: &Step) -> Verdict {
        match step.clone() {
            Step::Upload { id, value } => self.upload(id, value, Precondition::None).await?,
            Step::UploadIf { id, value, when } => {
                if let Some(when) = self.when(id, when).await {
                    self.upload(id, value, when).await?;
                }
            }
            Step::Dropped { id, value, polls } => {
                let name = crate::id(IDS[id]);
                let upload = self.storage().upload(&name, content(value).into(), options(value));
                let mut upload = Box::pin(upload);
                let mut done = None;
                for _ in 0..polls {
                    if let std::task::Poll::Ready(result) = futures::poll!(&mut upload) {
                        done = Some(result);
                        break;
                    }
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                drop(upload);
                match done {
                    Some(Ok(_)) => self.set(id, vec![Some(file(value))]),
                    Some(Err(error)) => self.failed(id, &error, vec![Some(file(value))])?,
                    None => self.add(id, [Some(file(value))]),
                }
            }
            Step::Delete { id } => self.delete(id, Precondition::None).await?,
            Step::DeleteIf { id, when } => match self.when(id, when).await {
                Some(Precondition::Absent) | None => {}
                Some(when) => self.delete(id, when).await?,
            },
            Step::Copy { from, to } => self.copy(from, to).await?,
            Step::Download { id } => self.download(id).await?,
            Step::Metadata { id } => self.metadata(id).await?,
            Step::List => self.list().await?,
            Step::Outage { side, on } => {
                self.trouble = true;
                self.side(side).set_outage(on);
            }
            Step::Lose { side, op } => {
                self.trouble = true;
                self.side(side).fail_next(op, Fault::After(ErrorKind::Timeout));
            }
            Step::Hang { side, op, after } => {
                self.trouble = true;
                let fault = match (op, after) {
                    (Op::Download | Op::List, true) => Fault::Stalled(1),
                    (_, true) => Fault::NeverAfter,
                    (_, false) => Fault::Never,
                };
                self.side(side).fail_next(op, fault);
            }
            Step::Break { side } => {
                self.trouble = true;
                self.side(side).fail_next(Op::Download, Fault::Broken(1));
            }
            Step::Restart => {
                self.storage = None;
                self.storage = Some(open(&self.rig, self.compares).await);
                self.counts.restarts += 1;
            }
            Step::Heal => {
                let report = self.heal().await?;
                if let Some((id, error)) = report.failed.iter().find(|(_, error)| !error.is_outage()) {
                    wrong!("{id} cannot be healed: {error}");
                }
            }
            Step::Stranger { id } => self.stranger(id).await,
            Step::Settle => self.settle().await?,
        }
        let pending = self.storage().pending();
        self.counts.degraded += pending.files as u64;
        self.counts.tombstones += pending.tombstones as u64;
        Ok(())
    }

    fn side(&self, side: Side) -> &storage_core::testkit::flaky::FlakyStorage {
        match side {
            Side::Primary => &self.rig.primary,
            Side::Secondary => &self.rig.secondary,
        }
    }
}

async fn play(role: Role, compares: Compares, steps: &[Step], counts: &Mutex<Counts>) -> Verdict {
    let mut world = World::new(role, compares).await;
    for step in steps {
        world.act(step).await?;
    }
    world.act(&Step::Settle).await?;
    for id in 0..IDS.len() {
        world.download(id).await?;
    }
    world.counts.hung = world.rig.primary.hung() + world.rig.secondary.hung();
    counts.lock().unwrap().add(world.counts);
    world.list().await
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn run(role: Role, compares: Compares) {
    let sequences = setting("FALLBACK_SEQUENCES").unwrap_or(300);
    let seed = setting("FALLBACK_SEED").unwrap_or_else(rand::random);
    eprintln!("FALLBACK_SEED={seed} FALLBACK_SEQUENCES={sequences} ({role:?}, {compares:?})");
    let counts = Mutex::default();
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: u32::try_from(sequences).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &key));
    let result = runner.run(&prop::collection::vec(step(), 1..60), |steps| {
        runtime.block_on(play(role, compares, &steps, &counts))
    });
    if let Err(error) = result {
        panic!("FALLBACK_SEED={seed}: {error}");
    }
    let counts = counts.into_inner().unwrap();
    eprintln!("{counts:?}");
    let Counts { degraded, tombstones, replayed, deleted, restarts, met, conflicts, hung, refused } = counts;
    let mut floors = vec![degraded, tombstones, replayed, deleted, restarts, hung];
    if compares == Compares::Nothing {
        floors.push(refused);
    }
    if role == Role::Spare {
        floors.extend([met, conflicts]);
    }
    let least = sequences / 20;
    assert!(floors.iter().all(|count| *count >= least), "too little came up ({least} each): {counts:?}");
}

#[test]
fn random_outages_with_a_spare_lose_nothing_and_show_nothing_old() {
    run(Role::Spare, Compares::Versions);
}

#[test]
fn random_outages_with_a_replica_lose_nothing_and_show_nothing_old() {
    run(Role::Replica, Compares::Versions);
}

#[test]
fn random_outages_of_a_primary_that_compares_nothing_lose_nothing_beside_a_spare() {
    run(Role::Spare, Compares::Nothing);
}

#[test]
fn random_outages_of_a_primary_that_compares_nothing_lose_nothing_beside_a_replica() {
    run(Role::Replica, Compares::Nothing);
}
