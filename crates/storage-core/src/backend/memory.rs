//! Files in memory: small, for tests and short-lived services, and the yardstick of every other storage, as it
//! keeps all promises of the waist.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::body::{Body, READ_CHUNK};
use crate::checksum::{CompositeDigest, Digest, Hasher, VerifyingStream};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix, RESERVED_SEGMENT};
use crate::metadata::{FileMetadata, Version, guess_content_type};
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket, Verified,
};

/// Ids that a listing takes from the map at a time: the lock is held that long.
const LIST_PAGE: usize = 1000;

/// Bytes hashed between two chances for other tasks on the same thread.
const HASH_CHUNK: usize = 1 << 20;

/// Files in memory. A clone is a handle on the same files; they are gone with the last one.
///
/// Memory use is the size of all files and of all parts of open uploads: it is for tests and for small sets of
/// files whose size the service itself limits.
#[derive(Clone)]
pub struct MemoryStorage {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
    read_only: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<FileId, Stored>,
    uploads: BTreeMap<String, OpenUpload>,
    versions: u64,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    metadata: FileMetadata,
}

struct OpenUpload {
    ticket: UploadTicket,
    options: UploadOptions,
    parts: BTreeMap<PartNumber, Part>,
}

#[derive(Clone)]
struct Part {
    bytes: Bytes,
    digest: Digest,
    token: String,
}

impl Part {
    fn receipt(&self, number: PartNumber) -> PartReceipt {
        PartReceipt::new(number, self.bytes.len() as u64, Some(self.digest), self.token.clone())
    }
}

impl MemoryStorage {
    /// Makes an empty storage named `memory`.
    pub fn new() -> Self {
        Self::named("memory")
    }

