//! Each layer keeps the promises of the storage inside it, alone and stacked, and does what it is there for.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use storage_core::backend::memory::MemoryStorage;
use storage_core::error::Op;
use storage_core::layer::limit::{LimitConfig, LimitStorage};
use storage_core::layer::metered::MeteredStorage;
use storage_core::layer::retry::RetryStorage;
use storage_core::layer::retry::policy::RetryConfig;
use storage_core::layer::timeout::{TimeoutConfig, TimeoutStorage};
use storage_core::stack::{LayersConfig, layered};
use storage_core::storage::FileStorage;
use storage_core::testkit::conformance::Fixture;
use storage_core::testkit::flaky::{FlakyStorage, Odds};

#[cfg(feature = "cache")]
#[path = "layers/cache.rs"]
mod cache;
#[path = "layers/limit.rs"]
mod limit;
#[path = "layers/metered.rs"]
mod metered;
#[path = "layers/retry.rs"]
mod retry;
#[path = "layers/timeout.rs"]
mod timeout;

/// Puts a layer around a storage in memory, and around a second handle on it.
fn around(layer: impl Fn(Arc<dyn FileStorage>) -> Arc<dyn FileStorage>) -> Fixture {
    let memory = MemoryStorage::new();
    let broken = memory.clone();
    Fixture::new(layer(Arc::new(memory.clone())))
        .with_another(layer(Arc::new(memory.clone())))
        .with_read_only(layer(Arc::new(memory.read_only())))
        .with_corruption(move |id| assert!(broken.corrupt(id), "{id} has no byte to flip"))
}

async fn a_timeout() -> Fixture {
    around(|inner| Arc::new(TimeoutStorage::new(inner, TimeoutConfig::default()).unwrap()))
}

async fn a_limit() -> Fixture {
    around(|inner| Arc::new(LimitStorage::new(inner, LimitConfig::default())))
}

/// A path that took two permits would wait for itself here.
async fn a_limit_of_one() -> Fixture {
    let one = LimitConfig::default().with_concurrency(NonZeroU32::MIN);
    around(|inner| Arc::new(LimitStorage::new(inner, one))).with_concurrency(1)
}

async fn a_retry() -> Fixture {
    around(|inner| Arc::new(RetryStorage::new(inner, RetryConfig::default()).unwrap()))
}

async fn a_meter() -> Fixture {
    around(|inner| Arc::new(MeteredStorage::new(inner)))
}

async fn all_layers() -> Fixture {
    around(|inner| layered(inner, &LayersConfig::default()).unwrap())
}

/// A storage of which a quarter of all calls fail before their effect, after it, or never return, behind the
/// layers that are to hide that.
#[expect(clippy::print_stderr, reason = "the seed, for whoever repeats a failure")]
async fn a_flaky_storage_behind_retry_and_timeout() -> Fixture {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let odds = Odds::default()
        .with_before(0.12)
        .with_after(0.12)
        .with_never(0.01)
        .sparing(&[Op::Probe])
        .answering(&[Op::Delete, Op::BeginUpload]);
    let mut retry =
        RetryConfig::default().with_max_attempts(NonZeroU32::new(30).unwrap()).with_budget(1.0, 1e6, 1e6);
    retry.base = Duration::from_millis(1);
    retry.throttled_base = Duration::from_millis(2);
    retry.max_delay = Duration::from_millis(20);
    let mut timeout = TimeoutConfig::default().with_base(Duration::from_secs(1));
    timeout.server_side = Duration::from_secs(1);
    timeout.stall = Duration::from_secs(1);
    timeout.min_bytes_per_second = 100 << 20;
    around(|inner| {
        let flaky = Arc::new(FlakyStorage::new(inner).with_odds(odds, seed));
        let timeout = Arc::new(TimeoutStorage::new(flaky, timeout).unwrap());
        Arc::new(RetryStorage::new(timeout, retry).unwrap())
    })
}

storage_core::conformance!(timeout_keeps_the_promises, a_timeout);
storage_core::conformance!(limit_keeps_the_promises, a_limit);
storage_core::conformance!(limit_of_one_keeps_the_promises, a_limit_of_one);
storage_core::conformance!(retry_keeps_the_promises, a_retry);
storage_core::conformance!(metered_keeps_the_promises, a_meter);
storage_core::conformance!(all_layers_keep_the_promises, all_layers);
storage_core::conformance!(retry_hides_a_flaky_storage, a_flaky_storage_behind_retry_and_timeout);
