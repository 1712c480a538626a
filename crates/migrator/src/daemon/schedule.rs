//! When a job is due. Pure: times, zone and what happened before are passed in.
//!
//! A [`Schedule`] yields *slots*. A job is due at a slot plus its jitter, once for all slots that have passed since
//! its `base`: that is the start of its latest run when the daemon begins (so that downtime is caught up on, once) and
//! the end of its latest run from then on (so that slots that pass while it runs are dropped: no overlap, no queue).

use std::fmt;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// When a job is to run.
///
/// One of
/// - a cron expression of five fields, as in `crontab(5)`: `15 3 * * *`, `*/10 8-17 * * MON-FRI`, `0 6 L * *`;
/// - a name of `systemd.time(7)`, with or without `@`: `minutely`, `hourly`, `daily`, `weekly`, `monthly`,
///   `quarterly`, `semiannually`, `yearly`; and `midnight`, `annually`;
/// - `every 90s`, `every 15m`, `every 6h`, `every 2d`: counted from the end of the latest run.
///
/// Times of day are those of the zone. Where a clock goes forward, what would fall into the gap comes right after it;
/// where it goes back, a time of day comes once, and a wildcard keeps its pace.
#[derive(Clone, PartialEq)]
pub struct Schedule {
    text: String,
    rule: Rule,
}

#[derive(Clone, PartialEq)]
enum Rule {
    Cron(Box<Cron>),
    Every(Duration),
}

/// A text that is no schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleError(String);

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScheduleError {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.text).finish()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Schedule {
    /// Understands a text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let trimmed = text.trim();
        let wrong = |why: &str| ScheduleError(format!("{text:?} is no schedule: {why}"));
        let rule = if let Some(every) = trimmed.strip_prefix("every ") {
            let every =
                crate::quantity::parse_age(every.trim()).map_err(|error| wrong(&error.to_string()))?;
            if every.is_zero() {
                return Err(wrong("every 0s would never rest"));
            }
            Rule::Every(every)
        } else {
            let expression = named(trimmed.strip_prefix('@').unwrap_or(trimmed)).unwrap_or(trimmed);
            if expression.starts_with('@') || expression.split_whitespace().count() != 5 {
                return Err(wrong(
                    "write five fields as in crontab(5) (minute hour day month weekday: 15 3 * * *), a name \
                     (hourly, daily, weekly, monthly, yearly), or every 15m",
                ));
            }
            let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
            Rule::Cron(Box::new(parser.parse(expression).map_err(|error| wrong(&error.to_string()))?))
        };
        let schedule = Self { text: trimmed.to_owned(), rule };
        // The 30th of February is well written.
        match schedule.next_after(Timestamp::UNIX_EPOCH, &TimeZone::UTC) {
            Some(_) => Ok(schedule),
            None => Err(wrong("it never comes")),
        }
    }

    /// Returns the first slot after `at`; nothing where there is none within what calendars can say.
    pub fn next_after(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(every) => at.checked_add(SignedDuration::try_from(*every).ok()?).ok(),
            Rule::Cron(cron) => {
                let next = cron.find_next_occurrence(&at.to_zoned(zone.clone()), false).ok()?;
                Some(next.timestamp()).filter(|next| *next > at)
            }
        }
    }
}

fn named(name: &str) -> Option<&'static str> {
    Some(match name {
        "minutely" => "* * * * *",
        "hourly" => "0 * * * *",
        "daily" | "midnight" => "0 0 * * *",
        // systemd's week begins on Monday; cron's nickname says Sunday. The name is systemd's.
        "weekly" => "0 0 * * MON",
        "monthly" => "0 0 1 * *",
        "quarterly" => "0 0 1 1,4,7,10 *",
        "semiannually" => "0 0 1 1,7 *",
        "yearly" | "annually" => "0 0 1 1 *",
        _ => return None,
    })
}

/// How long to wait before what failed is tried again: doubles from `first` to `most`, `times` times in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first retry; default 1 minute.
    pub first: Duration,
    /// At most; default 1 hour.
    pub most: Duration,
    /// Retries in a row; after that the next slot is waited for. Default 6: about an hour.
    pub times: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(60), most: Duration::from_secs(3600), times: 6 }
    }
}

impl Backoff {
    /// Returns the wait before the next attempt after `failures` in a row; nothing where there is none.
    pub fn wait(&self, failures: u32) -> Option<Duration> {
        if failures == 0 || failures > self.times {
            return None;
        }
        let factor = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
        Some(self.first.checked_mul(factor).unwrap_or(self.most).min(self.most))
    }
}

