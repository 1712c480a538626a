//! The S3 API in front of any [`FileStorage`](storage_core::storage::FileStorage): for a process that needs an S3
//! server of its own, for tests, and for programs that speak S3 and are not written in Rust.
//!
//! ```no_run
//! use std::sync::Arc;
//! use s3_server::{Server, ServerConfig};
//! use storage_core::backend::memory::MemoryStorage;
//!
//! # async fn example() -> std::io::Result<()> {
//! let config = ServerConfig::new()
//!     .with_bucket("files", Arc::new(MemoryStorage::new()))
//!     .with_random_credentials();
//! let server = Server::bind(config, ([127, 0, 0, 1], 0).into()).await?.spawn();
//! println!("{} {}", server.endpoint(), server.access_key());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! - Requests are authenticated with SigV4, in headers or in a presigned URL, chunked or not; the bytes of an
//!   upload are compared with the signed payload hash, with every `x-amz-checksum-*` and `Content-MD5` before
//!   anything is published.
//! - ETags are version tokens, never an MD5. The SHA-256 of a file is told as `x-amz-checksum-sha256` where the
//!   client asks for checksums.
//! - Of a multipart upload the composite SHA-256 is kept. Other algorithms are compared part by part, when a part
//!   comes and when the upload is completed; a client that asks to have their value of the whole kept is refused.
//!   A completion that is repeated answers as before while its result is there.
//! - Keys are ids of the storage: `a//b`, `/a`, `a/../b` and the directory marker `a/` are refused.
//! - What cannot be honoured (encryption, storage classes, ACLs, tagging, object lock, versions) answers
//!   `NotImplemented`; so do multipart uploads and conditional writes where the storage has none.
//! - There is no TLS here: bind to loopback, or put a proxy in front.

mod attributes;
mod checksum;
mod condition;
mod config;
mod error;
mod etag;
mod gateway;
mod hook;
mod http;
mod keys;
mod listing;
mod part_tag;
mod receive;
mod refuse;
mod server;
mod upload_id;

pub use config::{Credentials, Limits, ServerConfig};
pub use hook::{Answer, RequestHook, RequestInfo, Verdict};
pub use server::{RunningServer, Server};
