//! Bytes per second, shared by everything that a run reads.

use std::num::{NonZeroU32, NonZeroU64};

use governor::clock::MonotonicClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Holds readers to a number of bytes per second.
#[derive(Debug)]
pub struct Throttle {
    limiter: RateLimiter<NotKeyed, InMemoryState, MonotonicClock>,
    burst: NonZeroU32,
}

/// The limiter counts in units of this many bytes, so that its 32 bits reach 4 TiB a second.
const THROTTLE_UNIT: u64 = 1024;

impl Throttle {
    /// Makes a throttle of `rate` bytes per second, in units of 1 KiB; it lets a tenth of a second through at
    /// once.
    pub fn new(rate: NonZeroU64) -> Self {
        let units = u32::try_from(rate.get().div_ceil(THROTTLE_UNIT)).unwrap_or(u32::MAX).max(1);
        let per_second = NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(units / 10).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { limiter: RateLimiter::direct_with_clock(quota, MonotonicClock), burst }
    }

    /// Waits until `bytes` more may pass.
    pub async fn pass(&self, bytes: usize) {
        let mut units = u32::try_from((bytes as u64).div_ceil(THROTTLE_UNIT)).unwrap_or(u32::MAX);
        while let Some(now) = NonZeroU32::new(units.min(self.burst.get())) {
            // Never more than a burst, which is the only error.
            let _ = self.limiter.until_n_ready(now).await;
            units -= now.get();
        }
    }
}
