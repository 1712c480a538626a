//! Pages of a listing: prefix, delimiter, markers and continuation, streamed from the storage.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use futures::StreamExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::EncodingType;
use s3s::{S3Error, S3ErrorCode, S3Result};
use storage_core::id::FileId;
use storage_core::metadata::FileMetadata;
use storage_core::storage::FileStorage;

use crate::{error, keys};

/// Most items of a page ("ListObjectsV2", Amazon S3 API Reference).
pub(crate) const MAX_ITEMS: usize = 1000;

/// Files under one common prefix that are read and left out before the listing starts anew behind the prefix: a
/// new listing costs a request or a directory walk, reading on costs a little for each file.
const SKIP: usize = 250;

/// `encoding-type=url`: everything but the unreserved characters of RFC 3986 and `/`. A space is `%20`, which
/// every client decodes; `+` would be one for some only.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The last thing that earlier pages showed, or that the client wants to be behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// A key.
    Key(String),
    /// A common prefix, with everything beneath it.
    Prefix(String),
}

impl Position {
    /// Reads a marker that a client may have made up: it names a common prefix where it ends as one would.
    pub(crate) fn of_marker(marker: &str, prefix: &str, delimiter: Option<&str>) -> Self {
        match common_prefix(marker, prefix, delimiter) {
            Some(common) if common == marker => Self::Prefix(marker.to_owned()),
            _ => Self::Key(marker.to_owned()),
        }
    }

    /// Writes a continuation token.
    pub(crate) fn to_token(&self) -> String {
        let (kind, text) = match self {
            Self::Key(key) => ('k', key),
            Self::Prefix(prefix) => ('p', prefix),
        };
        BASE64.encode(format!("{kind}{text}"))
    }

    /// Reads a continuation token.
    ///
    /// # Errors
    /// `InvalidArgument` for a token that is not of [`to_token`](Self::to_token)'s making.
    pub(crate) fn of_token(token: &str) -> S3Result<Self> {
        let text = BASE64.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        text.as_deref()
            .and_then(|text| {
                text.strip_prefix('k')
                    .map(|key| Self::Key(key.to_owned()))
                    .or_else(|| text.strip_prefix('p').map(|prefix| Self::Prefix(prefix.to_owned())))
            })
            .ok_or_else(|| error::invalid_argument("the continuation token is not one of this server"))
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Key(text) | Self::Prefix(text) => text,
        }
    }

    fn is_behind(&self, key: &str) -> bool {
        match self {
            Self::Key(last) => key > last.as_str(),
            Self::Prefix(last) => key > last.as_str() && !key.starts_with(last.as_str()),
        }
    }

    /// Returns an id that no wanted key is at or before, as near to the first wanted one as an id can be.
    fn start_after(&self) -> Option<FileId> {
        if let Self::Prefix(prefix) = self
            && let Ok(id) = FileId::parse(format!("{prefix}{}", char::MAX))
        {
            return Some(id);
        }
        FileId::parse(self.as_str().trim_end_matches('/')).ok()
    }
}

/// What of a bucket is to be listed.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<String>,
    pub(crate) after: Option<Position>,
    pub(crate) max: usize,
}

/// One entry of a page.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    File(String, Box<FileMetadata>),
    Prefix(String),
}

impl Item {
    fn position(&self) -> Position {
        match self {
            Self::File(key, _) => Position::Key(key.clone()),
            Self::Prefix(prefix) => Position::Prefix(prefix.clone()),
        }
    }
}

/// A page, and where the next one begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) next: Option<Position>,
}

/// Reads one page. Holds that page in memory and no more.
///
/// # Errors
/// An internal error when anything about the listing failed: a page that looks complete and is not would be
/// taken for the truth.
pub(crate) async fn page(storage: &dyn FileStorage, query: &Query) -> S3Result<Page> {
    let mut page = Page::default();
    if query.max == 0 {
        return Ok(page);
    }
    let mut after = query.after.clone();
    loop {
        let start = after.as_ref().and_then(Position::start_after);
        let mut entries = keys::list(storage, &query.prefix, start.as_ref());
        let mut skipped = 0;
        let jump = loop {
            let Some(entry) = entries.next().await else { return Ok(page) };
            let (key, file) = entry.map_err(error::listing)?;
            if after.as_ref().is_some_and(|after| !after.is_behind(&key)) {
                skipped += 1;
                let can_jump =
                    after.as_ref().and_then(Position::start_after).is_some_and(|to| start != Some(to));
                if skipped > SKIP && can_jump {
                    break true;
                }
                continue;
            }
            skipped = 0;
            if page.items.len() == query.max {
                page.next = page.items.last().map(Item::position);
                break false;
            }
            let item = match common_prefix(&key, &query.prefix, query.delimiter.as_deref()) {
                Some(prefix) => Item::Prefix(prefix.to_owned()),
                None => Item::File(key, Box::new(file)),
            };
            after = Some(item.position());
            page.items.push(item);
        };
        if !jump {
            return Ok(page);
        }
    }
}

/// Returns the part of `key` up to and with the first delimiter behind the prefix.
pub(crate) fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: Option<&str>) -> Option<&'a str> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let rest = key.strip_prefix(prefix)?;
    let end = rest.find(delimiter)?;
    Some(&key[..prefix.len() + end + delimiter.len()])
}

