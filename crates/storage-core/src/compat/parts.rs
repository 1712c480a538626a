//! Uploads in parts whose parts and ids the caller keeps.
//!
//! A [`MultipartId`] holds the upload's ticket, so it is good in another process, as long as the storage keeps the
//! upload; and a [`PartId`] holds the part's receipt, so nothing is remembered here.
//!
//! Nobody says in advance how large the parts will be, and a storage that keeps a checksum of all parts has to know:
//! a reader cuts the file where its writer did. So there are three cases. The caller says it, by [`PartSize`]. A
//! storage that takes parts of unknown size is told that it is unknown. Any other is told the store's own part size,
//! and what would not fit that is refused, before it could become a file that no reader can verify.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error as StoreError, MultipartId, PutMultipartOptions, PutPayload, PutResult, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ObjectStoreCompat;
use super::convert::{failed, file_id, invalid, put_result, upload_options};
use super::multipart::{digest_of, part_number};
use crate::body::Body;
use crate::error::{Error, ErrorKind, Op};
use crate::metadata::Tags;
use crate::storage::{FinishOptions, PartLimits, PartReceipt, ResumableUpload, UploadOptions, UploadTicket};

/// Bytes of every part but the last, for the [`extensions`](PutMultipartOptions::extensions) of
/// [`create_multipart_opts`](MultipartStore::create_multipart_opts): with it an upload has parts of a size of its
/// own. Default: none, or [`with_part_size`](ObjectStoreCompat::with_part_size) where the storage must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize(pub u64);

/// What an id is made of: the ticket, and what an upload without any part would still have to be stored with.
#[derive(Serialize, Deserialize)]
struct Begun {
    ticket: UploadTicket,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    tags: Tags,
}

fn encoded(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(value).map_err(|error| invalid("an id", error))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn decoded<T: DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let value = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    value.ok_or_else(|| invalid(text, what))
}

impl ObjectStoreCompat {
    fn refused(&self, kind: ErrorKind, op: Op, message: impl Into<String>) -> Error {
        Error::new(kind, op).with_storage(self.storage.name()).with_message(message)
    }

    fn uploads(&self, op: Op) -> Result<&dyn ResumableUpload, Error> {
        self.storage.resumable().ok_or_else(|| {
            let message = "this storage has no uploads in parts; put_multipart gathers the parts for it";
            self.refused(ErrorKind::Unsupported, op, message)
        })
    }

    /// Returns the part size to begin with; 0 for one that nobody knows.
    fn announced(&self, wanted: Option<PartSize>, limits: &PartLimits) -> Result<u64, Error> {
        let sizes = limits.min_part_size.max(1)..=limits.max_part_size;
        match wanted {
            Some(PartSize(size)) if sizes.contains(&size) => Ok(size),
            Some(PartSize(size)) => Err(self.refused(
                ErrorKind::InvalidInput,
                Op::BeginUpload,
                format!("a part size of {size} bytes is not within {} and {}", sizes.start(), sizes.end()),
            )),
            None if limits.min_part_size == 0 => Ok(0),
            None => Ok((self.part_size as u64).clamp(*sizes.start(), *sizes.end())),
        }
    }

    fn begun(&self, path: &Path, id: &MultipartId) -> Result<Begun> {
        let begun: Begun = decoded(id, "no id of an upload that this store has begun")?;
        if begun.ticket.id.as_str() == path.as_ref() {
            return Ok(begun);
        }
        let message = format!("the upload is one of \"{}\"", begun.ticket.id);
        Err(failed(path)(
            self.refused(ErrorKind::InvalidInput, Op::PutPart, message).with_id(&file_id(path)?),
        ))
    }

    async fn put_begun(
        &self,
        ticket: &UploadTicket,
        index: usize,
        data: PutPayload,
    ) -> Result<PartReceipt, Error> {
        let uploads = self.uploads(Op::PutPart)?;
        let number = u32::try_from(index).ok().and_then(|index| index.checked_add(1)).unwrap_or(u32::MAX);
        let number = part_number(number, &uploads.limits(), ticket.part_size)
            .map_err(|error| error.with_storage(self.storage.name()))?;
        let bytes = Bytes::from(data);
        let size = bytes.len() as u64;
        if ticket.part_size > 0 && size > ticket.part_size {
            return Err(self.refused(
                ErrorKind::InvalidInput,
                Op::PutPart,
                uneven(index, size, ticket.part_size),
            ));
        }
        let digest = digest_of(&bytes).await;
        uploads.put_part(ticket, number, bytes, digest).await
    }

