//! The way to and from the crate `object_store`: its stores as our storages, and our storages as its stores.

#![cfg(feature = "object-store")]
#![expect(clippy::print_stderr, reason = "what was left out is for whoever reads the output")]

#[cfg(all(feature = "local", feature = "s3"))]
#[path = "object_store/compat.rs"]
mod compat;
#[path = "object_store/stores.rs"]
mod stores;
