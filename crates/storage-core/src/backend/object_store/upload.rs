//! Files into objects: in one request, or in parts.

use bytes::{Bytes, BytesMut};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, MultipartUpload, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    UpdateVersion, UploadPart,
};
use tokio::runtime::Handle;

use super::{ObjectStoreStorage, attributes};
use crate::body::Body;
use crate::checksum::{Digest, Hasher, Mismatch};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::{FileMetadata, guess_content_type};
use crate::storage::{Precondition, Receipt, UploadOptions, Verified};

/// Parts on their way at a time. Each is a buffer; more than a few keep no store busier.
const PARTS_AT_A_TIME: usize = 4;

/// Bytes hashed between two chances for other tasks on the same thread.
const HASH_CHUNK: usize = 1 << 20;

/// An upload in parts that is discarded unless it was completed.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "an upload in parts stays open");
                }
            });
        }
    }
}

/// Counts and hashes what is sent.
struct Sent {
    hasher: Hasher,
    size: u64,
}

impl Sent {
    async fn add(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(HASH_CHUNK) {
            self.hasher.update(chunk);
            if bytes.len() > HASH_CHUNK {
                tokio::task::yield_now().await;
            }
        }
        self.size += bytes.len() as u64;
    }
}

impl ObjectStoreStorage {
    /// Uploads a body whose options have been checked. The attributes that are not ours are those of the source
    /// of a copy.
    pub(super) async fn put(
        &self,
        to: (&FileId, &Path),
        body: Body,
        options: UploadOptions,
        mut others: Attributes,
        op: Op,
    ) -> Result<Receipt> {
        let (id, path) = to;
        let size = body.size();
        let small = size <= self.config.part_size as u64;
        let named = |error: Error| error.with_id(id).with_storage(&self.config.name);
        if !small && options.when != Precondition::None && size > self.config.max_conditional {
            return Err(self.error(ErrorKind::TooLarge, op, id).with_message(format!(
                "{size} bytes with a precondition, which a store compares in one request only, of at most {} \
                 bytes here",
                self.config.max_conditional
            )));
        }
        let (result, digest) = if small || options.when != Precondition::None {
            let bytes = body.read(0..size).await.map_err(named)?;
            let mut sent = Sent { hasher: Hasher::new(), size: 0 };
            sent.add(&bytes).await;
            let digest = self.check_sent(id, sent, size, options.digest, op)?;
            self.write_attributes(&mut others, id, &options, Some(digest));
            (self.put_whole(id, path, bytes, &options.when, others, op).await?, digest)
        } else {
            let known = match options.digest {
                None if self.facts.attributes => Some(body.digest().await.map_err(named)?),
                given => given,
            };
            self.write_attributes(&mut others, id, &options, known);
            self.put_parts(id, path, &body, known, others, op).await?
        };
        Ok(Receipt::new(self.described(id, size, &options, digest, &result), Some(digest), Verified::No))
    }

    fn write_attributes(
        &self,
        all: &mut Attributes,
        id: &FileId,
        options: &UploadOptions,
        digest: Option<Digest>,
    ) {
        if self.facts.attributes {
            attributes::write(all, id, options, digest);
        } else {
            *all = Attributes::new();
        }
    }

    /// Compares what was sent with what the body and the caller said.
    fn check_sent(
        &self,
        id: &FileId,
        sent: Sent,
        size: u64,
        expected: Option<Digest>,
        op: Op,
    ) -> Result<Digest> {
        if sent.size != size {
            return Err(self
                .error(ErrorKind::SourceChanged, op, id)
                .with_message(format!("the body gave {} bytes instead of {size}", sent.size)));
        }
        let actual = sent.hasher.finish();
        match expected {
            Some(expected) if expected != actual => {
                let error = Mismatch { expected, actual }.into_error(op);
                Err(error.with_id(id).with_storage(&self.config.name))
            }
            _ => Ok(actual),
        }
    }

