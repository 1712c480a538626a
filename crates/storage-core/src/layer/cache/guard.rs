//! A store that may fail or hang, asked in such a way that nobody notices.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::poll_immediate;
use tokio::time::Instant;

use super::config::CacheConfig;
use super::store::{CacheError, CacheStore};
use crate::layer::metered::names;

/// Asks a store within the deadline, and leaves it alone for a while after it failed.
#[derive(Debug)]
pub(super) struct Guard {
    store: Arc<dyn CacheStore>,
    deadline: Duration,
    pause: Duration,
    start: Instant,
    /// Milliseconds after `start` until which the store is left alone.
    resting_until: AtomicU64,
}

impl Guard {
    pub(super) fn new(store: Arc<dyn CacheStore>, config: &CacheConfig) -> Self {
        Self {
            store,
            deadline: config.deadline,
            pause: config.pause,
            start: Instant::now(),
            resting_until: AtomicU64::new(0),
        }
    }

    /// Counts what came of a lookup.
    pub(super) fn count(&self, result: &'static str) {
        metrics::counter!(names::CACHE_REQUESTS, "tier" => self.store.tier(), "result" => result)
            .increment(1);
    }

    /// Asks the store; where it has no answer, says in the words of [`names`] why.
    pub(super) async fn ask<'a, T, W>(
        &'a self,
        operation: &'static str,
        work: impl FnOnce(&'a dyn CacheStore) -> W + Send,
    ) -> Result<T, &'static str>
    where
        W: Future<Output = Result<T, CacheError>> + Send,
    {
        let start = Instant::now();
        if self.millis(start) < self.resting_until.load(Ordering::Relaxed) {
            return Err(names::BYPASSED);
        }
        let mut work = pin!(work(&*self.store));
        // A store in memory has its answer at once, and a timer would cost more than that.
        let answer = match poll_immediate(work.as_mut()).await {
            Some(answer) => Ok(answer),
            None => tokio::time::timeout(self.deadline, work).await,
        };
        let answer = match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::warn!(tier = self.store.tier(), operation, %error, "the cache failed and is bypassed");
                Err(names::ERROR)
            }
            Err(_) => {
                tracing::warn!(tier = self.store.tier(), operation, "the cache is slow and is bypassed");
                Err(names::TIMEOUT)
            }
        };
        if answer.is_err() {
            self.resting_until.store(self.millis(Instant::now() + self.pause), Ordering::Relaxed);
        }
        metrics::histogram!(
            names::CACHE_DURATION,
            "tier" => self.store.tier(),
            "operation" => operation,
            "result" => answer.as_ref().map_or_else(|result| *result, |_| names::OK),
        )
        .record(start.elapsed().as_secs_f64());
        answer
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}
