//! Two storages as one: each test is named after what it prevents.

#![cfg(feature = "fallback")]
#![allow(clippy::disallowed_methods, reason = "tests prepare and damage files")]
#![expect(clippy::print_stderr, reason = "seeds and what is left out are printed")]

mod conformance;
mod degraded;
mod healing;
mod journal;
mod large;
mod model;
mod plain;
mod power;
mod races;
mod servers;
mod sides;
mod strangers;
mod traps;
mod urls;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use storage_core::backend::memory::MemoryStorage;
use storage_core::error::{Error, ErrorKind};
use storage_core::id::{FileId, Prefix};
use storage_core::layer::breaker::BreakerConfig;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{FallbackConfig, Role};
use storage_core::storage::{FileStorage, FileStorageExt, ListOptions, UploadOptions};
use storage_core::testkit::flaky::FlakyStorage;
use tempfile::TempDir;

fn id(name: &str) -> FileId {
    FileId::parse(name).unwrap()
}

/// Two storages in memory with a switch each, and the place of their journal.
struct Rig {
    primary: FlakyStorage,
    secondary: FlakyStorage,
    /// What the two really hold.
    inside: (MemoryStorage, MemoryStorage),
    config: FallbackConfig,
    directory: TempDir,
}

/// A breaker that never opens, where a test is about something else.
fn no_breaker() -> BreakerConfig {
    BreakerConfig::default().with_threshold(u32::MAX, 1.0)
}

impl Rig {
    fn new(role: Role) -> Self {
        Self::within(role, TempDir::new().unwrap())
    }

    fn within(role: Role, directory: TempDir) -> Self {
        let inside = (MemoryStorage::named("main"), MemoryStorage::named("spare"));
        let config = FallbackConfig::new(directory.path().join("journal"))
            .with_name("files")
            .with_role(role)
            .with_breaker(no_breaker())
            .with_heal_every(Duration::from_millis(20));
        Self {
            primary: FlakyStorage::new(Arc::new(inside.0.clone())),
            secondary: FlakyStorage::new(Arc::new(inside.1.clone())),
            inside,
            config,
            directory,
        }
    }

    fn with(mut self, change: impl FnOnce(FallbackConfig) -> FallbackConfig) -> Self {
        self.config = change(self.config);
        self
    }

    async fn open(&self) -> FallbackStorage {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<FallbackStorage, Error> {
        let (primary, secondary) = (Arc::new(self.primary.clone()), Arc::new(self.secondary.clone()));
        FallbackStorage::open(primary, secondary, self.config.clone()).await
    }
}

async fn put(storage: &dyn FileStorage, name: &str, text: &str) {
    storage.upload_bytes(&id(name), Bytes::from(text.to_owned())).await.unwrap();
}

async fn get(storage: &dyn FileStorage, name: &str) -> Result<String, ErrorKind> {
    let bytes = storage.download_bytes(&id(name)).await.map_err(|error| error.kind())?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// Everything listed until the end or the error that ends it.
async fn names(storage: &dyn FileStorage) -> (Vec<String>, Option<ErrorKind>) {
    let mut listing = storage.list(&Prefix::all(), ListOptions::default());
    let mut names = Vec::new();
    loop {
        match listing.try_next().await {
            Ok(Some(file)) => names.push(file.id.to_string()),
            Ok(None) => return (names, None),
            Err(error) => return (names, Some(error.kind())),
        }
    }
}

fn attributes() -> UploadOptions {
    UploadOptions::default()
        .with_content_type("text/x-test")
        .with_file_name("Übersicht.txt")
        .with_created(SystemTime::UNIX_EPOCH - Duration::from_nanos(1_500_000_001))
        .with_tag("a", "1")
        .with_tag("ü", "two\nlines")
}

/// Heals until nothing is left, and says what is wrong otherwise.
async fn heal(storage: &FallbackStorage) {
    let report = storage.heal().await;
    assert!(report.is_complete(), "{report:?}");
}
