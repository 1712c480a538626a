//! Digests, and streams that check bytes while they pass.

use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;
use twin_sha256::Twin;

use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;

/// SHA-256 of the whole content of a file. Shown, parsed and serialised as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text that is no SHA-256: not 64 hex digits, or not the base64 of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDigest;

impl fmt::Display for InvalidDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SHA-256 is 64 hex digits, or the base64 of 32 bytes")
    }
}

impl std::error::Error for InvalidDigest {}

impl Digest {
    /// Takes the 32 bytes of a SHA-256.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Computes the digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(sha2::Sha256::digest(data).into())
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the base64 form that `x-amz-checksum-sha256` carries.
    pub fn to_base64(self) -> String {
        BASE64.encode(self.0)
    }

    /// Reads the base64 form that `x-amz-checksum-sha256` carries.
    ///
    /// # Errors
    /// [`InvalidDigest`].
    pub fn from_base64(text: &str) -> Result<Self, InvalidDigest> {
        let bytes = BASE64.decode(text).map_err(|_| InvalidDigest)?;
        bytes.try_into().map(Self).map_err(|_| InvalidDigest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidDigest)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Returns the digest of all bytes added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// SHA-256 over the SHA-256 of each part: what an S3 server keeps of a multipart upload ("composite
/// checksum", "Checking object integrity", Amazon S3 User Guide).
///
/// All parts but the last have `part_size` bytes, so whoever holds the bytes can compute it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompositeDigest {
    /// SHA-256 of the concatenated part digests.
    pub digest: Digest,
    /// Size in bytes of every part but the last.
    pub part_size: u64,
    /// Number of parts, 1 to 10,000.
    pub parts: u32,
}

impl CompositeDigest {
    /// Combines the digests of the parts, first to last.
    pub fn of_parts<'a>(part_size: u64, digests: impl IntoIterator<Item = &'a Digest>) -> Self {
        let mut hasher = Hasher::new();
        let mut parts = 0;
        for digest in digests {
            hasher.update(digest.as_bytes());
            parts += 1;
        }
        Self { digest: hasher.finish(), part_size, parts }
    }
}

/// What the bytes of a file are to be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The SHA-256 of the whole.
    Whole(Digest),
    /// The composite of the parts.
    Composite(CompositeDigest),
}

/// Computes the digests of a file and of each of its parts in one pass, for little more than the price of one.
///
/// Quick where all parts but the last are a multiple of 64 bytes long.
#[derive(Clone, Debug, Default)]
pub struct PartedHasher(Twin);

impl PartedHasher {
    /// Starts with no bytes, in the first part.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes to the file and to the present part.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Ends the present part, begins the next, and returns the digest of the one that ended.
    pub fn finish_part(&mut self) -> Digest {
        Digest(self.0.finish_part())
    }

    /// Returns the digest of all bytes.
    pub fn finish(self) -> Digest {
        Digest(self.0.finish())
    }
}

/// Compares bytes with what is [`Expected`], piece by piece, and computes the whole digest on the way.
#[derive(Debug)]
pub struct Verifier(Checking);

#[derive(Debug)]
enum Checking {
    Whole { expected: Option<Digest>, hasher: Hasher },
    Parts { expected: CompositeDigest, hasher: PartedHasher, part_left: u64, parts: Vec<Digest> },
}

impl Verifier {
    /// Starts with no bytes. With nothing expected, only the digest is computed.
    pub fn new(expected: Option<Expected>) -> Self {
        Self(match expected {
            None => Checking::Whole { expected: None, hasher: Hasher::new() },
            Some(Expected::Whole(digest)) => {
                Checking::Whole { expected: Some(digest), hasher: Hasher::new() }
            }
            Some(Expected::Composite(expected)) => Checking::Parts {
                expected,
                hasher: PartedHasher::new(),
                part_left: expected.part_size.max(1),
                parts: Vec::new(),
            },
        })
    }

    /// Adds the next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        let (expected, hasher, part_left, parts) = match &mut self.0 {
            Checking::Whole { hasher, .. } => return hasher.update(data),
            Checking::Parts { expected, hasher, part_left, parts } => (expected, hasher, part_left, parts),
        };
        while !data.is_empty() {
            let take = usize::try_from(*part_left).map_or(data.len(), |left| left.min(data.len()));
            let (now, rest) = data.split_at(take);
            hasher.update(now);
            *part_left -= take as u64;
            data = rest;
            if *part_left == 0 {
                parts.push(hasher.finish_part());
                *part_left = expected.part_size.max(1);
            }
        }
    }

    /// Returns the digest of all bytes.
    ///
    /// # Errors
    /// What was computed instead, when the bytes are not those expected.
    pub fn finish(self) -> Result<Digest, Mismatch> {
        match self.0 {
            Checking::Whole { expected, hasher } => {
                let actual = hasher.finish();
                match expected.filter(|expected| *expected != actual) {
                    Some(expected) => Err(Mismatch { expected, actual }),
                    None => Ok(actual),
                }
            }
            Checking::Parts { expected, mut hasher, part_left, mut parts } => {
                if part_left != expected.part_size.max(1) || parts.is_empty() {
                    parts.push(hasher.finish_part());
                }
                let actual = CompositeDigest::of_parts(expected.part_size, &parts);
                if actual == expected {
                    Ok(hasher.finish())
                } else {
                    Err(Mismatch { expected: expected.digest, actual: actual.digest })
                }
            }
        }
    }
}