/// The times of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Nothing: only when it is asked for, or something changes.
    pub schedule: Option<Schedule>,
    /// Longest delay behind a slot, so that many machines do not come at once; default none.
    pub jitter: Duration,
    /// Of what failed.
    pub retry: Backoff,
    /// How long to wait after a change until nothing more changes; default 2 seconds.
    pub debounce: Duration,
    /// Longest time between two runs that look at everything, of a job that watches; default 1 day.
    pub reconcile: Option<Duration>,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            schedule: None,
            jitter: Duration::ZERO,
            retry: Backoff::default(),
            debounce: Duration::from_secs(2),
            reconcile: None,
        }
    }
}

/// What was before, as far as the next run depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// From when on slots count.
    pub base: Timestamp,
    /// When the latest run ended that looked at everything, or that somebody stopped.
    pub whole: Option<Timestamp>,
    /// Runs in a row that failed, and when the latest ended.
    pub failures: Option<(u32, Timestamp)>,
    /// When the latest run ended, if it could not begin its work: a storage cannot be opened, a safeguard refuses.
    pub stuck: Option<Timestamp>,
    /// The first and the latest change that no run has looked at.
    pub changes: Option<(Timestamp, Timestamp)>,
}

/// Why a job is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The schedule says so.
    Schedule,
    /// A former run failed.
    Retry,
    /// Something changed in the source.
    Change,
    /// A job that watches looks at everything now and then.
    Reconcile,
    /// Somebody asked for it.
    Asked,
}

impl Why {
    /// Returns the word that the API shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Retry => "retry",
            Self::Change => "change",
            Self::Reconcile => "reconcile",
            Self::Asked => "asked",
        }
    }
}

/// When a job is due next, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Due {
    /// In the past: now.
    pub at: Timestamp,
    /// The reason that comes first.
    pub why: Why,
}

/// Says when a job that is not running is due next; `seed` tells jobs and machines apart. Nothing: never, unless
/// something happens.
pub fn due(times: &Times, past: &Past, zone: &TimeZone, seed: u64) -> Option<Due> {
    let slot = times.schedule.as_ref().and_then(|schedule| {
        let slot = schedule.next_after(past.base, zone)?;
        Some(Due { at: later(slot, jitter(seed, slot, times.jitter)), why: Why::Schedule })
    });
    let retry = past
        .failures
        .and_then(|(failures, at)| Some(Due { at: later(at, times.retry.wait(failures)?), why: Why::Retry }));
    // A server that is away, or a wrong password, is not asked at once again, whatever asks for it: that comes when the
    // retry does, and after the last of these less often.
    let not_before = |otherwise: Duration| {
        let wait = past.failures.and_then(|(failures, _)| times.retry.wait(failures)).unwrap_or(otherwise);
        past.stuck.map_or(Timestamp::MIN, |at| later(at, wait))
    };
    let change = past.changes.map(|(first, last)| {
        // What never rests is looked at all the same.
        let at = later(last, times.debounce).min(later(first, times.debounce.saturating_mul(12)));
        Due { at: at.max(not_before(times.retry.most)), why: Why::Change }
    });
    let reconcile = times.reconcile.map(|every| {
        let at = past.whole.map_or(past.base, |whole| later(whole, every));
        Due { at: at.max(not_before(every)), why: Why::Reconcile }
    });
    [slot, retry, reconcile, change].into_iter().flatten().min_by_key(|due| due.at)
}

/// Returns the delay of a slot: the same for the same slot and seed, so that a restart does not draw anew.
pub fn jitter(seed: u64, slot: Timestamp, most: Duration) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    if most == 0 {
        return Duration::ZERO;
    }
    #[expect(clippy::cast_sign_loss, reason = "any bits do")]
    let slot = slot.as_second() as u64;
    // SplitMix64 (Steele, Lea, Flood 2014): neighbouring inputs give unrelated outputs.
    let mut mixed = seed ^ slot.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Duration::from_millis((mixed ^ (mixed >> 31)) % most)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// Returns the zone of this name; nothing: the system's.
///
/// # Errors
/// There is no such zone.
pub fn zone(name: Option<&str>) -> Result<TimeZone, ScheduleError> {
    match name {
        None => Ok(TimeZone::system()),
        Some(name) => TimeZone::get(name).map_err(|_| {
            ScheduleError(format!(
                "{name:?} is no time zone: write one of the IANA database, as in Europe/Berlin"
            ))
        }),
    }
}

#[cfg(test)]
mod tests;
