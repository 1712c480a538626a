//! Keys that sign URLs.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, ErrorKind, Op, Result};

/// Least number of bytes in a key: the output of SHA-256 (RFC 2104 section 3).
pub const MIN_KEY_BYTES: usize = 32;

/// What a key's own id is computed over.
const ID_CONTEXT: &[u8] = b"storage-core presigned url key id";

/// Bytes of a key's id.
const ID_BYTES: usize = 8;

/// A secret that signs URLs. Nothing shows it; a clone is a reference count.
///
/// It has a public id that follows from the secret, so that every process with the same key agrees on it and nobody
/// has to name keys.
#[derive(Clone)]
pub struct SigningKey {
    id: Arc<str>,
    /// Keyed and unused: what is cloned for each signature.
    keyed: Arc<Hmac<Sha256>>,
}

impl SigningKey {
    /// Takes the secret: random bytes, or a text that stands for at least as many (`openssl rand -hex 32`).
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured): fewer than [`MIN_KEY_BYTES`].
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self> {
        let secret = secret.as_ref();
        let refused = |message: String| Error::new(ErrorKind::Misconfigured, Op::Open).with_message(message);
        if secret.len() < MIN_KEY_BYTES {
            return Err(refused(format!(
                "a signing key of {} bytes; it has at least {MIN_KEY_BYTES}: make one with `openssl rand -hex 32`",
                secret.len()
            )));
        }
        // HMAC takes keys of every length.
        let keyed = Hmac::<Sha256>::new_from_slice(secret).map_err(|error| refused(error.to_string()))?;
        let id = keyed.clone().chain_update(ID_CONTEXT).finalize().into_bytes();
        Ok(Self { id: hex::encode(&id[..ID_BYTES]).into(), keyed: Arc::new(keyed) })
    }

    /// Returns the public id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Computes the signature of a text, in lower-case hex.
    pub(super) fn mac(&self, text: &str) -> String {
        hex::encode(self.over(text).finalize().into_bytes())
    }

    /// Compares a signature in the time that a right one takes.
    pub(super) fn verifies(&self, text: &str, mac: &str) -> bool {
        // Upper-case hex would be a second spelling of the same permission.
        if mac.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return false;
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(mac, &mut bytes).is_ok() && self.over(text).verify_slice(&bytes).is_ok()
    }

    fn over(&self, text: &str) -> Hmac<Sha256> {
        Hmac::clone(&self.keyed).chain_update(text.as_bytes())
    }
}

/// Keys are equal when their ids are, which follow from them.
impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for SigningKey {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, secret not shown)", self.id)
    }
}
