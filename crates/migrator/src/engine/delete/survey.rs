//! The first pass: both sides to their ends, in order and side by side, and what may be removed into the ledger.

use futures::StreamExt;
use futures::stream::{self, BoxStream, Fuse};
use storage_core::error::Error;
use storage_core::id::{FileId, Prefix};
use storage_core::metadata::FileMetadata;
use storage_core::storage::ListOptions;

use crate::engine::ahead::Ahead;
use crate::engine::recorder::{Recorder, line};
use crate::engine::sync::Removal;
use crate::engine::{EngineError, Job};
use crate::item::State;
use crate::ledger::{Candidate, Change, FileRecord, Outcome, OutcomeRecord, RunId};
use crate::preserve::MARKER;
use crate::progress::Event;
use crate::quarantine;
use crate::safeguard::View;
use crate::scan::{self, Entry};

use super::BATCH;

/// The first pass.
pub(in crate::engine) struct Survey<'a> {
    pub(in crate::engine) job: &'a Job,
    pub(in crate::engine) removal: &'a Removal,
    pub(in crate::engine) findings: Findings<'a>,
}

/// Where a survey's findings go.
pub(in crate::engine) enum Findings<'a> {
    /// Into the ledger, for the removal that follows the copy of this run.
    Kept(RunId, Recorder),
    /// To whoever asks what would be removed; nothing is written. Rows are as they were before any copy.
    Told(&'a mut (dyn FnMut(Found<'_>) + Send)),
}

/// A file that is in the target only.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) enum Found<'f> {
    /// It would be removed.
    Candidate(&'f FileMetadata),
    /// It stays, as the source has something above it that is no file.
    BeneathForeign(&'f FileMetadata),
}

impl Survey<'_> {
    /// Walks both sides to their ends and finds the candidates.
    pub(in crate::engine) async fn walk(mut self) -> Result<View, EngineError> {
        let Job { source, target, ledger, filter, .. } = self.job;
        let told = match &self.findings {
            Findings::Kept(run, _) => {
                ledger.clear_candidates().await?;
                ledger.outcomes(*run)
            }
            Findings::Told(_) => stream::empty().boxed(),
        };
        let mut view = View { source_complete: true, target_complete: true, ..View::default() };
        let mut source = Source::new(scan::entries(&**source, filter.clone()));
        let mut rows = Ahead::new(ledger.files(Default::default()), |row: &FileRecord| row.id.as_str());
        let mut told = Ahead::new(told, |line: &OutcomeRecord| line.subject.as_str());
        let mut files = target.list(&Prefix::all(), ListOptions::default());
        let mut last: Option<FileId> = None;
        let mut batch = Vec::new();
        while let Some(listed) = files.next().await {
            let file = match listed {
                Ok(file) => file,
                Err(error) => {
                    self.cannot_read("target", &error);
                    view.target_complete = false;
                    match error.id().is_some() || error.subject().is_some() {
                        true => continue,
                        false => break,
                    }
                }
            };
            if last.as_ref().is_some_and(|last| file.id <= *last) {
                view.target_complete = false;
                break;
            }
            last = Some(file.id.clone());
            if quarantine::holds(&file.id) {
                continue;
            }
            let excluded = !filter.takes_of_target(&file);
            if !excluded || self.removal.excluded {
                view.target += 1;
            }
            let presence = source.look_for(&file.id).await;
            let mut row = rows.at(file.id.as_str()).await?;
            if matches!(self.findings, Findings::Told(_)) {
                // A copy would have found by now that the file is gone.
                row = row.filter(moved_away);
            }
            // A run that does not see directories cannot tell whether one has left the source.
            if !self.job.directories && file.id.file_name() == MARKER {
                continue;
            }
            let line = told.at(file.id.as_str()).await?;
            match class(presence, excluded, self.removal.excluded, row.as_ref(), line.as_ref()) {
                Class::Stays => {}
                Class::BeneathForeign => match &mut self.findings {
                    Findings::Kept(_, recorder) => {
                        let line = line_of(&file, Outcome::Kept, BENEATH_FOREIGN, None);
                        recorder.note(Change::Noted(line), Some(file.size)).await;
                    }
                    Findings::Told(tell) => tell(Found::BeneathForeign(&file)),
                },
                Class::Candidate => {
                    view.candidates += 1;
                    if let Findings::Told(tell) = &mut self.findings {
                        tell(Found::Candidate(&file));
                        continue;
                    }
                    let FileMetadata { id, size, version, .. } = file;
                    batch.push(Candidate { id, size, version, excluded: presence == Presence::Excluded });
                    if batch.len() >= BATCH {
                        ledger.add_candidates(std::mem::take(&mut batch)).await?;
                    }
                }
            }
        }
        if !batch.is_empty() {
            ledger.add_candidates(batch).await?;
        }
        source.drain().await;
        if let Some(error) = &source.error {
            self.cannot_read("source", error);
        }
        view.source = source.seen;
        view.source_complete = source.complete;
        Ok(view)
    }

    fn cannot_read(&self, side: &str, error: &Error) {
        let message = format!("{side}: {error}");
        self.job.progress.tell(&Event::Notice { message: &message });
    }
}

