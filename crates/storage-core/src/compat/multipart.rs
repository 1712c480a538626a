//! Uploads in parts of any sizes, as uploads in parts of one size.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, stream};
use object_store::path::Path;
use object_store::{Error as StoreError, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::convert::{STORE, failed, put_result};
use crate::body::Body;
use crate::checksum::{Digest, Hasher};
use crate::error::{Error, ErrorKind, Op};
use crate::id::FileId;
use crate::storage::{
    FileStorage, FinishOptions, PartLimits, PartNumber, PartReceipt, ResumableUpload, UploadOptions,
    UploadTicket,
};

/// Bytes of a spooled upload that stay in memory.
const SPOOL_MEMORY: usize = 8 << 20;

/// Bytes hashed between two chances for other tasks on the same thread.
const HASH_CHUNK: usize = 1 << 20;

/// Gathers what it is given. Parts are cut when they are given and sent when their futures are polled, in whatever
/// order; nothing is begun before the first part is whole. Dropped before its end, it discards what it has sent.
pub(super) struct PartWriter {
    shared: Arc<Shared>,
    way: Way,
}

enum Way {
    /// The bytes of the part that is not yet whole, and the number it will have.
    Parts {
        rest: BytesMut,
        next: u32,
        part_size: usize,
    },
    /// A storage without parts: everything goes into a file first.
    Spool {
        pieces: mpsc::UnboundedSender<Piece>,
        spooled: JoinHandle<crate::error::Result<Body>>,
    },
    Ended,
}

/// Bytes, and whom to tell that they have been taken.
type Piece = (Bytes, oneshot::Sender<()>);

struct Shared {
    storage: Arc<dyn FileStorage>,
    location: Path,
    id: FileId,
    options: UploadOptions,
    part_size: u64,
    ticket: OnceCell<UploadTicket>,
    held: Mutex<BTreeMap<PartNumber, PartReceipt>>,
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, BTreeMap<PartNumber, PartReceipt>> {
        // Every change is one insertion, so a panic elsewhere leaves the map whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: ErrorKind, op: Op) -> Error {
        Error::new(kind, op).with_id(&self.id).with_storage(self.storage.name())
    }

    fn parts(&self, op: Op) -> crate::error::Result<&dyn ResumableUpload> {
        self.storage.resumable().ok_or_else(|| self.error(ErrorKind::Unsupported, op))
    }

    async fn send(&self, number: u32, bytes: Bytes) -> crate::error::Result<()> {
        let parts = self.parts(Op::PutPart)?;
        let limits = parts.limits();
        let number = part_number(number, &limits, self.part_size)
            .map_err(|error| error.with_id(&self.id).with_storage(self.storage.name()))?;
        let begin = || parts.begin(&self.id, self.part_size, self.options.clone());
        let ticket = self.ticket.get_or_try_init(begin).await?;
        let digest = digest_of(&bytes).await;
        let receipt = parts.put_part(ticket, number, bytes, digest).await?;
        self.held().insert(number, receipt);
        Ok(())
    }

    async fn finish(&self, count: u32) -> crate::error::Result<PutResult> {
        let held: Vec<_> = self.held().values().cloned().collect();
        let ticket = self.ticket.get().filter(|_| held.len() == count as usize);
        let Some(ticket) = ticket else {
            return Err(self.error(ErrorKind::InvalidInput, Op::FinishUpload).with_message(format!(
                "{} of {count} parts were sent; each part's future must have ended",
                held.len()
            )));
        };
        let parts = self.parts(Op::FinishUpload)?;
        parts.finish(ticket, &held, FinishOptions::default()).await.map(put_result)
    }

    async fn upload(&self, body: Body) -> crate::error::Result<PutResult> {
        self.storage.upload(&self.id, body, self.options.clone()).await.map(put_result)
    }

    async fn abandon(&self) -> crate::error::Result<()> {
        match self.ticket.get() {
            Some(ticket) => self.parts(Op::AbandonUpload)?.abandon(ticket).await,
            None => Ok(()),
        }
    }
}

/// Refuses a number behind the last that the storage takes.
pub(super) fn part_number(
    number: u32,
    limits: &PartLimits,
    part_size: u64,
) -> crate::error::Result<PartNumber> {
    let within = PartNumber::new(number).filter(|number| number.get() <= limits.max_parts);
    within.ok_or_else(|| {
        let of = if part_size > 0 { format!(" of {part_size} bytes") } else { String::new() };
        Error::new(ErrorKind::TooLarge, Op::PutPart)
            .with_message(format!("more than {} parts{of}; choose larger parts", limits.max_parts))
    })
}

pub(super) async fn digest_of(bytes: &Bytes) -> Digest {
    let mut hasher = Hasher::new();
    for chunk in bytes.chunks(HASH_CHUNK) {
        hasher.update(chunk);
        tokio::task::yield_now().await;
    }
    hasher.finish()
}

impl PartWriter {
    pub(super) fn new(
        storage: Arc<dyn FileStorage>,
        location: &Path,
        id: FileId,
        options: UploadOptions,
        part_size: usize,
    ) -> Self {
        let limits = storage.resumable().map(ResumableUpload::limits);
        let part_size = match limits {
            Some(limits) => (part_size as u64).max(limits.min_part_size).min(limits.max_part_size),
            None => part_size as u64,
        };
        let way = match usize::try_from(part_size) {
            Ok(part_size) if limits.is_some() => Way::Parts { rest: BytesMut::new(), next: 1, part_size },
            _ => spool(),
        };
        let shared = Shared {
            storage,
            location: location.clone(),
            id,
            options,
            part_size,
            ticket: OnceCell::new(),
            held: Mutex::default(),
        };
        Self { shared: Arc::new(shared), way }
    }
}

/// Writes pieces into a body as they come.
fn spool() -> Way {
    let (pieces, received) = mpsc::unbounded_channel::<Piece>();
    let stream = stream::unfold(received, |mut received| async move {
        let (bytes, taken) = received.recv().await?;
        // Nobody waits any more where the part's future was dropped.
        let _unheard = taken.send(());
        Some((Ok(bytes), received))
    });
    let spooled = tokio::spawn(Body::spool(stream.boxed(), SPOOL_MEMORY, None));
    Way::Spool { pieces, spooled }
}

fn ended() -> StoreError {
    StoreError::Generic { store: STORE, source: "the upload was completed or aborted before".into() }
}

impl fmt::Debug for PartWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartWriter").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for PartWriter {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let shared = Arc::clone(&self.shared);
        match &mut self.way {
            Way::Parts { rest, next, part_size } => {
                let mut whole = Vec::new();
                for piece in &data {
                    rest.extend_from_slice(piece);
                }
                while rest.len() >= *part_size {
                    whole.push((*next, rest.split_to(*part_size).freeze()));
                    *next = next.saturating_add(1);
                }
                async move {
                    for (number, bytes) in whole {
                        shared.send(number, bytes).await.map_err(failed(&shared.location))?;
                    }
                    Ok(())
                }
                .boxed()
            }
            Way::Spool { pieces, .. } => {
                let (taken, wait) = oneshot::channel();
                let sent = pieces.send((Bytes::from(data), taken));
                async move {
                    // Either error says that the spool has failed, which the end of the upload reports.
                    if sent.is_ok() {
                        let _ended_early = wait.await;
                    }
                    Ok(())
                }
                .boxed()
            }
            Way::Ended => std::future::ready(Err(ended())).boxed(),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let failed = failed(&self.shared.location);
        match &mut self.way {
            Way::Parts { rest, next: 1, .. } => {
                let body = Body::from_bytes(rest.split().freeze());
                let result = self.shared.upload(body).await.map_err(failed)?;
                self.way = Way::Ended;
                Ok(result)
            }
            Way::Parts { rest, next, .. } => {
                if !rest.is_empty() {
                    self.shared.send(*next, rest.clone().freeze()).await.map_err(&failed)?;
                    rest.clear();
                    *next = next.saturating_add(1);
                }
                let result = self.shared.finish(*next - 1).await.map_err(failed)?;
                self.way = Way::Ended;
                Ok(result)
            }
            Way::Spool { .. } => {
                let Way::Spool { pieces, spooled } = std::mem::replace(&mut self.way, Way::Ended) else {
                    return Err(ended());
                };
                drop(pieces);
                let body = spooled
                    .await
                    .map_err(|error| StoreError::Generic { store: STORE, source: error.into() })?
                    .map_err(&failed)?;
                self.shared.upload(body).await.map_err(failed)
            }
            Way::Ended => Err(ended()),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.shared.abandon().await.map_err(failed(&self.shared.location))?;
        self.way = Way::Ended;
        Ok(())
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        let begun = matches!(self.way, Way::Parts { .. }) && self.shared.ticket.initialized();
        if let (true, Ok(runtime)) = (begun, Handle::try_current()) {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                if let Err(error) = shared.abandon().await {
                    tracing::warn!(storage = shared.storage.name(), id = ?shared.id, %error, "an upload stays open");
                }
            });
        }
    }
}
