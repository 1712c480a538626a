//! Uploads in parts: a directory each, whose file names say what the parts are.
//!
//! `.storage/uploads/<upload>/ticket.json` and `<number>-<size>-<sha256>`, each staged, synced and renamed, so
//! that a listing of the directory is the truth about the parts. Where the size of the parts is known, their bytes
//! are in one file from the beginning ([`in_place`]). Order of effects of a finish: that file read back, or parts
//! concatenated into a temporary file, every byte hashed again -> published like any upload, with the upload's
//! name among the attributes -> `ticket.json` removed -> parts and directory removed -> that synced. A crash after the
//! publication is recovered by repeating the finish, which knows its own result by the upload's name; a crash
//! after the ticket's removal leaves a directory without one, as does a crash before the ticket is there: the
//! next opening removes it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::LocalStorage;
use super::attributes::{Attributes, unwritable};
use super::error::failed;
use super::in_place::{self, Whole};
use super::owner;
use super::root::Root;
use super::staged::{Intent, Publication, Staged, Temp, blocking};
use crate::checksum::{CompositeDigest, Digest, Hasher, Mismatch};
use crate::error::{Effect, Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::metadata::Version;
use crate::storage::{
    FinishOptions, PartLimits, PartNumber, PartReceipt, Precondition, Receipt, ResumableUpload,
    UploadOptions, UploadTicket, Verified,
};

const TICKET: &str = "ticket.json";

/// No least size, as a disk has none, and with 0 for "not known": an S3 client does not say how large its parts
/// will be. Otherwise the limits of S3, so that what is uploaded here can go there.
const LIMITS: PartLimits = PartLimits::new(0, 5 << 30, 10_000, 5 << 40);

/// Bytes concatenated per hop to a blocking thread, and read at a time.
const STEP: u64 = 16 << 20;
const BUFFER: usize = 1 << 20;

/// As stored, in JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    id: FileId,
    part_size: u64,
    started: SystemTime,
    attributes: Attributes,
    digest: Option<Digest>,
    absent: bool,
    version: Option<Version>,
}

impl Stored {
    fn when(&self) -> Precondition {
        match &self.version {
            Some(version) => Precondition::Version(version.clone()),
            None if self.absent => Precondition::Absent,
            None => Precondition::None,
        }
    }
}

#[async_trait]
impl ResumableUpload for LocalStorage {
    fn limits(&self) -> PartLimits {
        LIMITS
    }

    async fn begin(&self, id: &FileId, part_size: u64, options: UploadOptions) -> Result<UploadTicket> {
        let (root, named) = (Arc::clone(&self.root), id.clone());
        let work = move || begin(&root, named, part_size, &options);
        blocking(Op::BeginUpload, work).await.map_err(|error| self.named(error, id))
    }

