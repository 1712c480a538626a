//! Threads that move bytes, each with a runtime and connections of its own.
//!
//! A request that is begun on one thread and answered on another costs a wake-up on either side, which is more than
//! the request itself costs. A lane is one thread with a single-threaded runtime: what is spawned on it stays on it,
//! and so do the connections that it opens.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Some threads. A clone shares them; they end with the last clone, and with them whatever still runs there.
#[derive(Clone)]
pub struct Lanes(Arc<Inner>);

struct Inner {
    handles: Vec<Handle>,
    next: AtomicUsize,
    end: CancellationToken,
}

impl Lanes {
    /// Starts a thread per processor, but no more than `at_most`: more than there are files in work would idle.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(at_most: usize) -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // Dropped on an error, it ends the threads that were started.
        let mut inner =
            Inner { handles: Vec::new(), next: AtomicUsize::new(0), end: CancellationToken::new() };
        for number in 0..processors.min(at_most.max(1)) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            inner.handles.push(runtime.handle().clone());
            let end = inner.end.clone();
            std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
                runtime.block_on(end.cancelled());
                // What hangs in a system call must not keep the thread.
                runtime.shutdown_background();
            })?;
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Returns the lanes in turn.
    pub fn next(&self) -> &Handle {
        let Inner { handles, next, .. } = &*self.0;
        &handles[next.fetch_add(1, Ordering::Relaxed) % handles.len()]
    }

    /// Returns the lanes in turn, without the present one where there are others: for work that is to go on beside
    /// what the caller does next.
    pub fn next_other(&self) -> &Handle {
        let next = self.next();
        let here = Handle::try_current().is_ok_and(|here| here.id() == next.id());
        if here { self.next() } else { next }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lanes({})", self.0.handles.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_stays_on_its_lane_and_ends_with_the_lanes() {
        let lanes = Lanes::start(2).unwrap();
        let (one, other) = (lanes.next().clone(), lanes.next().clone());
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(one.spawn(async move { name() }).await.unwrap().as_deref(), Some("lane-0"));
        if one.id() != other.id() {
            let beside = lanes.clone();
            for _ in 0..3 {
                let beside = beside.clone();
                let found = one.spawn(async move { beside.next_other().id() }).await.unwrap();
                assert_eq!(found, other.id());
            }
            drop(beside);
        }
        let endless = one.spawn(std::future::pending::<()>());
        drop(lanes);
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}
