//! The documented meaning of every change as a plain program over maps, and random histories that an engine
//! and this model must agree about, across reopenings.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage_core::checksum::Digest;
use storage_core::id::FileId;
use storage_core::storage::{PartReceipt, UploadTicket, Verified};

use super::{Place, id, note, part, publish, ticket, version};
use crate::item::{Event, State, next};
use crate::ledger::{
    Change, Count, FileFilter, FileRecord, Ledger, Outcome, OutcomeRecord, Recorded, RunId, RunKind,
};

/// Histories per test, and calls in each.
const HISTORIES: u64 = 6;
const CALLS: usize = 120;

#[derive(Default)]
struct Model {
    files: BTreeMap<FileId, FileRecord>,
    parts: BTreeMap<FileId, BTreeMap<u32, PartReceipt>>,
    orphans: BTreeMap<(FileId, String), UploadTicket>,
    journal: BTreeMap<(RunId, String), OutcomeRecord>,
}

/// Stands for every time that an engine notes by itself.
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

impl Model {
    fn apply(&mut self, run: RunId, change: &Change) -> Recorded {
        if let Change::Noted(record) = change {
            self.journal.insert((run, record.subject.clone()), record.clone());
            return Recorded::Done;
        }
        if let Change::Tried { .. } = change {
            return Recorded::Done;
        }
        if let Change::Arrived { id, size, source_version, published, attempts } = change {
            if self.files.contains_key(id) {
                return Recorded::Stale;
            }
            let (id, published) = (id.clone(), published.clone());
            let intend =
                Change::Intend { id: id.clone(), size: *size, source_version: source_version.clone() };
            self.apply(run, &intend);
            return self.apply(run, &Change::Published { id, published, attempts: *attempts });
        }
        let (id, event) = match change {
            Change::Intend { id, .. } => (id, Event::Intend),
            Change::UploadBegun { ticket } => (&ticket.id, Event::Upload),
            Change::PartStored { id, .. } | Change::UploadEnded { id } => (id, Event::Upload),
            Change::Published { id, .. } => (id, Event::Publish),
            Change::Confirmed { id, .. } => (id, Event::Confirm),
            Change::Failed { id, .. } => (id, Event::Fail),
            Change::Damaged { id, .. } => (id, Event::Damage),
            Change::Gone { id } => (id, Event::Vanish),
            Change::Retired { id, .. } => (id, Event::Retire),
            Change::Returned { id } => (id, Event::Return),
            Change::Arrived { .. } | Change::Tried { .. } | Change::Noted(_) => unreachable!(),
        };
        let old = self.files.get(id).cloned();
        let Some(state) = next(old.as_ref().map(|file| file.state), event) else { return Recorded::Stale };
        if let Change::Intend { size, source_version, .. } = change {
            self.intend(run, old, id, *size, source_version);
            return Recorded::Done;
        }
        let mut file = old.unwrap();
        if matches!(change, Change::Returned { .. }) && (file.digest.is_none() || file.verified.is_none()) {
            return Recorded::Stale;
        }
        if let Change::PartStored { part, .. } = change {
            if file.ticket.is_none() {
                return Recorded::Stale;
            }
            self.parts.entry(id.clone()).or_default().insert(part.number.get(), part.clone());
            return Recorded::Done;
        }
        file.state = state;
        file.run = run;
        let mut line = None;
        match change {
            Change::UploadBegun { ticket } => {
                if let Some(old) = file.ticket.take().filter(|old| old.upload != ticket.upload) {
                    self.orphan(old);
                }
                self.orphans.remove(&(id.clone(), ticket.upload.clone()));
                file.ticket = Some(ticket.clone());
            }
            Change::UploadEnded { .. } => {
                file.ticket = None;
                self.parts.remove(id);
            }
            Change::Published { published, attempts, .. } => {
                file.digest = Some(published.digest);
                file.composite = published.composite;
                file.target_version = published.target_version.clone();
                file.ticket = None;
                file.error = None;
                file.retired = None;
                self.parts.remove(id);
                if published.verified != Verified::No {
                    file.state = State::Verified;
                    file.verified = Some(published.verified);
                    file.attempts = 0;
                    line = Some((Outcome::Copied, "", None, file.verified, *attempts));
                }
            }
            Change::Confirmed { by, attempts, .. } => {
                file.verified = Some(*by);
                file.attempts = 0;
                file.error = None;
                line = attempts.map(|attempts| (Outcome::Copied, "", None, file.verified, attempts));
            }
            Change::Failed { reason, detail, attempts, .. } => {
                file.error = Some(detail.clone());
                line = Some((Outcome::Failed, reason.as_str(), Some(detail.clone()), None, *attempts));
            }
            Change::Damaged { outcome, detail, .. } => {
                file.error = Some(detail.clone());
                file.verified = None;
                line = Some((*outcome, outcome.as_str(), Some(detail.clone()), None, 0));
            }
            Change::Retired { place, .. } => {
                file.error = None;
                file.retired = Some(place.clone());
            }
            Change::Returned { .. } => file.retired = None,
            Change::Gone { .. } => {
                if file.retired.is_some() {
                    file.state = State::Retired;
                }
                file.error = None;
                if let Some(old) = file.ticket.take() {
                    self.orphan(old);
                }
                line = Some((Outcome::Gone, "", None, None, 0));
            }
            Change::Intend { .. }
            | Change::PartStored { .. }
            | Change::Arrived { .. }
            | Change::Tried { .. }
            | Change::Noted(_) => {
                unreachable!()
            }
        }
        if let Some((outcome, reason, detail, verified, attempts)) = line {
            let record = OutcomeRecord {
                subject: id.to_string(),
                outcome,
                reason: reason.to_owned(),
                detail,
                size: Some(file.size),
                digest: file.digest,
                verified,
                attempts,
                at: NOW,
            };
            self.journal.insert((run, id.to_string()), record);
        }
        self.files.insert(id.clone(), file);
        Recorded::Done
    }

