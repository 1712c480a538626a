//! File storage for services: local disk, S3-compatible servers and memory behind one trait.

pub mod backend;
pub mod body;
pub mod checksum;
pub mod error;
pub mod id;
pub mod layer;
pub mod metadata;
pub mod stack;
pub mod storage;
#[cfg(feature = "testkit")]
pub mod testkit;
