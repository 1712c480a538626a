//! A stream of the ledger beside another, in step.

use futures::stream::{BoxStream, Fuse};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::ledger::LedgerError;

/// A stream of the ledger, one ahead, that is asked for ascending keys.
pub(super) struct Ahead<T> {
    items: Fuse<BoxStream<'static, Result<T, LedgerError>>>,
    next: Option<T>,
    key: fn(&T) -> &str,
}

impl<T: Send + 'static> Ahead<T> {
    pub(super) fn new(items: BoxStream<'static, Result<T, LedgerError>>, key: fn(&T) -> &str) -> Self {
        Self { items: items.fuse(), next: None, key }
    }

    /// Returns what has this key; keys must ascend.
    pub(super) async fn at(&mut self, key: &str) -> Result<Option<T>, LedgerError> {
        loop {
            if self.next.is_none() {
                self.next = self.items.try_next().await?;
            }
            match &self.next {
                None => return Ok(None),
                Some(item) if (self.key)(item) < key => self.next = None,
                Some(item) if (self.key)(item) == key => return Ok(self.next.take()),
                Some(_) => return Ok(None),
            }
        }
    }
}
