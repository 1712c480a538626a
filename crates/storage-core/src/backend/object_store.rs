//! Any store of the `object_store` crate as a storage: Google Cloud Storage, Azure, a directory, memory.
//!
//! The traits of that crate promise less than ours. What a store can do is tried once, when it is opened, and
//! what it cannot do is refused:
//!
//! - **Ids** are kept byte for byte. Ids with ASCII control characters are refused, as such paths are.
//! - **Attributes** live with the object, what it has no place for in one metadata value (`filestorage`), or are refused by stores that keep none (a
//!   directory): there the media type follows from the id.
//! - **Digest**: computed from the bytes that were sent, and kept where attributes are. A file of several parts is
//!   read twice, as its attributes are due before its first part; whoever gives the digest spares the first
//!   reading. Nobody but this library compares it, so receipts say [`Verified::No`].
//! - **Versions** are ETags. Parts know no precondition, so an upload with one goes in one request.
//! - **Deletion** with a version, **parts** that survive the process (their list could not be asked for) and
//!   **presigned URLs** without a [`Presigner`] are not supported.
//! - **Order**: see [`ListOrder`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use object_store::memory::InMemory;
//! use storage_core::backend::object_store::{ListOrder, ObjectStoreConfig, ObjectStoreStorage};
//! use storage_core::stack::{self, LayersConfig};
//! use storage_core::{FileId, FileStorageExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ObjectStoreConfig::default().with_name("archive").with_order(ListOrder::Ascending);
//! let storage = ObjectStoreStorage::open(Arc::new(InMemory::new()), config).await?;
//! let storage = stack::layered(Arc::new(storage), &LayersConfig::default())?;
//!
//! let id = FileId::parse("reports/final.pdf")?;
//! storage.upload_bytes(&id, "%PDF-1.7".into()).await?;
//! assert_eq!(storage.download_bytes(&id).await?, "%PDF-1.7");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt,
};

use self::error::convert;
use self::listing::Listing;
use self::probe::Facts;
use crate::body::{Body, ByteStream};
use crate::checksum::VerifyingStream;
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix, RESERVED_SEGMENT};
use crate::metadata::{FileMetadata, guess_content_type};
use crate::storage::{
    Access, ByteRange, Capabilities, Download, DownloadOptions, FileStorage, ListOptions, Precondition,
    PresignMethod, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions, Verified,
};

mod attributes;
mod config;
mod error;
mod listing;
mod probe;
mod upload;

pub use self::config::{ListOrder, ObjectStoreConfig};

/// Makes presigned URLs for a store that can: `object_store::signer::Signer`, which comes with the cloud features
/// of that crate only, is a few lines away from it.
#[async_trait]
pub trait Presigner: fmt::Debug + Send + Sync + 'static {
    /// Makes the URL, and the headers that the request must carry.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for what the store cannot bind to a URL (a media type, a length, a name).
    async fn presign(&self, path: &Path, request: &PresignRequest)
    -> Result<(String, Vec<(String, String)>)>;
}

/// Any store of the `object_store` crate as a storage. See the [module](self).
#[derive(Clone)]
pub struct ObjectStoreStorage {
    store: Arc<dyn ObjectStore>,
    config: Arc<ObjectStoreConfig>,
    presigner: Option<Arc<dyn Presigner>>,
    facts: Facts,
}

impl ObjectStoreStorage {
    /// Opens a store, and tries what it can do with a few objects under `.storage/canary/`, which are deleted
    /// again. A store that is opened for reading only is not tried.
    ///
    /// # Errors
    /// Those of [`ObjectStoreConfig::validate`]; what the store answered when it could not even be written and
    /// read.
    pub async fn open(store: Arc<dyn ObjectStore>, config: ObjectStoreConfig) -> Result<Self> {
        config.validate()?;
        let facts = match config.access {
            Access::ReadOnly => Facts::default(),
            Access::ReadWrite => {
                probe::try_out(&store).await.map_err(|error| error.with_storage(&config.name))?
            }
        };
        Ok(Self { store, config: Arc::new(config), presigner: None, facts })
    }

    /// Sets who makes presigned URLs. Default: nobody.
    #[must_use]
    pub fn with_presigner(mut self, presigner: Arc<dyn Presigner>) -> Self {
        self.presigner = Some(presigner);
        self
    }

    fn error(&self, kind: ErrorKind, op: Op, id: &FileId) -> Error {
        Error::new(kind, op).with_id(id).with_storage(&self.config.name)
    }

