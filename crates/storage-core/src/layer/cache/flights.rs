//! Loads that several readers share.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::epochs::Epoch;
use crate::id::FileId;

/// The loads that are running. Of readers that ask for the same in the same epoch one loads, the others wait.
///
/// A leader that is dropped leaves the lead to one of those who wait. One that fails tells them that it did, and
/// each of them asks the storage itself: an error is for the caller that met it, and a line of readers that try
/// one after another would wait longest when the storage is slowest.
#[derive(Debug)]
pub(super) struct Flights<T> {
    open: Mutex<HashMap<(FileId, What), Flight<T>>>,
}

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Metadata,
    Content,
}

#[derive(Debug)]
struct Flight<T> {
    epoch: Epoch,
    course: Arc<Course<T>>,
}

/// How a load goes. Of those that share nothing, which are most, each is one allocation.
#[derive(Debug)]
struct Course<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
enum State<T> {
    Flying,
    /// The leader has loaded it.
    Landed(T),
    /// The leader failed.
    Alone,
    /// The leader was dropped before.
    Left,
}

impl<T> Course<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self, state: State<T>) {
        *self.state() = state;
        self.changed.notify_waiters();
    }
}

/// The part a reader plays.
pub(super) enum Turn<'a, T> {
    /// It loads.
    Lead(Leader<'a, T>),
    /// Another has loaded this.
    Share(T),
    /// Another could not load what can be shared: it asks for itself.
    Alone,
}

/// The reader that loads. Dropping it without a word hands the lead on.
pub(super) struct Leader<'a, T> {
    flights: &'a Flights<T>,
    key: (FileId, What),
    course: Arc<Course<T>>,
}

impl<T: Clone> Flights<T> {
    pub(super) fn new() -> Self {
        Self { open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(FileId, What), Flight<T>>> {
        // Every change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the load of `epoch`, or begins one. A load of another epoch may have missed a write that this reader
    /// must see: its place is taken.
    pub(super) async fn join(&self, id: &FileId, what: What, epoch: Epoch) -> Turn<'_, T> {
        let key = (id.clone(), what);
        loop {
            let course = {
                let mut open = self.lock();
                match open.get(&key) {
                    Some(flight) if flight.epoch == epoch => Arc::clone(&flight.course),
                    _ => {
                        let course =
                            Arc::new(Course { state: Mutex::new(State::Flying), changed: Notify::new() });
                        open.insert(key.clone(), Flight { epoch, course: Arc::clone(&course) });
                        return Turn::Lead(Leader { flights: self, key, course });
                    }
                }
            };
            loop {
                let mut changed = pin!(course.changed.notified());
                // Before the look: a change after it is not missed.
                changed.as_mut().enable();
                match &*course.state() {
                    State::Flying => {}
                    State::Landed(value) => return Turn::Share(value.clone()),
                    State::Alone => return Turn::Alone,
                    // The next round finds another leader, or leads.
                    State::Left => break,
                }
                changed.await;
            }
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().len()
    }
}

impl<T> Leader<'_, T> {
    /// Tells those who wait what was loaded. Until the leader is dropped, readers of the epoch still join.
    pub(super) fn land(&self, value: T) {
        self.course.ends(State::Landed(value));
    }

    /// Tells those who wait to ask for themselves.
    pub(super) fn fail(&self) {
        self.course.ends(State::Alone);
    }
}

impl<T> Drop for Leader<'_, T> {
    fn drop(&mut self) {
        let mut open = self.flights.open.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader of a later epoch may have taken the place.
        if open.get(&self.key).is_some_and(|flight| Arc::ptr_eq(&flight.course, &self.course)) {
            open.remove(&self.key);
        }
        drop(open);
        if matches!(*self.course.state(), State::Flying) {
            self.course.ends(State::Left);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::epochs::Epochs;
    use super::*;

    fn id() -> FileId {
        FileId::parse("a").unwrap()
    }

    fn led<'a>(turn: Turn<'a, u32>) -> Leader<'a, u32> {
        match turn {
            Turn::Lead(leader) => leader,
            Turn::Share(_) | Turn::Alone => panic!("another leads"),
        }
    }

    #[tokio::test]
    async fn followers_share_what_the_leader_loads() {
        let (flights, id) = (Flights::new(), id());
        let epoch = Epochs::new().now(&id).unwrap();
        let leader = led(flights.join(&id, What::Metadata, epoch).await);
        let mut follower = Box::pin(flights.join(&id, What::Metadata, epoch));
        assert!(follower.as_mut().now_or_never().is_none());
        led(flights.join(&id, What::Content, epoch).await);
        leader.land(7);
        assert!(matches!(follower.await, Turn::Share(7)));
        assert!(
            matches!(flights.join(&id, What::Metadata, epoch).await, Turn::Share(7)),
            "until it is dropped"
        );
        drop(leader);
        assert_eq!(flights.count(), 0);
    }

    /// One reader whose client went away must not take all others with it.
    #[tokio::test]
    async fn a_dropped_leader_hands_the_lead_on_and_a_failed_one_sets_free() {
        let (flights, id) = (Flights::new(), id());
        let epoch = Epochs::new().now(&id).unwrap();
        let leader = led(flights.join(&id, What::Metadata, epoch).await);
        let mut follower = Box::pin(flights.join(&id, What::Metadata, epoch));
        assert!(follower.as_mut().now_or_never().is_none());
        drop(leader);
        let leader = led(follower.await);
        let mut follower = Box::pin(flights.join(&id, What::Metadata, epoch));
        assert!(follower.as_mut().now_or_never().is_none());
        leader.fail();
        assert!(matches!(follower.await, Turn::Alone));
    }

    /// What was loaded before a write is not for readers that began after it.
    #[tokio::test]
    async fn a_reader_of_a_later_epoch_joins_no_earlier_load() {
        let (flights, id, epochs) = (Flights::new(), id(), Epochs::new());
        let early = led(flights.join(&id, What::Metadata, epochs.now(&id).unwrap()).await);
        drop(epochs.write(&id));
        let late = led(flights.join(&id, What::Metadata, epochs.now(&id).unwrap()).await);
        drop(early);
        assert_eq!(flights.count(), 1, "the early load took the late one's place away");
        drop(late);
        assert_eq!(flights.count(), 0);
    }
}
