//! How long a call has waited for its turn, for those around it whose clocks are to stand still meanwhile.
//!
//! A limit does not know who is around it, and whoever sets a deadline does not know what is within: the call itself,
//! which is one task, carries what the two have to tell each other.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::poll_immediate;
use tokio::time::Instant;

tokio::task_local! {
    /// The innermost queue of the call that is running.
    static QUEUE: Queue;
}

/// What one call has waited for its turn. A clone is a handle on the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// That of whoever is around: he waits, too.
    around: Option<Queue>,
    /// Whether a turn has come.
    came: AtomicBool,
    /// Whether anybody had to wait for one, which is seldom so; before, there is nothing in `waits`.
    waited: AtomicBool,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    /// Parts of the call that wait now, and since when there is one.
    now: u32,
    since: Option<Instant>,
    /// All that is over.
    over: Duration,
}

impl Queue {
    /// Begins a call within whatever call is running.
    pub(super) fn begin() -> Self {
        Self(Arc::new(Inner { around: Self::current(), ..Inner::default() }))
    }

    /// Returns that of the call that is running, where somebody wants to know.
    pub(super) fn current() -> Option<Self> {
        QUEUE.try_with(Clone::clone).ok()
    }

    /// Runs the call: what waits within it is told here.
    pub(super) fn run<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        QUEUE.scope(self.clone(), call)
    }

    /// Waits for a turn on behalf of the call that is running.
    pub(super) async fn wait<T>(turn: impl Future<Output = T>) -> T {
        let Some(queue) = Self::current() else { return turn.await };
        let mut turn = pin!(turn);
        let came = match poll_immediate(turn.as_mut()).await {
            Some(came) => came,
            None => {
                let _waiting = Waiting::new(queue.clone());
                turn.await
            }
        };
        queue.all().for_each(|queue| queue.0.came.store(true, Ordering::Release));
        came
    }

    /// Returns how long the call has waited for its turns.
    pub(super) fn waited(&self) -> Duration {
        let Some(waits) = self.waits() else { return Duration::ZERO };
        waits.over + waits.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Tells whether the call waits for a turn now.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits().is_some_and(|waits| waits.now > 0)
    }

    /// Tells whether the call waits for its first turn: nothing was done yet.
    pub(super) fn has_not_begun(&self) -> bool {
        self.is_waiting() && !self.0.came.load(Ordering::Acquire)
    }

    /// Returns what is known of waits, where there were any.
    fn waits(&self) -> Option<MutexGuard<'_, Waits>> {
        self.0.waited.load(Ordering::Acquire).then(|| self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one, and all around it.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |queue| queue.0.around.as_ref())
    }
}

/// One who waits, until he is dropped.
struct Waiting(Queue);

impl Waiting {
    fn new(queue: Queue) -> Self {
        for queue in queue.all() {
            queue.0.waited.store(true, Ordering::Release);
            let mut waits = queue.lock();
            waits.now += 1;
            waits.since.get_or_insert_with(Instant::now);
        }
        Self(queue)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for queue in self.0.all() {
            let mut waits = queue.lock();
            waits.now -= 1;
            if waits.now == 0
                && let Some(since) = waits.since.take()
            {
                waits.over += since.elapsed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_is_around_knows_how_long_a_call_waited() {
        let outer = Queue::begin();
        let (turn, come) = tokio::sync::oneshot::channel::<()>();
        let inner = async |turn: tokio::sync::oneshot::Receiver<()>| {
            let queue = Queue::begin();
            queue.run(Queue::wait(turn)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            queue.waited()
        };
        let mut call = Box::pin(outer.run(inner(come)));
        assert!(!outer.has_not_begun(), "it does not wait");
        assert!(poll!(&mut call).is_pending());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(outer.is_waiting() && outer.has_not_begun());
        assert_eq!(outer.waited(), Duration::from_secs(2));
        turn.send(()).unwrap();
        assert_eq!(call.await, Duration::from_secs(2));
        assert_eq!((outer.waited(), outer.is_waiting()), (Duration::from_secs(2), false));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_waits_no_more() {
        let queue = Queue::begin();
        let mut call = Box::pin(queue.run(Queue::wait(std::future::pending::<()>())));
        assert!(poll!(&mut call).is_pending());
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(call);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((queue.waited(), queue.has_not_begun()), (Duration::from_secs(1), false));
    }
}
