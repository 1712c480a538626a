//! Parts that are written to where they will be in the finished file, so that a finish has nothing to copy.
//!
//! An upload whose part size is known has a file `whole`. Part `n` goes to `(n - 1) * part_size` in it, is synced and
//! read back, and counts once the empty file `<number>-<size>-<sha256>.in-place` says so. A part goes to a file of its
//! own, as in an upload whose part size nobody knows, where it is larger than the others, or where one of its number is
//! stored already: what counts is never written over.
//!
//! | file | |
//! |---|---|
//! | `<number>.claim` | somebody writes this part into `whole`, and holds a lock on this file; it becomes the one that says that the part counts |
//! | `whole` | is opened by writers only after they have a claim |
//! | `whole.done` | what `whole` is called once a finish has begun: no writer opens it any more |
//!
//! A finish that sees no living claim after that renaming is alone with the file, and may publish it by renaming it
//! once more. One that sees a claim copies the parts out of it instead, as the writer may still write.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::error::failed;
use super::owner::{self, Owner};
use super::resumable::{names, no_such_upload, part_name, put_in_place_of_others};
use super::root::{Root, lock};
use super::staged::{Staged, Temp, blocking};
use crate::checksum::{Digest, Hasher, Mismatch, PartedHasher};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::storage::{PartNumber, PartReceipt, UploadTicket};

const WHOLE: &str = "whole";
const DONE: &str = "whole.done";

/// How the name of a part ends whose bytes are in the whole.
const MARK: &str = ".in-place";

/// Bytes read per hop to a blocking thread, and at a time.
const STEP: u64 = 16 << 20;
const BUFFER: usize = 256 << 10;

/// Uploads of which is remembered what was read back; of one that was forgotten, a finish reads everything again.
const REMEMBERED: usize = 1024;

/// Parts that this process has written and read back.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<String, Upload>>);

#[derive(Debug, Default)]
struct Upload {
    parts: HashSet<PartNumber>,
    /// Modification time of the whole after the last of them: what changes it later is nobody's part. Not the change
    /// time, which a renaming moves.
    modified: (i64, i64),
}

impl Seen {
    fn note(&self, upload: &str, number: PartNumber, modified: (i64, i64)) {
        let mut uploads = lock(&self.0);
        if uploads.len() >= REMEMBERED && !uploads.contains_key(upload) {
            uploads.clear();
        }
        let seen = uploads.entry(upload.to_owned()).or_default();
        seen.parts.insert(number);
        seen.modified = seen.modified.max(modified);
    }

    fn covers(&self, upload: &str, parts: u32, modified: (i64, i64)) -> bool {
        let uploads = lock(&self.0);
        uploads.get(upload).is_some_and(|seen| {
            modified <= seen.modified
                && (1..=parts).filter_map(PartNumber::new).all(|number| seen.parts.contains(&number))
        })
    }

    pub(super) fn forget(&self, upload: &str) {
        lock(&self.0).remove(upload);
    }
}

/// Makes the whole of an upload that begins.
pub(super) fn begin(directory: &File, op: Op) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(directory, WHOLE, flags, Mode::from_raw_mode(0o600)) {
        Ok(_) => Ok(()),
        Err(errno) => Err(failed(op, errno)),
    }
}

/// Tells whether the bytes of the part of this name are in the whole, and what the name is without that.
pub(super) fn marked(name: &str) -> Option<&str> {
    name.strip_suffix(MARK)
}

