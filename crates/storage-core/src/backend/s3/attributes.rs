//! A file's attributes as S3 user metadata, and back: pure functions, for whoever sends `x-amz-meta-` headers
//! and for whoever receives them.
//!
//! HTTP carries visible ASCII only, folds the case of names and the number of spaces, and a server may decode
//! what looks like an RFC 2047 encoded word; so values are percent-encoded. Names are worse: proxies and servers
//! silently drop a header whose name holds anything but letters, digits and `-`, a `%` included, and gateways
//! fold `_` into `-`; so a key that is more than that is written in hex.
//!
//! | name | value |
//! |---|---|
//! | `file-name` | percent-encoded |
//! | `created` | RFC 3339 with nanoseconds, UTC |
//! | `sha256` | 64 hex digits |
//! | `part-size` | decimal |
//! | `tag-<key>` | percent-encoded; the key is lower-case letters, digits and `-` |
//! | `tagx-<hex>` | percent-encoded; the hex digits are the UTF-8 of any other key |
//! | any other | another tool's (rclone's `mtime`): the tag `x-amz-meta-<name>`, its value as it is |

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::checksum::Digest;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::metadata::Tags;

/// Most bytes of names (without `x-amz-meta-`) and values together that S3 takes ("User-defined object
/// metadata", Amazon S3 User Guide).
pub const MAX_BYTES: usize = 2048;

/// What the name of a header with user metadata begins with, and the name of a tag that stands for another
/// tool's metadata.
pub const HEADER_PREFIX: &str = "x-amz-meta-";

const FILE_NAME: &str = "file-name";
const CREATED: &str = "created";
const SHA256: &str = "sha256";
const PART_SIZE: &str = "part-size";
const TAG_PREFIX: &str = "tag-";
const HEX_TAG_PREFIX: &str = "tagx-";

/// Not `?`, so that no value holds the `=?` of an encoded word.
const VALUE: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'"').add(b'\\');

/// Attributes of a file that travel as user metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The name the user knows the file by.
    pub file_name: Option<String>,
    /// When the content came into being.
    pub created: Option<SystemTime>,
    /// Key-value pairs; the key `x-amz-meta-<name>` stands for metadata of another tool.
    pub tags: Tags,
    /// SHA-256 of the whole content.
    pub digest: Option<Digest>,
    /// Size in bytes of every part but the last, of a file that was stored in parts.
    pub part_size: Option<u64>,
}

/// Writes attributes as user metadata, names without `x-amz-meta-`.
///
/// [`decode`] gives back what was encoded, whatever the texts hold.
pub fn encode(attributes: &Attributes) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for (key, value) in &attributes.tags {
        match foreign_name(key) {
            Some(name) => map.insert(name.to_owned(), encode_foreign(value)),
            None => map.insert(encode_key(key), encode_value(value)),
        };
    }
    if let Some(file_name) = &attributes.file_name {
        map.insert(FILE_NAME.to_owned(), encode_value(file_name));
    }
    if let Some(created) = attributes.created {
        map.insert(CREATED.to_owned(), encode_time(created));
    }
    if let Some(digest) = attributes.digest {
        map.insert(SHA256.to_owned(), digest.to_string());
    }
    if let Some(part_size) = attributes.part_size {
        map.insert(PART_SIZE.to_owned(), part_size.to_string());
    }
    map
}

/// Reads user metadata, names without `x-amz-meta-`. Nothing is dropped: what is not ours, or does not parse,
/// becomes a tag `x-amz-meta-<name>`.
pub fn decode(metadata: &BTreeMap<String, String>) -> Attributes {
    let mut attributes = Attributes::default();
    for (name, value) in metadata {
        let name = name.to_ascii_lowercase();
        let value = decode_words(value);
        let taken = match name.as_str() {
            FILE_NAME => put(&mut attributes.file_name, Some(decode_text(&value))),
            CREATED => put(&mut attributes.created, decode_time(&value)),
            SHA256 => put(&mut attributes.digest, value.parse().ok()),
            PART_SIZE => put(&mut attributes.part_size, value.parse().ok().filter(|size| *size > 0)),
            _ => match decode_key(&name) {
                Some(key) => {
                    attributes.tags.insert(key, decode_text(&value));
                    true
                }
                None => false,
            },
        };
        if !taken {
            attributes.tags.insert(format!("{HEADER_PREFIX}{name}"), value);
        }
    }
    attributes
}

/// Returns the bytes that count towards [`MAX_BYTES`].
pub fn size(metadata: &BTreeMap<String, String>) -> usize {
    metadata.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Checks that user metadata is within the limit of S3.
///
/// # Errors
/// [`ErrorKind::InvalidInput`], naming the size and the limit.
pub fn check_size(metadata: &BTreeMap<String, String>, op: Op) -> Result<()> {
    let size = size(metadata);
    if size <= MAX_BYTES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, op).with_message(format!(
        "file name, tags and other attributes take {size} bytes as S3 user metadata, {MAX_BYTES} are allowed"
    )))
}

