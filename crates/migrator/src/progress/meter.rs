//! How fast a run is, and how long it will take yet. Pure: the clock is passed in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::progress::Snapshot;

/// Rates are over the last so many seconds: long enough to be calm, short enough to follow.
const WINDOW: Duration = Duration::from_secs(15);

/// Bytes dealt with, those of files in flight included as far as they are known.
pub fn moved(numbers: &Snapshot) -> u64 {
    numbers.done_bytes.max(numbers.bytes_sent.min(numbers.planned_bytes))
}

/// Bytes that have passed, whatever becomes of them: what a copy has read of the source, where it is read, else (an
/// audit) what was read of either side.
///
/// What is dealt with comes by the part and by the file: with a limit, and parts as large as seconds of it, nothing
/// is for a long time.
fn passed(numbers: &Snapshot) -> u64 {
    if numbers.bytes_taken > 0 { numbers.bytes_taken } else { numbers.bytes_read }
}

/// How fast, and how long yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second; nothing before the second look.
    pub rate: Option<u64>,
    /// Nothing while the scan goes on, or nothing moves.
    pub left: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Duration,
    moved: u64,
    passed: u64,
}

/// Keeps what was moved at which time, over the last seconds. Pure: the clock is passed in.
#[derive(Debug, Default)]
pub struct Meter {
    looks: VecDeque<Look>,
}

impl Meter {
    /// Looks at the numbers; `now` is the time since the run began.
    pub fn measure(&mut self, now: Duration, numbers: &Snapshot) -> Pace {
        let done = moved(numbers);
        while self.looks.len() > 1
            && self.looks.get(1).is_some_and(|look| now.saturating_sub(look.at) >= WINDOW)
        {
            self.looks.pop_front();
        }
        let first = self.looks.front().copied();
        let look = Look { at: now, moved: done, passed: passed(numbers) };
        self.looks.push_back(look);
        let Some(first) = first else { return Pace::default() };
        let millis = u64::try_from(now.saturating_sub(first.at).as_millis()).unwrap_or(u64::MAX).max(1);
        let bytes = look.moved.saturating_sub(first.moved).max(look.passed.saturating_sub(first.passed));
        let rate = bytes.saturating_mul(1000) / millis;
        let left = numbers.planned_bytes.saturating_sub(done);
        let left = (numbers.scan_done > 0 && rate > 0).then(|| Duration::from_secs(left / rate));
        Pace { rate: Some(rate), left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    fn numbers(planned_bytes: u64, done_bytes: u64, scanned: bool) -> Snapshot {
        let progress = Progress::new();
        progress.planned(planned_bytes);
        progress.unchanged(done_bytes);
        if scanned {
            progress.scan_done();
        }
        progress.snapshot()
    }

    #[test]
    fn no_time_is_promised_while_the_total_grows_or_nothing_moves() {
        let second = Duration::from_secs;
        let mut meter = Meter::default();
        assert_eq!(meter.measure(second(0), &numbers(1000, 0, false)), Pace::default());
        assert_eq!(
            meter.measure(second(1), &numbers(1000, 100, false)),
            Pace { rate: Some(100), left: None }
        );
        let pace = meter.measure(second(2), &numbers(1000, 200, true));
        assert_eq!(pace, Pace { rate: Some(100), left: Some(second(8)) });
        for at in 3..40 {
            meter.measure(second(at), &numbers(1000, 200, true));
        }
        assert_eq!(meter.measure(second(40), &numbers(1000, 200, true)), Pace { rate: Some(0), left: None });
        assert!(meter.looks.len() < 20, "{}", meter.looks.len());
    }

    /// With a limit of 1 MiB/s, eight buffers of 16 MiB fill for two minutes before the first is sent.
    #[test]
    fn what_fills_the_buffers_is_told_while_nothing_is_sent_yet() {
        let progress = Progress::new();
        progress.planned(1 << 30);
        progress.scan_done();
        let mut meter = Meter::default();
        meter.measure(Duration::ZERO, &progress.snapshot());
        for second in 1..60 {
            progress.bytes_taken(1 << 20);
            let pace = meter.measure(Duration::from_secs(second), &progress.snapshot());
            assert_eq!(pace.rate, Some(1 << 20), "after {second} s");
            assert!(pace.left.is_some());
        }
        // What is read back beside is no second time the same bytes.
        progress.bytes_read(1 << 30);
        progress.bytes_taken(1 << 20);
        assert_eq!(meter.measure(Duration::from_secs(60), &progress.snapshot()).rate, Some(1 << 20));
    }

    #[test]
    fn a_clock_that_stands_still_divides_by_nothing() {
        let mut meter = Meter::default();
        meter.measure(Duration::ZERO, &numbers(10, 0, true));
        assert!(meter.measure(Duration::ZERO, &numbers(10, 10, true)).rate.is_some());
    }
}
