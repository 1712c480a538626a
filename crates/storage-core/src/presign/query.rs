//! The fields of a URL, written and read in one spelling.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::id::FileId;

/// All but the unreserved characters of RFC 3986 section 2.3, which nothing on the way has a reason to rewrite.
const TEXT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const PATH: &AsciiSet = &TEXT.remove(b'/');

/// What a URL says besides the id and the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Milliseconds since 1970.
    pub(super) expires: u64,
    pub(super) content_type: Option<String>,
    pub(super) content_length: Option<u64>,
    pub(super) save_as: Option<String>,
    pub(super) inline: bool,
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expires={}", self.expires)?;
        if let Some(content_type) = &self.content_type {
            write!(f, "&type={}", utf8_percent_encode(content_type, TEXT))?;
        }
        if let Some(content_length) = self.content_length {
            write!(f, "&length={content_length}")?;
        }
        if let Some(save_as) = &self.save_as {
            write!(f, "&save-as={}", utf8_percent_encode(save_as, TEXT))?;
        }
        if self.inline {
            f.write_str("&inline=1")?;
        }
        Ok(())
    }
}

impl Query {
    /// Reads what [`Display`](fmt::Display) wrote, and nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('&').peekable();
        let mut take =
            |name: &str| fields.next_if(|field| field.starts_with(name)).map(|field| &field[name.len()..]);
        let query = Self {
            expires: take("expires=")?.parse().ok()?,
            content_type: take("type=").map(decode).transpose().ok()?,
            content_length: take("length=").map(str::parse).transpose().ok()?,
            save_as: take("save-as=").map(decode).transpose().ok()?,
            inline: take("inline=1").is_some(),
        };
        (query.to_string() == text).then_some(query)
    }
}

fn decode(text: &str) -> Result<String, std::str::Utf8Error> {
    percent_decode_str(text).decode_utf8().map(Into::into)
}

pub(super) fn encode_id(id: &FileId) -> impl fmt::Display + '_ {
    utf8_percent_encode(id.as_str(), PATH)
}

pub(super) fn decode_id(text: &str) -> Option<FileId> {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    FileId::from_bytes(&bytes).ok()
}

/// Tells whether a byte stands for itself in a URL.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
