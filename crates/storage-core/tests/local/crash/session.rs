//! A child that does each operation that changes a storage once, in one order and on one thread, so that the n-th
//! system call of a kind is the same in every run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::Result;
use storage_core::storage::{
    FileStorage, FinishOptions, PartReceipt, Precondition, ResumableUpload, UploadOptions, UploadTicket,
};
use tempfile::TempDir;

use super::super::id;
use super::lines::{Change, Line, Told, Working, say};
use super::model::{Model, Part, Stored, attributes, content};

const ORDERS: &str = "CRASH_SESSION";

#[derive(Serialize, Deserialize)]
struct Orders {
    root: PathBuf,
    /// A file to upload.
    body: PathBuf,
}

/// A root as a session finds it, and a place outside of it.
pub(super) struct Prepared {
    root: TempDir,
    outside: TempDir,
    pub(super) model: Model,
}

const fn file(content: u64, size: usize, attributes: u64) -> Stored {
    Stored { content, size, attributes }
}

const STREAMED: Stored = file(80, 300_000, 84);
const OLD: Stored = file(1_000, 3_000, 1_004);
const LARGE: Stored = file(1_001, 100, 1_003);
const GONE: Stored = file(1_002, 5_000, 1_005);
const PART: usize = 4_000;

/// A directory on a disk that costs nothing to sync, where there is one: nobody cuts the power here.
fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

impl Prepared {
    pub(super) async fn new() -> Self {
        let prepared = Self { root: in_memory(), outside: in_memory(), model: Model::default() };
        let storage = super::super::open(prepared.root()).await;
        let mut model = Model::default();
        for (name, stored) in [("old", OLD), ("large", LARGE), ("deep/er/gone", GONE), ("deep/kept", OLD)] {
            let options = attributes(stored.attributes);
            storage.upload(&id(name), Body::from_bytes(stored.bytes()), options).await.unwrap();
            model.add_file(name, stored);
        }
        for (number, name) in [(1_100, "abandoned"), (1_101, "untouched")] {
            let ticket = storage.begin(&id(name), PART as u64, attributes(number)).await.unwrap();
            let part = Part { content: number, offset: 0, size: PART };
            let bytes = part.bytes();
            let digest = Digest::of(&bytes);
            storage.put_part(&ticket, std::num::NonZeroU32::MIN, bytes, digest).await.unwrap();
            model.add_upload(number, name, ticket, part);
        }
        std::fs::write(prepared.outside.path().join("body"), STREAMED.bytes()).unwrap();
        Self { model, ..prepared }
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn outside(&self) -> &Path {
        self.outside.path()
    }

    /// Starts the session by `command`, which runs this test binary.
    pub(super) fn start(&self, mut command: Command) -> Working {
        let orders = Orders { root: self.root().to_owned(), body: self.outside().join("body") };
        let file = self.outside().join("orders.json");
        std::fs::write(&file, serde_json::to_vec(&orders).unwrap()).unwrap();
        command.args(["--exact", "crash::session::child", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ORDERS, file);
        Working::start(command)
    }
}

#[test]
#[ignore = "a process that other tests start"]
fn child() {
    let Some(orders) = std::env::var_os(ORDERS) else { return };
    let orders: Orders = serde_json::from_slice(&std::fs::read(orders).unwrap()).unwrap();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Without the driver of sockets, whose waking is a write as well.
    let runtime = runtime.enable_time().max_blocking_threads(1).thread_keep_alive(Duration::from_secs(600));
    runtime.build().unwrap().block_on(session(orders));
}

/// Attempts at operations. What fails is tried once more: an error that passed leaves nothing in the way.
struct Session {
    storage: LocalStorage,
    next: u64,
}

/// So many calls of each kind in [`COMMON`] the thread that works on the disk makes before the session: more than any
/// other thread makes at all, so that from there on a number means that thread.
pub(super) const AHEAD: u32 = 150;

/// What other threads call as well: to load the program, to say lines.
pub(super) const COMMON: &[&str] = &["openat", "write"];

async fn session(orders: Orders) {
    let ahead = || {
        for _ in 0..AHEAD {
            if let Ok(mut nowhere) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
                std::io::Write::write_all(&mut nowhere, b"x").unwrap();
            }
        }
    };
    tokio::task::spawn_blocking(ahead).await.unwrap();
    let mut next = 0;
    let storage = attempt(&mut next, &Change::Nothing, async || {
        LocalStorage::open(LocalConfig::new(&orders.root)).await
    });
    let Some(storage) = storage.await else { return };
    say(&Line::Ready);
    let mut session = Session { storage, next };
    session.files(&orders.body).await;
    session.parts().await;
    session.rest().await;
}

async fn attempt<T>(next: &mut u64, change: &Change, work: impl AsyncFn() -> Result<T>) -> Option<T> {
    for _ in 0..2 {
        let operation = *next;
        *next += 1;
        say(&Line::Start { operation, change: change.clone() });
        match work().await {
            Ok(done) => {
                say(&Line::Done { operation, ticket: None });
                return Some(done);
            }
            Err(error) => say(&Line::Failed { operation, error: Told::of(&error) }),
        }
    }
    None
}

impl Session {
    async fn attempt<T>(
        &mut self,
        change: Change,
        work: impl AsyncFn(&LocalStorage) -> Result<T>,
    ) -> Option<T> {
        let storage = self.storage.clone();
        attempt(&mut self.next, &change, async || work(&storage).await).await
    }