    async fn put_part(
        &self,
        ticket: &UploadTicket,
        number: PartNumber,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<PartReceipt> {
        let (root, named) = (Arc::clone(&self.root), ticket.clone());
        let work = move || put_part(&root, &named, number, &bytes, digest);
        blocking(Op::PutPart, work).await.map_err(|error| self.named(error, &ticket.id))
    }

    async fn parts(&self, ticket: &UploadTicket) -> Result<Vec<PartReceipt>> {
        let (root, named) = (Arc::clone(&self.root), ticket.clone());
        let work = move || {
            let (directory, _) = open(&root, &named, Op::ListParts)?;
            parts(&directory, Op::ListParts)
        };
        blocking(Op::ListParts, work).await.map_err(|error| self.named(error, &ticket.id))
    }

    async fn finish(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        self.finish_parts(ticket, parts, finish).await.map_err(|error| self.named(error, &ticket.id))
    }

    async fn abandon(&self, ticket: &UploadTicket) -> Result<()> {
        let (root, upload) = (Arc::clone(&self.root), ticket.upload.clone());
        let work = move || {
            root.private(Op::AbandonUpload)?;
            discard(&root, &upload, Op::AbandonUpload)
        };
        blocking(Op::AbandonUpload, work).await.map_err(|error| self.named(error, &ticket.id))
    }

    async fn stale(&self, older_than: Duration) -> Result<Vec<UploadTicket>> {
        let root = Arc::clone(&self.root);
        let work = move || stale(&root, older_than);
        blocking(Op::ListUploads, work).await.map_err(|error| error.with_storage(&self.name))
    }
}

impl LocalStorage {
    async fn finish_parts(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
    ) -> Result<Receipt> {
        const OP: Op = Op::FinishUpload;
        check_numbers(parts)?;
        let intent = Intent::new();
        let (root, asked) = (Arc::clone(&self.root), ticket.clone());
        let wanted = parts.to_vec();
        let opened = blocking(OP, move || match open_parts(&root, &asked, &wanted) {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.kind() == ErrorKind::NoSuchUpload => Ok(None),
            Err(error) => Err(error),
        })
        .await?;
        let Some((stored, source)) = opened else {
            let receipt =
                self.repeated(ticket, parts, finish, false).await?.ok_or_else(|| no_such_upload(OP))?;
            self.discard_finished(ticket).await;
            return Ok(receipt);
        };
        let (staged, digests, verified) = match source {
            Source::Whole(whole, digests) => {
                let computed = finish.digest.filter(|_| finish.computed);
                (whole.verified(&self.root, &ticket.upload, computed).await?, digests, Verified::ReadBack)
            }
            Source::Parts(files) => {
                let (staged, digests) = put_together(&self.root, parts, files).await?;
                (staged, digests, Verified::No)
            }
        };
        let sizes: Vec<u64> = parts.iter().map(|part| part.size).collect();
        let when = if finish.when == Precondition::None { stored.when() } else { finish.when.clone() };
        let publication = Publication {
            id: stored.id.clone(),
            op: OP,
            attributes: Attributes {
                composite: composite(&sizes, &digests, stored.part_size),
                upload: Some(ticket.upload.clone()),
                ..stored.attributes
            },
            when,
            expected: stored.digest.into_iter().chain(finish.digest).collect(),
            permit: intent.permit(),
        };
        let published = blocking(OP, move || staged.publish(publication)).await;
        let receipt = match published {
            Ok(mut receipt) => {
                receipt.verified = verified;
                receipt
            }
            // Its own result, of an earlier call that did not come to remove the parts.
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::VersionMismatch) => {
                self.repeated(ticket, parts, finish, true).await?.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        self.discard_finished(ticket).await;
        Ok(receipt)
    }

    /// The file is there; what cannot be removed is found by `stale` and by the janitor.
    async fn discard_finished(&self, ticket: &UploadTicket) {
        const OP: Op = Op::FinishUpload;
        let (root, upload) = (Arc::clone(&self.root), ticket.upload.clone());
        if let Err(error) = blocking(OP, move || discard(&root, &upload, OP)).await {
            tracing::warn!(upload = ticket.upload, %error, "the parts of a finished upload remain");
        }
    }

    /// Looks whether what is stored is the result of this very upload (`strictly`), or equal to it.
    async fn repeated(
        &self,
        ticket: &UploadTicket,
        parts: &[PartReceipt],
        finish: FinishOptions,
        strictly: bool,
    ) -> Result<Option<Receipt>> {
        let (root, ticket) = (Arc::clone(&self.root), ticket.clone());
        let sizes: Vec<u64> = parts.iter().map(|part| part.size).collect();
        let digests: Option<Vec<Digest>> = parts.iter().map(|part| part.digest).collect();
        blocking(Op::FinishUpload, move || {
            let opened = match root.open_file(&ticket.id, Op::FinishUpload) {
                Ok(opened) => opened,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotAFile) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let Some(attributes) = opened.attributes.as_ref().filter(|known| known.describe(&opened.stat))
            else {
                return Ok(None);
            };
            let own = attributes.upload.as_deref() == Some(&*ticket.upload);
            let composite = digests.and_then(|digests| composite(&sizes, &digests, ticket.part_size));
            let equal = own
                || (!strictly && composite.is_some() && attributes.composite == composite)
                || (!strictly && finish.digest.is_some() && attributes.digest == finish.digest);
            let contradicted = finish.digest.is_some_and(|digest| attributes.digest != Some(digest));
            if !equal || contradicted {
                return Ok(None);
            }
            // The earlier call may have ended, with its process, before it did so.
            root.sync_all_parents(&ticket.id).map_err(|error| failed(Op::FinishUpload, error))?;
            Ok(Some(Receipt::new(opened.metadata(&ticket.id), attributes.digest, Verified::No)))
        })
        .await
    }
}

fn begin(root: &Root, id: FileId, part_size: u64, options: &UploadOptions) -> Result<UploadTicket> {
    const OP: Op = Op::BeginUpload;
    let uploads = &root.private(OP)?.uploads;
    root.check_id(&id, OP)?;
    root.check_segments(&id, OP)?;
    if part_size > LIMITS.max_part_size {
        return Err(Error::new(ErrorKind::InvalidInput, OP)
            .with_message(format!("parts of {part_size} bytes, the limit is {}", LIMITS.max_part_size)));
    }
    let attributes = Attributes::new(&id, options, OP)?;
    let started = SystemTime::now();
    let stored = Stored {
        id: id.clone(),
        part_size,
        started,
        attributes,
        digest: options.digest,
        absent: options.when == Precondition::Absent,
        version: match &options.when {
            Precondition::Version(version) => Some(version.clone()),
            _ => None,
        },
    };
    let json = serde_json::to_vec(&stored).map_err(|error| unwritable(OP, error))?;
    let (upload, directory) = make_directory(root, uploads, OP)?;
    let whole = if part_size > 0 { in_place::begin(&directory, OP) } else { Ok(()) };
    let written = whole
        .and_then(|()| Staging::write(root, &json, OP))
        .and_then(|staging| staging.put(root, &directory, TICKET, OP))
        .and_then(|()| root.sync(uploads).map_err(|error| failed(OP, error)));
    if let Err(error) = written {
        // The caller gets no ticket: nobody would end what was begun.
        return match remove(root, &directory, &upload, OP) {
            Ok(()) => Err(error.with_effect(Effect::None)),
            Err(_) => Err(error.with_effect(Effect::Unknown)),
        };
    }
    Ok(UploadTicket::new(id, upload, part_size, started))
}

/// Makes an upload's directory, which belongs to this process until its ticket is in it.
fn make_directory(root: &Root, uploads: &File, op: Op) -> Result<(String, File)> {
    loop {
        let upload = uuid::Uuid::new_v4().simple().to_string();
        mkdirat(uploads, &upload, Mode::from_raw_mode(0o700)).map_err(|errno| failed(op, errno))?;
        let claimed = open_directory(root, &upload, op).and_then(|directory| {
            let ours = owner::claim(uploads, &upload, &directory).map_err(|errno| failed(op, errno))?;
            Ok(ours.then_some(directory))
        });
        match claimed {
            Ok(Some(directory)) => return Ok((upload, directory)),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::NoSuchUpload => {}
            Err(error) => {
                // One that cannot be removed is left to the janitor.
                let _ = unlinkat(uploads, &upload, AtFlags::REMOVEDIR);
                return Err(error);
            }
        }
    }
}

fn put_part(
    root: &Root,
    ticket: &UploadTicket,
    number: PartNumber,
    bytes: &[u8],
    digest: Digest,
) -> Result<PartReceipt> {
    const OP: Op = Op::PutPart;
    root.private(OP)?;
    let size = bytes.len() as u64;
    if number.get() > LIMITS.max_parts || size > LIMITS.max_part_size {
        return Err(Error::new(ErrorKind::InvalidInput, OP)
            .with_message(format!("part {number} of {size} bytes is outside the limits")));
    }
    let (directory, stored) = open(root, ticket, OP)?;
    if let Some(receipt) = in_place::put(root, ticket, &directory, stored.part_size, number, bytes, digest)? {
        return Ok(receipt);
    }
    let actual = Digest::of(bytes);
    if actual != digest {
        return Err(Mismatch { expected: digest, actual }.into_error(OP));
    }
    let receipt = PartReceipt::new(number, size, Some(digest), part_name(number, size, digest));
    // Before the old part is touched: a disk without room for the new one keeps it.
    let staging = Staging::write(root, bytes, OP)?;
    put_in_place_of_others(root, ticket, &directory, &receipt, |directory, name| {
        staging.rename(directory, name)
    })?;
    Ok(receipt)
}

/// Gives a part its name by `rename`, and removes those of its number that were there.
pub(super) fn put_in_place_of_others(
    root: &Root,
    ticket: &UploadTicket,
    directory: &File,
    receipt: &PartReceipt,
    rename: impl FnOnce(&File, &str) -> Result<(), Errno>,
) -> Result<()> {
    const OP: Op = Op::PutPart;
    let _one_at_a_time = root.lock(&ticket.id);
    // First: of two parts with one number nobody could tell which is meant. A crash in between leaves none.
    let mut effect = Effect::None;
    let others = parts(directory, OP)?;
    for part in others.iter().filter(|part| part.number == receipt.number && *part != receipt) {
        unlinkat(directory, &part.token, AtFlags::empty())
            .map_err(|errno| failed(OP, errno).with_effect(effect))?;
        effect = Effect::Unknown;
    }
    let put = rename(directory, &receipt.token)
        .map_err(|errno| failed(OP, errno))
        .and_then(|()| root.sync(directory).map_err(|error| failed(OP, error).with_effect(Effect::Applied)));
    put.map_err(|error| match error.kind() {
        ErrorKind::NotFound => no_such_upload(OP),
        _ if error.effect() == Effect::None => error.with_effect(effect),
        _ => error,
    })
}

/// A whole file that is to go into an upload's directory.
struct Staging(Temp);

impl Staging {
    fn write(root: &Root, bytes: &[u8], op: Op) -> Result<Self> {
        let mut temp = Temp::create(&root.private(op)?.tmp, op)?;
        temp.file.write_all(bytes).and_then(|()| root.sync(&temp.file)).map_err(|error| failed(op, error))?;
        Ok(Self(temp))
    }

