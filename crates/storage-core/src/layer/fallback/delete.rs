//! Deletions: of the primary, or in its outage a tombstone in the journal. The order of effects is at the head of
//! `write.rs`.

use std::sync::Arc;
use std::time::SystemTime;

use super::config::{OnMiss, OnOutage, Role};
use super::entry::{Entry, Named, What, named};
use super::journal::Change;
use super::read::ask_metadata;
use super::seen::Held;
use super::settle::Settled;
use super::side::is_outage;
use super::write::WithEffectOf;
use super::{Inner, both_out};
use crate::error::{Effect, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::Version;
use crate::storage::Precondition;

impl Inner {
    pub(super) async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let op = Op::Delete;
        self.check_write(id, op)?;
        if when == Precondition::Absent {
            let error = self.error(ErrorKind::InvalidInput, op, id);
            return Err(error.with_message("an absent file cannot be deleted"));
        }
        let _turn = self.turns.take(id).await;
        self.urls.forget(id);
        let settled = self.settled(id, op).await?;
        let Some(entry) = settled.entry.clone().filter(|entry| !entry.is_stale()) else {
            return self.delete_ordinary(id, when, settled).await;
        };
        let Some(stored) = entry.file() else {
            if settled.open.is_some() {
                // A write that may have reached the secondary after the deletion is deleted with it.
                self.bury(&entry, &when).await?;
            }
            return Ok(false);
        };
        if let Precondition::Version(version) = &when
            && !stored.is(version)
        {
            return Err(self.error(ErrorKind::VersionMismatch, op, id));
        }
        self.bury(&entry, &when).await?;
        Ok(true)
    }

    /// Buries a file that the journal names. A conflict stays where the deletion was of our version.
    async fn bury(&self, entry: &Entry, when: &Precondition) -> Result<()> {
        let clash = entry.clash.clone().filter(|_| *when != Precondition::None);
        let base = entry.next_base(when, self.seen.trace());
        self.bury_as(Entry {
            what: What::Tombstone,
            base,
            deleted: true,
            clash,
            at: SystemTime::now(),
            ..entry.clone()
        })
        .await
    }

    /// Makes the tombstone durable, and removes the secondary's copy, if that is possible now.
    async fn bury_as(&self, tombstone: Entry) -> Result<()> {
        let id = &tombstone.id.clone();
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
        let mark = self.mark(Entry::stale(id), &settled, op).await?;
        let held = self.seen.take(id);
        let work = self.primary.storage().delete(id, when.clone());
        match self.primary.call(op, Some(id), work).await {
            Ok(mut deleted) => {
                self.seen.note_absent(id);
                if replica {
                    let work = self.secondary.storage().delete(id, Precondition::None);
                    if let Ok(there) = self.secondary.call(op, Some(id), work).await {
                        deleted |= there && self.config.read.miss != OnMiss::Fail;
                        self.forget(id).await;
                    }
                } else if settled.open.is_some() {
                    self.record_after_write(Change::Put(Arc::new(Entry::stale(id))), op).await?;
                }
                Ok(deleted)
            }
            Err(outage) if is_outage(&outage) && self.config.delete == OnOutage::Secondary => {
                if when != Precondition::None {
                    self.unmark(id, &mark, outage.effect(), op).await?;
                    let message = format!("{outage}; the precondition cannot be checked meanwhile");
                    let error = self.error(outage.kind(), op, id).with_effect(outage.effect());
                    return Err(error.with_message(message).with_retry(outage.retry()).with_source(outage));
                }
                // The primary is as it was: so is the replica, unless the tombstone says otherwise.
                self.unmark(id, &mark, outage.effect(), op).await?;
                if self.journal.entry(id).is_none() {
                    self.check_room(id, op).map_err(|error| error.with_effect_of(outage.effect()))?;
                }
                // Of a spare nobody can tell whether there was a file: most likely there was.
                let mut existed = true;
                let mut base = held.base;
                if mark.is_new() {
                    let there = ask_metadata(Arc::clone(&self.secondary), id).await;
                    existed = !there.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
                    base = base.with_copy(there.ok().as_ref());
                }
                self.bury_as(Entry::tombstone(id, base, held.ours))
                    .await
                    .map_err(|error| error.with_effect_of(outage.effect()))?;
                Ok(existed)
            }
            Err(error) => {
                // Either it is as it was, or it is gone.
                let deleted = held.deleted || error.effect() != Effect::None;
                self.seen.put_back(id, Held { deleted, ..held });
                self.unmark(id, &mark, error.effect(), op).await?;
                Err(error)
            }
        }
    }

    /// Deletes a version of the secondary, which is the newest only where the primary has no such file.
    async fn delete_unpromoted(&self, id: &FileId, version: Version, settled: Settled) -> Result<bool> {
        match ask_metadata(Arc::clone(&self.primary), id).await {
            Ok(_) => Err(self.error(ErrorKind::VersionMismatch, Op::Delete, id)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let unused = settled.entry.is_some_and(|entry| !entry.is_begun());
                if unused || self.config.read.miss == OnMiss::Fail {
                    return Ok(false);
                }
                let work = self.secondary.storage().delete(id, Precondition::Version(version));
                self.secondary.call(Op::Delete, Some(id), work).await
            }
            Err(outage)
                if is_outage(&outage)
                    && self.config.delete == OnOutage::Secondary
                    && self.config.role == Role::Replica
                    && settled.entry.is_none() =>
            {
                let there = ask_metadata(Arc::clone(&self.secondary), id).await;
                match there {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(both_out(self, Op::Delete, Some(id), outage, error)),
                    Ok(metadata) if metadata.version.as_ref() == Some(&version) => {
                        self.check_room(id, Op::Delete)?;
                        let held = self.seen.take(id);
                        let base =
                            held.base.with_copy(Some(&metadata)).asserted(&Precondition::Version(version));
                        self.bury_as(Entry::tombstone(id, base, held.ours)).await?;
                        Ok(true)
                    }
                    Ok(_) => Err(self.error(ErrorKind::VersionMismatch, Op::Delete, id)),
                }
            }
            Err(error) => Err(error.with_op(Op::Delete)),
        }
    }
}
