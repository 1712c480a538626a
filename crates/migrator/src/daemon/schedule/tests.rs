use jiff::ToSpan as _;
use jiff::civil::date;
use proptest::prelude::*;

use super::*;

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap()
}

/// The first `count` slots after `start`, in local time.
fn slots(text: &str, start: Timestamp, zone: &TimeZone, count: usize) -> Vec<String> {
    let schedule = schedule(text);
    let mut next = start;
    (0..count)
        .map(|_| {
            next = schedule.next_after(next, zone).unwrap();
            next.to_zoned(zone.clone()).strftime("%m-%d %H:%M %z").to_string()
        })
        .collect()
}

#[test]
fn expressions_and_names() {
    let start = at("2026-01-01T00:00:00Z");
    let utc = &TimeZone::UTC;
    assert_eq!(slots("15 3 * * *", start, utc, 2), ["01-01 03:15 +0000", "01-02 03:15 +0000"]);
    assert_eq!(slots("*/10 8-17 * * MON-FRI", start, utc, 2), ["01-01 08:00 +0000", "01-01 08:10 +0000"]);
    assert_eq!(slots("@hourly", start, utc, 1), slots("hourly", start, utc, 1));
    assert_eq!(slots("weekly", start, utc, 1), ["01-05 00:00 +0000"]);
    assert_eq!(slots("quarterly", start, utc, 1), ["04-01 00:00 +0000"]);
    assert_eq!(slots("every 90m", start, utc, 2), ["01-01 01:30 +0000", "01-01 03:00 +0000"]);
}

#[test]
fn what_is_no_schedule_is_refused_in_words() {
    for text in [
        "",
        "3",
        "* * * *",
        "0 0 3 * * *",
        "60 * * * *",
        "@reboot",
        "fortnightly",
        "every 0s",
        "every x",
        "0 0 30 2 *",
    ] {
        let error = Schedule::parse(text).unwrap_err().to_string();
        assert!(error.contains("is no schedule: "), "{text}: {error}");
    }
}

/// 2026-03-29: 02:00 CET is followed by 03:00 CEST.
#[test]
fn what_falls_into_the_gap_of_spring_comes_once_right_after_it() {
    let start = at("2026-03-28T12:00:00Z");
    let slots = slots("30 2 * * *", start, &berlin(), 2);
    assert!(slots[0] == "03-29 03:00 +0200" || slots[0] == "03-29 03:30 +0200", "{slots:?}");
    assert_eq!(slots[1], "03-30 02:30 +0200");
}

/// 2026-10-25: 03:00 CEST is followed by 02:00 CET.
#[test]
fn a_time_of_day_comes_once_when_the_clock_goes_back() {
    let start = at("2026-10-24T12:00:00Z");
    assert_eq!(slots("30 2 * * *", start, &berlin(), 2), ["10-25 02:30 +0200", "10-26 02:30 +0100"]);
}

#[test]
fn an_hourly_job_keeps_its_pace_through_both_changes() {
    for day in [date(2026, 3, 29), date(2026, 10, 25)] {
        let start = day.at(0, 0, 0, 0).to_zoned(berlin()).unwrap().checked_sub(3.hours()).unwrap();
        let schedule = schedule("0 * * * *");
        let mut last = start.timestamp();
        for _ in 0..30 {
            let next = schedule.next_after(last, &berlin()).unwrap();
            assert_eq!(next.duration_since(last), SignedDuration::from_hours(1), "after {last}");
            last = next;
        }
    }
}

#[test]
fn backoff_doubles_up_to_its_limit_and_ends() {
    let backoff = Backoff { first: Duration::from_secs(60), most: Duration::from_secs(300), times: 4 };
    let waits: Vec<_> = (0..6).map(|failures| backoff.wait(failures).map(|wait| wait.as_secs())).collect();
    assert_eq!(waits, [None, Some(60), Some(120), Some(240), Some(300), None]);
    let many = Backoff { times: u32::MAX, ..backoff };
    assert_eq!(many.wait(4000), Some(backoff.most));
}

