//! One of the two storages, with its deadline and its breaker.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::breaker::{Breaker, BreakerConfig, Outcome, Pass, State};
use super::super::metered::names;
use super::super::queue::Queue;
use super::super::timeout::{TimeoutConfig, TimeoutStorage};
use super::event::{Events, FallbackEvent};
use crate::body::ByteStream;
use crate::error::{Error, ErrorKind, Op, Result, Retry};
use crate::id::FileId;
use crate::storage::FileStorage;

/// A storage that is asked as long as it answers.
#[derive(Debug)]
pub(super) struct Side {
    storage: Arc<dyn FileStorage>,
    name: String,
    breaker: Mutex<Watched>,
    /// Told when the breaker opens.
    opened: Notify,
    start: Instant,
    events: Events,
}

/// A breaker, and the state that was told last: it half-opens by the clock alone.
#[derive(Debug)]
struct Watched {
    breaker: Breaker,
    told: State,
}

/// Tells whether the storage was out of reach. A body of the caller that breaks off is no outage of the storage
/// that reads it.
pub(super) fn is_outage(error: &Error) -> bool {
    error.is_outage() && error.op() != Op::ReadBody
}

/// How long a probe may take.
pub(super) const PROBE: Duration = Duration::from_secs(10);

/// Tells whether others would be kept out for long if this call were the one that finds out whether the storage is
/// back.
fn takes_long(op: Op) -> bool {
    matches!(op, Op::Upload | Op::Copy | Op::PutPart | Op::FinishUpload)
}

fn outcome<T>(result: &Result<T>) -> Outcome {
    match result {
        Err(error) if is_outage(error) => Outcome::Outage,
        _ => Outcome::Answer,
    }
}

/// A call that is under way; one that is dropped is reported as such.
pub(super) struct Calling<'a> {
    side: &'a Arc<Side>,
    pass: Option<Pass>,
    began: Instant,
    queue: Queue,
}

impl<'a> Calling<'a> {
    fn new(side: &'a Arc<Side>, pass: Pass) -> Self {
        Self { side, pass: Some(pass), began: Instant::now(), queue: Queue::begin() }
    }

    /// Reports how the call ended.
    pub(super) fn ended(mut self, outcome: Outcome) {
        self.record(outcome);
    }

    /// Lets others find out whether the storage is back: this call waits for its turn.
    fn give_back(&mut self) {
        if let Some(pass) = self.pass.take_if(|pass| pass.is_probe()) {
            self.side.with_breaker(|breaker, _| breaker.give_back(pass));
        }
    }

    fn record(&mut self, outcome: Outcome) {
        if let Some(pass) = self.pass.take() {
            self.side.record(|breaker, now| breaker.record(now, pass, outcome));
        }
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        let waited = self.began.elapsed().saturating_sub(self.queue.waited());
        self.record(Outcome::Dropped(waited));
    }
}

