//! As much XML as S3 clients read and write.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stays as it is in a listing with `encoding-type=url`.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;

/// A document that is being written.
pub(crate) struct Writer {
    text: String,
    root: &'static str,
    /// The second that was written last, and how.
    time: (u64, String),
}

impl Writer {
    pub(crate) fn new(root: &'static str) -> Self {
        let text = format!(r#"{HEAD}<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#);
        Self { text, root, time: (u64::MAX, String::new()) }
    }

    pub(crate) fn open(&mut self, name: &str) {
        self.text.extend(["<", name, ">"]);
    }

    pub(crate) fn close(&mut self, name: &str) {
        self.text.extend(["</", name, ">"]);
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        escape(value, &mut self.text);
        self.close(name);
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        // Writing to a String does not fail.
        let _ = write!(self.text, "<{name}>{value}</{name}>");
    }

    /// Writes a key, encoded as the request asks.
    pub(crate) fn key(&mut self, name: &str, value: &str, url: bool) {
        if !url {
            return self.text(name, value);
        }
        self.open(name);
        self.text.extend(utf8_percent_encode(value, KEY));
        self.close(name);
    }

    pub(crate) fn time(&mut self, name: &str, seconds: u64) {
        if self.time.0 != seconds {
            self.time = (seconds, format(seconds, "%Y-%m-%dT%H:%M:%S.000Z"));
        }
        self.text.extend(["<", name, ">", &self.time.1, "</", name, ">"]);
    }

    pub(crate) fn finish(mut self) -> String {
        self.close(self.root);
        self.text
    }
}

/// Returns an error's document.
pub(crate) fn error(code: &str, message: &str) -> String {
    let mut text = format!("{HEAD}<Error><Code>{code}</Code><Message>");
    escape(message, &mut text);
    text.push_str("</Message></Error>");
    text
}

/// Returns a time as HTTP headers have it.
pub(crate) fn http_date(seconds: u64) -> String {
    format(seconds, "%a, %d %b %Y %H:%M:%S GMT")
}

fn format(seconds: u64, how: &str) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or_default().strftime(how).to_string()
}

fn escape(value: &str, text: &mut String) {
    for char in value.chars() {
        match char {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\r' => text.push_str("&#13;"),
            char => text.push(char),
        }
    }
}

/// Returns what elements of this name hold, in order. For documents of requests, whose elements have no attributes.
pub(crate) fn elements<'a>(document: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = document;
    std::iter::from_fn(move || {
        let (_, behind) = rest.split_once(&open)?;
        let (value, behind) = behind.split_once(&close)?;
        rest = behind;
        Some(unescape(value))
    })
}

fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('&') {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once('&') {
        text.push_str(before);
        let (entity, behind) = behind.split_once(';').unwrap_or((behind, ""));
        let char = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            entity => entity.strip_prefix('#').and_then(number).and_then(char::from_u32),
        };
        text.extend(char);
        rest = behind;
    }
    text.push_str(rest);
    Cow::Owned(text)
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let keys = ["a b", "<&>\"'", "é\r", ""];
        let mut writer = Writer::new("Delete");
        for key in keys {
            writer.text("Key", key);
        }
        assert_eq!(elements(&writer.finish(), "Key").collect::<Vec<_>>(), keys);
        assert_eq!(elements("<Key>a&#10;&#x41;&apos;</Key><Key>", "Key").collect::<Vec<_>>(), ["a\nA'"]);
    }

    #[test]
    fn times_are_as_s3_has_them() {
        assert_eq!(http_date(1_700_000_000), "Tue, 14 Nov 2023 22:13:20 GMT");
        let mut writer = Writer::new("A");
        writer.time("T", 1_700_000_000);
        writer.time("T", 0);
        let text = writer.finish();
        assert!(text.contains("<T>2023-11-14T22:13:20.000Z</T><T>1970-01-01T00:00:00.000Z</T>"), "{text}");
    }
}
