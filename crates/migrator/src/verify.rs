//! Whether the target's stored bytes are those that the ledger says.

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt;
use storage_core::checksum::{CompositeDigest, Digest, Verifier};
use storage_core::error::{Error, ErrorKind, Op, Result};
use storage_core::id::FileId;
use storage_core::metadata::{FileMetadata, Version};
use storage_core::storage::{DownloadOptions, FileStorage, Precondition, Verified};

use crate::progress::Progress;
use crate::throttle::Throttle;

/// What the bytes must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// In bytes.
    pub size: u64,
    /// SHA-256 of the whole.
    pub digest: Digest,
    /// Composite of the parts, where it was sent in parts.
    pub composite: Option<CompositeDigest>,
    /// The target's version whose bytes were compared before, and who did.
    pub compared: Option<(Version, Verified)>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are right, and who says so.
    Match(Verified),
    /// There is no such file.
    Missing,
    /// The bytes are others, in words.
    Different(String),
    /// Nothing there proves the bytes, in words.
    Unproven(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match(_) => f.write_str("the bytes are right"),
            Self::Missing => f.write_str("not in the target"),
            Self::Different(detail) | Self::Unproven(detail) => f.write_str(detail),
        }
    }
}

/// Compares what the target says of its file with the claim, without reading the bytes.
///
/// The target's word counts where it compares every upload with its digest, which was found by trying: then the
/// digest that it tells of the file is one that it has seen to be right. Where it does not, a file whose version
/// is still the one whose bytes were compared before has not been written since.
pub fn judge(stored: &FileMetadata, claim: &Claim, target_verifies: bool) -> Verdict {
    if stored.size != claim.size {
        return Verdict::Different(format!(
            "{} bytes in the target, {} in the source",
            stored.size, claim.size
        ));
    }
    let whole = stored.digest.map(|digest| (digest == claim.digest, digest));
    let parts = match (stored.composite, claim.composite) {
        (Some(stored), Some(claim)) if stored.part_size == claim.part_size => {
            Some((stored == claim, stored.digest))
        }
        _ => None,
    };
    match whole.or(parts) {
        Some((false, digest)) => {
            Verdict::Different(format!("SHA-256 {digest} in the target, {} in the source", claim.digest))
        }
        Some((true, _)) if target_verifies => Verdict::Match(Verified::Backend),
        _ if let Some((version, by)) = &claim.compared
            && *by != Verified::No
            && stored.version.as_ref() == Some(version) =>
        {
            Verdict::Match(*by)
        }
        Some((true, _)) => {
            Verdict::Unproven("the target does not check the digests that it is given".to_owned())
        }
        None => Verdict::Unproven("the target tells no digest that can be compared".to_owned()),
    }
}

/// Asks the target about one file; see [`judge`].
///
/// # Errors
/// Those of the target, except that there is no such file.
pub async fn by_checksum(target: &dyn FileStorage, id: &FileId, claim: &Claim) -> Result<Verdict> {
    match target.metadata(id).await {
        Ok(stored) => Ok(judge(&stored, claim, target.capabilities().verifies_sha256)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Verdict::Missing),
        Err(error) => Err(error),
    }
}

/// Reads every byte of the target's file and compares; `version` is the one that must be stored, where known.
///
/// # Errors
/// Those of the target, except the findings: no such file, another version, bytes that fail their checksum.
pub async fn by_reading(
    target: &dyn FileStorage,
    id: &FileId,
    version: Option<&Version>,
    claim: &Claim,
    throttle: Option<&Arc<Throttle>>,
    progress: &Progress,
) -> Result<Verdict> {
    let when = version.cloned().map_or(Precondition::None, Precondition::Version);
    match digest_of(target, id, when, throttle, progress).await {
        Ok((size, _)) if size != claim.size => {
            Ok(Verdict::Different(format!("{size} bytes in the target, {} in the source", claim.size)))
        }
        Ok((_, digest)) if digest != claim.digest => {
            Ok(Verdict::Different(format!("SHA-256 {digest} in the target, {} in the source", claim.digest)))
        }
        Ok(_) => Ok(Verdict::Match(Verified::ReadBack)),
        Err(error) => finding(error),
    }
}

