//! Storages as stores of the crate `object_store`, for DataFusion, Arrow, Lance and whatever else speaks to those.
//!
//! What that crate asks and this library does not have is refused with `NotImplemented`: versions of the past,
//! attributes other than the media type and metadata (which are our tags), and its own tags.
//!
//! ```
//! use std::sync::Arc;
//!
//! use object_store::{ObjectStoreExt, path::Path};
//! use storage_core::backend::memory::MemoryStorage;
//! use storage_core::compat::ObjectStoreCompat;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a service: the whole stack, from `stack::build`.
//! let store = ObjectStoreCompat::new(Arc::new(MemoryStorage::new()));
//! let path = Path::parse("tables/2024.parquet")?;
//! store.put(&path, "PAR1".into()).await?;
//! assert_eq!(store.get(&path).await?.bytes().await?, "PAR1");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, RenameTargetMode, Result, coalesce_ranges,
};

use self::convert::{
    STORE, attributes_of, failed, file_id, meta_of, not_implemented, put_result, upload_options, version_of,
};
use self::multipart::PartWriter;
use crate::body::Body;
use crate::error::ErrorKind;
use crate::storage::{
    ByteRange, Download, DownloadOptions, FileStorage, ListOptions, Precondition, UploadOptions,
};

pub use self::parts::PartSize;

mod convert;
mod listing;
mod multipart;
mod pages;
mod parts;

/// Deletions on their way at a time.
const DELETIONS: usize = 10;

/// How often a read that must be of one version begins again, when the file changes under it.
const TRIES: usize = 3;

/// A storage as an [`ObjectStore`].
///
/// The whole path is the id. ETags are our versions. An upload in parts is gathered into parts of one size and
/// becomes a [`ResumableUpload`](crate::storage::ResumableUpload), or a plain upload where it fits into one part or
/// the storage has no parts. To delete what is not there succeeds, as on S3. A rename is a copy and a deletion,
/// between which both are there. Several ranges of a file are of one version.
///
/// It is a [`MultipartStore`](object_store::multipart::MultipartStore) too, for callers who keep their parts
/// themselves: its ids are good in another process, as far as the storage's uploads are. Where the storage takes parts
/// of any size, so does it; elsewhere (S3) all parts but the last have [`with_part_size`](Self::with_part_size) bytes,
/// or those of a [`PartSize`], and others are refused. A storage without parts refuses with `NotImplemented`.
///
/// And it is a [`PaginatedListStore`](object_store::list::PaginatedListStore): pages in order, of at most 999
/// entries, with `/` or nothing for a delimiter, and with tokens that hold all there is to know.
///
/// Results carry no extensions: those are of answers to HTTP requests of the crate's own client, and a storage makes
/// none of them.
#[derive(Clone, Debug)]
pub struct ObjectStoreCompat {
    storage: Arc<dyn FileStorage>,
    part_size: usize,
}

impl ObjectStoreCompat {
    /// Takes a storage, with parts of 16 MiB.
    pub fn new(storage: Arc<dyn FileStorage>) -> Self {
        Self { storage, part_size: 16 << 20 }
    }

    /// Sets the bytes of a part, which are held in memory until they are whole; the storage's own limits go
    /// before. Default 16 MiB: 10,000 parts, the most of S3, are a file of 160 GB.
    #[must_use]
    pub fn with_part_size(mut self, part_size: usize) -> Self {
        self.part_size = part_size.max(1);
        self
    }

    /// Opens the bytes, after the preconditions held of the very version that is opened.
    async fn open(&self, location: &Path, options: &GetOptions) -> Result<(ObjectMeta, Download)> {
        let id = file_id(location)?;
        let range = options.range.as_ref().map(|range| match range {
            GetRange::Bounded(range) => ByteRange::Between(range.start, range.end),
            GetRange::Offset(start) => ByteRange::From(*start),
            GetRange::Suffix(count) => ByteRange::Last(*count),
        });
        let mut asked = DownloadOptions { range, ..DownloadOptions::default() };
        // A reader that has the file already is answered without opening it.
        let may_have_it = options.if_none_match.is_some() || options.if_modified_since.is_some();
        for _ in 0..TRIES {
            if may_have_it {
                let metadata = self.storage.metadata(&id).await.map_err(failed(location))?;
                options.check_preconditions(&meta_of(location, &metadata))?;
                asked.when = metadata.version.map_or(Precondition::None, Precondition::Version);
            }
            match self.storage.download(&id, asked.clone()).await {
                Ok(download) => {
                    let meta = meta_of(location, &download.metadata);
                    options.check_preconditions(&meta)?;
                    return Ok((meta, download));
                }
                Err(error) if may_have_it && error.kind() == ErrorKind::VersionMismatch => {}
                Err(error) => return Err(failed(location)(error)),
            }
        }
        Err(changes(location))
    }