#[test]
fn what_comes_first_is_due() {
    let now = at("2026-06-01T12:00:00Z");
    let times = Times {
        schedule: Some(schedule("daily")),
        reconcile: Some(Duration::from_secs(86400)),
        ..Times::default()
    };
    let mut past = Past { base: now, whole: Some(now), ..Past::default() };
    let utc = TimeZone::UTC;
    assert_eq!(due(&times, &past, &utc, 0), Some(Due { at: at("2026-06-02T00:00:00Z"), why: Why::Schedule }));
    past.failures = Some((1, now));
    assert_eq!(due(&times, &past, &utc, 0), Some(Due { at: at("2026-06-01T12:01:00Z"), why: Why::Retry }));
    past.failures = Some((7, now));
    assert_eq!(due(&times, &past, &utc, 0).unwrap().why, Why::Schedule);
    past.changes = Some((now, now));
    assert_eq!(due(&times, &past, &utc, 0), Some(Due { at: at("2026-06-01T12:00:02Z"), why: Why::Change }));
    // A file that is written all the time does not put it off for ever.
    past.changes = Some((now, at("2026-06-01T18:00:00Z")));
    assert_eq!(due(&times, &past, &utc, 0).unwrap().at, at("2026-06-01T12:00:24Z"));
    assert_eq!(due(&Times::default(), &Past { base: now, ..Past::default() }, &utc, 0), None);
    // A job that watches and has never looked at everything does so at once.
    let watching = Times { reconcile: times.reconcile, ..Times::default() };
    let never = Past { base: now, ..Past::default() };
    assert_eq!(due(&watching, &never, &utc, 0), Some(Due { at: now, why: Why::Reconcile }));
}

const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"];
const RULES: [&str; 7] =
    ["hourly", "30 2 * * *", "*/7 * * * *", "0 0 1 * *", "0 1-3 * * SUN", "every 45m", "15 3 * * MON-FRI"];

fn any_start() -> impl Strategy<Value = Timestamp> {
    // Years with changes of the clock in all of these zones.
    (1_600_000_000i64..1_900_000_000).prop_map(|second| Timestamp::from_second(second).unwrap())
}

proptest! {
    #[test]
    fn jitter_is_within_its_bound_and_the_same_when_asked_again(
        seed in any::<u64>(), start in any_start(), most in 0u64..100_000,
    ) {
        let most = Duration::from_millis(most);
        let delay = jitter(seed, start, most);
        prop_assert!(delay < most || (most.is_zero() && delay.is_zero()));
        prop_assert_eq!(delay, jitter(seed, start, most));
    }

    #[test]
    fn slots_go_forward_and_none_is_skipped(
        zone in prop::sample::select(&ZONES[..]), rule in prop::sample::select(&RULES[..]), start in any_start(),
    ) {
        let (zone, schedule) = (TimeZone::get(zone).unwrap(), schedule(rule));
        let mut last = start;
        for _ in 0..20 {
            let next = schedule.next_after(last, &zone).unwrap();
            prop_assert!(next > last);
            if !rule.starts_with("every") {
                // Asked from anywhere before it, it is the same slot.
                let before = next.checked_sub(SignedDuration::from_secs(1)).unwrap();
                if before > last {
                    prop_assert_eq!(schedule.next_after(before, &zone).unwrap(), next);
                }
            }
            last = next;
        }
    }

    /// A daemon that runs each job as it is due, is down now and then, and takes as long as it takes: no two runs
    /// overlap, each slot is served at most once, a downtime costs one run and not one per slot, and every run that
    /// is not a catch-up begins within the jitter of its slot.
    #[test]
    fn no_overlap_and_one_run_after_downtime(
        zone in prop::sample::select(&ZONES[..]),
        rule in prop::sample::select(&RULES[..]),
        start in any_start(),
        seed in any::<u64>(),
        jitter_seconds in 0u64..600,
        steps in prop::collection::vec((1i64..20_000, prop::option::weighted(0.3, 1i64..2_000_000)), 1..25),
    ) {
        let zone = TimeZone::get(zone).unwrap();
        let times = Times {
            schedule: Some(schedule(rule)),
            jitter: Duration::from_secs(jitter_seconds),
            ..Times::default()
        };
        let slots = times.schedule.clone().unwrap();
        let mut past = Past { base: start, ..Past::default() };
        let mut now = start;
        let mut ended = start;
        for (takes, down) in steps {
            if let Some(down) = down {
                // The daemon begins again: what it knows is when the latest run began.
                now = now.checked_add(SignedDuration::from_secs(down)).unwrap();
            }
            let next = due(&times, &past, &zone, seed).unwrap();
            prop_assert_eq!(next.why, Why::Schedule);
            let slot = slots.next_after(past.base, &zone).unwrap();
            let late = next.at.duration_since(slot);
            prop_assert!(late >= SignedDuration::ZERO);
            prop_assert!(late <= SignedDuration::from_secs(i64::try_from(jitter_seconds).unwrap()));
            let begins = next.at.max(now);
            prop_assert!(begins >= ended, "overlap");
            now = begins.checked_add(SignedDuration::from_secs(takes)).unwrap();
            ended = now;
            // While the daemon lives, slots that passed during the run are dropped.
            past.base = now;
            let following = due(&times, &past, &zone, seed).unwrap();
            prop_assert!(following.at > now, "a downtime is caught up on once");
        }
    }
}
