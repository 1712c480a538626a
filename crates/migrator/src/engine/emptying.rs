//! Empties the source's quarantine of what was there long enough: the step of a removal that cannot be undone.
//!
//! # What is looked at, for one file, in this order
//!
//! 1. this ledger has moved it to this very place: its row says so, or the journal of the run that did; that has its digest
//! 2. the target has the copy that was verified, or a newer version of the file that was; as before the file was moved,
//!    so that what is left of the proof is not weaker than what it began with
//! 3. the file's own bytes are those of that digest still: a program that kept it open may have written to it for days
//!
//! Whatever is not so, or cannot be looked at, keeps the file. Only a target that is out, and the ledger, end the whole.

use futures::StreamExt as _;
use jiff::Timestamp;
use storage_core::checksum::Digest;
use storage_core::storage::{FileStorage, Verified};
use tokio_util::sync::CancellationToken;

use crate::item::State;
use crate::ledger::{FileRecord, Ledger};
use crate::progress::Progress;
use crate::retire::{Attic, Deletion, Expired};
use crate::verify::Verdict;

use super::EngineError;
use super::proving::Prover;
use super::retire::{REMOVED, moved_to};

/// What became of files whose time in the source's quarantine is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Emptied {
    pub(super) deleted: u64,
    /// That they may be deleted could not be proven.
    pub(super) kept: u64,
}

/// Why a file stays.
enum Kept {
    For(String),
    /// Nothing can be known of any.
    Ends(EngineError),
}

impl From<EngineError> for Kept {
    fn from(error: EngineError) -> Self {
        Self::Ends(error)
    }
}

fn kept<T>(why: impl Into<String>) -> Result<T, Kept> {
    Err(Kept::For(why.into()))
}

/// Deletes the files of the source's quarantine whose time is over, as far as nothing is lost with them: the copies are in
/// `target`, those of symbolic links as files. Once `stop` is cancelled no further one.
pub(super) async fn empty(
    ledger: &dyn Ledger,
    target: &dyn FileStorage,
    attic: &dyn Attic,
    now: Timestamp,
    stop: &CancellationToken,
) -> Result<Emptied, EngineError> {
    let progress = Progress::new();
    let prover = Prover { target, read_back: false, throttle: None, progress: &progress };
    let mut emptied = Emptied::default();
    let mut unseen = None;
    let mut files = attic.expired(now);
    let all = async {
        while let Some(file) = files.next().await {
            let file = match file {
                Ok(file) => file,
                Err(error) => {
                    unseen.get_or_insert(EngineError::Source(error));
                    continue;
                }
            };
            match delete(ledger, &prover, attic, &file).await {
                Ok(Deletion::Deleted) => emptied.deleted += 1,
                Ok(Deletion::Absent) => {}
                Ok(Deletion::Changed) => {
                    tell(&file, "it has not the bytes that were moved: it was written to since");
                    emptied.kept += 1;
                }
                Err(Kept::For(why)) => {
                    tell(&file, &why);
                    emptied.kept += 1;
                }
                Err(Kept::Ends(error)) => return Err(error),
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        ended = all => ended?,
    }
    unseen.map_or(Ok(emptied), Err)
}

fn tell(file: &Expired, why: &str) {
    tracing::warn!(place = file.place, why, "a file stays in the source's quarantine");
}

async fn delete(
    ledger: &dyn Ledger,
    prover: &Prover<'_>,
    attic: &dyn Attic,
    file: &Expired,
) -> Result<Deletion, Kept> {
    let ended = |error| Kept::Ends(EngineError::Ledger(error));
    let Some(row) = ledger.file(&file.id).await.map_err(ended)? else {
        return kept("the ledger does not know it");
    };
    let Some(digest) = digest_of_moved(ledger, &row, file).await? else {
        return kept("it is not in this ledger that it was moved there");
    };
    match (row.state, row.digest) {
        // A newer version took its place, and its owner has removed that since.
        (State::Gone, _) => {}
        (State::Verified | State::Retired, Some(current))
            if row.verified.is_some_and(|by| by != Verified::No) =>
        {
            // Of a newer version it is not known whether it is a link.
            let link = file.link.as_deref().filter(|_| is_moved(&row, file));
            match prover.prove(&row, current, link).await {
                Ok(Verdict::Match(_)) => {}
                Ok(verdict) => return kept(format!("its copy in the target is not proven: {verdict}")),
                Err(error) if error.is_outage() => return Err(EngineError::Target(error).into()),
                Err(error) => return kept(format!("its copy in the target is not proven: {error}")),
            }
        }
        (state, _) => {
            return kept(format!("the ledger has its copy in the target as {state}, not as verified"));
        }
    }
    match attic.delete(file, digest).await {
        Ok(deletion) => Ok(deletion),
        Err(error) => kept(format!("it cannot be compared and deleted: {error}")),
    }
}

/// Tells whether the row is about what is in this place, and not about a newer version.
fn is_moved(row: &FileRecord, file: &Expired) -> bool {
    row.retired.as_ref() == Some(&file.place)
}

/// Returns the digest that the file had when this ledger moved it to this place; nothing where it did not.
async fn digest_of_moved(
    ledger: &dyn Ledger,
    row: &FileRecord,
    file: &Expired,
) -> Result<Option<Digest>, EngineError> {
    if is_moved(row, file) && row.digest.is_some() {
        return Ok(row.digest);
    }
    let said = moved_to(&file.place);
    let told = ledger.history(file.id.as_str()).await?.into_iter();
    let mut moves = told.filter(|(_, line)| line.reason == REMOVED && line.detail.as_ref() == Some(&said));
    Ok(moves.next().and_then(|(_, line)| line.digest))
}