impl Side {
    /// Puts the deadline and the breaker around a storage.
    pub(super) fn new(
        storage: Arc<dyn FileStorage>,
        deadline: TimeoutConfig,
        breaker: BreakerConfig,
        events: Events,
    ) -> Result<Self> {
        let name = storage.name().to_owned();
        let storage = Arc::new(TimeoutStorage::new(storage, deadline)?);
        let breaker = Mutex::new(Watched { breaker: Breaker::new(breaker), told: State::Closed });
        let side = Self { storage, name, breaker, opened: Notify::new(), start: Instant::now(), events };
        side.show(State::Closed);
        Ok(side)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The storage itself; calls go through [`call`](Self::call).
    pub(super) fn storage(&self) -> &Arc<dyn FileStorage> {
        &self.storage
    }

    pub(super) fn state(&self) -> State {
        self.with_breaker(|breaker, now| breaker.state(now))
    }

    fn show(&self, state: State) {
        let number = match state {
            State::Closed => 0.0,
            State::HalfOpen => 1.0,
            State::Open => 2.0,
        };
        metrics::gauge!(names::CIRCUIT, "backend" => self.name.clone()).set(number);
    }

    fn with_breaker<T>(&self, act: impl FnOnce(&mut Breaker, Duration) -> T) -> T {
        let now = self.start.elapsed();
        let (before, after, answer) = {
            let mut watched = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = act(&mut watched.breaker, now);
            let after = watched.breaker.state(now);
            (std::mem::replace(&mut watched.told, after), after, answer)
        };
        if before != after {
            tracing::info!(storage = self.name, state = after.as_str(), "the circuit breaker changed");
            self.show(after);
            self.events.tell(FallbackEvent::Circuit { storage: self.name.clone(), state: after });
            if after == State::Open {
                self.opened.notify_waiters();
            }
        }
        answer
    }

    /// Records how a call ended. Where the storage is doubted now, it is probed beside the calls that go on: none of
    /// them is made to wait for that, and none of them can end it.
    fn record(self: &Arc<Self>, how: impl FnOnce(&mut Breaker, Duration)) {
        let probe = self.with_breaker(|breaker, now| {
            how(breaker, now);
            breaker.doubt()
        });
        let Some(pass) = probe else { return };
        let calling = (Arc::clone(self), pass);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { calling.0.probe(calling.1).await })),
            // The runtime is ending, and whoever is left has no deadlines either.
            Err(_) => self.with_breaker(|breaker, now| {
                breaker.record(now, calling.1, Outcome::Dropped(Duration::ZERO))
            }),
        }
    }

    /// Makes the probe that a pass is for.
    async fn probe(self: &Arc<Self>, pass: Pass) -> Result<()> {
        let calling = Calling::new(self, pass);
        let result = self.storage.probe(PROBE).await;
        calling.ended(outcome(&result));
        if let Err(error) = &result {
            tracing::debug!(%error, storage = self.name, "a probe failed");
        }
        result
    }

    /// Asks to call the storage.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable): it is left alone.
    pub(super) fn begin(self: &Arc<Self>, op: Op, id: Option<&FileId>) -> Result<Calling<'_>> {
        match self.with_breaker(Breaker::admit) {
            Ok(pass) => Ok(Calling::new(self, pass)),
            Err(wait) => Err(self.left_alone(op, id, wait)),
        }
    }

    fn left_alone(&self, op: Op, id: Option<&FileId>, wait: Duration) -> Error {
        let error = Error::new(ErrorKind::Unavailable, op)
            .with_storage(&self.name)
            .with_message("left alone after outages until a probe succeeds")
            .with_retry(if wait.is_zero() { Retry::Now } else { Retry::After(wait) });
        match id {
            Some(id) => error.with_id(id),
            None => error,
        }
    }

    /// Finds out whether a storage that was out is back, before a call that takes long is sent to it.
    async fn probe_first(self: &Arc<Self>, op: Op, id: Option<&FileId>) -> Result<()> {
        let admitted = self
            .with_breaker(|breaker, now| (breaker.state(now) == State::HalfOpen).then(|| breaker.admit(now)));
        let pass = match admitted {
            None => return Ok(()),
            Some(Err(wait)) => return Err(self.left_alone(op, id, wait)),
            Some(Ok(pass)) => pass,
        };
        // A task of its own: its caller may go away, and that says nothing of the storage.
        let side = Arc::clone(self);
        let probe = tokio::spawn(async move { side.probe(pass).await });
        match probe.await {
            Ok(Err(outage)) if is_outage(&outage) => {
                let error = Error::new(outage.kind(), op)
                    .with_storage(&self.name)
                    .with_message(format!("a probe failed: {outage}"))
                    .with_retry(outage.retry());
                let error = match id {
                    Some(id) => error.with_id(id),
                    None => error,
                };
                Err(error.with_source(outage))
            }
            _ => Ok(()),
        }
    }

    /// Makes one call. What takes long is not sent to a storage that was out until a probe was answered. Whoever waits
    /// for a permit of the storage's own limit has sent nothing: he goes elsewhere when the breaker opens, and no
    /// clock runs before.
    pub(super) async fn call<T>(
        self: &Arc<Self>,
        op: Op,
        id: Option<&FileId>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if takes_long(op) {
            self.probe_first(op, id).await?;
        }
        let mut opened = pin!(self.opened.notified());
        let mut calling = self.begin(op, id)?;
        let queue = calling.queue.clone();
        let mut work = pin!(queue.run(work));
        let mut is_vain = |context: &mut Context<'_>| {
            while queue.has_not_begun() && opened.as_mut().poll(context).is_ready() {
                opened.set(self.opened.notified());
                if self.state() == State::Open {
                    return true;
                }
            }
            false
        };
        let answer = poll_fn(|context| {
            // Before the work: its permit may have come at the same time.
            if is_vain(context) {
                return Poll::Ready(None);
            }
            if let Poll::Ready(result) = work.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            if is_vain(context) {
                return Poll::Ready(None);
            }
            if queue.has_not_begun() {
                calling.give_back();
            }
            Poll::Pending
        });
        let Some(result) = answer.await else { return Err(self.left_alone(op, id, Duration::ZERO)) };
        calling.ended(outcome(&result));
        result
    }

    /// Counts an outage that comes after the answer, in the middle of a body.
    pub(super) fn watch(self: &Arc<Self>, body: ByteStream) -> ByteStream {
        let side = Arc::clone(self);
        stream::unfold((body, side), |(mut body, side)| async move {
            let piece = body.next().await?;
            if piece.as_ref().is_err_and(is_outage) {
                side.record(Breaker::record_late_outage);
            }
            Some((piece, (body, side)))
        })
        .fuse()
        .boxed()
    }
}
