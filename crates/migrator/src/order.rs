//! In which order files are copied. Pure, but for the temporary files of [`spool`].

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use storage_core::metadata::FileMetadata;

pub mod spool;

/// In which order files are copied; of those that are alike in it, in that of their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Byte order of names: as the source lists them, so copying begins at once.
    #[default]
    Name,
    /// The smallest first.
    Smallest,
    /// The largest first.
    Largest,
    /// What was changed last first.
    Newest,
    /// What was changed longest ago first.
    Oldest,
}

impl Order {
    /// Returns what files are sorted by, ascending. Files whose time is not known come last.
    pub fn key(self, file: &FileMetadata) -> u64 {
        match self {
            Self::Name => 0,
            Self::Smallest => file.size,
            Self::Largest => u64::MAX - file.size,
            Self::Oldest => file.modified.map_or(u64::MAX, nanos),
            Self::Newest => file.modified.map_or(u64::MAX, |time| u64::MAX - nanos(time)),
        }
    }
}

/// Nanoseconds since 1970, in the middle of the range; times further than 292 years away are taken for that.
fn nanos(time: SystemTime) -> u64 {
    const MIDDLE: u64 = 1 << 63;
    let distance = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => MIDDLE.saturating_add(distance(after)),
        Err(before) => MIDDLE.saturating_sub(distance(before.duration())),
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "name" => Ok(Self::Name),
            "size" => Ok(Self::Smallest),
            "size,desc" => Ok(Self::Largest),
            "newest" => Ok(Self::Newest),
            "oldest" => Ok(Self::Oldest),
            _ => Err("expected name, size, \"size,desc\", newest or oldest".to_owned()),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Smallest => "size",
            Self::Largest => "size,desc",
            Self::Newest => "newest",
            Self::Oldest => "oldest",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storage_core::id::FileId;

    use super::*;

    fn file(name: &str, size: u64, modified: Option<SystemTime>) -> FileMetadata {
        let mut file = FileMetadata::new(FileId::parse(name).unwrap(), size);
        file.modified = modified;
        file
    }

    #[test]
    fn every_order_sorts_as_its_name_says() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        let before = Some(UNIX_EPOCH - Duration::from_secs(5));
        let files =
            [file("a", 5, at(7)), file("b", u64::MAX, None), file("c", 0, before), file("d", 5, at(9))];
        for (order, expected) in [
            ("name", "abcd"),
            ("size", "cadb"),
            ("size,desc", "badc"),
            ("newest", "dacb"),
            ("oldest", "cadb"),
        ] {
            let order: Order = order.parse().unwrap();
            let mut sorted: Vec<_> = files.iter().map(|file| (order.key(file), file.id.as_str())).collect();
            sorted.sort_unstable();
            assert_eq!(sorted.iter().map(|(_, name)| *name).collect::<String>(), expected, "{order}");
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        for wrong in ["", "Size", "size,asc", "mixed"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_beyond_the_range_are_in_order() {
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        let long_ago = UNIX_EPOCH - Duration::from_secs(1 << 40);
        assert!(
            Order::Newest.key(&file("a", 0, Some(far))) < Order::Newest.key(&file("a", 0, Some(long_ago)))
        );
        assert!(
            Order::Oldest.key(&file("a", 0, Some(long_ago))) < Order::Oldest.key(&file("a", 0, at_now()))
        );
    }

    fn at_now() -> Option<SystemTime> {
        Some(SystemTime::now())
    }
}