fn finding(error: Error) -> Result<Verdict> {
    match error.kind() {
        ErrorKind::NotFound => Ok(Verdict::Missing),
        ErrorKind::Integrity | ErrorKind::VersionMismatch | ErrorKind::SourceChanged => {
            Ok(Verdict::Different(error.to_string()))
        }
        _ => Err(error),
    }
}

/// Reads every byte and returns their number and SHA-256.
///
/// # Errors
/// Those of the storage.
pub async fn digest_of(
    storage: &dyn FileStorage,
    id: &FileId,
    when: Precondition,
    throttle: Option<&Arc<Throttle>>,
    progress: &Progress,
) -> Result<(u64, Digest)> {
    // Hashed once, here: the storage need not compare.
    let options = DownloadOptions::default().with_when(when).with_unverified(true);
    let download = storage.download(id, options).await?;
    let mut verifier = Verifier::new(download.metadata.expected());
    let mut body = download.body;
    let mut size = 0;
    while let Some(piece) = body.try_next().await? {
        if let Some(throttle) = throttle {
            throttle.pass(piece.len()).await;
        }
        progress.bytes_read(piece.len() as u64);
        verifier.update(&piece);
        size += piece.len() as u64;
    }
    match verifier.finish() {
        Ok(digest) => Ok((size, digest)),
        Err(mismatch) => Err(mismatch.into_error(Op::Download).with_id(id).with_storage(storage.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(size: u64, digest: Option<Digest>, composite: Option<CompositeDigest>) -> FileMetadata {
        let mut file = FileMetadata::new(FileId::parse("a").unwrap(), size);
        file.digest = digest;
        file.composite = composite;
        file
    }

    #[test]
    fn nothing_matches_on_a_name_and_a_size_alone() {
        let right = Digest::of(b"abc");
        let wrong = Digest::of(b"abd");
        let claim = Claim { size: 3, digest: right, composite: None, compared: None };
        let verdict = |file: &FileMetadata, trusted| judge(file, &claim, trusted);
        assert_eq!(verdict(&stored(3, Some(right), None), true), Verdict::Match(Verified::Backend));
        assert!(matches!(verdict(&stored(3, Some(right), None), false), Verdict::Unproven(_)));
        assert!(matches!(verdict(&stored(3, None, None), true), Verdict::Unproven(_)));
        assert!(matches!(verdict(&stored(3, Some(wrong), None), true), Verdict::Different(_)));
        assert!(matches!(verdict(&stored(4, Some(right), None), true), Verdict::Different(_)));
    }

    #[test]
    fn a_version_that_was_compared_counts_until_the_file_is_written_again() {
        let digest = Digest::of(b"abc");
        let compared = Some((Version::new("v1"), Verified::ReadBack));
        let claim = Claim { size: 3, digest, composite: None, compared };
        let mut file = stored(3, None, None);
        file.version = Some(Version::new("v1"));
        assert_eq!(judge(&file, &claim, false), Verdict::Match(Verified::ReadBack));
        file.version = Some(Version::new("v2"));
        assert!(matches!(judge(&file, &claim, false), Verdict::Unproven(_)));
    }

    #[test]
    fn composites_of_other_part_sizes_prove_nothing() {
        let digest = Digest::of(b"abc");
        let composite = |part_size| CompositeDigest::of_parts(part_size, [&digest]);
        let claim = Claim { size: 3, digest, composite: Some(composite(5)), compared: None };
        assert_eq!(
            judge(&stored(3, None, Some(composite(5))), &claim, true),
            Verdict::Match(Verified::Backend)
        );
        assert!(matches!(judge(&stored(3, None, Some(composite(6))), &claim, true), Verdict::Unproven(_)));
    }
}
