//! Listing: an ordered merge of the primary, the journal, and where the policy says so the secondary.
//!
//! The journal's rows beneath the prefix are taken as they are when the listing begins, before the primary's first
//! page: a file that is healed meanwhile is on the primary for a page that was read too early, and no longer in the
//! journal when its turn in the order comes. Tombstones hide, rows of files replace, and a stale row makes nothing
//! of the secondary's copy.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};

use super::super::breaker::Outcome;
use super::config::{OnOutage, Role};
use super::entry::{Entry, What, from_primary, from_secondary};
use super::read::marked;
use super::side::{Side, is_outage};
use super::{Inner, both_out};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::ListOptions;

/// One side's listing, one file ahead.
struct Ahead {
    side: Arc<Side>,
    listing: BoxStream<'static, Result<FileMetadata>>,
    head: Option<FileMetadata>,
    begun: bool,
    ended: bool,
}

/// What reading ahead came to.
enum Step {
    /// There is a head, or the end was reached.
    Ready,
    /// An error about one entry.
    Entry(Error),
    /// The listing broke off.
    Broken(Error),
}

impl Ahead {
    fn new(side: &Arc<Side>, prefix: &Prefix, options: ListOptions) -> Self {
        let listing = side.storage().list(prefix, options);
        Self { side: Arc::clone(side), listing, head: None, begun: false, ended: false }
    }

    async fn fill(&mut self) -> Step {
        if self.head.is_some() || self.ended {
            return Step::Ready;
        }
        let calling = if self.begun {
            None
        } else {
            match self.side.begin(Op::List, None) {
                Ok(calling) => Some(calling),
                Err(error) => {
                    self.ended = true;
                    return Step::Broken(error);
                }
            }
        };
        let item = self.listing.next().await;
        self.begun = true;
        let outage = item.as_ref().is_some_and(|item| item.as_ref().is_err_and(is_outage));
        if let Some(calling) = calling {
            calling.ended(if outage { Outcome::Outage } else { Outcome::Answer });
        }
        match item {
            Some(Ok(metadata)) => self.head = Some(metadata),
            None => self.ended = true,
            Some(Err(error)) if error.id().is_some() || error.subject().is_some() => {
                return Step::Entry(error);
            }
            Some(Err(error)) => {
                self.ended = true;
                return Step::Broken(error);
            }
        }
        Step::Ready
    }

    fn id(&self) -> Option<&FileId> {
        self.head.as_ref().map(|metadata| &metadata.id)
    }

    fn take(&mut self, id: &FileId) -> Option<FileMetadata> {
        self.head.take_if(|metadata| metadata.id == *id)
    }
}

struct Merge {
    inner: Arc<Inner>,
    prefix: Prefix,
    options: ListOptions,
    rows: VecDeque<Arc<Entry>>,
    primary: Ahead,
    secondary: Option<Ahead>,
    /// The outage in which the primary's listing broke off.
    outage: Option<Error>,
    /// The last id that was decided.
    last: Option<FileId>,
    over: bool,
}

impl Merge {
    fn new(inner: Arc<Inner>, prefix: Prefix, options: ListOptions) -> Self {
        let rows = inner.journal.snapshot(&prefix, options.start_after.as_ref()).into();
        let primary = Ahead::new(&inner.primary, &prefix, options.clone());
        let both = inner.config.list.both_sides;
        let secondary = both.then(|| Ahead::new(&inner.secondary, &prefix, options.clone()));
        Self { inner, prefix, options, rows, primary, secondary, outage: None, last: None, over: false }
    }

    async fn next(&mut self) -> Option<Result<FileMetadata>> {
        while !self.over {
            match self.primary.fill().await {
                Step::Ready => {}
                Step::Entry(error) => return Some(Err(error)),
                Step::Broken(error) => {
                    if let Some(error) = self.primary_broke(error) {
                        return self.end(error);
                    }
                }
            }
            if let Some(secondary) = &mut self.secondary {
                match secondary.fill().await {
                    Step::Ready => {}
                    Step::Entry(error) => return Some(Err(error)),
                    Step::Broken(error) => {
                        return self.secondary_broke(error);
                    }
                }
            }
            let heads = [
                self.rows.front().map(|row| &row.id),
                self.primary.id(),
                self.secondary.as_ref().and_then(Ahead::id),
            ];
            let Some(id) = heads.into_iter().flatten().min().cloned() else {
                self.over = true;
                // A spare has not got what was written before: this was not all.
                return match self.outage.take() {
                    Some(outage) if self.inner.config.role == Role::Spare => Some(Err(outage)),
                    _ => None,
                };
            };
            if let Some(item) = self.decide(&id) {
                return Some(item);
            }
        }
        None
    }

    fn decide(&mut self, id: &FileId) -> Option<Result<FileMetadata>> {
        let row = self.rows.pop_front_if(|row| row.id == *id);
        let primary = self.primary.take(id);
        let secondary = self.secondary.as_mut().and_then(|secondary| secondary.take(id));
        self.last = Some(id.clone());
        match row.as_deref().map(|row| (&row.what, row.at)) {
            Some((What::File(stored), at)) => Some(Ok(stored.metadata(id, at))),
            Some((What::Tombstone, _)) => None,
            Some((What::Stale, _)) if self.outage.is_some() => Some(Err(self
                .inner
                .error(ErrorKind::Unavailable, Op::List, id)
                .with_message("its newest state is on the primary, which is out of reach"))),
            Some((What::Stale, _)) => primary.map(|metadata| Ok(marked(metadata, from_primary))),
            None => primary
                .map(|metadata| Ok(marked(metadata, from_primary)))
                .or(secondary.map(|metadata| Ok(marked(metadata, from_secondary)))),
        }
    }

    /// Goes on without the primary, or returns the error to end in.
    fn primary_broke(&mut self, error: Error) -> Option<Error> {
        if !is_outage(&error) || self.inner.config.list.outage == OnOutage::Fail {
            return Some(error);
        }
        if self.inner.config.role == Role::Replica && self.secondary.is_none() {
            let mut options = self.options.clone();
            options.start_after = self.last.clone().or(options.start_after);
            self.secondary = Some(Ahead::new(&self.inner.secondary, &self.prefix, options));
        }
        self.inner.count(Op::List, "outage");
        self.outage = Some(error);
        None
    }

    fn secondary_broke(&mut self, error: Error) -> Option<Result<FileMetadata>> {
        let error = match self.outage.take() {
            Some(outage) => both_out(&self.inner, Op::List, None, outage, error),
            None => error,
        };
        self.end(error)
    }

    fn end(&mut self, error: Error) -> Option<Result<FileMetadata>> {
        self.over = true;
        Some(Err(error))
    }
}

/// Lists both sides as one.
pub(super) fn list(
    inner: Arc<Inner>,
    prefix: Prefix,
    options: ListOptions,
) -> BoxStream<'static, Result<FileMetadata>> {
    stream::unfold(None, move |merge| {
        let fresh = || Merge::new(Arc::clone(&inner), prefix.clone(), options.clone());
        let mut merge = merge.unwrap_or_else(fresh);
        async move { merge.next().await.map(|item| (item, Some(merge))) }
    })
    .fuse()
    .boxed()
}
