//! What failed and is in no count of files, as no file could be made of it.

use crate::ledger::{Count, Ledger, LedgerError, RunEnd, RunKind};

/// Runs that are looked back at for the latest that saw the source as a whole.
const LOOK_BACK: u32 = 100;

/// Counts the entries that failed in the latest copy of everything and of which the ledger has no row; those of later
/// runs that were about less, or were stopped, count where they are more.
///
/// # Errors
/// The ledger failed.
pub async fn unrecorded(ledger: &dyn Ledger) -> Result<Count, LedgerError> {
    let mut most = Count::default();
    let runs = ledger.runs(LOOK_BACK, None).await?;
    for run in runs.iter().filter(|run| run.kind != RunKind::Verify) {
        let count = ledger.unrecorded(run.id).await?;
        if count.files > most.files {
            most = count;
        }
        // A run about named files has no listing.
        if run.end == Some(RunEnd::Complete) && run.scanned_to.is_some() {
            break;
        }
    }
    Ok(most)
}
