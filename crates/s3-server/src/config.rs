//! What a server serves, to whom, and within which bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use storage_core::storage::FileStorage;

use crate::hook::RequestHook;

/// The key pair that requests are signed with. Its `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    access_key: String,
    secret_key: String,
}

impl Credentials {
    /// Takes a key pair.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self { access_key: access_key.into(), secret_key: secret_key.into() }
    }

    /// Makes a key pair nobody can guess, for a server that lives as long as the process that started it.
    pub fn random() -> Self {
        let mut random = rand::rng();
        let mut text = |length: usize| -> String {
            (0..length).map(|_| char::from(random.sample(rand::distr::Alphanumeric))).collect()
        };
        Self { access_key: text(20).to_ascii_uppercase(), secret_key: text(40) }
    }

    /// Returns the public half.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Returns the secret half: for the client that signs, never for a log.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .field("secret_key", &"(not shown)")
            .finish()
    }
}

/// Bounds of a server: memory, time and connections follow from these, never from what clients send.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Greatest object of a single PUT in bytes; default 5 GiB, the limit of S3.
    pub max_put_bytes: u64,
    /// Greatest part in bytes; default 512 MiB. S3 itself takes 5 GiB, but a part is in memory while the storage
    /// takes it, and common clients send 5 to 64 MiB.
    pub max_part_bytes: u64,
    /// Bytes of one upload that are kept in memory before they go to a temporary file; default 8 MiB.
    pub spool_bytes: usize,
    /// Bytes of all uploads together that are in memory at a time; further requests wait. Default 512 MiB, so
    /// that one part of the greatest size fits.
    pub memory_bytes: u64,
    /// How long a client may send nothing in the midst of a request; default 60 s.
    pub idle: Duration,
    /// How long requests that are under way have when the server shuts down; default 10 s.
    pub grace: Duration,
    /// Connections at a time; further ones wait to be accepted. Default 1,024.
    pub max_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_put_bytes: 5 << 30,
            max_part_bytes: 512 << 20,
            spool_bytes: 8 << 20,
            memory_bytes: 512 << 20,
            idle: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            max_connections: 1024,
        }
    }
}

impl Limits {
    /// Sets the greatest object of a single PUT.
    #[must_use]
    pub fn with_max_put_bytes(mut self, bytes: u64) -> Self {
        self.max_put_bytes = bytes;
        self
    }

    /// Sets the greatest part.
    #[must_use]
    pub fn with_max_part_bytes(mut self, bytes: u64) -> Self {
        self.max_part_bytes = bytes;
        self
    }

    /// Sets what one upload may keep in memory before it goes to a temporary file.
    #[must_use]
    pub fn with_spool_bytes(mut self, bytes: usize) -> Self {
        self.spool_bytes = bytes;
        self
    }

    /// Sets what all uploads together may keep in memory.
    #[must_use]
    pub fn with_memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Sets how long a client may send nothing in the midst of a request.
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Sets how long requests have to end when the server shuts down.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the number of connections at a time.
    #[must_use]
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }
}

/// What a server serves and to whom.
///
/// Without credentials every request is let in, and a signed one is refused: for a loopback address in a test.
#[derive(Clone)]
pub struct ServerConfig {
    pub(crate) buckets: BTreeMap<String, Arc<dyn FileStorage>>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) region: String,
    pub(crate) limits: Limits,
    pub(crate) spool_directory: Option<PathBuf>,
    pub(crate) hook: Option<Arc<dyn RequestHook>>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerConfig {
    /// Starts with no bucket and no credentials, in region `us-east-1`, the default of most clients.
    pub fn new() -> Self {
        Self {
            buckets: BTreeMap::new(),
            credentials: None,
            region: "us-east-1".to_owned(),
            limits: Limits::default(),
            spool_directory: None,
            hook: None,
        }
    }

    /// Serves a storage as a bucket. Names that are no S3 bucket names (3 to 63 of `a-z`, `0-9`, `.`, `-`) cannot
    /// be asked for.
    #[must_use]
    pub fn with_bucket(mut self, name: impl Into<String>, storage: Arc<dyn FileStorage>) -> Self {
        self.buckets.insert(name.into(), storage);
        self
    }

    /// Lets in requests that this key pair signed, and no others.
    #[must_use]
    pub fn with_credentials(mut self, access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::new(access_key, secret_key));
        self
    }

    /// Lets in requests that a key pair made for this server signed, and no others; see
    /// [`credentials`](Self::credentials).
    #[must_use]
    pub fn with_random_credentials(mut self) -> Self {
        self.credentials = Some(Credentials::random());
        self
    }

    /// Sets the region that clients are told.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets where uploads too large for memory wait until they are whole; default: the system's directory for
    /// temporary files. The files there have no names and are gone with the process.
    #[must_use]
    pub fn with_spool_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spool_directory = Some(directory.into());
        self
    }

    /// Lets a hook see every request first: for faults in tests.
    #[must_use]
    pub fn with_hook(mut self, hook: Arc<dyn RequestHook>) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Returns the key pair that requests must be signed with.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Returns the region that clients are told.
    pub fn region(&self) -> &str {
        &self.region
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("buckets", &self.buckets.keys().collect::<Vec<_>>())
            .field("credentials", &self.credentials)
            .field("region", &self.region)
            .field("limits", &self.limits)
            .field("spool_directory", &self.spool_directory)
            .field("hook", &self.hook.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_in_no_debug_output() {
        let config = ServerConfig::new().with_credentials("AKID", "s3cret-s3cret");
        let shown = format!("{config:?} {:?}", config.credentials());
        assert!(shown.contains("AKID") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn random_credentials_differ() {
        assert_ne!(Credentials::random(), Credentials::random());
        assert_eq!(Credentials::random().secret_key().len(), 40);
    }
}
