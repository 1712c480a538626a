//! How fast attempts may begin while a storage asks to slow down: functions of values, with the clock passed in.
//!
//! Retries that wait do not help a storage which refuses half of everything: all that is new knocks as before. So the
//! first answer that asks for it halves the rate at which attempts have begun, each further one halves it again, and
//! without one it grows along a cubic curve, slow near where it was refused and fast beyond (CUBIC, RFC 9438; the AWS
//! SDKs' adaptive mode is the same idea). As long as nobody asks, nothing is held back.

use std::time::Duration;

/// What a request to slow down leaves of the rate.
const SHARE: f64 = 0.5;

/// Attempts per second that are never refused: so many tell soon enough when the storage is well again. With fewer, the
/// one retry a second that the budget always grants would be more than a third of them.
const LEAST: f64 = 8.0;

/// How steep the curve is, per second to the power of three: with 0.4, as CUBIC has it, 400 per second within 10 s.
const STEEPNESS: f64 = 0.4;

/// How far ahead the beginning of an attempt is settled. Whoever would wait longer asks again: the storage may be well by
/// then, and a caller who gave up meanwhile has taken nobody's turn.
const AHEAD: Duration = Duration::from_secs(1);

/// Over how long the rate is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// The rate at which attempts begin, measured or held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    window: Duration,
    begun: f64,
    begun_before: f64,
    held: Option<Held>,
}

/// A rate that was lowered.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    /// Attempts per second at which the storage asked to slow down last.
    refused: f64,
    /// The same when it began to: at twice as many nothing is held any longer.
    first: f64,
    /// When it asked last.
    at: Duration,
    /// When the next attempt may begin.
    next: Duration,
}

impl Held {
    fn rate(&self, now: Duration) -> f64 {
        let plateau = (self.refused * (1.0 - SHARE) / STEEPNESS).cbrt();
        let since = now.saturating_sub(self.at).as_secs_f64();
        (self.refused + STEEPNESS * (since - plateau).powi(3)).max(LEAST)
    }
}

/// When an attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// After so long; this was taken note of.
    In(Duration),
    /// Not settled yet: to be asked again after so long.
    AskAgain(Duration),
}

impl Pace {
    /// Takes note of an attempt that is to begin, `now` after a fixed moment, where its turn is near.
    pub(super) fn begin(&mut self, now: Duration) -> Turn {
        let passed = now.saturating_sub(self.window);
        if passed >= WINDOW {
            self.begun_before = if passed < WINDOW * 2 { self.begun } else { 0.0 };
            (self.begun, self.window) = (0.0, now);
        }
        let wait = match &mut self.held {
            None => Duration::ZERO,
            Some(held) if held.rate(now) >= held.first * 2.0 => {
                self.held = None;
                Duration::ZERO
            }
            Some(held) => {
                let due = held.next.max(now);
                if due - now > AHEAD {
                    return Turn::AskAgain(AHEAD);
                }
                held.next = due + Duration::from_secs_f64(1.0 / held.rate(now));
                due - now
            }
        };
        self.begun += 1.0;
        Turn::In(wait)
    }

    /// Lowers the rate, as an attempt that began at `begun` was asked to slow down; those that began before the rate
    /// was lowered last say nothing new.
    pub(super) fn throttled(&mut self, now: Duration, begun: Duration) {
        if self.held.is_some_and(|held| begun < held.at) {
            return;
        }
        let measured = self.begun.max(self.begun_before) / WINDOW.as_secs_f64();
        let refused = self.held.map_or(measured, |held| held.rate(now)).max(LEAST);
        let first = self.held.map_or(refused, |held| held.first);
        let next = self.held.map_or(now, |held| held.next);
        self.held = Some(Held { refused, first, at: now, next });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: f64) -> Duration {
        Duration::from_nanos((count * 1e9) as u64)
    }

    /// Lets attempts begin as fast as they may for so many seconds, of which `refuses` tells the fate, and returns how
    /// many began; at most a hundred a second.
    fn attempts(pace: &mut Pace, from: f64, until: f64, mut refuses: impl FnMut(u32) -> bool) -> u32 {
        let (mut now, mut count) = (seconds(from), 0);
        while now < seconds(until) {
            match pace.begin(now) {
                Turn::In(wait) => now += wait,
                Turn::AskAgain(wait) => {
                    now += wait;
                    continue;
                }
            }
            count += 1;
            if refuses(count) {
                pace.throttled(now + seconds(0.001), now);
            }
            now += seconds(0.01);
        }
        count
    }

    #[test]
    fn nothing_is_held_back_as_long_as_nobody_asks() {
        let mut pace = Pace::default();
        assert_eq!(attempts(&mut pace, 0.0, 5.0, |_| false), 500);
    }

    #[test]
    fn a_storm_is_waited_for_and_forgotten() {
        let mut pace = Pace::default();
        attempts(&mut pace, 0.0, 2.0, |_| false);
        let in_storm = attempts(&mut pace, 2.0, 62.0, |count| count % 2 == 0);
        assert!((400..=800).contains(&in_storm), "{in_storm} instead of 6,000");
        attempts(&mut pace, 62.0, 72.0, |_| false);
        let after = attempts(&mut pace, 72.0, 77.0, |_| false);
        assert!(after > 450, "{after} of 500 in five seconds");
        assert_eq!(pace.held, None);
    }

    #[test]
    fn a_request_to_slow_down_now_and_then_costs_little() {
        let mut pace = Pace::default();
        attempts(&mut pace, 0.0, 2.0, |_| false);
        let count = attempts(&mut pace, 2.0, 62.0, |count| count % 1000 == 0);
        assert!(count > 4000, "{count} of 6,000");
    }

    /// A service that asked for 500 a second while the storage gave 8: nobody's turn is minutes away, and those who gave up
    /// waiting are not waited for.
    #[test]
    fn nobody_waits_for_those_who_gave_up() {
        let mut pace = Pace::default();
        pace.begin(seconds(1.0));
        pace.throttled(seconds(1.1), seconds(1.0));
        let turns = (0..15_000).filter(|_| matches!(pace.begin(seconds(1.2)), Turn::In(_))).count();
        assert!((1..=10).contains(&turns), "{turns}");
        assert!(matches!(pace.begin(seconds(2.4)), Turn::In(wait) if wait <= AHEAD));
    }

    #[test]
    fn those_that_were_on_their_way_together_count_once() {
        let mut pace = Pace::default();
        for _ in 0..64 {
            pace.begin(seconds(1.0));
        }
        for _ in 0..64 {
            pace.throttled(seconds(1.1), seconds(1.0));
        }
        assert_eq!(pace.held.unwrap().refused, 64.0);
        assert!((pace.held.unwrap().rate(seconds(1.1)) - 32.0).abs() < 1e-6);
    }
}
