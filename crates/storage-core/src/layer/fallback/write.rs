//! Writes: to the primary, or in its outage to the secondary and into the journal.
//!
//! Whoever writes to an id has its turn: what follows is one writer at a time. An id is *journalled* while its
//! newest version is not on the primary.
//!
//! # Order of effects
//!
//! **Upload while the primary answers.** 1. the primary. On a replica, before it: 0. row `stale`; after it: 2. the
//! secondary, 3. the row is removed; then the answer.
//!
//! | ends between | what remains | what follows |
//! |---|---|---|
//! | 0 and 1, or nothing came of 1 | a stale row, both sides as they were | the heal compares the sides and removes it; a file that the secondary alone has stays, where such are shown |
//! | 1 and 2, or 2 failed | a stale row, the secondary has the older file | it is not read; the heal brings it up to date |
//! | 2 and 3 | a stale row, both sides have the new file | as above |
//!
//! **Upload in an outage.** 1. row `intent` with the digest of the bytes, what the primary held before, and the
//! digests of own writes that may have reached it; 2. the secondary; 3. row `file`, in one commit with the end of the
//! intent; then the answer.
//!
//! | ends between | what remains | what follows |
//! |---|---|---|
//! | before 1 | perhaps the new file on the primary, if its answer was lost | nobody was told; the primary is right |
//! | 1 and 2 | an intent, the secondary as it was | the next write of the id, or the heal, sees by the digest that nothing came of it, and drops the intent |
//! | 2 and 3 | an intent, the secondary has the new file | the same look finds the digest, and makes it a row `file`: the write takes effect late, which is true of any whose answer was lost |
//! | 2 failed with a lost answer | an intent | the same look |
//!
//! While the look cannot be taken (the secondary is out), reads go by the rows, a write to the primary that succeeds
//! makes the row `stale`, which ends the intent, and a degraded write is refused.
//!
//! The primary coming back between any two of these steps changes nothing: the turn is kept until the row is
//! written, the row says where the newest version is, and the heal needs the turn.
//!
//! **Upload over a journalled file, while the primary answers.** 1. the row learns the digest as one of our own;
//! 2. the primary; 3. row `stale`; 4. the secondary (a spare's copy is removed, a replica's is replaced); 5. the row
//! is removed. Ended between 1 and 2 the row is as good as before; between 2 and 3 the primary has a file that the
//! row calls our own, so the heal replaces it: nobody was told of it. After 3 the primary's is the newest.
//! Conditional writes take the way of the outage, as their precondition is about the secondary's version.
//!
//! **Delete in an outage, or of a journalled file.** 1. row `tombstone`; 2. the secondary's copy is removed, if that
//! is possible now; then the answer. After 1 the file is gone for every reader, and the heal does the rest.
//!
//! **Copy.** Where neither id is journalled, the primary's own; else, and in its outage, a read of the newest version
//! followed by an upload as above.
//!
//! # What cannot be honoured
//!
//! A precondition that only the primary can check is not guessed: in its outage the call fails with the outage. It
//! can be checked where the journal knows the id, and [`Precondition::Absent`] by a replica.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::breaker::State;
use super::config::{OnOutage, Role};
use super::entry::{
    Base, Clash, Entry, Intent, Named, Stored, What, from_primary, from_secondary, named, with_own,
};
use super::event::FallbackEvent;
use super::journal::Change;
use super::read::{Versioned, ask_metadata, marked, read_digest};
use super::seen::Held;
use super::settle::Settled;
use super::side::is_outage;
use super::{Inner, both_out, worst};
use crate::body::Body;
use crate::checksum::Digest;
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::FileMetadata;
use crate::storage::{Precondition, Receipt, UploadOptions, Verified};

impl Versioned for Receipt {
    fn metadata_mut(&mut self) -> &mut FileMetadata {
        &mut self.metadata
    }
}

/// An upload whose turn it is.
#[derive(Clone)]
pub(super) struct Write {
    op: Op,
    body: Body,
    options: UploadOptions,
    /// What earlier attempts of the same call may have done.
    effect: Effect,
}

impl Write {
    pub(super) fn new(op: Op, body: Body, options: UploadOptions, effect: Effect) -> Self {
        Self { op, body, options, effect }
    }

    async fn digest(&self, id: &FileId) -> Result<Digest> {
        match self.options.digest {
            Some(digest) => Ok(digest),
            None => self.body.digest().await.map_err(|error| error.with_op(self.op).with_id(id)),
        }
    }
}

