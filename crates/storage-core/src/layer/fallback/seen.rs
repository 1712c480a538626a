//! What the primary was last seen to hold: the base of a write that it is going to miss.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::entry::Base;
use crate::id::FileId;
use crate::metadata::Version;

/// Ids in each of the two generations.
const GENERATION: usize = 8_192;

/// The versions of some thousand ids, the youngest. An id that is not in it has an unknown base.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    young: HashMap<FileId, Option<Version>>,
    old: HashMap<FileId, Option<Version>>,
    /// Writes that have begun or ended.
    writes: u64,
}

impl State {
    fn note(&mut self, id: &FileId, version: Option<Version>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id.clone(), version);
    }
}

impl Seen {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that a read begins; to be handed to [`note_read`](Self::note_read).
    pub(super) fn writes(&self) -> u64 {
        self.with(|state| state.writes)
    }

    /// Remembers what a read found, unless something was written since it began: a read that was overtaken says
    /// what was there before.
    pub(super) fn note_read(&self, began: u64, id: &FileId, version: Option<&Version>) {
        self.with(|state| {
            if state.writes == began {
                state.note(id, version.cloned());
            }
        });
    }

    /// Forgets the id, as it is about to be written, and returns what it held.
    pub(super) fn take(&self, id: &FileId) -> Base {
        self.with(|state| {
            state.writes += 1;
            let young = state.young.remove(id);
            let old = state.old.remove(id);
            match young.or(old) {
                None => Base::Unknown,
                Some(None) => Base::Absent,
                Some(Some(version)) => Base::Version(version),
            }
        })
    }

    /// Remembers what a write left. `None`: nothing.
    pub(super) fn note_write(&self, id: &FileId, version: Option<Version>) {
        self.with(|state| {
            state.writes += 1;
            state.note(id, version);
        });
    }

    /// Puts back what was [taken](Self::take), as the write came to nothing or is recognised otherwise.
    pub(super) fn restore(&self, id: &FileId, base: &Base) {
        match base {
            Base::Unknown => {}
            Base::Absent => self.note_write(id, None),
            Base::Version(version) => self.note_write(id, Some(version.clone())),
        }
    }
}
