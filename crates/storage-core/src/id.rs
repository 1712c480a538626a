//! Names of files: parsed at the border, trusted inside.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest id in bytes: the limit of an S3 object key ("Creating object key names", Amazon S3 User Guide).
pub const MAX_ID_BYTES: usize = 1024;

/// First segment of the ids that storages keep for themselves: canaries, temporary files, quarantine. Every
/// storage refuses them to its callers with [`InvalidInput`](crate::error::ErrorKind::InvalidInput) and leaves
/// them out of listings.
pub const RESERVED_SEGMENT: &str = ".storage";

/// Byte-exact, `/`-separated name of a file inside a storage: the S3 key, and the path under a local root.
///
/// UTF-8, 1 to [`MAX_ID_BYTES`] bytes, no empty, `.` or `..` segment, no NUL, no leading or trailing `/`.
/// Everything else is allowed and kept as it is: spaces, newlines, `%`, any Unicode form. An id is accepted or
/// refused, never rewritten. Ordered by its bytes; a clone is a reference count.
///
/// ```
/// use storage_core::id::FileId;
/// let id = FileId::parse("photos/2024/élan +1%.jpg")?;
/// assert_eq!(id.file_name(), "élan +1%.jpg");
/// assert!(FileId::parse("photos/../etc/passwd").is_err());
/// # Ok::<(), storage_core::id::InvalidId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(Arc<str>);

/// Why a text is no [`FileId`] or [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidId {
    /// No byte at all.
    Empty,
    /// More than [`MAX_ID_BYTES`] bytes.
    TooLong(usize),
    /// A NUL byte.
    Nul,
    /// A segment without a byte: `//`, or a leading or trailing `/`.
    EmptySegment,
    /// A segment that is `.` or `..`.
    DotSegment,
    /// Bytes that are not UTF-8.
    NotUtf8,
}

impl InvalidId {
    /// Returns a stable lower-case name, fit for a report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty_name",
            Self::TooLong(_) => "name_too_long",
            Self::Nul => "nul_in_name",
            Self::EmptySegment => "empty_segment",
            Self::DotSegment => "dot_segment",
            Self::NotUtf8 => "name_not_utf8",
        }
    }
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an id must not be empty"),
            Self::TooLong(length) => {
                write!(f, "an id has at most {MAX_ID_BYTES} bytes, this one has {length}")
            }
            Self::Nul => f.write_str("an id must not hold a NUL byte"),
            Self::EmptySegment => {
                f.write_str("an id must not hold an empty segment (`//`, or `/` at either end)")
            }
            Self::DotSegment => f.write_str("an id must not hold a `.` or `..` segment"),
            Self::NotUtf8 => f.write_str("an id must be UTF-8"),
        }
    }
}

impl std::error::Error for InvalidId {}

