//! How a run went over time: for reports, which nothing is decided by. Bounded, whatever the run is. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Points of a timeline at most: more than a chart can show.
pub const MAX_POINTS: usize = 240;

/// Slowest files that are kept.
pub const MAX_SLOWEST: usize = 10;

/// Files that stay as a sync was kept from removing any, of which the first are named: enough to see what they are.
pub const MAX_WITHHELD: usize = 20;

/// Least time between two points; doubled whenever there are too many.
pub const FIRST_INTERVAL: Duration = Duration::from_millis(250);

/// What was asked of a run, and how it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Course {
    /// Settings that were in force, each by the name of its option.
    pub settings: BTreeMap<String, String>,
    /// Stretches of the run, in order, without gaps.
    pub timeline: Vec<Point>,
    /// Files that took longest, the slowest first.
    pub slowest: Vec<Slow>,
    /// Sync: the first [`MAX_WITHHELD`] files that are in the target only, where a safeguard kept all of them.
    #[serde(rename = "withheld_files")]
    pub withheld: Vec<Named>,
}

/// A file that is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// In bytes.
    pub size: u64,
}

/// What happened in one stretch of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its length in milliseconds.
    pub ms: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Entries dealt with.
    pub done: u64,
}

/// A file that took long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// Its id.
    pub id: String,
    /// In bytes.
    pub size: u64,
    /// How long its longest attempt took, in microseconds.
    pub micros: u64,
}

/// The timeline of a run that goes on.
#[derive(Clone, Debug)]
pub struct Timeline {
    points: Vec<Point>,
    interval: Duration,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { points: Vec::with_capacity(MAX_POINTS), interval: FIRST_INTERVAL }
    }
}

impl Timeline {
    /// Returns how long the next point is to be.
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns the points.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Adds a stretch. Where there are too many, every two become one, and the next ones are twice as long.
    pub fn push(&mut self, point: Point) {
        if self.points.len() >= MAX_POINTS {
            let halves = self.points.chunks(2).map(|pair| {
                pair.iter().fold(Point::default(), |sum, point| Point {
                    ms: sum.ms + point.ms,
                    read: sum.read + point.read,
                    sent: sum.sent + point.sent,
                    done: sum.done + point.done,
                })
            });
            self.points = halves.collect();
            self.points.reserve(MAX_POINTS - self.points.len());
            self.interval = self.interval.saturating_mul(2);
        }
        self.points.push(point);
    }
}

/// The files that took longest so far.
#[derive(Clone, Debug, Default)]
pub struct Slowest(Vec<Slow>);

impl Slowest {
    /// Takes a file that took `micros`, if it is among the slowest; returns what a further one must exceed to be.
    pub fn take(&mut self, id: &str, size: u64, micros: u64) -> u64 {
        match self.0.iter_mut().find(|slow| slow.id == id) {
            Some(known) => {
                known.micros = known.micros.max(micros);
                known.size = size;
            }
            None => self.0.push(Slow { id: id.to_owned(), size, micros }),
        }
        self.0.sort_by(|a, b| b.micros.cmp(&a.micros).then_with(|| a.id.cmp(&b.id)));
        self.0.truncate(MAX_SLOWEST);
        if self.0.len() < MAX_SLOWEST { 0 } else { self.0.last().map_or(0, |last| last.micros) }
    }

    /// Returns them, the slowest first.
    pub fn list(&self) -> &[Slow] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_bounded_and_loses_nothing() {
        let mut timeline = Timeline::default();
        let (mut pushed, mut elapsed) = (0, 0);
        while elapsed < 30 * 86_400_000 {
            let ms = u64::try_from(timeline.interval().as_millis()).unwrap();
            timeline.push(Point { ms, read: elapsed, sent: 2, done: 1 });
            assert!(timeline.points().len() <= MAX_POINTS);
            (pushed, elapsed) = (pushed + 1, elapsed + ms);
        }
        let sum = |of: fn(&Point) -> u64| timeline.points().iter().map(of).sum::<u64>();
        assert_eq!(
            (sum(|point| point.ms), sum(|point| point.sent), sum(|point| point.done)),
            (elapsed, 2 * pushed, pushed)
        );
        assert!(timeline.points().len() >= MAX_POINTS / 2, "enough for a chart");
        assert!(pushed < 4_000, "{pushed} looks in a month");
    }

    #[test]
    fn the_slowest_are_the_slowest_and_each_is_there_once() {
        let mut slowest = Slowest::default();
        for number in 0..1000u64 {
            // 7 and 1000 have no common divisor: every length once, in no order.
            let micros = number * 7 % 1000;
            slowest.take(&format!("f{micros}"), micros, micros);
        }
        let lengths: Vec<_> = slowest.list().iter().map(|slow| slow.micros).collect();
        assert_eq!(lengths, (990..1000).rev().collect::<Vec<_>>());
        assert_eq!(slowest.take("f995", 995, 5000), 990, "one that is known pushes nobody out");
        assert_eq!((slowest.list()[0].id.as_str(), slowest.list().len()), ("f995", MAX_SLOWEST));
    }
}
