//! Bytes per second, shared by everything that a run reads.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use governor::clock::MonotonicClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use jiff::Zoned;
use jiff::civil::DateTime;
use tokio::sync::watch;

pub use self::timetable::Bandwidth;

mod timetable;

/// Holds readers to a number of bytes per second, which may change while they wait.
#[derive(Debug)]
pub struct Throttle {
    limit: watch::Sender<Option<Arc<Limit>>>,
}

#[derive(Debug)]
struct Limit {
    rate: NonZeroU64,
    limiter: RateLimiter<NotKeyed, InMemoryState, MonotonicClock>,
    burst: NonZeroU32,
}

/// The limiter counts in units of this many bytes, so that its 32 bits reach 4 TiB a second.
const THROTTLE_UNIT: u64 = 1024;

/// How often the timetable is looked at: clocks are set, and summer time begins.
const LOOK: Duration = Duration::from_secs(60);

/// Says what the clock on the wall shows.
pub type Clock = Arc<dyn Fn() -> DateTime + Send + Sync>;

impl Limit {
    fn new(rate: NonZeroU64) -> Self {
        let units = u32::try_from(rate.get().div_ceil(THROTTLE_UNIT)).unwrap_or(u32::MAX).max(1);
        let per_second = NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(units / 10).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { rate, limiter: RateLimiter::direct_with_clock(quota, MonotonicClock), burst }
    }

    /// How much is asked for at a time: a whole burst would be given to nobody as long as others take what comes in.
    fn piece(&self) -> u32 {
        (self.burst.get() / 4).max(1)
    }
}

impl Throttle {
    /// Makes a throttle of `rate` bytes per second, in units of 1 KiB; it lets a tenth of a second through at
    /// once. Without a rate everything passes.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self { limit: watch::Sender::new(rate.map(|rate| Arc::new(Limit::new(rate)))) }
    }

    /// Makes a throttle that follows a timetable by the machine's clock.
    pub fn following(bandwidth: Bandwidth) -> Arc<Self> {
        Self::following_clock(bandwidth, Arc::new(|| Zoned::now().datetime()))
    }

    /// Makes a throttle that follows a timetable by a clock, as long as anybody holds it.
    pub fn following_clock(bandwidth: Bandwidth, clock: Clock) -> Arc<Self> {
        let throttle = Arc::new(Self::new(bandwidth.at(clock())));
        let watched = Arc::downgrade(&throttle);
        if bandwidth.next_change(clock()).is_some() {
            tokio::spawn(async move {
                while let Some(wait) = bandwidth.next_change(clock()) {
                    tokio::time::sleep(wait.min(LOOK)).await;
                    let Some(throttle) = watched.upgrade() else { return };
                    throttle.set(bandwidth.at(clock()));
                }
            });
        }
        throttle
    }

    /// Changes the rate, also for those who wait. The same rate again changes nothing.
    pub fn set(&self, rate: Option<NonZeroU64>) {
        self.limit.send_if_modified(|limit| {
            let changed = limit.as_ref().map(|limit| limit.rate) != rate;
            if changed {
                tracing::info!(
                    bytes_per_second = rate.map(NonZeroU64::get),
                    "another bandwidth by the timetable"
                );
                *limit = rate.map(|rate| Arc::new(Limit::new(rate)));
            }
            changed
        });
    }

    /// Waits until `bytes` more may pass.
    pub async fn pass(&self, bytes: usize) {
        let mut units = u32::try_from((bytes as u64).div_ceil(THROTTLE_UNIT)).unwrap_or(u32::MAX);
        let mut limits = self.limit.subscribe();
        while units > 0 {
            let Some(limit) = limits.borrow_and_update().clone() else { return };
            let Some(now) = NonZeroU32::new(units.min(limit.piece())) else { return };
            tokio::select! {
                biased;
                // What has waited under the old limit waits under the new one. The sender outlives this.
                _ = limits.changed() => {}
                // Never more than a burst, which is the only error.
                _ = limit.limiter.until_n_ready(now) => units -= now.get(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jiff::civil::date;

    use super::*;

    fn rate(bytes: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(bytes)
    }

    /// At the rate that held when they came, these would wait for eleven days.
    #[tokio::test]
    async fn whoever_waits_obeys_the_new_rate() {
        let throttle = Arc::new(Throttle::new(rate(1024)));
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let throttle = Arc::clone(&throttle);
                tokio::spawn(async move { throttle.pass(1 << 30).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        throttle.set(rate(u64::MAX));
        for waiting in waiting {
            waiting.await.unwrap();
        }
        throttle.set(None);
        throttle.pass(usize::MAX).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_timetable_is_followed_while_bytes_wait() {
        let now = Arc::new(Mutex::new(date(2026, 11, 26).at(7, 59, 30, 0)));
        let shown = Arc::clone(&now);
        let clock: Clock = Arc::new(move || *shown.lock().unwrap());
        let throttle = Throttle::following_clock("00:00,1KiB 08:00,off".parse().unwrap(), clock);
        let waiting = tokio::spawn({
            let throttle = Arc::clone(&throttle);
            async move { throttle.pass(1 << 30).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        *now.lock().unwrap() = date(2026, 11, 26).at(8, 0, 1, 0);
        waiting.await.unwrap();
        // The night comes again.
        *now.lock().unwrap() = date(2026, 11, 27).at(0, 0, 0, 0);
        let mut limits = throttle.limit.subscribe();
        limits.mark_unchanged();
        while limits.borrow_and_update().is_none() {
            limits.changed().await.unwrap();
        }
    }

    /// Nobody is left who follows a table for a throttle that is gone.
    #[tokio::test(start_paused = true)]
    async fn a_throttle_that_is_dropped_is_followed_no_more() {
        let clock: Clock = Arc::new(|| date(2026, 11, 26).at(7, 0, 0, 0));
        let seen = Arc::downgrade(&clock);
        drop(Throttle::following_clock("00:00,1KiB 08:00,off".parse().unwrap(), clock));
        while seen.upgrade().is_some() {
            tokio::time::sleep(LOOK).await;
        }
    }
}