    /// Makes an empty storage with a name of its own.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Arc::from(name.into()), state: Arc::default(), read_only: false }
    }

    /// Returns a handle on the same files that refuses to write.
    #[must_use]
    pub fn read_only(&self) -> Self {
        Self { read_only: true, ..self.clone() }
    }

    /// Flips one bit of the stored bytes, behind the back of digest and version: what a failing disk does.
    /// Returns whether there was a byte to flip.
    pub fn corrupt(&self, id: &FileId) -> bool {
        let mut state = self.lock();
        let Some(stored) = state.files.get_mut(id) else { return false };
        let mut bytes = BytesMut::from(&*stored.bytes);
        let middle = bytes.len() / 2;
        let Some(byte) = bytes.get_mut(middle) else { return false };
        *byte ^= 1;
        stored.bytes = bytes.freeze();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one statement, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: ErrorKind, op: Op, id: &FileId) -> Error {
        Error::new(kind, op).with_id(id).with_storage(&self.name)
    }

    fn check_id(&self, id: &FileId, op: Op) -> Result<()> {
        if id.is_reserved() {
            return Err(self
                .error(ErrorKind::InvalidInput, op, id)
                .with_message(format!("ids under \"{RESERVED_SEGMENT}\" are the storage's own")));
        }
        Ok(())
    }

    fn check_write(&self, id: &FileId, op: Op) -> Result<()> {
        if self.read_only {
            return Err(self.error(ErrorKind::Denied, op, id).with_message("opened for reading only"));
        }
        self.check_id(id, op)
    }

    fn check_options(&self, id: &FileId, options: &UploadOptions, op: Op) -> Result<()> {
        self.check_write(id, op)?;
        if options.tags.contains_key("") {
            return Err(self.error(ErrorKind::InvalidInput, op, id).with_message("a tag's key is empty"));
        }
        Ok(())
    }

    /// Refuses bytes that do not have the digest the caller gave.
    fn check_digest(&self, id: &FileId, given: Option<Digest>, actual: Digest, op: Op) -> Result<()> {
        match given {
            Some(expected) if expected != actual => Err(crate::checksum::Mismatch { expected, actual }
                .into_error(op)
                .with_id(id)
                .with_storage(&self.name)),
            _ => Ok(()),
        }
    }

    fn check_when(&self, state: &State, id: &FileId, when: &Precondition, op: Op) -> Result<()> {
        let stored = state.files.get(id);
        match (when, stored) {
            (Precondition::None, _) | (Precondition::Absent, None) => Ok(()),
            (Precondition::Absent, Some(_)) => Err(self.error(ErrorKind::AlreadyExists, op, id)),
            (Precondition::Version(wanted), Some(stored))
                if stored.metadata.version.as_ref() == Some(wanted) =>
            {
                Ok(())
            }
            (Precondition::Version(_), _) => Err(self.error(ErrorKind::VersionMismatch, op, id)),
        }
    }

    /// Publishes under one lock: precondition, version and file are one step.
    fn publish(
        &self,
        state: &mut State,
        op: Op,
        when: &Precondition,
        bytes: Bytes,
        mut metadata: FileMetadata,
    ) -> Result<Receipt> {
        self.check_when(state, &metadata.id, when, op)?;
        state.versions += 1;
        metadata.version = Some(Version::new(state.versions.to_string()));
        metadata.modified = Some(SystemTime::now());
        metadata.stored = metadata.modified;
        let receipt = Receipt::new(metadata.clone(), metadata.digest, Verified::Backend);
        state.files.insert(metadata.id.clone(), Stored { bytes, metadata });
        Ok(receipt)
    }

    fn find(&self, id: &FileId, op: Op) -> Result<Stored> {
        self.check_id(id, op)?;
        let state = self.lock();
        state.files.get(id).cloned().ok_or_else(|| self.error(ErrorKind::NotFound, op, id))
    }

    /// Reads the body into the one buffer that will be stored.
    async fn read(&self, id: &FileId, body: &Body) -> Result<Bytes> {
        let name = |error: Error| error.with_id(id).with_storage(&self.name);
        if let Some(bytes) = body.in_memory() {
            return Ok(bytes.clone());
        }
        let mut stream = body.open().await.map_err(name)?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = stream.try_next().await.map_err(name)? {
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 != body.size() {
            return Err(self.error(ErrorKind::SourceChanged, Op::Upload, id).with_message(format!(
                "the body gave {} bytes instead of {}",
                bytes.len(),
                body.size()
            )));
        }
        Ok(bytes.freeze())
    }

    fn page(&self, prefix: &Prefix, after: Option<&FileId>) -> Vec<FileMetadata> {
        let from = match after {
            Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix.as_str()),
        };
        let state = self.lock();
        let files = state.files.range::<str, _>((from, Bound::Unbounded));
        files
            .take_while(|(id, _)| prefix.matches(id))
            .filter(|(id, _)| !id.is_reserved())
            .take(LIST_PAGE)
            .map(|(_, stored)| stored.metadata.clone())
            .collect()
    }

    async fn canary(&self) -> Result<()> {
        let id = FileId::parse(format!("{RESERVED_SEGMENT}/canary/{}", uuid::Uuid::new_v4()))
            .map_err(|error| Error::new(ErrorKind::Other, Op::Probe).with_message(error.to_string()))?;
        let bytes = Bytes::from_static(b"canary");
        let metadata = described(id.clone(), &bytes, Digest::of(&bytes), &UploadOptions::default());
        let mut state = self.lock();
        self.publish(&mut state, Op::Probe, &Precondition::Absent, bytes.clone(), metadata)?;
        match state.files.remove(&id) {
            Some(stored) if stored.bytes == bytes => Ok(()),
            _ => Err(self.error(ErrorKind::Integrity, Op::Probe, &id)),
        }
    }
}

/// Describes a new file; version and times are set when it is published.
fn described(id: FileId, bytes: &Bytes, digest: Digest, options: &UploadOptions) -> FileMetadata {
    let mut metadata = FileMetadata::new(id, bytes.len() as u64);
    let name = options.file_name.as_deref().unwrap_or(metadata.id.file_name());
    metadata.content_type = Some(options.content_type.clone().unwrap_or_else(|| guess_content_type(name)));
    metadata.file_name.clone_from(&options.file_name);
    metadata.created = options.created;
    metadata.tags.clone_from(&options.tags);
    metadata.digest = Some(digest);
    metadata
}