/// The reason of a file that stays, as the source has something above it that is no file.
pub(in crate::engine) const BENEATH_FOREIGN: &str = "not_a_file_in_the_source";

/// Tells whether the source's file was moved away by this program.
fn moved_away(row: &FileRecord) -> bool {
    row.state == State::Retired || row.retired.is_some()
}

/// What the source has under an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// Nothing.
    Absent,
    /// Nobody knows: it lies in a part of the source that could not be read.
    Unseen,
    /// A file, or something else of that very name.
    Present,
    /// A file that the filter leaves out.
    Excluded,
    /// Something that is no file, above it: a symbolic link where a directory was.
    BeneathForeign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Stays,
    BeneathForeign,
    Candidate,
}

/// Decides about one file of the target. Pure.
fn class(
    presence: Presence,
    excluded: bool,
    delete_excluded: bool,
    row: Option<&FileRecord>,
    line: Option<&OutcomeRecord>,
) -> Class {
    // The source's file was moved away by this program: the target's may be the only one.
    if row.is_some_and(moved_away) || presence == Presence::Unseen {
        return Class::Stays;
    }
    if excluded || presence == Presence::Excluded {
        return if delete_excluded { Class::Candidate } else { Class::Stays };
    }
    if presence == Presence::Present {
        return Class::Stays;
    }
    // The copy has seen it in the source, and has told what became of it.
    let copied = row.is_some_and(|row| row.state != State::Gone);
    let planned = line.is_some_and(|line| {
        matches!(line.outcome, Outcome::Copied | Outcome::Skipped | Outcome::Failed | Outcome::Unseen)
    });
    match presence {
        _ if copied || planned => Class::Stays,
        Presence::BeneathForeign => Class::BeneathForeign,
        _ => Class::Candidate,
    }
}

/// The source's entries, one ahead.
struct Source {
    entries: Fuse<BoxStream<'static, Result<Entry, Error>>>,
    next: Option<Entry>,
    last: Option<FileId>,
    /// Names of what is no file and may stand where a directory was, each with a `/`, as long as files may lie beneath.
    foreign: Vec<String>,
    /// Directories that could not be read, likewise.
    unread: Vec<String>,
    seen: u64,
    complete: bool,
    error: Option<Error>,
}

impl Source {
    fn new(entries: BoxStream<'static, Result<Entry, Error>>) -> Self {
        let entries = entries.fuse();
        let (foreign, unread) = (Vec::new(), Vec::new());
        Self { entries, next: None, last: None, foreign, unread, seen: 0, complete: true, error: None }
    }

    /// Goes on to the first entry at or behind `id`. Ids must ascend.
    async fn look_for(&mut self, id: &FileId) -> Presence {
        loop {
            if self.next.is_none() && !self.advance().await {
                break;
            }
            match self.next.as_ref().and_then(Entry::id) {
                Some(own) if own > id => break,
                Some(own) if own == id => {
                    return match self.next {
                        Some(Entry::Excluded(..)) => Presence::Excluded,
                        _ => Presence::Present,
                    };
                }
                _ => self.next = None,
            }
        }
        let id = id.as_str();
        let beneath = |above: &mut Vec<String>| {
            above.retain(|above| above.as_str() > id || id.starts_with(above.as_str()));
            above.iter().any(|above| id.starts_with(above.as_str()))
        };
        if self.error.is_some() || beneath(&mut self.unread) {
            return Presence::Unseen;
        }
        match beneath(&mut self.foreign) {
            true => Presence::BeneathForeign,
            false => Presence::Absent,
        }
    }

    /// Reads to the end: only then is the view complete.
    async fn drain(&mut self) {
        while self.advance().await {}
    }

    async fn advance(&mut self) -> bool {
        let entry = match self.entries.next().await {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                self.complete = false;
                self.error = Some(error);
                return false;
            }
            None => return false,
        };
        self.seen += 1;
        match &entry {
            Entry::Unusable { subject, .. } => {
                self.complete = false;
                if subject.ends_with('/') {
                    self.unread.push(subject.clone());
                }
            }
            Entry::Foreign { id: Some(id), .. } => self.foreign.push(format!("{id}/")),
            _ => {}
        }
        if let Some(id) = entry.id() {
            // Out of order, what is there would look as if it were not.
            if self.last.as_ref().is_some_and(|last| id <= last) {
                self.complete = false;
            }
            self.last = Some(id.clone());
        }
        self.next = Some(entry);
        true
    }
}

