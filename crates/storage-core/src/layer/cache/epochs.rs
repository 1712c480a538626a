//! Which writes a read may have missed. Pure counting: nothing here waits, fails or allocates.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::id::FileId;

/// Ids share this many counters, so that memory does not grow with the number of ids written. Two that share one
/// cost each other a hit, never an old answer. 128 KiB; with 100 writes at a time fewer than 1 read in 100 meets
/// one.
const STRIPES: usize = 1 << 14;

/// The low bits count the writes that are running, the high bits those that have begun or ended.
const RUNNING_BITS: u32 = 20;
const RUNNING: u64 = (1 << RUNNING_BITS) - 1;
const CHANGE: u64 = 1 << RUNNING_BITS;

/// Tells of two reads of an id whether a write began or ended between them.
///
/// A write takes effect somewhere between its beginning and its end. What a read that began in one epoch has seen
/// may be shown to a read that begins in the same epoch, as no write has ended since; in any other epoch, or
/// while a write runs, only the storage knows.
#[derive(Debug)]
pub(super) struct Epochs {
    stripes: Box<[AtomicU64]>,
    hasher: RandomState,
}

/// A time between two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Epoch(u64);

/// A write that runs until this is dropped: finished, failed or given up.
#[derive(Debug)]
pub(super) struct Writing<'a>(&'a AtomicU64);

impl Epochs {
    pub(super) fn new() -> Self {
        let stripes = (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { stripes, hasher: RandomState::new() }
    }

    fn stripe(&self, id: &FileId) -> &AtomicU64 {
        // The remainder fits a usize whatever its width.
        &self.stripes[(self.hasher.hash_one(id) % STRIPES as u64) as usize]
    }

    /// Returns the present epoch of the id, or nothing while a write runs.
    pub(super) fn now(&self, id: &FileId) -> Option<Epoch> {
        let state = self.stripe(id).load(Ordering::SeqCst);
        (state & RUNNING == 0).then_some(Epoch(state))
    }

    /// Begins a write.
    pub(super) fn write(&self, id: &FileId) -> Writing<'_> {
        let stripe = self.stripe(id);
        stripe.fetch_add(CHANGE + 1, Ordering::SeqCst);
        Writing(stripe)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(CHANGE - 1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> FileId {
        FileId::parse(text).unwrap()
    }

    #[test]
    fn every_write_ends_an_epoch_and_none_is_open_while_it_runs() {
        let epochs = Epochs::new();
        let before = epochs.now(&id("a")).unwrap();
        assert_eq!(epochs.now(&id("a")), Some(before));
        let first = epochs.write(&id("a"));
        assert_eq!(epochs.now(&id("a")), None);
        let second = epochs.write(&id("a"));
        drop(first);
        assert_eq!(epochs.now(&id("a")), None);
        drop(second);
        let after = epochs.now(&id("a")).unwrap();
        assert_ne!(before, after);
        assert_eq!(epochs.now(&id("a")), Some(after));
    }

    #[test]
    fn other_ids_are_left_alone() {
        let epochs = Epochs::new();
        let others: Vec<_> = (0..1_000).map(|number| id(&format!("other-{number}"))).collect();
        let _write = epochs.write(&id("a"));
        let hidden = others.iter().filter(|other| epochs.now(other).is_none()).count();
        assert!(hidden < 20, "{hidden} of 1,000 share a counter with one id");
    }
}
