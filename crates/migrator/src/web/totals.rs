//! Totals of runs that have ended, which no longer change: each journal is counted once, however often a page asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::ledger::{Ledger, RunId, RunRecord};
use crate::report::{ReportError, RunTotals};

/// Runs that are kept: some hundred kilobytes.
const MOST_KEPT: usize = 1_000;

/// Which run: a ledger that was removed and begun anew has other runs of the same numbers.
type Key = (String, RunId, Timestamp);

/// Totals that were counted before.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<BTreeMap<Key, RunTotals>>);

impl Totals {
    /// Returns the totals of a run.
    ///
    /// # Errors
    /// Those of [`RunTotals::of`], which are not kept.
    pub(super) async fn of(&self, ledger: &dyn Ledger, run: RunRecord) -> Result<RunTotals, ReportError> {
        if run.finished.is_none() {
            return RunTotals::of(ledger, run).await;
        }
        let key = (ledger.location().to_owned(), run.id, run.started);
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let totals = RunTotals::of(ledger, run).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_KEPT {
            all.pop_first();
        }
        all.insert(key, totals.clone());
        Ok(totals)
    }
}
