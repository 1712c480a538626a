//! ListObjects and ListObjectsV2.

use s3s::dto::*;
use s3s::{S3Response, S3Result};

use crate::etag;
use crate::gateway::{Gateway, owner, size};
use crate::listing::{self, Item, Names, Page, Position, Query};

impl Gateway {
    pub(super) async fn list_v1(&self, input: ListObjectsInput) -> S3Result<S3Response<ListObjectsOutput>> {
        let storage = self.bucket(&input.bucket)?;
        let names = Names::new(input.encoding_type.as_ref())?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let marker = input.marker.clone().filter(|marker| !marker.is_empty());
        let query = Query {
            after: marker.map(|marker| Position::of_marker(&marker, &prefix, delimiter.as_deref())),
            prefix,
            delimiter,
            max: listing::max_items(input.max_keys)?,
        };
        let page = listing::page(&**storage, &query).await?;
        let next = page.next.as_ref().map(|next| names.write(next.as_str())).transpose()?;
        let (contents, common_prefixes) = write(&page, names, true)?;
        let write = |text: Option<String>| text.map(|text| names.write(&text)).transpose();
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(write(input.prefix)?.unwrap_or_default()),
            marker: Some(write(input.marker)?.unwrap_or_default()),
            max_keys: Some(max_keys(query.max)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: write(input.delimiter)?,
            next_marker: next,
            encoding_type: input.encoding_type,
            ..Default::default()
        }))
    }

    pub(super) async fn list_v2(
        &self,
        input: ListObjectsV2Input,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let storage = self.bucket(&input.bucket)?;
        let names = Names::new(input.encoding_type.as_ref())?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let start_after = input.start_after.clone().filter(|start| !start.is_empty());
        let after = match (&input.continuation_token, start_after) {
            (Some(token), _) => Some(Position::of_token(token)?),
            (None, Some(start)) => Some(Position::of_marker(&start, &prefix, delimiter.as_deref())),
            (None, None) => None,
        };
        let query = Query { prefix, delimiter, after, max: listing::max_items(input.max_keys)? };
        let page = listing::page(&**storage, &query).await?;
        let (contents, common_prefixes) = write(&page, names, input.fetch_owner == Some(true))?;
        let write = |text: Option<String>| text.map(|text| names.write(&text)).transpose();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(write(input.prefix)?.unwrap_or_default()),
            max_keys: Some(max_keys(query.max)),
            key_count: Some(max_keys(page.items.len())),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(Position::to_token),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: write(input.delimiter)?,
            encoding_type: input.encoding_type,
            start_after: write(input.start_after)?,
            ..Default::default()
        }))
    }
}

fn write(page: &Page, names: Names, with_owner: bool) -> S3Result<(Vec<Object>, Vec<CommonPrefix>)> {
    let (mut files, mut prefixes) = (Vec::new(), Vec::new());
    for item in &page.items {
        match item {
            Item::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(names.write(prefix)?) }),
            Item::File(key, file) => files.push(Object {
                key: Some(names.write(key)?),
                size: Some(size(file.size)),
                e_tag: Some(etag::of(file)),
                last_modified: file.modified.map(Into::into),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                owner: with_owner.then(owner),
                ..Default::default()
            }),
        }
    }
    Ok((files, prefixes))
}

/// A page has at most 1,000 items.
fn max_keys(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}
