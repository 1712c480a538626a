//! When to leave a storage alone: a state machine of values, with the clock passed in.
//!
//! ```text
//! Closed --(enough outages in the window)--> Open --(its time is over)--> HalfOpen
//!   ^                                         ^                             |
//!   |                                         +-----(the probe failed)------+
//!   +-----------------------(the probe succeeded)---------------------------+
//! ```
//!
//! Only outages count: a storage that answers "not found" or "denied" is there. A caller asks
//! ([`Breaker::admit`]) before it calls and reports ([`Breaker::record`]) afterwards with the pass it was given;
//! a pass of before the last change of state is out of date and changes nothing.
//!
//! Of a call whose caller went away nothing is known: perhaps the storage hangs, perhaps the caller was in a hurry.
//! When so many calls in a row as are enough outages had no answer, however far apart, the storage is *doubted*:
//! somebody asks for one probe more ([`Breaker::doubt`]), while calls go through as before, and that decides.

use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Op, Result};

/// Into how many pieces the window is cut: what is older than the window leaves it piece by piece.
const SLICES: u32 = 10;

/// When a breaker opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BreakerConfig {
    /// How far back calls count. Default 10 s: longer than one slow answer, shorter than a caller's patience.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub window: Duration,
    /// Outages in the window below which nothing happens. Default 5: one lost packet is no outage.
    pub min_outages: u32,
    /// Share of the window's calls that must be outages, from 0 to 1. Default 0.5.
    pub ratio: f64,
    /// How long the storage is left alone after opening; doubles each time a probe fails. Default 1 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub open_for: Duration,
    /// Longest time it is left alone. Default 30 s: how late a recovery is noticed at worst.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub max_open_for: Duration,
    /// How long a caller must have waited, besides for its turn, for its going away to be a call without an answer.
    /// Default 1 s: most storages that work answer sooner, and where one does not, `min_outages` such callers in a
    /// row cost one probe. 0: however short.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::required")]
    pub patience: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            min_outages: 5,
            ratio: 0.5,
            open_for: Duration::from_secs(1),
            max_open_for: Duration::from_secs(30),
            patience: Duration::from_secs(1),
        }
    }
}

impl BreakerConfig {
    /// Sets how far back calls count.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets the number of outages and their share of all calls that open the breaker.
    #[must_use]
    pub fn with_threshold(mut self, min_outages: u32, ratio: f64) -> Self {
        (self.min_outages, self.ratio) = (min_outages, ratio);
        self
    }

    /// Sets the first and the longest time that the storage is left alone.
    #[must_use]
    pub fn with_open_for(mut self, first: Duration, longest: Duration) -> Self {
        (self.open_for, self.max_open_for) = (first, longest);
        self
    }

