//! What `copy --remove-source` does after the copy: files that are in the target are moved away from the source, each only
//! after both sides were looked at once more.
//!
//! # Order of effects, for one file
//!
//! 1. the ledger has it as verified, and the source still has that version
//! 2. the target still has what was verified: its own checksum says so and it is the version that the ledger knows, or
//!    every byte is read back
//! 3. row `Retired`, with the place in quarantine
//! 4. the source's file is of that version once more, and is renamed into quarantine; if it was written to in between, it
//!    is renamed back
//! 5. the directories are synced
//! 6. the outcome is in the journal; a file that was not moved: row `Verified` again
//!
//! | ends between | what remains | the next run |
//! |---|---|---|
//! | 3 and 4 | `Retired`, and the file in the source | the copy finds the file: same version, row `Verified` again; another, a new file |
//! | 4 and 6 | `Retired`, and the file in quarantine; a power cut may bring it back to the source | nothing is to be done, or as above |
//!
//! The row comes first, so that there is no moment at which the source lacks a file and its row says that it is gone: what
//! is gone, a sync removes from the target. The other order would lose the file by a kill in between. Whatever the sides
//! answer that is not a proof keeps the file and is told as its failure.
//!
//! `cleanup` deletes what was in quarantine long enough: that is `emptying`.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, Error, ErrorKind};

use crate::item::State;
use crate::ledger::{
    Change, FileFilter, FileRecord, LedgerError, Outcome, OutcomeRecord, Recorded, RunId, Tally,
};
use crate::plan::identity;
use crate::preserve::Attributes;
use crate::progress::Event;
use crate::quarantine::Drawers;
use crate::throttle::Throttle;
use crate::verify::Verdict;

use super::ahead::Ahead;
use super::copy::{Copied, PROBE_DEADLINE};
use super::memory;
use super::proving::Prover;
use super::recorder::line;
use super::{CopyOptions, EngineError, Job, OUTAGE_LIMIT, Retirement};

/// Files that are looked at together, moved together and recorded together.
const BATCH: usize = 256;

/// Bytes that may be read back between the look at a file and its move: seconds, and not the hours that so many large
/// files take.
const BATCH_BYTES: u64 = 1 << 30;

/// The reason of a file that was moved away, beside what became of it in the copy.
pub(super) const REMOVED: &str = "source_removed";

/// What the journal says of where a file went.
pub(super) fn moved_to(place: &str) -> String {
    format!("moved to {place}")
}

/// Moves away what the run is about and the target has, and counts it in the run.
pub(super) async fn retire(
    job: &Job,
    options: &CopyOptions,
    retirement: &Retirement,
    copied: &mut Copied,
) -> Result<(), EngineError> {
    let mut retirer = Retirer {
        job,
        retirement,
        run: copied.run,
        drawers: Drawers::new(retirement.quarantine, copied.run),
        marked: false,
        throttle: options.bandwidth.clone().map(Throttle::following),
        concurrency: options.concurrency.get() as usize,
        outages: 0,
    };
    // That this ledger knows of it, whatever becomes of the run: see `memory`.
    copied.tally.retires = true;
    job.ledger.checkpoint(copied.run, copied.tally, copied.scanned_to.clone()).await?;
    let before = job.progress.snapshot();
    let mut asked = false;
    let mut told = Ahead::new(job.ledger.outcomes(copied.run), |line: &OutcomeRecord| line.subject.as_str());
    let mut batches = rows(job).try_ready_chunks(BATCH);
    'all: while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|error| error.1)?;
        let mut items = Vec::with_capacity(batch.len());
        for row in batch.into_iter().filter(|row| retirement.attic.takes(&row.id)) {
            let line = told.at(row.id.as_str()).await?;
            items.push((row, line));
        }
        if !items.is_empty() && !asked {
            // What is only remembered of the target is no proof of anything.
            job.target.probe(PROBE_DEADLINE).await.map_err(EngineError::Target)?;
            asked = true;
        }
        for portion in portions(items, |(row, _)| row.size) {
            retirer.batch(portion, &mut copied.tally).await?;
            if job.stop.is_cancelled() {
                break 'all;
            }
        }
    }
    // What was read back for it, beside what the copy has read.
    copied.tally.bytes_read += job.progress.snapshot().bytes_read.saturating_sub(before.bytes_read);
    Ok(())
}

/// Divides files into such of at most [`BATCH_BYTES`] together, or one.
fn portions<T>(items: Vec<T>, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let (mut portions, mut bytes) = (Vec::<Vec<T>>::new(), 0_u64);
    for item in items {
        bytes = bytes.saturating_add(size(&item));
        match portions.last_mut() {
            Some(last) if bytes <= BATCH_BYTES => last.push(item),
            _ => {
                bytes = size(&item);
                portions.push(vec![item]);
            }
        }
    }
    portions
}

