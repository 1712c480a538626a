//! A child that does a random mix of all that changes a storage, until it is ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::{Error, Result};
use storage_core::metadata::Version;
use storage_core::storage::{
    FileStorage, FinishOptions, PartReceipt, Precondition, ResumableUpload, UploadOptions, UploadTicket,
};

use super::super::id;
use super::lines::{Change, Line, Told, Working, say};
use super::model::{Model, Part, Stored, attributes, content};

/// What a child is told, in a file outside of the storage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) root: PathBuf,
    pub(super) seed: u64,
    /// Where the numbers of this child begin.
    pub(super) first: u64,
    pub(super) workers: u64,
    /// Greatest pause after an acknowledgement, in microseconds: with none, the sync of one operation would hide
    /// that the one before it did not sync.
    pub(super) pause: u64,
    pub(super) durability: Durability,
    /// What is there.
    pub(super) stored: BTreeMap<String, Stored>,
}

const ORDERS: &str = "CRASH_ORDERS";

impl Orders {
    pub(super) fn new(root: &Path, seed: u64, first: u64, model: &Model) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            root: root.to_owned(),
            seed,
            first,
            // Enough at times for syncs of the whole file system, which serve many at once.
            workers: if random.random_bool(0.5) { random.random_range(1..=4) } else { 16 },
            pause: [0, 500, 5_000][random.random_range(0..3)],
            durability: Durability::Durable,
            stored: model.stored(),
        }
    }

    /// Starts the child by `command`, which runs this test binary, with its orders in `place`.
    pub(super) fn start(&self, mut command: Command, place: &Path) -> Working {
        let file = place.join("orders.json");
        std::fs::write(&file, serde_json::to_vec(self).unwrap()).unwrap();
        command.args(["--exact", "crash::writer::child", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ORDERS, file);
        Working::start(command)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that other tests start"]
async fn child() {
    let Some(orders) = std::env::var_os(ORDERS) else { return };
    let orders: Orders = serde_json::from_slice(&std::fs::read(orders).unwrap()).unwrap();
    let config = LocalConfig::new(&orders.root).with_durability(orders.durability);
    let storage = LocalStorage::open(config).await.unwrap();
    say(&Line::Ready);
    let mut workers = Vec::new();
    for number in 0..orders.workers {
        let mine = |id: &&String| id.ends_with(&format!("w{number}"));
        let known = orders.stored.iter().filter(|(id, _)| mine(id));
        let worker = Worker {
            storage: storage.clone(),
            random: StdRng::seed_from_u64(orders.seed ^ (number << 32)),
            number,
            first: orders.first,
            pause: orders.pause,
            stored: known.map(|(id, stored)| (id.clone(), (*stored, None))).collect(),
            uploads: Vec::new(),
        };
        workers.push(tokio::spawn(worker.work()));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    // Whoever failed has said so: the end is the parent's.
    std::future::pending().await
}

/// One of several tasks, whose files are its own: what is in a file after a crash can be told. Directories they
/// share.
struct Worker {
    storage: LocalStorage,
    random: StdRng,
    number: u64,
    first: u64,
    pause: u64,
    stored: BTreeMap<String, (Stored, Option<Version>)>,
    uploads: Vec<Open>,
}

struct Open {
    number: u64,
    id: String,
    ticket: UploadTicket,
    parts: Vec<PartReceipt>,
    content: u64,
    size: usize,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

const PART: usize = 5_000;

impl Worker {
    async fn work(mut self) {
        while self.step().await.is_ok() {
            let pause = self.random.random_range(0..=self.pause);
            if pause > 0 {
                tokio::time::sleep(Duration::from_micros(pause)).await;
            }
        }
    }

    fn next(&self) -> u64 {
        self.first + NUMBERS.fetch_add(1, Ordering::Relaxed)
    }

    /// An id of its own, in a directory of its own or of all, that exists or not.
    fn any_id(&mut self) -> String {
        let (file, worker) = (self.random.random_range(0..4), self.number);
        match self.random.random_range(0..5) {
            0 => format!("{file}-w{worker}"),
            1 => format!("shared/{file}-w{worker}"),
            2 => format!("deep/{file}/er/w{worker}"),
            3 => format!("own-{worker}/{file}/f-w{worker}"),
            _ => format!("n{file}/x/y/z-w{worker}"),
        }
    }

    fn known_id(&mut self) -> Option<String> {
        let count = self.stored.len();
        (count > 0).then(|| {
            let nth = self.random.random_range(0..count);
            self.stored.keys().nth(nth).unwrap().clone()
        })
    }

    /// One operation; an error is one that a healthy disk does not give.
    async fn step(&mut self) -> Result<(), ()> {
        match self.random.random_range(0..100) {
            0..40 => self.upload().await,
            40..55 => self.delete().await,
            55..67 => self.copy().await,
            67..75 => self.refused().await,
            _ => self.parts().await,
        }
    }

    async fn upload(&mut self) -> Result<(), ()> {
        let name = self.any_id();
        let number = self.next();
        let size = [0, 100, 3_000, 20_000, 200_000][self.random.random_range(0..5)];
        let after = Stored { content: number, size, attributes: number };
        let when = match self.stored.get(&name) {
            None if self.random.random_bool(0.5) => Precondition::Absent,
            Some((_, Some(version))) if self.random.random_bool(0.5) => {
                Precondition::Version(version.clone())
            }
            _ => Precondition::None,
        };
        let options = attributes(number).with_when(when);
        let change = Change::File { id: name.clone(), after: Some(after) };
        let storage = self.storage.clone();
        let target = id(&name);
        let body = Body::from_bytes(after.bytes());
        let receipt = told(number, change, async { storage.upload(&target, body, options).await }).await?;
        self.stored.insert(name, (after, receipt.metadata.version));
        Ok(())
    }

    async fn delete(&mut self) -> Result<(), ()> {
        let Some(name) = self.known_id() else { return Ok(()) };
        let change = Change::File { id: name.clone(), after: None };
        let storage = self.storage.clone();
        let target = id(&name);
        told(self.next(), change, async { storage.delete(&target, Precondition::None).await }).await?;
        self.stored.remove(&name);
        Ok(())
    }

    async fn copy(&mut self) -> Result<(), ()> {
        let (Some(from), to) = (self.known_id(), self.any_id()) else { return Ok(()) };
        let number = self.next();
        let (mut after, _) = self.stored[&from];
        let mut options = UploadOptions::default();
        // All of them are given, so that none is of the source.
        if !number.is_multiple_of(8) && self.random.random_bool(0.5) {
            options = attributes(number);
            after.attributes = number;
        }
        if after.attributes.is_multiple_of(8) {
            // A guess goes with the file that it was made for.
            return Ok(());
        }
        let change = Change::File { id: to.clone(), after: Some(after) };
        let storage = self.storage.clone();
        let (source, target) = (id(&from), id(&to));
        let receipt = told(number, change, async { storage.copy(&source, &target, options).await }).await?;
        self.stored.insert(to, (after, receipt.metadata.version));
        Ok(())
    }

    /// What does not come about, and leaves nothing.
    async fn refused(&mut self) -> Result<(), ()> {
        let Some(name) = self.known_id() else { return Ok(()) };
        let number = self.next();
        let options = match self.random.random_bool(0.5) {
            true => UploadOptions::default().with_when(Precondition::Absent),
            false => UploadOptions::default().with_digest(Digest::of(b"else")),
        };
        let body = Body::from_bytes(content(number, 3_000));
        let storage = self.storage.clone();
        say(&Line::Start { operation: number, change: Change::Nothing });
        match storage.upload(&id(&name), body, options).await {
            Err(error) if matches!(error.kind().as_str(), "already_exists" | "integrity") => {
                say(&Line::Done { operation: number, ticket: None });
                Ok(())
            }
            Err(error) => failed(number, &error),
            Ok(_) => panic!("{name} was written"),
        }
    }

    async fn parts(&mut self) -> Result<(), ()> {
        if self.uploads.len() < 2 && self.random.random_bool(0.4) {
            return self.begin().await;
        }
        if self.uploads.is_empty() {
            return Ok(());
        }
        let nth = self.random.random_range(0..self.uploads.len());
        let complete = self.uploads[nth].parts.len() * PART >= self.uploads[nth].size;
        match self.random.random_range(0..10) {
            0 => self.abandon(nth).await,
            1 => self.replace(nth).await,
            _ if complete => self.finish(nth).await,
            _ => self.put(nth).await,
        }
    }

    async fn begin(&mut self) -> Result<(), ()> {
        let number = self.next();
        let name = format!("parts-{number}/w{}", self.number);
        let change = Change::Begin { upload: number, id: name.clone() };
        let storage = self.storage.clone();
        say(&Line::Start { operation: number, change });
        match storage.begin(&id(&name), PART as u64, attributes(number)).await {
            Ok(ticket) => {
                say(&Line::Done { operation: number, ticket: Some(ticket.clone()) });
                let size = self.random.random_range(1..4 * PART);
                self.uploads.push(Open {
                    number,
                    id: name,
                    ticket,
                    parts: Vec::new(),
                    content: number,
                    size,
                });
                Ok(())
            }
            Err(error) => failed(number, &error),
        }
    }

    async fn put(&mut self, nth: usize) -> Result<(), ()> {
        let operation = self.next();
        let open = &mut self.uploads[nth];
        let number = open.parts.len() as u32 + 1;
        let offset = open.parts.len() * PART;
        let part = Part { content: open.content, offset, size: PART.min(open.size - offset) };
        let receipt = put(&self.storage, operation, open, number, part).await?;
        open.parts.push(receipt);
        Ok(())
    }

    /// Puts the first part with other bytes, and then as it was to be.
    async fn replace(&mut self, nth: usize) -> Result<(), ()> {
        let operations = [self.next(), self.next()];
        let open = &mut self.uploads[nth];
        if open.parts.is_empty() {
            return Ok(());
        }
        let right = Part { content: open.content, offset: 0, size: PART.min(open.size) };
        put(&self.storage, operations[0], open, 1, Part { content: operations[0], ..right }).await?;
        open.parts[0] = put(&self.storage, operations[1], open, 1, right).await?;
        Ok(())
    }

    async fn finish(&mut self, nth: usize) -> Result<(), ()> {
        let operation = self.next();
        let open = self.uploads.swap_remove(nth);
        let after = Stored { content: open.content, size: open.size, attributes: open.number };
        let change = Change::Finish { upload: open.number, id: open.id.clone(), after };
        let storage = self.storage.clone();
        let finish = FinishOptions::default();
        let receipt =
            told(operation, change, async { storage.finish(&open.ticket, &open.parts, finish).await })
                .await?;
        self.stored.insert(open.id, (after, receipt.metadata.version));
        Ok(())
    }

    async fn abandon(&mut self, nth: usize) -> Result<(), ()> {
        let operation = self.next();
        let open = self.uploads.swap_remove(nth);
        let change = Change::Abandon { upload: open.number };
        let storage = self.storage.clone();
        told(operation, change, async { storage.abandon(&open.ticket).await }).await
    }
}

async fn put(
    storage: &LocalStorage,
    operation: u64,
    open: &Open,
    number: u32,
    part: Part,
) -> Result<PartReceipt, ()> {
    let change = Change::Put { upload: open.number, number, part };
    let bytes = part.bytes();
    let digest = Digest::of(&bytes);
    let number = number.try_into().unwrap();
    told(operation, change, async { storage.put_part(&open.ticket, number, bytes, digest).await }).await
}

/// Does an operation, and says what it is and what became of it.
async fn told<T>(operation: u64, change: Change, work: impl Future<Output = Result<T>>) -> Result<T, ()> {
    say(&Line::Start { operation, change });
    match work.await {
        Ok(done) => {
            say(&Line::Done { operation, ticket: None });
            Ok(done)
        }
        Err(error) => failed(operation, &error),
    }
}

fn failed<T>(operation: u64, error: &Error) -> Result<T, ()> {
    say(&Line::Failed { operation, error: Told::of(error) });
    Err(())
}