impl Inner {
    pub(super) async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.check_write(id, Op::Upload)?;
        self.check_fits(id, &options, Some(body.size()), Op::Upload)?;
        let _turn = self.turns.take(id).await;
        self.upload_in_turn(id, Write::new(Op::Upload, body, options, Effect::None)).await
    }

    pub(super) async fn upload_in_turn(&self, id: &FileId, write: Write) -> Result<Receipt> {
        let earlier = write.effect;
        let settled = self.settled(id, write.op).await.map_err(|error| error.with_effect_of(earlier))?;
        let result = match settled.entry.clone() {
            Some(entry) if !entry.is_stale() => self.upload_journalled(id, entry, settled, write).await,
            _ => self.upload_ordinary(id, settled, write).await,
        };
        result.map_err(|error| error.with_effect_of(earlier))
    }

    /// Uploads an id whose newest state is on the primary.
    async fn upload_ordinary(&self, id: &FileId, settled: Settled, write: Write) -> Result<Receipt> {
        let when = match &write.options.when {
            Precondition::Version(version) => match named(version) {
                Named::Primary(version) => Precondition::Version(version),
                Named::Secondary(_) => return self.upload_unpromoted(id, settled, write).await,
            },
            other => other.clone(),
        };
        self.urls.forget(id);
        // 0
        let mark = self.mark(self.begun(id), &settled, write.op).await?;
        let held = self.seen.take(id);
        // 1
        let options = UploadOptions { when, ..write.options.clone() };
        let work = self.primary.storage().upload(id, write.body.clone(), options);
        match self.primary.call(write.op, Some(id), work).await {
            Ok(receipt) => {
                self.seen.note_write(&receipt.metadata);
                if settled.open.is_some() {
                    self.record_after_write(Change::Put(Arc::new(Entry::stale(id))), write.op).await?;
                }
                if self.config.role == Role::Replica {
                    self.mirror(id, &write, &receipt).await;
                }
                Ok(marked(receipt, from_primary))
            }
            Err(outage) if is_outage(&outage) && self.config.write == OnOutage::Secondary => {
                let write = Write { effect: worst(write.effect, outage.effect()), ..write };
                let (op, effect) = (write.op, outage.effect());
                // The primary is as it was: so is the replica, until the intent says otherwise.
                self.unmark(id, &mark, effect, op).await?;
                let from = self.follows(id, &settled, &held, mark.is_new(), &write.options.when).await;
                let result = self.upload_degraded_or(id, from, settled, outage, write.clone()).await;
                if result.is_err() {
                    self.put_back(id, held, effect, &write).await;
                }
                result
            }
            Err(error) => {
                self.put_back(id, held, error.effect(), &write).await;
                self.unmark(id, &mark, error.effect(), write.op).await?;
                Err(error.with_effect_of(write.effect))
            }
        }
    }

    /// What a degraded write follows upon where the newest state was the primary's. What of that is not known yet, a
    /// replica knows whose `copy` may be used.
    async fn follows(
        &self,
        id: &FileId,
        settled: &Settled,
        held: &Held,
        copy: bool,
        when: &Precondition,
    ) -> From {
        let mut base = held.base.clone();
        if copy && matches!(base, Base::Unseen(_)) {
            let copy = ask_metadata(Arc::clone(&self.secondary), id).await;
            base = base.with_copy(copy.ok().as_ref());
        }
        From {
            entry: settled.entry.clone(),
            base: base.asserted(when),
            deleted: held.deleted,
            ours: held.ours.clone(),
            clash: None,
        }
    }

    /// Remembers what the primary held after a write that failed, and perhaps took effect.
    async fn put_back(&self, id: &FileId, held: Held, effect: Effect, write: &Write) {
        match effect {
            Effect::None => self.seen.put_back(id, held),
            Effect::Applied | Effect::Unknown => {
                if let Ok(own) = write.digest(id).await {
                    self.seen.put_back_or(id, held, own);
                }
            }
        }
    }

    /// The row of an upload to the primary that begins. A file that the secondary alone has, where such are shown, is not
    /// given up for one that may come to nothing; elsewhere the secondary holds nothing but what the primary holds.
    pub(super) fn begun(&self, id: &FileId) -> Entry {
        if self.config.shows_more() { Entry::begun(id) } else { Entry::stale(id) }
    }

    /// Before a write to the primary that a replica is to follow: until it has, its copy must not be used, as `stale`
    /// says.
    pub(super) async fn mark(&self, stale: Entry, settled: &Settled, op: Op) -> Result<Mark> {
        if self.config.role == Role::Spare {
            return Ok(Mark::None);
        }
        if let (Some(entry), None) = (&settled.entry, &settled.open) {
            if !entry.is_begun() || stale.is_begun() {
                return Ok(Mark::None);
            }
            // A deletion is more than a write that may have come to nothing.
            self.record(Change::Put(Arc::new(stale)), op).await?;
            return Ok(Mark::Over(Arc::clone(entry)));
        }
        if settled.open.is_some() && stale.is_begun() {
            // Of two writes that may have come to nothing either may be there: the open one ends when this one has not.
            if settled.entry.is_none() {
                self.record(Change::Amend(Arc::new(stale)), op).await?;
            }
            return Ok(Mark::None);
        }
        self.record(Change::Put(Arc::new(stale)), op).await?;
        // A write that is open ends with this: it must not count after one that was acknowledged later. The copy
        // stays suspect whatever comes of this one.
        Ok(if settled.open.is_none() { Mark::New } else { Mark::None })
    }

    /// Takes the mark back after a write that changed neither side.
    pub(super) async fn unmark(&self, id: &FileId, mark: &Mark, effect: Effect, op: Op) -> Result<()> {
        let known = self.journal.get(id);
        let marked = known.entry.is_some_and(|entry| entry.is_stale()) && known.intent.is_none();
        match mark {
            Mark::New if marked && effect == Effect::None => {
                self.record(Change::Remove(id.clone()), op).await
            }
            Mark::Over(entry) if marked && effect == Effect::None => {
                self.record(Change::Put(Arc::clone(entry)), op).await
            }
            _ => Ok(()),
        }
    }

    /// Uploads over a version of the secondary that was read in an outage.
    async fn upload_unpromoted(&self, id: &FileId, settled: Settled, write: Write) -> Result<Receipt> {
        match ask_metadata(Arc::clone(&self.primary), id).await {
            Err(outage) if is_outage(&outage) && self.config.write == OnOutage::Secondary => {
                let held = self.seen.take(id);
                let copy = settled.entry.is_none();
                let from = self.follows(id, &settled, &held, copy, &write.options.when).await;
                let result = self.upload_degraded_or(id, from, settled, outage, write).await;
                if result.is_err() {
                    self.seen.put_back(id, held);
                }
                result
            }
            Err(outage) if is_outage(&outage) => Err(outage.with_op(write.op)),
            _ => Err(self.error(ErrorKind::VersionMismatch, write.op, id)),
        }
    }

    /// Brings the replica up to date with what the primary has just stored. Where that fails, the row stays.
    async fn mirror(&self, id: &FileId, write: &Write, receipt: &Receipt) {
        let mut options = write.options.clone().with_when(Precondition::None);
        options.digest = receipt.digest.or(options.digest);
        let work = self.secondary.storage().upload(id, write.body.clone(), options);
        match self.secondary.call(write.op, Some(id), work).await {
            Ok(copy) if copy.digest.is_some() && copy.digest == receipt.digest => self.forget(id).await,
            Ok(_) => self.has_missed(id).await,
            Err(error) => {
                tracing::warn!(%error, "the replica has missed a write and is read no more until healed");
                self.has_missed(id).await;
            }
        }
    }

    /// Says of a copy that it is older than a write which took place: where the primary has nothing later on, somebody
    /// removed that. Without the row the copy counts as one that a write was only begun over.
    pub(super) async fn has_missed(&self, id: &FileId) {
        if self.journal.entry(id).is_some_and(|entry| entry.is_begun())
            && let Err(error) = self.record(Change::Put(Arc::new(Entry::stale(id))), Op::Upload).await
        {
            tracing::warn!(%error, "a row of the journal stays that says too little");
        }
    }

    /// Removes a row that says nothing any more. Where the journal fails, it stays, and costs a comparison.
    pub(super) async fn forget(&self, id: &FileId) {
        if let Err(error) = self.record(Change::Remove(id.clone()), Op::Upload).await {
            tracing::warn!(%error, "a row of the journal stays that is not needed");
        }
    }

    /// Uploads an id whose newest state is not on the primary.
    async fn upload_journalled(
        &self,
        id: &FileId,
        entry: Arc<Entry>,
        settled: Settled,
        write: Write,
    ) -> Result<Receipt> {
        let from = From {
            base: entry.next_base(&write.options.when, self.seen.trace()),
            deleted: entry.deleted,
            ours: entry.ours.clone(),
            // It was not for a caller who named our file to decide about theirs.
            clash: entry.clash.clone().filter(|_| write.options.when != Precondition::None),
            entry: Some(Arc::clone(&entry)),
        };
        let out = || self.error(ErrorKind::Unavailable, write.op, id).with_message("it awaits its healing");
        match (&write.options.when, entry.file()) {
            (Precondition::None, _) => {}
            (Precondition::Absent, Some(_)) => {
                return Err(self.error(ErrorKind::AlreadyExists, write.op, id));
            }
            (Precondition::Version(version), Some(stored)) if stored.is(version) => {
                return self.upload_degraded_or(id, from, settled, out(), write).await;
            }
            (Precondition::Version(_), _) => {
                return Err(self.error(ErrorKind::VersionMismatch, write.op, id));
            }
            (Precondition::Absent, None) => {
                return self.upload_degraded_or(id, from, settled, out(), write).await;
            }
        }
        // 1: so that nobody takes it for a stranger's.
        if self.primary.state() == State::Open {
            return self.upload_degraded_or(id, from, settled, out(), write).await;
        }
        let digest = write.digest(id).await?;
        let ours = with_own(&entry.ours, digest);
        let entry = Arc::new(Entry { ours: ours.clone(), ..(*entry).clone() });
        self.record(Change::Amend(Arc::clone(&entry)), write.op).await?;
        // 2
        self.seen.take(id);
        let options = write.options.clone().with_digest(digest);
        let work = self.primary.storage().upload(id, write.body.clone(), options);
        match self.primary.call(write.op, Some(id), work).await {
            Ok(receipt) => {
                self.seen.note_write(&receipt.metadata);
                // 3
                self.record_after_write(Change::Put(Arc::new(Entry::stale(id))), write.op).await?;
                // 4 and 5
                match self.config.role {
                    Role::Replica => self.mirror(id, &write, &receipt).await,
                    Role::Spare => {
                        self.urls.forget(id);
                        self.clear_secondary(id).await;
                    }
                }
                Ok(marked(receipt, from_primary))
            }
            Err(outage) if is_outage(&outage) && self.config.write == OnOutage::Secondary => {
                let write = Write { effect: worst(write.effect, outage.effect()), ..write };
                let from = From { ours, entry: Some(entry), ..from };
                self.upload_degraded_or(id, from, settled, outage, write).await
            }
            Err(error) => Err(error.with_effect_of(write.effect)),
        }
    }

    /// Removes a copy that nothing needs. Where that fails, the row stays, and the heal does it.
    pub(super) async fn clear_secondary(&self, id: &FileId) {
        let work = self.secondary.storage().delete(id, Precondition::None);
        match self.secondary.call(Op::Delete, Some(id), work).await {
            Ok(_) => self.forget(id).await,
            Err(error) => tracing::debug!(%error, "a copy on the secondary is removed later"),
        }
    }

    async fn upload_degraded_or(
        &self,
        id: &FileId,
        from: From,
        settled: Settled,
        outage: Error,
        write: Write,
    ) -> Result<Receipt> {
        match settled.open {
            Some(open) => Err(both_out(self, write.op, Some(id), outage, open).with_effect(write.effect)),
            None => {
                let effect = write.effect;
                let result = self.upload_degraded(id, from, outage, write).await;
                result.map_err(|error| error.with_effect_of(effect))
            }
        }
    }

    /// Uploads to the secondary and into the journal.
    async fn upload_degraded(&self, id: &FileId, from: From, outage: Error, write: Write) -> Result<Receipt> {
        let when = match self.secondary_when(&from, &write.options.when) {
            Some(when) => when,
            None => {
                let message = format!("{outage}; the precondition cannot be checked meanwhile");
                let effect = write.effect;
                let error = self.error(outage.kind(), write.op, id).with_message(message).with_effect(effect);
                return Err(error.with_retry(outage.retry()).with_source(outage));
            }
        };
        if self.journal.entry(id).is_none() {
            self.check_room(id, write.op)?;
        }
        let digest = write.digest(id).await?;
        let intent = Arc::new(Intent {
            id: id.clone(),
            size: write.body.size(),
            digest,
            base: from.base.clone(),
            deleted: from.deleted,
            ours: with_own(&from.ours, digest),
            at: SystemTime::now(),
        });
        self.record(Change::Intend(Arc::clone(&intent)), write.op).await?;
        let options = UploadOptions { digest: Some(digest), when, ..write.options.clone() };
        let work = self.secondary.storage().upload(id, write.body.clone(), options);
        match self.secondary.call(write.op, Some(id), work).await {
            Ok(receipt) => {
                let stored = Stored::of(&receipt.metadata, digest);
                let entry = Entry { clash: from.clash, ..intent.fulfilled(stored) };
                self.record_after_write(Change::Put(Arc::new(entry)), write.op).await?;
                self.degraded(id, write.op);
                Ok(marked(receipt, from_secondary))
            }
            Err(error) => {
                let effect = worst(write.effect, error.effect());
                if error.effect() == Effect::None {
                    self.record(Change::DropIntent(id.clone()), write.op).await?;
                }
                use ErrorKind as Kind;
                let side_failed = is_outage(&error)
                    || matches!(
                        error.kind(),
                        Kind::Denied
                            | Kind::Unauthenticated
                            | Kind::StorageFull
                            | Kind::Misconfigured
                            | Kind::Other
                    );
                if side_failed && error.op() != Op::ReadBody {
                    return Err(both_out(self, write.op, Some(id), outage, error).with_effect(effect));
                }
                // What is wrong with the call itself.
                Err(error.with_effect(effect))
            }
        }
    }

    /// The secondary's own precondition for a degraded write; nothing where only the primary could tell.
    fn secondary_when(&self, from: &From, when: &Precondition) -> Option<Precondition> {
        let entry = from.entry.as_deref();
        match (when, entry.map(|entry| &entry.what)) {
            (Precondition::None, _) | (Precondition::Absent, Some(What::Tombstone)) => {
                Some(Precondition::None)
            }
            // It was compared with the journal in this turn.
            (Precondition::Version(_), Some(What::File(_))) => Some(Precondition::None),
            (Precondition::Absent, None) if self.config.role == Role::Replica => Some(Precondition::Absent),
            (Precondition::Version(version), None) if self.config.role == Role::Replica => {
                match named(version) {
                    Named::Secondary(version) => Some(Precondition::Version(version)),
                    Named::Primary(_) => None,
                }
            }
            _ => None,
        }
    }

    /// The answer to a precondition that names a version of the secondary, where the primary's state is the newest.
    pub(super) async fn not_that_version(&self, id: &FileId, op: Op) -> Error {
        match ask_metadata(Arc::clone(&self.primary), id).await {
            Err(error) if is_outage(&error) => error.with_op(op),
            _ => self.error(ErrorKind::VersionMismatch, op, id),
        }
    }

    /// Uploads to the primary, and checks what it stored.
    pub(super) async fn publish(
        &self,
        id: &FileId,
        body: &Body,
        options: UploadOptions,
        digest: Digest,
    ) -> Result<Receipt> {
        let work = self.primary.storage().upload(id, body.clone(), options);
        let receipt = self.primary.call(Op::Upload, Some(id), work).await?;
        if receipt.verified != Verified::Backend || receipt.digest != Some(digest) {
            let (_, found) = read_digest(&self.primary, id).await?;
            if found != digest {
                let message = format!("{digest} was sent, {found} is stored");
                let error = self.error(ErrorKind::Integrity, Op::Upload, id).with_effect(Effect::Applied);
                return Err(error.with_message(message));
            }
        }
        self.seen.note_write(&receipt.metadata);
        Ok(receipt)
    }

    pub(super) fn degraded(&self, id: &FileId, op: Op) {
        self.count(op, "outage");
        self.events.tell(FallbackEvent::Degraded { id: id.clone(), op });
    }
}