/// Combines the digests of the parts. Where no part size was announced, that of the first part is meant; parts
/// of uneven sizes have no composite that the bytes alone could be compared with.
fn composite(announced: u64, parts: &[(u64, Digest)]) -> Option<CompositeDigest> {
    let (&(last, _), rest) = parts.split_last()?;
    let part_size = match (announced, rest.first()) {
        (0, Some(&(first, _))) => first,
        (0, None) => last.max(1),
        _ => announced,
    };
    let even = rest.iter().all(|&(size, _)| size == part_size) && last <= part_size;
    even.then(|| CompositeDigest::of_parts(part_size, parts.iter().map(|(_, digest)| digest)))
}

async fn digest_of(bytes: &Bytes) -> Digest {
    let mut hasher = Hasher::new();
    for (count, chunk) in bytes.chunks(HASH_CHUNK).enumerate() {
        if count > 0 {
            tokio::task::yield_now().await;
        }
        hasher.update(chunk);
    }
    hasher.finish()
}

/// Yields the bytes of `range` in pieces, as a disk or a network would.
fn pieces(bytes: &Bytes, range: &Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    // Both ends lie within the buffer, so they fit a usize.
    let rest = bytes.slice(range.start as usize..range.end as usize);
    stream::iter((0..rest.len()).step_by(READ_CHUNK).map(move |start| {
        let end = rest.len().min(start + READ_CHUNK);
        Ok(rest.slice(start..end))
    }))
    .boxed()
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage")
            .field("name", &self.name)
            .field("files", &self.lock().files.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for MemoryStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: true,
            conditional_replace: true,
            conditional_delete: true,
            verifies_sha256: true,
            composite_sha256: true,
            tags: true,
            resumable: true,
            nested_ids: true,
            read_only: self.read_only,
            ..Capabilities::default()
        }
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.check_options(id, &options, Op::Upload)?;
        let bytes = self.read(id, &body).await?;
        let digest = digest_of(&bytes).await;
        self.check_digest(id, options.digest, digest, Op::Upload)?;
        let metadata = described(id.clone(), &bytes, digest, &options);
        self.publish(&mut self.lock(), Op::Upload, &options.when, bytes, metadata)
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let Stored { bytes, metadata } = self.find(id, Op::Download)?;
        match &options.when {
            Precondition::None => {}
            Precondition::Version(wanted) if metadata.version.as_ref() == Some(wanted) => {}
            Precondition::Version(_) => {
                return Err(self.error(ErrorKind::VersionMismatch, Op::Download, id));
            }
            Precondition::Absent => {
                return Err(self
                    .error(ErrorKind::InvalidInput, Op::Download, id)
                    .with_message("an absent file cannot be read"));
            }
        }
        let size = metadata.size;
        let Some(range) = options.range else {
            let body = VerifyingStream::new(
                pieces(&bytes, &(0..size)),
                size,
                metadata.expected().filter(|_| !options.unverified),
                id.clone(),
                &self.name,
            );
            return Ok(Download::new(metadata, 0..size, body.boxed()));
        };
        let range = range.resolve(size).ok_or_else(|| {
            self.error(ErrorKind::InvalidInput, Op::Download, id)
                .with_message(format!("{range:?} of a file of {size} bytes"))
        })?;
        let body = pieces(&bytes, &range);
        Ok(Download::new(metadata, range, body))
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        Ok(self.find(id, Op::Metadata)?.metadata)
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.check_write(id, Op::Delete)?;
        if when == Precondition::Absent {
            return Err(self
                .error(ErrorKind::InvalidInput, Op::Delete, id)
                .with_message("an absent file cannot be deleted"));
        }
        let mut state = self.lock();
        if !state.files.contains_key(id) {
            return Ok(false);
        }
        self.check_when(&state, id, &when, Op::Delete)?;
        Ok(state.files.remove(id).is_some())
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let (storage, prefix) = (self.clone(), prefix.clone());
        stream::unfold(options.start_after, move |after| {
            let page = storage.page(&prefix, after.as_ref());
            std::future::ready(page.last().map(|last| last.id.clone()).map(|last| (page, Some(last))))
        })
        .flat_map(|page| stream::iter(page.into_iter().map(Ok)))
        .fuse()
        .boxed()
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.check_options(to, &options, Op::Copy)?;
        let Stored { bytes, metadata: source } = self.find(from, Op::Copy)?;
        let digest = digest_of(&bytes).await;
        self.check_digest(from, source.digest, digest, Op::Copy)?;
        self.check_digest(to, options.digest, digest, Op::Copy)?;
        let mut metadata = FileMetadata { id: to.clone(), ..source };
        if options.content_type.is_some() {
            metadata.content_type = options.content_type;
        }
        if options.file_name.is_some() {
            metadata.file_name = options.file_name;
        }
        if options.created.is_some() {
            metadata.created = options.created;
        }
        if !options.tags.is_empty() {
            metadata.tags = options.tags;
        }
        self.publish(&mut self.lock(), Op::Copy, &options.when, bytes, metadata)
    }

    async fn presigned_url(&self, id: &FileId, _request: PresignRequest) -> Result<PresignedUrl> {
        self.check_id(id, Op::Presign)?;
        Err(self.error(ErrorKind::Unsupported, Op::Presign, id).with_message("files in memory have no URL"))
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        tokio::time::timeout(deadline, self.canary())
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, Op::Probe).with_storage(&self.name))?
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        Some(self)
    }
}

