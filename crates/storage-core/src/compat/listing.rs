//! Listings by segment, from listings by byte.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, Result};

use super::convert::{failed, invalid, meta_of, path_of};
use crate::id::{FileId, MAX_ID_BYTES, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{FileStorage, ListOptions};

/// Files of one directory that are passed over before the listing begins anew behind it: about what a server
/// tells in one page, so that a small directory costs no request of its own.
const PASSED_OVER: usize = 1000;

/// Returns what ids beneath a path begin with.
fn beneath(path: Option<&Path>) -> Result<Prefix> {
    match path {
        Some(path) if !path.is_root() => {
            Prefix::parse(format!("{path}/")).map_err(|error| invalid(path.as_ref(), error))
        }
        _ => Ok(Prefix::all()),
    }
}

/// Lists whatever lies beneath a path, in order.
pub(super) fn list(
    storage: &Arc<dyn FileStorage>,
    prefix: Option<&Path>,
    options: ListOptions,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let prefix = match beneath(prefix) {
        Ok(prefix) => prefix,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    let whole = Path::parse(prefix.as_str()).unwrap_or_default();
    storage
        .list(&prefix, options)
        .map(move |file| {
            let file = file.map_err(failed(&whole))?;
            Ok(meta_of(&path_of(&file.id)?, &file))
        })
        .boxed()
}

/// Lists what lies directly beneath a path: files, and directories by their name.
pub(super) async fn directory(storage: &Arc<dyn FileStorage>, path: Option<&Path>) -> Result<ListResult> {
    let mut result =
        ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
    let mut entries = Entries::new(storage, beneath(path)?, true);
    while let Some(entry) = entries.next().await? {
        match entry {
            Entry::File { meta, .. } => result.objects.push(meta),
            Entry::Directory { path, .. } => result.common_prefixes.push(path),
        }
    }
    Ok(result)
}

/// What a listing tells.
pub(super) enum Entry {
    File {
        meta: ObjectMeta,
        id: FileId,
    },
    /// Ids with one beginning in common, which ends at a `/`.
    Directory {
        path: Path,
        text: String,
        first: FileId,
    },
}

/// A listing in order, one entry in memory at a time.
pub(super) struct Entries {
    storage: Arc<dyn FileStorage>,
    prefix: Prefix,
    whole: Path,
    /// Directories are told, and what lies beneath them is not.
    grouped: bool,
    /// Names that are no ids still have their place in the order.
    behind: String,
    after: Option<FileId>,
    /// The directory that was told last, and how many files have been passed over since.
    within: Option<(String, usize)>,
    files: Option<BoxStream<'static, crate::error::Result<FileMetadata>>>,
}

impl Entries {
    pub(super) fn new(storage: &Arc<dyn FileStorage>, prefix: Prefix, grouped: bool) -> Self {
        Self {
            storage: Arc::clone(storage),
            whole: Path::parse(prefix.as_str()).unwrap_or_default(),
            prefix,
            grouped,
            behind: String::new(),
            after: None,
            within: None,
            files: None,
        }
    }

    /// Leaves out what is not behind this text, before anything was listed.
    pub(super) fn begin_behind(&mut self, text: String) {
        self.after = FileId::parse(text.as_str()).ok();
        self.behind = text;
    }

    /// Goes on where another listing ended, before anything was listed: behind an id, and where that stands for a
    /// directory, behind all of it.
    pub(super) fn go_on(&mut self, after: FileId, within: Option<String>) {
        let end = within.as_deref().and_then(end_of).filter(|end| *end > after);
        self.within = within.map(|text| (text, 0));
        let after = end.unwrap_or(after);
        if self.after.as_ref().is_none_or(|known| *known < after) {
            self.after = Some(after);
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let files = self.files.get_or_insert_with(|| {
                let options = ListOptions { start_after: self.after.clone(), ..ListOptions::default() };
                self.storage.list(&self.prefix, options)
            });
            let Some(file) = files.try_next().await.map_err(failed(&self.whole))? else { return Ok(None) };
            let id = file.id.as_str();
            if id <= self.behind.as_str() {
                continue;
            }
            if let Some((text, passed)) = &mut self.within
                && id.starts_with(text.as_str())
            {
                *passed += 1;
                if *passed == PASSED_OVER
                    && let Some(end) = end_of(text)
                {
                    self.after = Some(end);
                    self.files = None;
                }
                continue;
            }
            let depth = self.prefix.as_str().len();
            // Both are prefixes of an id, which end at a boundary of characters.
            if self.grouped
                && let Some(slash) = id[depth..].find('/')
            {
                let text = id[..=depth + slash].to_owned();
                let path = Path::parse(&text)?;
                self.within = Some((text.clone(), 0));
                return Ok(Some(Entry::Directory { path, text, first: file.id }));
            }
            let meta = meta_of(&path_of(&file.id)?, &file);
            return Ok(Some(Entry::File { meta, id: file.id }));
        }
    }
}

/// Returns an id behind nearly everything that begins with a directory's text, which ends at its `/`, and before
/// everything else; nothing where none is short enough. What begins with the last of all characters is behind it, and
/// is passed over one by one.
fn end_of(directory: &str) -> Option<FileId> {
    let text = format!("{directory}{}", char::MAX);
    (text.len() <= MAX_ID_BYTES).then(|| FileId::parse(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_directory_is_behind_its_files_and_before_its_neighbours() {
        let end = end_of("a/b/").unwrap();
        for within in ["a/b/", "a/b/~", "a/b/é", "a/b/\u{10fffe}/x"] {
            assert!(within < end.as_str(), "{within:?}");
        }
        for behind in ["a/b0", "a/c", "a0"] {
            assert!(behind > end.as_str(), "{behind:?}");
        }
    }
}
