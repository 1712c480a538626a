//! Listings by segment, from listings by byte.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, Result};

use super::convert::{failed, invalid, meta_of, path_of};
use crate::id::{FileId, MAX_ID_BYTES, Prefix};
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
    let prefix = beneath(path)?;
    let depth = prefix.as_str().len();
    let mut result =
        ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
    let mut files = list(storage, path, ListOptions::default());
    let mut passed = 0;
    while let Some(meta) = files.try_next().await? {
        // Both are prefixes of an id that ends at a `/`, which is a boundary of characters.
        let Some((name, _)) = meta.location.as_ref()[depth..].split_once('/') else {
            result.objects.push(meta);
            continue;
        };
        let directory = Path::parse(format!("{}{name}", prefix.as_str()))?;
        if result.common_prefixes.last() != Some(&directory) {
            result.common_prefixes.push(directory);
            passed = 0;
            continue;
        }
        passed += 1;
        if passed == PASSED_OVER
            && let Some(end) = result.common_prefixes.last().and_then(end_of)
        {
            files = list(storage, path, ListOptions::default().with_start_after(end));
        }
    }
    Ok(result)
}

/// Returns an id behind nearly everything beneath a directory, and before everything else; nothing where none is
/// short enough. What begins with the last of all characters is behind it, and is passed over one by one.
fn end_of(directory: &Path) -> Option<FileId> {
    let text = format!("{directory}/{}", char::MAX);
    (text.len() <= MAX_ID_BYTES).then(|| FileId::parse(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_directory_is_behind_its_files_and_before_its_neighbours() {
        let end = end_of(&Path::parse("a/b").unwrap()).unwrap();
        for within in ["a/b/", "a/b/~", "a/b/é", "a/b/\u{10fffe}/x"] {
            assert!(within < end.as_str(), "{within:?}");
        }
        for behind in ["a/b0", "a/c", "a0"] {
            assert!(behind > end.as_str(), "{behind:?}");
        }
    }
}
