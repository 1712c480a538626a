//! Healing: what one side missed is brought to it.
//!
//! # Order of effects, for one id, within its turn
//!
//! **A file that the primary missed.** 1. an intent that is open is settled; 2. the primary is asked what it holds,
//! and [`decide`] says whether that may be replaced; 3. the secondary's bytes are sent, under the precondition that
//! it still holds what was seen (where the primary can compare); 4. the stored bytes are compared with the journal's
//! digest, by the primary or by reading them back; 5. row `stale`; 6. a spare's copy is removed, once no URL of it
//! works any more; 7. the row is removed.
//!
//! | ends between | what remains | what follows |
//! |---|---|---|
//! | 2 and 3 | row `file` | the next heal begins again |
//! | 3 and 5, or the answer to 3 was lost | row `file`, the primary has the file | the next heal sees digest and attributes, and goes on at 4 |
//! | 5 and 7 | row `stale` | reads go to the primary; the next heal removes copy and row |
//!
//! **A deletion that the primary missed.** As above, with a delete in place of the upload. One whose answer was lost
//! shows as a file that is not there.
//!
//! **A copy of the secondary that is not to be used.** On a spare it is removed; on a replica it is compared with
//! the primary's file, and replaced or removed; it stays where the primary has none and the write that it is older than
//! may have come to nothing. Then the row goes.
//!
//! A stranger's deletion of the version that was there before is told as a conflict, too, with nothing to be kept on the
//! primary. A stranger's write is kept: the row gets the conflict, its file stays on the secondary and is what readers are
//! served, the stranger's stays on the primary. Where the primary cannot compare versions, a stranger who writes
//! between 2 and 3 is not seen.
//!
//! # Whose is it?
//!
//! What the primary holds is replaced or deleted when it is proven to be older than the write that is replayed:
//!
//! | what is known | proven by |
//! |---|---|
//! | the version that was there before the outage | that version |
//! | an own write whose answer was lost, to the primary or in an earlier heal | its digest |
//! | what a replica held of the id | that digest |
//! | nothing: the process is new, or sees too many ids | [`FileMetadata::stored`], by [`clock_margin`] before the time to which the primary's clock had come when the write began |
//!
//! Everything else is kept beside ours and told, with the risk that it is nobody's but an own write that was forgotten
//! with the process. No clock of ours is asked: how far the primary's had come is the latest time at which it was seen
//! to have stored anything, in this process or, by the journal, an earlier one. Where writes are not told their times
//! (S3), the background task looks at the last written file once a minute. It relies on one thing: that the
//! primary's clock is not set back by more than the margin. A clock that was seen further ahead of ours than that proves
//! nothing, until it was set right and a write of ours has shown it.
//!
//! [`clock_margin`]: super::config::FallbackConfig::clock_margin

use std::sync::Arc;

use super::super::breaker::State;
use super::Inner;
use super::config::Role;
use super::entry::{Base, Clash, Decision, Entry, Present, Stored, What, decide, with_own};
use super::event::{Conflict, FallbackEvent, HealReport, Keep};
use super::journal::Change;
use super::read::{ask_metadata, read_digest};
use super::side::{PROBE, is_outage};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::FileMetadata;
use crate::storage::{Precondition, UploadOptions, Verified};

/// How often what the primary holds may change under one replay before it is left for the next heal.
const ATTEMPTS: usize = 5;

/// What healing one id came to.
enum Healed {
    /// There was nothing to do.
    Nothing,
    File,
    Deletion,
    Copy,
    Conflict(Conflict),
}

impl Inner {
    /// Heals everything that can be healed now.
    pub(super) async fn heal(&self) -> HealReport {
        let _one_at_a_time = self.healing.lock().await;
        let mut report = HealReport::default();
        for id in self.journal.ids() {
            let entry = self.journal.entry(&id);
            let is = |what: fn(&Entry) -> bool| entry.as_deref().is_some_and(what);
            let spares = self.config.role == Role::Spare && is(Entry::is_stale);
            let needs_secondary = !is(|entry| matches!(entry.what, What::Tombstone));
            if report.stopped.is_some() && !spares || report.waiting.is_some() && needs_secondary {
                continue;
            }
            let turn = self.turns.take(&id).await;
            let result = self.heal_one(&id).await;
            drop(turn);
            self.tell(&id, result, &mut report);
        }
        report.left = self.journal.len();
        self.show();
        report
    }