    async fn finish_begun(&self, begun: Begun, receipts: &[PartReceipt]) -> Result<PutResult, Error> {
        const OP: Op = Op::FinishUpload;
        let uploads = self.uploads(OP)?;
        let Begun { ticket, content_type, tags } = begun;
        if receipts.is_empty() {
            // An upload that was discarded is not to come back as an empty file, nor one that has bytes.
            let held = uploads.parts(&ticket).await?;
            if !held.is_empty() {
                let message = format!("{} parts were put, and none is named", held.len());
                return Err(self.refused(ErrorKind::InvalidInput, OP, message));
            }
            let options = UploadOptions { content_type, tags, ..UploadOptions::default() };
            let receipt = self.storage.upload(&ticket.id, Body::from_bytes(Bytes::new()), options).await?;
            if let Err(error) = uploads.abandon(&ticket).await {
                // The file is there; the upload is found by who looks for stale ones.
                tracing::warn!(storage = self.storage.name(), id = ?ticket.id, %error, "an upload stays open");
            }
            return Ok(put_result(receipt));
        }
        let last = receipts.len() - 1;
        for (index, receipt) in receipts.iter().enumerate() {
            if receipt.number.get() as usize != index + 1 {
                let message = format!("the part of index {index} was put as {}", receipt.number.get() - 1);
                return Err(self.refused(ErrorKind::InvalidInput, OP, message));
            }
            let fits = if index < last {
                receipt.size == ticket.part_size
            } else {
                receipt.size <= ticket.part_size
            };
            if ticket.part_size > 0 && !fits {
                let message = uneven(index, receipt.size, ticket.part_size);
                return Err(self.refused(ErrorKind::InvalidInput, OP, message));
            }
        }
        uploads.finish(&ticket, receipts, FinishOptions::default()).await.map(put_result)
    }
}

fn uneven(index: usize, size: u64, part_size: u64) -> String {
    format!(
        "the part of index {index} has {size} bytes, and the upload was begun for parts of {part_size}, the last not \
         larger; choose another size with the extension PartSize or ObjectStoreCompat::with_part_size"
    )
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MultipartStore for ObjectStoreCompat {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.create_multipart_opts(path, PutMultipartOptions::default()).await
    }

    async fn create_multipart_opts(&self, path: &Path, opts: PutMultipartOptions) -> Result<MultipartId> {
        let id = file_id(path)?;
        let options = upload_options(self, &opts.attributes, &opts.tags)?;
        let failed = failed(path);
        let uploads = self.uploads(Op::BeginUpload).map_err(&failed)?;
        let wanted = opts.extensions.get::<PartSize>().copied();
        let part_size = self.announced(wanted, &uploads.limits()).map_err(&failed)?;
        let ticket = uploads.begin(&id, part_size, options.clone()).await.map_err(&failed)?;
        encoded(&Begun { ticket, content_type: options.content_type, tags: options.tags })
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part_idx: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let begun = self.begun(path, id)?;
        let receipt = self.put_begun(&begun.ticket, part_idx, data).await.map_err(upload_failed(path))?;
        Ok(PartId { content_id: encoded(&receipt)? })
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let begun = self.begun(path, id)?;
        let receipts =
            parts.iter().map(|part| decoded(&part.content_id, "no id of a part that this store has taken"));
        let receipts = receipts.collect::<Result<Vec<PartReceipt>>>()?;
        self.finish_begun(begun, &receipts).await.map_err(upload_failed(path))
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let begun = self.begun(path, id)?;
        let failed = failed(path);
        let uploads = self.uploads(Op::AbandonUpload).map_err(&failed)?;
        uploads.abandon(&begun.ticket).await.map_err(failed)
    }
}

/// Converts an error about an upload: one that is gone is not found, as with the stores of that crate.
fn upload_failed(path: &Path) -> impl Fn(Error) -> StoreError + Send + 'static {
    let (text, failed) = (path.to_string(), failed(path));
    move |error| match error.kind() {
        ErrorKind::NoSuchUpload => StoreError::NotFound { path: text.clone(), source: error.into() },
        _ => failed(error),
    }
}