    /// Reads ranges; nothing when they were not of one version.
    async fn ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        let versions = Mutex::new(Vec::new());
        let bytes = coalesce_ranges(
            ranges,
            |range| {
                let versions = &versions;
                async move {
                    let options = GetOptions::new().with_range(Some(range));
                    let (meta, download) = self.open(location, &options).await?;
                    versions.lock().unwrap_or_else(PoisonError::into_inner).push(meta.e_tag);
                    download.bytes().await.map_err(failed(location))
                }
            },
            OBJECT_STORE_COALESCE_DEFAULT,
        )
        .await?;
        let versions = versions.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(versions.windows(2).all(|pair| pair[0] == pair[1]).then_some(bytes))
    }
}

fn changes(location: &Path) -> object_store::Error {
    object_store::Error::Generic {
        store: STORE,
        source: format!("{location} was replaced each of {TRIES} times it was read").into(),
    }
}

impl fmt::Display for ObjectStoreCompat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectStoreCompat({})", self.storage.name())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for ObjectStoreCompat {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let id = file_id(location)?;
        let mut options = upload_options(self, &opts.attributes, &opts.tags)?;
        options.when = match opts.mode {
            PutMode::Overwrite => Precondition::None,
            PutMode::Create => Precondition::Absent,
            PutMode::Update(update) => Precondition::Version(version_of(update)?),
        };
        let receipt = self.storage.upload(&id, Body::from_bytes(payload), options).await;
        receipt.map(put_result).map_err(failed(location))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let id = file_id(location)?;
        let options = upload_options(self, &opts.attributes, &opts.tags)?;
        Ok(Box::new(PartWriter::new(Arc::clone(&self.storage), location, id, options, self.part_size)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(not_implemented(self, "reading a version of the past"));
        }
        if options.head {
            let id = file_id(location)?;
            let metadata = self.storage.metadata(&id).await.map_err(failed(location))?;
            let meta = meta_of(location, &metadata);
            options.check_preconditions(&meta)?;
            return Ok(GetResult {
                payload: GetResultPayload::Stream(stream::empty().boxed()),
                range: 0..meta.size,
                attributes: attributes_of(&metadata),
                meta,
                extensions: Default::default(),
            });
        }
        let (meta, download) = self.open(location, &options).await?;
        let failed = failed(location);
        Ok(GetResult {
            attributes: attributes_of(&download.metadata),
            range: download.range,
            // An end is asked for again by who collects an empty file.
            payload: GetResultPayload::Stream(download.body.map_err(failed).fuse().boxed()),
            meta,
            extensions: Default::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        for _ in 0..TRIES {
            if let Some(bytes) = self.ranges(location, ranges).await? {
                return Ok(bytes);
            }
        }
        Err(changes(location))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let storage = Arc::clone(&self.storage);
        locations
            .map(move |location| {
                let storage = Arc::clone(&storage);
                async move {
                    let location = location?;
                    let id = file_id(&location)?;
                    let deleted = storage.delete(&id, Precondition::None).await;
                    deleted.map(|_| location.clone()).map_err(failed(&location))
                }
            })
            .buffered(DELETIONS)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listing::list(&self.storage, prefix, ListOptions::default())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match file_id(offset) {
            Ok(id) => listing::list(&self.storage, prefix, ListOptions::default().with_start_after(id)),
            // No file has this name; it still has its place in the order.
            Err(_) => {
                let offset = offset.clone();
                self.list(prefix).try_filter(move |meta| std::future::ready(meta.location > offset)).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        listing::directory(&self.storage, prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (file_id(from)?, file_id(to)?);
        let when = match options.mode {
            CopyMode::Overwrite => Precondition::None,
            CopyMode::Create => Precondition::Absent,
        };
        let copied = self.storage.copy(&source, &target, UploadOptions::default().with_when(when)).await;
        copied.map(|_| ()).map_err(failed(to))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let source = file_id(from)?;
        if from == to {
            // A copy onto itself, and then the deletion of both.
            let metadata = self.storage.metadata(&source).await.map_err(failed(from))?;
            return match options.target_mode {
                RenameTargetMode::Overwrite => Ok(()),
                RenameTargetMode::Create => Err(object_store::Error::AlreadyExists {
                    path: to.to_string(),
                    source: format!("{} is the file itself", metadata.id).into(),
                }),
            };
        }
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions::new().with_mode(mode)).await?;
        self.storage.delete(&source, Precondition::None).await.map(|_| ()).map_err(failed(from))
    }
}