/// Returns the number of items a page may have.
///
/// # Errors
/// `InvalidArgument` for a negative number.
pub(crate) fn max_items(wanted: Option<i32>) -> S3Result<usize> {
    match wanted.map(usize::try_from) {
        None => Ok(MAX_ITEMS),
        Some(Ok(wanted)) => Ok(wanted.min(MAX_ITEMS)),
        Some(Err(_)) => Err(error::invalid_argument("the number of items must not be negative")),
    }
}

/// Writes names as the client asked for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    url: bool,
}

impl Names {
    /// # Errors
    /// `InvalidArgument` for an encoding other than `url`.
    pub(crate) fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { url: false }),
            Some(EncodingType::URL) => Ok(Self { url: true }),
            Some(_) => Err(error::invalid_argument("the only encoding-type is url")),
        }
    }

    /// # Errors
    /// `InvalidArgument` for a name that XML 1.0 cannot carry (section 2.2), or would change (a carriage return,
    /// section 2.11): the client has to ask for `encoding-type=url`.
    pub(crate) fn write(self, name: &str) -> S3Result<String> {
        if self.url {
            return Ok(utf8_percent_encode(name, URL).to_string());
        }
        let fits = |c: char| matches!(c, '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'..);
        if name.chars().all(fits) {
            return Ok(name.to_owned());
        }
        let message =
            format!("\"{}\" cannot be written in XML: ask with encoding-type=url", name.escape_debug());
        Err(S3Error::with_message(S3ErrorCode::InvalidArgument, message))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use storage_core::backend::memory::MemoryStorage;
    use storage_core::storage::FileStorageExt as _;

    use super::*;

    async fn storage(keys: &[String]) -> MemoryStorage {
        let storage = MemoryStorage::new();
        for key in keys {
            storage.upload_bytes(&FileId::parse(key.as_str()).unwrap(), Bytes::new()).await.unwrap();
        }
        storage
    }

    /// What S3 says a listing is: sort, cut, roll up.
    fn expected(keys: &[String], prefix: &str, delimiter: Option<&str>) -> Vec<String> {
        let mut names: Vec<String> = keys
            .iter()
            .filter(|key| key.starts_with(prefix))
            .map(|key| common_prefix(key, prefix, delimiter).unwrap_or(key).to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn name(item: &Item) -> String {
        item.position().as_str().to_owned()
    }

    #[tokio::test]
    async fn pages_of_any_size_show_each_name_once_and_in_order() {
        let mut keys: Vec<String> =
            ["a", "a b", "a+b", "b/1", "b/2", "b/2/x", "b0", "c/d/e", "c-d", "d\u{10ffff}/x", "é", "z\nz"]
                .map(str::to_owned)
                .into();
        keys.extend((0..600).map(|n| format!("many/{n:04}")));
        keys.extend((0..3).map(|n| format!("many0/{n:04}")));
        let storage = storage(&keys).await;
        for prefix in ["", "b", "b/", "many", "many/", "c/", "x", "//", "z\n"] {
            for delimiter in [None, Some("/"), Some("-"), Some("/00")] {
                for max in [1, 2, 7, 1000] {
                    let mut query = Query {
                        prefix: prefix.to_owned(),
                        delimiter: delimiter.map(str::to_owned),
                        after: None,
                        max,
                    };
                    let mut names = Vec::new();
                    loop {
                        let page = page(&storage, &query).await.unwrap();
                        assert!(page.items.len() <= max);
                        names.extend(page.items.iter().map(name));
                        let Some(next) = page.next else { break };
                        let token = Position::of_token(&next.to_token()).unwrap();
                        assert_eq!(token, next);
                        query.after = Some(token);
                    }
                    let expected = expected(&keys, prefix, delimiter);
                    assert_eq!(names, expected, "{prefix:?} {delimiter:?} {max}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_marker_that_is_a_common_prefix_is_not_shown_again() {
        let keys = ["a/1".to_owned(), "b/1".to_owned(), "b/2".to_owned(), "c".to_owned()];
        let storage = storage(&keys).await;
        let after = Position::of_marker("b/", "", Some("/"));
        let query = Query { prefix: String::new(), delimiter: Some("/".into()), after: Some(after), max: 10 };
        let page = page(&storage, &query).await.unwrap();
        assert_eq!(page.items.iter().map(name).collect::<Vec<_>>(), ["c"]);
        assert_eq!(Position::of_marker("b/", "b/", Some("/")), Position::Key("b/".into()));
        assert_eq!(Position::of_marker("b/", "", None), Position::Key("b/".into()));
    }

    #[test]
    fn names_that_xml_would_change_are_never_written_plainly() {
        let plain = Names { url: false };
        for name in ["a\rb", "a\u{1}", "\u{ffff}", "\u{b}"] {
            assert!(plain.write(name).is_err(), "{name:?}");
            let url = Names { url: true }.write(name).unwrap();
            assert_eq!(percent_encoding::percent_decode_str(&url).decode_utf8().unwrap(), name);
        }
        assert_eq!(plain.write("a\nb <&> é").unwrap(), "a\nb <&> é");
        assert_eq!(Names { url: true }.write("a +/é").unwrap(), "a%20%2B/%C3%A9");
    }
}
