//! A storage of one's own: all files in one append-only log, and the conformance suite that says whether it keeps
//! the promises (`cargo test --example custom_backend --features testkit`).
//!
//! Record: lengths of head and bytes (8 bytes each, little-endian), head (JSON), bytes, SHA-256 of all of it. A
//! record that is not whole is the last one, of a write that nobody was told of: opening cuts it off. Deleting
//! appends as well; nothing gives room back. The index is in memory.

#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::{Bound, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use storage_core::body::{Body, ByteStream, READ_CHUNK, collect};
use storage_core::checksum::{Digest, Hasher, Mismatch, VerifyingStream};
use storage_core::error::{Error, ErrorKind, Op, Result};
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::{FileMetadata, Tags, Version, guess_content_type};
use storage_core::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FileStorageExt, ListOptions, Precondition,
    PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions, Verified,
};

/// Files in one append-only log. One process at a time may have it open.
#[derive(Debug)]
struct LogStorage {
    log: Arc<File>,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    files: BTreeMap<FileId, Entry>,
    end: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    metadata: FileMetadata,
    /// Where the bytes begin.
    start: u64,
}

/// The head of a record.
#[derive(Serialize, Deserialize)]
struct Head {
    id: FileId,
    /// Nothing where the file was deleted.
    file: Option<Attributes>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Attributes {
    content_type: Option<String>,
    file_name: Option<String>,
    /// Whether it is before 1970, and how far from it.
    created: Option<(bool, Duration)>,
    modified: Option<SystemTime>,
    tags: Tags,
    digest: Option<Digest>,
}

impl LogStorage {
    /// Opens the log, or makes one.
    fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| failed(Op::Open, error);
        let log = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        log.try_lock().map_err(|error| failed(error.into()))?;
        let mut index = Index::default();
        let mut reader = io::BufReader::new(&log);
        while let Some((head, size, start)) = read_record(&mut reader, index.end).map_err(failed)? {
            index.apply(head, size, start);
        }
        // What a crash left: nobody was told that it is stored.
        log.set_len(index.end).map_err(failed)?;
        Ok(Self { log: Arc::new(log), index: Mutex::new(index) })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Each change of the index is one step, so that no panic leaves it half made.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &FileId, op: Op) -> Result<Entry> {
        check_id(id, op)?;
        self.index().files.get(id).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, op))
    }

    /// Checks, appends and publishes in one step. Nothing here waits, so a dropped future has done all of it or
    /// nothing; a storage for more than an example would do it on a thread that may block.
    fn append(
        &self,
        op: Op,
        id: &FileId,
        file: Option<(Attributes, &[u8])>,
        when: &Precondition,
    ) -> Result<Option<FileMetadata>> {
        let mut index = self.index();
        check(when, index.files.get(id), op)?;
        let (attributes, bytes) = file.unzip();
        let head = Head { id: id.clone(), file: attributes };
        let bytes = bytes.unwrap_or_default();
        let (record, start) = write_record(&head, bytes).map_err(|error| failed(op, error))?;
        let start = index.end + start;
        let written = (&*self.log).write_all(&record).and_then(|()| self.log.sync_data());
        if let Err(error) = written {
            // Half a record would hide the next one.
            let _ = self.log.set_len(index.end);
            return Err(failed(op, error));
        }
        index.apply(head, bytes.len() as u64, start);
        Ok(index.files.get(id).map(|entry| entry.metadata.clone()))
    }

    fn publish(
        &self,
        op: Op,
        id: &FileId,
        mut attributes: Attributes,
        bytes: &[u8],
        options: &UploadOptions,
    ) -> Result<Receipt> {
        if options.tags.contains_key("") {
            return Err(Error::new(ErrorKind::InvalidInput, op).with_message("a tag with an empty key"));
        }
        let digest = Digest::of(bytes);
        if let Some(expected) = options.digest.filter(|expected| *expected != digest) {
            return Err(Mismatch { expected, actual: digest }.into_error(op));
        }
        attributes.digest = Some(digest);
        attributes.modified = Some(SystemTime::now());
        let metadata = self.append(op, id, Some((attributes, bytes)), &options.when)?;
        let metadata = metadata.unwrap_or_else(|| FileMetadata::new(id.clone(), bytes.len() as u64));
        Ok(Receipt::new(metadata, Some(digest), Verified::No))
    }

    fn bytes(&self, entry: &Entry, range: Range<u64>) -> ByteStream {
        let log = Arc::clone(&self.log);
        let range = entry.start + range.start..entry.start + range.end;
        stream::try_unfold(range, move |range| {
            let log = Arc::clone(&log);
            async move {
                let length = (range.end - range.start).min(READ_CHUNK as u64);
                if length == 0 {
                    return Ok(None);
                }
                let work = move || {
                    let mut piece = vec![0; length as usize];
                    log.read_exact_at(&mut piece, range.start).map(|()| piece)
                };
                let piece = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
                let piece = piece.flatten().map_err(|error| failed(Op::Download, error))?;
                Ok(Some((Bytes::from(piece), range.start + length..range.end)))
            }
        })
        .boxed()
    }

    fn whole(&self, entry: &Entry) -> ByteStream {
        let FileMetadata { id, size, .. } = &entry.metadata;
        let bytes = self.bytes(entry, 0..*size);
        VerifyingStream::new(bytes, *size, entry.metadata.expected(), id.clone(), self.name()).boxed()
    }

    fn named(&self, error: Error, id: &FileId) -> Error {
        error.with_id(id).with_storage(self.name())
    }
}

