//! Copies a directory into a bucket, files with their attributes, each compared with its SHA-256 on the way.
//!
//! ```sh
//! local_to_s3 DIRECTORY BUCKET [ENDPOINT]     # credentials as for the tools of AWS
//! ```
//!
//! For more files than can be copied again after a failure, there is the `migrator`.

#![expect(clippy::print_stdout, reason = "an example shows something")]

use futures::TryStreamExt;
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::storage::Access;
use storage_core::{FileStorage, FileStorageExt, ListOptions, Prefix, Result};

/// Copies all files and returns their number. What is no file is an error, and so is a directory that cannot be read:
/// whoever counts on a whole copy has none.
pub(crate) async fn copy_all(from: &dyn FileStorage, to: &dyn FileStorage) -> Result<u64> {
    let mut files = from.list(&Prefix::all(), ListOptions::default().with_report_foreign());
    let mut copied = 0;
    while let Some(file) = files.try_next().await? {
        let receipt = from.copy_to(&file.id, to).await?;
        println!("{} {}", receipt.digest.map(|digest| digest.to_string()).unwrap_or_default(), file.id);
        copied += 1;
    }
    Ok(copied)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(bucket)) = (arguments.next(), arguments.next()) else {
        return Err("usage: local_to_s3 DIRECTORY BUCKET [ENDPOINT]".into());
    };
    let from = LocalStorage::open(LocalConfig::new(directory).with_access(Access::ReadOnly)).await?;
    let config = S3Config::new(bucket);
    let config = match arguments.next() {
        Some(endpoint) => config.with_endpoint(endpoint),
        None => config,
    };
    let copied = copy_all(&from, &S3Storage::connect(config).await?).await?;
    println!("{copied} files");
    Ok(())
}
