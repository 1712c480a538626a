//! From a configuration to a storage: the one place that knows every backend, every layer and their order.

use std::sync::Arc;

use serde::Deserialize;

#[cfg(feature = "local")]
use crate::backend::local::{LocalConfig, LocalStorage};
use crate::backend::memory::MemoryStorage;
#[cfg(feature = "s3")]
use crate::backend::s3::{S3Config, S3Storage};
use crate::error::Result;
#[cfg(feature = "fallback")]
use crate::error::{Error, ErrorKind, Op};
#[cfg(feature = "cache")]
use crate::layer::cache::{CacheConfig, CachedStorage};
#[cfg(feature = "fallback")]
use crate::layer::fallback::FallbackStorage;
#[cfg(feature = "fallback")]
use crate::layer::fallback::config::FallbackConfig;
#[cfg(feature = "fallback")]
use crate::layer::fallback::event::FallbackEvent;
use crate::layer::limit::{Bound, LimitConfig, LimitStorage};
use crate::layer::metered::MeteredStorage;
use crate::layer::retry::RetryStorage;
use crate::layer::retry::policy::RetryConfig;
use crate::layer::timeout::{TimeoutConfig, TimeoutStorage};
use crate::storage::{Capabilities, FileStorage};

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
    /// Two storages, of which the second stands in while the first is out.
    #[cfg(feature = "fallback")]
    Fallback(PairConfig),
}

/// Two storages as one, each with layers of its own; see [`fallback`](crate::layer::fallback).
#[cfg(feature = "fallback")]
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PairConfig {
    /// The storage that is asked first. Its layer `metered` is left out: the pair has one.
    pub primary: Box<StackConfig>,
    /// The one that stands in.
    pub secondary: Box<StackConfig>,
    /// The journal, and what each operation does on a miss and in an outage.
    pub settings: FallbackConfig,
}

#[cfg(feature = "fallback")]
impl PairConfig {
    /// Takes two storages and how they work together.
    pub fn new(primary: StackConfig, secondary: StackConfig, settings: FallbackConfig) -> Self {
        Self { primary: Box::new(primary), secondary: Box::new(secondary), settings }
    }
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
/// A fallback heals in the background, on the runtime that this is called on, until its last handle is dropped; see
/// [`build_pair`] for whoever wants to do that himself.
///
/// # Errors
/// Those of opening the storage; [`Misconfigured`](crate::error::ErrorKind::Misconfigured) where a layer's
/// numbers make no sense.
pub async fn build(config: StackConfig) -> Result<Arc<dyn FileStorage>> {
    build_known(config, None).await.map(|(storage, _)| storage)
}

/// As [`build`], with a handle on how many operations the storage may run, for whoever shows it; nothing where the layer
/// `limit` is left out, or has two sides.
///
/// # Errors
/// As [`build`].
pub async fn build_with_bound(config: StackConfig) -> Result<(Arc<dyn FileStorage>, Option<Bound>)> {
    build_known(config, None).await
}

/// Builds; a server that is out is taken to be capable of what is known of it.
async fn build_known(
    config: StackConfig,
    known: Option<&Capabilities>,
) -> Result<(Arc<dyn FileStorage>, Option<Bound>)> {
    #[cfg(not(feature = "s3"))]
    let _ = known;
    // The futures of opening are large; a boxed one makes that of the caller small.
    let storage: Arc<dyn FileStorage> = match config.backend {
        #[cfg(feature = "local")]
        BackendConfig::Local(config) => Arc::new(Box::pin(LocalStorage::open(config)).await?),
        #[cfg(feature = "s3")]
        BackendConfig::S3(config) => match (Box::pin(S3Storage::connect(config.clone())).await, known) {
            (Err(outage), Some(known)) if outage.is_outage() => {
                tracing::warn!(%outage, "the server is out and taken to be as it was");
                Arc::new(Box::pin(S3Storage::with_capabilities(config, known)).await?)
            }
            (connected, _) => Arc::new(connected?),
        },
        BackendConfig::Memory(config) => Arc::new(MemoryStorage::named(config.name)),
        #[cfg(feature = "fallback")]
        BackendConfig::Fallback(pair) => {
            let (storage, fallback) = Box::pin(build_pair(pair, &config.layers)).await?;
            fallback.heal_while_in_use();
            return Ok((storage, None));
        }
    };
    layered_with_bound(storage, &config.layers)
}

/// Opens two storages with their layers, puts them together and the layers `metered` and `cache` around both, and returns that and
/// a handle to heal, to count what awaits it and to resolve conflicts with.
///
/// A server that is out is no reason not to start: the journal remembers what it was found capable of. Without a
/// journal, the first time, both must answer.
///
/// # Errors
/// Those of opening the storages and the journal; [`Misconfigured`](crate::error::ErrorKind::Misconfigured) where
/// `layers` sets a layer that belongs to the sides.
#[cfg(feature = "fallback")]
pub async fn build_pair(
    config: PairConfig,
    layers: &LayersConfig,
) -> Result<(Arc<dyn FileStorage>, FallbackStorage)> {
    build_pair_observed(config, layers, |_| ()).await
}

/// As [`build_pair`], and tells `observer` what happens: outages, degraded writes, heals, conflicts. It is called where
/// things happen, and must not block.
///
/// # Errors
/// As [`build_pair`].
#[cfg(feature = "fallback")]
pub async fn build_pair_observed(
    config: PairConfig,
    layers: &LayersConfig,
    observer: impl Fn(&FallbackEvent) + Send + Sync + 'static,
) -> Result<(Arc<dyn FileStorage>, FallbackStorage)> {
    let around = LayersConfig {
        off: layers.off.clone(),
        #[cfg(feature = "cache")]
        cache: layers.cache,
        ..LayersConfig::default()
    };
    if *layers != around {
        return Err(Error::new(ErrorKind::Misconfigured, Op::Open)
            .with_storage(&config.settings.name)
            .with_message("retry, limit and timeout of a fallback are set in the layers of its two sides"));
    }
    let (first, second) = FallbackStorage::remembered(&config.settings.journal).await.unzip();
    let side = async |mut config: StackConfig, known: Option<Capabilities>| {
        #[cfg(feature = "cache")]
        if config.layers.cache.is_some() {
            return Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(
                "a cache within a fallback would hide one side from the other: set it around both",
            ));
        }
        config.layers.off.push(Layer::Metered);
        Box::pin(build_known(config, known.as_ref())).await.map(|(storage, _)| storage)
    };
    let primary = side(*config.primary, first).await?;
    let secondary = side(*config.secondary, second).await?;
    let fallback = FallbackStorage::open_observed(primary, secondary, config.settings, observer).await?;
    let of_sides = [Layer::Retry, Layer::Limit, Layer::Timeout];
    let around = LayersConfig { off: [&layers.off[..], &of_sides].concat(), ..around };
    Ok((layered(Arc::new(fallback.clone()), &around)?, fallback))
}