    /// Says in our words, with the names, what the store answered.
    fn failed(&self, op: Op, id: &FileId) -> impl Fn(object_store::Error) -> Error {
        move |error| convert(op, error).with_id(id).with_storage(&self.config.name)
    }

    fn path(&self, id: &FileId, op: Op) -> Result<Path> {
        if id.is_reserved() {
            return Err(self
                .error(ErrorKind::InvalidInput, op, id)
                .with_message(format!("ids under \"{RESERVED_SEGMENT}\" are the storage's own")));
        }
        match Path::parse(id.as_str()) {
            Ok(path) if path.as_ref() == id.as_str() => Ok(path),
            Ok(path) => Err(self
                .error(ErrorKind::InvalidInput, op, id)
                .with_message(format!("the store would keep it as \"{path}\""))),
            Err(error) => {
                let message = format!("the store takes no such id: {error}");
                Err(self.error(ErrorKind::InvalidInput, op, id).with_message(message).with_source(error))
            }
        }
    }

    fn path_to_write(&self, id: &FileId, op: Op) -> Result<Path> {
        if self.config.access == Access::ReadOnly {
            return Err(self.error(ErrorKind::Denied, op, id).with_message("opened for reading only"));
        }
        self.path(id, op)
    }

    /// Refuses what the store cannot keep.
    fn check_options(&self, id: &FileId, options: &UploadOptions, op: Op) -> Result<()> {
        let unsupported = |what: &str| {
            Err(self
                .error(ErrorKind::Unsupported, op, id)
                .with_message(format!("the store keeps no attributes, so there is no place for {what}")))
        };
        if !self.facts.attributes {
            if !options.tags.is_empty() {
                return unsupported("tags");
            }
            if options.file_name.is_some() {
                return unsupported("a file name");
            }
            if options.created.is_some() {
                return unsupported("a time of creation");
            }
            let guessed = guess_content_type(id.file_name());
            if options.content_type.as_ref().is_some_and(|given| *given != guessed) {
                return unsupported("a media type other than that of the id");
            }
        }
        if options.tags.contains_key("") {
            return Err(self.error(ErrorKind::InvalidInput, op, id).with_message("a tag's key is empty"));
        }
        let able = match options.when {
            Precondition::None => true,
            Precondition::Absent => self.facts.create,
            Precondition::Version(_) => self.facts.replaces(),
        };
        if !able {
            return Err(self
                .error(ErrorKind::Unsupported, op, id)
                .with_message("the store does not compare before it writes"));
        }
        Ok(())
    }

    async fn head(&self, id: &FileId, path: &Path, op: Op) -> Result<GetResult> {
        let options = GetOptions::new().with_head(true);
        let got = self.store.get_opts(path, options).await;
        // A read, whatever it is for.
        got.map_err(|error| self.failed(Op::Metadata, id)(error).with_op(op))
    }

    /// Explains a write that failed, where the store keeps files as directories do: is there a file on the way,
    /// or anything beneath?
    async fn explain(&self, id: &FileId, path: &Path, error: Error) -> Error {
        let open_question =
            matches!(error.kind(), ErrorKind::Other | ErrorKind::AlreadyExists | ErrorKind::NotFound);
        if self.facts.nested || !open_question {
            return error;
        }
        let mut above = path.parent();
        while let Some(parent) = above.filter(|parent| !parent.is_root()) {
            if self.store.head(&parent).await.is_ok() {
                let message = format!("\"{parent}\" is a file");
                return self.error(ErrorKind::Conflict, error.op(), id).with_message(message);
            }
            above = parent.parent();
        }
        if self.store.head(path).await.is_err() && listing::anything_beneath(&*self.store, path).await {
            return self
                .error(ErrorKind::Conflict, error.op(), id)
                .with_message("there are files beneath it")
                .with_source(error);
        }
        error
    }

