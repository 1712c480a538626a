//! ETags of parts: what a client names a part by when it completes an upload, which is all that the server is told
//! of the parts then.
//!
//! An ETag carries what was compared with the part's bytes when they came, so that nothing has to be remembered:
//! `TOKEN-SIZE-SHA256`, and behind it `-NAME:VALUE` for each other checksum that the client declared. A
//! completion whose checksums differ is found out, and one that is repeated after its answer was lost can be
//! compared with the file that it made. A client that makes up an ETag deceives nobody but itself.

use s3s::S3Result;
use s3s::dto::{Checksum, CompletedPart, ETag};
use storage_core::checksum::Digest;
use storage_core::storage::{PartNumber, PartReceipt};

use crate::checksum::{Algorithm, well_formed};
use crate::{error, etag};

/// Stands where the storage does not tell the SHA-256 of a part.
const UNKNOWN: &str = "x";

/// An ETag of a part, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PartTag {
    token: String,
    size: u64,
    digest: Option<Digest>,
    sums: Vec<(Algorithm, String)>,
}

impl PartTag {
    /// Makes the ETag of a part that the storage holds; `declared` is what its upload said of it.
    pub(crate) fn write(part: &PartReceipt, declared: &Checksum) -> ETag {
        let digest = part.digest.map_or_else(|| UNKNOWN.to_owned(), |digest| digest.to_string());
        let mut text = format!("{}-{:x}-{digest}", etag::of_token(&part.token).value(), part.size);
        // The SHA-256 is there already.
        for algorithm in Algorithm::ALL.into_iter().filter(|&one| one != Algorithm::Sha256) {
            if let Some(value) = algorithm.of(declared) {
                text.push_str(&format!("-{}:{value}", algorithm.name()));
            }
        }
        ETag::Strong(text)
    }

    /// Takes an ETag apart; one that is not of this server is none of any part.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let token = fields.next()?.to_owned();
        let size = u64::from_str_radix(fields.next()?, 16).ok()?;
        let digest = match fields.next()? {
            UNKNOWN => None,
            digest => Some(digest.parse().ok()?),
        };
        let sum = |field: &str| {
            let (name, value) = field.split_once(':')?;
            let algorithm = Algorithm::ALL.into_iter().find(|one| one.name() == name)?;
            Some((algorithm, well_formed(algorithm, value.as_bytes()).ok()?))
        };
        let sums = fields.map(sum).collect::<Option<_>>()?;
        Some(Self { token, size, digest, sums })
    }

    /// Tells whether it is an ETag of this part.
    pub(crate) fn names(&self, part: &PartReceipt) -> bool {
        let digests = self.digest.zip(part.digest);
        self.token == etag::of_token(&part.token).value()
            && self.size == part.size
            && digests.is_none_or(|(ours, theirs)| ours == theirs)
    }

    /// Makes the part, with what the ETag knows of it and the storage does not tell.
    pub(crate) fn describe(&self, part: &PartReceipt) -> PartReceipt {
        PartReceipt::new(part.number, part.size, part.digest.or(self.digest), part.token.clone())
    }

    /// Makes a part that the storage no longer holds, if enough is known of it.
    pub(crate) fn remember(&self, number: PartNumber) -> Option<PartReceipt> {
        self.digest.map(|digest| PartReceipt::new(number, self.size, Some(digest), ""))
    }

    /// Compares what a completion says of the part with what its upload said and the server computed.
    ///
    /// # Errors
    /// `InvalidPart` where they differ; `InvalidRequest` for a value that is no checksum; `NotImplemented` for a
    /// checksum that nobody knows.
    pub(crate) fn compare(&self, part: &PartReceipt, said: &CompletedPart) -> S3Result<()> {
        for algorithm in Algorithm::ALL {
            let said = match algorithm {
                Algorithm::Crc32 => &said.checksum_crc32,
                Algorithm::Crc32c => &said.checksum_crc32c,
                Algorithm::Crc64Nvme => &said.checksum_crc64nvme,
                Algorithm::Sha1 => &said.checksum_sha1,
                Algorithm::Sha256 => &said.checksum_sha256,
            };
            let Some(said) = said else { continue };
            let said = well_formed(algorithm, said.as_bytes())?;
            let known = match algorithm {
                Algorithm::Sha256 => part.digest.or(self.digest).map(Digest::to_base64),
                _ => self.sums.iter().find(|(one, _)| *one == algorithm).map(|(_, value)| value.clone()),
            };
            match known {
                Some(known) if known == said => {}
                Some(_) => {
                    let message = format!("part {} has another {}", part.number, algorithm.name());
                    return Err(error::invalid_part(message));
                }
                None => {
                    let name = algorithm.name();
                    return Err(error::not_implemented(format!(
                        "a {name} of part {} that was not sent with it, or not with this ETag,",
                        part.number
                    )));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(digest: Option<Digest>) -> PartReceipt {
        PartReceipt::new(PartNumber::MIN, 5, digest, "token")
    }

    #[test]
    fn an_etag_carries_what_was_compared() {
        let declared = Checksum {
            checksum_crc32: Some("NhCmhg==".into()),
            checksum_crc64nvme: Some("M3eFcAZSQlc=".into()),
            ..Default::default()
        };
        for held in [part(Some(Digest::of(b"hello"))), part(None)] {
            let tag = PartTag::parse(PartTag::write(&held, &declared).value()).unwrap();
            assert!(tag.names(&held));
            assert!(!tag.names(&PartReceipt::new(PartNumber::MIN, 5, held.digest, "another")));
            assert!(!tag.names(&PartReceipt::new(PartNumber::MIN, 6, held.digest, "token")));
            assert_eq!(tag.digest, held.digest);
            assert_eq!(tag.sums.len(), 2);
            assert_eq!(tag.remember(PartNumber::MIN).is_some(), held.digest.is_some());
        }
        let plain = PartTag::write(&part(Some(Digest::of(b"hello"))), &Checksum::default());
        let plain = PartTag::parse(plain.value()).unwrap();
        assert!(!plain.names(&part(Some(Digest::of(b"hullo")))));
    }

    #[test]
    fn what_is_no_etag_of_ours_names_nothing() {
        for text in
            ["", "x", "a-b", "a-5", "a-5-", "a-5-00", "a-5-x-crc32", "a-5-x-crc32:AA", "a-5-x-md5:AA=="]
        {
            assert_eq!(PartTag::parse(text), None, "{text}");
        }
    }
}
