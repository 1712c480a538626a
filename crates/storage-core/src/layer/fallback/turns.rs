//! One writer per id at a time: what both sides hold of an id changes in one order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::id::FileId;

type Locks = Mutex<HashMap<FileId, Arc<AsyncMutex<()>>>>;

/// The queues, one per id that somebody writes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Locks>);

/// The right to write to an id, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    locks: Arc<Locks>,
    id: FileId,
    lock: Arc<AsyncMutex<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the id's turn, in order of arrival.
    pub(super) async fn take(&self, id: &FileId) -> Turn {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(id.clone()).or_default())
        };
        // Made before it waits, so that one that is dropped while it waits leaves no queue behind.
        let mut turn = Turn { locks: Arc::clone(&self.0), id: id.clone(), lock, guard: None };
        turn.guard = Some(Arc::clone(&turn.lock).lock_owned().await);
        turn
    }

    #[cfg(test)]
    fn queues(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // This one and that of the map: nobody else holds or awaits it, and under the map's lock nobody can begin.
        if Arc::strong_count(&self.lock) == 2 {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_order_and_nothing_is_left_behind() {
        let (turns, id) = (Turns::default(), FileId::parse("a").unwrap());
        let first = turns.take(&id).await;
        let mut dropped = Box::pin(turns.take(&id));
        assert!(futures::poll!(&mut dropped).is_pending());
        let mut second = Box::pin(turns.take(&id));
        assert!(futures::poll!(&mut second).is_pending());
        drop(dropped);
        drop(first);
        drop(second.await);
        let other = turns.take(&FileId::parse("b").unwrap()).await;
        assert_eq!(turns.queues(), 1);
        drop(other);
        assert_eq!(turns.queues(), 0);
    }
}
