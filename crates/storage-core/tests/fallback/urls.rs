//! URLs that were handed out in an outage outlive it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::error::ErrorKind;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::{FallbackConfig, Role};
use storage_core::presign::{SigningKey, UrlSigner};
use storage_core::storage::{FileStorage, Precondition, PresignRequest};
use storage_core::testkit::flaky::FlakyStorage;
use tempfile::TempDir;

use crate::{get, heal, id, no_breaker, put};

struct Signing {
    primary: FlakyStorage,
    /// What the spare really holds.
    inside: LocalStorage,
    storage: FallbackStorage,
    _directory: TempDir,
}

async fn signing() -> Signing {
    let directory = TempDir::new().unwrap();
    let side = async |name: &str| {
        let root = directory.path().join(name);
        std::fs::create_dir(&root).unwrap();
        let signer = UrlSigner::new("http://127.0.0.1:1/files", SigningKey::new([1; 32]).unwrap()).unwrap();
        let config = LocalConfig::new(root).with_name(name).with_durability(Durability::Relaxed);
        LocalStorage::open(config.with_signer(signer)).await.unwrap()
    };
    let (primary, inside) = (FlakyStorage::new(Arc::new(side("main").await)), side("spare").await);
    let config = FallbackConfig::new(directory.path().join("journal")).with_breaker(no_breaker());
    let (first, second) = (Arc::new(primary.clone()), Arc::new(inside.clone()));
    let storage = FallbackStorage::open(first, second, config).await.unwrap();
    Signing { primary, inside, storage, _directory: directory }
}

#[tokio::test]
async fn a_url_of_an_outage_outlives_the_heal() {
    let Signing { primary, inside, storage, _directory } = signing().await;
    primary.set_outage(true);
    put(&storage, "a", "one").await;
    let short = PresignRequest::get(PresignRequest::MIN_EXPIRY);
    let url = storage.presigned_url(&id("a"), short).await.unwrap();
    primary.set_outage(false);
    while SystemTime::now() < url.expires {
        let report = storage.heal().await;
        if SystemTime::now() < url.expires {
            assert_eq!(get(&inside, "a").await, Ok("one".to_owned()), "{report:?}");
            assert_eq!((storage.pending().files, storage.pending().stale), (0, 1));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    heal(&storage).await;
    assert_eq!(get(&inside, "a").await, Err(ErrorKind::NotFound), "a spare keeps nothing for ever");
    assert_eq!(get(&storage, "a").await, Ok("one".to_owned()));
}

#[tokio::test]
async fn a_url_of_an_outage_does_not_outlive_its_file() {
    let Signing { primary, inside, storage, _directory } = signing().await;
    let long = || PresignRequest::get(Duration::from_secs(3_600));
    for name in ["deleted", "written"] {
        primary.set_outage(true);
        put(&storage, name, "one").await;
        storage.presigned_url(&id(name), long()).await.unwrap();
        primary.set_outage(false);
        assert_eq!(storage.heal().await.left, 1);
        match name {
            "deleted" => drop(storage.delete(&id(name), Precondition::None).await.unwrap()),
            _ => put(&storage, name, "two").await,
        }
        heal(&storage).await;
        assert_eq!(get(&inside, name).await, Err(ErrorKind::NotFound), "{name}");
    }
}

#[tokio::test]
async fn a_secondary_without_urls_refuses_them_before_the_outage() {
    let Signing { primary, storage, _directory, .. } = signing().await;
    assert!(storage.capabilities().presigned_get);
    let memory = Arc::new(storage_core::backend::memory::MemoryStorage::named("spare"));
    let config = FallbackConfig::new(_directory.path().join("another")).with_role(Role::Replica);
    let storage = FallbackStorage::open(Arc::new(primary), memory, config).await.unwrap();
    assert!(!storage.capabilities().presigned_get);
    let url = PresignRequest::get(Duration::from_secs(60));
    storage.upload(&id("a"), Bytes::from("x").into(), Default::default()).await.unwrap();
    assert_eq!(storage.presigned_url(&id("a"), url).await.unwrap_err().kind(), ErrorKind::Unsupported);
}
