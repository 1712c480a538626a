//! The listing: a depth-first walk in the byte order of ids, one batch of entries per hop to a blocking thread.
//!
//! A directory sorts as its name with a `/` behind it, which is how the ids beneath it begin: `a-b`, `a.b`,
//! `a/b`, `a0`. Memory is the names of one directory per level, packed; what prefix and start leave out is
//! never kept.

use std::fs::File;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{AtFlags, Dir, FileType, Mode, openat, statat};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::attributes::from_parts;
use super::error::failed;
use super::root::{
    DIRECTORY, RESERVED, Root, foreign_name, identity, last_segment, modified_parts, not_a_file,
};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, MAX_ID_BYTES, Prefix};
use crate::metadata::FileMetadata;
use crate::storage::ListOptions;

/// Entries per hop to a blocking thread: the hop is 10 us or so, a batch takes about a millisecond.
const BATCH: usize = 512;

/// Descriptors that one listing holds; a directory further up is opened again when the walk comes back to it.
const OPEN_LEVELS: usize = 16;

type Batch = Vec<Result<FileMetadata>>;

/// Lists in batches, one ahead of the consumer. No thread waits for a slow consumer.
pub(super) fn list(
    root: Arc<Root>,
    storage: String,
    prefix: &Prefix,
    options: ListOptions,
) -> BoxStream<'static, Result<FileMetadata>> {
    let walk = Walk::new(root, prefix, options);
    stream::unfold(Some(Coming::First(walk)), |coming| async move {
        let batch = match coming? {
            Coming::First(walk) => next_batch(walk),
            Coming::Batch(batch) => batch,
        };
        let (batch, walk) = match batch.await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => (vec![Err(error)], None),
            Err(error) => (vec![Err(failed(Op::List, std::io::Error::other(error)))], None),
        };
        Some((batch, walk.map(|walk| Coming::Batch(next_batch(walk)))))
    })
    .flat_map(stream::iter)
    .map(move |item| item.map_err(|error| error.with_storage(&storage)))
    .fuse()
    .boxed()
}

enum Coming {
    /// Nothing was asked for yet.
    First(Walk),
    Batch(JoinHandle<Result<(Batch, Option<Walk>)>>),
}

fn next_batch(mut walk: Walk) -> JoinHandle<Result<(Batch, Option<Walk>)>> {
    tokio::task::spawn_blocking(move || {
        let mut batch = Vec::new();
        let more = walk.fill(&mut batch)?;
        Ok((batch, more.then_some(walk)))
    })
}

/// Where a walk is.
struct Walk {
    root: Arc<Root>,
    prefix: String,
    start_after: Option<FileId>,
    report_foreign: bool,
    levels: Vec<Level>,
    /// Path of the innermost level, with a `/` at its end, or empty for the root.
    path: Vec<u8>,
    started: bool,
}

/// A directory on the way from the root to the present entry.
struct Level {
    directory: Option<File>,
    /// Length of the path up to and including this directory.
    path_len: usize,
    /// Names one behind the other, those of directories with a `/`.
    names: Vec<u8>,
    entries: Vec<Entry>,
    next: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    offset: u32,
    length: u16,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Foreign(FileType),
}

impl Walk {
    fn new(root: Arc<Root>, prefix: &Prefix, options: ListOptions) -> Self {
        Self {
            root,
            prefix: prefix.as_str().to_owned(),
            start_after: options.start_after,
            report_foreign: options.report_foreign,
            levels: Vec::new(),
            path: prefix.directory().as_bytes().to_vec(),
            started: false,
        }
    }