fn check_segments<'a>(segments: impl Iterator<Item = &'a str>) -> Result<(), InvalidId> {
    for segment in segments {
        match segment {
            "" => return Err(InvalidId::EmptySegment),
            "." | ".." => return Err(InvalidId::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

fn check_bytes(text: &str) -> Result<(), InvalidId> {
    if text.len() > MAX_ID_BYTES {
        return Err(InvalidId::TooLong(text.len()));
    }
    if text.as_bytes().contains(&0) {
        return Err(InvalidId::Nul);
    }
    Ok(())
}

impl FileId {
    /// Accepts `text` as it is, or says why not.
    ///
    /// # Errors
    /// [`InvalidId`], naming the first rule that the text breaks.
    pub fn parse(text: impl AsRef<str> + Into<Arc<str>>) -> Result<Self, InvalidId> {
        let name = text.as_ref();
        if name.is_empty() {
            return Err(InvalidId::Empty);
        }
        check_bytes(name)?;
        check_segments(name.split('/'))?;
        Ok(Self(text.into()))
    }

    /// Accepts bytes, as an operating system or a protocol hands them over.
    ///
    /// # Errors
    /// [`InvalidId::NotUtf8`], and those of [`parse`](Self::parse).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| InvalidId::NotUtf8)?)
    }

    /// Makes `"{random UUID}/{file_name}"`: ids of new uploads never collide, and the name stays readable.
    ///
    /// # Errors
    /// [`InvalidId`] when `file_name` is not a single valid segment.
    pub fn unique(file_name: &str) -> Result<Self, InvalidId> {
        if file_name.contains('/') {
            return Err(InvalidId::EmptySegment);
        }
        Self::parse(format!("{}/{file_name}", uuid::Uuid::new_v4()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Returns everything before the last `/`, or nothing for an id of one segment.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// Tells whether the first segment is [`RESERVED_SEGMENT`].
    pub fn is_reserved(&self) -> bool {
        self.segments().next() == Some(RESERVED_SEGMENT)
    }

    /// Returns the segments from first to last.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for FileId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for FileId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text)
    }
}

impl Serialize for FileId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FileId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What ids of a listing begin with, byte for byte; the default matches every id.
///
/// A prefix need not end at a `/`: `photos/20` matches `photos/2024/a`. The rules of [`FileId`] hold for its
/// whole segments; the last, unfinished one may be empty, `.` or `..`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// Accepts `text` as it is, or says why not. The empty text is the prefix of all ids.
    ///
    /// # Errors
    /// [`InvalidId`], naming the first rule that the text breaks.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        check_bytes(&text)?;
        if let Some((whole, _)) = text.rsplit_once('/') {
            check_segments(whole.split('/'))?;
        }
        Ok(Self(text))
    }

    /// Returns the prefix of all ids.
    pub fn all() -> Self {
        Self::default()
    }

    /// Returns the prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether `id` begins with this prefix.
    pub fn matches(&self, id: &FileId) -> bool {
        id.as_str().starts_with(&self.0)
    }

    /// Returns the part up to and including the last `/`: the directory that holds every match.
    pub fn directory(&self) -> &str {
        self.0.rfind('/').map_or("", |slash| &self.0[..=slash])
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn refuses_what_could_leave_a_root_or_be_rewritten() {
        for (text, reason) in [
            ("", InvalidId::Empty),
            ("/a", InvalidId::EmptySegment),
            ("a/", InvalidId::EmptySegment),
            ("a//b", InvalidId::EmptySegment),
            ("/", InvalidId::EmptySegment),
            (".", InvalidId::DotSegment),
            ("a/..", InvalidId::DotSegment),
            ("../a", InvalidId::DotSegment),
            ("a/./b", InvalidId::DotSegment),
            ("a\0b", InvalidId::Nul),
        ] {
            assert_eq!(FileId::parse(text), Err(reason), "{text:?}");
        }
        assert_eq!(FileId::parse("x".repeat(1025)), Err(InvalidId::TooLong(1025)));
        assert_eq!(FileId::from_bytes(b"a\xff"), Err(InvalidId::NotUtf8));
    }

    #[test]
    fn keeps_odd_names_byte_for_byte() {
        for text in [" sp ", "é", "e\u{301}", "a\nb", "-rf", ".tmp", "...", "a+b%20c", "A", "a\\b", "~"] {
            assert_eq!(FileId::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(FileId::parse("x".repeat(1024)).unwrap().as_str().len(), 1024);
    }

    #[test]
    fn a_prefix_may_end_anywhere_in_a_segment() {
        let prefix = Prefix::parse("photos/20").unwrap();
        assert!(prefix.matches(&FileId::parse("photos/2024/a").unwrap()));
        assert!(!prefix.matches(&FileId::parse("photos/19").unwrap()));
        assert_eq!(prefix.directory(), "photos/");
        assert!(Prefix::parse("a//").is_err());
        assert!(Prefix::parse("../a").is_err());
        assert!(Prefix::parse("a/.").is_ok());
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_the_text_itself_and_stays_beneath_a_root(text in "[a./\\\\\u{0}é ]{0,12}") {
            if let Ok(id) = FileId::parse(text.as_str()) {
                prop_assert_eq!(id.as_str(), text.as_str());
                let only_names = std::path::Path::new(id.as_str())
                    .components()
                    .all(|component| matches!(component, std::path::Component::Normal(_)));
                prop_assert!(only_names);
            }
        }
    }

    /// The rules once more, byte by byte and in no common code with the parser.
    fn is_id(bytes: &[u8]) -> bool {
        let mut segment: Vec<u8> = Vec::new();
        let mut segments = Vec::new();
        for &byte in bytes {
            if byte == b'/' { segments.push(std::mem::take(&mut segment)) } else { segment.push(byte) }
        }
        segments.push(segment);
        let named = |segment: &Vec<u8>| !segment.is_empty() && segment != b"." && segment != b"..";
        String::from_utf8(bytes.to_vec()).is_ok()
            && bytes.len() <= 1024
            && !bytes.contains(&0)
            && segments.iter().all(named)
    }

    #[expect(clippy::print_stderr, reason = "a failure can be run again")]
    #[test]
    fn any_bytes_are_accepted_as_they_are_or_refused() {
        let given = std::env::var("ID_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(rand::random::<u64>);
        eprintln!("ID_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let pieces: [&[u8]; 16] = [
            b"/",
            b".",
            b"..",
            b"a",
            b"\0",
            b" ",
            b"\n",
            b"%2e",
            b"%2f",
            b"\\",
            b"\xff",
            b"\xc3",
            "\u{e9}".as_bytes(),
            "e\u{301}".as_bytes(),
            "\u{ff0f}".as_bytes(),
            b".storage",
        ];
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..50_000 {
            let mut bytes = Vec::new();
            for _ in 0..random.random_range(0..6) {
                bytes.extend_from_slice(pieces.choose(&mut random).unwrap());
            }
            if random.random_bool(0.02) {
                // Around the longest.
                bytes.resize(random.random_range(1020..1030), b'x');
            }
            match FileId::from_bytes(&bytes) {
                Ok(id) => {
                    accepted += 1;
                    assert!(is_id(&bytes), "accepted: {bytes:?} (seed {seed})");
                    assert_eq!(id.as_str().as_bytes(), bytes);
                    assert_eq!(FileId::parse(id.to_string()).as_ref(), Ok(&id));
                    let json = serde_json::to_string(&id).unwrap();
                    assert_eq!(serde_json::from_str::<FileId>(&json).unwrap(), id);
                    assert_eq!(id.segments().collect::<Vec<_>>().join("/"), id.as_str());
                    assert!(Prefix::parse(id.as_str()).unwrap().matches(&id));
                }
                Err(_) => {
                    refused += 1;
                    assert!(!is_id(&bytes), "refused: {bytes:?} (seed {seed})");
                }
            }
            let _ = std::str::from_utf8(&bytes).map(Prefix::parse);
        }
        assert!(accepted > 5_000 && refused > 5_000, "{accepted} accepted, {refused} refused");
    }
}
