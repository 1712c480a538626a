//! Checksums that clients declare, in headers and trailers, and the bytes they are compared with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::Checksum;
use s3s::{S3Error, S3ErrorCode, S3Result};
use storage_core::checksum::Digest;

/// A checksum algorithm of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// Returns the name of the header and trailer that carries it.
    pub(crate) const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Returns its name in lower case, as the header has it.
    pub(crate) fn name(self) -> &'static str {
        let header = self.header();
        header.strip_prefix("x-amz-checksum-").unwrap_or(header)
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Returns the value that belongs to this algorithm.
    pub(crate) fn of(self, sums: &Checksum) -> Option<&String> {
        match self {
            Self::Crc32 => sums.checksum_crc32.as_ref(),
            Self::Crc32c => sums.checksum_crc32c.as_ref(),
            Self::Crc64Nvme => sums.checksum_crc64nvme.as_ref(),
            Self::Sha1 => sums.checksum_sha1.as_ref(),
            Self::Sha256 => sums.checksum_sha256.as_ref(),
        }
    }
}

/// What a request says of its own bytes.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    headers: Vec<(Algorithm, String)>,
    trailers: Vec<Algorithm>,
    md5: Option<Vec<u8>>,
}

impl Declared {
    /// Reads `x-amz-checksum-*`, `x-amz-trailer` and `Content-MD5`.
    ///
    /// # Errors
    /// `InvalidRequest` or `InvalidDigest` for a value that is no checksum of its kind.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Self> {
        let mut declared = Self::default();
        for algorithm in Algorithm::ALL {
            if let Some(value) = headers.get(algorithm.header()) {
                declared.headers.push((algorithm, well_formed(algorithm, value.as_bytes())?));
            }
        }
        for name in headers.get_all("x-amz-trailer") {
            let names =
                name.to_str().unwrap_or_default().split(',').map(|name| name.trim().to_ascii_lowercase());
            for name in names {
                declared.trailers.extend(Algorithm::ALL.into_iter().filter(|one| one.header() == name));
            }
        }
        if let Some(value) = headers.get("content-md5") {
            let md5 = BASE64.decode(value.as_bytes()).ok().filter(|md5| md5.len() == 16);
            declared.md5 = Some(md5.ok_or_else(|| {
                S3Error::with_message(S3ErrorCode::InvalidDigest, "Content-MD5 is not the base64 of 16 bytes")
            })?);
        }
        Ok(declared)
    }

    /// Leaves what is said of a body as it is sent, for requests whose `x-amz-checksum-*` describe something else.
    pub(crate) fn of_the_body_alone(self) -> Self {
        Self { md5: self.md5, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.trailers.is_empty() && self.md5.is_none()
    }

    /// Starts to compute what was declared, and the SHA-256 where it is wanted anyway.
    pub(crate) fn hasher(&self, with_sha256: bool) -> Sums {
        let named = |algorithm| {
            self.trailers.contains(&algorithm) || self.headers.iter().any(|(one, _)| *one == algorithm)
        };
        Sums {
            hasher: ChecksumHasher {
                crc32: named(Algorithm::Crc32).then(Crc32::new),
                crc32c: named(Algorithm::Crc32c).then(Crc32c::new),
                sha1: named(Algorithm::Sha1).then(Sha1::new),
                sha256: (with_sha256 || named(Algorithm::Sha256)).then(Sha256::new),
                crc64nvme: named(Algorithm::Crc64Nvme).then(Crc64Nvme::new),
            },
            md5: self.md5.is_some().then(Md5::new),
        }
    }

    /// Compares what was declared with what was computed over the bytes that came, and returns the declared
    /// ones, for the answer, and the SHA-256 where it was computed.
    ///
    /// # Errors
    /// `BadDigest` where they differ; `InvalidRequest` for a trailer that was announced and did not come.
    pub(crate) fn verify(
        self,
        sums: Sums,
        trailers: Option<&HeaderMap>,
    ) -> S3Result<(Checksum, Option<Digest>)> {
        let computed = sums.hasher.finalize();
        let mut declared = self.headers;
        for algorithm in self.trailers {
            let value = trailers.and_then(|trailers| trailers.get(algorithm.header())).ok_or_else(|| {
                invalid_request(format!("the trailer {} was announced and did not come", algorithm.header()))
            })?;
            declared.push((algorithm, well_formed(algorithm, value.as_bytes())?));
        }
        let mut answer = Checksum::default();
        for (algorithm, value) in declared {
            if algorithm.of(&computed) != Some(&value) {
                return Err(bad_digest(algorithm.header()));
            }
            set(&mut answer, algorithm, value);
        }
        if let (Some(expected), Some(md5)) = (self.md5, sums.md5)
            && md5.finalize().as_ref() != expected
        {
            return Err(bad_digest("Content-MD5"));
        }
        let sha256 = computed.checksum_sha256.as_deref().and_then(|text| Digest::from_base64(text).ok());
        Ok((answer, sha256))
    }
}

/// Checksums of the bytes that came so far.
pub(crate) struct Sums {
    hasher: ChecksumHasher,
    md5: Option<Md5>,
}

impl Sums {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }
}

/// What a request says of its XML body, and the body as far as it came.
///
/// The S3 layer reads these bodies whole and hands on what they mean, so they are looked at as they pass.
#[derive(Clone)]
pub(crate) struct BodyCheck(Arc<Mutex<Option<(Declared, Sums)>>>);

impl BodyCheck {
    pub(crate) fn new(declared: Declared) -> Self {
        let sums = declared.hasher(false);
        Self(Arc::new(Mutex::new(Some((declared, sums)))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Declared, Sums)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, bytes: &[u8]) {
        if let Some((_, sums)) = &mut *self.lock() {
            sums.update(bytes);
        }
    }

    /// Compares, once the body has been read.
    ///
    /// # Errors
    /// Those of [`Declared::verify`].
    pub(crate) fn verify(&self) -> S3Result<()> {
        match self.lock().take() {
            Some((declared, sums)) => declared.verify(sums, None).map(drop),
            None => Ok(()),
        }
    }
}

fn set(sums: &mut Checksum, algorithm: Algorithm, value: String) {
    let slot = match algorithm {
        Algorithm::Crc32 => &mut sums.checksum_crc32,
        Algorithm::Crc32c => &mut sums.checksum_crc32c,
        Algorithm::Crc64Nvme => &mut sums.checksum_crc64nvme,
        Algorithm::Sha1 => &mut sums.checksum_sha1,
        Algorithm::Sha256 => &mut sums.checksum_sha256,
    };
    *slot = Some(value);
}

/// Returns the one spelling of a value, so that texts can be compared.
///
/// # Errors
/// `InvalidRequest` for a value that is no checksum of its kind.
pub(crate) fn well_formed(algorithm: Algorithm, value: &[u8]) -> S3Result<String> {
    let bytes = BASE64.decode(value).ok().filter(|bytes| bytes.len() == algorithm.bytes());
    bytes.map(|bytes| BASE64.encode(bytes)).ok_or_else(|| {
        invalid_request(format!("{} is not the base64 of {} bytes", algorithm.header(), algorithm.bytes()))
    })
}

fn invalid_request(message: String) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidRequest, message)
}

fn bad_digest(what: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::BadDigest, format!("{what} does not match the bytes that came"))
}
