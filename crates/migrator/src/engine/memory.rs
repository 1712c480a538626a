//! Whether this ledger knows which files of the source were moved away: one that does not would take their copies in the
//! target, perhaps the only ones, for left over.
//!
//! Every run that moves files leaves its mark in the source before the first of them. A ledger that has that run, with that
//! beginning, knows what it moved and what all runs before it did; a new ledger, another one, or an older copy does not.

use crate::ledger::{Ledger, RunId};
use crate::quarantine::Mark;
use crate::retire::Attic;
use crate::safeguard::Refusal;

use super::{EngineError, Job};

/// Leaves the mark of a run, instead of those of earlier runs of this ledger. Marks of others stay.
///
/// # Errors
/// [`EngineError::Source`]: it cannot be left; then nothing may be moved.
pub(super) async fn leave_mark(
    ledger: &dyn Ledger,
    attic: &dyn Attic,
    run: RunId,
) -> Result<(), EngineError> {
    let Some(record) = ledger.run(Some(run)).await? else {
        return Err(EngineError::Internal(format!("the ledger does not know its run {run}")));
    };
    let mut replaced = Vec::new();
    for moves in attic.moves().await.map_err(EngineError::Source)?.iter().filter(|moves| moves.own) {
        for mark in &moves.marks {
            if knows(ledger, *mark).await? {
                replaced.push(*mark);
            }
        }
    }
    let mark = Mark { run, started: record.started };
    attic.mark(mark, replaced).await.map_err(EngineError::Source)
}

/// Refuses where files of the source were moved away and this ledger does not know which.
///
/// # Errors
/// [`EngineError::Refused`]; [`EngineError::Source`]: it cannot be told whether there are such.
pub(super) async fn check(job: &Job) -> Result<(), EngineError> {
    let Some(attic) = &job.moved_away else { return Ok(()) };
    for moves in attic.moves().await.map_err(EngineError::Source)? {
        let mut known = true;
        for mark in &moves.marks {
            known &= knows(&*job.ledger, *mark).await?;
        }
        if moves.marks.is_empty() {
            // No row need be left of it: what was moved may have been replaced by newer versions.
            let runs = job.ledger.runs(u32::MAX, None).await?;
            known = moves.own && runs.iter().any(|run| run.tally.retires);
        }
        if !known {
            return Err(Refusal::Forgotten { place: moves.place, pair: moves.pair }.into());
        }
    }
    Ok(())
}

async fn knows(ledger: &dyn Ledger, mark: Mark) -> Result<bool, EngineError> {
    Ok(ledger.run(Some(mark.run)).await?.is_some_and(|run| run.started == mark.started))
}