/// Writes a part to its place; nothing where it has to go to a file of its own.
pub(super) fn put(
    root: &Root,
    ticket: &UploadTicket,
    directory: &File,
    part_size: u64,
    number: PartNumber,
    bytes: &[u8],
    digest: Digest,
) -> Result<Option<PartReceipt>> {
    const OP: Op = Op::PutPart;
    let size = bytes.len() as u64;
    if size == 0 || size > part_size {
        return Ok(None);
    }
    let Some(claim) = Claim::take(directory, number, OP)? else { return Ok(None) };
    let same_number =
        |name: &String| super::resumable::parse_part(name).is_some_and(|part| part.number == number);
    if names(directory, OP)?.iter().any(same_number) {
        return Ok(None);
    }
    let Some(whole) = open(directory, WHOLE, OP)? else { return Ok(None) };
    let offset = u64::from(number.get() - 1) * part_size;
    let written = whole.write_all_at(bytes, offset).and_then(|()| root.sync_data(&whole));
    written.map_err(|error| failed(OP, error))?;
    let mut hasher = Hasher::new();
    read(&whole, offset, size, |piece| hasher.update(piece)).map_err(|error| failed(OP, error))?;
    let actual = hasher.finish();
    if actual != digest {
        return Err(Mismatch { expected: digest, actual }.into_error(OP));
    }
    let modified = modified(&whole, OP)?;
    let token = format!("{}{MARK}", part_name(number, size, digest));
    let receipt = PartReceipt::new(number, size, Some(digest), token);
    put_in_place_of_others(root, ticket, directory, &receipt, |directory, name| {
        claim.turn_into(directory, name)
    })?;
    root.seen.note(&ticket.upload, number, modified);
    Ok(Some(receipt))
}

/// Leave to write one part into the whole; given back when dropped.
struct Claim<'a> {
    directory: &'a File,
    name: Option<String>,
    /// Holds the lock.
    _file: File,
}

impl<'a> Claim<'a> {
    /// Takes the claim on a part, also over from somebody who died; nothing where somebody has it.
    fn take(directory: &'a File, number: PartNumber, op: Op) -> Result<Option<Self>> {
        let name = format!("{number:05}{CLAIM}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = match openat(directory, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => file.into(),
            Err(Errno::EXIST) => match owner::look(directory, &name, false) {
                Owner::Dead(file) => file,
                Owner::Alive | Owner::Gone | Owner::Unknown => return Ok(None),
            },
            Err(Errno::NOENT) => return Err(no_such_upload(op)),
            Err(errno) => return Err(failed(op, errno)),
        };
        // Whoever held it may have turned it into a part between the opening and the lock.
        match owner::claim(directory, &name, &file) {
            Ok(true) => Ok(Some(Self { directory, name: Some(name), _file: file })),
            Ok(false) => Ok(None),
            Err(errno) => Err(failed(op, errno)),
        }
    }

    fn turn_into(mut self, directory: &File, name: &str) -> Result<(), Errno> {
        let Some(claim) = self.name.take() else { return Err(Errno::NOENT) };
        renameat(self.directory, &claim, directory, name).inspect_err(|_| self.name = Some(claim))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // One that cannot be removed is taken over by the next, once this process has ended.
            let _ = unlinkat(self.directory, name, AtFlags::empty());
        }
    }
}

const CLAIM: &str = ".claim";

/// Ends the writing into the whole, and returns whether nobody is left who might go on.
pub(super) fn seal(directory: &File, op: Op) -> Result<bool> {
    match renameat(directory, WHOLE, directory, DONE) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(op, errno)),
    }
    let names = names(directory, op)?;
    let mut claims = names.iter().filter(|name| name.ends_with(CLAIM));
    Ok(claims.all(|name| matches!(owner::look(directory, name, false), Owner::Dead(_) | Owner::Gone)))
}

/// Opens the whole of a sealed upload.
pub(super) fn open_sealed(directory: &File, op: Op) -> Result<File> {
    open(directory, DONE, op)?.ok_or_else(|| no_such_upload(op))
}

fn open(directory: &File, name: &str, op: Op) -> Result<Option<File>> {
    match openat(directory, name, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(op, errno)),
    }
}

fn modified(file: &File, op: Op) -> Result<(i64, i64)> {
    let stat = fstat(file).map_err(|errno| failed(op, errno))?;
    Ok((stat.st_mtime as i64, stat.st_mtime_nsec as i64))
}

