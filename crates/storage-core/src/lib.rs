//! File storage for services: a local directory, S3-compatible servers and memory behind one trait.
//!
//! [`FileStorage`] is the waist of the library. Backends implement it, layers wrap it, services hold an
//! `Arc<dyn FileStorage>` and know neither. A file is published whole or not at all, its SHA-256 is computed from
//! the very bytes that were stored, a listing is in byte order, and an option that a storage cannot honour is an
//! error.
//!
//! ```
//! use storage_core::stack::{self, StackConfig};
//! use storage_core::{Body, ErrorKind, FileId, FileStorageExt, Precondition, UploadOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // From a configuration file; "local" and "s3" are the other types.
//! let config: StackConfig = serde_json::from_str(r#"{ "backend": { "type": "memory" } }"#)?;
//! let storage = stack::build(config).await?;
//!
//! let id = FileId::parse("reports/2024/final.pdf")?;
//! let options = UploadOptions::default()
//!     .with_file_name("Final report (Ä).pdf")
//!     .with_when(Precondition::Absent);
//! let receipt = storage.upload(&id, Body::from_bytes("%PDF-1.7"), options.clone()).await?;
//! assert_eq!(receipt.metadata.content_type.as_deref(), Some("application/pdf"));
//! assert_eq!(storage.download_bytes(&id).await?, "%PDF-1.7");
//!
//! // Of two creators exactly one succeeds.
//! let second = storage.upload(&id, Body::from_bytes("other"), options).await;
//! assert_eq!(second.unwrap_err().kind(), ErrorKind::AlreadyExists);
//! # Ok(())
//! # }
//! ```
//!
//! The [`guide`] is the five minutes from here to files on a disk, on S3, and links to them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | names of files, parsed at the border |
//! | [`error`] | the one error: what happened, to what, and whether it left a trace |
//! | [`checksum`] | digests, and streams that check bytes while they pass |
//! | [`metadata`] | what is known of a file besides its bytes |
//! | [`body`] | bytes that can be read again, from any offset |
//! | [`storage`] | the trait, its options and answers |
//! | [`backend`] | the storages: a directory, S3, memory; with a feature, any `object_store` |
//! | `presign` | with the feature `local`: URLs that are permissions, signed and checked |
//! | `http` | with the feature of that name: a router that serves them |
//! | [`layer`] | what is put around one: metrics, cache, fallback to a second one, retry, limit, timeout |
//! | [`stack`] | from a configuration to a storage with its layers |
//! | `compat` | with the feature `object-store`: a storage as a store of the crate `object_store` |
//! | `testkit` | with the feature of that name: the conformance suite, and a storage that fails on purpose |
//!
//! Features: `local` and `s3` (both on by default) bring their backends, `http` the router that serves presigned
//! URLs, `cache` a layer that keeps metadata and small files in memory, `fallback` a second storage that stands in
//! while the first is out, and its journal (SQLite), `object-store` the way from and to the crate of that name,
//! `testkit` the tests for storages of one's own.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests prepare and damage files"))]

pub mod backend;
pub mod body;
pub mod checksum;
#[cfg(feature = "object-store")]
pub mod compat;
#[cfg(any(feature = "s3", feature = "http"))]
mod disposition;
pub mod error;
pub mod guide;
#[cfg(feature = "http")]
pub mod http;
pub mod id;
pub mod layer;
pub mod metadata;
#[cfg(feature = "local")]
pub mod preparation;
#[cfg(feature = "local")]
pub mod presign;
pub mod stack;
pub mod storage;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use self::body::Body;
pub use self::checksum::Digest;
pub use self::error::{Effect, Error, ErrorKind, Op, Result, Retry};
pub use self::id::{FileId, Prefix};
pub use self::metadata::{FileMetadata, Version};
pub use self::storage::{
    ByteRange, Capabilities, Download, DownloadOptions, FileStorage, FileStorageExt, ListOptions,
    Precondition, Receipt, ResumableUpload, UploadOptions, Verified,
};