impl Index {
    fn apply(&mut self, head: Head, size: u64, start: u64) {
        // The digest of the record is behind its bytes.
        self.end = start + size + 32;
        match head.file {
            Some(attributes) => {
                let mut metadata = FileMetadata::new(head.id.clone(), size);
                metadata.content_type = attributes.content_type;
                metadata.file_name = attributes.file_name;
                metadata.created = attributes.created.and_then(|(before, distance)| {
                    if before { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
                });
                metadata.modified = attributes.modified;
                metadata.tags = attributes.tags;
                metadata.digest = attributes.digest;
                // No two records begin at one place.
                metadata.version = Some(Version::new(start.to_string()));
                self.files.insert(head.id, Entry { metadata, start });
            }
            None => {
                self.files.remove(&head.id);
            }
        }
    }
}

/// Returns the record, and where in it the bytes begin.
fn write_record(head: &Head, bytes: &[u8]) -> io::Result<(Vec<u8>, u64)> {
    let head = serde_json::to_vec(head)?;
    let lengths = [head.len() as u64, bytes.len() as u64].map(u64::to_le_bytes).concat();
    let mut record = [&lengths, &*head, bytes].concat();
    record.extend_from_slice(Digest::of(&record).as_bytes());
    Ok((record, (lengths.len() + head.len()) as u64))
}

/// Reads the record that begins at `at`: its head, the size of its bytes and where they begin. Nothing where there
/// is none that is whole.
fn read_record(log: &mut (impl Read + Seek), at: u64) -> io::Result<Option<(Head, u64, u64)>> {
    log.seek(SeekFrom::Start(at))?;
    let mut lengths = Vec::new();
    log.by_ref().take(16).read_to_end(&mut lengths)?;
    let (Some(head), Some(size)) = (length(&lengths, 0), length(&lengths, 8)) else { return Ok(None) };
    let mut hasher = Hasher::new();
    hasher.update(&lengths);
    let mut left = head.saturating_add(size);
    let (mut kept, mut piece) = (Vec::new(), vec![0; READ_CHUNK]);
    while left > 0 {
        let most = left.min(READ_CHUNK as u64) as usize;
        let count = log.read(&mut piece[..most])?;
        if count == 0 {
            return Ok(None);
        }
        hasher.update(&piece[..count]);
        let of_head = (head.saturating_sub(kept.len() as u64)).min(count as u64) as usize;
        kept.extend_from_slice(&piece[..of_head]);
        left -= count as u64;
    }
    let mut digest = Vec::new();
    log.by_ref().take(32).read_to_end(&mut digest)?;
    if digest != hasher.finish().as_bytes() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&kept)?, size, at + 16 + head)))
}

fn length(lengths: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(lengths.get(at..at + 8)?.try_into().ok()?))
}