/// The rows of verified files that the run may be about.
fn rows(job: &Job) -> BoxStream<'static, Result<FileRecord, LedgerError>> {
    let Some(only) = &job.only else {
        return job.ledger.files(FileFilter { states: vec![State::Verified], after: None });
    };
    let (only, ledger) = (Arc::clone(only), Arc::clone(&job.ledger));
    stream::iter((0..only.len()).filter_map(move |index| only.get(index).cloned()))
        .then(move |id| {
            let ledger = Arc::clone(&ledger);
            async move { ledger.file(&id).await }
        })
        .try_filter_map(async |row| Ok(row.filter(|row| row.state == State::Verified)))
        .boxed()
}

/// What is to be done with a file.
enum Check {
    /// The run is not about it, or has told its failure already.
    Leave,
    /// It may be moved away.
    Proven(FileRecord, OutcomeRecord),
    Kept(FileRecord, OutcomeRecord, Kept),
}

/// Why a file stays.
struct Kept {
    reason: String,
    detail: String,
    /// What the target's copy was found to be.
    damaged: Option<Outcome>,
    outage: Option<Error>,
}

impl Kept {
    fn because(reason: &str, detail: String) -> Self {
        Self { reason: reason.to_owned(), detail, damaged: None, outage: None }
    }
}

struct Retirer<'a> {
    job: &'a Job,
    retirement: &'a Retirement,
    run: RunId,
    drawers: Drawers,
    /// The source remembers that this run moves files.
    marked: bool,
    throttle: Option<Arc<Throttle>>,
    concurrency: usize,
    outages: u32,
}

