//! What is in the source: every entry once, in order, sorted into files, exclusions and reasons.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use storage_core::error::{Error, ErrorKind, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, ListOptions};

use crate::filter::{Excluded, Filter};
use crate::quarantine;

/// Files that are asked for at a time where a run names its files.
const ASKED_AT_A_TIME: usize = 8;

/// An entry of the source.
#[derive(Debug)]
pub enum Entry {
    /// A file that the run is about.
    File(FileMetadata),
    /// A file that the filter leaves out, and why.
    Excluded(FileMetadata, Excluded),
    /// Not a file: a symbolic link, a fifo. Skipped, which is no failure.
    Foreign {
        /// Its path as an id, where it can be one.
        id: Option<FileId>,
        /// Its path.
        subject: String,
        /// What it is.
        reason: String,
    },
    /// A file or directory that cannot be taken although it should be: unreadable, or its name is no id.
    Unusable {
        /// Its path as an id, where it can be one: a directory's never is.
        id: Option<FileId>,
        /// Its path; ends in `/` for a directory, of which nothing beneath was seen.
        subject: String,
        /// A stable word.
        reason: String,
        /// The error in full.
        detail: String,
    },
}

impl Entry {
    /// Returns the id by which the entry is merged with the ledger, where it has one.
    pub fn id(&self) -> Option<&FileId> {
        match self {
            Self::File(file) | Self::Excluded(file, _) => Some(&file.id),
            Self::Foreign { id, .. } | Self::Unusable { id, .. } => id.as_ref(),
        }
    }
}

/// Yields the entries of `source`, files in ascending byte order of ids; what is in quarantine is none. An `Err` is the
/// last item: the view is incomplete from there on.
pub fn entries(source: &dyn FileStorage, filter: Filter) -> BoxStream<'static, Result<Entry>> {
    source
        .list(&Prefix::all(), ListOptions::default().with_report_foreign())
        .filter_map(move |item| {
            std::future::ready(match item {
                // What a run has put away is no file of this storage any more.
                Ok(file) if quarantine::holds(&file.id) => None,
                Ok(file) => Some(Ok(sorted(file, &filter))),
                Err(error) => Some(about_one_entry(error)),
            })
        })
        .boxed()
}

/// Yields the entries of these files; one that is not there is left out. Asks for a few at a time, in order.
pub fn named(
    source: &Arc<dyn FileStorage>,
    filter: Filter,
    ids: impl Iterator<Item = FileId> + Send + 'static,
) -> BoxStream<'static, Result<Entry>> {
    let source = Arc::clone(source);
    stream::iter(ids)
        .map(move |id| {
            let source = Arc::clone(&source);
            async move { source.metadata(&id).await.map_err(|error| (id, error)) }
        })
        .buffered(ASKED_AT_A_TIME)
        .filter_map(move |answer| {
            let entry = match answer {
                Ok(file) if quarantine::holds(&file.id) => None,
                Ok(file) => Some(Ok(sorted(file, &filter))),
                Err((_, error)) if error.kind() == ErrorKind::NotFound => None,
                // Every further file would fail alike.
                Err((_, error)) if error.is_outage() => Some(Err(error)),
                Err((id, error)) => Some(about_one_entry(error.with_id(&id))),
            };
            std::future::ready(entry)
        })
        .boxed()
}

fn sorted(file: FileMetadata, filter: &Filter) -> Entry {
    match filter.excludes(&file) {
        None => Entry::File(file),
        Some(why) => Entry::Excluded(file, why),
    }
}

fn about_one_entry(error: Error) -> Result<Entry> {
    let id = error.id().cloned();
    let subject = match (&id, error.subject()) {
        (Some(id), _) => id.as_str().to_owned(),
        // An escaped name may be another file's real one; no file's begins like this.
        (None, Some(path)) if FileId::parse(path).is_ok() => format!("./{path}"),
        (None, Some(path)) => path.to_owned(),
        (None, None) => return Err(error),
    };
    let words = || error.message().unwrap_or(error.kind().as_str()).to_owned();
    Ok(match error.kind() {
        ErrorKind::NotAFile => Entry::Foreign { id, reason: words(), subject },
        ErrorKind::InvalidInput => {
            Entry::Unusable { id, reason: words(), detail: error.to_string(), subject }
        }
        kind => Entry::Unusable { id, reason: kind.as_str().to_owned(), detail: error.to_string(), subject },
    })
}

#[cfg(test)]
mod tests {
    use storage_core::error::Op;

    use super::*;

    #[test]
    fn an_escaped_name_is_not_taken_for_the_file_that_has_it_as_its_real_one() {
        let named = |error: Error| match about_one_entry(error).unwrap() {
            Entry::Unusable { subject, .. } => subject,
            other => panic!("{other:?}"),
        };
        let error = || Error::new(ErrorKind::InvalidInput, Op::List);
        assert_eq!(named(error().with_subject("caf\\xe9")), "./caf\\xe9");
        assert_eq!(named(error().with_id(&FileId::parse("caf\\xe9").unwrap())), "caf\\xe9");
        assert_eq!(named(error().with_subject("dir/")), "dir/");
        assert!(about_one_entry(error()).is_err());
    }
}