    fn tell(&self, id: &FileId, result: Result<Healed>, report: &mut HealReport) {
        let outcome = match result {
            Ok(Healed::Nothing) => return,
            // Counted when it began.
            Ok(Healed::Conflict(conflict)) => return report.conflicts.push(conflict),
            Ok(healed) => {
                match healed {
                    Healed::File => report.healed += 1,
                    Healed::Deletion => report.deleted += 1,
                    _ => report.refreshed += 1,
                }
                self.events.tell(FallbackEvent::Healed { id: id.clone() });
                "healed"
            }
            Err(error) if is_outage(&error) && error.storage() == Some(self.primary.name()) => {
                report.stopped = Some(error);
                "outage"
            }
            Err(error) if is_outage(&error) && error.storage() == Some(self.secondary.name()) => {
                report.waiting = Some(error);
                "outage"
            }
            Err(error) => {
                let shared =
                    Arc::new(self.error(error.kind(), error.op(), id).with_message(error.to_string()));
                self.events.tell(FallbackEvent::HealFailed { id: id.clone(), error: shared });
                report.failed.push((id.clone(), error));
                "failed"
            }
        };
        self.count_heal(outcome);
    }

    /// Heals one id whose turn it is, or says why not.
    pub(super) async fn heal_now(&self, id: &FileId) -> Result<()> {
        match self.heal_one(id).await? {
            Healed::Conflict(conflict) => Err(self
                .error(ErrorKind::VersionMismatch, Op::Upload, id)
                .with_message(format!("there is a conflict about it: {}", conflict.reason))),
            _ => Ok(()),
        }
    }

    async fn heal_one(&self, id: &FileId) -> Result<Healed> {
        let settled = self.settled(id, Op::Upload).await?;
        if let Some(open) = settled.open {
            return Err(open);
        }
        let Some(entry) = settled.entry else { return Ok(Healed::Nothing) };
        if let Some(conflict) = Conflict::of(&entry) {
            return Ok(Healed::Conflict(conflict));
        }
        match &entry.what {
            What::File(stored) => self.replay_file(id, &entry, stored).await,
            What::Tombstone => self.replay_deletion(id, &entry).await,
            What::Stale => self.refresh(id, &entry).await,
        }
    }

