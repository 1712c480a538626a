//! What the primary was last seen to hold: the base of a write that it is going to miss.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::entry::{Base, Trace, nanoseconds, time, with_own};
use crate::checksum::Digest;
use crate::id::FileId;
use crate::metadata::{FileMetadata, Version};

/// Ids in each of the two generations.
const GENERATION: usize = 8_192;

/// How often the clock is looked at: much less than the margin is lost by it, and one request is no load.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The latest time at which the primary said that it stored something: its own clock had come that far when it was
/// asked, and nobody else's is compared with it.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Goes on from what an earlier process has seen.
    pub(super) fn new(seen: Option<SystemTime>) -> Self {
        Self(Arc::new(AtomicI64::new(seen.map_or(i64::MIN, nanoseconds))))
    }

    pub(super) fn seen(&self) -> Option<SystemTime> {
        match self.0.load(Ordering::Acquire) {
            i64::MIN => None,
            nanoseconds => Some(time(nanoseconds)),
        }
    }

    /// Learns from a file that was read: it was stored before.
    fn read(&self, stored: Option<SystemTime>) {
        if let Some(stored) = stored {
            self.0.fetch_max(nanoseconds(stored), Ordering::AcqRel);
        }
    }

    /// Learns from a write that has just ended: a clock that says less than before was set back.
    fn written(&self, stored: Option<SystemTime>) {
        if let Some(stored) = stored {
            self.0.store(nanoseconds(stored), Ordering::Release);
        }
    }
}

/// What the primary holds under an id, as far as this process knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) base: Base,
    /// Whether an own deletion whose answer was lost may have taken the base away.
    pub(super) deleted: bool,
    /// Digests of own writes whose answers were lost: one of them may be there instead.
    pub(super) ours: Vec<Digest>,
}

/// The versions of some thousand ids, the youngest, and how far the primary's clock had come. An id that is not in it
/// has an unseen base.
#[derive(Debug)]
pub(super) struct Seen {
    clock: Clock,
    /// How much earlier than the clock says a file must have been stored to count as stored before.
    margin: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    young: HashMap<FileId, Held>,
    old: HashMap<FileId, Held>,
    /// Writes that have begun or ended.
    writes: u64,
    /// The last one whose time was not told, since it was taken.
    written: Option<(FileId, Version)>,
    looked: Option<Instant>,
}

impl State {
    fn note(&mut self, id: &FileId, held: Held) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id.clone(), held);
    }
}

impl Held {
    fn of(version: Option<Version>) -> Self {
        Self { base: version.map_or(Base::Absent, Base::Version), deleted: false, ours: Vec::new() }
    }
}