    fn rename(mut self, directory: &File, name: &str) -> Result<(), Errno> {
        self.0.rename(directory, name, false)
    }

    fn put(self, root: &Root, directory: &File, name: &str, op: Op) -> Result<()> {
        self.rename(directory, name).map_err(|errno| failed(op, errno))?;
        root.sync(directory).map_err(|error| failed(op, error).with_effect(Effect::Applied))
    }
}

pub(super) fn no_such_upload(op: Op) -> Error {
    Error::new(ErrorKind::NoSuchUpload, op)
}

/// Opens an upload's directory. The name came from outside, and is a UUID or nothing.
fn open_directory(root: &Root, upload: &str, op: Op) -> Result<File> {
    if uuid::Uuid::try_parse(upload).is_ok_and(|uuid| uuid.simple().to_string() == upload) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&root.private(op)?.uploads, upload, flags, Mode::empty()) {
            Ok(directory) => return Ok(directory.into()),
            Err(Errno::NOENT) => root.check(op)?,
            Err(errno) => return Err(failed(op, errno)),
        }
    }
    Err(no_such_upload(op))
}

fn open(root: &Root, ticket: &UploadTicket, op: Op) -> Result<(File, Stored)> {
    let directory = open_directory(root, &ticket.upload, op)?;
    match read_ticket(&directory, op)? {
        Some(stored) if stored.id == ticket.id => Ok((directory, stored)),
        _ => Err(no_such_upload(op)),
    }
}