impl Retirer<'_> {
    async fn batch(
        &mut self,
        items: Vec<(FileRecord, Option<OutcomeRecord>)>,
        tally: &mut Tally,
    ) -> Result<(), EngineError> {
        let checked: Vec<Check> = stream::iter(items)
            .map(|(row, told)| self.check(row, told))
            .buffered(self.concurrency)
            .collect()
            .await;
        let (mut proven, mut kept) = (Vec::new(), Vec::new());
        let mut failure = None;
        for check in checked {
            match check {
                Check::Leave => {}
                Check::Proven(row, line) => {
                    self.outages = 0;
                    proven.push((row, line));
                }
                Check::Kept(row, line, mut why) => {
                    if let Some(error) = why.outage.take() {
                        self.outages += 1;
                        if self.outages >= OUTAGE_LIMIT {
                            failure.get_or_insert(EngineError::Target(error));
                        }
                    }
                    kept.push((row, line, why, None));
                }
            }
        }
        if !self.marked && !proven.is_empty() {
            match memory::leave_mark(&*self.job.ledger, &*self.retirement.attic, self.run).await {
                Ok(()) => self.marked = true,
                Err(EngineError::Source(error)) => {
                    let why = || Kept::because(error.kind().as_str(), error.to_string());
                    kept.extend(proven.drain(..).map(|(row, line)| (row, line, why(), None)));
                }
                Err(other) => return Err(other),
            }
        }
        let drawer = self.drawers.at(Timestamp::now()).map_err(|error| {
            EngineError::Internal(format!("the quarantine ends beyond all calendars: {error}"))
        })?;
        let intents = proven.iter().map(|(row, _)| Change::Retired {
            id: row.id.clone(),
            place: self.retirement.attic.place(&drawer, &row.id),
        });
        let recorded = self.job.ledger.record(self.run, intents.collect()).await?;
        if recorded.contains(&Recorded::Stale) {
            return Err(EngineError::Internal("the ledger refused that a file is moved away".to_owned()));
        }
        let files = proven.iter().map(|(row, _)| (row.id.clone(), row.source_version.clone())).collect();
        let answers = self.retirement.attic.put_away(&drawer, files).await;
        let mut changes = Vec::new();
        for ((row, line), answer) in proven.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    tally.retired += 1;
                    tally.retired_bytes += row.size;
                    let place = self.retirement.attic.place(&drawer, &row.id);
                    let line = OutcomeRecord {
                        reason: REMOVED.to_owned(),
                        detail: Some(moved_to(&place)),
                        at: Timestamp::now(),
                        ..line
                    };
                    self.tell(&line);
                    changes.push(Change::Noted(line));
                }
                Err(error) => {
                    let reason = match error.kind() {
                        ErrorKind::VersionMismatch => "changing",
                        kind => kind.as_str(),
                    };
                    // Else it may have been moved: its row must go on to protect the target's copy.
                    let back =
                        (error.effect() == Effect::None).then(|| Change::Returned { id: row.id.clone() });
                    kept.push((row, line, Kept::because(reason, error.to_string()), back));
                }
            }
        }
        for (row, line, why, back) in kept {
            // It was counted by the copy, and is now told as what it came to.
            if line.outcome == Outcome::Unchanged {
                tally.unchanged = tally.unchanged.saturating_sub(1);
                tally.unchanged_bytes = tally.unchanged_bytes.saturating_sub(row.size);
            }
            changes.extend(back);
            if let Some(outcome) = why.damaged {
                changes.push(Change::Damaged { id: row.id, outcome, detail: why.detail.clone() });
            }
            let detail = format!("it stays in the source: {}", why.detail);
            let line = OutcomeRecord {
                outcome: Outcome::Failed,
                reason: why.reason,
                detail: Some(detail),
                at: Timestamp::now(),
                ..line
            };
            self.tell(&line);
            changes.push(Change::Noted(line));
        }
        let recorded = self.job.ledger.record(self.run, changes).await?;
        if recorded.contains(&Recorded::Stale) {
            return Err(EngineError::Internal("the ledger refused what became of a file".to_owned()));
        }
        failure.map_or(Ok(()), Err)
    }

    /// Tells what is known now of a file that the copy has told already: it is not counted again.
    fn tell(&self, line: &OutcomeRecord) {
        let OutcomeRecord { subject, outcome, reason, size, .. } = line;
        if *outcome != Outcome::Failed {
            self.job.progress.source_removed();
        }
        self.job.progress.tell(&Event::File { subject, outcome: *outcome, reason, size: *size });
    }

    /// Looks at both sides.
    async fn check(&self, row: FileRecord, told: Option<OutcomeRecord>) -> Check {
        let Some(digest) = row.digest else { return Check::Leave };
        let line = match told {
            Some(line) if matches!(line.outcome, Outcome::Copied | Outcome::Unchanged) => line,
            Some(_) => return Check::Leave,
            None => {
                let id = row.id.as_str();
                let line = line(id, Outcome::Unchanged, "", None, Some(row.size));
                OutcomeRecord { digest: Some(digest), verified: row.verified, ..line }
            }
        };
        let looked = tokio::select! {
            biased;
            () = self.job.stop.cancelled() => return Check::Leave,
            looked = self.look(&row, digest) => looked,
        };
        match looked {
            Ok(Looked::Proven) => Check::Proven(row, line),
            Ok(Looked::NotAsked) => Check::Leave,
            Ok(Looked::Kept(why)) => Check::Kept(row, line, why),
            Err(error) => {
                let why = Kept::because(error.kind().as_str(), error.to_string());
                let outage = error.is_outage().then_some(error);
                Check::Kept(row, line, Kept { outage, ..why })
            }
        }
    }

    async fn look(&self, row: &FileRecord, digest: Digest) -> Result<Looked, Error> {
        let file = match self.job.source.metadata(&row.id).await {
            Ok(file) => file,
            // Its owner has removed it since: the next run says so.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Looked::NotAsked),
            Err(error) => return Err(error),
        };
        if self.job.filter.excludes(&file).is_some() {
            return Ok(Looked::NotAsked);
        }
        if row.size != file.size || row.source_version != identity(&file) {
            let detail = "the source changed after it was copied".to_owned();
            return Ok(Looked::Kept(Kept::because("changing", detail)));
        }
        let prover = Prover {
            target: &*self.job.target,
            read_back: self.retirement.read_back,
            throttle: self.throttle.as_ref(),
            progress: &self.job.progress,
        };
        let link = Attributes::of(&file.tags).and_then(|attributes| attributes.link);
        let verdict = prover.prove(row, digest, link.as_deref()).await?;
        Ok(match verdict {
            Verdict::Match(_) => Looked::Proven,
            Verdict::Missing => Looked::Kept(Kept {
                damaged: Some(Outcome::Missing),
                ..Kept::because("missing", "the target no longer has its copy".to_owned())
            }),
            Verdict::Different(detail) => Looked::Kept(Kept {
                damaged: Some(Outcome::Different),
                ..Kept::because("different", format!("the target's copy is not what was verified: {detail}"))
            }),
            Verdict::Unproven(detail) => Looked::Kept(Kept::because("unproven", detail)),
        })
    }
}

enum Looked {
    Proven,
    NotAsked,
    Kept(Kept),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_gibibyte_is_read_between_a_look_and_a_move() {
        let divided = |sizes: &[u64]| portions(sizes.to_vec(), |size| *size);
        assert_eq!(divided(&[]), Vec::<Vec<u64>>::new());
        let (half, large) = (BATCH_BYTES / 2, 5 * BATCH_BYTES);
        assert_eq!(
            divided(&[0, half, half, 0, 1, large, 0, large, u64::MAX]),
            [vec![0, half, half, 0], vec![1], vec![large], vec![0], vec![large], vec![u64::MAX]]
        );
        assert_eq!(divided(&[1; BATCH]).len(), 1);
    }
}
