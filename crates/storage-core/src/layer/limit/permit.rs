//! Permits whose number may change while they are out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::aimd::{Aimd, Answer};
use crate::error::{Error, ErrorKind, Op};
use crate::layer::metered::names;
use crate::layer::queue::Queue;

/// How many operations a storage may run at this moment. A clone is a handle on the same bound.
#[derive(Clone, Debug)]
pub struct Bound(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cap: u32,
    permits: Arc<Semaphore>,
    /// Nothing where the bound does not change.
    adaptive: Option<Mutex<Adaptive>>,
    began: Instant,
}

#[derive(Debug)]
struct Adaptive {
    aimd: Aimd,
    /// Permits that are out and are to be kept when they come back: the bound was lowered meanwhile.
    owed: u32,
    gauge: Shown,
}

struct Shown(Gauge);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauge")
    }
}

impl Bound {
    pub(super) fn new(cap: u32, adaptive: bool, storage: &str) -> Self {
        let permits = usize::try_from(cap)
            .map_or(Semaphore::MAX_PERMITS, |permits| permits.min(Semaphore::MAX_PERMITS));
        let adaptive = adaptive.then(|| {
            let gauge = metrics::gauge!(names::CONCURRENCY_LIMIT, "backend" => storage.to_owned());
            gauge.set(cap);
            Mutex::new(Adaptive { aimd: Aimd::new(cap), owed: 0, gauge: Shown(gauge) })
        });
        Self(Arc::new(Inner {
            cap,
            permits: Arc::new(Semaphore::new(permits)),
            adaptive,
            began: Instant::now(),
        }))
    }

    /// Returns how many operations may run at this moment, from 1 to the [`cap`](Self::cap).
    pub fn now(&self) -> u32 {
        match &self.0.adaptive {
            Some(adaptive) => adaptive.lock().unwrap_or_else(PoisonError::into_inner).aimd.bound(),
            None => self.0.cap,
        }
    }

    /// Returns how many may ever run.
    pub fn cap(&self) -> u32 {
        self.0.cap
    }

    /// Waits for a permit. A caller that is dropped meanwhile leaves the queue.
    pub(super) async fn acquire(&self) -> Result<Permit, AcquireError> {
        let permit = Queue::wait(Arc::clone(&self.0.permits).acquire_owned()).await?;
        let began = self.0.began.elapsed();
        Ok(Permit { permit: Some(permit), bound: self.clone(), began })
    }

    fn answered(&self, op: Op, bytes: u64, began: Duration, answer: Answer) {
        let Some(adaptive) = &self.0.adaptive else { return };
        let mut adaptive = adaptive.lock().unwrap_or_else(PoisonError::into_inner);
        let before = adaptive.aimd.bound();
        adaptive.aimd.answered(op, bytes, began, self.0.began.elapsed(), answer);
        let after = adaptive.aimd.bound();
        if after == before {
            return;
        }
        if after < before {
            let wanted = usize::try_from(before - after).unwrap_or(usize::MAX);
            let idle = u32::try_from(self.0.permits.forget_permits(wanted)).unwrap_or(u32::MAX);
            adaptive.owed += (before - after).saturating_sub(idle);
        } else {
            let more = after - before;
            let forgiven = more.min(adaptive.owed);
            adaptive.owed -= forgiven;
            self.0.permits.add_permits(usize::try_from(more - forgiven).unwrap_or(0));
        }
        adaptive.gauge.0.set(after);
        tracing::debug!(from = before, to = after, ?answer, "another number of operations at a time");
    }
}

/// The right to run one operation.
#[derive(Debug)]
pub(super) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    bound: Bound,
    began: Duration,
}

impl Permit {
    /// Takes what came of the operation.
    pub(super) fn answered<T>(&self, op: Op, bytes: u64, result: &Result<T, Error>) {
        let answer = match result.as_ref().map_err(Error::kind) {
            Ok(_) => Answer::Fine,
            Err(ErrorKind::Throttled | ErrorKind::Timeout) => Answer::Throttled,
            // An outage, a refusal, bytes that changed: nothing that fewer operations would mend.
            Err(_) => Answer::Nothing,
        };
        self.bound.answered(op, bytes, self.began, answer);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let Some(adaptive) = &self.bound.0.adaptive else { return };
        let mut adaptive = adaptive.lock().unwrap_or_else(PoisonError::into_inner);
        if adaptive.owed > 0 {
            adaptive.owed -= 1;
            permit.forget();
        } else {
            // Still under the lock: nobody lowers the bound between.
            drop(permit);
        }
    }
}