    async fn get(&self, id: &FileId, path: &Path, options: &DownloadOptions) -> Result<GetResult> {
        let mut asked = GetOptions::new();
        match &options.when {
            Precondition::None => {}
            Precondition::Version(version) => asked.if_match = Some(version.as_str().to_owned()),
            Precondition::Absent => {
                return Err(self
                    .error(ErrorKind::InvalidInput, Op::Download, id)
                    .with_message("an absent file cannot be read"));
            }
        }
        asked.range = options.range.map(|range| match range {
            ByteRange::From(start) => GetRange::Offset(start),
            ByteRange::Between(start, end) => GetRange::Bounded(start..end),
            ByteRange::Last(count) => GetRange::Suffix(count),
        });
        let Some(range) = options.range else {
            return self.store.get_opts(path, asked).await.map_err(self.failed(Op::Download, id));
        };
        // An empty range is asked for in different ways, and refused in as many: the size decides.
        let empty = match range {
            ByteRange::Between(start, end) => start >= end,
            ByteRange::Last(count) => count == 0,
            ByteRange::From(_) => false,
        };
        let failure = if empty {
            None
        } else {
            match self.store.get_opts(path, asked.clone()).await {
                Ok(got) if range.resolve(got.meta.size) == Some(got.range.clone()) => return Ok(got),
                Ok(_) => None,
                Err(error) => Some(self.failed(Op::Download, id)(error)),
            }
        };
        let failure = match failure {
            Some(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::VersionMismatch) => {
                return Err(error);
            }
            failure => failure,
        };
        let whole = self.head(id, path, Op::Download).await?;
        let Some(resolved) = range.resolve(whole.meta.size) else {
            return Err(self
                .error(ErrorKind::InvalidInput, Op::Download, id)
                .with_message(format!("{range:?} of a file of {} bytes", whole.meta.size)));
        };
        match failure {
            // Some stores know no range that counts from the end.
            Some(error) if error.kind() != ErrorKind::Unsupported => Err(error),
            _ => {
                asked.range = Some(GetRange::Bounded(resolved.clone()));
                asked.if_match = asked.if_match.or(whole.meta.e_tag);
                let got = self.store.get_opts(path, asked).await.map_err(self.failed(Op::Download, id))?;
                if got.range == resolved {
                    return Ok(got);
                }
                Err(self.error(ErrorKind::Other, Op::Download, id).with_message(format!(
                    "the store answered {:?} when {resolved:?} was asked for",
                    got.range
                )))
            }
        }
    }

    fn stream(&self, id: &FileId, got: GetResult) -> ByteStream {
        let (id, name) = (id.clone(), self.config.name.clone());
        got.into_stream()
            .map(move |piece| {
                piece.map_err(|error| convert(Op::Download, error).with_id(&id).with_storage(&name))
            })
            .boxed()
    }

    /// Copies within the store, which takes the attributes along, and asks what came of it.
    async fn copy_natively(
        &self,
        from: (&FileId, &Path),
        to: (&FileId, &Path),
        mode: CopyMode,
    ) -> Result<Receipt> {
        let options = CopyOptions::new().with_mode(mode);
        if let Err(error) = self.store.copy_opts(from.1, to.1, options).await {
            let error = self.failed(Op::Copy, to.0)(error);
            return Err(match error.kind() {
                ErrorKind::NotFound if self.head(from.0, from.1, Op::Copy).await.is_err() => {
                    error.with_id(from.0)
                }
                _ => self.explain(to.0, to.1, error).await,
            });
        }
        let applied = |error: Error| error.with_effect(Effect::Applied);
        let stored = self.head(to.0, to.1, Op::Copy).await.map_err(applied)?;
        let metadata = attributes::read(to.0.clone(), &stored.meta, &stored.attributes);
        let digest = metadata.digest;
        Ok(Receipt::new(metadata, digest, Verified::No))
    }

    /// Copies by way of this process.
    async fn copy_through(
        &self,
        from: (&FileId, GetResult),
        to: (&FileId, &Path),
        mut options: UploadOptions,
    ) -> Result<Receipt> {
        let (from, got) = from;
        let source = attributes::read(from.clone(), &got.meta, &got.attributes);
        let kept: Attributes = got.attributes.clone();
        let body = VerifyingStream::new(
            self.stream(from, got),
            source.size,
            source.expected(),
            from.clone(),
            &self.config.name,
        );
        let body =
            Body::spool(body, self.config.part_size, None).await.map_err(|error| error.with_op(Op::Copy))?;
        if self.facts.attributes {
            options.content_type = options.content_type.or(source.content_type);
            options.file_name = options.file_name.or(source.file_name);
            options.created = options.created.or(source.created);
            if options.tags.is_empty() {
                options.tags = source.tags;
            }
        }
        self.put(to, body, options, kept, Op::Copy).await
    }
}

