//! What may be there, as far as the lines of a child tell; and the comparison with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage_core::backend::local::LocalStorage;
use storage_core::checksum::Digest;
use storage_core::error::ErrorKind;
use storage_core::metadata::{FileMetadata, guess_content_type};
use storage_core::storage::{
    DownloadOptions, FileStorage, FinishOptions, PartReceipt, ResumableUpload, UploadOptions, UploadTicket,
};

use super::super::{id, ids, own};
use super::lines::{Change, Happened, Line, Story};

/// A version of a file: bytes and attributes are made from numbers, so a few numbers tell all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) content: u64,
    pub(super) size: usize,
    pub(super) attributes: u64,
}

/// A part: bytes of a content from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) content: u64,
    pub(super) offset: usize,
    pub(super) size: usize,
}

/// Bytes of the content with this number; a shorter one is the beginning of a longer one.
pub(super) fn content(number: u64, size: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

impl Part {
    pub(super) fn bytes(&self) -> Bytes {
        content(self.content, self.offset + self.size).slice(self.offset..)
    }
}

/// Attributes with this number: now and then none, or more than an extended attribute of ext4 or of any file
/// system can hold.
pub(super) fn attributes(number: u64) -> UploadOptions {
    if number.is_multiple_of(8) {
        return UploadOptions::default();
    }
    let options = UploadOptions::default()
        .with_content_type(format!("x-number/{number}"))
        .with_file_name(format!("name of {number}"))
        .with_created(UNIX_EPOCH + Duration::new(1_000_000_000 + number, 1_000 + number as u32 % 1_000))
        .with_tag("number", number.to_string());
    match number % 8 {
        1 => options.with_tag("long", "x".repeat(3_000)),
        2 => options.with_tag("longer", "x".repeat(20_000)),
        3 => options.with_tag("longest", "x".repeat(70_000)),
        _ => options,
    }
}

impl Stored {
    pub(super) fn bytes(&self) -> Bytes {
        content(self.content, self.size)
    }

    fn has_bytes(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.size && *bytes == *self.bytes()
    }

    fn has_attributes(&self, metadata: &FileMetadata) -> bool {
        let options = attributes(self.attributes);
        let guess = || {
            let name = options.file_name.as_deref().unwrap_or_else(|| metadata.id.file_name());
            guess_content_type(name)
        };
        metadata.content_type == Some(options.content_type.clone().unwrap_or_else(guess))
            && metadata.file_name == options.file_name
            && metadata.created == options.created
            && metadata.tags == options.tags
            && metadata.digest == Some(Digest::of(&self.bytes()))
            && metadata.size == self.size as u64
    }
}

/// What a comparison found, summed up over trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) acknowledged: usize,
    pub(super) files: usize,
    pub(super) lost: usize,
    pub(super) torn: usize,
    pub(super) mixed: usize,
    pub(super) resurrected: usize,
    pub(super) lost_parts: usize,
    pub(super) debris: usize,
    /// What the janitor removed at opening or in a sweep: how near the ends were to the work.
    pub(super) swept: u64,
}

impl Verdict {
    pub(super) fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.files += other.files;
        self.lost += other.lost;
        self.torn += other.torn;
        self.mixed += other.mixed;
        self.resurrected += other.resurrected;
        self.lost_parts += other.lost_parts;
        self.debris += other.debris;
        self.swept += other.swept;
    }

    pub(super) fn faults(&self) -> usize {
        self.lost + self.torn + self.mixed + self.resurrected + self.lost_parts + self.debris
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, files, lost, torn, mixed, resurrected, lost_parts, debris, swept } = self;
        write!(
            f,
            "{acknowledged} operations acknowledged, {files} files compared; lost {lost}, torn {torn}, \
             attributes mixed {mixed}, deleted and back {resurrected}, parts lost {lost_parts}, debris {debris} \
             (swept {swept})"
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Upload {
    id: String,
    ticket: Option<UploadTicket>,
    /// Each with what may be there under its number.
    parts: BTreeMap<u32, Vec<Option<Part>>>,
    attributes: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// Its begin was not answered.
    Beginning,
    Open,
    /// Its end was not answered.
    Ending,
    Over,
}

/// What may be there: of each file the last certain version, and those of operations without an answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Model {
    files: BTreeMap<String, Vec<Option<Stored>>>,
    uploads: BTreeMap<u64, Upload>,
}