/// Reads a range of a file, piece by piece.
fn read(file: &File, offset: u64, size: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER))];
    let (mut at, end) = (offset, offset + size);
    while at < end {
        let want = buffer.len().min(usize::try_from(end - at).unwrap_or(BUFFER));
        file.read_exact_at(&mut buffer[..want], at)?;
        each(&buffer[..want]);
        at += want as u64;
    }
    Ok(())
}

/// All parts of an upload in one file that nobody else writes to.
pub(super) struct Whole {
    directory: Arc<File>,
    file: File,
    part_size: u64,
    /// In order; all but the last of the part size.
    parts: Vec<PartReceipt>,
    /// When it was changed last.
    modified: (i64, i64),
}

impl Whole {
    /// Takes the whole of a sealed upload, where it is made of exactly these parts, of which `held` are all that the
    /// upload has; nothing where they have to be put together.
    pub(super) fn of(
        directory: &Arc<File>,
        part_size: u64,
        parts: Vec<PartReceipt>,
        held: &[PartReceipt],
        op: Op,
    ) -> Result<Option<Self>> {
        let Some((last, rest)) = parts.split_last() else { return Ok(None) };
        let even = rest.iter().all(|part| part.size == part_size) && last.size <= part_size;
        // One that is not wanted would be cut off, and might be wanted by the next finish.
        let only = held.len() == parts.len();
        if !even || !only || !parts.iter().all(|part| marked(&part.token).is_some()) {
            return Ok(None);
        }
        let file = open_sealed(directory, op)?;
        let modified = modified(&file, op)?;
        Ok(Some(Self { directory: Arc::clone(directory), file, part_size, parts, modified }))
    }

    fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }

    /// Reads every byte back, unless this process has done so when it wrote them and the digest of the whole was
    /// `computed` from them by the caller; returns a file that is ready to be published, which stays where it is when
    /// that fails.
    pub(super) async fn verified(
        self,
        root: &Arc<Root>,
        upload: &str,
        computed: Option<Digest>,
    ) -> Result<Staged> {
        const OP: Op = Op::FinishUpload;
        let count = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        let size = self.size();
        let seen = root.seen.covers(upload, count, self.modified);
        let (whole, digest) = match computed.filter(|_| seen) {
            Some(digest) => (self, digest),
            None => self.read_back().await?,
        };
        let root = Arc::clone(root);
        blocking(OP, move || {
            // What a part that was given up has left behind the last one.
            whole.file.set_len(size).map_err(|error| failed(OP, error))?;
            let Self { directory, file, .. } = whole;
            let directory = directory.try_clone().map_err(|error| failed(OP, error))?;
            Ok(Staged::of(&root, Temp::kept(directory, DONE, file), digest, size))
        })
        .await
    }

    async fn read_back(self) -> Result<(Self, Digest)> {
        const OP: Op = Op::FinishUpload;
        let (mut whole, mut hasher) = (self, PartedHasher::new());
        for index in 0..whole.parts.len() {
            let (start, size) = (index as u64 * whole.part_size, whole.parts[index].size);
            let mut done = 0;
            while done < size {
                let step = STEP.min(size - done);
                (whole, hasher) = blocking(OP, move || {
                    let read = read(&whole.file, start + done, step, |piece| hasher.update(piece));
                    read.map_err(|error| match error.kind() {
                        io::ErrorKind::UnexpectedEof => Error::new(ErrorKind::Integrity, OP)
                            .with_message(format!("part {} is shorter than it was", index + 1)),
                        _ => failed(OP, error),
                    })?;
                    Ok((whole, hasher))
                })
                .await?;
                done += step;
            }
            let actual = hasher.finish_part();
            if let Some(expected) = whole.parts[index].digest.filter(|&expected| expected != actual) {
                return Err(Mismatch { expected, actual }.into_error(OP));
            }
        }
        Ok((whole, hasher.finish()))
    }
}
