//! One file's bytes, from the source's stream into the target.
//!
//! The file is opened once and read once, from its first byte to its last, of one version only: the source's
//! stream ends in an error where the identity at its end is not the one asked for. Each byte is hashed as it
//! passes; a part is sent, and sent again, from the buffer that was hashed.
//!
//! # Order of effects, for a file in parts
//!
//! 1. the upload is begun at the target
//! 2. its ticket is durable in the journal
//! 3. parts are stored at the target, several at a time
//! 4. each part's receipt is durable in the journal
//! 5. the source's stream has ended: its identity held from open to end
//! 6. the target publishes the file
//!
//! | ends between | what remains | the next attempt |
//! |---|---|---|
//! | 1 and 2 | an open upload without a ticket | a new upload; the sweep of a run finds the old one by its id |
//! | 3 and 4 | a stored part without a receipt | sends that part again, which replaces it |
//! | 4 and 6 | parts with receipts | reads the file again, skips each part whose hash is that of its receipt and which the target still lists |
//! | 6 and the ledger | a published file, and no upload under the ticket | reads the file again; all hashes equal, the target says that it has published them |
//!
//! A source that changed ends the upload: its parts are discarded, never mixed with those of another version.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::Fuse;
use futures::{StreamExt, TryStreamExt};
use storage_core::body::{Body, BodySource, ByteStream};
use storage_core::checksum::{CompositeDigest, Digest, Expected, Mismatch, PartedHasher, Verifier};
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::id::FileId;
use storage_core::metadata::{FileMetadata, Version};
use storage_core::storage::{
    ByteRange, DownloadOptions, FileStorage, FinishOptions, PartNumber, PartReceipt, Precondition, Receipt,
    ResumableUpload, UploadOptions, UploadTicket, Verified,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::lanes::Lanes;
use crate::preserve::Attributes;
use crate::progress::Progress;
use crate::rules::Rules;
use crate::throttle::Throttle;

use self::buffer::{Buffer, Pool};

mod buffer;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the steps of an upload in parts are made durable, each before the next one counts on it.
#[async_trait]
pub trait Journal: Send + Sync {
    /// An upload was begun.
    async fn begun(&self, ticket: &UploadTicket) -> Result<(), BoxError>;
    /// A part is stored.
    async fn stored(&self, ticket: &UploadTicket, part: &PartReceipt) -> Result<(), BoxError>;
    /// The upload is no more.
    async fn ended(&self, ticket: &UploadTicket) -> Result<(), BoxError>;
}

/// Why a file did not arrive.
#[derive(Debug)]
pub enum TransferError {
    /// The source could not be read, or changed.
    Source(Error),
    /// The target did not take it.
    Target(Error),
    /// The journal could not be written, or the run's own machinery broke: the run cannot go on.
    Journal(BoxError),
    /// The run is to stop.
    Interrupted,
}

/// A file that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// SHA-256 of the source's bytes.
    pub digest: Digest,
    /// Composite of the parts, where it was sent in parts.
    pub composite: Option<CompositeDigest>,
    /// The target's version.
    pub version: Option<Version>,
    /// Whether the target compared the bytes with the digest.
    pub verified: Verified,
    /// Parts sent in this attempt.
    pub parts_sent: u64,
    /// Parts found stored, and not sent again.
    pub parts_resumed: u64,
}

/// What an earlier attempt left: the open upload and the parts that the journal knows.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The open upload.
    pub ticket: UploadTicket,
    /// By number, each with its digest.
    pub parts: Vec<PartReceipt>,
}

/// Moves files one at a time; a clone shares the slots, the buffers and the bandwidth.
#[derive(Clone, Debug)]
pub struct Mover {
    source: Arc<dyn FileStorage>,
    target: Arc<dyn FileStorage>,
    part_size: u64,
    /// One per buffer and part in flight: a permit lives as long as the bytes and their record, and nobody waits
    /// for a second while holding one.
    slots: Arc<Semaphore>,
    slot_count: u32,
    /// Bytes that one slot stands for: a large part takes several.
    slot_bytes: u64,
    buffers: Pool,
    throttle: Option<Arc<Throttle>>,
    rules: Rules,
    only_files: bool,
    lanes: Lanes,
    progress: Progress,
    stop: CancellationToken,
}