/// Bytes that are not what their digest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What was recorded.
    pub expected: Digest,
    /// What the bytes give.
    pub actual: Digest,
}

impl Mismatch {
    /// Makes the [`ErrorKind::Integrity`] error that names both digests.
    pub fn into_error(self, op: Op) -> Error {
        Error::new(ErrorKind::Integrity, op)
            .with_message(format!("expected SHA-256 {}, the bytes give {}", self.expected, self.actual))
    }
}

/// A stream that ends in [`ErrorKind::Integrity`] instead of a clean end when its bytes are too few, too many
/// or not those expected. With nothing expected they are only counted.
///
/// A reader that stops early has seen unverified bytes; one that reads to the end knows.
pub struct VerifyingStream<S> {
    inner: S,
    verifier: Option<Verifier>,
    ended: bool,
    left: u64,
    size: u64,
    id: FileId,
    storage: String,
}

impl<S> VerifyingStream<S> {
    /// Wraps the stream of a whole file of `size` bytes; the id and the name of the storage go into errors.
    pub fn new(inner: S, size: u64, expected: Option<Expected>, id: FileId, storage: &str) -> Self {
        Self {
            inner,
            verifier: expected.map(|expected| Verifier::new(Some(expected))),
            ended: false,
            left: size,
            size,
            id,
            storage: storage.to_owned(),
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.ended = true;
        error.with_id(&self.id).with_storage(&self.storage)
    }
}

impl<S: Stream<Item = Result<Bytes>> + Unpin> Stream for VerifyingStream<S> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(Pin::new(&mut this.inner).poll_next(cx));
        Poll::Ready(match item {
            Some(Ok(bytes)) => {
                let Some(left) = this.left.checked_sub(bytes.len() as u64) else {
                    let error = Error::new(ErrorKind::Integrity, Op::Download)
                        .with_message(format!("more than the {} bytes that the file has", this.size));
                    return Poll::Ready(Some(Err(this.fail(error))));
                };
                this.left = left;
                if let Some(verifier) = &mut this.verifier {
                    verifier.update(&bytes);
                }
                Some(Ok(bytes))
            }
            Some(Err(error)) => {
                this.ended = true;
                Some(Err(error))
            }
            None if this.left > 0 => {
                let error = Error::new(ErrorKind::Integrity, Op::Download).with_message(format!(
                    "the stream ended {} bytes short of the {} that the file has",
                    this.left, this.size
                ));
                Some(Err(this.fail(error)))
            }
            None => {
                this.ended = true;
                match this.verifier.take().map(Verifier::finish) {
                    Some(Err(mismatch)) => Some(Err(this.fail(mismatch.into_error(Op::Download)))),
                    _ => None,
                }
            }
        })
    }
}

impl<S> fmt::Debug for VerifyingStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingStream")
            .field("id", &self.id)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, TryStreamExt, stream};

    use super::*;

    // NIST FIPS 180-2 appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn reads_and_writes_both_forms() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(ABC.parse(), Ok(digest));
        assert_eq!(Digest::from_base64(&digest.to_base64()), Ok(digest));
        assert_eq!("ba78".parse::<Digest>(), Err(InvalidDigest));
        assert_eq!(Digest::from_base64("YWJj"), Err(InvalidDigest));
    }

    #[test]
    fn a_composite_is_the_same_whatever_the_chunks() {
        let data: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for size in [0, 1, 99, 100, 101, 300, 1000] {
            let data = &data[..size];
            let mut digests: Vec<_> = data.chunks(100).map(Digest::of).collect();
            if digests.is_empty() {
                digests.push(Digest::of(b""));
            }
            let composite = CompositeDigest::of_parts(100, &digests);
            for chunk in [1, 7, 100, 250, 1000] {
                let mut verifier = Verifier::new(Some(Expected::Composite(composite)));
                data.chunks(chunk).for_each(|piece| verifier.update(piece));
                assert_eq!(verifier.finish(), Ok(Digest::of(data)), "{size} bytes by {chunk}");
            }
        }
    }

    async fn collect(
        pieces: &[&'static [u8]],
        size: u64,
        expected: Option<Expected>,
    ) -> Result<Vec<u8>, ErrorKind> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        let id = FileId::parse("a").unwrap();
        VerifyingStream::new(stream::iter(pieces).boxed(), size, expected, id, "test")
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
            .map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_stream_of_wrong_bytes_never_ends_cleanly() {
        let expected = Some(Expected::Whole(Digest::of(b"abcdef")));
        assert_eq!(collect(&[b"abc", b"def"], 6, expected).await, Ok(b"abcdef".to_vec()));
        assert_eq!(collect(&[b"abc", b"deX"], 6, expected).await, Err(ErrorKind::Integrity));
        assert_eq!(collect(&[b"abc"], 6, None).await, Err(ErrorKind::Integrity));
        assert_eq!(collect(&[b"abc", b"defg"], 6, None).await, Err(ErrorKind::Integrity));
        assert_eq!(collect(&[b"abc"], 3, expected).await, Err(ErrorKind::Integrity));
    }
}
