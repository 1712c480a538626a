//! How many bytes a second may pass at which time of the week. Pure: the clock is passed in.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::{DateTime, Weekday};

use crate::quantity::parse_rate;

const DAY: u32 = 24 * 60;
const WEEK: u32 = 7 * DAY;

/// A number of bytes per second, or a timetable of them.
///
/// A timetable is as rclone has it (`--bwlimit`): `08:00,512KiB 12:00,10MiB 23:00,off`, or by the day,
/// `Mon-08:00,1MiB Fri-18:00,off`. Each entry holds until the next one, over midnight and over Sunday night; one without
/// a day is there every day. Times are those of the machine's clock on the wall. Other than there, a number without a
/// unit is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// In order, at least one, no two at one time.
    slots: Vec<Slot>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Minutes since Monday 00:00.
    from: u32,
    /// Nothing: no limit.
    rate: Option<NonZeroU64>,
}

impl Bandwidth {
    /// Makes one number for all times.
    pub fn fixed(rate: NonZeroU64) -> Self {
        Self { slots: vec![Slot { from: 0, rate: Some(rate) }], text: rate.to_string() }
    }

    /// Returns how many bytes a second may pass at a time; nothing: any number.
    pub fn at(&self, now: DateTime) -> Option<NonZeroU64> {
        let minute = minute_of(now);
        let last = self.slots.iter().rfind(|slot| slot.from <= minute);
        // Before the first entry of the week, the last one of the week before holds.
        last.or(self.slots.last()).and_then(|slot| slot.rate)
    }

    /// Returns how long it is until the next entry by the clock; nothing where there is one number only.
    pub fn next_change(&self, now: DateTime) -> Option<Duration> {
        if self.slots.len() < 2 {
            return None;
        }
        let minute = minute_of(now);
        let next = self.slots.iter().find(|slot| slot.from > minute).or(self.slots.first())?;
        let minutes = if next.from > minute { next.from - minute } else { next.from + WEEK - minute };
        let passed = Duration::new(
            u64::try_from(now.second()).unwrap_or(0),
            u32::try_from(now.subsec_nanosecond()).unwrap_or(0),
        );
        Some(Duration::from_secs(u64::from(minutes) * 60).saturating_sub(passed))
    }
}

fn minute_of(now: DateTime) -> u32 {
    let day = u32::try_from(now.weekday().to_monday_zero_offset()).unwrap_or(0);
    let (hour, minute) = (u32::try_from(now.hour()).unwrap_or(0), u32::try_from(now.minute()).unwrap_or(0));
    day * DAY + hour * 60 + minute
}

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.contains(',') {
            let rate = parse_rate(text).map_err(|error| error.to_string())?;
            return NonZeroU64::new(rate).map(Self::fixed).ok_or_else(|| "expected more than 0".to_owned());
        }
        let mut slots = Vec::new();
        for entry in text.split_whitespace() {
            let wrong = |what: &str| {
                format!(
                    "cannot understand {entry:?}: {what}, as in \"08:00,512KiB 18:00,off\" or \"Mon-08:00,1MiB\""
                )
            };
            let (when, rate) = entry.split_once(',').ok_or_else(|| wrong("an entry is TIME,RATE"))?;
            let (day, time) = match when.split_once('-') {
                Some((day, time)) => (Some(day_of(day).ok_or_else(|| wrong("no day of the week"))?), time),
                None => (None, when),
            };
            let minute = minute_of_day(time).ok_or_else(|| wrong("a time is HH:MM"))?;
            let rate = if rate.eq_ignore_ascii_case("off") {
                None
            } else {
                NonZeroU64::new(parse_rate(rate).map_err(|error| wrong(&error.to_string()))?)
            };
            let days = day.map_or(0..7, |day| day..day + 1);
            slots.extend(days.map(|day| Slot { from: day * DAY + minute, rate }));
        }
        slots.sort_by_key(|slot| slot.from);
        if slots.windows(2).any(|pair| matches!(pair, [one, other] if one.from == other.from)) {
            return Err("two entries of the timetable are for the same time".to_owned());
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self { slots, text })
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn day_of(text: &str) -> Option<u32> {
    let days = [
        (Weekday::Monday, "monday"),
        (Weekday::Tuesday, "tuesday"),
        (Weekday::Wednesday, "wednesday"),
        (Weekday::Thursday, "thursday"),
        (Weekday::Friday, "friday"),
        (Weekday::Saturday, "saturday"),
        (Weekday::Sunday, "sunday"),
    ];
    let text = text.to_ascii_lowercase();
    let (day, _) =
        days.into_iter().find(|(_, name)| *name == text || name.get(..3) == Some(text.as_str()))?;
    u32::try_from(day.to_monday_zero_offset()).ok()
}

