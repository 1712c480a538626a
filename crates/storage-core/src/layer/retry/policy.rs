//! When to try again: functions of values, with clock and randomness passed in.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Op, Result, Retry};

/// How failed operations are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RetryConfig {
    /// Attempts at one operation, the first among them; for a body, attempts without a byte of progress.
    /// Default 5: with the delays below they span some seconds, longer than a node takes to be replaced by
    /// another, shorter than a caller waits.
    pub max_attempts: NonZeroU32,
    /// What the first delay is drawn from; it doubles with each attempt. Default 100 ms.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub base: Duration,
    /// The same when the storage asked to slow down. Default 1 s: servers count by the second.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub throttled_base: Duration,
    /// Longest delay. Default 20 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub max_delay: Duration,
    /// Longest delay that the storage may ask for; when it asks for more, the operation fails at once. Default
    /// 60 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub max_retry_after: Duration,
    /// Retries that each operation pays for. Default 0.2: when everything fails, the storage sees 1.2 times
    /// the calls and not 5 times.
    pub budget_ratio: f64,
    /// Retries that may be spent before operations have paid for them. Default 20.
    pub budget_burst: f64,
    /// Retries per second that are free, for services with few operations. Default 1.
    pub budget_per_second: f64,
    /// Go on with a body that broke off where it broke off, and check the whole against its digest. Default
    /// true; false spares a second SHA-256 of every byte read (0.5 ms a MiB).
    pub resume_downloads: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        const ATTEMPTS: NonZeroU32 = NonZeroU32::new(5).unwrap();
        Self {
            max_attempts: ATTEMPTS,
            base: Duration::from_millis(100),
            throttled_base: Duration::from_secs(1),
            max_delay: Duration::from_secs(20),
            max_retry_after: Duration::from_secs(60),
            budget_ratio: 0.2,
            budget_burst: 20.0,
            budget_per_second: 1.0,
            resume_downloads: true,
        }
    }
}

impl RetryConfig {
    /// Sets the attempts at one operation.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the budget: retries per operation, in advance, and per second.
    #[must_use]
    pub fn with_budget(mut self, ratio: f64, burst: f64, per_second: f64) -> Self {
        (self.budget_ratio, self.budget_burst, self.budget_per_second) = (ratio, burst, per_second);
        self
    }

