//! Whether the target has the bytes of a file that the source is to lose: what is asked before it is moved away, and again
//! before it is deleted.

use std::sync::Arc;

use storage_core::checksum::Digest;
use storage_core::error::{Error, ErrorKind};
use storage_core::storage::FileStorage;

use crate::ledger::FileRecord;
use crate::preserve::Attributes;
use crate::progress::Progress;
use crate::throttle::Throttle;
use crate::verify::{Verdict, by_reading, judge};

use super::claim_of;

/// Asks a target for proofs.
#[derive(Debug)]
pub(super) struct Prover<'a> {
    pub(super) target: &'a dyn FileStorage,
    /// Believe nothing but the bytes.
    pub(super) read_back: bool,
    pub(super) throttle: Option<&'a Arc<Throttle>>,
    pub(super) progress: &'a Progress,
}

impl Prover<'_> {
    /// Proves that the target has what the ledger says. That an object of the name is there, of the size and even with the
    /// digest in its attributes, is no proof where it is not the version that was verified: then every byte is read. All
    /// links have the same bytes, none: the copy of one must say where it leads.
    ///
    /// # Errors
    /// Those of the target, except that there is no such file.
    pub(super) async fn prove(
        &self,
        row: &FileRecord,
        digest: Digest,
        link: Option<&[u8]>,
    ) -> Result<Verdict, Error> {
        let claim = claim_of(row, digest);
        let stored = match self.target.metadata(&row.id).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Verdict::Missing),
            Err(error) => return Err(error),
        };
        if let Some(link) = link
            && Attributes::of(&stored.tags).and_then(|attributes| attributes.link).as_deref() != Some(link)
        {
            return Ok(Verdict::Different("it does not say where the symbolic link leads".to_owned()));
        }
        let verdict = judge(&stored, &claim, self.target.capabilities().verifies_sha256);
        let known = row.target_version.is_some() && stored.version == row.target_version;
        match verdict {
            Verdict::Match(_) if known && !self.read_back => Ok(verdict),
            Verdict::Match(_) | Verdict::Unproven(_) => {
                let version = stored.version.as_ref();
                by_reading(self.target, &row.id, version, &claim, self.throttle, self.progress).await
            }
            Verdict::Missing | Verdict::Different(_) => Ok(verdict),
        }
    }
}