fn attributes(id: &FileId, options: &UploadOptions) -> Attributes {
    let name = options.file_name.as_deref().unwrap_or_else(|| id.file_name());
    let content_type = options.content_type.clone().unwrap_or_else(|| guess_content_type(name));
    Attributes {
        content_type: Some(content_type),
        file_name: options.file_name.clone(),
        created: options.created.map(distance),
        tags: options.tags.clone(),
        ..Attributes::default()
    }
}

fn distance(time: SystemTime) -> (bool, Duration) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (false, after),
        Err(before) => (true, before.duration()),
    }
}

fn check_id(id: &FileId, op: Op) -> Result<()> {
    if id.is_reserved() {
        return Err(Error::new(ErrorKind::InvalidInput, op).with_message("the storage's own id"));
    }
    Ok(())
}

fn check(when: &Precondition, stored: Option<&Entry>, op: Op) -> Result<()> {
    match (when, stored) {
        (Precondition::None, _) | (Precondition::Absent, None) => Ok(()),
        (Precondition::Absent, Some(_)) => Err(Error::new(ErrorKind::AlreadyExists, op)),
        (Precondition::Version(version), Some(entry)) if entry.metadata.version.as_ref() == Some(version) => {
            Ok(())
        }
        (Precondition::Version(_), _) => Err(Error::new(ErrorKind::VersionMismatch, op)),
    }
}

fn absent_is_invalid(when: &Precondition, op: Op) -> Result<()> {
    match when {
        Precondition::Absent => {
            Err(Error::new(ErrorKind::InvalidInput, op).with_message("the file is to be there and absent"))
        }
        Precondition::None | Precondition::Version(_) => Ok(()),
    }
}

