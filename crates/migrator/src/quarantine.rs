//! Where files go before they are deleted, and until when they stay there. Pure.
//!
//! A file `photos/a` that a run removes becomes `.quarantine/until-20261203T134500.123456789Z-run-12/photos/a` of the
//! same storage. The name alone says when it may be deleted, so that whoever lists the storage can tell, and a cleanup
//! needs neither the ledger nor the options of the run. Whatever has exactly this form is no file to scans, copies and
//! audits; everything else beneath `.quarantine/` is.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use storage_core::id::{FileId, InvalidId};

use crate::ledger::RunId;

/// The first segment of every id in quarantine.
pub const ROOT: &str = ".quarantine";

const FORMAT: &str = "%Y%m%dT%H%M%S.%9fZ";

/// The drawer of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawer(String);

impl Drawer {
    /// Makes the drawer of a run, whose files may be deleted from `until` on. Two runs never share one: `until` is
    /// different to the nanosecond.
    pub fn new(until: Timestamp, run: RunId) -> Self {
        Self(format!("until-{}-run-{run}", written(until)))
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns the id that a file has in this drawer.
    ///
    /// # Errors
    /// [`InvalidId::TooLong`]: the file's own id is nearly as long as an id can be.
    pub fn place(&self, id: &FileId) -> Result<FileId, InvalidId> {
        FileId::parse(format!("{ROOT}/{}/{id}", self.0))
    }
}

/// Returns when what is in the drawer of this name may be deleted; nothing where it is no drawer's name.
pub fn expiry_of_drawer(name: &str) -> Option<Timestamp> {
    let (until, run) = name.strip_prefix("until-")?.split_once("-run-")?;
    let number = !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_digit());
    read(until).filter(|_| number)
}

fn written(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).datetime().strftime(FORMAT).to_string()
}

fn read(text: &str) -> Option<Timestamp> {
    DateTime::strptime(FORMAT, text).ok()?.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
}

/// How long a drawer takes files.
const TAKES: SignedDuration = SignedDuration::from_hours(1);

/// The drawers of a run that moves files as it goes: each takes files for an hour, so that in the longest run none is
/// deleted before it was there for its time, and none more than an hour later.
#[derive(Clone, Debug)]
pub struct Drawers {
    stay: Duration,
    run: RunId,
    current: Option<(Timestamp, Drawer)>,
}

impl Drawers {
    /// Makes those of a run whose files are to stay for so long.
    pub fn new(stay: Duration, run: RunId) -> Self {
        Self { stay, run, current: None }
    }

    /// Returns the drawer for what is moved now.
    ///
    /// # Errors
    /// They would stay beyond all calendars.
    pub fn at(&mut self, now: Timestamp) -> Result<Drawer, jiff::Error> {
        match &self.current {
            Some((since, drawer)) if now.duration_since(*since) < TAKES => Ok(drawer.clone()),
            _ => {
                let stay = SignedDuration::try_from(self.stay)?;
                let drawer = Drawer::new(now.checked_add(TAKES)?.checked_add(stay)?, self.run);
                self.current = Some((now, drawer.clone()));
                Ok(drawer)
            }
        }
    }
}

const MARK: &str = "moved-by-run-";

/// What a run leaves where it moved files away, so that another ledger can tell that it does not know which: number and
/// beginning of the run, which no two runs of whatever ledgers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The run's number.
    pub run: RunId,
    /// When it began.
    pub started: Timestamp,
}

impl Mark {
    /// Returns its name.
    pub fn name(&self) -> String {
        format!("{MARK}{}-{}", self.run, written(self.started))
    }

    /// Reads a name; nothing where it is no mark's.
    pub fn parse(name: &str) -> Option<Self> {
        let (run, started) = name.strip_prefix(MARK)?.split_once('-')?;
        Some(Self { run: RunId(run.parse().ok()?), started: read(started)? })
    }
}

/// What stays in a quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Staying {
    /// Number of files whose time is not over.
    pub files: u64,
    /// When the time of the first of them is over.
    pub earliest: Option<Timestamp>,
    /// When that of the last is.
    pub latest: Option<Timestamp>,
}

impl Staying {
    /// Adds a file that stays until then.
    pub fn add(&mut self, until: Timestamp) {
        self.files += 1;
        self.earliest = Some(self.earliest.map_or(until, |earliest| earliest.min(until)));
        self.latest = Some(self.latest.map_or(until, |latest| latest.max(until)));
    }
}

/// Returns until when what is in this place of a directory stays; nothing where it is in no drawer.
pub fn expiry_of_place(place: &str) -> Option<Timestamp> {
    // The file's own name comes after the drawer's.
    place.split('/').find_map(expiry_of_drawer)
}