fn put<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    *slot = value;
    slot.is_some()
}

/// Returns the header name, without its prefix, that a tag of this key stands for: not where it would be taken
/// for one of ours.
fn foreign_name(key: &str) -> Option<&str> {
    let name = key.strip_prefix(HEADER_PREFIX)?;
    let ours = matches!(name, FILE_NAME | CREATED | SHA256 | PART_SIZE)
        || name.starts_with(TAG_PREFIX)
        || name.starts_with(HEX_TAG_PREFIX);
    // `tchar` of RFC 9110 section 5.6.2, in lower case.
    let token =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!ours && !name.is_empty() && name.bytes().all(token)).then_some(name)
}

fn encode_key(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !key.is_empty() && key.bytes().all(plain) {
        return format!("{TAG_PREFIX}{key}");
    }
    format!("{HEX_TAG_PREFIX}{}", hex::encode(key))
}

/// Reads the key of a tag from the name of its header, where it is one of ours.
fn decode_key(name: &str) -> Option<String> {
    if let Some(key) = name.strip_prefix(TAG_PREFIX) {
        return (!key.is_empty()).then(|| key.to_owned());
    }
    let bytes = hex::decode(name.strip_prefix(HEX_TAG_PREFIX)?).ok()?;
    String::from_utf8(bytes).ok().filter(|key| encode_key(key) == name)
}

fn encode_value(value: &str) -> String {
    utf8_percent_encode(value, VALUE).to_string()
}

fn decode_text(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), |text| text.into_owned())
}

fn encode_time(time: SystemTime) -> String {
    if let Ok(timestamp) = Timestamp::try_from(time) {
        return format!("{timestamp:.9}");
    }
    // Behind the year 9999, where RFC 3339 ends: seconds since 1970 instead.
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => format!("@{}.{:09}", after.as_secs(), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            format!("@-{}.{:09}", before.as_secs(), before.subsec_nanos())
        }
    }
}

fn decode_time(text: &str) -> Option<SystemTime> {
    let Some(seconds) = text.strip_prefix('@') else {
        return text.parse::<Timestamp>().ok().map(SystemTime::from);
    };
    let (seconds, before) = seconds.strip_prefix('-').map_or((seconds, false), |seconds| (seconds, true));
    let (seconds, nanos) = seconds.split_once('.')?;
    let nanos = nanos.parse().ok().filter(|nanos| nanos < &1_000_000_000)?;
    let distance = Duration::new(seconds.parse().ok()?, nanos);
    if before { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

/// Writes another tool's value as it is where a header can carry it, else as encoded words (RFC 2047), which
/// is what S3 itself answers.
fn encode_foreign(value: &str) -> String {
    let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && value.trim_matches(' ') == value
        && !value.contains("  ")
        && !value.contains("=?");
    if plain {
        return value.to_owned();
    }
    // 45 bytes are 60 of base64: a word has at most 75.
    let mut words = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let (word, tail) = rest.split_at(rest.floor_char_boundary(45));
        words.push(format!("=?UTF-8?B?{}?=", BASE64.encode(word)));
        rest = tail;
    }
    words.join(" ")
}

/// Decodes the encoded words of RFC 2047 in a value; white space between two of them does not count.
fn decode_words(value: &str) -> String {
    let mut decoded = String::with_capacity(value.len());
    let mut rest = value;
    let mut after_word = false;
    while let Some(start) = rest.find("=?") {
        let (before, candidate) = rest.split_at(start);
        let Some((text, length)) = decode_word(candidate) else {
            decoded.push_str(&rest[..start + 2]);
            rest = &rest[start + 2..];
            after_word = false;
            continue;
        };
        if !after_word || !before.bytes().all(|byte| byte == b' ' || byte == b'\t') {
            decoded.push_str(before);
        }
        decoded.push_str(&text);
        rest = &candidate[length..];
        after_word = true;
    }
    decoded.push_str(rest);
    decoded
}

/// Decodes the encoded word that `text` begins with, and returns it with its length.
fn decode_word(text: &str) -> Option<(String, usize)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    let (encoding, rest) = rest.split_once('?')?;
    let (payload, _) = rest.split_once("?=")?;
    let length = 2 + charset.len() + 1 + encoding.len() + 1 + payload.len() + 2;
    let bytes = match encoding {
        "B" | "b" => BASE64.decode(payload).ok()?,
        "Q" | "q" => decode_q(payload)?,
        _ => return None,
    };
    // RFC 2231 section 5 lets a language follow the charset.
    let charset = charset.split('*').next().unwrap_or(charset);
    let text = if charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii") {
        String::from_utf8(bytes).ok()?
    } else if charset.eq_ignore_ascii_case("iso-8859-1") {
        bytes.into_iter().map(char::from).collect()
    } else {
        return None;
    };
    Some((text, length))
}

