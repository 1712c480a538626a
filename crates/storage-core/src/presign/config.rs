//! Where the keys come from.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{SigningKey, UrlSigner};
use crate::error::{Error, ErrorKind, Op, Result};

/// Greatest key file in bytes: one that is larger is not a key.
const MAX_KEY_FILE: u64 = 4096;

/// How a storage signs URLs: a configuration names files with keys, and holds none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PresignConfig {
    /// The URL beneath which the files are served, as clients see it: `https://files.example.org/files`.
    pub base_url: String,
    /// File that holds the key to sign with, at least 32 bytes (`openssl rand -hex 32`). A line end behind it is
    /// not a part of it.
    pub key_file: PathBuf,
    /// File with the key before this one, whose URLs are still accepted; default: none. See
    /// [`UrlSigner::with_previous`].
    #[serde(default)]
    pub previous_key_file: Option<PathBuf>,
}

impl PresignConfig {
    /// Takes the URL beneath which the files are served, and the file with the key.
    pub fn new(base_url: impl Into<String>, key_file: impl Into<PathBuf>) -> Self {
        Self { base_url: base_url.into(), key_file: key_file.into(), previous_key_file: None }
    }

    /// Sets the file with the key before this one.
    #[must_use]
    pub fn with_previous_key_file(mut self, key_file: impl Into<PathBuf>) -> Self {
        self.previous_key_file = Some(key_file.into());
        self
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured): a key file cannot be read or holds no key; those of
    /// [`UrlSigner::new`].
    pub fn signer(&self) -> Result<UrlSigner> {
        let signer = UrlSigner::new(&self.base_url, read_key(&self.key_file)?)?;
        Ok(match &self.previous_key_file {
            Some(file) => signer.with_previous(read_key(file)?),
            None => signer,
        })
    }
}

fn read_key(path: &Path) -> Result<SigningKey> {
    let unusable = |why: String| {
        Error::new(ErrorKind::Misconfigured, Op::Open)
            .with_message(format!("the key file {}: {why}", path.display()))
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_KEY_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| unusable(error.to_string()))?;
    if bytes.len() as u64 > MAX_KEY_FILE {
        return Err(unusable(format!("more than {MAX_KEY_FILE} bytes are no key")));
    }
    let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    SigningKey::new(secret).map_err(|error| unusable(error.message().unwrap_or_default().to_owned()))
}
