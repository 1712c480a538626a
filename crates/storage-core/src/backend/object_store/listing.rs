//! Listings in ascending byte order, over stores that promise none.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::attributes;
use super::config::ListOrder;
use super::error::convert;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix, RESERVED_SEGMENT};
use crate::metadata::FileMetadata;

/// What is to be listed, and from where.
#[derive(Clone)]
pub(super) struct Listing {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) name: String,
    pub(super) prefix: Prefix,
    pub(super) after: Option<FileId>,
}

/// What a directory holds.
enum Entry {
    Object(ObjectMeta),
    Directory(Path),
}

impl Entry {
    /// The place in the order of whole ids: all ids beneath a directory begin with its name and a `/`.
    fn key(&self) -> String {
        match self {
            Self::Object(meta) => meta.location.as_ref().to_owned(),
            Self::Directory(path) => format!("{path}/"),
        }
    }
}

impl Listing {
    pub(super) fn into_stream(self, order: ListOrder) -> BoxStream<'static, Result<FileMetadata>> {
        match order {
            ListOrder::Unknown => self.walk(),
            ListOrder::Ascending => self.checked(),
        }
    }

    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, Op::List).with_storage(&self.name).with_message(message)
    }

    /// Returns the directory that holds every match; nothing means the root.
    fn directory(&self) -> Result<Option<Path>> {
        let directory = self.prefix.directory().trim_end_matches('/');
        if directory.is_empty() {
            return Ok(None);
        }
        // What is no path of a store has no match either, but to say so is safer than an empty listing.
        Path::parse(directory)
            .map(Some)
            .map_err(|error| self.error(ErrorKind::InvalidInput, error.to_string()).with_source(error))
    }

    /// Makes a file of an object; nothing where it is not asked for.
    fn file(&self, meta: &ObjectMeta) -> Option<Result<FileMetadata>> {
        let text = meta.location.as_ref();
        if !text.starts_with(self.prefix.as_str())
            || self.after.as_ref().is_some_and(|after| text <= after.as_str())
        {
            return None;
        }
        match FileId::parse(text) {
            Ok(id) if id.is_reserved() => None,
            Ok(id) => Some(Ok(attributes::listed(id, meta))),
            Err(error) => {
                Some(Err(self.error(ErrorKind::InvalidInput, error.to_string()).with_subject(text)))
            }
        }
    }

    /// Streams what the store lists, as long as it is in order.
    fn checked(self) -> BoxStream<'static, Result<FileMetadata>> {
        let directory = match self.directory() {
            Ok(directory) => directory,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let from = self.after.as_ref().and_then(|after| Path::parse(after.as_str()).ok());
        let objects = match &from {
            Some(from) => self.store.list_with_offset(directory.as_ref(), from),
            None => self.store.list(directory.as_ref()),
        };
        let state = (self, objects, None::<Path>, false);
        stream::unfold(state, |(listing, mut objects, mut last, mut ended)| async move {
            while !ended {
                let item = match objects.next().await? {
                    Ok(meta) if last.as_ref().is_some_and(|last| *last >= meta.location) => {
                        ended = true;
                        Some(Err(listing.error(
                            ErrorKind::Misconfigured,
                            "the store lists in no ascending order; leave its order unknown",
                        )))
                    }
                    Ok(meta) => {
                        let item = listing.file(&meta);
                        last = Some(meta.location);
                        item
                    }
                    Err(error) => {
                        ended = true;
                        Some(Err(convert(Op::List, error).with_storage(&listing.name)))
                    }
                };
                if let Some(item) = item {
                    return Some((item, (listing, objects, last, ended)));
                }
            }
            None
        })
        .fuse()
        .boxed()
    }

    /// Walks from directory to directory, each sorted.
    fn walk(self) -> BoxStream<'static, Result<FileMetadata>> {
        let first = match self.directory() {
            Ok(None) => Path::ROOT,
            Ok(Some(directory)) => directory,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        // The next entry of each directory on the way is the last of its list.
        let state = (self, vec![vec![Entry::Directory(first)]]);
        stream::try_unfold(state, |(listing, mut open)| async move {
            while let Some(entries) = open.last_mut() {
                match entries.pop() {
                    None => {
                        open.pop();
                    }
                    Some(Entry::Directory(path)) => open.push(listing.entries(&path).await?),
                    Some(Entry::Object(meta)) => {
                        if let Some(item) = listing.file(&meta) {
                            return Ok(Some((item, (listing, open))));
                        }
                    }
                }
            }
            Ok::<_, Error>(None)
        })
        .map(|item| item.and_then(|item| item))
        .boxed()
    }

    /// Reads a directory, the first entry last.
    async fn entries(&self, directory: &Path) -> Result<Vec<Entry>> {
        let asked = (!directory.is_root()).then_some(directory);
        let listed = self.store.list_with_delimiter(asked).await.map_err(|error| convert(Op::List, error));
        let listed = match listed {
            Ok(listed) => listed,
            // It was removed since it was seen; of the root that is no explanation.
            Err(error) if error.kind() == ErrorKind::NotFound && asked.is_some() => return Ok(Vec::new()),
            Err(error) => return Err(error.with_storage(&self.name)),
        };
        let objects = listed.objects.into_iter().map(Entry::Object);
        let directories = listed
            .common_prefixes
            .into_iter()
            .filter(|path| path.as_ref() != RESERVED_SEGMENT)
            .map(Entry::Directory);
        let mut entries: Vec<_> =
            objects.chain(directories).filter(|entry| self.leads_on(&entry.key())).collect();
        entries.sort_by_cached_key(|entry| std::cmp::Reverse(entry.key()));
        Ok(entries)
    }

    /// Tells whether a file that is asked for may be found at or beneath this key.
    fn leads_on(&self, key: &str) -> bool {
        let prefix = self.prefix.as_str();
        let matches = key.starts_with(prefix) || prefix.starts_with(key);
        // Everything beneath a directory is behind it, and up to the name that follows all names beneath it.
        let behind = self.after.as_ref().is_none_or(|after| {
            let after = after.as_str();
            key > after || (key.ends_with('/') && after.starts_with(key))
        });
        matches && behind
    }
}

/// Tells whether anything lies beneath a path.
pub(super) async fn anything_beneath(store: &dyn ObjectStore, path: &Path) -> bool {
    matches!(store.list(Some(path)).try_next().await, Ok(Some(_)))
}
