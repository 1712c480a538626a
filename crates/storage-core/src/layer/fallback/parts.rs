//! Uploads in parts: the primary's, as they are.
//!
//! A ticket belongs to the side that gave it, so parts have no second place: in an outage of the primary these calls
//! fail with the outage, and who cannot wait uploads the file as a whole. What was put before the outage is there
//! after it.
//!
//! `finish` publishes, so it takes its turn, and heals the id first where it awaits that: what is finished follows
//! upon the newest version. A replica learns of it by the heal, and is not read for this id until then.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::config::Role;
use super::entry::{Named, from_primary, named};
use super::journal::Change;
use super::read::marked;
use super::{FallbackStorage, Inner};
use crate::checksum::Digest;
use crate::error::{Effect, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::layer::parts_of;
use crate::storage::{
    FinishOptions, PartLimits, PartNumber, PartReceipt, Precondition, Receipt, ResumableUpload,
    UploadOptions, UploadTicket,
};

impl Inner {
    /// The precondition in the primary's own words.
    fn of_primary(&self, id: &FileId, when: Precondition, op: Op) -> Result<Precondition> {
        Ok(match when {
            Precondition::Version(version) => match named(&version) {
                Named::Primary(version) => Precondition::Version(version),
                Named::Secondary(_) => return Err(self.error(ErrorKind::VersionMismatch, op, id)),
            },
            other => other,
        })
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        held: &[PartReceipt],
        mut finish: FinishOptions,
    ) -> Result<Receipt> {
        let (op, id) = (Op::FinishUpload, &ticket.id);
        self.check_write(id, op)?;
        let _turn = self.turns.take(id).await;
        self.journal.quiet(op).await?;
        let awaits = self.journal.get(id);
        if awaits.intent.is_some() || awaits.entry.is_some_and(|entry| !entry.is_stale()) {
            self.heal_now(id).await.map_err(|error| error.with_op(op))?;
        }
        finish.when = self.of_primary(id, finish.when, op)?;
        let replica = self.config.role == Role::Replica;
        let fresh = replica && self.journal.entry(id).is_none();
        if fresh {
            self.record(Change::Put(Arc::new(self.begun(id))), op).await?;
        }
        let there = self.seen.take(id);
        self.urls.forget(id);
        let own = finish.digest;
        let work = parts_of(self.primary.storage(), op)?.finish(ticket, held, finish);
        match self.primary.call(op, Some(id), work).await {
            Ok(receipt) => {
                self.seen.note_write(&receipt.metadata);
                self.has_missed(id).await;
                Ok(marked(receipt, from_primary))
            }
            Err(error) => {
                if error.effect() == Effect::None {
                    self.seen.put_back(id, there);
                    if fresh {
                        self.record(Change::Remove(id.clone()), op).await?;
                    }
                } else if let Some(own) = own {
                    self.seen.put_back_or(id, there, own);
                }
                Err(error)
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for FallbackStorage {
    fn limits(&self) -> PartLimits {
        self.inner.primary.storage().resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    async fn begin(&self, id: &FileId, part_size: u64, mut options: UploadOptions) -> Result<UploadTicket> {
        let op = Op::BeginUpload;
        self.inner.check_write(id, op)?;
        self.inner.check_fits(id, &options, None, op)?;
        options.when = self.inner.of_primary(id, options.when, op)?;
        let primary = &self.inner.primary;
        let work = parts_of(primary.storage(), op)?.begin(id, part_size, options);
        primary.call(op, Some(id), work).await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let primary = &self.inner.primary;
        let work = parts_of(primary.storage(), Op::PutPart)?.put_part(ticket, number, bytes, digest);
        primary.call(Op::PutPart, Some(&ticket.id), work).await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let primary = &self.inner.primary;
        let work = parts_of(primary.storage(), Op::ListParts)?.parts(ticket);
        primary.call(Op::ListParts, Some(&ticket.id), work).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        self.inner.finish(ticket, parts, finish).await
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        let primary = &self.inner.primary;
        let work = parts_of(primary.storage(), Op::AbandonUpload)?.abandon(ticket);
        primary.call(Op::AbandonUpload, Some(&ticket.id), work).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        let primary = &self.inner.primary;
        let work = parts_of(primary.storage(), Op::ListUploads)?.stale(older_than);
        primary.call(Op::ListUploads, None, work).await
    }
}
