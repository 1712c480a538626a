//! Five minutes: files on a local disk, then on S3, then on both.
//!
//! # 1. Take the library
//!
//! ```sh
//! git clone REPOSITORY storage                 # it is on no registry yet
//! cargo add --path storage/crates/storage-core --features http,fallback
//! cargo add tokio --features full
//! cargo add futures serde_json                 # for what follows
//! ```
//!
//! | feature | what for | crates that are compiled |
//! |---|---|---|
//! | none | memory, layers | 98 |
//! | `local` (default) | a directory | 101 |
//! | `s3` (default) | S3 servers, by the SDK of AWS, which nothing else needs | 187 |
//! | `cache` | metadata and small files in memory | 113 |
//! | `fallback` | a second storage for outages, with SQLite for its journal | 105 |
//! | `http` (with `local`) | a router that serves files and presigned URLs | 119 |
//! | `object-store` | bridges to and from the crate of that name | 112 |
//! | `testkit` | the conformance suite, for a storage of one's own | 98 |
//!
//! A service for a local disk alone says `--no-default-features --features local`. With all of them, 219 crates are compiled.
//!
//! # 2. Files on a local disk
//!
//! A service holds an `Arc<dyn FileStorage>` and names a concrete storage in one place: its configuration.
//!
//! ```
//! use storage_core::stack::{self, StackConfig};
//! use storage_core::{Body, DownloadOptions, FileId, FileStorageExt, UploadOptions};
//! use futures::TryStreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let root = directory.path().to_str().ok_or("a path that is UTF-8")?;
//! // Read from a file, as JSON, TOML or whatever else serde reads.
//! let config = format!(r#"{{ "backend": {{ "type": "local", "root": "{root}" }} }}"#);
//! let config: StackConfig = serde_json::from_str(&config)?;
//! let storage = stack::build(config).await?;
//!
//! // A new file gets an id of its own, "UUID/report.pdf"; keep it where the service keeps its data. What is
//! // acknowledged survives a power cut.
//! let body = Body::from_bytes("%PDF-1.7 ...");
//! let receipt = storage.upload_new("report.pdf", body, UploadOptions::default().with_tag("year", "2025")).await?;
//! let id = receipt.metadata.id;
//!
//! // A file of any size is read in pieces, and never ends cleanly with bytes that were not stored.
//! let download = storage.download(&id, DownloadOptions::default()).await?;
//! assert_eq!(download.metadata.content_type.as_deref(), Some("application/pdf"));
//! let pieces: Vec<_> = download.body.try_collect().await?;
//! assert_eq!(pieces.concat(), b"%PDF-1.7 ...");
//!
//! // What is not there is an error with a kind, as everything that goes wrong.
//! let missing = storage.download_bytes(&FileId::parse("no/such/file")?).await;
//! assert_eq!(missing.unwrap_err().kind(), storage_core::ErrorKind::NotFound);
//! # Ok(())
//! # }
//! ```
//!
//! A large upload comes from [`Body::from_path`](crate::body::Body::from_path), or through
//! [`Body::spool`](crate::body::Body::spool) from a stream that can be read only once, such as the body of a request.
//! The file is published whole or not at all.
//!
//! # 3. The same files on S3
//!
//! Another configuration, and not a line of the service changes. Credentials come from where the tools of AWS look
//! for them.
//!
//! ```json
//! { "backend": { "type": "s3", "bucket": "files", "endpoints": ["https://minio.example.org:9000"] } }
//! ```
//!
//! In code, here with a server that a test starts:
//!
#![cfg_attr(
    feature = "s3",
    doc = r#"
```
use std::sync::Arc;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::stack::{LayersConfig, layered};
use storage_core::{FileId, FileStorageExt};

# #[tokio::main(flavor = "current_thread")]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
# let memory = Arc::new(storage_core::backend::memory::MemoryStorage::new());
# let server = s3_server::ServerConfig::new().with_bucket("files", memory).with_credentials("AKID", "a secret");
# let server = s3_server::Server::bind(server, ([127, 0, 0, 1], 0).into()).await?.spawn();
# let endpoint = server.endpoint();
let config = S3Config::new("files")
    .with_endpoint(&endpoint)
    .with_static_credentials("AKID", "a secret");
// Finds out what the server can do, by requests that must fail or must show.
let s3 = S3Storage::connect(config).await?;
// Retries, limits and deadlines, as `stack::build` puts them around every storage.
let storage = layered(Arc::new(s3), &LayersConfig::default())?;

let id = FileId::parse("greetings/hello.txt")?;
storage.upload_bytes(&id, "hello".into()).await?;
assert_eq!(storage.download_bytes(&id).await?, "hello");
# server.shutdown().await;
# Ok(())
# }
```"#
)]
//!
//! What is on the disk already is copied with [`copy_to`](crate::storage::FileStorageExt::copy_to)
//! (`examples/local_to_s3.rs`), or by the `migrator`: verified, resumable, with a report, while the service runs.
//!
//! # 4. Links that work on either
//!
#![cfg_attr(
    feature = "http",
    doc = r#"