impl Model {
    /// What is there for certain: a comparison has made it so, or no operation is without an answer.
    pub(super) fn stored(&self) -> BTreeMap<String, Stored> {
        self.files.iter().filter_map(|(id, states)| Some((id.clone(), states[0]?))).collect()
    }

    /// Adds a file that is there.
    pub(super) fn add_file(&mut self, id: &str, stored: Stored) {
        self.files.insert(id.to_owned(), vec![Some(stored)]);
    }

    /// Adds an open upload with its first part.
    pub(super) fn add_upload(&mut self, number: u64, id: &str, ticket: UploadTicket, part: Part) {
        let upload = Upload {
            id: id.to_owned(),
            ticket: Some(ticket),
            parts: BTreeMap::from([(1, vec![Some(part)])]),
            attributes: number,
            state: State::Open,
        };
        self.uploads.insert(number, upload);
    }

    /// Takes what a child has said.
    pub(super) fn take(&mut self, story: &Story) {
        let mut pending = BTreeMap::new();
        for (at, line) in story.lines.iter().enumerate() {
            let certain = at < story.certain;
            match line {
                Line::Ready => {}
                Line::Start { operation, change } => {
                    self.start(change);
                    pending.insert(*operation, change.clone());
                }
                Line::Done { operation, ticket } => {
                    let change = &pending[operation];
                    if let (Some(ticket), Change::Begin { upload, .. }) = (ticket, change) {
                        self.uploads.get_mut(upload).unwrap().ticket = Some(ticket.clone());
                    }
                    if certain {
                        self.done(change);
                    }
                }
                Line::Failed { operation, error } if certain => match error.effect {
                    Happened::No => self.undone(&pending[operation]),
                    Happened::Yes => self.done(&pending[operation]),
                    Happened::Unknown => {}
                },
                Line::Failed { .. } => {}
            }
        }
    }

    fn file(&mut self, id: &str) -> &mut Vec<Option<Stored>> {
        self.files.entry(id.to_owned()).or_insert_with(|| vec![None])
    }

    fn start(&mut self, change: &Change) {
        match change {
            Change::File { id, after } => self.file(id).push(*after),
            Change::Begin { upload, id } => {
                let upload_state = Upload {
                    id: id.clone(),
                    ticket: None,
                    parts: BTreeMap::new(),
                    attributes: *upload,
                    state: State::Beginning,
                };
                self.uploads.insert(*upload, upload_state);
            }
            Change::Put { upload, number, part } => {
                let states = self.part(*upload, *number);
                // The old part goes first: of two with one number nobody could tell which is meant.
                if *states != [Some(*part)] {
                    states.extend([None, Some(*part)]);
                }
            }
            Change::Finish { upload, id, after } => {
                self.file(id).push(Some(*after));
                self.uploads.get_mut(upload).unwrap().state = State::Ending;
            }
            Change::Abandon { upload } => self.uploads.get_mut(upload).unwrap().state = State::Ending,
            Change::Nothing => {}
        }
    }

    fn part(&mut self, upload: u64, number: u32) -> &mut Vec<Option<Part>> {
        self.uploads.get_mut(&upload).unwrap().parts.entry(number).or_insert_with(|| vec![None])
    }

    fn done(&mut self, change: &Change) {
        match change {
            Change::File { id, after } => *self.file(id) = vec![*after],
            Change::Begin { upload, .. } => self.uploads.get_mut(upload).unwrap().state = State::Open,
            Change::Put { upload, number, part } => *self.part(*upload, *number) = vec![Some(*part)],
            Change::Finish { upload, id, after } => {
                *self.file(id) = vec![Some(*after)];
                self.uploads.get_mut(upload).unwrap().state = State::Over;
            }
            Change::Abandon { upload } => self.uploads.get_mut(upload).unwrap().state = State::Over,
            Change::Nothing => {}
        }
    }

