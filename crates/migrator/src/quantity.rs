//! Sizes, rates and ages as people write and read them. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use storage_core::id::FileId;

/// A text that is no size, rate or age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidQuantity(String);

impl fmt::Display for InvalidQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidQuantity {}

/// Reads a number of bytes: `16MiB`, `16M`, `1.5GiB`, `500kB`, `4096`.
///
/// `K`, `M`, `G` and `T`, alone or with `iB`, are powers of 1024; with `B` (`kB`, `MB`) powers of 1000. Case
/// does not matter, a space before the unit is allowed.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_size(text: &str) -> Result<u64, InvalidQuantity> {
    let invalid = || InvalidQuantity(format!("{text:?} is no size: write a number and a unit, as in 16MiB"));
    let trimmed = text.trim();
    let unit_at = trimmed.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(invalid()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return Err(invalid());
    }
    let too_large = || InvalidQuantity(format!("{text:?} is too large"));
    let whole: u128 = if whole.bytes().all(|byte| byte.is_ascii_digit()) {
        whole.parse().map_err(|_| too_large())?
    } else {
        return Err(invalid());
    };
    // Nine digits resolve every byte of a MiB and more than anyone writes of a TiB.
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| invalid())?);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().map_err(|_| invalid())? };
    let bytes = whole
        .checked_mul(u128::from(factor))
        .and_then(|whole| whole.checked_add(part * u128::from(factor) / scale))
        .ok_or_else(too_large)?;
    u64::try_from(bytes).map_err(|_| too_large())
}

/// Reads a number of bytes per second: `10MiB/s`, `10M`.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_rate(text: &str) -> Result<u64, InvalidQuantity> {
    let size = text.trim();
    let size = size.strip_suffix("/s").or_else(|| size.strip_suffix("/S")).unwrap_or(size);
    let invalid = |_| InvalidQuantity(format!("{text:?} is no rate: write bytes per second, as in 10MiB/s"));
    let rate = parse_size(size).map_err(invalid)?;
    if rate == 0 {
        return Err(InvalidQuantity("a rate of 0 would never end: leave the limit out instead".to_owned()));
    }
    Ok(rate)
}

/// Reads an age: `90s`, `30m`, `1h30m`, `7d`; also `w`, and as rclone has them `M` (30 days) and `y` (365 days).
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_age(text: &str) -> Result<Duration, InvalidQuantity> {
    let invalid = || {
        InvalidQuantity(format!("{text:?} is no age: write numbers with s, m, h, d or w, as in 36h or 1h30m"))
    };
    let mut rest = text.trim();
    let mut age = 0_u64;
    loop {
        let unit_at = rest.find(|char: char| !char.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, behind) = rest.split_at(unit_at);
        let next_at = behind.find(|char: char| char.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at(next_at);
        let seconds: u64 = match unit {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            "M" => 30 * 86_400,
            "y" => 365 * 86_400,
            _ => return Err(invalid()),
        };
        let number: u64 = number.parse().map_err(|_| invalid())?;
        age = number.checked_mul(seconds).and_then(|part| age.checked_add(part)).ok_or_else(invalid)?;
        if next.is_empty() {
            return Ok(Duration::from_secs(age));
        }
        rest = next;
    }
}

/// A moment, as a user writes it: so long ago, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long before now.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

impl Since {
    /// Returns the moment; nothing where it lies before all times.
    pub fn at(self, now: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Ago(age) => now.checked_sub(age),
            Self::At(time) => Some(time.into()),
        }
    }
}

impl FromStr for Since {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        if let Ok(age) = parse_age(text) {
            return Ok(Self::Ago(age));
        }
        let text = text.trim();
        let local = |time: DateTime| time.to_zoned(TimeZone::system()).map(|time| time.timestamp());
        let time = text.parse::<Timestamp>().or_else(|_| text.parse::<DateTime>().and_then(local));
        time.map(Self::At).map_err(|_| {
            InvalidQuantity(format!(
                "{text:?} is neither an age nor a time: write one as in 36h or 1h30m, the other as in 2026-11-01 or \
                 2026-11-01T08:00:00Z"
            ))
        })
    }
}

/// Writes a number of bytes for a reader: `0 B`, `1023 B`, `1.5 KiB`, `16.0 MiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for next in UNITS {
        if tenths < 10_235 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Writes a duration for a reader, to the second: `8s`, `2m 05s`, `3h 04m`, `2d 03h`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Writes a number with its noun: `1 file`, `2 files`.