/// Tells whether a file is in quarantine.
pub fn holds(id: &FileId) -> bool {
    expiry(id).is_some()
}

/// Returns when a file in quarantine may be deleted; nothing where it is not in quarantine.
pub fn expiry(id: &FileId) -> Option<Timestamp> {
    // Asked of every file of a listing.
    let (drawer, _) = id.as_str().strip_prefix(ROOT)?.strip_prefix('/')?.split_once('/')?;
    expiry_of_drawer(drawer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> FileId {
        FileId::parse(text).unwrap()
    }

    #[test]
    fn a_name_says_until_when() {
        let until: Timestamp = "2026-12-03T13:45:00.123456789Z".parse().unwrap();
        let place = Drawer::new(until, RunId(12)).place(&id("photos/a b")).unwrap();
        assert_eq!(place.as_str(), ".quarantine/until-20261203T134500.123456789Z-run-12/photos/a b");
        assert_eq!(expiry(&place), Some(until));
        let whole: Timestamp = "2026-12-03T13:45:00Z".parse().unwrap();
        assert_eq!(expiry(&Drawer::new(whole, RunId(1)).place(&id("a")).unwrap()), Some(whole));
    }

    #[test]
    fn what_stays_is_told_from_the_first_to_the_last() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut staying = Staying::default();
        for until in ["2026-12-05T00:00:00Z", "2026-12-03T00:00:00Z", "2026-12-04T00:00:00Z"] {
            staying.add(time(until));
        }
        let expected = (3, Some(time("2026-12-03T00:00:00Z")), Some(time("2026-12-05T00:00:00Z")));
        assert_eq!((staying.files, staying.earliest, staying.latest), expected);
        let drawer = Drawer::new(time("2026-12-03T00:00:00Z"), RunId(1));
        let other = Drawer::new(time("2027-12-03T00:00:00Z"), RunId(2));
        let place = format!(".storage/quarantine/0a/{}/{}/x", drawer.name(), other.name());
        assert_eq!(expiry_of_place(&place), Some(time("2026-12-03T00:00:00Z")));
        assert_eq!(expiry_of_place("a/b"), None);
    }

    #[test]
    fn what_only_looks_like_it_is_a_file() {
        for text in [
            ".quarantine",
            ".quarantine/a",
            ".quarantine/until-20261203T134500.123456789Z-run-12",
            ".quarantine/until-20261203T134500.123456789Z-run-/a",
            ".quarantine/until-20261203T134500.123456789Z-run-1x/a",
            ".quarantine/until-2026-run-1/a",
            ".quarantine/until-20261303T134500.123456789Z-run-1/a",
            "x/.quarantine/until-20261203T134500.123456789Z-run-12/a",
            ".quarantines/until-20261203T134500.123456789Z-run-12/a",
        ] {
            assert!(!holds(&id(text)), "{text}");
        }
    }

    #[test]
    fn a_file_is_not_deleted_before_its_time_however_long_the_run_takes() {
        let start: Timestamp = "2026-12-03T13:45:00Z".parse().unwrap();
        let mut drawers = Drawers::new(Duration::from_secs(24 * 3600), RunId(1));
        let mut seen = std::collections::BTreeSet::new();
        for minutes in (0..10 * 60).step_by(7) {
            let now = start + SignedDuration::from_mins(minutes);
            let drawer = drawers.at(now).unwrap();
            let stays = expiry_of_drawer(drawer.name()).unwrap().duration_since(now);
            assert!(
                stays > SignedDuration::from_hours(24) && stays <= SignedDuration::from_hours(25),
                "{stays}"
            );
            seen.insert(drawer.name().to_owned());
        }
        assert!((8..=10).contains(&seen.len()), "{seen:?}");
        assert!(Drawers::new(Duration::MAX, RunId(1)).at(start).is_err());
    }

    #[test]
    fn a_mark_reads_back_and_is_no_drawer() {
        let mark = Mark { run: RunId(12), started: "2026-12-03T13:45:00.123456789Z".parse().unwrap() };
        assert_eq!(mark.name(), "moved-by-run-12-20261203T134500.123456789Z");
        assert_eq!(Mark::parse(&mark.name()), Some(mark));
        assert_eq!(expiry_of_drawer(&mark.name()), None);
        for name in ["moved-by-run-12", "moved-by-run-x-20261203T134500.123456789Z", "moved-by-run-1-2026"] {
            assert_eq!(Mark::parse(name), None, "{name}");
        }
    }

    #[test]
    fn an_id_that_is_too_long_is_refused_and_not_cut() {
        let drawer = Drawer::new(Timestamp::UNIX_EPOCH, RunId(1));
        assert!(matches!(drawer.place(&id(&"a".repeat(1024))), Err(InvalidId::TooLong(_))));
    }
}