fn minute_of_day(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, most: u32| {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number: &u32| digits && *number <= most)
    };
    (minutes.len() == 2).then_some(())?;
    Some(number(hours, 23)? * 60 + number(minutes, 59)?)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-23 is a Monday.
    fn at(day: i8, hour: i8, minute: i8) -> DateTime {
        date(2026, 11, 23 + day).at(hour, minute, 0, 0)
    }

    fn rate(table: &Bandwidth, now: DateTime) -> Option<u64> {
        table.at(now).map(NonZeroU64::get)
    }

    #[test]
    fn the_example_of_rclone_means_what_it_says() {
        let table: Bandwidth = "08:00,512k 12:00,10M 13:00,512k 18:00,30M 23:00,off".parse().unwrap();
        for day in 0..7 {
            for (hour, minute, expected) in [
                (0, 0, None),
                (7, 59, None),
                (8, 0, Some(512 << 10)),
                (11, 59, Some(512 << 10)),
                (12, 30, Some(10 << 20)),
                (13, 0, Some(512 << 10)),
                (22, 59, Some(30 << 20)),
                (23, 0, None),
            ] {
                assert_eq!(rate(&table, at(day, hour, minute)), expected, "{day} {hour}:{minute}");
            }
        }
        let change = |now: DateTime| table.next_change(now).unwrap().as_secs();
        assert_eq!(change(at(0, 7, 0)), 3600);
        assert_eq!(change(at(0, 8, 0)), 4 * 3600);
        assert_eq!(change(date(2026, 11, 29).at(23, 59, 30, 0)), 8 * 3600 + 30, "over Sunday night");
    }

    #[test]
    fn days_hold_until_the_next_entry_over_the_week() {
        let table: Bandwidth = "Mon-00:00,512 fri-23:59,10M SAT-10:00,1M Sunday-20:00,off".parse().unwrap();
        assert_eq!(rate(&table, at(0, 0, 0)), Some(512), "a number without a unit is bytes");
        assert_eq!(rate(&table, at(4, 23, 58)), Some(512));
        assert_eq!(rate(&table, at(4, 23, 59)), Some(10 << 20));
        assert_eq!(rate(&table, at(5, 9, 59)), Some(10 << 20));
        assert_eq!(rate(&table, at(6, 19, 59)), Some(1 << 20));
        assert_eq!(rate(&table, at(6, 20, 0)), None);
        let table: Bandwidth = "Wed-12:00,1M Thu-12:00,2M".parse().unwrap();
        assert_eq!(rate(&table, at(0, 0, 0)), Some(2 << 20), "the last entry of the week before");
    }

    #[test]
    fn one_number_holds_at_all_times_and_never_changes() {
        let table: Bandwidth = " 10MiB/s ".parse().unwrap();
        assert_eq!(rate(&table, at(3, 3, 3)), Some(10 << 20));
        assert_eq!(table.next_change(at(3, 3, 3)), None);
        assert_eq!(table.to_string(), (10 << 20).to_string());
        let table: Bandwidth = "08:00,1M  9:00,off".parse().unwrap();
        assert_eq!(table.to_string(), "08:00,1M 9:00,off");
        assert_eq!(table.to_string().parse(), Ok(table));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        for (text, word) in [
            ("", "rate"),
            ("0", "never end"),
            ("off", "rate"),
            ("08:00,0", "never end"),
            ("24:00,1M", "HH:MM"),
            ("8,1M", "HH:MM"),
            ("08:0,1M", "HH:MM"),
            ("08:+1,1M", "HH:MM"),
            ("Foo-08:00,1M", "day of the week"),
            ("08:00,1M 12:00", "TIME,RATE"),
            ("08:00,1M 08:00,2M", "same time"),
            ("08:00,1M Mon-08:00,2M", "same time"),
            ("08:00,fast", "rate"),
        ] {
            let error = text.parse::<Bandwidth>().unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    proptest! {
        /// Whoever sleeps until the next change misses none and wakes for each.
        #[test]
        fn between_two_changes_the_rate_is_one(
            entries in proptest::collection::btree_map((0u32..7, 0u32..24 * 60), 1u32..5, 2..9),
            minute in 0u32..7 * 24 * 60,
        ) {
            let names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
            let text: Vec<_> = entries
                .iter()
                .map(|((day, at), rate)| format!("{}-{:02}:{:02},{rate}", names[*day as usize], at / 60, at % 60))
                .collect();
            let table: Bandwidth = text.join(" ").parse().unwrap();
            let of = |minute: u32| {
                let (day, rest) = (minute / DAY % 7, minute % DAY);
                at(i8::try_from(day).unwrap(), i8::try_from(rest / 60).unwrap(), i8::try_from(rest % 60).unwrap())
            };
            let sleep = u32::try_from(table.next_change(of(minute)).unwrap().as_secs() / 60).unwrap();
            prop_assert!((1..=WEEK).contains(&sleep));
            for between in 0..sleep.min(2 * DAY) {
                prop_assert_eq!(table.at(of(minute + between)), table.at(of(minute)));
            }
            let wake = (minute + sleep) % WEEK;
            prop_assert!(entries.contains_key(&(wake / DAY, wake % DAY)));
        }
    }
}