fn failed(op: Op, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::WouldBlock => ErrorKind::Misconfigured,
        _ => ErrorKind::Other,
    };
    Error::new(kind, op).with_message(error.to_string()).with_source(error)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for LogStorage {
    fn name(&self) -> &str {
        "log"
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.conditional_create = true;
        capabilities.conditional_replace = true;
        capabilities.conditional_delete = true;
        capabilities.tags = true;
        capabilities.nested_ids = true;
        capabilities
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        let op = Op::Upload;
        let work = async {
            check_id(id, op)?;
            // In memory: one record is written in one step.
            let bytes = collect(body.open().await?).await?;
            if bytes.len() as u64 != body.size() {
                return Err(Error::new(ErrorKind::SourceChanged, op).with_message(format!(
                    "{} bytes instead of {}",
                    bytes.len(),
                    body.size()
                )));
            }
            self.publish(op, id, attributes(id, &options), &bytes, &options)
        };
        work.await.map_err(|error| self.named(error, id))
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let op = Op::Download;
        let open = || {
            let entry = self.find(id, op)?;
            absent_is_invalid(&options.when, op)?;
            check(&options.when, Some(&entry), op)?;
            let size = entry.metadata.size;
            let (range, body) = match options.range {
                None => (0..size, self.whole(&entry)),
                Some(range) => {
                    let range = range.resolve(size).ok_or_else(|| {
                        Error::new(ErrorKind::InvalidInput, op)
                            .with_message(format!("{range:?} of a file of {size} bytes"))
                    })?;
                    (range.clone(), self.bytes(&entry, range))
                }
            };
            Ok(Download::new(entry.metadata, range, body))
        };
        open().map_err(|error| self.named(error, id))
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        let found = self.find(id, Op::Metadata).map_err(|error| self.named(error, id))?;
        Ok(found.metadata)
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        let op = Op::Delete;
        let delete = || {
            check_id(id, op)?;
            absent_is_invalid(&when, op)?;
            if !self.index().files.contains_key(id) {
                return Ok(false);
            }
            self.append(op, id, None, &when)?;
            Ok(true)
        };
        delete().map_err(|error| self.named(error, id))
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let from = match &options.start_after {
            Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix.as_str()),
        };
        let index = self.index();
        let files = index.files.range::<str, _>((from, Bound::Unbounded));
        let files: Vec<_> = files
            .take_while(|(id, _)| prefix.matches(id))
            .filter(|(id, _)| !id.is_reserved())
            .map(|(_, entry)| Ok(entry.metadata.clone()))
            .collect();
        stream::iter(files).boxed()
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        let op = Op::Copy;
        let source = self.find(from, op).map_err(|error| self.named(error, from))?;
        let work = async {
            check_id(to, op)?;
            let bytes = collect(self.whole(&source)).await.map_err(|error| error.with_op(op))?;
            let known = source.metadata;
            let mut attributes = Attributes {
                content_type: options.content_type.clone().or(known.content_type),
                file_name: options.file_name.clone().or(known.file_name),
                created: options.created.or(known.created).map(distance),
                tags: known.tags,
                ..Attributes::default()
            };
            if !options.tags.is_empty() {
                attributes.tags.clone_from(&options.tags);
            }
            self.publish(op, to, attributes, &bytes, &options)
        };
        work.await.map_err(|error| self.named(error, to))
    }

    async fn presigned_url(&self, id: &FileId, _request: PresignRequest) -> Result<PresignedUrl> {
        let error = check_id(id, Op::Presign).err();
        let error = error.unwrap_or_else(|| Error::new(ErrorKind::Unsupported, Op::Presign));
        Err(self.named(error, id))
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        let op = Op::Probe;
        let failed = |message: String| Error::new(ErrorKind::Other, op).with_message(message);
        let work = async {
            let id = FileId::parse(format!(".storage/{}", uuid::Uuid::new_v4()))
                .map_err(|error| failed(error.to_string()))?;
            self.append(op, &id, Some((Attributes::default(), b"canary")), &Precondition::Absent)?;
            let entry = self.index().files.get(&id).cloned();
            let entry = entry.ok_or_else(|| failed("the canary is gone".to_owned()))?;
            let read = collect(self.whole(&entry)).await?;
            self.append(op, &id, None, &Precondition::None)?;
            if read != "canary" { Err(Error::new(ErrorKind::Integrity, op)) } else { Ok(()) }
        };
        let result = tokio::time::timeout(deadline, work).await;
        result
            .map_err(|_| Error::new(ErrorKind::Timeout, op))
            .flatten()
            .map_err(|error| error.with_storage("log"))
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        None
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: custom_backend LOG")?;
    let storage = LogStorage::open(Path::new(&path))?;
    storage.upload_bytes(&FileId::parse("greeting.txt")?, "hello".into()).await?;
    let mut files = storage.list(&Prefix::all(), ListOptions::default());
    while let Some(file) = files.try_next().await? {
        println!("{:>10} {}", file.size, file.id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use storage_core::testkit::conformance::Fixture;

    use super::*;

    async fn log() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let storage = Arc::new(LogStorage::open(&path).unwrap());
        let same = Arc::clone(&storage);
        let corrupt = move |id: &FileId| {
            let start = same.index().files[id].start;
            let log = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            log.read_exact_at(&mut byte, start).unwrap();
            log.write_all_at(&[!byte[0]], start).unwrap();
        };
        Fixture::new(storage).with_corruption(corrupt).with_guard(directory)
    }

    storage_core::conformance!(the_log_keeps_its_promises, log);

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_crash_anywhere_in_the_next_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (a, b) = (FileId::parse("a").unwrap(), FileId::parse("b").unwrap());
        let storage = LogStorage::open(&path).unwrap();
        storage.upload_bytes(&a, "first".into()).await.unwrap();
        let acknowledged = storage.index().end;
        storage.upload_bytes(&b, "second".into()).await.unwrap();
        let end = storage.index().end;
        assert_eq!(LogStorage::open(&path).unwrap_err().kind(), ErrorKind::Misconfigured, "two at a time");
        drop(storage);
        for crash in (acknowledged..end).rev() {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(crash).unwrap();
            let storage = LogStorage::open(&path).unwrap();
            assert_eq!(storage.download_bytes(&a).await.unwrap(), "first");
            assert!(!storage.exists(&b).await.unwrap());
            assert_eq!(storage.index().end, acknowledged);
            storage.upload_bytes(&b, "second".into()).await.unwrap();
            assert_eq!(storage.download_bytes(&b).await.unwrap(), "second");
        }
    }
}