    /// Returns the condition in the words of the store.
    async fn mode(&self, id: &FileId, path: &Path, when: &Precondition, op: Op) -> Result<PutMode> {
        let version = match when {
            Precondition::None => return Ok(PutMode::Overwrite),
            Precondition::Absent => return Ok(PutMode::Create),
            Precondition::Version(version) => version,
        };
        let mut update = UpdateVersion { e_tag: Some(version.as_str().to_owned()), version: None };
        if self.facts.replaces_by_version {
            // The store compares a number of its own, which belongs to the ETag as long as both are stored.
            let stored = match self.head(id, path, op).await {
                Ok(stored) => Some(stored.meta),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let stored = stored.filter(|stored| stored.e_tag.as_deref() == Some(version.as_str()));
            let Some(stored) = stored else { return Err(self.error(ErrorKind::VersionMismatch, op, id)) };
            update.version = stored.version;
        }
        Ok(PutMode::Update(update))
    }

    async fn put_whole(
        &self,
        id: &FileId,
        path: &Path,
        bytes: Bytes,
        when: &Precondition,
        attributes: Attributes,
        op: Op,
    ) -> Result<PutResult> {
        let mode = self.mode(id, path, when, op).await?;
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        match self.store.put_opts(path, PutPayload::from(bytes), options).await {
            Ok(result) => Ok(result),
            Err(error) => {
                let error = self.failed(op, id)(error);
                // Nothing is stored: some stores say so, where we speak of another version.
                if error.kind() == ErrorKind::NotFound && matches!(when, Precondition::Version(_)) {
                    return Err(self.error(ErrorKind::VersionMismatch, op, id).with_source(error));
                }
                Err(self.explain(id, path, error).await)
            }
        }
    }

    async fn put_parts(
        &self,
        id: &FileId,
        path: &Path,
        body: &Body,
        expected: Option<Digest>,
        attributes: Attributes,
        op: Op,
    ) -> Result<(PutResult, Digest)> {
        let failed = self.failed(op, id);
        let begin = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = match self.store.put_multipart_opts(path, begin).await {
            Ok(upload) => upload,
            Err(error) => return Err(self.explain(id, path, failed(error)).await),
        };
        let mut upload = Upload(Some(upload));
        let sent = self.send_parts(id, &mut upload, body, op).await;
        let checked = sent.and_then(|sent| self.check_sent(id, sent, body.size(), expected, op));
        let Some(mut open) = upload.0.take() else {
            return Err(self.error(ErrorKind::Other, op, id).with_message("the upload is gone"));
        };
        let digest = match checked {
            Ok(digest) => digest,
            Err(error) => {
                // Now, so that whoever sees the error finds nothing left.
                if let Err(open) = open.abort().await {
                    tracing::warn!(%id, error = %open, "an upload in parts stays open");
                }
                return Err(error);
            }
        };
        match open.complete().await {
            Ok(result) => Ok((result, digest)),
            Err(error) => {
                let error = self.explain(id, path, failed(error)).await;
                if let Err(open) = open.abort().await {
                    tracing::debug!(%id, error = %open, "an upload in parts was not discarded");
                }
                Err(error)
            }
        }
    }

    async fn send_parts(&self, id: &FileId, upload: &mut Upload, body: &Body, op: Op) -> Result<Sent> {
        let named = |error: Error| error.with_id(id).with_storage(&self.config.name);
        let failed = self.failed(op, id);
        let mut sent = Sent { hasher: Hasher::new(), size: 0 };
        let mut parts: FuturesUnordered<UploadPart> = FuturesUnordered::new();
        let mut stream = body.open().await.map_err(named)?;
        let mut part = BytesMut::new();
        loop {
            let piece = stream.try_next().await.map_err(named)?;
            let last = piece.is_none();
            if let Some(piece) = piece {
                sent.add(&piece).await;
                if sent.size > body.size() {
                    break;
                }
                part.extend_from_slice(&piece);
            }
            while part.len() >= self.config.part_size || (last && !part.is_empty()) {
                let bytes = part.split_to(part.len().min(self.config.part_size)).freeze();
                if parts.len() >= PARTS_AT_A_TIME
                    && let Some(done) = parts.next().await
                {
                    done.map_err(&failed)?;
                }
                if let Some(upload) = &mut upload.0 {
                    parts.push(upload.put_part(PutPayload::from(bytes)));
                }
            }
            if last {
                break;
            }
        }
        while let Some(done) = parts.next().await {
            done.map_err(&failed)?;
        }
        Ok(sent)
    }

    /// Describes what was stored as [`attributes::read`] would, without asking again.
    fn described(
        &self,
        id: &FileId,
        size: u64,
        options: &UploadOptions,
        digest: Digest,
        result: &PutResult,
    ) -> FileMetadata {
        let mut metadata = FileMetadata::new(id.clone(), size);
        let name = options.file_name.as_deref().unwrap_or(id.file_name());
        metadata.content_type =
            Some(options.content_type.clone().unwrap_or_else(|| guess_content_type(name)));
        metadata.version = attributes::version(result.e_tag.as_deref());
        if self.facts.attributes {
            metadata.file_name.clone_from(&options.file_name);
            metadata.created = options.created;
            metadata.tags.clone_from(&options.tags);
            metadata.digest = Some(digest);
        }
        metadata
    }
}
