//! What a bucket holds, by its own listing: the judge of an upload.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use hyper::{Method, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{Client, Connection, EMPTY_SHA256};
use crate::sink::elements;

/// Which bucket.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// http://ADDRESS:PORT/BUCKET; credentials are those of the environment
    target: Uri,
}

/// Lists the bucket and prints count and bytes of its objects, as JSON, without the migrator's canaries.
///
/// # Errors
/// When the server does not answer, or without sizes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let client = Client::new(&options.target)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (count, bytes) = runtime.block_on(sums(&client))?;
    crate::say(format_args!("{}", serde_json::json!({ "count": count, "bytes": bytes })));
    Ok(())
}

async fn sums(client: &Client) -> Result<(u64, u64)> {
    let mut connection = Connection::open(client).await?;
    let (mut count, mut bytes) = (0, 0);
    let mut token: Option<String> = None;
    loop {
        // Sorted, as the signature wants them.
        let mut path = client.path("");
        path.push('?');
        if let Some(token) = &token {
            path.push_str("continuation-token=");
            path.extend(utf8_percent_encode(token, NON_ALPHANUMERIC));
            path.push('&');
        }
        path.push_str("list-type=2");
        let request = client.request(Method::GET, &path, Bytes::new())?;
        let (_, page) = connection.send(client, request, EMPTY_SHA256).await?;
        let page = String::from_utf8_lossy(&page);
        for entry in elements(&page, "Contents") {
            let key = elements(&entry, "Key").next().context("an entry without a key")?;
            if key.starts_with(".storage/") {
                continue;
            }
            let size = elements(&entry, "Size").next().context("an entry without a size")?;
            count += 1;
            bytes += size.parse::<u64>()?;
        }
        token = elements(&page, "NextContinuationToken").next().map(|token| token.into_owned());
        if token.is_none() {
            return Ok((count, bytes));
        }
    }
}