impl Seen {
    pub(super) fn new(clock: Clock, margin: Duration) -> Self {
        Self { clock, margin, state: Mutex::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of an id that was not seen: that whatever the primary stored before now, by its own clock, is
    /// older than a write that begins now. Nothing where that clock was seen further ahead of ours than the margin: one
    /// wrong time among many would make every stranger's file an old one.
    pub(super) fn trace(&self) -> Trace {
        let latest = SystemTime::now().checked_add(self.margin);
        let seen = self.clock.seen().filter(|seen| latest.is_none_or(|latest| *seen <= latest));
        Trace { before: seen.and_then(|seen| seen.checked_sub(self.margin)), digest: None }
    }

    /// Says that a read begins; to be handed to [`note_read`](Self::note_read).
    pub(super) fn writes(&self) -> u64 {
        self.with(|state| state.writes)
    }

    /// Remembers what a read found, unless something was written since it began: a read that was overtaken says
    /// what was there before.
    pub(super) fn note_read(&self, began: u64, id: &FileId, metadata: Option<&FileMetadata>) {
        self.clock.read(metadata.and_then(|metadata| metadata.stored));
        let held = match metadata.map(|metadata| &metadata.version) {
            Some(None) => return,
            Some(Some(version)) => Held::of(Some(version.clone())),
            None => Held::of(None),
        };
        self.with(|state| {
            if state.writes == began {
                state.note(id, held);
            }
        });
    }

    /// Forgets the id, as it is about to be written, and returns what it held.
    pub(super) fn take(&self, id: &FileId) -> Held {
        // Before whatever is written from now on.
        let trace = self.trace();
        let held = self.with(|state| {
            state.writes += 1;
            let young = state.young.remove(id);
            let old = state.old.remove(id);
            young.or(old)
        });
        let Held { base, deleted, ours } = held.unwrap_or_default();
        let base = if matches!(base, Base::Unseen(_)) { Base::Unseen(trace) } else { base };
        Held { base, deleted, ours }
    }

    /// Learns how far the clock has come from a file that was looked at.
    pub(super) fn note_clock(&self, metadata: &FileMetadata) {
        self.clock.read(metadata.stored);
    }

    /// Remembers what a write left.
    pub(super) fn note_write(&self, metadata: &FileMetadata) {
        self.clock.written(metadata.stored);
        let Some(version) = &metadata.version else { return };
        self.with(|state| {
            state.writes += 1;
            state.note(&metadata.id, Held::of(Some(version.clone())));
            if metadata.stored.is_none() {
                state.written = Some((metadata.id.clone(), version.clone()));
            }
        });
    }

    /// Remembers that there is nothing.
    pub(super) fn note_absent(&self, id: &FileId) {
        self.put_back(id, Held::of(None));
    }

    /// Puts back what was [taken](Self::take), as the write came to nothing.
    pub(super) fn put_back(&self, id: &FileId, held: Held) {
        self.with(|state| {
            state.writes += 1;
            if held != Held::default() {
                state.note(id, held);
            }
        });
    }

    /// Puts back what was taken by a write of which it is not known whether it took place: either is there.
    pub(super) fn put_back_or(&self, id: &FileId, held: Held, own: Digest) {
        let ours = with_own(&held.ours, own);
        self.put_back(id, Held { ours, ..held });
    }

    /// Tells whether it is time to look at the clock, and to keep what is known of it.
    pub(super) fn is_due(&self) -> bool {
        self.with(|state| {
            let due = state.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
            if due {
                state.looked = Some(Instant::now());
            }
            due
        })
    }

    /// Takes the file that was written last since this was asked last, with its version: where writes are not told a
    /// time, a look at it tells one.
    pub(super) fn take_written(&self) -> Option<(FileId, Version)> {
        self.with(|state| state.written.take())
    }

    /// Learns how far the clock had come from the look at a file of our own: as from the write itself, so that one that
    /// was set right is believed.
    pub(super) fn note_written(&self, version: &Version, metadata: &FileMetadata) {
        if metadata.version.as_ref() == Some(version) {
            self.clock.written(metadata.stored);
        } else {
            self.clock.read(metadata.stored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One file of tomorrow, stored by a server whose clock was wrong for a minute.
    #[test]
    fn a_time_ahead_of_ours_proves_nothing_until_a_write_of_ours_shows_the_clock_set_right() {
        let seen = Seen::new(Clock::new(None), Duration::from_secs(300));
        let (now, tomorrow) = (SystemTime::now(), SystemTime::now() + Duration::from_secs(86_400));
        let mut file = FileMetadata::new(FileId::parse("a").unwrap(), 1);
        let (ours, theirs) = (Version::new("ours"), Version::new("theirs"));
        file.version = Some(theirs);
        file.stored = Some(tomorrow);
        seen.note_read(seen.writes(), &file.id, Some(&file));
        assert_eq!(seen.trace(), Trace::default());
        // A look at a file of somebody else takes nothing back.
        file.stored = Some(now);
        seen.note_written(&ours, &file);
        assert_eq!(seen.trace(), Trace::default());
        file.version = Some(ours.clone());
        seen.note_written(&ours, &file);
        assert_eq!(seen.trace().before, Some(now - Duration::from_secs(300)));
    }
}
