//! A wrapper that fails on purpose: before the effect, after it, or never answering.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::body::{Body, ByteStream};
use crate::checksum::Digest;
use crate::error::{Effect, Error, ErrorKind, Op, Result, Retry};
use crate::id::{FileId, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::{
    Capabilities, Download, DownloadOptions, FileStorage, FinishOptions, ListOptions, PartLimits, PartNumber,
    PartReceipt, Precondition, PresignRequest, PresignedUrl, Receipt, ResumableUpload, UploadOptions,
    UploadTicket,
};

/// One way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with this kind and reaches nothing.
    Before(ErrorKind),
    /// As `Before`, and the storage asks to wait so long.
    RetryAfter(ErrorKind, Duration),
    /// The call takes effect, and then its answer is lost: [`Effect::Unknown`] where it wrote.
    After(ErrorKind),
    /// The call reaches nothing and never returns.
    Never,
    /// The call takes effect and never returns.
    NeverAfter,
    /// A body breaks off after so many bytes, a listing after so many files; other calls succeed.
    Broken(u64),
    /// A body stalls for ever after so many bytes, a listing after so many files; other calls succeed.
    Stalled(u64),
}

/// How often calls fail by chance, each from 0 to 1. Default: never.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Odds {
    /// Of [`Fault::Before`].
    pub before: f64,
    /// Of [`Fault::After`].
    pub after: f64,
    /// Of [`Fault::Never`].
    pub never: f64,
    /// Of [`Fault::Broken`].
    pub broken: f64,
    /// Operations that do not fail by chance. Default: none.
    pub sparing: &'static [Op],
    /// Operations that always answer, as nobody could tell what to say of them after a lost answer: a deletion,
    /// the beginning of an upload. They fail before their effect instead. Default: none.
    pub answering: &'static [Op],
}

impl Odds {
    /// Sets how often calls fail before their effect.
    #[must_use]
    pub fn with_before(mut self, odds: f64) -> Self {
        self.before = odds;
        self
    }

    /// Sets how often answers are lost after the effect.
    #[must_use]
    pub fn with_after(mut self, odds: f64) -> Self {
        self.after = odds;
        self
    }

    /// Sets how often calls never return.
    #[must_use]
    pub fn with_never(mut self, odds: f64) -> Self {
        self.never = odds;
        self
    }

    /// Sets how often bodies and listings break off.
    #[must_use]
    pub fn with_broken(mut self, odds: f64) -> Self {
        self.broken = odds;
        self
    }

    /// Sets which operations do not fail by chance.
    #[must_use]
    pub fn sparing(mut self, operations: &'static [Op]) -> Self {
        self.sparing = operations;
        self
    }

    /// Sets which operations always answer.
    #[must_use]
    pub fn answering(mut self, operations: &'static [Op]) -> Self {
        self.answering = operations;
        self
    }
}

/// A storage that fails as it is told: by a script, by chance from a seed, or altogether. A clone is a handle
/// on the same one, for the test that tells it.
#[derive(Clone)]
pub struct FlakyStorage {
    inner: Arc<dyn FileStorage>,
    control: Arc<Control>,
}

struct Control {
    outage: AtomicBool,
    running: AtomicU64,
    peak: AtomicU64,
    hung: AtomicU64,
    plan: Mutex<Plan>,
}

struct Plan {
    odds: Odds,
    random: StdRng,
    script: HashMap<Op, VecDeque<Fault>>,
    meanwhile: HashMap<Op, VecDeque<Meanwhile>>,
    calls: HashMap<Op, u64>,
}

/// What somebody else does before a call.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// Counts an operation as running as long as it lives.
struct Running(Arc<Control>);

