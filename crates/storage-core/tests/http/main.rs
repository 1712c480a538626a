//! What is spoken over HTTP, with a plain client. Presigned URLs: the same promises of a directory behind the router and of S3 servers,
//! and what the router alone promises. And the services of `examples/`.

#![cfg(all(feature = "http", feature = "s3"))]

mod client;
mod everywhere;
mod service;
mod serving;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::http::{ServeConfig, router};
use storage_core::id::FileId;
use storage_core::presign::{SigningKey, UrlSigner};
use storage_core::storage::Access;
use storage_core::testkit::conformance::{CASES, Fixture};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that ends with the test.
struct Running {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn serve(listener: TcpListener, app: Router) -> Running {
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Running { address, task }
}

/// A directory whose URLs are served.
struct Served {
    root: TempDir,
    spool: TempDir,
    storage: LocalStorage,
    signer: UrlSigner,
    server: Running,
}

impl Served {
    async fn start() -> Self {
        Self::with(ServeConfig::default()).await
    }

    async fn with(config: ServeConfig) -> Self {
        let (root, spool) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (listener, address) = listen().await;
        let key = SigningKey::new("a key of this test, 32 bytes long").unwrap();
        let signer = UrlSigner::new(&format!("http://{address}/some/files"), key).unwrap();
        let storage = open(root.path(), &signer, Access::ReadWrite).await;
        let config = config.with_spool_directory(spool.path());
        let server = serve(listener, router(Arc::new(storage.clone()), signer.clone(), config));
        Self { root, spool, storage, signer, server }
    }

    /// Asserts that no temporary file is left, neither of the router nor of the storage.
    fn assert_clean(&self) {
        for directory in [self.spool.path().to_owned(), self.root.path().join(".storage/tmp")] {
            let left: Vec<_> =
                std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

async fn open(root: &Path, signer: &UrlSigner, access: Access) -> LocalStorage {
    let config = LocalConfig::new(root).with_durability(Durability::Relaxed).with_access(access);
    LocalStorage::open(config.with_signer(signer.clone())).await.unwrap()
}

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

/// Bytes that differ from place to place.
fn data(size: usize) -> Bytes {
    (0..size).map(|at| (at * 31 + at / 251) as u8).collect()
}

async fn directory() -> Fixture {
    let served = Served::start().await;
    let read_only = open(served.root.path(), &served.signer, Access::ReadOnly).await;
    Fixture::new(Arc::new(served.storage.clone())).with_read_only(Arc::new(read_only)).with_guard(served)
}

/// The promises of the suite about URLs, which a directory without keys refuses and with keys keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_with_keys_keeps_the_promises_about_urls() {
    let cases: Vec<_> = CASES.iter().filter(|case| case.name.starts_with("presign::")).collect();
    assert!(cases.len() > 4, "{cases:?}");
    for case in cases {
        let fixture = directory().await;
        assert!(
            fixture.storage().capabilities().presigned_get && fixture.storage().capabilities().presigned_put
        );
        (case.run)(fixture).await;
    }
}