    fn intend(
        &mut self,
        run: RunId,
        old: Option<FileRecord>,
        id: &FileId,
        size: u64,
        source_version: &storage_core::metadata::Version,
    ) {
        let attempts = old.as_ref().map_or(0, |old| old.attempts) + 1;
        let retired = old.as_ref().and_then(|old| old.retired.clone());
        let mut ticket = None;
        if let Some(old) = old {
            if old.size == size && old.source_version == *source_version {
                ticket = old.ticket;
            } else if let Some(dropped) = old.ticket {
                self.orphan(dropped);
            }
        }
        let file = FileRecord {
            id: id.clone(),
            state: State::Copying,
            size,
            source_version: source_version.clone(),
            digest: None,
            composite: None,
            target_version: None,
            verified: None,
            ticket,
            attempts,
            error: None,
            retired,
            run,
            updated: NOW,
        };
        self.files.insert(id.clone(), file);
    }

    fn orphan(&mut self, ticket: UploadTicket) {
        self.parts.remove(&ticket.id);
        self.orphans.insert((ticket.id.clone(), ticket.upload.clone()), ticket);
    }

    async fn assert_is(&self, ledger: &dyn Ledger, runs: i64, context: &str) {
        let files: Vec<FileRecord> = ledger.files(FileFilter::default()).try_collect().await.unwrap();
        let files: Vec<_> = files.into_iter().map(|file| FileRecord { updated: NOW, ..file }).collect();
        assert_eq!(files, self.files.values().cloned().collect::<Vec<_>>(), "{context}");
        for id in self.files.keys() {
            let expected: Vec<_> =
                self.parts.get(id).map(|parts| parts.values().cloned().collect()).unwrap_or_default();
            assert_eq!(ledger.parts(id).await.unwrap(), expected, "{context} {id}");
        }
        let orphans: Vec<_> = self.orphans.values().cloned().collect();
        assert_eq!(ledger.orphans().await.unwrap(), orphans, "{context}");
        let mut counts: BTreeMap<State, Count> = BTreeMap::new();
        for file in self.files.values() {
            let count = counts.entry(file.state).or_default();
            count.files += 1;
            count.bytes += file.size;
        }
        assert_eq!(ledger.state_counts().await.unwrap(), counts, "{context}");
        for run in (1..=runs).map(RunId) {
            let lines: Vec<OutcomeRecord> = ledger.outcomes(run).try_collect().await.unwrap();
            let (lines, expected): (Vec<_>, Vec<_>) = (
                lines.into_iter().map(timeless).collect(),
                self.journal
                    .iter()
                    .filter(|((of, _), _)| *of == run)
                    .map(|(_, record)| timeless(record.clone()))
                    .collect(),
            );
            assert_eq!(lines, expected, "{context}, run {run}");
        }
    }
}

