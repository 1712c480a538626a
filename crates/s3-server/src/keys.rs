//! Keys and the ids they stand for: the same, but for the first segment that storages keep for themselves.
//!
//! A client may be a storage of this library, which keeps its canaries under `.storage/` as it would on any S3
//! server; the storage behind refuses that to its callers. So the first segment `.storage` of a key stands for
//! [`ALIAS`] in the id, and nowhere else is a name rewritten.

use std::pin::Pin;

use futures::stream::{self, BoxStream, Peekable, StreamExt as _};
use s3s::S3Result;
use storage_core::error::Error;
use storage_core::id::{FileId, Prefix, RESERVED_SEGMENT};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, ListOptions};

use crate::error;

/// What the reserved first segment of a key is called in the storage. Keys that begin with it are refused.
const ALIAS: &str = ".storage-s3";

type Listing = BoxStream<'static, Result<(String, FileMetadata), Error>>;

/// Returns the id that a key stands for.
///
/// # Errors
/// `InvalidArgument` or `KeyTooLongError`, naming the rule that the key breaks.
pub(crate) fn id_of(key: &str) -> S3Result<FileId> {
    let id = FileId::parse(key).map_err(error::invalid_key)?;
    if id.segments().next() == Some(ALIAS) {
        return Err(error::invalid_argument(format!("keys under \"{ALIAS}\" are the server's own")));
    }
    if !id.is_reserved() {
        return Ok(id);
    }
    FileId::parse(aliased(key)).map_err(error::invalid_key)
}

fn aliased(key: &str) -> String {
    format!("{ALIAS}{}", &key[RESERVED_SEGMENT.len()..])
}

/// Returns the key that stands for an id.
pub(crate) fn key_of(id: &FileId) -> String {
    if id.segments().next() == Some(ALIAS) {
        return format!("{RESERVED_SEGMENT}{}", &id.as_str()[ALIAS.len()..]);
    }
    id.as_str().to_owned()
}

/// Lists keys that begin with `prefix` and lie behind `after`, in their order.
pub(crate) fn list(storage: &dyn FileStorage, prefix: &str, after: Option<&FileId>) -> Listing {
    let Ok(plain) = Prefix::parse(prefix) else {
        // No file has a name that begins like this.
        return stream::empty().boxed();
    };
    let from = |after: Option<FileId>| {
        after.map_or_else(ListOptions::default, |after| ListOptions::default().with_start_after(after))
    };
    let named = |entry: Result<FileMetadata, Error>| entry.map(|file| (key_of(&file.id), file));
    let ours = |entry: &Result<FileMetadata, Error>| {
        entry.as_ref().is_ok_and(|file| file.id.segments().next() == Some(ALIAS))
    };
    let main = storage.list(&plain, from(after.cloned()));
    let main = main.filter(move |entry| std::future::ready(!ours(entry))).map(named).boxed();
    let Some(prefix) = alias_prefix(prefix, after) else { return main };
    let after_alias = after.filter(|after| after.is_reserved());
    let after_alias = after_alias.and_then(|after| FileId::parse(aliased(after.as_str())).ok());
    let alias = storage.list(&prefix, from(after_alias));
    let alias =
        alias.filter(move |entry| std::future::ready(entry.is_err() || ours(entry))).map(named).boxed();
    let after = after.cloned();
    let alias = alias.filter(move |entry| {
        let behind = match (entry, &after) {
            (Ok((key, _)), Some(after)) => key.as_str() > after.as_str(),
            _ => true,
        };
        std::future::ready(behind)
    });
    merge(main, alias.boxed())
}

/// Returns where the reserved keys that a listing may hold are kept, if it may hold any.
fn alias_prefix(prefix: &str, after: Option<&FileId>) -> Option<Prefix> {
    let within = prefix == RESERVED_SEGMENT
        || prefix.strip_prefix(RESERVED_SEGMENT).is_some_and(|rest| rest.starts_with('/'));
    if !within && !RESERVED_SEGMENT.starts_with(prefix) {
        return None;
    }
    // `/` is followed by `0`: behind this, no reserved key is left.
    if after.is_some_and(|after| !after.is_reserved() && after.as_str() > ".storage0") {
        return None;
    }
    let alias = if within { aliased(prefix) } else { ALIAS.to_owned() };
    Prefix::parse(alias).ok()
}

/// Merges two listings that are in order and share no key.
fn merge(left: Listing, right: Listing) -> Listing {
    stream::unfold((left.peekable(), right.peekable()), |(mut left, mut right)| async move {
        let first = match (key(&mut left).await, key(&mut right).await) {
            (Some(left_key), Some(right_key)) if right_key < left_key => &mut right,
            (None, _) => &mut right,
            _ => &mut left,
        };
        let item = first.next().await?;
        Some((item, (left, right)))
    })
    .fuse()
    .boxed()
}

/// Returns the next key; an error sorts first, as it is about what comes next.
async fn key(listing: &mut Peekable<Listing>) -> Option<String> {
    let entry = Pin::new(listing).peek().await?;
    Some(entry.as_ref().map_or_else(|_| String::new(), |(key, _)| key.clone()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::TryStreamExt as _;
    use storage_core::backend::memory::MemoryStorage;
    use storage_core::storage::FileStorageExt as _;

    use super::*;

    #[test]
    fn a_reserved_key_has_an_id_that_the_storage_takes() {
        for key in [".storage", ".storage/canary/1"] {
            let id = id_of(key).unwrap();
            assert!(!id.is_reserved());
            assert_eq!(key_of(&id), key);
        }
        for key in ["a", ".storage+", ".storages/x", "a/.storage/b", ".storage-s3x"] {
            assert_eq!(id_of(key).unwrap().as_str(), key);
        }
        assert!(id_of(".storage-s3/x").is_err());
    }

    #[test]
    fn a_key_that_leads_elsewhere_is_refused() {
        for key in ["../a", "a/../../b", "/etc/passwd", "a//b", "a/.", "a/", ""] {
            assert!(id_of(key).is_err(), "{key}");
        }
    }

    #[tokio::test]
    async fn reserved_keys_are_listed_in_their_place() {
        let storage = MemoryStorage::new();
        let keys = [".a", ".storage!", ".storage/b", ".storage/c", ".storage0", "a"];
        for key in keys {
            storage.upload_bytes(&id_of(key).unwrap(), Bytes::new()).await.unwrap();
        }
        for prefix in ["", ".", ".storage", ".storage/", ".storage/c", "a", ".storage0"] {
            for after in
                [None, Some(".a"), Some(".storage!"), Some(".storage/b"), Some(".storage0"), Some("b")]
            {
                let after_id = after.map(|after| FileId::parse(after).unwrap());
                let listed = list(&storage, prefix, after_id.as_ref()).map_ok(|(key, _)| key);
                let listed: Vec<String> = listed.try_collect().await.unwrap();
                let expected: Vec<&str> = keys
                    .into_iter()
                    .filter(|key| key.starts_with(prefix) && after.is_none_or(|after| *key > after))
                    .collect();
                assert_eq!(listed, expected, "prefix {prefix:?} after {after:?}");
            }
        }
    }
}
