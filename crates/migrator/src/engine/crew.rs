//! The workers of a copy: as many as files may be in work, on the lanes, all fed from one queue.
//!
//! A worker that ends a file takes the next from the queue by itself: as long as the scan is ahead nobody is woken
//! and no task is made for a file.

use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lanes::Lanes;

use super::EngineError;
use super::worker::{Work, Worker};

/// Files that wait for a worker: two batches of the scan, so that one is made durable while the other is worked on.
const QUEUE: usize = 256;

/// How long parts in flight may take to end once the run is to stop: with what follows, within 10 seconds.
const GRACE: std::time::Duration = std::time::Duration::from_secs(8);

/// The file that a worker has in hand.
type Desk = Arc<Mutex<Option<Arc<Work>>>>;

/// Workers on the lanes, and the queue to them.
pub(super) struct Crew {
    worker: Worker,
    halt: CancellationToken,
    queue: Option<Sender<Arc<Work>>>,
    waiting: Receiver<Arc<Work>>,
    members: JoinSet<()>,
    desks: Vec<(Id, Desk)>,
}

impl Crew {
    /// Starts `count` workers.
    pub(super) fn start(worker: &Worker, lanes: &Lanes, count: usize) -> Self {
        let (queue, waiting) = async_channel::bounded(QUEUE);
        let mut members = JoinSet::new();
        let mut desks = Vec::new();
        for _ in 0..count {
            let desk = Desk::default();
            let serving = serve(worker.clone(), waiting.clone(), Arc::clone(&desk));
            desks.push((members.spawn_on(serving, lanes.next()).id(), desk));
        }
        Self {
            worker: worker.clone(),
            halt: worker.halt.clone(),
            queue: Some(queue),
            waiting,
            members,
            desks,
        }
    }

    /// Hands a file over once there is room; false where the run is to stop instead.
    pub(super) async fn take(&mut self, work: Work) -> bool {
        let Some(queue) = self.queue.clone() else { return false };
        let mut work = Arc::new(work);
        // The queue nearly always has room.
        match queue.try_send(work) {
            Ok(()) => return true,
            Err(full) => work = full.into_inner(),
        }
        loop {
            tokio::select! {
                biased;
                () = self.halt.cancelled() => return false,
                Some(ended) = self.members.join_next_with_id(), if !self.members.is_empty() => {
                    self.ended(ended).await;
                }
                sent = queue.send(Arc::clone(&work)) => return sent.is_ok(),
            }
        }
    }

    /// Waits until everything that was handed over is dealt with; once the run is to stop, what is in hand has a
    /// time of grace.
    pub(super) async fn finish(mut self) {
        self.queue = None;
        let mut deadline = None;
        while !self.members.is_empty() {
            tokio::select! {
                Some(ended) = self.members.join_next_with_id() => self.ended(ended).await,
                () = self.halt.cancelled(), if deadline.is_none() => deadline = Some(Instant::now() + GRACE),
                () = async { match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                } } => {
                    self.members.abort_all();
                    deadline = Some(Instant::now() + GRACE);
                }
            }
        }
        // Nobody is left who could take these: the workers were aborted, or ended early.
        while let Ok(work) = self.waiting.try_recv() {
            give_up_waiting(&self.worker, &work).await;
        }
    }

    /// A worker that ended with a file in hand ended early.
    async fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let Err(error) = ended else { return };
        let id = error.id();
        let desk = self.desks.iter().find(|(member, _)| *member == id).map(|(_, desk)| desk);
        let work = desk.and_then(|desk| desk.lock().unwrap_or_else(PoisonError::into_inner).take());
        if !error.is_cancelled() {
            self.worker.fail_run(EngineError::Internal(format!("a worker ended early: {error}")));
        }
        let Some(work) = work else { return };
        if error.is_cancelled() {
            self.worker.give_up(&work, "interrupted", "the run stopped while it was copied").await;
        } else {
            self.worker.give_up(&work, "other", "a defect of the program").await;
        }
    }
}

async fn serve(worker: Worker, waiting: Receiver<Arc<Work>>, desk: Desk) {
    while let Ok(work) = waiting.recv().await {
        if worker.halt.is_cancelled() {
            give_up_waiting(&worker, &work).await;
            continue;
        }
        *desk.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&work));
        worker.run(&work).await;
        *desk.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn give_up_waiting(worker: &Worker, work: &Work) {
    worker.give_up(work, "interrupted", "the run stopped before its turn").await;
}