    /// What the primary holds, and its digest as far as the decision needs it.
    async fn present(&self, id: &FileId, entry: &Entry) -> Result<Option<FileMetadata>> {
        let mut metadata = match ask_metadata(Arc::clone(&self.primary), id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        self.seen.note_clock(&metadata);
        let may_be_it = entry.file().is_some_and(|stored| stored.attributes_of(&metadata));
        let version = metadata.version.clone();
        let changed = !entry.base.is(&metadata);
        let doubted = may_be_it && !self.primary.storage().capabilities().verifies_sha256;
        if doubted || metadata.digest.is_none() && (may_be_it || changed) {
            let (read, digest) = read_digest(&self.primary, id).await?;
            if read.version != version {
                return Err(self.error(ErrorKind::VersionMismatch, Op::Metadata, id));
            }
            metadata.digest = Some(digest);
        }
        Ok(Some(metadata))
    }

    async fn replay_file(&self, id: &FileId, entry: &Entry, stored: &Stored) -> Result<Healed> {
        let (mut last, mut entry) = (None, entry.clone());
        for _ in 0..ATTEMPTS {
            let metadata = self.present(id, &entry).await?;
            let present = metadata.as_ref().map(|metadata| Present { metadata, digest: metadata.digest });
            let when = match decide(&entry, present.as_ref()) {
                Decision::Done => return self.replayed(id, Healed::File).await,
                Decision::Clash => {
                    let reason = match metadata {
                        Some(_) => "the primary holds another version",
                        None => "it was written here and deleted there",
                    };
                    return self.clash(&entry, reason, metadata).await;
                }
                Decision::Go(when) => self.primary_can(when),
            };
            entry.base = first_seen(&entry.base, metadata.as_ref());
            let (body, found) = self.spool_secondary(id).await?;
            if found.digest != stored.digest {
                let message = format!(
                    "the journal says SHA-256 {} and {} holds {}",
                    stored.digest,
                    self.secondary.name(),
                    found.digest
                );
                return Err(self.error(ErrorKind::Integrity, Op::Download, id).with_message(message));
            }
            self.seen.take(id);
            match self.publish(id, &body, stored.options().with_when(when), stored.digest).await {
                Ok(_) => return self.replayed(id, Healed::File).await,
                Err(error) if precondition_failed(&error) => last = Some(error),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    return self.clash(&entry, &error.to_string(), metadata).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| self.error(ErrorKind::Other, Op::Upload, id)))
    }

    async fn replay_deletion(&self, id: &FileId, entry: &Entry) -> Result<Healed> {
        let (mut last, mut entry) = (None, entry.clone());
        for _ in 0..ATTEMPTS {
            let metadata = self.present(id, &entry).await?;
            let present = metadata.as_ref().map(|metadata| Present { metadata, digest: metadata.digest });
            let when = match decide(&entry, present.as_ref()) {
                Decision::Done => return self.replayed(id, Healed::Deletion).await,
                Decision::Clash => {
                    return self.clash(&entry, "it was deleted here and written there", metadata).await;
                }
                Decision::Go(when) if self.primary.storage().capabilities().conditional_delete => when,
                Decision::Go(_) => Precondition::None,
            };
            entry.base = first_seen(&entry.base, metadata.as_ref());
            self.seen.take(id);
            let work = self.primary.storage().delete(id, when);
            match self.primary.call(Op::Delete, Some(id), work).await {
                Ok(_) => {
                    self.seen.note_absent(id);
                    return self.replayed(id, Healed::Deletion).await;
                }
                Err(error) if precondition_failed(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| self.error(ErrorKind::Other, Op::Delete, id)))
    }

    /// The primary has it: what the secondary holds is needed no more, or is the same.
    async fn replayed(&self, id: &FileId, healed: Healed) -> Result<Healed> {
        if self.config.role == Role::Replica && matches!(healed, Healed::File) {
            self.record(Change::Remove(id.clone()), Op::Upload).await?;
        } else {
            self.record(Change::Put(Arc::new(Entry::stale(id))), Op::Upload).await?;
            if !self.urls.need(id) {
                self.clear_secondary(id).await;
            }
        }
        Ok(healed)
    }

    async fn clash(&self, entry: &Entry, reason: &str, theirs: Option<FileMetadata>) -> Result<Healed> {
        let theirs = theirs.and_then(|metadata| metadata.version);
        let clash = Clash { reason: reason.to_owned(), theirs };
        let entry = Arc::new(Entry { clash: Some(clash), ..entry.clone() });
        self.record(Change::Put(Arc::clone(&entry)), Op::Upload).await?;
        let Some(conflict) = Conflict::of(&entry) else { return Ok(Healed::Nothing) };
        tracing::warn!(id = %entry.id, reason, "a write in an outage met another one: both are kept");
        self.count_heal("conflict");
        self.events.tell(FallbackEvent::Conflict(conflict.clone()));
        Ok(Healed::Conflict(conflict))
    }

    /// Makes the secondary's copy what it should be.
    async fn refresh(&self, id: &FileId, entry: &Entry) -> Result<Healed> {
        let primary = match self.config.role {
            Role::Spare if self.urls.need(id) => return Ok(Healed::Nothing),
            Role::Spare => None,
            Role::Replica => match ask_metadata(Arc::clone(&self.primary), id).await {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                other => Some(other?),
            },
        };
        match primary {
            // Of what a write was only begun over it may be the only copy.
            None if entry.is_begun() => {}
            None => {
                let work = self.secondary.storage().delete(id, Precondition::None);
                self.secondary.call(Op::Delete, Some(id), work).await?;
            }
            Some(primary) => self.copy_back(id, &primary).await?,
        }
        self.record(Change::Remove(id.clone()), Op::Upload).await?;
        Ok(Healed::Copy)
    }

    /// Copies a file from the primary to the replica, unless it is there.
    async fn copy_back(&self, id: &FileId, primary: &FileMetadata) -> Result<()> {
        match ask_metadata(Arc::clone(&self.secondary), id).await {
            Ok(copy) => {
                let same =
                    |digest| copy.digest == Some(digest) && Stored::of(primary, digest).attributes_of(&copy);
                if primary.digest.is_some_and(same) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (body, stored) = self.spool(&self.primary, id).await?;
        let options: UploadOptions = stored.options();
        let work = self.secondary.storage().upload(id, body, options);
        let receipt = self.secondary.call(Op::Upload, Some(id), work).await?;
        if receipt.verified != Verified::Backend {
            let (_, found) = read_digest(&self.secondary, id).await?;
            if found != stored.digest {
                return Err(self.error(ErrorKind::Integrity, Op::Upload, id));
            }
        }
        Ok(())
    }

    /// Ends a conflict.
    pub(super) async fn resolve(&self, id: &FileId, keep: Keep) -> Result<()> {
        let _turn = self.turns.take(id).await;
        let settled = self.settled(id, Op::Upload).await?;
        if let Some(open) = settled.open {
            return Err(open);
        }
        let Some(entry) = settled.entry.filter(|entry| entry.clash.is_some()) else {
            let error = self.error(ErrorKind::NotFound, Op::Upload, id);
            return Err(error.with_message("there is no conflict about it"));
        };
        let entry = match keep {
            Keep::Theirs => {
                self.look_again(id, &entry).await?;
                Entry::stale(id)
            }
            Keep::Ours => {
                let mut ours = entry.ours.clone();
                if entry.clash.as_ref().is_some_and(|clash| clash.theirs.is_none()) {
                    // Without a version it is known by its digest.
                    let present = self.present(id, &entry).await?;
                    if let Some(theirs) = present.and_then(|theirs| theirs.digest) {
                        ours = with_own(&ours, theirs);
                    }
                }
                let base = entry.next_base(&Precondition::None, self.seen.trace());
                Entry { base, ours, clash: None, ..(*entry).clone() }
            }
        };
        self.record(Change::Put(Arc::new(entry)), Op::Upload).await?;
        self.heal_now(id).await
    }

    /// Refuses to give ours up for a file that is no more what the conflict was about; the conflict is told as it is
    /// now.
    async fn look_again(&self, id: &FileId, entry: &Entry) -> Result<()> {
        let now = match ask_metadata(Arc::clone(&self.primary), id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let theirs = entry.clash.as_ref().and_then(|clash| clash.theirs.as_ref());
        let same = match &now {
            // A primary without versions shows only that there is a file.
            Some(now) => now.version.as_ref() == theirs,
            // Theirs is a deletion, and was told as one.
            None => theirs.is_none() && matches!(entry.base, Base::Version(_)),
        };
        if same {
            return Ok(());
        }
        let reason = match now {
            Some(_) => "the primary's file has changed again",
            None => "the primary's file is gone",
        };
        self.clash(entry, reason, now).await?;
        Err(self.error(ErrorKind::VersionMismatch, Op::Metadata, id).with_message(reason))
    }

    /// One round of the background task.
    pub(super) async fn round(&self) {
        // While it is open the probe is refused; users' calls need not be the ones that find out.
        if self.primary.state() == State::HalfOpen {
            let work = self.primary.storage().probe(PROBE);
            if let Err(error) = self.primary.call(Op::Probe, None, work).await {
                tracing::debug!(%error, "the primary is still out");
            }
        }
        if !self.journal.is_empty() && self.primary.state() != State::Open {
            let report = self.heal().await;
            if let Some(error) = &report.waiting {
                tracing::warn!(%error, left = report.left, "what needs the secondary is healed when it is back");
            }
            for (id, error) in &report.failed {
                tracing::warn!(%id, %error, "a file could not be healed and is tried again");
            }
        }
        if self.seen.is_due() {
            if let Some((id, version)) = self.seen.take_written() {
                match ask_metadata(Arc::clone(&self.primary), &id).await {
                    Ok(metadata) => self.seen.note_written(&version, &metadata),
                    Err(error) => tracing::debug!(%error, "the primary's clock could not be looked at"),
                }
            }
            // What has come of the clock goes with it.
            if let Err(error) = self.record(Change::Nothing, Op::Metadata).await {
                tracing::debug!(%error, "how far the primary's clock has come was not kept");
            }
        }
        self.show();
    }
}

/// Where nothing was known of what was there before, the first look says it: whatever changes after that is a
/// stranger's.
fn first_seen(base: &Base, metadata: Option<&FileMetadata>) -> Base {
    match (base, metadata.map(|metadata| &metadata.version)) {
        (Base::Unseen(_), Some(Some(version))) => Base::Version(version.clone()),
        (Base::Unseen(_), None) => Base::Absent,
        (base, _) => base.clone(),
    }
}

/// Somebody was faster.
fn precondition_failed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::VersionMismatch)
}