/// What [`mark`](Inner::mark) has changed.
#[derive(Debug)]
pub(super) enum Mark {
    /// Nothing that could be taken back.
    None,
    /// There was no row.
    New,
    /// There was this one.
    Over(Arc<Entry>),
}

impl Mark {
    /// Tells whether the copy was as good as the primary's file.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Self::New)
    }
}

/// What a degraded write follows upon.
struct From {
    entry: Option<Arc<Entry>>,
    base: Base,
    deleted: bool,
    ours: Vec<Digest>,
    /// The conflict that it leaves as it is.
    clash: Option<Clash>,
}

impl Stored {
    /// Tells whether a caller named this version.
    pub(super) fn is(&self, version: &crate::metadata::Version) -> bool {
        matches!(named(version), Named::Secondary(own) if self.version.as_ref() == Some(&own))
    }
}

impl Intent {
    /// The entry that it becomes when the secondary has the file.
    pub(super) fn fulfilled(&self, stored: Stored) -> Entry {
        Entry {
            id: self.id.clone(),
            what: What::File(stored),
            base: self.base.clone(),
            deleted: self.deleted,
            ours: self.ours.clone(),
            clash: None,
            at: self.at,
        }
    }
}

/// Says of an error what is known of all attempts.
pub(super) trait WithEffectOf {
    fn with_effect_of(self, earlier: Effect) -> Self;
}

impl WithEffectOf for Error {
    fn with_effect_of(self, earlier: Effect) -> Self {
        let effect = worst(earlier, self.effect());
        self.with_effect(effect)
    }
}
