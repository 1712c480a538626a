//! What is in the source: every entry once, in order, sorted into files, exclusions and reasons.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use storage_core::error::{Error, ErrorKind, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::{FileStorage, ListOptions};

/// Files that are asked for at a time where a run names its files.
const ASKED_AT_A_TIME: usize = 8;

/// Which files of the source a run is about; the default is all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    include: Option<Arc<Gitignore>>,
    exclude: Option<Arc<Gitignore>>,
}

/// A pattern that cannot be understood.
#[derive(Debug)]
pub struct FilterError {
    pattern: String,
    source: ignore::Error,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot understand the pattern {:?}", self.pattern)
    }
}

impl std::error::Error for FilterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Filter {
    /// Makes a filter of patterns as `.gitignore` has them (`gitignore(5)`): `*.tmp`, `/cache/`, `**/x`, `!keep`.
    ///
    /// With `include` given, only files that match one are taken; of these, files that match `exclude` are
    /// left out. Within each list, a later pattern overrules an earlier one.
    ///
    /// # Errors
    /// The first pattern that cannot be understood.
    pub fn from_globs(include: &[String], exclude: &[String]) -> Result<Self, FilterError> {
        Ok(Self { include: matcher(include)?, exclude: matcher(exclude)? })
    }

    /// Tells whether a run is about this file.
    pub fn takes(&self, id: &FileId) -> bool {
        let included = self.include.as_ref().is_none_or(|globs| matches(globs, id));
        included && !self.exclude.as_ref().is_some_and(|globs| matches(globs, id))
    }
}

fn matches(globs: &Gitignore, id: &FileId) -> bool {
    matches!(globs.matched_path_or_any_parents(id.as_str(), false), Match::Ignore(_))
}

fn matcher(patterns: &[String]) -> Result<Option<Arc<Gitignore>>, FilterError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let failed = |pattern: &str| {
        let pattern = pattern.to_owned();
        move |source| FilterError { pattern, source }
    };
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(failed(pattern))?;
    }
    Ok(Some(Arc::new(builder.build().map_err(failed(&patterns.join(" ")))?)))
}

/// An entry of the source.
#[derive(Debug)]
pub enum Entry {
    /// A file that the run is about.
    File(FileMetadata),
    /// A file that the filter leaves out.
    Excluded(FileMetadata),
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
            Self::File(file) | Self::Excluded(file) => Some(&file.id),
            Self::Foreign { id, .. } | Self::Unusable { id, .. } => id.as_ref(),
        }
    }
}

/// Yields the entries of `source`, files in ascending byte order of ids. An `Err` is the last item: the view is
/// incomplete from there on.
pub fn entries(source: &dyn FileStorage, filter: Filter) -> BoxStream<'static, Result<Entry>> {
    source
        .list(&Prefix::all(), ListOptions::default().with_report_foreign())
        .map(move |item| match item {
            Ok(file) if filter.takes(&file.id) => Ok(Entry::File(file)),
            Ok(file) => Ok(Entry::Excluded(file)),
            Err(error) => about_one_entry(error),
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
                Ok(file) if filter.takes(&file.id) => Some(Ok(Entry::File(file))),
                Ok(file) => Some(Ok(Entry::Excluded(file))),
                Err((_, error)) if error.kind() == ErrorKind::NotFound => None,
                // Every further file would fail alike.
                Err((_, error)) if error.is_outage() => Some(Err(error)),
                Err((id, error)) => Some(about_one_entry(error.with_id(&id))),
            };
            std::future::ready(entry)
        })
        .boxed()
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

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>();
        Filter::from_globs(&owned(include), &owned(exclude)).unwrap()
    }

    fn taken(filter: &Filter, ids: &[&str]) -> Vec<String> {
        ids.iter()
            .filter(|id| filter.takes(&FileId::parse(**id).unwrap()))
            .map(|id| (*id).to_owned())
            .collect()
    }

    #[test]
    fn globs_mean_what_gitignore_says() {
        let ids = ["a.txt", "b.tmp", "cache/x", "deep/cache/x", "deep/b.tmp", "deep/keep.tmp"];
        assert_eq!(taken(&Filter::default(), &ids), ids);
        assert_eq!(taken(&filter(&[], &["*.tmp"]), &ids), ["a.txt", "cache/x", "deep/cache/x"]);
        assert_eq!(
            taken(&filter(&[], &["/cache/"]), &ids),
            ["a.txt", "b.tmp", "deep/cache/x", "deep/b.tmp", "deep/keep.tmp"]
        );
        assert_eq!(
            taken(&filter(&[], &["*.tmp", "!keep.tmp"]), &ids),
            ["a.txt", "cache/x", "deep/cache/x", "deep/keep.tmp"]
        );
        assert_eq!(taken(&filter(&["deep/**"], &["*.tmp"]), &ids), ["deep/cache/x"]);
    }

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

    #[test]
    fn a_pattern_that_cannot_be_understood_is_named() {
        let error = Filter::from_globs(&[], &["a{b".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("a{b"), "{error}");
    }
}
