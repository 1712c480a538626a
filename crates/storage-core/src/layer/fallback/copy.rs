//! Copies: the primary's own, or a read of the newest version and an upload. The order of effects is at the head of
//! `write.rs`.

use std::sync::Arc;

use super::Inner;
use super::config::{OnMiss, OnOutage, Role};
use super::entry::{Entry, Named, Stored, from_primary, named};
use super::journal::Change;
use super::read::marked;
use super::settle::Settled;
use super::side::is_outage;
use super::write::{WithEffectOf, Write};
use crate::error::{Effect, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::storage::{DownloadOptions, Precondition, Receipt, UploadOptions};

impl Inner {
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
        let body = self.spooled(source.body).await;
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
        let mark = self.mark(self.begun(to), settled, op).await?;
        let held = self.seen.take(to);
        self.urls.forget(to);
        let options = UploadOptions { when, ..options.clone() };
        let work = self.primary.storage().copy(from, to, options.clone());
        match self.primary.call(op, Some(to), work).await {
            Ok(receipt) => {
                self.seen.note_write(&receipt.metadata);
                if settled.open.is_some() {
                    self.record_after_write(Change::Put(Arc::new(Entry::stale(to))), op).await?;
                }
                if replica {
                    let options = options.with_when(Precondition::None);
                    let work = self.secondary.storage().copy(from, to, options);
                    let copied = self.secondary.call(op, Some(to), work).await;
                    if copied.is_ok_and(|copy| same_copy(&copy, &receipt)) {
                        self.forget(to).await;
                    } else {
                        self.has_missed(to).await;
                    }
                }
                Ok(marked(receipt, from_primary))
            }
            Err(error) => {
                // After a lost answer it may be the copy that is there. Its digest is not known here, so that one which
                // nobody takes up again would be a stranger's: kept, and told.
                self.seen.put_back(to, held);
                self.unmark(to, &mark, error.effect(), op).await?;
                Err(error)
            }
        }
    }
}

fn same_copy(copy: &Receipt, original: &Receipt) -> bool {
    let (made, meant) = (&copy.metadata, &original.metadata);
    copy.digest == original.digest
        && copy.digest.is_some_and(|digest| Stored::of(made, digest).attributes_of(meant))
}
