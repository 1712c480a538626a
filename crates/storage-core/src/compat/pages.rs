//! Listings by the page, whose tokens say all that is needed to go on.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::{ListResult, Result};
use serde::{Deserialize, Serialize};

use super::ObjectStoreCompat;
use super::convert::{invalid, not_implemented};
use super::listing::{Entries, Entry};
use crate::id::{FileId, Prefix};

/// The most that is told in a page: one less than a server's, which so tells as well whether more follows.
const MOST: usize = 999;

/// Where a page ended.
#[derive(Serialize, Deserialize)]
struct Token {
    /// The last id that was looked at.
    after: FileId,
    /// The directory that was told last, with its `/`: what else lies beneath has been told with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<String>,
}

impl Token {
    fn encoded(&self) -> Result<String> {
        let json = serde_json::to_vec(self).map_err(|error| invalid("a page token", error))?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }

    fn decoded(text: &str) -> Result<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        token.ok_or_else(|| invalid(text, "no page token of this store"))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl PaginatedListStore for ObjectStoreCompat {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        opts: PaginatedListOptions,
    ) -> Result<PaginatedListResult> {
        let text = prefix.unwrap_or_default();
        let prefix = Prefix::parse(text).map_err(|error| invalid(text, error))?;
        let grouped = match opts.delimiter.as_deref() {
            None | Some("") => false,
            Some("/") => true,
            Some(other) => {
                return Err(not_implemented(
                    self,
                    &format!("listing with {other:?} for a delimiter, other than `/`"),
                ));
            }
        };
        let most = opts.max_keys.unwrap_or(MOST).min(MOST);
        if most == 0 {
            return Err(invalid("max_keys", "a page of 0 entries would never end"));
        }
        let mut entries = Entries::new(&self.storage, prefix, grouped);
        if let Some(offset) = opts.offset {
            entries.begin_behind(offset);
        }
        if let Some(token) = &opts.page_token {
            let Token { after, within } = Token::decoded(token)?;
            entries.go_on(after, within);
        }
        let mut result =
            ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
        let mut token = None;
        while let Some(entry) = entries.next().await? {
            // Only now is it known that something follows the last of a full page.
            if result.objects.len() + result.common_prefixes.len() == most {
                return Ok(PaginatedListResult {
                    result,
                    page_token: token.as_ref().map(Token::encoded).transpose()?,
                });
            }
            match entry {
                Entry::Directory { path, first, text } => {
                    result.common_prefixes.push(path);
                    token = Some(Token { after: first, within: Some(text) });
                }
                Entry::File { meta, id } => {
                    result.objects.push(meta);
                    token = Some(Token { after: id, within: None });
                }
            }
        }
        Ok(PaginatedListResult { result, page_token: None })
    }
}
