//! A directory of files as a storage: each test is named after what it prevents.

#![cfg(feature = "local")]
#![expect(clippy::disallowed_methods, reason = "tests make, damage and remove files")]

mod attributes;
mod conformance;
mod crash;
mod faults;
mod listing;
mod names;
mod opening;
mod parts;
mod races;
mod reading;
mod writing;

use std::path::Path;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::error::{Error, ErrorKind};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, ListOptions};
use tempfile::TempDir;

/// An empty root, and a storage on it that spares the disk.
async fn storage() -> (TempDir, LocalStorage) {
    let root = TempDir::new().unwrap();
    let storage = open(root.path()).await;
    (root, storage)
}

async fn open(root: &Path) -> LocalStorage {
    LocalStorage::open(LocalConfig::new(root).with_durability(Durability::Relaxed)).await.unwrap()
}

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

async fn list(storage: &LocalStorage) -> Vec<FileMetadata> {
    storage.list(&Prefix::all(), ListOptions::default()).try_collect().await.unwrap()
}

async fn ids(storage: &LocalStorage) -> Vec<String> {
    list(storage).await.into_iter().map(|file| file.id.to_string()).collect()
}

/// Names in a directory of the storage's own.
fn own(root: &Path, directory: &str) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(root.join(".storage").join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