    async fn put(&mut self, name: &str, stored: Stored, when: Precondition) {
        let options = attributes(stored.attributes).with_when(when);
        let change = Change::File { id: name.to_owned(), after: Some(stored) };
        self.attempt(change, async |storage| {
            storage.upload(&id(name), Body::from_bytes(stored.bytes()), options.clone()).await
        })
        .await;
    }

    async fn copy(&mut self, from: &str, to: &str, after: Stored, options: UploadOptions) {
        let change = Change::File { id: to.to_owned(), after: Some(after) };
        self.attempt(change, async |storage| storage.copy(&id(from), &id(to), options.clone()).await).await;
    }

    async fn files(&mut self, body: &Path) {
        self.put("new/deep/file", file(10, 6_000, 9), Precondition::None).await;
        self.put("old", file(20, 2_000, 20), Precondition::None).await;
        self.put("fresh", file(30, 0, 30), Precondition::Absent).await;
        if let Ok(metadata) = self.storage.metadata(&id("fresh")).await {
            let version = Precondition::Version(metadata.version.unwrap());
            self.put("fresh", file(40, 70_000, 44), version).await;
        }
        // In a sidecar, over one in a sidecar.
        self.copy("large", "copied/large", LARGE, UploadOptions::default()).await;
        self.put("large", file(50, 100, 51), Precondition::None).await;
        self.copy("deep/kept", "copy", Stored { attributes: 60, ..OLD }, attributes(60)).await;
        let change = Change::File { id: "deep/er/gone".to_owned(), after: None };
        self.attempt(change, async |storage| storage.delete(&id("deep/er/gone"), Precondition::None).await)
            .await;
        let change = Change::File { id: "streamed/file".to_owned(), after: Some(STREAMED) };
        self.attempt(change, async |storage| {
            let body = Body::from_path(body).await?;
            storage.upload(&id("streamed/file"), body, attributes(STREAMED.attributes)).await
        })
        .await;
    }

    async fn part(&mut self, ticket: &UploadTicket, number: u32, part: Part) -> Option<PartReceipt> {
        let bytes = part.bytes();
        let digest = Digest::of(&bytes);
        let change = Change::Put { upload: 100, number, part };
        let number = number.try_into().unwrap();
        self.attempt(change, async |storage| storage.put_part(ticket, number, bytes.clone(), digest).await)
            .await
    }

    async fn parts(&mut self) {
        let after = file(100, PART + 50, 100);
        let name = "in/parts";
        let change = Change::Begin { upload: 100, id: name.to_owned() };
        let begun = self
            .attempt(change, async |storage| storage.begin(&id(name), PART as u64, attributes(100)).await);
        let Some(ticket) = begun.await else { return };
        // Once more, with the ticket.
        say(&Line::Done { operation: self.next - 1, ticket: Some(ticket.clone()) });
        let first = Part { content: 100, offset: 0, size: PART };
        let second = Part { content: 100, offset: PART, size: 50 };
        self.part(&ticket, 1, Part { content: 101, ..first }).await;
        let parts = [self.part(&ticket, 1, first).await, self.part(&ticket, 2, second).await];
        let [Some(first), Some(second)] = parts else { return };
        let parts = [first, second];
        let change = Change::Finish { upload: 100, id: name.to_owned(), after };
        self.attempt(change, async |storage| storage.finish(&ticket, &parts, FinishOptions::default()).await)
            .await;
    }

    async fn rest(&mut self) {
        let stale = self.attempt(Change::Nothing, async |storage| storage.stale(Duration::ZERO).await).await;
        if let Some(ticket) = stale.iter().flatten().find(|ticket| ticket.id == id("abandoned")) {
            self.attempt(Change::Abandon { upload: 1_100 }, async |storage| storage.abandon(ticket).await)
                .await;
        }
        self.attempt(Change::Nothing, async |storage| storage.sweep(Duration::ZERO).await).await;
        self.attempt(Change::Nothing, async |storage| storage.probe(Duration::from_secs(60)).await).await;
        self.put(
            "last",
            Stored { content: 200, size: content(200, 10).len(), attributes: 204 },
            Precondition::None,
        )
        .await;
    }
}