    fn undone(&mut self, change: &Change) {
        match change {
            Change::File { id, .. } => drop(self.file(id).pop()),
            Change::Begin { upload, .. } => drop(self.uploads.remove(upload)),
            Change::Put { upload, number, .. } => {
                let states = self.part(*upload, *number);
                states.truncate(1);
            }
            Change::Finish { upload, id, .. } => {
                self.file(id).pop();
                self.uploads.get_mut(upload).unwrap().state = State::Open;
            }
            Change::Abandon { upload } => self.uploads.get_mut(upload).unwrap().state = State::Open,
            Change::Nothing => {}
        }
    }

    /// Opens the storage again, compares everything, ends the uploads that are open, and takes what is there for
    /// certain. Each fault is printed.
    pub(super) async fn compare(&mut self, root: &Path, open: &LocalStorage, what: &str) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.debris += fault_each(what, "left in tmp", own(root, "tmp"));
        let listed: BTreeSet<String> = ids(open).await.into_iter().collect();
        for unknown in listed.iter().filter(|id| !self.files.contains_key(*id)) {
            fault(what, format!("{unknown} was never written"));
            verdict.resurrected += 1;
        }
        for (id, states) in &mut self.files {
            match compare_file(open, id, states, listed.contains(id), what, &mut verdict).await {
                Some(found) => *states = vec![found],
                None => states.truncate(1),
            }
        }
        self.compare_uploads(open, what, &mut verdict).await;
        self.files.retain(|_, states| states[0].is_some());
        verdict.debris += fault_each(what, "left in uploads", own(root, "uploads"));
        let swept = open.sweep(Duration::ZERO).await.unwrap();
        verdict.swept += swept.sidecars;
        let (sidecars, files) = (own(root, "attributes").len(), self.files.len());
        if sidecars > files {
            fault(what, format!("{sidecars} sidecars of {files} files"));
            verdict.debris += sidecars - files;
        }
        verdict
    }

    async fn compare_uploads(&mut self, open: &LocalStorage, what: &str, verdict: &mut Verdict) {
        let mut found: BTreeMap<String, UploadTicket> = BTreeMap::new();
        for ticket in open.stale(Duration::ZERO).await.unwrap() {
            found.insert(ticket.upload.clone(), ticket);
        }
        for (number, upload) in std::mem::take(&mut self.uploads) {
            let Some(ticket) = upload.ticket.as_ref() else {
                // Known by its id alone, which is its own.
                if let Some(name) =
                    found.iter().find(|(_, ticket)| ticket.id.as_str() == upload.id).map(|it| it.0.clone())
                {
                    open.abandon(&found.remove(&name).unwrap()).await.unwrap();
                }
                continue;
            };
            let there = found.remove(&ticket.upload).is_some();
            match (upload.state, there) {
                (State::Open, false) => {
                    fault(what, format!("upload {number} is lost"));
                    verdict.lost_parts += 1;
                }
                (State::Over, true) => {
                    fault(what, format!("upload {number} is over and there again"));
                    verdict.debris += 1;
                }
                (_, false) => continue,
                (State::Beginning | State::Open | State::Ending, true) => {}
            }
            if there {
                let held = open.parts(ticket).await.unwrap();
                // An end that was not answered may have begun to remove them.
                if upload.state != State::Ending {
                    compare_parts(&upload.parts, &held, &format!("{what}: upload {number}"), verdict);
                }
                self.end(open, &upload, ticket, &held).await;
            }
        }
        for ticket in found.values() {
            fault(what, format!("an upload of {} that nobody began", ticket.id));
            verdict.debris += 1;
            open.abandon(ticket).await.unwrap();
        }
    }

    /// Finishes an upload whose parts are all of one content, as far as they go; abandons another one.
    async fn end(
        &mut self,
        open: &LocalStorage,
        upload: &Upload,
        ticket: &UploadTicket,
        held: &[PartReceipt],
    ) {
        let size = held.iter().map(|part| part.size as usize).sum();
        let first = upload.parts.get(&1).and_then(|states| states.iter().flatten().next());
        let whole =
            held.iter().zip(1..).all(|(part, number)| part.number.get() == number) && !held.is_empty();
        let Some(content) = first.filter(|_| whole).map(|part| part.content) else {
            return open.abandon(ticket).await.unwrap();
        };
        let after = Stored { content, size, attributes: upload.attributes };
        let finish = FinishOptions::default().with_digest(Digest::of(&after.bytes()));
        match open.finish(ticket, held, finish).await {
            Ok(_) => {
                *self.file(&upload.id) = vec![Some(after)];
                let metadata = open.metadata(&id(&upload.id)).await.unwrap();
                assert!(after.has_attributes(&metadata), "{metadata:?}");
            }
            // Of two contents, while one was replaced by the other.
            Err(error) if error.kind() == ErrorKind::Integrity => open.abandon(ticket).await.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn compare_parts(
    parts: &BTreeMap<u32, Vec<Option<Part>>>,
    held: &[PartReceipt],
    what: &str,
    verdict: &mut Verdict,
) {
    for (number, states) in parts {
        let found: Vec<_> = held.iter().filter(|part| part.number.get() == *number).collect();
        let matches = |state: &Option<Part>| match (state, found.as_slice()) {
            (None, []) => true,
            (Some(part), [found]) => {
                found.digest == Some(Digest::of(&part.bytes())) && found.size == part.size as u64
            }
            _ => false,
        };
        if !states.iter().any(matches) {
            fault(what, format!("part {number} is {found:?}, not one of {states:?}"));
            verdict.lost_parts += 1;
        }
    }
}

/// Compares one file with what may be there; returns what is.
async fn compare_file(
    open: &LocalStorage,
    name: &str,
    states: &[Option<Stored>],
    listed: bool,
    what: &str,
    verdict: &mut Verdict,
) -> Option<Option<Stored>> {
    verdict.files += 1;
    let download = match open.download(&id(name), DownloadOptions::default()).await {
        Ok(download) => download,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if states.contains(&None) {
                return Some(None);
            }
            fault(what, format!("{name} is lost: not one of {states:?}"));
            verdict.lost += 1;
            return None;
        }
        Err(error) => panic!("{what}: {name}: {error}"),
    };
    assert!(listed, "{what}: {name} is there and not in the listing");
    let metadata = download.metadata.clone();
    assert_eq!(metadata, open.metadata(&id(name)).await.unwrap());
    let bytes = match download.bytes().await {
        Ok(bytes) => bytes,
        Err(error) => {
            fault(what, format!("{name} is torn: {error}"));
            verdict.torn += 1;
            return None;
        }
    };
    let known = || states.iter().flatten();
    if let Some(found) = known().find(|state| state.has_bytes(&bytes) && state.has_attributes(&metadata)) {
        return Some(Some(*found));
    }
    if known().any(|state| state.has_bytes(&bytes)) {
        fault(what, format!("{name} has other attributes than in {states:?}: {metadata:?}"));
        verdict.mixed += 1;
    } else if states[0].is_none() {
        fault(what, format!("{name} is back, with {} bytes; it was {states:?}", bytes.len()));
        verdict.resurrected += 1;
    } else {
        fault(what, format!("{name} is lost or torn: {} bytes are none of {states:?}", bytes.len()));
        verdict.lost += 1;
    }
    None
}

fn fault_each(what: &str, how: &str, names: Vec<String>) -> usize {
    for name in &names {
        fault(what, format!("{how}: {name}"));
    }
    names.len()
}

#[expect(clippy::print_stderr, reason = "one of possibly many, each of which is to be seen")]
fn fault(what: &str, fault: String) {
    eprintln!("{what}: {fault}");
}
