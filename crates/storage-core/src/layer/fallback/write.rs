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
//! | 0 and 1 | a stale row, both sides as they were | the heal compares the sides and removes it |
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
use super::config::{OnMiss, OnOutage, Role};
use super::entry::{Base, Entry, Intent, Named, Stored, What, from_primary, from_secondary, named, with_own};
use super::event::FallbackEvent;
use super::journal::{Change, Known};
use super::read::{ask_metadata, marked, spool};
use super::side::is_outage;
use super::{Inner, both_out, worst};
use crate::body::Body;
use crate::checksum::Digest;
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::FileMetadata;
use crate::storage::{DownloadOptions, Precondition, Receipt, UploadOptions, Verified};

use super::read::Versioned;

impl Versioned for Receipt {
    fn metadata_mut(&mut self) -> &mut FileMetadata {
        &mut self.metadata
    }
}

/// What is known of an id whose turn it is.
pub(super) struct Settled {
    pub(super) entry: Option<Arc<Entry>>,
    /// Why it is not known whether an earlier write reached the secondary.
    pub(super) open: Option<Error>,
}

/// An upload whose turn it is.
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

    async fn upload_in_turn(&self, id: &FileId, write: Write) -> Result<Receipt> {
        let settled = self.settled(id, write.op).await?;
        match settled.entry.clone() {
            Some(entry) if !entry.is_stale() => self.upload_journalled(id, entry, settled, write).await,
            _ => self.upload_ordinary(id, settled, write).await,
        }
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
        // 0
        let fresh = self.mark_stale(id, &settled, write.op).await?;
        let base = self.seen.take(id);
        // 1
        let options = UploadOptions { when, ..write.options.clone() };
        let work = self.primary.storage().upload(id, write.body.clone(), options);
        match self.primary.call(write.op, Some(id), work).await {
            Ok(receipt) => {
                self.note(id, &receipt.metadata);
                if self.config.role == Role::Replica {
                    self.mirror(id, &write, &receipt).await;
                } else if settled.open.is_some() {
                    self.record(Change::Put(Arc::new(Entry::stale(id))), write.op).await?;
                }
                Ok(marked(receipt, from_primary))
            }
            Err(outage) if is_outage(&outage) && self.config.write == OnOutage::Secondary => {
                let from = From { entry: settled.entry.clone(), base, ours: Vec::new() };
                let write = Write { effect: worst(write.effect, outage.effect()), ..write };
                let (op, effect) = (write.op, outage.effect());
                // The primary is as it was: so is the replica, until the intent says otherwise.
                self.unmark(id, fresh, effect, op).await?;
                self.upload_degraded_or(id, from, settled, outage, write).await
            }
            Err(error) => {
                if error.effect() == Effect::None {
                    self.seen.restore(id, &base);
                }
                self.unmark(id, fresh, error.effect(), write.op).await?;
                Err(error.with_effect_of(write.effect))
            }
        }
    }

    /// Before a write to the primary that a replica is to follow: until it has, its copy must not be used. Returns
    /// whether the row is new.
    async fn mark_stale(&self, id: &FileId, settled: &Settled, op: Op) -> Result<bool> {
        if self.config.role == Role::Spare || settled.entry.is_some() && settled.open.is_none() {
            return Ok(false);
        }
        self.record(Change::Put(Arc::new(Entry::stale(id))), op).await?;
        // A write that is open ends with this: it must not count after one that was acknowledged later. The copy
        // stays suspect whatever comes of this one.
        Ok(settled.open.is_none())
    }

    /// Takes the mark back after a write that changed neither side.
    async fn unmark(&self, id: &FileId, fresh: bool, effect: Effect, op: Op) -> Result<()> {
        let known = self.journal.get(id);
        let marked = known.entry.is_some_and(|entry| entry.is_stale()) && known.intent.is_none();
        if fresh && marked && effect == Effect::None {
            self.record(Change::Remove(id.clone()), op).await?;
        }
        Ok(())
    }

    /// Uploads over a version of the secondary that was read in an outage.
    async fn upload_unpromoted(&self, id: &FileId, settled: Settled, write: Write) -> Result<Receipt> {
        match ask_metadata(Arc::clone(&self.primary), id).await {
            Err(outage) if is_outage(&outage) && self.config.write == OnOutage::Secondary => {
                let from = From { entry: settled.entry.clone(), base: self.seen.take(id), ours: Vec::new() };
                self.upload_degraded_or(id, from, settled, outage, write).await
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
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the replica has missed a write and is read no more until healed")
            }
        }
    }

    /// Removes a row that says nothing any more. Where the journal fails, it stays, and costs a comparison.
    async fn forget(&self, id: &FileId) {
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
        let from =
            From { base: entry.next_base(), ours: entry.ours.clone(), entry: Some(Arc::clone(&entry)) };
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
                self.note(id, &receipt.metadata);
                // 3
                self.record(Change::Put(Arc::new(Entry::stale(id))), write.op).await?;
                // 4 and 5
                match self.config.role {
                    Role::Replica => self.mirror(id, &write, &receipt).await,
                    Role::Spare => self.clear_secondary(id).await,
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
            None => self.upload_degraded(id, from, outage, write).await,
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
        if self.journal.len() >= self.config.max_journalled && from.entry.is_none() {
            let full = self.error(ErrorKind::StorageFull, write.op, id).with_message(format!(
                "{} ids await their healing, which is as many as max_journalled allows",
                self.config.max_journalled
            ));
            return Err(full.with_effect(write.effect).with_source(outage));
        }
        let digest = write.digest(id).await.map_err(|error| error.with_effect_of(write.effect))?;
        let intent = Arc::new(Intent {
            id: id.clone(),
            size: write.body.size(),
            digest,
            base: from.base.clone(),
            ours: with_own(&from.ours, digest),
            at: SystemTime::now(),
        });
        self.record(Change::Intend(Arc::clone(&intent)), write.op).await?;
        let options = UploadOptions { digest: Some(digest), when, ..write.options.clone() };
        let work = self.secondary.storage().upload(id, write.body.clone(), options);
        match self.secondary.call(write.op, Some(id), work).await {
            Ok(receipt) => {
                let stored = Stored::of(&receipt.metadata, digest);
                let entry = intent.fulfilled(stored);
                self.record(Change::Put(Arc::new(entry)), write.op).await?;
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

    /// Finds out what came of a write to the secondary that was begun and not acknowledged.
    pub(super) async fn settled(&self, id: &FileId, op: Op) -> Result<Settled> {
        let Known { entry, intent } = self.journal.get(id);
        let Some(intent) = intent else { return Ok(Settled { entry, open: None }) };
        let found = match self.look_at_secondary(id, &intent).await {
            Ok(found) => found,
            Err(error) => return Ok(Settled { entry, open: Some(error) }),
        };
        let change = match found {
            Some(stored) => Change::Put(Arc::new(intent.fulfilled(stored))),
            None => Change::DropIntent(id.clone()),
        };
        self.record(change, op).await?;
        Ok(Settled { entry: self.journal.entry(id), open: None })
    }

    /// Returns the file of the intent, where the secondary has it.
    async fn look_at_secondary(&self, id: &FileId, intent: &Intent) -> Result<Option<Stored>> {
        let metadata = match ask_metadata(Arc::clone(&self.secondary), id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if metadata.size != intent.size {
            return Ok(None);
        }
        let stored = match metadata.digest {
            Some(digest) => Stored::of(&metadata, digest),
            None => {
                let (body, stored) = spool(&self.secondary, id).await?;
                Stored { digest: body.digest().await?, ..stored }
            }
        };
        Ok((stored.digest == intent.digest).then_some(stored))
    }

    /// The answer to a precondition that names a version of the secondary, where the primary's state is the newest.
    async fn not_that_version(&self, id: &FileId, op: Op) -> Error {
        match ask_metadata(Arc::clone(&self.primary), id).await {
            Err(error) if is_outage(&error) => error.with_op(op),
            _ => self.error(ErrorKind::VersionMismatch, op, id),
        }
    }

    pub(super) async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let op = Op::Delete;
        self.check_write(id, op)?;
        if when == Precondition::Absent {
            let error = self.error(ErrorKind::InvalidInput, op, id);
            return Err(error.with_message("an absent file cannot be deleted"));
        }
        let _turn = self.turns.take(id).await;
        let settled = self.settled(id, op).await?;
        let Some(entry) = settled.entry.clone().filter(|entry| !entry.is_stale()) else {
            return self.delete_ordinary(id, when, settled).await;
        };
        let Some(stored) = entry.file() else {
            if settled.open.is_some() {
                // A write that may have reached the secondary after the deletion is deleted with it.
                self.bury(id, entry.next_base(), entry.ours.clone()).await?;
            }
            return Ok(false);
        };
        if let Precondition::Version(version) = &when
            && !stored.is(version)
        {
            return Err(self.error(ErrorKind::VersionMismatch, op, id));
        }
        let (base, ours) = (entry.next_base(), entry.ours.clone());
        self.bury(id, base, ours).await?;
        Ok(true)
    }

    /// Makes the tombstone durable, and removes the secondary's copy, if that is possible now.
    async fn bury(&self, id: &FileId, base: Base, ours: Vec<Digest>) -> Result<()> {
        let tombstone =
            Entry { id: id.clone(), what: What::Tombstone, base, ours, clash: None, at: SystemTime::now() };
        self.record(Change::Put(Arc::new(tombstone)), Op::Delete).await?;
        self.degraded(id, Op::Delete);
        let work = self.secondary.storage().delete(id, Precondition::None);
        if let Err(error) = self.secondary.call(Op::Delete, Some(id), work).await {
            tracing::debug!(%error, "a copy on the secondary is removed later");
        }
        Ok(())
    }

    async fn delete_ordinary(&self, id: &FileId, when: Precondition, settled: Settled) -> Result<bool> {
        let op = Op::Delete;
        let when = match when {
            Precondition::Version(version) => match named(&version) {
                Named::Primary(version) => Precondition::Version(version),
                Named::Secondary(version) => return self.delete_unpromoted(id, version, settled).await,
            },
            other => other,
        };
        let replica = self.config.role == Role::Replica;
        let fresh = self.mark_stale(id, &settled, op).await?;
        let base = self.seen.take(id);
        let work = self.primary.storage().delete(id, when.clone());
        match self.primary.call(op, Some(id), work).await {
            Ok(mut deleted) => {
                self.seen.note_write(id, None);
                if replica {
                    let work = self.secondary.storage().delete(id, Precondition::None);
                    if let Ok(there) = self.secondary.call(op, Some(id), work).await {
                        deleted |= there && self.config.read.miss != OnMiss::Fail;
                        self.forget(id).await;
                    }
                } else if settled.open.is_some() {
                    self.record(Change::Put(Arc::new(Entry::stale(id))), op).await?;
                }
                Ok(deleted)
            }
            Err(outage) if is_outage(&outage) && self.config.delete == OnOutage::Secondary => {
                if when != Precondition::None {
                    self.unmark(id, fresh, outage.effect(), op).await?;
                    let message = format!("{outage}; the precondition cannot be checked meanwhile");
                    let error = self.error(outage.kind(), op, id).with_effect(outage.effect());
                    return Err(error.with_message(message).with_retry(outage.retry()).with_source(outage));
                }
                // Of a spare nobody can tell whether there was a file: most likely there was.
                let mut existed = true;
                if fresh {
                    let there = ask_metadata(Arc::clone(&self.secondary), id).await;
                    existed = !there.is_err_and(|error| error.kind() == ErrorKind::NotFound);
                }
                self.bury(id, base, Vec::new())
                    .await
                    .map_err(|error| error.with_effect_of(outage.effect()))?;
                Ok(existed)
            }
            Err(error) => {
                if error.effect() == Effect::None {
                    self.seen.restore(id, &base);
                }
                self.unmark(id, fresh, error.effect(), op).await?;
                Err(error)
            }
        }
    }

    /// Deletes a version of the secondary, which is the newest only where the primary has no such file.
    async fn delete_unpromoted(
        &self,
        id: &FileId,
        version: crate::metadata::Version,
        settled: Settled,
    ) -> Result<bool> {
        match ask_metadata(Arc::clone(&self.primary), id).await {
            Ok(_) => Err(self.error(ErrorKind::VersionMismatch, Op::Delete, id)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if settled.entry.is_some() || self.config.read.miss == OnMiss::Fail {
                    return Ok(false);
                }
                let work = self.secondary.storage().delete(id, Precondition::Version(version));
                self.secondary.call(Op::Delete, Some(id), work).await
            }
            Err(outage)
                if is_outage(&outage) && self.config.role == Role::Replica && settled.entry.is_none() =>
            {
                let there = ask_metadata(Arc::clone(&self.secondary), id).await;
                match there {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(both_out(self, Op::Delete, Some(id), outage, error)),
                    Ok(metadata) if metadata.version.as_ref() == Some(&version) => {
                        self.bury(id, self.seen.take(id), Vec::new()).await?;
                        Ok(true)
                    }
                    Ok(_) => Err(self.error(ErrorKind::VersionMismatch, Op::Delete, id)),
                }
            }
            Err(error) => Err(error.with_op(Op::Delete)),
        }
    }

    pub(super) async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        let op = Op::Copy;
        self.check_write(to, op)?;
        self.check_write(from, op)?;
        self.check_fits(to, &options, None, op)?;
        let _turn = self.turns.take(to).await;
        let settled = self.settled(to, op).await?;
        let ordinary = |entry: Option<&Arc<Entry>>| entry.is_none_or(|entry| entry.is_stale());
        let mut effect = Effect::None;
        if ordinary(settled.entry.as_ref()) && ordinary(self.journal.entry(from).as_ref()) {
            match self.copy_ordinary(from, to, &options, &settled).await {
                Err(error) if is_outage(&error) && self.config.write == OnOutage::Secondary => {
                    effect = error.effect();
                }
                Err(error)
                    if error.kind() == ErrorKind::NotFound && self.config.read.miss != OnMiss::Fail => {}
                done => return done,
            }
        }
        let source = self.download_for(op, from, &DownloadOptions::default()).await;
        let source = source.map_err(|error| error.with_effect_of(effect))?;
        let mut merged = options;
        let metadata = source.metadata;
        merged.content_type = merged.content_type.or(metadata.content_type);
        merged.file_name = merged.file_name.or(metadata.file_name);
        merged.created = merged.created.or(metadata.created);
        if merged.tags.is_empty() {
            merged.tags = metadata.tags;
        }
        let body = Body::spool(source.body, super::read::SPOOL, None).await;
        let body = body.map_err(|error| error.with_op(op).with_id(from).with_effect_of(effect))?;
        let digest = body.digest().await?;
        if let Some(stored) = metadata.digest.filter(|stored| *stored != digest) {
            let message = format!("the source should have SHA-256 {stored}, its bytes give {digest}");
            return Err(self.error(ErrorKind::Integrity, op, from).with_message(message));
        }
        self.upload_in_turn(to, Write::new(op, body, merged, effect)).await
    }

    /// Has the primary copy, and the replica too.
    async fn copy_ordinary(
        &self,
        from: &FileId,
        to: &FileId,
        options: &UploadOptions,
        settled: &Settled,
    ) -> Result<Receipt> {
        let op = Op::Copy;
        let when = match &options.when {
            Precondition::Version(version) => match named(version) {
                Named::Primary(version) => Precondition::Version(version),
                Named::Secondary(_) => return Err(self.not_that_version(to, op).await),
            },
            other => other.clone(),
        };
        let replica = self.config.role == Role::Replica;
        let fresh = self.mark_stale(to, settled, op).await?;
        let base = self.seen.take(to);
        let options = UploadOptions { when, ..options.clone() };
        let work = self.primary.storage().copy(from, to, options.clone());
        match self.primary.call(op, Some(to), work).await {
            Ok(receipt) => {
                self.note(to, &receipt.metadata);
                if replica {
                    let options = options.with_when(Precondition::None);
                    let work = self.secondary.storage().copy(from, to, options);
                    let copied = self.secondary.call(op, Some(to), work).await;
                    if copied.is_ok_and(|copy| same_copy(&copy, &receipt)) {
                        self.forget(to).await;
                    }
                } else if settled.open.is_some() {
                    self.record(Change::Put(Arc::new(Entry::stale(to))), op).await?;
                }
                Ok(marked(receipt, from_primary))
            }
            Err(error) => {
                // What a copy whose answer was lost has left is known by its digest.
                self.seen.restore(to, &base);
                self.unmark(to, fresh, error.effect(), op).await?;
                Err(error)
            }
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
            let (stored, _) = spool(&self.primary, id).await?;
            let found = stored.digest().await?;
            if found != digest {
                let message = format!("{digest} was sent, {found} is stored");
                let error = self.error(ErrorKind::Integrity, Op::Upload, id).with_effect(Effect::Applied);
                return Err(error.with_message(message));
            }
        }
        self.note(id, &receipt.metadata);
        Ok(receipt)
    }

    fn degraded(&self, id: &FileId, op: Op) {
        self.count(op, "outage");
        self.events.tell(FallbackEvent::Degraded { id: id.clone(), op });
    }
}

/// What a degraded write follows upon.
struct From {
    entry: Option<Arc<Entry>>,
    base: Base,
    ours: Vec<Digest>,
}

fn same_copy(copy: &Receipt, original: &Receipt) -> bool {
    let (a, b) = (&copy.metadata, &original.metadata);
    copy.digest.is_some()
        && copy.digest == original.digest
        && Stored::of(a, copy.digest.unwrap_or(Digest::from_bytes([0; 32]))).attributes_of(b)
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
