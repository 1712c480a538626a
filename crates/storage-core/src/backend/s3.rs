//! Any S3-compatible server as a storage.

pub mod attributes;