    /// Refuses numbers that are no budget.
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`] when a number is negative, not finite or absurdly large.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("budget_ratio", self.budget_ratio),
            ("budget_burst", self.budget_burst),
            ("budget_per_second", self.budget_per_second),
        ] {
            if !(0.0..=1e9).contains(&value) {
                return Err(Error::new(ErrorKind::Misconfigured, Op::Open)
                    .with_message(format!("retry: {name} is {value}, not between 0 and 1e9")));
            }
        }
        Ok(())
    }
}

/// Returns how long to wait after the `made`th attempt failed, or nothing when another must not be made.
///
/// `random` is drawn evenly from 0 to 1: "full jitter", which spreads callers that failed together best
/// ("Exponential Backoff And Jitter", AWS Architecture Blog). A storage that asked to slow down gets at least
/// half of the delay in any case.
pub fn delay(config: &RetryConfig, made: u32, error: &Error, random: f64) -> Option<Duration> {
    if made >= config.max_attempts.get() {
        return None;
    }
    let throttled = error.kind() == ErrorKind::Throttled;
    let base = if throttled { config.throttled_base } else { config.base };
    let doubled = base.saturating_mul(1u32.checked_shl(made.saturating_sub(1)).unwrap_or(u32::MAX));
    let most = doubled.min(config.max_delay);
    let random = random.clamp(0.0, 1.0);
    match error.retry() {
        Retry::Never => None,
        Retry::Now if throttled => Some(most.mul_f64((1.0 + random) / 2.0)),
        Retry::Now => Some(most.mul_f64(random)),
        Retry::After(asked) if asked > config.max_retry_after => None,
        // All who were told the same moment would come back in it.
        Retry::After(asked) => Some(asked + most.mul_f64(random)),
    }
}

/// The retries that may be made: a token bucket which operations fill and retries empty, so that an ailing
/// storage is not buried under the repetitions of those who wait for it ("retry budget", Finagle user's guide).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    tokens: f64,
    seen: Duration,
}

impl Budget {
    /// Starts full.
    pub fn new(config: &RetryConfig) -> Self {
        Self { tokens: config.budget_burst, seen: Duration::ZERO }
    }

    fn add(&mut self, config: &RetryConfig, tokens: f64) {
        // A burst below 1 could never pay for a retry.
        self.tokens = (self.tokens + tokens).min(config.budget_burst.max(1.0));
    }

    /// Counts an operation, whatever becomes of it.
    pub fn deposit(&mut self, config: &RetryConfig) {
        self.add(config, config.budget_ratio);
    }

    /// Takes one retry out, `now` after a fixed moment; false when there is none.
    pub fn withdraw(&mut self, config: &RetryConfig, now: Duration) -> bool {
        let passed = now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        self.add(config, passed.as_secs_f64() * config.budget_per_second);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, Op::Upload)
    }

    #[test]
    fn delays_double_up_to_the_cap_and_end_after_the_last_attempt() {
        let config = RetryConfig::default();
        let waits: Vec<_> =
            (1..=6).map(|made| delay(&config, made, &error(ErrorKind::Unavailable), 1.0)).collect();
        let milliseconds = |count| Some(Duration::from_millis(count));
        let due = [100, 200, 400, 800].map(milliseconds);
        assert_eq!(waits[..4], due);
        assert_eq!(waits[4..], [None, None]);
        let many = config.with_max_attempts(NonZeroU32::MAX);
        assert_eq!(delay(&many, 4_000_000_000, &error(ErrorKind::Timeout), 1.0), milliseconds(20_000));
    }

    #[test]
    fn a_request_to_slow_down_is_heeded() {
        let config = RetryConfig::default();
        let least = delay(&config, 1, &error(ErrorKind::Throttled), 0.0).unwrap();
        assert!(least > delay(&config, 1, &error(ErrorKind::Unavailable), 1.0).unwrap());
        let asked = error(ErrorKind::Throttled).with_retry(Retry::After(Duration::from_secs(7)));
        assert!(delay(&config, 1, &asked, 0.0).unwrap() >= Duration::from_secs(7));
        let long = error(ErrorKind::Throttled).with_retry(Retry::After(Duration::from_secs(61)));
        assert_eq!(delay(&config, 1, &long, 0.0), None);
    }

    #[test]
    fn what_cannot_help_is_not_repeated() {
        for kind in [ErrorKind::NotFound, ErrorKind::Denied, ErrorKind::Integrity] {
            assert_eq!(delay(&RetryConfig::default(), 1, &error(kind), 0.5), None);
        }
    }

    #[test]
    fn numbers_that_are_no_budget_are_refused() {
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            let config = RetryConfig::default().with_budget(value, 1.0, 1.0);
            assert_eq!(config.validate().unwrap_err().kind(), ErrorKind::Misconfigured);
        }
        assert!(RetryConfig::default().validate().is_ok());
    }

    proptest! {
        #[test]
        fn retries_never_exceed_what_was_paid_for(
            steps in prop::collection::vec((any::<bool>(), 0u64..2_000), 0..500)
        ) {
            let config = RetryConfig::default();
            let mut budget = Budget::new(&config);
            let (mut now, mut operations, mut retries) = (Duration::ZERO, 0.0, 0.0);
            for (operation, milliseconds) in steps {
                now += Duration::from_millis(milliseconds);
                if operation {
                    budget.deposit(&config);
                    operations += 1.0;
                } else if budget.withdraw(&config, now) {
                    retries += 1.0;
                }
                let paid = config.budget_burst
                    + operations * config.budget_ratio
                    + now.as_secs_f64() * config.budget_per_second;
                prop_assert!(retries <= paid + 1e-6);
            }
        }

        #[test]
        fn no_delay_is_longer_than_configured(made in 0u32.., random in 0.0..1.0f64) {
            let config = RetryConfig::default().with_max_attempts(NonZeroU32::MAX);
            for kind in [ErrorKind::Unavailable, ErrorKind::Throttled] {
                if let Some(delay) = delay(&config, made, &error(kind), random) {
                    prop_assert!(delay <= config.max_delay);
                }
            }
        }
    }
}
