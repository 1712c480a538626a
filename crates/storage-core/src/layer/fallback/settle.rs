//! Writes to the secondary that were begun and not acknowledged: what came of them.

use std::sync::Arc;

use super::Inner;
use super::entry::{Entry, Intent, Stored};
use super::journal::{Change, Known};
use super::read::{ask_metadata, read_digest};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;

/// What is known of an id whose turn it is.
pub(super) struct Settled {
    pub(super) entry: Option<Arc<Entry>>,
    /// Why it is not known whether an earlier write reached the secondary.
    pub(super) open: Option<Error>,
}

impl Inner {
    /// Finds out what came of a write to the secondary that was begun and not acknowledged.
    pub(super) async fn settled(&self, id: &FileId, op: Op) -> Result<Settled> {
        self.journal.quiet(op).await?;
        let Known { entry, intent } = self.journal.get(id);
        let Some(intent) = intent else { return Ok(Settled { entry, open: None }) };
        let found = match self.look_at_secondary(id, &intent).await {
            Ok(found) => found,
            Err(error) => return Ok(Settled { entry, open: Some(error) }),
        };
        let change = match found {
            Some(stored) => {
                // A write that ended a conflict has another base.
                let before = entry.as_ref().filter(|before| before.base == intent.base);
                let clash = before.and_then(|before| before.clash.clone());
                Change::Put(Arc::new(Entry { clash, ..intent.fulfilled(stored) }))
            }
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
                let (metadata, digest) = read_digest(&self.secondary, id).await?;
                Stored::of(&metadata, digest)
            }
        };
        Ok((stored.digest == intent.digest).then_some(stored))
    }

    /// Refuses a row beyond those that the configuration allows.
    pub(super) fn check_room(&self, id: &FileId, op: Op) -> Result<()> {
        if self.journal.len() < self.config.max_journalled {
            return Ok(());
        }
        Err(self.error(ErrorKind::StorageFull, op, id).with_message(format!(
            "{} ids await their healing, which is as many as max_journalled allows",
            self.config.max_journalled
        )))
    }
}