pub fn show_count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Makes a name safe to show: control characters, and characters that reorder or hide text on a terminal, are
/// escaped; so is the backslash, so that what is shown is not ambiguous.
pub fn show_name(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    for char in name.chars() {
        if char == '\\' || char.is_control() || is_format(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// As [`show_name`], for what a run tells of: a file's name, or the path of what has none, which is escaped already.
pub fn show_subject(subject: &str) -> String {
    if FileId::parse(subject).is_ok() { show_name(subject) } else { show_text(subject) }
}

/// Makes a text of several sentences safe to show: as [`show_name`], but backslashes stay, as they come from
/// names that were escaped already.
pub fn show_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() || is_format(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Bidirectional controls, characters of no width and separators of lines (Unicode TR 36, section 3).
fn is_format(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_mean_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("16MiB", 16 << 20),
            ("16 mib", 16 << 20),
            ("16M", 16 << 20),
            ("16MB", 16_000_000),
            ("1.5GiB", 3 << 29),
            ("0.5k", 512),
            ("5 GiB", 5 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "MiB", "-1", "1..5M", "1.M", ".5M", "16Mbit", "16MiB/s", "1e3", "٣", "16777216T", "1_000"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        assert_eq!(parse_rate("10MiB/s"), Ok(10 << 20));
        assert_eq!(parse_rate("10M"), Ok(10 << 20));
        assert!(parse_rate("0").is_err());
        assert!(parse_rate("fast").unwrap_err().to_string().contains("10MiB/s"));
    }

    #[test]
    fn a_moment_is_an_age_or_a_time() {
        let time = |text: &str| Since::At(text.parse().unwrap());
        assert_eq!("1h30m".parse(), Ok(Since::Ago(Duration::from_secs(5400))));
        assert_eq!("2026-11-01T08:00:00Z".parse(), Ok(time("2026-11-01T08:00:00Z")));
        assert_eq!("2026-11-01T08:00:00+02:00".parse(), Ok(time("2026-11-01T06:00:00Z")));
        let midnight: DateTime = "2026-11-01T00:00:00".parse().unwrap();
        let midnight = midnight.to_zoned(TimeZone::system()).unwrap().timestamp();
        for text in ["2026-11-01", "2026-11-01T00:00:00", "2026-11-01 00:00:00"] {
            assert_eq!(text.parse(), Ok(Since::At(midnight)), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "2026-11", "2026"] {
            let error = text.parse::<Since>().unwrap_err().to_string();
            assert!(error.contains("1h30m") && error.contains("2026-11-01"), "{text}: {error}");
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5401);
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(Since::Ago(Duration::from_secs(5400)).at(now), Some(second));
        assert_eq!(time("1970-01-01T00:00:01Z").at(now), Some(second));
    }

    #[test]
    fn an_escaped_path_is_not_escaped_again() {
        assert_eq!(show_subject("./bad\\xff"), "./bad\\xff");
        assert_eq!(show_subject("bad\\xff/"), "bad\\xff/");
        assert_eq!(show_subject("bad\\xff"), "bad\\\\xff", "a file's own name");
        assert_eq!(show_subject("./bad\u{1b}"), "./bad\\u{1b}");
    }

    #[test]
    fn ages_need_a_unit() {
        assert_eq!(parse_age("36h"), Ok(Duration::from_secs(36 * 3600)));
        assert_eq!(parse_age("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_age("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_age("1d2h3m4s"), Ok(Duration::from_secs(93_784)));
        assert_eq!(parse_age("2w"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(parse_age("1M"), Ok(Duration::from_secs(30 * 86_400)), "as rclone has it, and no minute");
        for text in [
            "",
            "3",
            "h",
            "1x",
            "1h30",
            "1h 30m",
            "1hm",
            "-1h",
            "99999999999999999999d",
            "9999999999999999999d",
        ] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (16 << 20, "16.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(show_name("a\x1b[2Jb\r\nc"), "a\\u{1b}[2Jb\\r\\nc");
        assert_eq!(show_name("safe\u{202e}txt.exe"), "safe\\u{202e}txt.exe");
        assert_eq!(show_name("a\\nb"), "a\\\\nb");
        assert_eq!(show_name("élan \u{9b}1m"), "élan \\u{9b}1m");
    }

    proptest! {
        #[test]
        fn what_is_shown_holds_no_control_character(name in any::<String>()) {
            prop_assert!(!show_name(&name).chars().any(char::is_control));
            prop_assert!(!show_text(&name).chars().any(char::is_control));
        }

        #[test]
        fn a_size_in_bytes_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        }
    }
}