fn open_in(directory: &File, name: &str) -> Result<File, Errno> {
    openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
}

/// Reads a ticket; nothing where it was removed, or never written.
fn read_ticket(directory: &File, op: Op) -> Result<Option<Stored>> {
    let mut json = Vec::new();
    match open_in(directory, TICKET) {
        Ok(mut file) => file.read_to_end(&mut json).map_err(|error| failed(op, error))?,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(op, errno)),
    };
    serde_json::from_slice(&json).map(Some).map_err(|error| {
        Error::new(ErrorKind::Other, op).with_message("the stored ticket is not readable").with_source(error)
    })
}

pub(super) fn part_name(number: PartNumber, size: u64, digest: Digest) -> String {
    format!("{number:05}-{size}-{digest}")
}

pub(super) fn parse_part(name: &str) -> Option<PartReceipt> {
    let (number, rest) = in_place::marked(name).unwrap_or(name).split_once('-')?;
    let (size, digest) = rest.split_once('-')?;
    let digest = digest.parse().ok()?;
    Some(PartReceipt::new(number.parse().ok()?, size.parse().ok()?, Some(digest), name))
}

pub(super) fn names(directory: &File, op: Op) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(|errno| failed(op, errno))? {
        let entry = entry.map_err(|errno| failed(op, errno))?;
        // All names here are the storage's own, and ASCII.
        if let Some(name) = entry.file_name().to_str().ok().filter(|&name| name != "." && name != "..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn parts(directory: &File, op: Op) -> Result<Vec<PartReceipt>> {
    let mut parts: Vec<_> = names(directory, op)?.iter().filter_map(|name| parse_part(name)).collect();
    parts.sort_unstable_by(|one, other| (one.number, &one.token).cmp(&(other.number, &other.token)));
    Ok(parts)
}

fn check_numbers(parts: &[PartReceipt]) -> Result<()> {
    let wrong = |message: String| Error::new(ErrorKind::InvalidInput, Op::FinishUpload).with_message(message);
    if parts.is_empty() {
        return Err(wrong("an upload has at least one part".to_owned()));
    }
    match parts.iter().zip(1u32..).find(|(part, number)| part.number.get() != *number) {
        Some((part, number)) => Err(wrong(format!("part {} where part {number} is due", part.number))),
        None => Ok(()),
    }
}

/// Where a finish takes the bytes from.
enum Source {
    /// One file that has them all, and the digests of its parts.
    Whole(Whole, Vec<Digest>),
    /// To be put together.
    Parts(Vec<PartFile>),
}

/// Opens what a finish needs. Parts that are gone are those of an upload that is gone.
fn open_parts(root: &Root, ticket: &UploadTicket, wanted: &[PartReceipt]) -> Result<(Stored, Source)> {
    const OP: Op = Op::FinishUpload;
    root.private(OP)?;
    let (directory, stored) = open(root, ticket, OP)?;
    let directory = Arc::new(directory);
    let held = parts(&directory, OP)?;
    let found = wanted.iter().map(|part| {
        let known = |held: &&PartReceipt| {
            held.number == part.number
                && held.size == part.size
                && part.digest.map_or(held.token == part.token, |digest| held.digest == Some(digest))
        };
        match held.iter().find(known) {
            Some(held) => Ok(held.clone()),
            // Removed by the finish that is being repeated, or by an abandon.
            None if read_ticket(&directory, OP)?.is_none() => Err(no_such_upload(OP)),
            None => Err(Error::new(ErrorKind::InvalidInput, OP).with_message(format!(
                "part {} of {} bytes is not there as it was put",
                part.number, part.size
            ))),
        }
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    let alone = stored.part_size > 0 && in_place::seal(&directory, OP)?;
    if alone && let Some(whole) = Whole::of(&directory, stored.part_size, found.clone(), &held, OP)? {
        let digests = found.iter().filter_map(|part| part.digest).collect();
        return Ok((stored, Source::Whole(whole, digests)));
    }
    let file = |part: PartReceipt| PartFile {
        directory: Arc::clone(&directory),
        offset: in_place::marked(&part.token).map(|_| u64::from(part.number.get() - 1) * stored.part_size),
        name: part.token,
        size: part.size,
    };
    let files = found.into_iter().map(file).collect();
    Ok((stored, Source::Parts(files)))
}

/// A part, opened when its turn comes: thousands of descriptors would be too many.
struct PartFile {
    directory: Arc<File>,
    name: String,
    /// Where it begins in the whole; nothing for one with a file of its own.
    offset: Option<u64>,
    size: u64,
}

impl PartFile {
    fn open(&self, op: Op) -> Result<File> {
        let Some(offset) = self.offset else {
            return open_in(&self.directory, &self.name).map_err(|errno| match errno {
                Errno::NOENT => no_such_upload(op),
                _ => failed(op, errno),
            });
        };
        let mut whole = in_place::open_sealed(&self.directory, op)?;
        whole.seek(SeekFrom::Start(offset)).map_err(|error| failed(op, error))?;
        Ok(whole)
    }
}

async fn put_together(
    root: &Arc<Root>,
    parts: &[PartReceipt],
    files: Vec<PartFile>,
) -> Result<(Staged, Vec<Digest>)> {
    const OP: Op = Op::FinishUpload;
    let root = Arc::clone(root);
    let mut staged = blocking(OP, move || Staged::create(&root, OP)).await?;
    let mut digests = Vec::with_capacity(files.len());
    for (part, file) in parts.iter().zip(files) {
        let (next, digest) = concatenate(staged, file, part.number).await?;
        if let Some(expected) = part.digest.filter(|&expected| expected != digest) {
            return Err(Mismatch { expected, actual: digest }.into_error(OP));
        }
        staged = next;
        digests.push(digest);
    }
    Ok((staged, digests))
}

/// Adds a part to the whole; the digest is that of the bytes that were written.
async fn concatenate(mut staged: Staged, part: PartFile, number: PartNumber) -> Result<(Staged, Digest)> {
    const OP: Op = Op::FinishUpload;
    let mut left = part.size;
    let mut file = blocking(OP, move || part.open(OP)).await?;
    let mut hasher = Hasher::new();
    while left > 0 {
        (staged, file, hasher, left) = blocking(OP, move || {
            let mut buffer = vec![0; BUFFER.min(usize::try_from(left).unwrap_or(BUFFER))];
            let stop = left.saturating_sub(STEP);
            while left > stop {
                let want = buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
                match file.read(&mut buffer[..want]) {
                    Ok(0) => {
                        return Err(Error::new(ErrorKind::Integrity, OP)
                            .with_message(format!("part {number} is {left} bytes shorter than it was")));
                    }
                    Ok(count) => {
                        hasher.update(&buffer[..count]);
                        staged.write(&buffer[..count], OP)?;
                        left -= count as u64;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(OP, error)),
                }
            }
            Ok((staged, file, hasher, left))
        })
        .await?;
    }
    Ok((staged, hasher.finish()))
}

/// Returns the composite, where the parts are what a reader could cut the file into again: all but the last
/// of one size, the last not larger.
fn composite(sizes: &[u64], digests: &[Digest], announced: u64) -> Option<CompositeDigest> {
    let (&last, rest) = sizes.split_last()?;
    let part_size = rest.first().copied().unwrap_or_else(|| announced.max(last).max(1));
    let even = rest.iter().all(|&size| size == part_size) && last <= part_size;
    let tail = last > 0 || rest.is_empty();
    (even && tail).then(|| CompositeDigest::of_parts(part_size, digests))
}

/// Removes an upload for good: the ticket first, so that it is gone at once.
pub(super) fn discard(root: &Root, upload: &str, op: Op) -> Result<()> {
    match open_directory(root, upload, op) {
        Ok(directory) => remove(root, &directory, upload, op)?,
        // Perhaps by a call that did not come to its sync.
        Err(error) if error.kind() == ErrorKind::NoSuchUpload => {}
        Err(error) => return Err(error),
    }
    root.seen.forget(upload);
    // Else a power cut would bring an upload back that nobody knows any more.
    root.sync(&root.private(op)?.uploads).map_err(|error| failed(op, error).with_effect(Effect::Applied))
}

fn remove(root: &Root, directory: &File, upload: &str, op: Op) -> Result<()> {
    let remove = |directory: &File, name: &str, flags| match unlinkat(directory, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(op, errno)),
    };
    remove(directory, TICKET, AtFlags::empty())?;
    let rest = || {
        for name in names(directory, op)? {
            remove(directory, &name, AtFlags::empty())?;
        }
        remove(&root.private(op)?.uploads, upload, AtFlags::REMOVEDIR)
    };
    rest().map_err(|error| error.with_effect(Effect::Applied))
}

fn stale(root: &Root, older_than: Duration) -> Result<Vec<UploadTicket>> {
    const OP: Op = Op::ListUploads;
    let Some(before) = SystemTime::now().checked_sub(older_than) else { return Ok(Vec::new()) };
    let mut tickets = Vec::new();
    for (upload, stored) in all(root, OP)? {
        if let Some(stored) = stored.filter(|stored| stored.started <= before) {
            tickets.push(UploadTicket::new(stored.id, upload, stored.part_size, stored.started));
        }
    }
    tickets.sort_by(|one, other| (one.started, &one.upload).cmp(&(other.started, &other.upload)));
    Ok(tickets)
}

fn all(root: &Root, op: Op) -> Result<Vec<(String, Option<Stored>)>> {
    root.check(op)?;
    let mut all = Vec::new();
    for upload in names(&root.private(op)?.uploads, op)? {
        match open_directory(root, &upload, op).and_then(|directory| read_ticket(&directory, op)) {
            Ok(stored) => all.push((upload, stored)),
            Err(error) if error.kind() == ErrorKind::NoSuchUpload => {}
            Err(error) => return Err(error.with_subject(upload)),
        }
    }
    Ok(all)
}

/// Tells whether this is the directory of an upload that was never fully begun, or not fully removed.
pub(super) fn without_ticket(root: &Root, upload: &str, op: Op) -> Result<bool> {
    match open_directory(root, upload, op).and_then(|directory| read_ticket(&directory, op)) {
        Ok(stored) => Ok(stored.is_none()),
        Err(error) if error.kind() == ErrorKind::NoSuchUpload => Ok(false),
        Err(error) => Err(error.with_subject(upload)),
    }
}