    /// Adds up to a batch of entries; `false` when there are no more. An error ends the listing.
    fn fill(&mut self, batch: &mut Batch) -> Result<bool> {
        if !self.started {
            self.started = true;
            self.start(batch)?;
        }
        while batch.len() < BATCH {
            if !self.step(batch) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn start(&mut self, batch: &mut Batch) -> Result<()> {
        self.root.check(Op::List)?;
        let base = self.prefix[..self.path.len()].to_owned();
        if base.split('/').next() == Some(RESERVED) {
            return Ok(());
        }
        match self.root.open_directory(base.trim_end_matches('/')) {
            Ok(directory) => match self.enter(directory, batch) {
                Some(error) if base.is_empty() => return Err(error),
                Some(error) => batch.push(Err(error.with_subject(base))),
                None => {}
            },
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {}
            Err(errno) if base.is_empty() => return Err(failed(Op::List, errno)),
            Err(errno) => batch.push(Err(failed(Op::List, errno).with_subject(base))),
        }
        Ok(())
    }

    /// Handles one entry; `false` when there is none left.
    fn step(&mut self, batch: &mut Batch) -> bool {
        let Some(level) = self.levels.last_mut() else { return false };
        self.path.truncate(level.path_len);
        let Some(&entry) = level.entries.get(level.next) else {
            self.levels.pop();
            return true;
        };
        level.next += 1;
        let start = entry.offset as usize;
        self.path.extend_from_slice(&level.names[start..start + usize::from(entry.length)]);
        match entry.kind {
            Kind::Directory => self.descend(batch),
            Kind::File => batch.extend(self.file()),
            Kind::Foreign(kind) => batch.push(Err(self.foreign(kind))),
        }
        true
    }

    /// Returns the descriptor of the innermost directory, whose entry the path names.
    fn directory(&mut self) -> Result<&File, Errno> {
        let Some(level) = self.levels.last_mut() else { return Err(Errno::NOENT) };
        if level.directory.is_none() {
            // A path that is no UTF-8 was never entered.
            let path = std::str::from_utf8(&self.path[..level.path_len]).map_err(|_| Errno::NOENT)?;
            level.directory = Some(self.root.open_directory(path.trim_end_matches('/'))?);
        }
        level.directory.as_ref().ok_or(Errno::NOENT)
    }

    fn descend(&mut self, batch: &mut Batch) {
        if let Err(error) = self.parse(&self.path[..self.path.len() - 1]) {
            batch.push(Err(error));
            return;
        }
        let path = String::from_utf8_lossy(&self.path).into_owned();
        let name = last_segment(path.trim_end_matches('/'));
        let opened = self.directory().and_then(|directory| openat(directory, name, DIRECTORY, Mode::empty()));
        let error = match opened {
            Ok(directory) => self.enter(directory.into(), batch),
            // Removed or replaced since its name was read.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(errno) => Some(failed(Op::List, errno)),
        };
        batch.extend(error.map(|error| Err(error.with_subject(path))));
    }

    /// Reads a directory and makes it the innermost one; returns what went wrong, with the names until then
    /// kept.
    fn enter(&mut self, directory: File, batch: &mut Batch) -> Option<Error> {
        let mut level = Level {
            directory: None,
            path_len: self.path.len(),
            names: Vec::new(),
            entries: Vec::new(),
            next: 0,
        };
        let result = self.read(&directory, &mut level, batch);
        level.sort();
        level.names.shrink_to_fit();
        level.directory = Some(directory);
        self.levels.push(level);
        if let Some(far) = self.levels.len().checked_sub(OPEN_LEVELS + 1) {
            self.levels[far].directory = None;
        }
        result.err().map(|errno| failed(Op::List, errno))
    }

    fn read(&self, directory: &File, level: &mut Level, batch: &mut Batch) -> Result<(), Errno> {
        let mut id = self.path.clone();
        let handle =
            directory.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        for entry in Dir::new(handle)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (self.path.is_empty() && name == RESERVED.as_bytes()) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno),
                },
                kind => kind,
            };
            let kind = match kind {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                _ if !self.report_foreign => continue,
                other => Kind::Foreign(other),
            };
            id.truncate(self.path.len());
            id.extend_from_slice(name);
            if kind == Kind::Directory {
                id.push(b'/');
            }
            if self.wants(&id, kind == Kind::Directory) && !level.push(&id[self.path.len()..], kind) {
                batch.push(Err(Error::new(ErrorKind::Other, Op::List)
                    .with_subject(shown(&self.path))
                    .with_message("the names of this directory take more than 4 GiB")));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells whether an entry is asked for, or can hold what is.
    fn wants(&self, id: &[u8], is_directory: bool) -> bool {
        let prefix = self.prefix.as_bytes();
        let beneath = id.starts_with(prefix);
        let above = is_directory && prefix.starts_with(id);
        if !beneath && !above {
            return false;
        }
        match &self.start_after {
            None => true,
            Some(after) => {
                let after = after.as_str().as_bytes();
                id > after || (is_directory && after.starts_with(id))
            }
        }
    }

    fn file(&mut self) -> Option<Result<FileMetadata>> {
        let id = match self.parse(&self.path) {
            Ok(id) => id,
            Err(error) => return Some(Err(error)),
        };
        let stat = self
            .directory()
            .and_then(|directory| statat(directory, id.file_name(), AtFlags::SYMLINK_NOFOLLOW));
        let stat = match stat {
            Ok(stat) => stat,
            // Removed since its name was read.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return None,
            Err(errno) => return Some(Err(failed(Op::List, errno).with_id(&id))),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let mut metadata = FileMetadata::new(id, stat.st_size as u64);
                metadata.modified = from_parts(modified_parts(&stat));
                metadata.version = Some(identity(&stat).version());
                Some(Ok(metadata))
            }
            // Replaced by a directory since its name was read.
            FileType::Directory => None,
            other => self.report_foreign.then(|| Err(self.foreign(other))),
        }
    }

    fn foreign(&self, kind: FileType) -> Error {
        let error = not_a_file(Op::List, foreign_name(kind).unwrap_or("device"));
        match FileId::from_bytes(&self.path) {
            Ok(id) => error.with_id(&id),
            Err(_) => error.with_subject(shown(&self.path)),
        }
    }

    /// Makes the id, or the error that says why the name is none.
    fn parse(&self, path: &[u8]) -> Result<FileId> {
        debug_assert!(path.len() <= 2 * MAX_ID_BYTES, "directories with longer paths are not entered");
        FileId::from_bytes(path).map_err(|reason| {
            Error::new(ErrorKind::InvalidInput, Op::List)
                .with_subject(shown(path))
                .with_message(reason.as_str())
                .with_source(reason)
        })
    }
}

impl Level {
    /// Adds a name; `false` when there is no room.
    fn push(&mut self, name: &[u8], kind: Kind) -> bool {
        let (Ok(offset), Ok(length)) = (u32::try_from(self.names.len()), u16::try_from(name.len())) else {
            return false;
        };
        self.names.extend_from_slice(name);
        self.entries.push(Entry { offset, length, kind });
        true
    }

    fn sort(&mut self) {
        let names = &self.names;
        let name = |entry: &Entry| &names[entry.offset as usize..][..usize::from(entry.length)];
        self.entries.sort_unstable_by(|one, other| name(one).cmp(name(other)));
    }
}

/// Shows a path; bytes that are no UTF-8 as `\\xNN`.
fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(path) => path.to_owned(),
        Err(_) => path.escape_ascii().to_string(),
    }
}
