//! From a configuration to a storage: the one place that knows every backend, every layer and their order.

use std::sync::Arc;

use serde::Deserialize;

#[cfg(feature = "local")]
use crate::backend::local::{LocalConfig, LocalStorage};
use crate::backend::memory::MemoryStorage;
#[cfg(feature = "s3")]
use crate::backend::s3::{S3Config, S3Storage};
use crate::error::Result;
#[cfg(feature = "cache")]
use crate::layer::cache::{CacheConfig, CachedStorage};
use crate::layer::limit::{LimitConfig, LimitStorage};
use crate::layer::metered::MeteredStorage;
use crate::layer::retry::RetryStorage;
use crate::layer::retry::policy::RetryConfig;
use crate::layer::timeout::{TimeoutConfig, TimeoutStorage};
use crate::storage::FileStorage;

/// A storage and what is put around it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StackConfig {
    /// The storage itself.
    pub backend: BackendConfig,
    /// Default: all layers but the cache, each with its defaults.
    #[serde(default)]
    pub layers: LayersConfig,
}

impl StackConfig {
    /// Takes a storage, with all layers and their defaults.
    pub fn new(backend: BackendConfig) -> Self {
        Self { backend, layers: LayersConfig::default() }
    }

    /// Sets the layers.
    #[must_use]
    pub fn with_layers(mut self, layers: LayersConfig) -> Self {
        self.layers = layers;
        self
    }
}

/// Which storage, told by `type`, and how it is opened.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BackendConfig {
    /// A directory.
    #[cfg(feature = "local")]
    Local(LocalConfig),
    /// An S3-compatible server.
    #[cfg(feature = "s3")]
    S3(S3Config),
    /// Memory.
    Memory(MemoryConfig),
}

/// A storage in memory, which begins empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Name for errors, spans and metrics; default: `memory`.
    pub name: String,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { name: "memory".to_owned() }
    }
}

/// What is put around a storage, and how each layer is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LayersConfig {
    /// Layers that are left out; default: none.
    pub off: Vec<Layer>,
    /// Metadata and small files in memory. Default: none, as what another process writes is seen late: whoever
    /// switches it on knows who else writes.
    #[cfg(feature = "cache")]
    pub cache: Option<CacheConfig>,
    /// Repetitions of failed operations.
    pub retry: RetryConfig,
    /// Operations at a time.
    pub limit: LimitConfig,
    /// Deadlines.
    pub timeout: TimeoutConfig,
}

/// A layer by name, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layer {
    /// [`MeteredStorage`]
    Metered,
    /// [`CachedStorage`], where one is configured
    #[cfg(feature = "cache")]
    Cache,
    /// [`RetryStorage`]
    Retry,
    /// [`LimitStorage`]
    Limit,
    /// [`TimeoutStorage`]
    Timeout,
}

/// Opens the storage and puts the layers around it.
///
/// # Errors
/// Those of opening the storage; [`Misconfigured`](crate::error::ErrorKind::Misconfigured) where a layer's
/// numbers make no sense.
pub async fn build(config: StackConfig) -> Result<Arc<dyn FileStorage>> {
    // The futures of opening are large; a boxed one makes that of the caller small.
    let storage: Arc<dyn FileStorage> = match config.backend {
        #[cfg(feature = "local")]
        BackendConfig::Local(config) => Arc::new(Box::pin(LocalStorage::open(config)).await?),
        #[cfg(feature = "s3")]
        BackendConfig::S3(config) => Arc::new(Box::pin(S3Storage::connect(config)).await?),
        BackendConfig::Memory(config) => Arc::new(MemoryStorage::named(config.name)),
    };
    layered(storage, &config.layers)
}

