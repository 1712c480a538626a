//! Listings: page by page, in the order that the server must keep.

use std::collections::VecDeque;
use std::sync::Arc;

use aws_sdk_s3::types::{EncodingType, Object};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use percent_encoding::percent_decode_str;

use super::error::Request;
use super::facts::{time, version};
use super::{Inner, RESERVED};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::ListOptions;

/// Decodes a key of an answer with `encoding-type=url`: Amazon writes a space as `+`, others as `%20`.
pub(super) fn decode_key(key: &str, encoded: bool) -> String {
    if !encoded {
        return key.to_owned();
    }
    let spaces = key.replace('+', " ");
    match percent_decode_str(&spaces).decode_utf8() {
        Ok(key) => key.into_owned(),
        // No id: the entry is reported as it came.
        Err(_) => key.to_owned(),
    }
}

/// Where a listing stands.
struct Cursor {
    inner: Arc<Inner>,
    prefix: String,
    options: ListOptions,
    start_after: Option<String>,
    token: Option<String>,
    /// The last key seen: the next is greater.
    last: Option<String>,
    ready: VecDeque<Result<FileMetadata>>,
    done: bool,
}

pub(super) fn list(
    inner: Arc<Inner>,
    prefix: &Prefix,
    options: ListOptions,
) -> BoxStream<'static, Result<FileMetadata>> {
    let prefix = format!("{}{}", inner.key_prefix, prefix.as_str());
    let cursor = Cursor {
        // All keys with the prefix are behind a start before it, and Garage would end at once.
        start_after: options.start_after.as_ref().map(|id| inner.any_key(id)).filter(|key| *key >= prefix),
        prefix,
        options,
        token: None,
        last: None,
        ready: VecDeque::new(),
        done: false,
        inner,
    };
    stream::unfold(cursor, |mut cursor| async move {
        loop {
            if let Some(item) = cursor.ready.pop_front() {
                return Some((item, cursor));
            }
            if cursor.done {
                return None;
            }
            if let Err(error) = cursor.page().await {
                cursor.done = true;
                return Some((Err(error), cursor));
            }
        }
    })
    .fuse()
    .boxed()
}

impl Cursor {
    async fn page(&mut self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let page = inner
            .clients
            .call(Request::read(Op::List), |client| {
                client
                    .list_objects_v2()
                    .bucket(&inner.config.bucket)
                    .prefix(&self.prefix)
                    .encoding_type(EncodingType::Url)
                    .set_start_after(self.start_after.clone().filter(|_| self.token.is_none()))
                    .set_continuation_token(self.token.clone())
                    .send()
            })
            .await?;
        let encoded = page.encoding_type == Some(EncodingType::Url);
        for object in page.contents() {
            if let Err(error) = self.entry(object, encoded) {
                // What came before it is good.
                self.ready.push_back(Err(error));
                self.done = true;
                return Ok(());
            }
        }
        if page.is_truncated != Some(true) {
            self.done = true;
            return Ok(());
        }
        let next = page.next_continuation_token.filter(|next| self.token.as_ref() != Some(next));
        self.token =
            Some(next.ok_or_else(|| self.broken("the server's listing does not go on where it ended"))?);
        Ok(())
    }

    fn broken(&self, message: impl Into<String>) -> Error {
        self.inner.fail(ErrorKind::Other, Op::List).with_message(message)
    }

    fn entry(&mut self, object: &Object, encoded: bool) -> Result<()> {
        let key = object.key().ok_or_else(|| self.broken("an entry without a key"))?;
        let key = decode_key(key, encoded);
        if !key.starts_with(&self.prefix) {
            return Err(self.broken(format!("\"{}\" is not beneath the prefix", key.escape_debug())));
        }
        if let Some(last) = self.last.as_ref().or(self.start_after.as_ref())
            && *last >= key
        {
            return Err(self.broken(format!(
                "the server's listing is not in byte order: \"{}\" after \"{}\"",
                key.escape_debug(),
                last.escape_debug()
            )));
        }
        let name = key.get(self.inner.key_prefix.len()..).unwrap_or_default();
        let size = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        match FileId::parse(name) {
            Ok(id) if id.segments().next() == Some(RESERVED) => {}
            Ok(id) => {
                let mut file = FileMetadata::new(id, size);
                file.modified = object.last_modified.and_then(time);
                file.version = object.e_tag().map(version);
                self.ready.push_back(Ok(file));
            }
            // What file managers put where they want a folder to be seen.
            Err(_) if size == 0 && (name.is_empty() || name.ends_with('/')) => {
                if self.options.report_foreign {
                    let error = self
                        .inner
                        .fail(ErrorKind::NotAFile, Op::List)
                        .with_subject(name)
                        .with_message("a directory marker");
                    self.ready.push_back(Err(error));
                }
            }
            Err(error) => {
                let error = self
                    .inner
                    .fail(ErrorKind::InvalidInput, Op::List)
                    .with_subject(name)
                    .with_message(error.to_string());
                self.ready.push_back(Err(error));
            }
        }
        self.last = Some(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plus_and_percent_in_keys_are_told_from_their_encoding() {
        assert_eq!(decode_key("a+b%2Bc%25d%0A%C3%A9", true), "a b+c%d\n\u{e9}");
        assert_eq!(decode_key("a+b%2B", false), "a+b%2B");
        assert_eq!(decode_key("%ff", true), "%ff");
    }
}