/// Puts the layers around a storage that is open: metered, cache, retry, limit, timeout, from outside in.
///
/// What the cache answers is counted and takes no permit. Timeout is within retry, as a call that hangs never fails by itself; its clock starts when the permit of
/// limit is held, and who waits to try again holds none.
///
/// # Errors
/// [`Misconfigured`](crate::error::ErrorKind::Misconfigured) where a layer's numbers make no sense.
pub fn layered(storage: Arc<dyn FileStorage>, config: &LayersConfig) -> Result<Arc<dyn FileStorage>> {
    layered_with_bound(storage, config).map(|(storage, _)| storage)
}

fn layered_with_bound(
    storage: Arc<dyn FileStorage>,
    config: &LayersConfig,
) -> Result<(Arc<dyn FileStorage>, Option<Bound>)> {
    let mut bound = None;
    let on = |layer| !config.off.contains(&layer);
    let mut storage = storage;
    if on(Layer::Timeout) {
        storage = Arc::new(TimeoutStorage::new(storage, config.timeout)?);
    }
    if on(Layer::Limit) {
        let limited = LimitStorage::new(storage, config.limit);
        bound = Some(limited.bound());
        storage = Arc::new(limited);
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
    Ok((storage, bound))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    #[cfg(not(feature = "fallback"))]
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

    #[cfg(feature = "fallback")]
    fn pair(journal: &std::path::Path, layers: &str) -> StackConfig {
        parse(&format!(
            r#"{{"backend": {{"type": "fallback",
                  "primary": {{"backend": {{"type": "memory", "name": "main"}}, "layers": {{"off": ["limit"]}}}},
                  "secondary": {{"backend": {{"type": "memory", "name": "spare"}}}},
                  "settings": {{"journal": {journal:?}, "name": "files", "role": "replica",
                                "read": {{"miss": "promote"}}, "breaker": {{"open_for": "2s"}}}}}},
                "layers": {layers}}}"#
        ))
        .unwrap()
    }

    #[cfg(feature = "fallback")]
    #[tokio::test]
    async fn a_fallback_stands_between_the_meter_and_the_layers_of_its_sides() {
        let directory = tempfile::tempdir().unwrap();
        let storage = build(pair(&directory.path().join("journal"), "{}")).await.unwrap();
        assert_eq!(storage.name(), "files");
        let id = crate::id::FileId::parse("a").unwrap();
        storage.upload_bytes(&id, "abc".into()).await.unwrap();
        assert_eq!(storage.download_bytes(&id).await.unwrap(), "abc");
        let shown = format!("{storage:?}");
        let at = |name: &str| shown.find(name).unwrap_or_else(|| panic!("{name} in {shown}"));
        assert!(shown.starts_with("MeteredStorage"), "{shown}");
        let order = ["FallbackStorage", "RetryStorage", "MemoryStorage"];
        assert!(order.map(at).is_sorted(), "{shown}");
        assert_eq!(shown.matches("MeteredStorage").count(), 1);
        assert_eq!(shown.matches("LimitStorage").count(), 1, "the secondary's");
    }

    #[cfg(feature = "fallback")]
    #[tokio::test]
    async fn a_layer_that_belongs_to_the_sides_of_a_fallback_is_not_dropped_in_silence() {
        let directory = tempfile::tempdir().unwrap();
        let config = pair(&directory.path().join("journal"), r#"{"retry": {"max_attempts": 9}}"#);
        let error = build(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("sides"), "{error}");
    }
}
