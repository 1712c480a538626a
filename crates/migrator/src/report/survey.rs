//! What only a walk over all rows of a run tells: who verified how much, and how sizes are spread. Pure.

use serde::Serialize;
use storage_core::storage::Verified;

use crate::ledger::{Count, Outcome};
use crate::report::rows::{Fate, Row};

/// Classes of sizes: nothing, less than 1 KiB, then each four times the one before, and all from 4 GiB on.
pub const SIZE_CLASSES: usize = 14;

/// Who compared the target's bytes, over all planned files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The target itself compared what it stored with the digest of the source.
    pub backend: Count,
    /// Every byte was read back and compared.
    pub read_back: Count,
    /// Nobody, or the comparison failed.
    pub unverified: Count,
}

/// Files of one class of sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SizeClass {
    /// Least size in bytes.
    pub from: u64,
    /// Number of files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Removals that a page names; all of them are in `files.csv`.
pub const MAX_REMOVALS: usize = 100;

/// A file that a sync removed from the target, or was to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The file.
    pub subject: String,
    /// `Quarantined`, `Deleted` or `NotDeleted`.
    pub outcome: Outcome,
    /// Where it is now, or why it was not removed.
    pub detail: Option<String>,
}

/// What a walk over all rows has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Who compared the bytes.
    pub coverage: Coverage,
    /// Planned files by size, the smallest first.
    pub sizes: [SizeClass; SIZE_CLASSES],
    /// The first [`MAX_REMOVALS`] files that a sync removed or was to remove; for the page.
    #[serde(skip)]
    pub removals: Vec<Removal>,
}

impl Default for Survey {
    fn default() -> Self {
        let sizes = std::array::from_fn(|class| SizeClass { from: least(class), files: 0, bytes: 0 });
        Self { coverage: Coverage::default(), sizes, removals: Vec::new() }
    }
}

impl Survey {
    /// Adds a row.
    pub fn add(&mut self, row: &Row) {
        if let Fate::Outcome(outcome @ (Outcome::Quarantined | Outcome::Deleted | Outcome::NotDeleted)) =
            row.fate
            && self.removals.len() < MAX_REMOVALS
        {
            let (subject, detail) = (row.subject.clone(), row.detail.clone());
            self.removals.push(Removal { subject, outcome, detail });
        }
        let planned = match row.fate {
            Fate::Unfinished => true,
            Fate::Outcome(outcome) => !matches!(
                outcome,
                Outcome::Skipped
                    | Outcome::Gone
                    | Outcome::Unseen
                    | Outcome::Excluded
                    | Outcome::Extra
                    | Outcome::Quarantined
                    | Outcome::Deleted
                    | Outcome::NotDeleted
                    | Outcome::Kept
            ),
        };
        if !planned {
            return;
        }
        let verified = row.verified.filter(|_| row.fate.is_good());
        let count = match verified {
            Some(Verified::Backend) => &mut self.coverage.backend,
            Some(Verified::ReadBack) => &mut self.coverage.read_back,
            Some(Verified::No) | None => &mut self.coverage.unverified,
        };
        // An entry that could not be a file has no size, and did not arrive all the same.
        count.add(row.size.unwrap_or(0));
        if let Some(size) = row.size
            && let Some(class) = self.sizes.get_mut(class_of(size))
        {
            class.files += 1;
            class.bytes += size;
        }
    }
}

/// Returns the class that a size belongs to.
fn class_of(size: u64) -> usize {
    match size {
        0 => 0,
        1..1024 => 1,
        // One per two powers of two, from 1 KiB on.
        _ => (2 + (size.ilog2() as usize - 10) / 2).min(SIZE_CLASSES - 1),
    }
}

/// Returns the least size of a class.
fn least(class: usize) -> u64 {
    match class {
        0 | 1 => class as u64,
        _ => 1 << (10 + 2 * (class - 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_one_class_and_classes_have_no_gap() {
        for class in 0..SIZE_CLASSES {
            assert_eq!(class_of(least(class)), class, "{class}");
            if class > 0 {
                assert_eq!(class_of(least(class) - 1), class - 1, "{class}");
            }
        }
        assert_eq!(class_of(u64::MAX), SIZE_CLASSES - 1);
        assert_eq!(least(SIZE_CLASSES - 1), 4 << 30);
    }
}