impl Running {
    fn new(control: &Arc<Control>) -> Self {
        let now = control.running.fetch_add(1, Ordering::SeqCst) + 1;
        control.peak.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(control))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FlakyStorage {
    /// Wraps a storage. Without odds, script or outage nothing fails.
    pub fn new(inner: Arc<dyn FileStorage>) -> Self {
        let plan = Plan {
            odds: Odds::default(),
            random: StdRng::seed_from_u64(0),
            script: HashMap::new(),
            meanwhile: HashMap::new(),
            calls: HashMap::new(),
        };
        let control = Control {
            outage: AtomicBool::new(false),
            running: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            hung: AtomicU64::new(0),
            plan: Mutex::new(plan),
        };
        Self { inner, control: Arc::new(control) }
    }

    /// Lets calls fail by chance. The same seed and the same order of calls give the same faults.
    #[must_use]
    pub fn with_odds(self, odds: Odds, seed: u64) -> Self {
        let mut plan = self.plan();
        plan.odds = odds;
        plan.random = StdRng::seed_from_u64(seed);
        drop(plan);
        self
    }

    /// Lets the next call of `op` fail so; several faults are taken in turn.
    pub fn fail_next(&self, op: Op, fault: Fault) {
        self.plan().script.entry(op).or_default().push_back(fault);
    }

    /// Forgets the faults that [`fail_next`](Self::fail_next) told and that have not happened.
    pub fn forget_faults(&self) {
        self.plan().script.clear();
    }

    /// Runs `action` just before the next call of `op`: what somebody else does between two calls of whoever is
    /// under test. Several actions are taken in turn, one per call.
    pub fn before_next(&self, op: Op, action: impl FnOnce() + Send + 'static) {
        self.plan().meanwhile.entry(op).or_default().push_back(Box::new(action));
    }

    /// Begins or ends an outage, in which every call is [`Unavailable`](ErrorKind::Unavailable).
    pub fn set_outage(&self, outage: bool) {
        self.control.outage.store(outage, Ordering::SeqCst);
    }

    /// Returns how often `op` was called.
    pub fn calls(&self, op: Op) -> u64 {
        self.plan().calls.get(&op).copied().unwrap_or(0)
    }

    /// Returns how many operations are running now; a download runs until its body is dropped or has ended.
    pub fn running(&self) -> u64 {
        self.control.running.load(Ordering::SeqCst)
    }

    /// Returns how many operations ran at the same time at most.
    pub fn peak(&self) -> u64 {
        self.control.peak.load(Ordering::SeqCst)
    }

    /// Returns how many calls, bodies and listings were left without an end.
    pub fn hung(&self) -> u64 {
        self.control.hung.load(Ordering::SeqCst)
    }

    fn hang(&self) {
        self.control.hung.fetch_add(1, Ordering::SeqCst);
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.control.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call and decides how it fails.
    fn decide(&self, op: Op) -> Option<Fault> {
        let action = self.plan().meanwhile.get_mut(&op).and_then(VecDeque::pop_front);
        if let Some(action) = action {
            action();
        }
        let mut plan = self.plan();
        *plan.calls.entry(op).or_default() += 1;
        if self.control.outage.load(Ordering::SeqCst) {
            return Some(Fault::Before(ErrorKind::Unavailable));
        }
        if let Some(fault) = plan.script.get_mut(&op).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let kinds = [ErrorKind::Unavailable, ErrorKind::Throttled, ErrorKind::Timeout];
        let kind = *kinds.choose(&mut plan.random)?;
        let (chance, at) = (plan.random.random::<f64>(), plan.random.random_range(0..100_000));
        let Odds { before, after, never, broken, sparing, answering } = plan.odds;
        if sparing.contains(&op) {
            None
        } else if chance < before || (answering.contains(&op) && chance < before + after + never) {
            Some(Fault::Before(kind))
        } else if chance < before + after {
            Some(Fault::After(kind))
        } else if chance < before + after + never {
            Some(Fault::Never)
        } else if chance < before + after + never + broken {
            Some(Fault::Broken(at))
        } else {
            None
        }
    }

    fn error(&self, kind: ErrorKind, op: Op, id: Option<&FileId>) -> Error {
        let error = Error::new(kind, op).with_storage(self.inner.name()).with_message("on purpose");
        match id {
            Some(id) => error.with_id(id),
            None => error,
        }
    }

    async fn run<T>(
        &self,
        op: Op,
        id: Option<&FileId>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let fault = self.decide(op);
        self.run_with(fault, op, id, work).await
    }

    async fn run_with<T>(
        &self,
        fault: Option<Fault>,
        op: Op,
        id: Option<&FileId>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let _running = Running::new(&self.control);
        match fault {
            None | Some(Fault::Broken(_) | Fault::Stalled(_)) => work.await,
            Some(Fault::Before(kind)) => Err(self.error(kind, op, id)),
            Some(Fault::RetryAfter(kind, delay)) => {
                Err(self.error(kind, op, id).with_retry(Retry::After(delay)))
            }
            Some(Fault::After(kind)) => {
                work.await?;
                let effect = if writes(op) { Effect::Unknown } else { Effect::None };
                Err(self.error(kind, op, id).with_effect(effect))
            }
            Some(Fault::Never) => {
                self.hang();
                std::future::pending().await
            }
            Some(Fault::NeverAfter) => {
                work.await?;
                self.hang();
                std::future::pending().await
            }
        }
    }

    fn parts_of_inner(&self, op: Op) -> Result<&dyn ResumableUpload> {
        self.inner.resumable().ok_or_else(|| self.error(ErrorKind::Unsupported, op, None))
    }
}

fn writes(op: Op) -> bool {
    matches!(
        op,
        Op::Upload
            | Op::Delete
            | Op::Copy
            | Op::Probe
            | Op::BeginUpload
            | Op::PutPart
            | Op::FinishUpload
            | Op::AbandonUpload
    )
}

/// Hands out the first `at` bytes, and then ends as told.
fn cut(body: ByteStream, at: u64, end: BoxStream<'static, Result<Bytes>>) -> ByteStream {
    let head = body.scan(at, |left, piece| {
        std::future::ready(match piece {
            Ok(piece) if *left > 0 => {
                let take = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= take as u64;
                Some(Ok(piece.slice(..take)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    });
    head.chain(end).boxed()
}

impl fmt::Debug for FlakyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlakyStorage").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FileStorage for FlakyStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn upload(&self, id: &FileId, body: Body, options: UploadOptions) -> Result<Receipt> {
        self.run(Op::Upload, Some(id), self.inner.upload(id, body, options)).await
    }

    async fn download(&self, id: &FileId, options: DownloadOptions) -> Result<Download> {
        let fault = self.decide(Op::Download);
        let work = self.inner.download(id, options);
        let mut download = self.run_with(fault, Op::Download, Some(id), work).await?;
        let length = download.range.end - download.range.start;
        match fault {
            Some(Fault::Broken(at)) if at < length => {
                let error = self.error(ErrorKind::Unavailable, Op::Download, Some(id));
                download.body = cut(download.body, at, stream::once(async { Err(error) }).boxed());
            }
            Some(Fault::Stalled(at)) if at < length => {
                self.hang();
                download.body = cut(download.body, at, stream::pending().boxed());
            }
            _ => {}
        }
        let running = Running::new(&self.control);
        download.body = stream::unfold((download.body, running), |(mut body, running)| async move {
            body.next().await.map(|piece| (piece, (body, running)))
        })
        .fuse()
        .boxed();
        Ok(download)
    }

    async fn metadata(&self, id: &FileId) -> Result<FileMetadata> {
        self.run(Op::Metadata, Some(id), self.inner.metadata(id)).await
    }

    async fn delete(&self, id: &FileId, when: Precondition) -> Result<bool> {
        self.run(Op::Delete, Some(id), self.inner.delete(id, when)).await
    }

    fn list(&self, prefix: &Prefix, options: ListOptions) -> BoxStream<'static, Result<FileMetadata>> {
        let error = |kind| self.error(kind, Op::List, None);
        let failing = |error| stream::once(async { Err(error) }).boxed();
        let whole = || self.inner.list(prefix, options.clone());
        match self.decide(Op::List) {
            None => whole(),
            Some(Fault::Before(kind) | Fault::After(kind)) => failing(error(kind)),
            Some(Fault::RetryAfter(kind, delay)) => failing(error(kind).with_retry(Retry::After(delay))),
            Some(Fault::Never | Fault::NeverAfter) => {
                self.hang();
                stream::pending().boxed()
            }
            Some(Fault::Broken(at)) => {
                whole().take(at as usize).chain(failing(error(ErrorKind::Unavailable))).boxed()
            }
            Some(Fault::Stalled(at)) => {
                self.hang();
                whole().take(at as usize).chain(stream::pending()).boxed()
            }
        }
    }

    async fn copy(&self, from: &FileId, to: &FileId, options: UploadOptions) -> Result<Receipt> {
        self.run(Op::Copy, Some(to), self.inner.copy(from, to, options)).await
    }

    async fn presigned_url(&self, id: &FileId, request: PresignRequest) -> Result<PresignedUrl> {
        self.run(Op::Presign, Some(id), self.inner.presigned_url(id, request)).await
    }

    async fn probe(&self, deadline: Duration) -> Result<()> {
        self.run(Op::Probe, None, self.inner.probe(deadline)).await
    }

    fn resumable(&self) -> Option<&dyn ResumableUpload> {
        self.inner.resumable().map(|_| self as &dyn ResumableUpload)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResumableUpload for FlakyStorage {
    fn limits(&self) -> PartLimits {
        self.inner.resumable().map_or(PartLimits::S3, ResumableUpload::limits)
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        let parts = self.parts_of_inner(Op::BeginUpload)?;
        self.run(Op::BeginUpload, Some(id), parts.begin(id, part_size, options)).await
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let parts = self.parts_of_inner(Op::PutPart)?;
        self.run(Op::PutPart, Some(&ticket.id), parts.put_part(ticket, number, bytes, digest)).await
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let parts = self.parts_of_inner(Op::ListParts)?;
        self.run(Op::ListParts, Some(&ticket.id), parts.parts(ticket)).await
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        held: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        let parts = self.parts_of_inner(Op::FinishUpload)?;
        self.run(Op::FinishUpload, Some(&ticket.id), parts.finish(ticket, held, finish)).await
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        let parts = self.parts_of_inner(Op::AbandonUpload)?;
        self.run(Op::AbandonUpload, Some(&ticket.id), parts.abandon(ticket)).await
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        let parts = self.parts_of_inner(Op::ListUploads)?;
        self.run(Op::ListUploads, None, parts.stale(older_than)).await
    }
}