fn decode_q(payload: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(payload.len());
    let mut rest = payload.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => {
                let digits = [rest.next()?, rest.next()?];
                *hex::decode(digits).ok()?.first()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(attributes: &Attributes) {
        let encoded = encode(attributes);
        for (name, value) in &encoded {
            assert!(
                name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()),
                "{name:?}"
            );
            assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{value:?}");
            assert_eq!(value.trim(), value);
        }
        assert_eq!(&decode(&encoded), attributes, "{encoded:?}");
    }

    #[test]
    fn text_that_headers_mangle_survives() {
        let mut attributes = Attributes {
            file_name: Some(" Jahresbericht +1% \u{e9}\u{1f600}\n=?UTF-8?B?eA==?= ".to_owned()),
            created: Some(UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789)),
            digest: Some(Digest::of(b"x")),
            part_size: Some(5 << 20),
            ..Attributes::default()
        };
        for (key, value) in [
            ("Upper and_lower", "two  spaces"),
            ("upper and_lower", "\u{a0}"),
            ("%41", "%41"),
            ("\u{c9}A", ""),
            ("x-amz-meta-mtime", "1700000000.123456789"),
            ("x-amz-meta-non-ascii", "\u{df}".repeat(50).as_str()),
            ("x-amz-meta-word", "a =?UTF-8?B?eA==?= b"),
            ("x-amz-meta-sha256", "of a user's own"),
            ("x-amz-meta-tag-a", "not the tag a"),
            ("x-amz-meta-Upper", "case"),
        ] {
            attributes.tags.insert(key.to_owned(), value.to_owned());
        }
        round_trip(&attributes);
        let encoded = encode(&attributes);
        assert_eq!(encoded["mtime"], "1700000000.123456789");
        assert_eq!(encoded["created"], "2023-11-14T22:13:20.123456789Z");
        assert_eq!(encoded["tagx-557070657220616e645f6c6f776572"], "two%20%20spaces");
    }

    #[test]
    fn times_before_1970_and_beyond_rfc_3339_survive() {
        for created in [
            UNIX_EPOCH,
            UNIX_EPOCH - Duration::new(1, 1),
            UNIX_EPOCH + Duration::new(1 << 40, 5),
            UNIX_EPOCH - Duration::new(1 << 40, 5),
        ] {
            round_trip(&Attributes { created: Some(created), ..Attributes::default() });
        }
    }

    #[test]
    fn encoded_words_of_other_tools_are_understood() {
        for (value, text) in [
            ("=?UTF-8?B?w6k=?=", "\u{e9}"),
            ("=?utf-8?q?=C3=A9_x?=", "\u{e9} x"),
            ("=?ISO-8859-1?Q?=E9?=", "\u{e9}"),
            ("a =?UTF-8?Q?b?= =?UTF-8?Q?c?= d", "a bc d"),
            ("=?UTF-8?X?w6k=?=", "=?UTF-8?X?w6k=?="),
            ("=?UTF-8?B?w6k", "=?UTF-8?B?w6k"),
        ] {
            assert_eq!(decode_words(value), text);
        }
    }

    #[test]
    fn what_does_not_parse_is_kept_as_a_tag() {
        let foreign = [
            ("created", "yesterday"),
            ("sha256", "?"),
            ("part-size", "0"),
            ("tag-", "x"),
            ("tagx-zz", "y"),
            ("MTime", "7"),
        ];
        let metadata =
            foreign.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let attributes = decode(&metadata);
        assert_eq!(attributes.tags.len(), foreign.len());
        assert_eq!(attributes.tags["x-amz-meta-mtime"], "7");
        assert_eq!(attributes, Attributes { tags: attributes.tags.clone(), ..Attributes::default() });
        round_trip(&attributes);
    }

    #[test]
    fn two_kilobytes_are_the_limit_and_the_error_says_so() {
        let of = |length| BTreeMap::from([("tag-a".to_owned(), "x".repeat(length))]);
        assert!(check_size(&of(MAX_BYTES - 5), Op::Upload).is_ok());
        let error = check_size(&of(MAX_BYTES - 4), Op::Upload).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.message().unwrap().contains("2049"), "{error}");
    }

    proptest! {
        #[test]
        fn any_attributes_survive(
            file_name in proptest::option::of(any::<String>()),
            seconds in any::<i32>(),
            nanos in 0u32..1_000_000_000,
            tags in proptest::collection::btree_map("[a-zA-Z%_ é-]{0,6}[A-Z=?a]|x-amz-meta-[a-z0-9-]{1,5}", "\\PC*|[ -~\n]*", 0..5),
        ) {
            let base = UNIX_EPOCH + Duration::from_secs(1 << 32);
            let created = base + Duration::new(u64::from(seconds.unsigned_abs()), nanos);
            round_trip(&Attributes { file_name, created: Some(created), tags, digest: None, part_size: None });
        }
    }
}