```
use std::sync::Arc;
use std::time::Duration;
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::http::{ServeConfig, router};
use storage_core::presign::{SigningKey, UrlSigner};
use storage_core::storage::PresignRequest;
use storage_core::{FileId, FileStorage, FileStorageExt};

# #[tokio::main(flavor = "current_thread")]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
# let directory = tempfile::tempdir()?;
# let (root, key) = (directory.path(), "0123456789abcdef0123456789abcdef");
// On S3 nothing of this is needed. On a disk, a key and the URL beneath which the service answers; in a
// configuration: "presign": { "base_url": "https://...", "key_file": "/run/secrets/files" }
let signer = UrlSigner::new("https://files.example.org/shared", SigningKey::new(key)?)?;
let storage = LocalStorage::open(LocalConfig::new(root).with_signer(signer.clone())).await?;
let app = axum::Router::new().merge(router(Arc::new(storage.clone()), signer, ServeConfig::default()));
# let _ = app;

let id = FileId::parse("greetings/hello.txt")?;
storage.upload_bytes(&id, "hello".into()).await?;
let read = PresignRequest::get(Duration::from_secs(600)).with_save_as("Hello.txt");
let url = storage.presigned_url(&id, read).await?.url;
assert!(url.starts_with("https://files.example.org/shared/greetings/hello.txt?"));

// Whoever has this one can upload one PNG, of exactly so many bytes.
let write = PresignRequest::put(Duration::from_secs(600)).with_content_type("image/png").with_content_length(4096);
let upload = storage.presigned_url(&FileId::parse("avatars/17.png")?, write).await?;
assert_eq!(upload.headers[0], ("content-type".to_owned(), "image/png".to_owned()));
# Ok(())
# }
```"#
)]
//!
//! `examples/axum_service.rs` is a whole service with uploads, downloads and links, on either storage.
//!
//! # 5. Both, with fallback
//!
//! A service need not stop because its server does. With the feature `fallback`, what cannot be written to the first
//! storage goes to the second and into a journal, and is brought back by itself; what is deleted meanwhile stays
//! deleted; a change by somebody else is kept beside it and told, never guessed away.
//!
#![cfg_attr(
    feature = "fallback",
    doc = r#"
```
use storage_core::{FileId, FileStorageExt, stack};

# #[tokio::main(flavor = "current_thread")]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
# let directory = tempfile::tempdir()?;
# let (root, journal) = (directory.path().join("spare"), directory.path().join("journal.sqlite"));
# std::fs::create_dir(&root)?;
// In a configuration file the primary is { "type": "s3", "bucket": "files", ... }.
let config = serde_json::json!({ "backend": {
    "type": "fallback",
    "primary": { "backend": { "type": "memory", "name": "server" } },
    "secondary": { "backend": { "type": "local", "root": root } },
    "settings": { "journal": journal },
}});
let storage = stack::build(serde_json::from_value(config)?).await?;
let id = FileId::parse("greetings/hello.txt")?;
storage.upload_bytes(&id, "hello".into()).await?;
assert_eq!(storage.download_bytes(&id).await?, "hello");
# Ok(())
# }
```"#
)]
//!
//! A service with a server and a disk reads this, as JSON:
//!
//! ```json
//! { "backend": {
//!     "type": "fallback",
//!     "primary": { "backend": { "type": "s3", "bucket": "files", "endpoints": ["https://minio.example.org:9000"] } },
//!     "secondary": { "backend": { "type": "local", "root": "/var/lib/service/spare", "create_root": true } },
//!     "settings": { "journal": "/var/lib/service/journal.sqlite", "role": "spare" }
//! } }
//! ```
//!
//! The journal belongs on a disk of the service's own that survives a restart, beside the spare: what is acknowledged in an
//! outage is in the two of them and nowhere else. One process opens them at a time.
//!
//! - A *spare* (the default) costs nothing while the server is well, and in an outage serves what was written in it. What
//!   was written before is not there: reading it, and any listing, is an error of an outage, not "not found".
//! - A *replica* (`"role": "replica"`) gets every write and can serve everything.
//! - A file is put over what the server holds only where that is proven to be what was there before. Else both stay: the
//!   conflict is in the log, in the metric `storage_fallback_journal_entries` and in the events of an observer
//!   (`stack::build_pair_observed`), and waits for `FallbackStorage::resolve`.
//!
//! `layer::fallback` has the rest: what waits to be brought back, when a breaker opens, and every setting with its default.
//!
//! # And then
//!
//! - [`FileStorage`](crate::storage::FileStorage) says what every storage promises, call by call.
//! - [`Error`](crate::error::Error): branch on its kind, ask it whether a repetition helps and whether the write took
//!   effect.
//! - A storage of your own: `examples/custom_backend.rs` implements the trait and runs the conformance suite on it.