    /// Sets how long a caller that goes away must have waited to be a call without an answer.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Refuses numbers that make no breaker.
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`] when a time or `min_outages` is 0, `ratio` is not within 0 and 1, or
    /// `max_open_for` is less than `open_for`.
    pub fn validate(&self) -> Result<()> {
        let wrong = if self.window.is_zero() || self.open_for.is_zero() {
            "window and open_for must be more than 0"
        } else if self.min_outages == 0 {
            "min_outages must be at least 1"
        } else if !(0.0..=1.0).contains(&self.ratio) {
            "ratio must lie between 0 and 1"
        } else if self.max_open_for < self.open_for {
            "max_open_for must not be less than open_for"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(format!("breaker: {wrong}")))
    }
}

/// Whether calls go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// They do.
    Closed,
    /// One at a time does, as a probe.
    HalfOpen,
    /// None does.
    Open,
}

impl State {
    /// Returns a stable lower-case name, fit for a report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// The right to make one call, to be given back to [`Breaker::record`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Pass {
    /// The state's number, by which a pass of an earlier state is told.
    epoch: u64,
    probe: bool,
}

impl Pass {
    /// Tells whether the call decides about the state. Unless the breaker is closed, nobody else may call until it is
    /// recorded.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The storage answered, be it with a refusal.
    Answer,
    /// It was out of reach.
    Outage,
    /// The caller went away before there was an answer, after it had waited so long: of an ordinary call nothing is
    /// known; a probe has failed, else nobody would ever probe again.
    Dropped(Duration),
}

/// The breaker of one storage.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    epoch: u64,
    /// Until when it is open.
    until: Duration,
    /// For how long it was opened last.
    open_for: Duration,
    probing: bool,
    /// Calls without an answer since the last answer.
    unanswered: u32,
    window: Window,
}

impl Breaker {
    /// Makes a closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: State::Closed,
            epoch: 0,
            until: Duration::ZERO,
            open_for: config.open_for,
            probing: false,
            unanswered: 0,
            window: Window::new(config.window),
        }
    }

    /// Returns the state at `now`.
    pub fn state(&self, now: Duration) -> State {
        match self.state {
            State::Open if now >= self.until => State::HalfOpen,
            state => state,
        }
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// How long to wait until it is worth asking again; 0 while a probe is under way.
    pub fn admit(&mut self, now: Duration) -> Result<Pass, Duration> {
        if self.state == State::Open && now >= self.until {
            self.enter(State::HalfOpen);
        }
        match self.state {
            State::Closed => Ok(Pass { epoch: self.epoch, probe: false }),
            State::Open => Err(self.until - now),
            State::HalfOpen if self.probing => Err(Duration::ZERO),
            State::HalfOpen => {
                self.probing = true;
                Ok(Pass { epoch: self.epoch, probe: true })
            }
        }
    }

    /// Returns the right to probe a storage that is closed and doubted; nothing where it is not, or somebody does.
    /// The probe's answer clears it, its outage opens the breaker.
    pub fn doubt(&mut self) -> Option<Pass> {
        let doubted = self.state == State::Closed && self.unanswered >= self.config.min_outages;
        (doubted && !std::mem::replace(&mut self.probing, true))
            .then_some(Pass { epoch: self.epoch, probe: true })
    }

    /// Reports how a call ended.
    pub fn record(&mut self, now: Duration, pass: Pass, outcome: Outcome) {
        if pass.epoch != self.epoch {
            return;
        }
        match outcome {
            Outcome::Answer => self.unanswered = 0,
            Outcome::Dropped(waited) if waited < self.config.patience => {}
            Outcome::Outage | Outcome::Dropped(_) => self.unanswered = self.unanswered.saturating_add(1),
        }
        match (self.state, outcome) {
            (State::Closed, Outcome::Outage) if pass.probe => self.open_first(now),
            (State::Closed, _) if pass.probe => self.probing = false,
            (State::Closed, Outcome::Dropped(_)) | (State::Open, _) => {}
            (State::Closed, outcome) => {
                self.window.add(now, outcome == Outcome::Outage);
                let (calls, outages) = self.window.sums(now);
                let share = f64::from(outages) / f64::from(calls.max(1));
                if outages >= self.config.min_outages && share >= self.config.ratio {
                    self.open_first(now);
                }
            }
            (State::HalfOpen, Outcome::Answer) => {
                self.window = Window::new(self.config.window);
                self.enter(State::Closed);
            }
            (State::HalfOpen, Outcome::Outage | Outcome::Dropped(_)) => {
                self.open_for = self.open_for.saturating_mul(2).min(self.config.max_open_for);
                self.open(now);
            }
        }
    }

    /// Takes a probe's right back that was not used: the next caller gets it.
    pub fn give_back(&mut self, pass: Pass) {
        if pass.probe && pass.epoch == self.epoch {
            self.probing = false;
        }
    }

    /// Counts an outage that came after the answer to a call: a body that broke off.
    pub fn record_late_outage(&mut self, now: Duration) {
        if self.state == State::Closed {
            let pass = Pass { epoch: self.epoch, probe: false };
            self.record(now, pass, Outcome::Outage);
        }
    }

    fn open_first(&mut self, now: Duration) {
        self.open_for = self.config.open_for;
        self.open(now);
    }

    fn open(&mut self, now: Duration) {
        self.until = now.saturating_add(self.open_for);
        self.enter(State::Open);
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
        self.probing = false;
        self.unanswered = 0;
    }
}

/// Calls and outages of the last while.
#[derive(Debug)]
struct Window {
    slice: Duration,
    slices: [(u32, u32); SLICES as usize],
    /// Number of the youngest slice since the clock began.
    youngest: u128,
}

impl Window {
    fn new(length: Duration) -> Self {
        let slice = (length / SLICES).max(Duration::from_nanos(1));
        Self { slice, slices: [(0, 0); SLICES as usize], youngest: 0 }
    }

    /// Forgets what has left the window. A clock that stands still or goes back forgets nothing.
    fn advance(&mut self, now: Duration) {
        let number = now.as_nanos() / self.slice.as_nanos();
        let passed = number.saturating_sub(self.youngest).min(u128::from(SLICES));
        for step in 1..=passed {
            let at = (self.youngest + step) % u128::from(SLICES);
            // Below the number of slices.
            self.slices[at as usize] = (0, 0);
        }
        if passed == u128::from(SLICES) {
            self.slices = [(0, 0); SLICES as usize];
        }
        self.youngest = self.youngest.max(number);
    }

    fn add(&mut self, now: Duration, outage: bool) {
        self.advance(now);
        let (calls, outages) = &mut self.slices[(self.youngest % u128::from(SLICES)) as usize];
        *calls = calls.saturating_add(1);
        *outages = outages.saturating_add(u32::from(outage));
    }

    fn sums(&mut self, now: Duration) -> (u32, u32) {
        self.advance(now);
        self.slices.iter().fold((0, 0), |(calls, outages), slice| {
            (calls.saturating_add(slice.0), outages.saturating_add(slice.1))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn breaker() -> Breaker {
        Breaker::new(BreakerConfig::default())
    }

    fn call(breaker: &mut Breaker, now: Duration, outcome: Outcome) {
        let pass = breaker.admit(now).unwrap();
        breaker.record(now, pass, outcome);
    }

    fn opened(now: Duration) -> Breaker {
        let mut breaker = breaker();
        (0..5).for_each(|_| call(&mut breaker, now, Outcome::Outage));
        assert_eq!(breaker.state(now), State::Open);
        breaker
    }

    #[test]
    fn opens_at_the_share_of_outages_and_not_before_the_least_number() {
        let mut breaker = breaker();
        (0..4).for_each(|_| call(&mut breaker, at(0), Outcome::Outage));
        assert_eq!(breaker.state(at(0)), State::Closed);
        call(&mut breaker, at(0), Outcome::Outage);
        assert_eq!(breaker.admit(at(0)), Err(at(1_000)));

        let mut mixed = Breaker::new(BreakerConfig::default());
        (0..10).for_each(|_| call(&mut mixed, at(0), Outcome::Answer));
        (0..9).for_each(|_| call(&mut mixed, at(0), Outcome::Outage));
        assert_eq!(mixed.state(at(0)), State::Closed);
        call(&mut mixed, at(0), Outcome::Outage);
        assert_eq!(mixed.state(at(0)), State::Open);
    }

    #[test]
    fn answers_and_dropped_calls_never_open_it() {
        let mut breaker = breaker();
        for _ in 0..1_000 {
            call(&mut breaker, at(0), Outcome::Answer);
            call(&mut breaker, at(0), Outcome::Dropped(at(30_000)));
        }
        assert_eq!(breaker.state(at(0)), State::Closed);
        assert_eq!(breaker.doubt(), None);
    }

    #[test]
    fn calls_without_an_answer_make_it_doubted_and_a_probe_decides() {
        let unanswered = [Outcome::Outage, Outcome::Dropped(at(1_000))];
        let doubted = |mut breaker: Breaker| {
            // Far apart: never enough outages in one window.
            for n in 0..5 {
                assert_eq!(breaker.doubt(), None);
                call(&mut breaker, at(n * 60_000), unanswered[n as usize % 2]);
                call(&mut breaker, at(n * 60_000), Outcome::Dropped(at(999)));
            }
            let probe = breaker.doubt().unwrap();
            assert!(probe.is_probe());
            assert_eq!(breaker.doubt(), None, "one at a time");
            assert!(!breaker.admit(at(240_000)).unwrap().is_probe(), "others go on");
            (breaker, probe)
        };
        let (mut breaker, probe) = doubted(breaker());
        breaker.record(at(240_000), probe, Outcome::Answer);
        assert_eq!((breaker.state(at(240_000)), breaker.doubt()), (State::Closed, None));
        let (mut breaker, probe) = doubted(breaker);
        breaker.record(at(240_000), probe, Outcome::Dropped(Duration::ZERO));
        let probe = breaker.doubt().unwrap();
        breaker.record(at(240_000), probe, Outcome::Outage);
        assert_eq!(breaker.admit(at(240_000)), Err(at(1_000)));
    }

    #[test]
    fn outages_leave_the_window() {
        let mut breaker = breaker();
        (0..4).for_each(|_| call(&mut breaker, at(0), Outcome::Outage));
        (0..4).for_each(|_| call(&mut breaker, at(10_000), Outcome::Outage));
        assert_eq!(breaker.state(at(10_000)), State::Closed);
        call(&mut breaker, at(19_000), Outcome::Outage);
        assert_eq!(breaker.state(at(19_000)), State::Open, "five within ten seconds");
    }

    #[test]
    fn one_probe_at_a_time_closes_it() {
        let mut breaker = opened(at(0));
        assert_eq!(breaker.admit(at(999)), Err(at(1)));
        let probe = breaker.admit(at(1_000)).unwrap();
        assert!(probe.is_probe());
        assert_eq!(breaker.state(at(1_000)), State::HalfOpen);
        assert_eq!(breaker.admit(at(1_500)), Err(Duration::ZERO));
        breaker.record(at(1_600), probe, Outcome::Answer);
        assert_eq!(breaker.state(at(1_600)), State::Closed);
        (0..4).for_each(|_| call(&mut breaker, at(1_600), Outcome::Outage));
        assert_eq!(breaker.state(at(1_600)), State::Closed, "the window began anew");
    }

    #[test]
    fn a_probe_that_fails_or_is_dropped_opens_it_for_twice_as_long() {
        for outcome in [Outcome::Outage, Outcome::Dropped(Duration::ZERO)] {
            let mut breaker = opened(at(0));
            let mut now = at(1_000);
            for wait in [2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
                let probe = breaker.admit(now).unwrap();
                breaker.record(now, probe, outcome);
                assert_eq!(breaker.admit(now), Err(at(wait)), "{outcome:?}");
                now += at(wait);
            }
        }
    }

    #[test]
    fn a_call_of_before_the_outage_does_not_end_it() {
        let mut breaker = breaker();
        let early = breaker.admit(at(0)).unwrap();
        (0..5).for_each(|_| call(&mut breaker, at(0), Outcome::Outage));
        let probe = breaker.admit(at(1_000)).unwrap();
        breaker.record(at(1_000), early, Outcome::Answer);
        assert_eq!(breaker.state(at(1_000)), State::HalfOpen);
        breaker.record(at(1_000), probe, Outcome::Outage);
        breaker.record_late_outage(at(1_000));
        assert_eq!(breaker.state(at(1_000)), State::Open);
    }

    #[test]
    fn numbers_that_make_no_breaker_are_refused() {
        let config = BreakerConfig::default;
        for wrong in [
            config().with_window(Duration::ZERO),
            config().with_threshold(0, 0.5),
            config().with_threshold(1, 1.1),
            config().with_threshold(1, f64::NAN),
            config().with_open_for(Duration::ZERO, at(1)),
            config().with_open_for(at(2), at(1)),
        ] {
            assert_eq!(wrong.validate().unwrap_err().kind(), ErrorKind::Misconfigured, "{wrong:?}");
        }
        config().validate().unwrap();
    }

    proptest! {
        /// Whatever happens in whatever order, there is never a second probe, and an idle breaker is never stuck.
        #[test]
        fn never_two_probes_and_never_stuck(steps in prop::collection::vec((0..3_000u64, 0..5u8), 1..200)) {
            let mut breaker = breaker();
            let (mut now, mut held) = (Duration::ZERO, Vec::new());
            for (wait, action) in steps {
                now += at(wait);
                if action < 2 {
                    if let Ok(pass) = breaker.admit(now) {
                        held.push(pass);
                    }
                } else if let Some(pass) = held.pop() {
                    let outcomes = [Outcome::Answer, Outcome::Outage, Outcome::Dropped(at(wait))];
                    breaker.record(now, pass, outcomes[usize::from(action - 2)]);
                }
                held.extend(breaker.doubt());
                let probes = held.iter().filter(|pass| pass.probe && pass.epoch == breaker.epoch);
                prop_assert!(probes.count() <= 1);
            }
            for pass in held {
                breaker.record(now, pass, Outcome::Dropped(Duration::ZERO));
            }
            prop_assert!(breaker.admit(now + at(30_000)).is_ok());
        }
    }
}
