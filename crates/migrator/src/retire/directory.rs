//! The quarantine of a directory: `.storage/quarantine/PAIR/until-TIME-run-N/` beneath its root, in which every file keeps
//! the path that it had. PAIR stands for source and target, so that no two migrations of one directory share a place.
//! Beside the drawers is the mark of the last run of each ledger that moved files there, `moved-by-run-N-TIME`, which
//! holds the names of the pair. No link on the way is followed.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use storage_core::checksum::Digest;
use storage_core::error::{Effect, Error, ErrorKind, Op, Result};
use storage_core::id::FileId;
use storage_core::metadata::Version;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Attic, Deletion, Expired, Moves};
use crate::preserve::MARKER;
use crate::quarantine::{Drawer, Mark};

mod emptying;
mod marks;
mod moving;

/// The storage's own directory, which no listing shows, and the quarantine in it.
const HOME: &str = ".storage/quarantine";

/// No link on the way is followed, and nothing leads out of the directory.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Expired files that are found ahead of their deletion.
const AHEAD: usize = 256;

/// The quarantine of a directory.
#[derive(Debug)]
pub struct DirectoryAttic {
    name: Arc<str>,
    root: Arc<OwnedFd>,
    pair: String,
    /// The pair in words, for whoever finds the place.
    words: Arc<str>,
}

impl DirectoryAttic {
    /// Opens the root of a source, for the migration of `source` to `target`, as the ledger knows them. Makes nothing.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(name: &str, root: &Path, source: &str, target: &str) -> Result<Self> {
        let root = rustix::fs::open(root, DIRECTORY, Mode::empty())
            .map_err(|errno| failed(Op::Open, errno).with_storage(name))?;
        let mut hasher = Sha256::new();
        // A separator that neither text can hold.
        hasher.update(source.as_bytes());
        hasher.update([0]);
        hasher.update(target.as_bytes());
        let pair = hex::encode(&hasher.finalize()[..8]);
        let words = format!("{source} -> {target}").into();
        Ok(Self { name: name.into(), root: Arc::new(root), pair, words })
    }

    /// Returns the place of this pair, beneath the root. It is never removed.
    fn home(&self) -> String {
        format!("{HOME}/{}", self.pair)
    }

    /// Does something that may block.
    async fn blocking<T, W>(&self, op: Op, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&OwnedFd) -> Result<T, Errno> + Send + 'static,
    {
        let root = Arc::clone(&self.root);
        match tokio::task::spawn_blocking(move || work(&root)).await {
            Ok(done) => done.map_err(|errno| self.named(failed(op, errno))),
            Err(error) => {
                let error = std::io::Error::other(error);
                Err(self.named(Error::new(ErrorKind::Other, op).with_source(error)))
            }
        }
    }

    fn named(&self, error: Error) -> Error {
        error.with_storage(&self.name)
    }
}

fn failed(op: Op, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::LOOP => ErrorKind::NotAFile,
        Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => ErrorKind::Conflict,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::StorageFull,
        Errno::XDEV => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    };
    Error::new(kind, op).with_source(errno)
}

fn open_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), BENEATH)
}

/// Opens a directory and makes it, and those above it, where there is none. The mode is that of the storage's own
/// directory for the first segment, and the owner's alone beneath.
fn create_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    match open_directory(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mode = if above.is_empty() { 0o777 } else { 0o700 };
    let directory = create_directory(root, above)?;
    match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(mode)) {
        Ok(()) => rustix::fs::fsync(&directory)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_directory(root, path)
}

#[async_trait]
impl Attic for DirectoryAttic {
    fn takes(&self, id: &FileId) -> bool {
        id.file_name() != MARKER
    }

    fn place(&self, drawer: &Drawer, id: &FileId) -> String {
        format!("{}/{}/{id}", self.home(), drawer.name())
    }

    async fn put_away(&self, drawer: &Drawer, files: Vec<(FileId, Version)>) -> Vec<Result<(), Error>> {
        let drawer = format!("{}/{}", self.home(), drawer.name());
        let (root, files_of) = (Arc::clone(&self.root), files.clone());
        let moved = tokio::task::spawn_blocking(move || moving::move_all(&root, &drawer, &files_of)).await;
        let answers = moved.unwrap_or_else(|error| {
            let broken = |_| {
                let error = std::io::Error::other(error.to_string());
                Err(Error::new(ErrorKind::Other, Op::Delete).with_effect(Effect::Unknown).with_source(error))
            };
            files.iter().map(broken).collect()
        });
        let named = |((id, _), answer): (&(FileId, Version), Result<()>)| {
            answer.map_err(|error| self.named(error.with_id(id)))
        };
        files.iter().zip(answers).map(named).collect()
    }

    fn expired(&self, now: Timestamp) -> BoxStream<'static, Result<Expired>> {
        let (found, receiver) = mpsc::channel(AHEAD);
        let (root, home, name) = (Arc::clone(&self.root), self.home(), Arc::clone(&self.name));
        let walk = tokio::task::spawn_blocking(move || emptying::walk(&root, &home, now, &name, &found));
        let files = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let ended = async move { walk.await.err() };
        let ended = ended.map(|error| {
            let error = std::io::Error::other(error?);
            Some(Err(Error::new(ErrorKind::Other, Op::List).with_source(error)))
        });
        files.chain(ended.into_stream().filter_map(std::future::ready)).boxed()
    }

    async fn delete(&self, expired: &Expired, digest: Digest) -> Result<Deletion> {
        let (home, file) = (self.home(), expired.clone());
        // Reading a large file ends where nobody waits for it any more.
        let given_up = CancellationToken::new();
        let _waiting = given_up.clone().drop_guard();
        let work = move |root: &OwnedFd| emptying::delete(root, &home, &file, digest, &given_up);
        self.blocking(Op::Delete, work).await.map_err(|error| error.with_id(&expired.id))
    }

    async fn mark(&self, mark: Mark, replaced: Vec<Mark>) -> Result<()> {
        let (home, words) = (self.home(), Arc::clone(&self.words));
        self.blocking(Op::Delete, move |root| marks::mark(root, &home, &words, mark, &replaced)).await
    }

    async fn moves(&self) -> Result<Vec<Moves>> {
        let home = self.home();
        let told = self.blocking(Op::List, move |root| marks::moves(root, &home)).await;
        told.map_err(|error| {
            let message = format!("{HOME} of the source cannot be looked at: {error}");
            error.with_message(message)
        })
    }
}