/// How [`Mover`] works.
#[derive(Clone, Debug)]
pub struct MoverOptions {
    /// Requests at a time.
    pub concurrency: NonZeroU32,
    /// Part buffers at a time, at most as many: a request for less needs a smaller one.
    pub part_buffers: NonZeroU32,
    /// Wanted bytes per part, and the greatest file that is sent in one request.
    pub part_size: NonZeroU64,
    /// What the source is read with; nothing: no limit.
    pub throttle: Option<Arc<Throttle>>,
    /// What files are given instead of what the source has.
    pub rules: Rules,
    /// Whether what stands for a link or a directory is refused, as the target would make an empty file of it.
    pub only_files: bool,
    /// Where parts are sent, beside the reading of the next.
    pub lanes: Lanes,
}

impl Mover {
    /// Makes a mover from `source` to `target`. Once `stop` is cancelled no further byte is read; parts in
    /// flight are waited for.
    pub fn new(
        source: Arc<dyn FileStorage>,
        target: Arc<dyn FileStorage>,
        options: MoverOptions,
        progress: Progress,
        stop: CancellationToken,
    ) -> Self {
        let slots = options.concurrency.get();
        let bytes = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            source,
            target,
            part_size: options.part_size.get(),
            slots: Arc::new(Semaphore::new(slots as usize)),
            slot_count: slots,
            slot_bytes: slot_bytes(&options),
            buffers: Pool::new(
                options.part_buffers.get() as usize,
                bytes(options.part_size.get()),
                bytes(slot_bytes(&options)),
            ),
            throttle: options.throttle,
            rules: options.rules,
            only_files: options.only_files,
            lanes: options.lanes,
            progress,
            stop,
        }
    }

    /// Moves one file, of the version that `file` names.
    ///
    /// # Errors
    /// [`TransferError`]; nothing of the file is published then, unless the target's error says
    /// [`Effect::Unknown`](storage_core::error::Effect::Unknown).
    pub async fn transfer(
        &self,
        file: &FileMetadata,
        resume: Option<Resume>,
        journal: &Arc<dyn Journal>,
    ) -> Result<Arrived, TransferError> {
        if self.stop.is_cancelled() {
            return Err(TransferError::Interrupted);
        }
        match self.target.resumable() {
            Some(uploads) if file.size > self.part_size => {
                Box::pin(self.in_parts(file, uploads, resume, journal)).await
            }
            _ => {
                if let Some(resume) = resume {
                    // The file has become small since: the parts are of no use.
                    self.discard(&resume.ticket, journal).await?;
                }
                if file.size > self.part_size {
                    Box::pin(self.streamed(file)).await
                } else {
                    self.at_once(file).await
                }
            }
        }
    }

    /// A file that fits one buffer: read, hashed, sent in one request.
    async fn at_once(&self, file: &FileMetadata) -> Result<Arrived, TransferError> {
        let _slot = self.slots_for(file.size).await?;
        let mut reader = self.open(file).await?;
        // The size was looked at, not held: a file that grows is an error of its stream, not of this buffer.
        let mut buffer = self.buffers.take(usize::try_from(file.size).unwrap_or(0));
        let mut verifier = Verifier::new(reader.expected);
        while let Some(piece) = reader.next().await? {
            verifier.update(&piece);
            buffer.extend(&piece);
        }
        let digest = verifier.finish().map_err(|mismatch| reader.mismatch(mismatch))?;
        let size = buffer.len() as u64;
        let options = reader.options.with_digest(digest);
        let receipt = self
            .target
            .upload(&file.id, Body::from_bytes(buffer.freeze()).with_digest(digest), options)
            .await
            .map_err(TransferError::Target)?;
        self.progress.bytes_sent(size);
        arrived(receipt, digest, None, Sent::default())
    }

    /// A large file into a target without uploads in parts: the target reads the source's stream itself.
    async fn streamed(&self, file: &FileMetadata) -> Result<Arrived, TransferError> {
        let _slot = self.slot().await?;
        let reader = self.open(file).await?;
        let options = reader.options.clone();
        drop(reader);
        let body = Body::from_source(SourceBody { mover: self.clone(), file: file.clone() });
        let receipt =
            self.target.upload(&file.id, body, options).await.map_err(|error| match error.op() {
                Op::ReadBody | Op::Download => TransferError::Source(error),
                _ => TransferError::Target(error),
            })?;
        let digest = receipt.digest.ok_or_else(|| {
            TransferError::Target(
                Error::new(ErrorKind::Integrity, Op::Upload)
                    .with_id(&file.id)
                    .with_message("the target did not say the digest of what it stored"),
            )
        })?;
        self.progress.bytes_sent(file.size);
        arrived(receipt, digest, None, Sent::default())
    }

    async fn in_parts(
        &self,
        file: &FileMetadata,
        uploads: &dyn ResumableUpload,
        resume: Option<Resume>,
        journal: &Arc<dyn Journal>,
    ) -> Result<Arrived, TransferError> {
        let mut reader = self.open(file).await?;
        let (ticket, stored) = match self.stored_parts(file, uploads, resume, journal).await? {
            Some(found) => found,
            None => {
                let part_size =
                    uploads.limits().part_size(file.size, self.part_size).map_err(TransferError::Target)?;
                let ticket = uploads
                    .begin(&file.id, part_size, reader.options.clone())
                    .await
                    .map_err(TransferError::Target)?;
                journal.begun(&ticket).await.map_err(TransferError::Journal)?;
                (ticket, HashMap::new())
            }
        };
        match self.send_parts(&mut reader, uploads, &ticket, stored, journal).await {
            Ok(arrived) => Ok(arrived),
            Err(TransferError::Source(error)) if error.kind() == ErrorKind::SourceChanged => {
                self.discard(&ticket, journal).await?;
                Err(TransferError::Source(error))
            }
            Err(TransferError::Target(error)) if error.kind() == ErrorKind::NoSuchUpload => {
                journal.ended(&ticket).await.map_err(TransferError::Journal)?;
                Err(TransferError::Target(error))
            }
            // A part is stored that is not what was sent, and nobody knows which: going on with them would end here again.
            Err(TransferError::Target(error))
                if error.kind() == ErrorKind::Integrity && error.op() == Op::FinishUpload =>
            {
                self.discard(&ticket, journal).await?;
                Err(TransferError::Target(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the upload to go on with, and its parts that both the journal and the target know; or nothing
    /// where a new one is to be begun.
    async fn stored_parts(
        &self,
        file: &FileMetadata,
        uploads: &dyn ResumableUpload,
        resume: Option<Resume>,
        journal: &Arc<dyn Journal>,
    ) -> Result<Option<(UploadTicket, HashMap<u32, PartReceipt>)>, TransferError> {
        let Some(Resume { ticket, parts }) = resume else { return Ok(None) };
        let known = parts.into_iter().map(|part| (part.number.get(), part));
        match uploads.parts(&ticket).await {
            Ok(listed) => {
                let listed: HashMap<_, _> = listed.into_iter().map(|part| (part.number, part)).collect();
                let both = known.filter(|(_, part)| {
                    listed.get(&part.number).is_some_and(|listed| {
                        listed.size == part.size
                            && listed.token == part.token
                            && (listed.digest.is_none() || listed.digest == part.digest)
                    })
                });
                Ok(Some((ticket, both.collect())))
            }
            Err(error) if error.kind() == ErrorKind::NoSuchUpload => {
                let known: HashMap<_, _> = known.collect();
                if self.may_be_published(file, &ticket, &known).await? {
                    return Ok(Some((ticket, known)));
                }
                journal.ended(&ticket).await.map_err(TransferError::Journal)?;
                Ok(None)
            }
            Err(error) => Err(TransferError::Target(error)),
        }
    }

    /// Tells whether the upload may be gone because it was published: all its parts were stored, and the
    /// target has a file of that size. Whether it is so is seen when the bytes have been read again.
    async fn may_be_published(
        &self,
        file: &FileMetadata,
        ticket: &UploadTicket,
        known: &HashMap<u32, PartReceipt>,
    ) -> Result<bool, TransferError> {
        if ticket.part_size == 0 || known.len() as u64 != file.size.div_ceil(ticket.part_size) {
            return Ok(false);
        }
        match self.target.metadata(&file.id).await {
            Ok(stored) => Ok(stored.size == file.size),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(TransferError::Target(error)),
        }
    }

    async fn send_parts(
        &self,
        reader: &mut Reader,
        uploads: &dyn ResumableUpload,
        ticket: &UploadTicket,
        stored: HashMap<u32, PartReceipt>,
        journal: &Arc<dyn Journal>,
    ) -> Result<Arrived, TransferError> {
        let mut hashes = Hashes::new(reader.expected, ticket.part_size);
        let mut sent = Sent::default();
        let mut parts = Parts::default();
        for number in (1..).map_while(PartNumber::new) {
            parts.collect_finished();
            if parts.failure.is_some() {
                break;
            }
            let (slot, buffer, digest) = match self.next_part(reader, ticket.part_size, &mut hashes).await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => {
                    parts.failure.get_or_insert(error);
                    break;
                }
            };
            let size = buffer.len() as u64;
            let same = |part: &&PartReceipt| part.size == size && part.digest == Some(digest);
            if let Some(earlier) = stored.get(&number.get()).filter(same) {
                parts.receipts.push(earlier.clone());
                sent.resumed += 1;
                continue;
            }
            sent.parts += 1;
            let (mover, ticket, journal) = (self.clone(), ticket.clone(), Arc::clone(journal));
            let bytes = buffer.freeze();
            let sending = async move {
                // Until the receipt is durable: what a kill makes the next attempt send again is at most what
                // has a slot.
                let _slot = slot;
                let part = mover.send_part(&ticket, number, bytes, digest).await?;
                journal.stored(&ticket, &part).await.map_err(TransferError::Journal)?;
                Ok(part)
            };
            parts.tasks.spawn_on(sending, self.lanes.next_other());
        }
        let receipts = parts.finish().await?;
        let digests = receipts.iter().filter_map(|part| part.digest.as_ref());
        let composite = CompositeDigest::of_parts(ticket.part_size, digests);
        let digest = hashes.finish(composite).map_err(|mismatch| reader.mismatch(mismatch))?;
        let receipt = uploads
            .finish(ticket, &receipts, FinishOptions::default().with_computed_digest(digest))
            .await
            .map_err(TransferError::Target)?;
        arrived(receipt, digest, Some(composite), sent)
    }

    async fn send_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt, TransferError> {
        let Some(uploads) = self.target.resumable() else {
            return Err(TransferError::Target(Error::new(ErrorKind::Unsupported, Op::PutPart)));
        };
        let size = bytes.len() as u64;
        let mut part =
            uploads.put_part(ticket, number, bytes, digest).await.map_err(TransferError::Target)?;
        self.progress.bytes_sent(size);
        part.digest = Some(digest);
        Ok(part)
    }

    /// Waits for a slot and fills one part; nothing once the stream has ended, cleanly: the last byte was of
    /// the version asked for.
    async fn next_part(
        &self,
        reader: &mut Reader,
        part_size: u64,
        hashes: &mut Hashes,
    ) -> Result<Option<(OwnedSemaphorePermit, Buffer, Digest)>, TransferError> {
        let slot = self.slots_for(part_size).await?;
        let capacity = usize::try_from(part_size).unwrap_or(usize::MAX);
        let mut buffer = self.buffers.take(capacity);
        while buffer.len() < capacity {
            let Some(piece) = reader.at_most(capacity - buffer.len()).await? else { break };
            hashes.update(&piece);
            buffer.extend(&piece);
        }
        Ok((buffer.len() > 0).then(|| (slot, buffer, hashes.parts.finish_part())))
    }

    async fn discard(&self, ticket: &UploadTicket, journal: &Arc<dyn Journal>) -> Result<(), TransferError> {
        if let Some(uploads) = self.target.resumable() {
            uploads.abandon(ticket).await.map_err(TransferError::Target)?;
        }
        journal.ended(ticket).await.map_err(TransferError::Journal)
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, TransferError> {
        self.slots_for(1).await
    }

    /// Waits for as many slots as `bytes` take: the parts of a file of terabytes are larger than was asked for,
    /// and memory is not. One part may always be in work, whatever its size.
    async fn slots_for(&self, bytes: u64) -> Result<OwnedSemaphorePermit, TransferError> {
        let wanted = u32::try_from(bytes.div_ceil(self.slot_bytes)).unwrap_or(u32::MAX);
        let slots = Arc::clone(&self.slots).acquire_many_owned(wanted.clamp(1, self.slot_count));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(TransferError::Interrupted),
            slots = slots => slots.map_err(|_| TransferError::Interrupted),
        }
    }

    async fn open(&self, file: &FileMetadata) -> Result<Reader, TransferError> {
        let download = self.source.download(&file.id, of_version(file).with_unverified(true)).await;
        let download = download.map_err(TransferError::Source)?;
        let mut options = attributes(&download.metadata);
        let attributes = Attributes::of(&options.tags).filter(|_| self.only_files);
        if let Some(what) = attributes.as_ref().and_then(Attributes::special) {
            return Err(TransferError::Target(
                Error::new(ErrorKind::NotAFile, Op::Upload)
                    .with_id(&file.id)
                    .with_message(format!("it stands for {what}: --preserve all makes one of it")),
            ));
        }
        self.rules.apply(&file.id, &mut options);
        Ok(Reader {
            body: download.body.fuse(),
            rest: Bytes::new(),
            expected: download.metadata.expected(),
            id: file.id.clone(),
            options,
            throttle: self.throttle.clone(),
            progress: self.progress.clone(),
            stop: self.stop.clone(),
        })
    }
}

/// Returns the bytes of a slot with which all slots together are the memory of the part buffers.
fn slot_bytes(options: &MoverOptions) -> u64 {
    let buffers = options.part_buffers.min(options.concurrency);
    let memory = options.part_size.get().saturating_mul(buffers.get().into());
    (memory / u64::from(options.concurrency.get())).max(1)
}

fn of_version(file: &FileMetadata) -> DownloadOptions {
    let when = file.version.clone().map_or(Precondition::None, Precondition::Version);
    DownloadOptions::default().with_when(when)
}

/// The attributes travel with the bytes. A file that nobody gave a creation time keeps its modification time:
/// the target's own would be the time of the migration.
fn attributes(metadata: &FileMetadata) -> UploadOptions {
    let mut options = UploadOptions::default().with_attributes_of(metadata);
    options.created = options.created.or(metadata.modified.filter(|time| *time >= SystemTime::UNIX_EPOCH));
    options
}

/// What is computed of the bytes of a file in parts as they pass.
struct Hashes {
    parts: PartedHasher,
    /// What the source says of the whole.
    expected: Option<Expected>,
    /// Where the source says it of parts of another size.
    other_parts: Option<Verifier>,
}

impl Hashes {
    fn new(expected: Option<Expected>, part_size: u64) -> Self {
        let other = |expected: &Expected| matches!(expected, Expected::Composite(composite) if composite.part_size != part_size);
        let other_parts = expected.filter(other).map(|expected| Verifier::new(Some(expected)));
        Self { parts: PartedHasher::new(), expected, other_parts }
    }

    fn update(&mut self, piece: &[u8]) {
        self.parts.update(piece);
        if let Some(verifier) = &mut self.other_parts {
            verifier.update(piece);
        }
    }

    /// Returns the digest of the whole, if the bytes are what the source says; `composite` is that of the parts sent.
    fn finish(self, composite: CompositeDigest) -> Result<Digest, Mismatch> {
        let digest = self.parts.finish();
        match (self.other_parts, self.expected) {
            (Some(verifier), _) => verifier.finish(),
            (None, Some(Expected::Whole(expected))) if expected != digest => {
                Err(Mismatch { expected, actual: digest })
            }
            (None, Some(Expected::Composite(expected))) if expected != composite => {
                Err(Mismatch { expected: expected.digest, actual: composite.digest })
            }
            _ => Ok(digest),
        }
    }
}

#[derive(Default)]
struct Sent {
    parts: u64,
    resumed: u64,
}

fn arrived(
    receipt: Receipt,
    digest: Digest,
    composite: Option<CompositeDigest>,
    sent: Sent,
) -> Result<Arrived, TransferError> {
    let claims = [receipt.digest, receipt.metadata.digest];
    let whole_differs = claims.into_iter().flatten().any(|claim| claim != digest);
    let parts_differ = match (receipt.metadata.composite, composite) {
        (Some(claim), Some(composite)) => claim != composite,
        _ => false,
    };
    if whole_differs || parts_differ {
        return Err(TransferError::Target(
            Error::new(ErrorKind::Integrity, Op::Upload)
                .with_id(&receipt.metadata.id)
                .with_message("the target's digest is not that of the bytes that were sent"),
        ));
    }
    Ok(Arrived {
        digest,
        composite,
        version: receipt.metadata.version,
        verified: receipt.verified,
        parts_sent: sent.parts,
        parts_resumed: sent.resumed,
    })
}

/// The parts of one upload that are stored or in flight. Dropped, it ends those in flight.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<Result<PartReceipt, TransferError>>,
    receipts: Vec<PartReceipt>,
    failure: Option<TransferError>,
}

impl Parts {
    fn collect_finished(&mut self) {
        while let Some(done) = self.tasks.try_join_next() {
            self.keep(done);
        }
    }

    fn keep(&mut self, done: Result<Result<PartReceipt, TransferError>, JoinError>) {
        match done {
            Ok(Ok(part)) => self.receipts.push(part),
            Ok(Err(error)) => {
                self.failure.get_or_insert(error);
            }
            Err(error) => {
                self.failure.get_or_insert(TransferError::Journal(error.into()));
            }
        }
    }

    /// Waits for what is in flight, also after a failure: what is stored and recorded need not be sent again.
    async fn finish(mut self) -> Result<Vec<PartReceipt>, TransferError> {
        while let Some(done) = self.tasks.join_next().await {
            self.keep(done);
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.receipts.sort_by_key(|part| part.number);
        Ok(self.receipts)
    }
}

/// An open file of the source, read in pieces, counted and throttled.
struct Reader {
    /// Asked again after its end, when the last part is full.
    body: Fuse<ByteStream>,
    rest: Bytes,
    /// What the source says of its bytes, which are compared as they pass.
    expected: Option<Expected>,
    id: FileId,
    options: UploadOptions,
    throttle: Option<Arc<Throttle>>,
    progress: Progress,
    stop: CancellationToken,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        let stop = self.stop.clone();
        let next = async {
            let piece = self.body.try_next().await.map_err(TransferError::Source)?;
            if let (Some(piece), Some(throttle)) = (&piece, &self.throttle) {
                throttle.pass(piece.len()).await;
            }
            Ok(piece)
        };
        let piece = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(TransferError::Interrupted),
            piece = next => piece?,
        };
        if let Some(piece) = &piece {
            self.progress.bytes_taken(piece.len() as u64);
        }
        Ok(piece)
    }

    /// The bytes are not what the source says of them.
    fn mismatch(&self, mismatch: Mismatch) -> TransferError {
        TransferError::Source(mismatch.into_error(Op::Download).with_id(&self.id))
    }

    /// Returns the next piece, cut to `limit` bytes; what is cut off comes next.
    async fn at_most(&mut self, limit: usize) -> Result<Option<Bytes>, TransferError> {
        while self.rest.is_empty() {
            match self.next().await? {
                Some(piece) => self.rest = piece,
                None => return Ok(None),
            }
        }
        let length = self.rest.len().min(limit);
        Ok(Some(self.rest.split_to(length)))
    }
}

/// The source as a body that the target opens itself, as often as it needs.
#[derive(Debug)]
struct SourceBody {
    mover: Mover,
    file: FileMetadata,
}

#[async_trait]
impl BodySource for SourceBody {
    fn size(&self) -> u64 {
        self.file.size
    }

    async fn open(&self, range: Range<u64>) -> storage_core::error::Result<ByteStream> {
        let mut options = of_version(&self.file);
        if range != (0..self.file.size) {
            options = options.with_range(ByteRange::Between(range.start, range.end));
        }
        let download = self.mover.source.download(&self.file.id, options).await?;
        let throttle = self.mover.throttle.clone();
        let progress = self.mover.progress.clone();
        let body = download.body.and_then(move |piece| {
            let throttle = throttle.clone();
            progress.bytes_taken(piece.len() as u64);
            async move {
                if let Some(throttle) = throttle {
                    throttle.pass(piece.len()).await;
                }
                Ok(piece)
            }
        });
        // Whoever reads it may ask again after its end.
        Ok(body.fuse().boxed())
    }

    fn in_memory(&self) -> Option<&Bytes> {
        None
    }
}