fn timeless(record: OutcomeRecord) -> OutcomeRecord {
    OutcomeRecord { at: NOW, ..record }
}

fn random_change(random: &mut StdRng) -> Change {
    let text = ["a", "a/b", "b", "é", "c", "d", "e", "f"][random.random_range(0..8)];
    let attempts = random.random_range(1..4);
    match random.random_range(0..23) {
        0..5 => Change::Intend {
            id: id(text),
            size: [10, 11][usize::from(random.random_bool(0.2))],
            source_version: version(["v1", "v2"][usize::from(random.random_bool(0.2))]),
        },
        5..7 => Change::UploadBegun { ticket: ticket(text, ["u1", "u2", "u3"][random.random_range(0..3)]) },
        7..10 => Change::PartStored { id: id(text), part: part(random.random_range(1..5), text) },
        10 => Change::UploadEnded { id: id(text) },
        11..14 => {
            let verified = [Verified::No, Verified::Backend, Verified::ReadBack][random.random_range(0..3)];
            match publish(text, verified) {
                Change::Published { id, mut published, .. } => {
                    if random.random_bool(0.5) {
                        published.composite = None;
                        published.target_version = None;
                        published.digest = Digest::of(&random.random::<[u8; 4]>());
                    }
                    if random.random_bool(0.3) {
                        let source_version = version("v1");
                        return Change::Arrived { id, size: 10, source_version, published, attempts };
                    }
                    Change::Published { id, published, attempts }
                }
                other => other,
            }
        }
        14..16 => {
            let by = [Verified::Backend, Verified::ReadBack][random.random_range(0..2)];
            Change::Confirmed { id: id(text), by, attempts: random.random_bool(0.5).then_some(attempts) }
        }
        16 => Change::Failed { id: id(text), reason: "timeout".into(), detail: "late".into(), attempts },
        17 => {
            let outcome = [Outcome::Missing, Outcome::Different][random.random_range(0..2)];
            Change::Damaged { id: id(text), outcome, detail: "found so".into() }
        }
        18 => Change::Gone { id: id(text) },
        19 | 20 => Change::Retired { id: id(text), place: format!("quarantine/{text}") },
        21 => Change::Returned { id: id(text) },
        _ => Change::Noted(note(
            text,
            Outcome::ALL[random.random_range(0..Outcome::ALL.len())],
            "why",
            Some(3),
        )),
    }
}

#[expect(clippy::print_stdout, reason = "the seed of a failure replays it")]
pub(crate) async fn random_changes_agree_with_the_model(place: &dyn Place) {
    let seed =
        std::env::var("LEDGER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("LEDGER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut ledger = place.open().await;
    let mut model = Model::default();
    let mut runs = 0;
    for history in 0..HISTORIES {
        let mut run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
        runs += 1;
        for call in 0..CALLS {
            let context = format!("seed {seed}, history {history}, call {call}");
            let changes: Vec<_> =
                (0..random.random_range(1..6)).map(|_| random_change(&mut random)).collect();
            let expected: Vec<_> = changes.iter().map(|change| model.apply(run, change)).collect();
            let answers = ledger.record(run, changes.clone()).await.unwrap();
            assert_eq!(answers, expected, "{context}: {changes:?}");
            match random.random_range(0..40) {
                0 => {
                    drop(ledger);
                    ledger = place.open().await;
                    model.assert_is(&*ledger, runs, &context).await;
                }
                1 => {
                    run = ledger.begin_run(RunKind::Verify, "0.0.0").await.unwrap();
                    runs += 1;
                }
                2 => {
                    if let Some((_, orphan)) = model.orphans.pop_first() {
                        ledger.forget_orphan(&orphan).await.unwrap();
                    }
                }
                _ => {}
            }
        }
        model.assert_is(&*ledger, runs, &format!("seed {seed}, history {history}")).await;
    }
}