/// Puts the layers around a storage that is open: metered, cache, retry, limit, timeout, from outside in.
///
/// What the cache answers is counted and takes no permit. /// Timeout is within retry, as a call that hangs never fails by itself; its clock starts when the permit of
/// limit is held, and who waits to try again holds none.
///
/// # Errors
/// [`Misconfigured`](crate::error::ErrorKind::Misconfigured) where a layer's numbers make no sense.
pub fn layered(storage: Arc<dyn FileStorage>, config: &LayersConfig) -> Result<Arc<dyn FileStorage>> {
    let on = |layer| !config.off.contains(&layer);
    let mut storage = storage;
    if on(Layer::Timeout) {
        storage = Arc::new(TimeoutStorage::new(storage, config.timeout)?);
    }
    if on(Layer::Limit) {
        storage = Arc::new(LimitStorage::new(storage, config.limit));
    }
    if on(Layer::Retry) {
        storage = Arc::new(RetryStorage::new(storage, config.retry)?);
    }
    #[cfg(feature = "cache")]
    if let (true, Some(cache)) = (on(Layer::Cache), config.cache) {
        storage = Arc::new(CachedStorage::new(storage, cache)?);
    }
    if on(Layer::Metered) {
        storage = Arc::new(MeteredStorage::new(storage));
    }
    Ok(storage)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::FileStorageExt;

    fn parse(json: &str) -> Result<StackConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[tokio::test]
    async fn builds_what_is_configured_and_keeps_its_name() {
        let config = parse(
            r#"{"backend": {"type": "memory", "name": "scratch"},
                "layers": {"off": ["limit"], "retry": {"max_attempts": 3, "base": "50ms"},
                           "timeout": {"base": "5 seconds"}}}"#,
        )
        .unwrap();
        assert_eq!(config.layers.timeout.base, Duration::from_secs(5));
        let storage = build(config).await.unwrap();
        assert_eq!(storage.name(), "scratch");
        let id = crate::id::FileId::parse("a").unwrap();
        storage.upload_bytes(&id, "abc".into()).await.unwrap();
        assert_eq!(storage.download_bytes(&id).await.unwrap(), "abc");
        let shown = format!("{storage:?}");
        assert!(shown.starts_with("MeteredStorage") && !shown.contains("LimitStorage"), "{shown}");
    }

    #[test]
    fn the_layers_stand_in_their_order() {
        let storage = layered(Arc::new(MemoryStorage::new()), &LayersConfig::default()).unwrap();
        let shown = format!("{storage:?}");
        let order = ["MeteredStorage", "RetryStorage", "LimitStorage", "TimeoutStorage", "MemoryStorage"];
        let at: Vec<_> = order.iter().map(|name| shown.find(name).unwrap()).collect();
        assert!(at.is_sorted(), "{shown}");
    }

    #[cfg(feature = "cache")]
    #[test]
    fn a_cache_is_there_when_asked_for_and_stands_outside_the_retries() {
        let shown = |json: &str| {
            let config = parse(json).unwrap();
            format!("{:?}", layered(Arc::new(MemoryStorage::new()), &config.layers).unwrap())
        };
        let without = shown(r#"{"backend": {"type": "memory"}}"#);
        assert!(!without.contains("CachedStorage"), "{without}");
        let with = shown(r#"{"backend": {"type": "memory"}, "layers": {"cache": {"ttl": "5s"}}}"#);
        let order = ["MeteredStorage", "CachedStorage", "RetryStorage"];
        let at: Vec<_> = order.iter().map(|name| with.find(name).unwrap()).collect();
        assert!(at.is_sorted(), "{with}");
        let off =
            shown(r#"{"backend": {"type": "memory"}, "layers": {"off": ["cache"], "cache": {"ttl": "5s"}}}"#);
        assert!(!off.contains("CachedStorage"), "{off}");
        let config =
            parse(r#"{"backend": {"type": "memory"}, "layers": {"cache": {"capacity": 0}}}"#).unwrap();
        let refused = layered(Arc::new(MemoryStorage::new()), &config.layers).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Misconfigured);
    }

    #[test]
    fn a_misspelt_key_is_refused_at_every_level() {
        for json in [
            r#"{"backend": {"type": "memory"}, "layer": {}}"#,
            r#"{"backend": {"type": "memory", "nam": "x"}}"#,
            r#"{"backend": {"type": "tape"}}"#,
            r#"{"backend": {"type": "memory"}, "layers": {"off": ["retries"]}}"#,
            r#"{"backend": {"type": "memory"}, "layers": {"retry": {"attempts": 3}}}"#,
            r#"{"backend": {"type": "memory"}, "layers": {"limit": {"concurrency": 0}}}"#,
            r#"{"backend": {"type": "memory"}, "layers": {"timeout": {"base": 5}}}"#,
        ] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[tokio::test]
    async fn numbers_that_make_no_sense_are_told_at_the_start() {
        let config =
            parse(r#"{"backend": {"type": "memory"}, "layers": {"timeout": {"stall": "0s"}}}"#).unwrap();
        assert_eq!(build(config).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    }
}
