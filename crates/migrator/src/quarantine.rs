//! Where files go before they are deleted, and until when they stay there. Pure.
//!
//! A file `photos/a` that a run removes becomes `.quarantine/until-20261203T134500.123456789Z-run-12/photos/a` of the
//! same storage. The name alone says when it may be deleted, so that whoever lists the storage can tell, and a cleanup
//! needs neither the ledger nor the options of the run. Whatever has exactly this form is no file to scans, copies and
//! audits; everything else beneath `.quarantine/` is.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
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
        let until = until.to_zoned(TimeZone::UTC).datetime().strftime(FORMAT);
        Self(format!("until-{until}-run-{run}"))
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
    let until = DateTime::strptime(FORMAT, until).ok().filter(|_| number)?;
    until.to_zoned(TimeZone::UTC).ok().map(|until| until.timestamp())
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
    fn an_id_that_is_too_long_is_refused_and_not_cut() {
        let drawer = Drawer::new(Timestamp::UNIX_EPOCH, RunId(1));
        assert!(matches!(drawer.place(&id(&"a".repeat(1024))), Err(InvalidId::TooLong(_))));
    }
}