impl MemoryStorage {
    fn no_such_upload(&self, ticket: &UploadTicket, op: Op) -> Error {
        self.error(ErrorKind::NoSuchUpload, op, &ticket.id)
    }

    fn invalid_parts(&self, ticket: &UploadTicket, message: String) -> Error {
        self.error(ErrorKind::InvalidInput, Op::FinishUpload, &ticket.id).with_message(message)
    }

    /// Returns the open upload's options and the parts that the caller named, checked.
    fn gather(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
    ) -> Result<Option<(UploadOptions, u64, Vec<Part>)>> {
        let state = self.lock();
        let Some(upload) = state.uploads.get(&ticket.upload).filter(|upload| upload.ticket.id == ticket.id)
        else {
            return Ok(None);
        };
        if parts.is_empty() {
            return Err(self.invalid_parts(ticket, "no parts".into()));
        }
        let mut gathered = Vec::with_capacity(parts.len());
        for (receipt, number) in parts.iter().zip(1..) {
            if receipt.number.get() != number {
                return Err(
                    self.invalid_parts(ticket, format!("part {} where part {number} is due", receipt.number))
                );
            }
            let part = upload.parts.get(&receipt.number).filter(|part| part.token == receipt.token);
            let Some(part) = part else {
                return Err(self.invalid_parts(ticket, format!("part {number} is not the one that is held")));
            };
            let announced = upload.ticket.part_size;
            if number as usize != parts.len() && announced > 0 && part.bytes.len() as u64 != announced {
                return Err(self.invalid_parts(
                    ticket,
                    format!("part {number} has {} bytes and is not the last", part.bytes.len()),
                ));
            }
            gathered.push(part.clone());
        }
        Ok(Some((upload.options.clone(), upload.ticket.part_size, gathered)))
    }

