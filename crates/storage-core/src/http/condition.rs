//! Validators, preconditions and ranges of RFC 9110: what a request asks for, given what is stored. Pure.

use std::time::UNIX_EPOCH;

use axum::http::HeaderMap;
use axum::http::header::{self, HeaderName};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

use crate::checksum::Digest;
use crate::metadata::FileMetadata;
use crate::storage::ByteRange;

/// Hex digits of an entity tag: enough that two versions never meet.
const TAG_DIGITS: usize = 32;

/// What tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators {
    /// A strong entity tag without its quotes: a hash of the version, which itself tells of the disk.
    tag: Option<String>,
    /// In whole seconds, as HTTP dates are.
    modified: Option<u64>,
}

/// What the preconditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Do what is asked.
    Go,
    /// The client has it already.
    NotModified,
    /// 412.
    Failed,
}

/// Which bytes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    One(ByteRange),
    /// 416.
    Unsatisfiable,
}

impl Validators {
    pub(super) fn of(metadata: &FileMetadata) -> Self {
        let tag = metadata.version.as_ref().map(|version| {
            let mut tag = Digest::of(version.as_str().as_bytes()).to_string();
            tag.truncate(TAG_DIGITS);
            tag
        });
        let since = metadata.modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
        Self { tag, modified: since.map(|since| since.as_secs()) }
    }

    /// The `ETag` header.
    pub(super) fn etag(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("\"{tag}\""))
    }

    /// The `Last-Modified` header.
    pub(super) fn last_modified(&self) -> Option<String> {
        let modified = Timestamp::from_second(i64::try_from(self.modified?).ok()?).ok()?;
        rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&modified).ok()
    }

    /// Tells whether the header names this version; weak tags count only where `weak` is set.
    fn named_in(&self, headers: &HeaderMap, name: HeaderName, weak: bool) -> bool {
        let Some(own) = &self.tag else { return false };
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|list| tags(list).any(|tag| tag.text == own && (weak || !tag.weak)))
    }

    fn modified_since(&self, headers: &HeaderMap, name: HeaderName) -> Option<bool> {
        Some(self.modified? > date(headers, name)?)
    }
}

/// Evaluates the preconditions, in the order of RFC 9110 section 13.2.2. `stored` is nothing where there is no file.
pub(super) fn evaluate(headers: &HeaderMap, stored: Option<&Validators>, read: bool) -> Verdict {
    if headers.contains_key(header::IF_MATCH) {
        let holds = stored.is_some_and(|stored| {
            any(headers, header::IF_MATCH) || stored.named_in(headers, header::IF_MATCH, false)
        });
        if !holds {
            return Verdict::Failed;
        }
    } else if stored.and_then(|stored| stored.modified_since(headers, header::IF_UNMODIFIED_SINCE))
        == Some(true)
    {
        return Verdict::Failed;
    }
    let unchanged = if headers.contains_key(header::IF_NONE_MATCH) {
        stored.is_some_and(|stored| {
            any(headers, header::IF_NONE_MATCH) || stored.named_in(headers, header::IF_NONE_MATCH, true)
        })
    } else {
        read && stored.and_then(|stored| stored.modified_since(headers, header::IF_MODIFIED_SINCE))
            == Some(false)
    };
    match (unchanged, read) {
        (false, _) => Verdict::Go,
        (true, true) => Verdict::NotModified,
        (true, false) => Verdict::Failed,
    }
}

/// Reads the range of a GET of a file of `size` bytes. Several ranges, other units and what cannot be understood
/// are ignored, as RFC 9110 section 14.2 allows: the answer is the whole file.
pub(super) fn part(headers: &HeaderMap, stored: &Validators, size: u64) -> Part {
    let mut ranges = headers.get_all(header::RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Part::All };
    // A date is too coarse to prove that two versions are one (section 13.1.5).
    if headers.contains_key(header::IF_RANGE) && !stored.named_in(headers, header::IF_RANGE, false) {
        return Part::All;
    }
    match range.to_str().ok().and_then(byte_range) {
        None => Part::All,
        Some(range) if range.resolve(size).is_none() => Part::Unsatisfiable,
        Some(range) => Part::One(range),
    }
}

/// Tells whether any condition or range is there: whether the file must be looked at before it is sent.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    ![
        header::IF_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::RANGE,
    ]
    .iter()
    .any(|name| headers.contains_key(name))
}

/// Tells whether the header is `*`.
pub(super) fn any(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.get(name).is_some_and(|value| value.as_bytes().trim_ascii() == b"*")
}

fn byte_range(text: &str) -> Option<ByteRange> {
    let (unit, range) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => number(last).map(ByteRange::Last),
        (false, true) => number(first).map(ByteRange::From),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| ByteRange::Between(first, last.saturating_add(1)))
        }
    }
}

/// A number of any length: one that is greater than every file is still a number.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    // No file is older than 1970.
    Some(u64::try_from(date.as_second()).unwrap_or(0))
}

struct Tag<'a> {
    weak: bool,
    text: &'a str,
}

/// Reads a list of entity tags up to the first thing that is none.
fn tags(list: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let strong = rest.strip_prefix("W/");
        let (weak, quoted) = (strong.is_some(), strong.unwrap_or(rest).strip_prefix('"')?);
        let (text, behind) = quoted.split_once('"')?;
        rest = behind;
        Some(Tag { weak, text })
    })
}

#[cfg(test)]
mod tests;