impl fmt::Debug for ObjectStoreStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a store prints of itself is not ours to vouch for: its settings may hold secrets.
        f.debug_struct("ObjectStoreStorage")
            .field("config", &self.config)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for ObjectStoreStorage {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn capabilities(&self) -> Capabilities {
        let presigned = self.presigner.is_some();
        Capabilities {
            conditional_create: self.facts.create,
            conditional_replace: self.facts.replaces(),
            tags: self.facts.attributes,
            presigned_get: presigned,
            presigned_put: presigned && self.config.access == Access::ReadWrite,
            nested_ids: self.facts.nested,
            read_only: self.config.access == Access::ReadOnly,
            ..Capabilities::default()
        }
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        let path = self.path_to_write(id, Op::Upload)?;
        self.check_options(id, &options, Op::Upload)?;
        self.put((id, &path), body, options, Attributes::new(), Op::Upload).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let path = self.path(id, Op::Download)?;
        let got = self.get(id, &path, &options).await?;
        let metadata = attributes::read(id.clone(), &got.meta, &got.attributes);
        let range = got.range.clone();
        // Of a part there is no digest, but its length is known.
        let expected = options.range.is_none().then(|| metadata.expected()).flatten();
        let length = range.end - range.start;
        let body =
            VerifyingStream::new(self.stream(id, got), length, expected, id.clone(), &self.config.name);
        Ok(Download::new(metadata, range, body.boxed()))
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        let path = self.path(id, Op::Metadata)?;
        let got = self.head(id, &path, Op::Metadata).await?;
        Ok(attributes::read(id.clone(), &got.meta, &got.attributes))
    }

    /// Stores say "deleted" of what never was, so the file is asked for first: of two callers that delete it at
    /// the same time both may be told that they did.
    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let path = self.path_to_write(id, Op::Delete)?;
        match when {
            Precondition::None => {}
            Precondition::Absent => {
                return Err(self
                    .error(ErrorKind::InvalidInput, Op::Delete, id)
                    .with_message("an absent file cannot be deleted"));
            }
            Precondition::Version(_) => {
                return Err(self
                    .error(ErrorKind::Unsupported, Op::Delete, id)
                    .with_message("the store does not compare before it deletes"));
            }
        }
        match self.head(id, &path, Op::Metadata).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.with_op(Op::Delete)),
        }
        match self.store.delete(&path).await.map_err(self.failed(Op::Delete, id)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let listing = Listing {
            store: Arc::clone(&self.store),
            name: self.config.name.clone(),
            prefix: prefix.clone(),
            after: options.start_after,
        };
        listing.into_stream(self.config.order)
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        let target = self.path_to_write(to, Op::Copy)?;
        let source = self.path(from, Op::Copy)?;
        self.check_options(to, &options, Op::Copy)?;
        let plain = UploadOptions { when: options.when.clone(), ..UploadOptions::default() } == options;
        let mode = match options.when {
            Precondition::None if self.facts.copies => Some(CopyMode::Overwrite),
            Precondition::Absent if self.facts.copies_if_absent => Some(CopyMode::Create),
            _ => None,
        };
        if let (true, true, Some(mode)) = (plain, from != to, mode) {
            self.head(from, &source, Op::Copy).await?;
            return self.copy_natively((from, &source), (to, &target), mode).await;
        }
        let got = self.store.get_opts(&source, GetOptions::new()).await;
        let got = got.map_err(|error| self.failed(Op::Download, from)(error).with_op(Op::Copy))?;
        self.copy_through((from, got), (to, &target), options).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        let path = match request.method {
            PresignMethod::Get => self.path(id, Op::Presign)?,
            PresignMethod::Put => self.path_to_write(id, Op::Presign)?,
        };
        let Some(presigner) = &self.presigner else {
            return Err(self
                .error(ErrorKind::Unsupported, Op::Presign, id)
                .with_message("no presigner was given for this store"));
        };
        if !(Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&request.expires_in) {
            return Err(self
                .error(ErrorKind::InvalidInput, Op::Presign, id)
                .with_message(format!("expires in {:?}, not in 1 second to 7 days", request.expires_in)));
        }
        let expires = SystemTime::now() + request.expires_in;
        let (url, headers) = presigner
            .presign(&path, &request)
            .await
            .map_err(|error| error.with_op(Op::Presign).with_id(id).with_storage(&self.config.name))?;
        Ok(PresignedUrl::new(request.method, url, headers, expires))
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        let work = async {
            match self.config.access {
                Access::ReadOnly => probe::read(&self.store).await,
                Access::ReadWrite => probe::canary(&self.store).await,
            }
        };
        tokio::time::timeout(deadline, work)
            .await
            .unwrap_or_else(|_| {
                let message = format!("no answer within {deadline:?}");
                Err(Error::new(ErrorKind::Timeout, Op::Probe)
                    .with_effect(Effect::Unknown)
                    .with_message(message))
            })
            .map_err(|error| error.with_storage(&self.config.name))
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        None
    }
}