    /// Tells by what is stored whether an earlier finish of this ticket took place.
    fn finished_before(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: &FinishOptions,
    ) -> Result<Receipt> {
        let missing = || self.no_such_upload(ticket, Op::FinishUpload);
        let state = self.lock();
        let metadata = &state.files.get(&ticket.id).ok_or_else(missing)?.metadata;
        let known: Option<Vec<(u64, Digest)>> =
            parts.iter().map(|part| part.digest.map(|digest| (part.size, digest))).collect();
        let composite = known.and_then(|parts| composite(ticket.part_size, &parts));
        let same_parts = composite.is_some() && composite == metadata.composite;
        let same_whole = finish.digest.is_some() && finish.digest == metadata.digest;
        if !same_parts && !same_whole {
            return Err(missing());
        }
        Ok(Receipt::new(metadata.clone(), metadata.digest, Verified::Backend))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for MemoryStorage {
    fn limits(&self) -> PartLimits {
        // 0: the caller does not know, and the parts say it themselves.
        PartLimits { min_part_size: 0, ..PartLimits::S3 }
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        self.check_options(id, &options, Op::BeginUpload)?;
        let limits = self.limits();
        if !(limits.min_part_size..=limits.max_part_size).contains(&part_size) {
            return Err(self
                .error(ErrorKind::InvalidInput, Op::BeginUpload, id)
                .with_message(format!("parts of {part_size} bytes")));
        }
        let upload = uuid::Uuid::new_v4().to_string();
        let ticket = UploadTicket::new(id.clone(), upload.clone(), part_size, SystemTime::now());
        let open = OpenUpload { ticket: ticket.clone(), options, parts: BTreeMap::new() };
        self.lock().uploads.insert(upload, open);
        Ok(ticket)
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        self.check_write(&ticket.id, Op::PutPart)?;
        self.check_digest(&ticket.id, Some(digest), digest_of(&bytes).await, Op::PutPart)?;
        let limits = self.limits();
        let mut state = self.lock();
        state.versions += 1;
        let token = state.versions.to_string();
        let Some(upload) =
            state.uploads.get_mut(&ticket.upload).filter(|upload| upload.ticket.id == ticket.id)
        else {
            return Err(self.no_such_upload(ticket, Op::PutPart));
        };
        let most = match upload.ticket.part_size {
            0 => limits.max_part_size,
            announced => announced,
        };
        if number.get() > limits.max_parts || bytes.len() as u64 > most {
            return Err(self
                .error(ErrorKind::InvalidInput, Op::PutPart, &ticket.id)
                .with_message(format!("part {number} of {} bytes", bytes.len())));
        }
        let part = Part { bytes, digest, token };
        let receipt = part.receipt(number);
        upload.parts.insert(number, part);
        Ok(receipt)
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let state = self.lock();
        let upload = state.uploads.get(&ticket.upload).filter(|upload| upload.ticket.id == ticket.id);
        let upload = upload.ok_or_else(|| self.no_such_upload(ticket, Op::ListParts))?;
        Ok(upload.parts.iter().map(|(number, part)| part.receipt(*number)).collect())
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        self.check_write(&ticket.id, Op::FinishUpload)?;
        let Some((options, announced, gathered)) = self.gather(ticket, parts)? else {
            return self.finished_before(ticket, parts, &finish);
        };
        let known: Vec<(u64, Digest)> =
            gathered.iter().map(|part| (part.bytes.len() as u64, part.digest)).collect();
        let mut bytes = BytesMut::with_capacity(gathered.iter().map(|part| part.bytes.len()).sum());
        gathered.iter().for_each(|part| bytes.extend_from_slice(&part.bytes));
        let bytes = bytes.freeze();
        let digest = digest_of(&bytes).await;
        for given in [options.digest, finish.digest] {
            self.check_digest(&ticket.id, given, digest, Op::FinishUpload)?;
        }
        let mut metadata = described(ticket.id.clone(), &bytes, digest, &options);
        metadata.composite = composite(announced, &known);
        let mut state = self.lock();
        if !state.uploads.contains_key(&ticket.upload) {
            // Another finish or an abandon of this ticket was faster.
            drop(state);
            return self.finished_before(ticket, parts, &finish);
        }
        for when in [&options.when, &finish.when] {
            self.check_when(&state, &ticket.id, when, Op::FinishUpload)?;
        }
        let receipt = self.publish(&mut state, Op::FinishUpload, &finish.when, bytes, metadata)?;
        state.uploads.remove(&ticket.upload);
        Ok(receipt)
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        self.check_write(&ticket.id, Op::AbandonUpload)?;
        let mut state = self.lock();
        if state.uploads.get(&ticket.upload).is_some_and(|upload| upload.ticket.id == ticket.id) {
            state.uploads.remove(&ticket.upload);
        }
        Ok(())
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        let now = SystemTime::now();
        let old = |upload: &&OpenUpload| {
            // A clock that was set back makes an upload young, which only delays its end.
            now.duration_since(upload.ticket.started).is_ok_and(|age| age >= older_than)
        };
        Ok(self.lock().uploads.values().filter(old).map(|upload| upload.ticket.clone()).collect())
    }
}