fn line_of(file: &FileMetadata, outcome: Outcome, reason: &str, detail: Option<String>) -> OutcomeRecord {
    line(file.id.as_str(), outcome, reason, detail, Some(file.size))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use storage_core::error::{ErrorKind, Op};
    use storage_core::metadata::Version;

    use super::*;

    fn row(state: State) -> FileRecord {
        FileRecord {
            id: FileId::parse("a").unwrap(),
            state,
            size: 1,
            source_version: Version::new("v"),
            digest: None,
            composite: None,
            target_version: None,
            verified: None,
            ticket: None,
            attempts: 0,
            error: None,
            retired: None,
            run: RunId(1),
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn only_what_the_source_lacks_and_the_run_has_not_seen_is_a_candidate() {
        use Presence::{Absent, BeneathForeign, Excluded, Present};
        let line = |outcome| line("a", outcome, "", None, None);
        let gone = row(State::Gone);
        for (presence, row, outcome, expected) in [
            (Absent, None, None, Class::Candidate),
            (Absent, Some(&gone), Some(Outcome::Gone), Class::Candidate),
            // It left the source after the copy had seen it.
            (Absent, Some(&row(State::Verified)), None, Class::Stays),
            (Absent, Some(&row(State::Verified)), Some(Outcome::Copied), Class::Stays),
            (Absent, Some(&gone), Some(Outcome::Skipped), Class::Stays),
            (Absent, Some(&row(State::Failed)), Some(Outcome::Failed), Class::Stays),
            (BeneathForeign, None, None, Class::BeneathForeign),
            (BeneathForeign, Some(&gone), Some(Outcome::Gone), Class::BeneathForeign),
            (Present, None, None, Class::Stays),
            (Present, Some(&gone), Some(Outcome::Gone), Class::Stays),
            (Excluded, None, None, Class::Stays),
        ] {
            let line = outcome.map(line);
            let found = class(presence, false, false, row, line.as_ref());
            assert_eq!(found, expected, "{presence:?} {row:?} {outcome:?}");
        }
        // Whatever else is said: the source's file was moved away by `copy --remove-source`.
        let moved = |state| FileRecord { retired: Some("quarantine/a".to_owned()), ..row(state) };
        for presence in [Absent, BeneathForeign, Excluded, Present] {
            for row in [row(State::Retired)].into_iter().chain(State::ALL.map(moved)) {
                for (excluded, delete_excluded) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    for line in [None, Some(Outcome::Gone)].map(|outcome| outcome.map(line)) {
                        let found = class(presence, excluded, delete_excluded, Some(&row), line.as_ref());
                        assert_eq!(found, Class::Stays, "{presence:?} {row:?}");
                    }
                }
            }
        }
        // Whatever is said of the filter: what nobody has seen may be there.
        for excluded in [false, true] {
            assert_eq!(class(Presence::Unseen, excluded, true, None, None), Class::Stays);
        }
        for presence in [Absent, BeneathForeign, Excluded, Present] {
            assert_eq!(class(presence, true, false, None, None), Class::Stays, "{presence:?}");
            assert_eq!(class(presence, true, true, None, None), Class::Candidate, "{presence:?}");
        }
    }

    fn file(text: &str) -> Result<Entry, Error> {
        Ok(Entry::File(FileMetadata::new(FileId::parse(text).unwrap(), 1)))
    }

    /// A server whose listing is out of order would make what is there look absent.
    #[tokio::test]
    async fn a_listing_out_of_order_is_no_complete_view() {
        for (names, complete) in [(["a", "b", "c"], true), (["a", "c", "b"], false), (["a", "b", "b"], false)]
        {
            let mut source = Source::new(stream::iter(names.map(file)).boxed());
            source.drain().await;
            assert_eq!((source.seen, source.complete), (3, complete), "{names:?}");
        }
    }

    #[tokio::test]
    async fn what_lies_beneath_a_link_is_found_whatever_sorts_between() {
        let link = |text: &str| {
            let id = FileId::parse(text).ok();
            Ok(Entry::Foreign { id, subject: text.to_owned(), reason: "symbolic link".to_owned() })
        };
        let entries = vec![link("d"), file("d-x"), file("e")];
        let mut source = Source::new(stream::iter(entries).boxed());
        for (name, expected) in [
            ("d", Presence::Present),
            ("d-x", Presence::Present),
            ("d-y", Presence::Absent),
            ("d/1", Presence::BeneathForeign),
            ("d/2/3", Presence::BeneathForeign),
            ("d0", Presence::Absent),
            ("e", Presence::Present),
            ("f", Presence::Absent),
        ] {
            assert_eq!(source.look_for(&FileId::parse(name).unwrap()).await, expected, "{name}");
        }
    }
    /// Named in a refusal, such a file would read as if it were gone.
    #[tokio::test]
    async fn what_lies_in_a_directory_that_could_not_be_read_is_no_candidate() {
        let unreadable = Entry::Unusable {
            id: None,
            subject: "d/".to_owned(),
            reason: "denied".to_owned(),
            detail: String::new(),
        };
        let broken = Err(Error::new(ErrorKind::Unavailable, Op::List));
        let mut source = Source::new(
            stream::iter(vec![file("a"), Ok(unreadable), file("d-x"), file("e"), broken]).boxed(),
        );
        for (name, expected) in [
            ("b", Presence::Absent),
            ("d/1", Presence::Unseen),
            ("d/2/3", Presence::Unseen),
            ("d0", Presence::Absent),
            ("e", Presence::Present),
            // The listing broke off.
            ("f", Presence::Unseen),
        ] {
            assert_eq!(source.look_for(&FileId::parse(name).unwrap()).await, expected, "{name}");
        }
        assert!(!source.complete);
    }
}
