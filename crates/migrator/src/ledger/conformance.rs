//! One test per promise of [`Ledger`](crate::ledger::Ledger), for every engine: `ledger_conformance!` makes
//! the tests of one.

pub(crate) mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use storage_core::checksum::{CompositeDigest, Digest};
use storage_core::id::FileId;
use storage_core::metadata::Version;
use storage_core::storage::{Capabilities, PartNumber, PartReceipt, UploadTicket, Verified};

pub(crate) use self::model::random_changes_agree_with_the_model;
use crate::course::{Course, Point, Slow};
use crate::item::{Event, State, next};
use crate::ledger::{
    Candidate, Change, Count, FileFilter, FileRecord, Ledger, LedgerError, Outcome, OutcomeRecord, Published,
    Recorded, RunEnd, RunId, RunKind, RunRecord, Tally,
};

/// A place for one ledger, empty at first. Opening it again, when the ledger opened before is dropped, shows
/// what has become durable.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    async fn open(&self) -> Arc<dyn Ledger>;
}

/// Makes the conformance tests of an engine from an expression that makes a [`Place`].
macro_rules! ledger_conformance {
    ($place:expr) => {
        $crate::ledger::conformance::ledger_conformance!($place;
            begins_runs_with_numbers_that_ascend_from_one,
            closes_runs_that_a_kill_left_open,
            keeps_what_a_checkpoint_notes,
            a_checkpoint_without_a_scan_keeps_where_the_scan_was,
            lists_the_latest_runs_first,
            tells_what_a_run_left_undone_and_nothing_else,
            counts_what_failed_and_has_no_row,
            takes_nothing_for_a_run_that_is_not_open,
            goes_along_the_state_machine_and_nowhere_else,
            a_stale_change_changes_nothing,
            applies_the_changes_of_a_call_in_order,
            a_call_is_all_or_nothing,
            a_refused_call_does_not_fail_its_neighbours,
            intends_a_file,
            what_was_retired_is_not_gone_before_a_newer_version_is_published,
            an_audit_leaves_what_was_retired_retired,
            counts_intents_since_the_file_was_last_verified,
            an_intent_of_the_same_bytes_keeps_the_upload_and_its_parts,
            an_intent_of_other_bytes_makes_the_upload_an_orphan,
            an_upload_that_replaces_another_makes_it_an_orphan,
            an_upload_that_is_open_is_no_orphan,
            an_ended_upload_is_forgotten_and_no_orphan,
            a_part_stored_again_replaces_itself,
            a_part_without_an_open_upload_is_stale,
            publishing_forgets_the_upload_and_is_no_orphan,
            published_and_verified_is_copied_in_the_journal,
            published_and_not_verified_waits_for_a_confirmation,
            a_file_without_a_row_can_be_intended_and_published_in_one_step,
            what_has_a_row_cannot_arrive,
            an_audit_journals_no_match,
            nobody_cannot_confirm,
            a_failure_is_journalled_and_keeps_the_upload,
            damage_is_journalled_and_no_longer_verified,
            only_missing_and_different_are_damage,
            a_file_that_is_gone_makes_its_upload_an_orphan,
            a_note_is_a_line_in_the_journal_and_nothing_else,
            a_later_outcome_of_the_same_run_replaces_the_earlier,
            orphans_stay_until_they_are_forgotten,
            yields_files_in_byte_order_and_each_once,
            yields_files_of_the_states_and_behind_the_id_that_were_asked_for,
            yields_outcomes_in_byte_order_of_their_run_only,
            a_stream_of_files_goes_on_while_others_write,
            counts_files_by_state,
            counts_outcomes_and_reasons,
            tells_the_history_of_a_subject_oldest_first,
            keeps_attempts_apart_from_outcomes,
            keeps_the_course_of_a_run_until_it_ends,
            keeps_the_first_proof_of_each_run,
            keeps_odd_names_and_extreme_values,
            candidates_are_yielded_in_byte_order_until_they_are_cleared,
            the_place_of_the_source_is_the_last_that_was_set,
            the_capabilities_of_the_target_are_the_last_that_were_set,
            everything_recorded_is_there_when_opened_again,
            calls_at_the_same_time_are_each_answered,
            a_dropped_call_harms_nobody,
            random_changes_agree_with_the_model,
        );
    };
    ($place:expr; $($test:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $crate::ledger::conformance::$test(&$place).await;
            }
        )*
    };
}
pub(crate) use ledger_conformance;

pub(crate) fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

pub(crate) fn version(text: &str) -> Version {
    Version::new(text)
}

pub(crate) fn ticket(text: &str, upload: &str) -> UploadTicket {
    let started = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    UploadTicket::new(id(text), upload, 5 << 20, started)
}

pub(crate) fn part(number: u32, token: &str) -> PartReceipt {
    let number = PartNumber::new(number).unwrap();
    PartReceipt::new(number, 5 << 20, Some(Digest::of(token.as_bytes())), token)
}

pub(crate) fn intend(text: &str) -> Change {
    Change::Intend { id: id(text), size: 10, source_version: version("v1") }
}

pub(crate) fn publish(text: &str, verified: Verified) -> Change {
    Change::Published { id: id(text), published: published(text, verified), attempts: 2 }
}

pub(crate) fn arrive(text: &str, verified: Verified) -> Change {
    let (size, source_version) = (10, version("v1"));
    Change::Arrived { id: id(text), size, source_version, published: published(text, verified), attempts: 2 }
}

pub(crate) fn published(text: &str, verified: Verified) -> Published {
    let digest = Digest::of(text.as_bytes());
    Published {
        digest,
        composite: Some(CompositeDigest::of_parts(5 << 20, [&digest])),
        target_version: Some(version("\"etag\"")),
        verified,
    }
}

fn fail(text: &str) -> Change {
    Change::Failed { id: id(text), reason: "timeout".into(), detail: "it took too long".into(), attempts: 3 }
}

fn damage(text: &str, outcome: Outcome) -> Change {
    Change::Damaged { id: id(text), outcome, detail: "the bytes are others".into() }
}

fn gone(text: &str) -> Change {
    Change::Gone { id: id(text) }
}

fn retire(text: &str) -> Change {
    Change::Retired { id: id(text), place: format!("quarantine/{text}") }
}

fn begun(text: &str, upload: &str) -> Change {
    Change::UploadBegun { ticket: ticket(text, upload) }
}

fn stored(text: &str, number: u32, token: &str) -> Change {
    Change::PartStored { id: id(text), part: part(number, token) }
}

fn ended(text: &str) -> Change {
    Change::UploadEnded { id: id(text) }
}

fn confirm(text: &str, attempts: Option<u32>) -> Change {
    Change::Confirmed { id: id(text), by: Verified::ReadBack, attempts }
}

pub(crate) fn note(subject: &str, outcome: Outcome, reason: &str, size: Option<u64>) -> OutcomeRecord {
    OutcomeRecord {
        subject: subject.into(),
        outcome,
        reason: reason.into(),
        detail: Some("in full".into()),
        size,
        digest: Some(Digest::of(b"note")),
        verified: Some(Verified::No),
        attempts: 7,
        at: Timestamp::from_nanosecond(1_700_000_000_987_654_321).unwrap(),
    }
}

async fn begin(ledger: &dyn Ledger) -> RunId {
    ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap()
}

/// Records changes that must all take effect.
pub(crate) async fn done(ledger: &dyn Ledger, run: RunId, changes: Vec<Change>) {
    let expected = vec![Recorded::Done; changes.len()];
    assert_eq!(ledger.record(run, changes.clone()).await.unwrap(), expected, "{changes:?}");
}

async fn stale(ledger: &dyn Ledger, run: RunId, change: Change) {
    assert_eq!(ledger.record(run, vec![change.clone()]).await.unwrap(), [Recorded::Stale], "{change:?}");
}

async fn file(ledger: &dyn Ledger, text: &str) -> FileRecord {
    ledger.file(&id(text)).await.unwrap().unwrap()
}

async fn journal(ledger: &dyn Ledger, run: RunId) -> Vec<OutcomeRecord> {
    ledger.outcomes(run).try_collect().await.unwrap()
}

async fn files(ledger: &dyn Ledger, filter: FileFilter) -> Vec<FileRecord> {
    ledger.files(filter).try_collect().await.unwrap()
}

/// Everything a ledger tells, for comparing before and after.
pub(crate) async fn dump(ledger: &dyn Ledger) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for run in ledger.runs(u32::MAX, None).await.unwrap() {
        writeln!(text, "{run:?}\n{:?}", journal(ledger, run.id).await).unwrap();
    }
    for file in files(ledger, FileFilter::default()).await {
        writeln!(text, "{file:?}\n{:?}", ledger.parts(&file.id).await.unwrap()).unwrap();
    }
    writeln!(text, "{:?}", ledger.orphans().await.unwrap()).unwrap();
    text
}

pub(crate) async fn begins_runs_with_numbers_that_ascend_from_one(place: &dyn Place) {
    let ledger = place.open().await;
    assert_eq!(ledger.run(None).await.unwrap(), None);
    let before = Timestamp::now();
    let first = ledger.begin_run(RunKind::Copy, "1.2.3").await.unwrap();
    assert_eq!(first, RunId(1));
    let record = ledger.run(None).await.unwrap().unwrap();
    assert_eq!((record.id, record.kind, record.program.as_str()), (first, RunKind::Copy, "1.2.3"));
    assert_eq!((record.finished, record.end), (None, None));
    assert_eq!((record.tally, record.scanned_to, record.scan_complete), (Tally::default(), None, false));
    assert!(record.started >= before && record.started <= Timestamp::now());
    ledger.finish_run(first, RunEnd::Complete, Tally::default(), true).await.unwrap();
    drop(ledger);
    let ledger = place.open().await;
    assert_eq!(ledger.begin_run(RunKind::Verify, "1.2.3").await.unwrap(), RunId(2));
    assert_eq!(ledger.run(None).await.unwrap().unwrap().kind, RunKind::Verify);
    assert_eq!(ledger.run(Some(first)).await.unwrap().unwrap().id, first);
    assert_eq!(ledger.run(Some(RunId(99))).await.unwrap(), None);
}

pub(crate) async fn closes_runs_that_a_kill_left_open(place: &dyn Place) {
    let ledger = place.open().await;
    let killed = begin(&*ledger).await;
    done(&*ledger, killed, vec![Change::Noted(note("a", Outcome::Skipped, "fifo", None))]).await;
    drop(ledger);
    let ledger = place.open().await;
    begin(&*ledger).await;
    let record = ledger.run(Some(killed)).await.unwrap().unwrap();
    assert_eq!(record.end, Some(RunEnd::Aborted));
    assert!(record.finished.is_some() && !record.scan_complete);
    assert_eq!(journal(&*ledger, killed).await.len(), 1, "its outcomes stay");
}

pub(crate) async fn keeps_what_a_checkpoint_notes(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let tally = Tally {
        planned: 1,
        planned_bytes: 2,
        unchanged: 3,
        unchanged_bytes: 4,
        excluded: 5,
        ..Tally::default()
    };
    ledger.checkpoint(run, tally, Some(id("m/n"))).await.unwrap();
    drop(ledger);
    let ledger = place.open().await;
    let record = ledger.run(Some(run)).await.unwrap().unwrap();
    assert_eq!((record.tally, record.scanned_to), (tally, Some(id("m/n"))));
    assert_eq!((record.finished, record.end), (None, None));
    let tally = Tally { bytes_read: 6, bytes_sent: 7, parts_sent: 8, parts_resumed: 9, retries: 10, ..tally };
    ledger.finish_run(run, RunEnd::Interrupted, tally, true).await.unwrap();
    let record = ledger.run(Some(run)).await.unwrap().unwrap();
    assert_eq!((record.tally, record.end, record.scan_complete), (tally, Some(RunEnd::Interrupted), true));
    assert!(record.finished.unwrap() >= record.started);
    assert_eq!(record.scanned_to, Some(id("m/n")));
}

pub(crate) async fn a_checkpoint_without_a_scan_keeps_where_the_scan_was(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    ledger.checkpoint(run, Tally::default(), Some(id("b"))).await.unwrap();
    ledger.checkpoint(run, Tally::default(), None).await.unwrap();
    assert_eq!(ledger.run(None).await.unwrap().unwrap().scanned_to, Some(id("b")));
}

pub(crate) async fn lists_the_latest_runs_first(place: &dyn Place) {
    let ledger = place.open().await;
    for _ in 0..4 {
        begin(&*ledger).await;
    }
    let ids = |runs: Vec<RunRecord>| runs.into_iter().map(|run| run.id.0).collect::<Vec<_>>();
    let latest = ledger.runs(3, None).await.unwrap();
    let next = ledger.runs(3, Some(latest[1].started)).await.unwrap();
    assert_eq!(ids(latest), [4, 3, 2]);
    assert_eq!(ids(next), [2, 1]);
    assert_eq!(ledger.run(None).await.unwrap().unwrap().id, RunId(4));
}

/// What is not well must be found among a million lines that say that all is well.
pub(crate) async fn tells_what_a_run_left_undone_and_nothing_else(place: &dyn Place) {
    let ledger = place.open().await;
    for _ in 0..2 {
        let run = begin(&*ledger).await;
        let lines = Outcome::ALL.map(|outcome| Change::Noted(note(outcome.as_str(), outcome, "", None)));
        done(&*ledger, run, lines.into()).await;
        let told: Vec<OutcomeRecord> = ledger.left_undone(run).try_collect().await.unwrap();
        let whole = journal(&*ledger, run).await.into_iter();
        let expected: Vec<_> = whole.filter(|line| line.outcome.is_left_undone()).collect();
        assert_eq!(told, expected);
        assert_eq!(told.len(), 3);
    }
}

/// "100 % verified", and a directory that nobody could read.
pub(crate) async fn counts_what_failed_and_has_no_row(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    assert_eq!(ledger.unrecorded(run).await.unwrap(), Count::default());
    let failed = |subject: &str, size| Change::Noted(note(subject, Outcome::Failed, "denied", size));
    let skipped = Change::Noted(note("link", Outcome::Skipped, "symlink", None));
    let lines =
        vec![intend("a"), failed("a", Some(7)), failed("./b/", None), failed("long", Some(3)), skipped];
    done(&*ledger, run, lines).await;
    assert_eq!(ledger.unrecorded(run).await.unwrap(), Count { files: 2, bytes: 3 });
    let next = begin(&*ledger).await;
    assert_eq!(ledger.unrecorded(next).await.unwrap(), Count::default());
    // It became a file after all.
    done(&*ledger, next, vec![intend("long")]).await;
    assert_eq!(ledger.unrecorded(run).await.unwrap(), Count { files: 1, bytes: 0 });
}

pub(crate) async fn takes_nothing_for_a_run_that_is_not_open(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a")]).await;
    ledger.finish_run(run, RunEnd::Complete, Tally::default(), true).await.unwrap();
    let before = dump(&*ledger).await;
    for run in [run, RunId(2), RunId(0)] {
        for result in [
            ledger.record(run, vec![publish("a", Verified::Backend)]).await.map(drop),
            ledger.checkpoint(run, Tally { planned: 9, ..Tally::default() }, None).await,
            ledger.finish_run(run, RunEnd::Aborted, Tally::default(), false).await,
        ] {
            assert!(matches!(result, Err(LedgerError::Other { .. })), "{result:?}");
        }
    }
    assert_eq!(dump(&*ledger).await, before, "a report that was written stays true");
}

/// The shortest way to each state.
async fn bring_to(ledger: &dyn Ledger, run: RunId, text: &str, state: State) {
    let mut changes = vec![intend(text)];
    changes.extend(match state {
        State::Copying => vec![],
        State::Copied => vec![publish(text, Verified::No)],
        State::Verified => vec![publish(text, Verified::Backend)],
        State::Failed => vec![fail(text)],
        State::Damaged => vec![publish(text, Verified::Backend), damage(text, Outcome::Missing)],
        State::Gone => vec![gone(text)],
        State::Retired => vec![publish(text, Verified::Backend), retire(text)],
    });
    done(ledger, run, changes).await;
    assert_eq!(file(ledger, text).await.state, state);
}

fn events(text: &str) -> Vec<(Event, Change)> {
    vec![
        (Event::Intend, intend(text)),
        (Event::Upload, begun(text, "up")),
        (Event::Upload, ended(text)),
        (Event::Publish, publish(text, Verified::No)),
        (Event::Publish, publish(text, Verified::Backend)),
        (Event::Confirm, confirm(text, Some(1))),
        (Event::Confirm, confirm(text, None)),
        (Event::Fail, fail(text)),
        (Event::Damage, damage(text, Outcome::Missing)),
        (Event::Damage, damage(text, Outcome::Different)),
        (Event::Vanish, gone(text)),
        (Event::Retire, retire(text)),
        (Event::Return, Change::Returned { id: id(text) }),
    ]
}

pub(crate) async fn goes_along_the_state_machine_and_nowhere_else(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for state in State::ALL.map(Some).into_iter().chain([None]) {
        for (number, (event, change)) in events("x").into_iter().enumerate() {
            let name = format!("{state:?}/{number}");
            let (_, change) = events(&name).into_iter().nth(number).map_or((event, change), |pair| pair);
            if let Some(state) = state {
                bring_to(&*ledger, run, &name, state).await;
            }
            let answer = ledger.record(run, vec![change.clone()]).await.unwrap();
            let after = ledger.file(&id(&name)).await.unwrap().map(|file| file.state);
            match next(state, event) {
                None => assert_eq!((answer, after), (vec![Recorded::Stale], state), "{state:?} {change:?}"),
                Some(expected) => {
                    let verified = matches!(&change, Change::Published { published, .. } if published.verified != Verified::No);
                    let expected = if verified { State::Verified } else { expected };
                    assert_eq!(
                        (answer, after),
                        (vec![Recorded::Done], Some(expected)),
                        "{state:?} {change:?}"
                    );
                }
            }
        }
    }
}

pub(crate) async fn a_stale_change_changes_nothing(place: &dyn Place) {
    let ledger = place.open().await;
    let first = begin(&*ledger).await;
    for state in State::ALL {
        bring_to(&*ledger, first, state.as_str(), state).await;
    }
    done(&*ledger, first, vec![intend("open"), begun("open", "u"), stored("open", 1, "t"), fail("open")])
        .await;
    let run = begin(&*ledger).await;
    let before = dump(&*ledger).await;
    for text in State::ALL.map(State::as_str).into_iter().chain(["open", "unknown"]) {
        let state = ledger.file(&id(text)).await.unwrap().map(|file| file.state);
        for (event, change) in events(text) {
            if next(state, event).is_none() {
                stale(&*ledger, run, change).await;
            }
        }
        if state != Some(State::Copying) {
            stale(&*ledger, run, stored(text, 2, "late")).await;
        }
    }
    assert_eq!(dump(&*ledger).await, before);
}

pub(crate) async fn applies_the_changes_of_a_call_in_order(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let answers = ledger
        .record(
            run,
            vec![
                publish("a", Verified::Backend),
                intend("a"),
                publish("a", Verified::No),
                publish("a", Verified::No),
                confirm("a", Some(1)),
                fail("a"),
            ],
        )
        .await
        .unwrap();
    let (done, stale) = (Recorded::Done, Recorded::Stale);
    assert_eq!(answers, [stale, done, done, stale, done, stale]);
    assert_eq!(file(&*ledger, "a").await.state, State::Verified);
    assert_eq!(ledger.record(run, vec![]).await.unwrap(), []);
}

/// A call that an engine refuses after it has changed something.
fn refused(text: &str) -> Vec<Change> {
    vec![
        intend(text),
        publish(text, Verified::No),
        Change::Confirmed { id: id(text), by: Verified::No, attempts: Some(1) },
    ]
}

pub(crate) async fn a_call_is_all_or_nothing(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let before = dump(&*ledger).await;
    ledger.record(run, refused("a")).await.unwrap_err();
    assert_eq!(dump(&*ledger).await, before);
}

pub(crate) async fn a_refused_call_does_not_fail_its_neighbours(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let calls = (0..60).map(|n| {
        let ledger = Arc::clone(&ledger);
        async move {
            let text = format!("f{n:02}");
            let changes = if n % 3 == 0 { refused(&text) } else { vec![intend(&text)] };
            (n, ledger.record(run, changes).await.is_ok())
        }
    });
    for (n, accepted) in futures::future::join_all(calls).await {
        assert_eq!(accepted, n % 3 != 0, "{n}");
    }
    assert_eq!(files(&*ledger, FileFilter::default()).await.len(), 40);
}

/// What is gone, a sync removes from the target: which may hold the only copy.
pub(crate) async fn what_was_retired_is_not_gone_before_a_newer_version_is_published(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for text in ["a", "b", "c"] {
        bring_to(&*ledger, run, text, State::Retired).await;
        assert_eq!(file(&*ledger, text).await.retired.as_deref(), Some(&*format!("quarantine/{text}")));
    }
    stale(&*ledger, run, gone("a")).await;
    // A newer version that came, was not copied, and went again.
    done(&*ledger, run, vec![intend("b"), fail("b"), gone("b")]).await;
    assert_eq!(file(&*ledger, "b").await.state, State::Retired);
    done(&*ledger, run, vec![intend("b"), gone("b")]).await;
    assert_eq!(file(&*ledger, "b").await.state, State::Retired);
    // One that was copied is another file, which its owner has removed.
    done(&*ledger, run, vec![intend("c"), publish("c", Verified::No), gone("c")]).await;
    let record = file(&*ledger, "c").await;
    assert_eq!((record.state, record.retired), (State::Gone, None));
    // Not moved after all.
    done(&*ledger, run, vec![Change::Returned { id: id("a") }]).await;
    let record = file(&*ledger, "a").await;
    assert_eq!((record.state, record.retired), (State::Verified, None));
    done(&*ledger, run, vec![gone("a")]).await;
    assert_eq!(file(&*ledger, "a").await.state, State::Gone);
}

pub(crate) async fn an_audit_leaves_what_was_retired_retired(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    bring_to(&*ledger, run, "a", State::Retired).await;
    done(&*ledger, run, vec![damage("a", Outcome::Different)]).await;
    let record = file(&*ledger, "a").await;
    assert_eq!((record.state, record.verified, record.error.is_some()), (State::Retired, None, true));
    // What was found to be wrong is not verified again because the source is still there.
    stale(&*ledger, run, Change::Returned { id: id("a") }).await;
    done(&*ledger, run, vec![confirm("a", None)]).await;
    let record = file(&*ledger, "a").await;
    assert_eq!((record.state, record.error), (State::Retired, None));
    assert!(record.verified.is_some() && record.digest.is_some() && record.retired.is_some());
}

pub(crate) async fn intends_a_file(place: &dyn Place) {
    let ledger = place.open().await;
    assert_eq!(ledger.file(&id("a")).await.unwrap(), None);
    let run = begin(&*ledger).await;
    let before = Timestamp::now();
    done(&*ledger, run, vec![intend("a")]).await;
    let record = file(&*ledger, "a").await;
    assert!(record.updated >= before && record.updated <= Timestamp::now());
    let expected = FileRecord {
        id: id("a"),
        state: State::Copying,
        size: 10,
        source_version: version("v1"),
        digest: None,
        composite: None,
        target_version: None,
        verified: None,
        ticket: None,
        attempts: 1,
        error: None,
        retired: None,
        run,
        updated: record.updated,
    };
    assert_eq!(record, expected);
    assert_eq!(journal(&*ledger, run).await, [], "an intent is no outcome");
    // What was published of other bytes must not be taken for a proof of these.
    done(&*ledger, run, vec![publish("a", Verified::Backend)]).await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![Change::Intend { id: id("a"), size: 11, source_version: version("v2") }]).await;
    let record = file(&*ledger, "a").await;
    let expected =
        FileRecord { size: 11, source_version: version("v2"), run, updated: record.updated, ..expected };
    assert_eq!(record, expected);
}

pub(crate) async fn counts_intents_since_the_file_was_last_verified(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for (change, attempts) in [
        (intend("a"), 1),
        (fail("a"), 1),
        (intend("a"), 2),
        (intend("a"), 3),
        (publish("a", Verified::No), 3),
        (fail("a"), 3),
        (intend("a"), 4),
        (publish("a", Verified::No), 4),
        (confirm("a", None), 0),
        (damage("a", Outcome::Missing), 0),
        (intend("a"), 1),
        (publish("a", Verified::Backend), 0),
        (gone("a"), 0),
        (intend("a"), 1),
    ] {
        done(&*ledger, run, vec![change.clone()]).await;
        assert_eq!(file(&*ledger, "a").await.attempts, attempts, "{change:?}");
    }
}

pub(crate) async fn an_intent_of_the_same_bytes_keeps_the_upload_and_its_parts(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1"), stored("a", 1, "t1"), fail("a")]).await;
    drop(ledger);
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a")]).await;
    assert_eq!(file(&*ledger, "a").await.ticket, Some(ticket("a", "u1")));
    assert_eq!(ledger.parts(&id("a")).await.unwrap(), [part(1, "t1")]);
    assert_eq!(ledger.orphans().await.unwrap(), []);
}

pub(crate) async fn an_intent_of_other_bytes_makes_the_upload_an_orphan(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for (text, size, token) in [("version", 10, "v2"), ("size", 11, "v1")] {
        done(&*ledger, run, vec![intend(text), begun(text, "u1"), stored(text, 1, "t1")]).await;
        done(&*ledger, run, vec![Change::Intend { id: id(text), size, source_version: version(token) }])
            .await;
        assert_eq!(file(&*ledger, text).await.ticket, None);
        assert_eq!(ledger.parts(&id(text)).await.unwrap(), [], "parts of other bytes are not mixed in");
    }
    assert_eq!(ledger.orphans().await.unwrap(), [ticket("size", "u1"), ticket("version", "u1")]);
}

pub(crate) async fn an_upload_that_replaces_another_makes_it_an_orphan(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1"), stored("a", 1, "t1")]).await;
    done(&*ledger, run, vec![begun("a", "u1")]).await;
    assert_eq!(ledger.parts(&id("a")).await.unwrap(), [part(1, "t1")], "the same upload is itself");
    done(&*ledger, run, vec![begun("a", "u2")]).await;
    assert_eq!(file(&*ledger, "a").await.ticket, Some(ticket("a", "u2")));
    assert_eq!(ledger.parts(&id("a")).await.unwrap(), []);
    assert_eq!(ledger.orphans().await.unwrap(), [ticket("a", "u1")]);
}

pub(crate) async fn an_upload_that_is_open_is_no_orphan(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1"), begun("a", "u2"), begun("a", "u1")]).await;
    assert_eq!(file(&*ledger, "a").await.ticket, Some(ticket("a", "u1")));
    assert_eq!(ledger.orphans().await.unwrap(), [ticket("a", "u2")]);
}

pub(crate) async fn an_ended_upload_is_forgotten_and_no_orphan(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1"), stored("a", 1, "t1"), ended("a")]).await;
    assert_eq!(file(&*ledger, "a").await.ticket, None);
    assert_eq!(ledger.parts(&id("a")).await.unwrap(), []);
    assert_eq!(ledger.orphans().await.unwrap(), []);
    done(&*ledger, run, vec![ended("a")]).await;
}

pub(crate) async fn a_part_stored_again_replaces_itself(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1")]).await;
    let last = PartReceipt::new(PartNumber::new(10_000).unwrap(), 0, None, "");
    done(
        &*ledger,
        run,
        vec![
            Change::PartStored { id: id("a"), part: last.clone() },
            stored("a", 2, "t2"),
            stored("a", 1, "t1"),
            stored("a", 2, "t2 again"),
        ],
    )
    .await;
    let parts = ledger.parts(&id("a")).await.unwrap();
    assert_eq!(parts, [part(1, "t1"), part(2, "t2 again"), last]);
    assert_eq!(ledger.parts(&id("b")).await.unwrap(), []);
}

pub(crate) async fn a_part_without_an_open_upload_is_stale(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a")]).await;
    stale(&*ledger, run, stored("a", 1, "t1")).await;
    assert_eq!(ledger.parts(&id("a")).await.unwrap(), []);
}

pub(crate) async fn publishing_forgets_the_upload_and_is_no_orphan(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for (text, verified) in [("a", Verified::No), ("b", Verified::Backend)] {
        done(&*ledger, run, vec![intend(text), begun(text, "u1"), stored(text, 1, "t1")]).await;
        done(&*ledger, run, vec![publish(text, verified)]).await;
        assert_eq!(file(&*ledger, text).await.ticket, None);
        assert_eq!(ledger.parts(&id(text)).await.unwrap(), []);
    }
    assert_eq!(ledger.orphans().await.unwrap(), []);
}

pub(crate) async fn published_and_verified_is_copied_in_the_journal(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), fail("a"), intend("a"), publish("a", Verified::Backend)]).await;
    let record = file(&*ledger, "a").await;
    let told = published("a", Verified::Backend);
    assert_eq!((record.state, record.verified), (State::Verified, Some(Verified::Backend)));
    assert_eq!((record.digest, record.composite), (Some(told.digest), told.composite));
    assert_eq!((record.target_version, record.error), (told.target_version, None));
    let expected = OutcomeRecord {
        subject: "a".into(),
        outcome: Outcome::Copied,
        reason: String::new(),
        detail: None,
        size: Some(10),
        digest: Some(told.digest),
        verified: Some(Verified::Backend),
        attempts: 2,
        at: record.updated,
    };
    assert_eq!(journal(&*ledger, run).await, [expected]);
}

pub(crate) async fn published_and_not_verified_waits_for_a_confirmation(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), publish("a", Verified::No)]).await;
    let record = file(&*ledger, "a").await;
    assert_eq!((record.state, record.verified), (State::Copied, None));
    assert_eq!(record.digest, Some(Digest::of(b"a")));
    assert_eq!(journal(&*ledger, run).await, [], "nothing is reported that nobody compared");
    done(&*ledger, run, vec![confirm("a", Some(4))]).await;
    let record = file(&*ledger, "a").await;
    assert_eq!((record.state, record.verified), (State::Verified, Some(Verified::ReadBack)));
    let expected = OutcomeRecord {
        subject: "a".into(),
        outcome: Outcome::Copied,
        reason: String::new(),
        detail: None,
        size: Some(10),
        digest: Some(Digest::of(b"a")),
        verified: Some(Verified::ReadBack),
        attempts: 4,
        at: record.updated,
    };
    assert_eq!(journal(&*ledger, run).await, [expected]);
}

pub(crate) async fn a_file_without_a_row_can_be_intended_and_published_in_one_step(place: &dyn Place) {
    let ledger = place.open().await;
    for (verified, state, attempts) in
        [(Verified::Backend, State::Verified, 0), (Verified::No, State::Copied, 1)]
    {
        let (one, two) = (format!("{state}-1"), format!("{state}-2"));
        let run = begin(&*ledger).await;
        done(&*ledger, run, vec![arrive(&one, verified), intend(&two), publish(&two, verified)]).await;
        let (one, two) = (file(&*ledger, &one).await, file(&*ledger, &two).await);
        assert_eq!((one.state, one.attempts), (state, attempts));
        let same =
            FileRecord { id: two.id.clone(), digest: two.digest, composite: two.composite, ..one.clone() };
        assert_eq!(FileRecord { target_version: two.target_version.clone(), ..same }, two);
        let mut lines = journal(&*ledger, run).await;
        assert_eq!(lines.len(), if verified == Verified::No { 0 } else { 2 });
        if let Some(second) = lines.pop() {
            let first =
                OutcomeRecord { subject: second.subject.clone(), digest: second.digest, ..lines.remove(0) };
            assert_eq!(first, second);
        }
    }
}

pub(crate) async fn what_has_a_row_cannot_arrive(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a")]).await;
    let before = file(&*ledger, "a").await;
    let answers = ledger.record(run, vec![arrive("a", Verified::Backend)]).await.unwrap();
    assert_eq!(answers, [Recorded::Stale]);
    assert_eq!(file(&*ledger, "a").await, before);
    assert_eq!(journal(&*ledger, run).await, []);
}

pub(crate) async fn an_audit_journals_no_match(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), publish("a", Verified::Backend)]).await;
    let audit = ledger.begin_run(RunKind::Verify, "0.0.0").await.unwrap();
    done(&*ledger, audit, vec![confirm("a", None)]).await;
    assert_eq!(file(&*ledger, "a").await.verified, Some(Verified::ReadBack));
    assert_eq!(journal(&*ledger, audit).await, []);
}

pub(crate) async fn nobody_cannot_confirm(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), publish("a", Verified::No)]).await;
    let change = Change::Confirmed { id: id("a"), by: Verified::No, attempts: Some(1) };
    assert!(matches!(ledger.record(run, vec![change]).await, Err(LedgerError::Other { .. })));
    assert_eq!(file(&*ledger, "a").await.state, State::Copied);
}

pub(crate) async fn a_failure_is_journalled_and_keeps_the_upload(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1"), stored("a", 1, "t1"), fail("a")]).await;
    let record = file(&*ledger, "a").await;
    assert_eq!((record.state, record.error.as_deref()), (State::Failed, Some("it took too long")));
    assert_eq!(record.ticket, Some(ticket("a", "u1")));
    assert_eq!(ledger.parts(&id("a")).await.unwrap(), [part(1, "t1")]);
    let expected = OutcomeRecord {
        subject: "a".into(),
        outcome: Outcome::Failed,
        reason: "timeout".into(),
        detail: Some("it took too long".into()),
        size: Some(10),
        digest: None,
        verified: None,
        attempts: 3,
        at: record.updated,
    };
    assert_eq!(journal(&*ledger, run).await, [expected]);
}

pub(crate) async fn damage_is_journalled_and_no_longer_verified(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), publish("a", Verified::Backend)]).await;
    let audit = ledger.begin_run(RunKind::Verify, "0.0.0").await.unwrap();
    for outcome in [Outcome::Missing, Outcome::Different] {
        done(&*ledger, audit, vec![damage("a", outcome)]).await;
        let record = file(&*ledger, "a").await;
        assert_eq!((record.state, record.verified, record.run), (State::Damaged, None, audit));
        assert_eq!(record.error.as_deref(), Some("the bytes are others"));
        let expected = OutcomeRecord {
            subject: "a".into(),
            outcome,
            reason: outcome.as_str().into(),
            detail: Some("the bytes are others".into()),
            size: Some(10),
            digest: Some(Digest::of(b"a")),
            verified: None,
            attempts: 0,
            at: record.updated,
        };
        assert_eq!(journal(&*ledger, audit).await, [expected]);
    }
}

pub(crate) async fn only_missing_and_different_are_damage(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), publish("a", Verified::Backend)]).await;
    let before = dump(&*ledger).await;
    for outcome in Outcome::ALL {
        if !matches!(outcome, Outcome::Missing | Outcome::Different) {
            let result = ledger.record(run, vec![damage("a", outcome)]).await;
            assert!(matches!(result, Err(LedgerError::Other { .. })), "{outcome:?}");
        }
    }
    assert_eq!(dump(&*ledger).await, before);
}

pub(crate) async fn a_file_that_is_gone_makes_its_upload_an_orphan(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1"), stored("a", 1, "t1"), fail("a"), gone("a")])
        .await;
    let record = file(&*ledger, "a").await;
    assert_eq!((record.state, record.ticket, record.error), (State::Gone, None, None));
    assert_eq!(ledger.parts(&id("a")).await.unwrap(), []);
    assert_eq!(ledger.orphans().await.unwrap(), [ticket("a", "u1")]);
    let lines = journal(&*ledger, run).await;
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].outcome, lines[0].reason.as_str(), lines[0].size), (Outcome::Gone, "", Some(10)));
    assert_eq!((lines[0].detail.as_deref(), lines[0].attempts, lines[0].at), (None, 0, record.updated));
}

pub(crate) async fn a_note_is_a_line_in_the_journal_and_nothing_else(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("a"), publish("a", Verified::Backend)]).await;
    let audit = ledger.begin_run(RunKind::Verify, "0.0.0").await.unwrap();
    let before = file(&*ledger, "a").await;
    let records: Vec<_> = Outcome::ALL
        .into_iter()
        .map(|outcome| note(outcome.as_str(), outcome, "why", Some(1)))
        .chain([note("a", Outcome::Outdated, "changed", None)])
        .collect();
    done(&*ledger, audit, records.iter().cloned().map(Change::Noted).collect()).await;
    let mut sorted = records;
    sorted.sort_by(|a, b| a.subject.cmp(&b.subject));
    assert_eq!(journal(&*ledger, audit).await, sorted);
    assert_eq!(files(&*ledger, FileFilter::default()).await, [before]);
}

pub(crate) async fn a_later_outcome_of_the_same_run_replaces_the_earlier(place: &dyn Place) {
    let ledger = place.open().await;
    let first = begin(&*ledger).await;
    done(&*ledger, first, vec![intend("a"), fail("a")]).await;
    done(&*ledger, first, vec![intend("a"), publish("a", Verified::Backend)]).await;
    let second = begin(&*ledger).await;
    done(&*ledger, second, vec![gone("a")]).await;
    let outcomes = |lines: Vec<OutcomeRecord>| lines.into_iter().map(|line| line.outcome).collect::<Vec<_>>();
    assert_eq!(outcomes(journal(&*ledger, first).await), [Outcome::Copied]);
    assert_eq!(outcomes(journal(&*ledger, second).await), [Outcome::Gone]);
}

pub(crate) async fn orphans_stay_until_they_are_forgotten(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    done(&*ledger, run, vec![intend("b"), begun("b", "u1"), begun("b", "u2"), gone("b")]).await;
    done(&*ledger, run, vec![intend("a"), begun("a", "u1"), gone("a")]).await;
    ledger.finish_run(run, RunEnd::Complete, Tally::default(), true).await.unwrap();
    drop(ledger);
    let ledger = place.open().await;
    begin(&*ledger).await;
    let all = [ticket("a", "u1"), ticket("b", "u1"), ticket("b", "u2")];
    assert_eq!(ledger.orphans().await.unwrap(), all);
    ledger.forget_orphan(&all[1]).await.unwrap();
    ledger.forget_orphan(&all[1]).await.unwrap();
    drop(ledger);
    let ledger = place.open().await;
    assert_eq!(ledger.orphans().await.unwrap(), [all[0].clone(), all[2].clone()]);
}

/// Names whose byte order is not that of a dictionary, of UTF-16 or of path segments.
const ODD_NAMES: [&str; 16] = [
    "A",
    "B",
    "a",
    "a b",
    "a-b",
    "a/b",
    "a/b/c",
    "a0",
    "a\nb",
    "aé",
    "ae\u{301}",
    "é",
    "\u{ffff}",
    "\u{10000}",
    "%61",
    "-rf",
];

pub(crate) async fn yields_files_in_byte_order_and_each_once(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let mut names: Vec<String> = ODD_NAMES.iter().map(|name| (*name).to_owned()).collect();
    names.extend((0..2500).map(|n| format!("many/{}", n * 7919 % 2500)));
    done(&*ledger, run, names.iter().map(|name| intend(name)).collect()).await;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let found: Vec<_> =
        files(&*ledger, FileFilter::default()).await.into_iter().map(|file| file.id.to_string()).collect();
    assert_eq!(found, names);
}

pub(crate) async fn yields_files_of_the_states_and_behind_the_id_that_were_asked_for(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for (number, state) in State::ALL.into_iter().cycle().take(24).enumerate() {
        bring_to(&*ledger, run, &format!("f{number:02}"), state).await;
    }
    let all = files(&*ledger, FileFilter::default()).await;
    for states in [vec![], vec![State::Copied], vec![State::Copying, State::Gone], State::ALL.to_vec()] {
        for after in [None, Some(id("a")), Some(id("f07")), Some(id("f07x")), Some(id("f23")), Some(id("z"))]
        {
            let expected: Vec<_> = all
                .iter()
                .filter(|file| states.is_empty() || states.contains(&file.state))
                .filter(|file| after.as_ref().is_none_or(|after| file.id > *after))
                .cloned()
                .collect();
            let filter = FileFilter { states: states.clone(), after: after.clone() };
            assert_eq!(files(&*ledger, filter).await, expected, "{states:?} {after:?}");
        }
    }
}

pub(crate) async fn yields_outcomes_in_byte_order_of_their_run_only(place: &dyn Place) {
    let ledger = place.open().await;
    let other = begin(&*ledger).await;
    done(&*ledger, other, vec![Change::Noted(note("other", Outcome::Skipped, "", None))]).await;
    let run = begin(&*ledger).await;
    let mut subjects: Vec<String> = ODD_NAMES.iter().map(|name| (*name).to_owned()).collect();
    subjects.extend(["", "a\u{1}", "a\u{1}\u{1}", "../x\\xff", "/"].map(str::to_owned));
    subjects.extend((0..2500).map(|n| format!("many/{}", n * 7919 % 2500)));
    let noted = subjects.iter().map(|subject| Change::Noted(note(subject, Outcome::Skipped, "", None)));
    done(&*ledger, run, noted.collect()).await;
    subjects.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let found: Vec<_> = journal(&*ledger, run).await.into_iter().map(|record| record.subject).collect();
    assert_eq!(found, subjects);
    assert_eq!(journal(&*ledger, RunId(99)).await, []);
}

pub(crate) async fn a_stream_of_files_goes_on_while_others_write(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let name = |n: usize| format!("f{n:05}");
    done(&*ledger, run, (0..3000).map(|n| intend(&name(n))).collect()).await;
    let mut stream = ledger.files(FileFilter::default());
    let mut seen = Vec::new();
    while let Some(file) = stream.next().await {
        let file = file.unwrap();
        if seen.len() % 500 == 0 {
            done(&*ledger, run, vec![publish(file.id.as_str(), Verified::Backend)]).await;
        }
        seen.push(file.id.to_string());
    }
    assert_eq!(seen, (0..3000).map(name).collect::<Vec<_>>());
    // A stream that outlives its ledger's handle, or is dropped early, holds nothing up.
    let mut early = ledger.files(FileFilter::default());
    early.next().await.unwrap().unwrap();
    drop(ledger);
    drop(early);
    place.open().await;
}

pub(crate) async fn counts_files_by_state(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    assert_eq!(ledger.state_counts().await.unwrap(), BTreeMap::new());
    for (number, state) in State::ALL.into_iter().enumerate() {
        for copy in 0..=number {
            bring_to(&*ledger, run, &format!("{state}/{copy}"), state).await;
        }
    }
    let expected: BTreeMap<_, _> = State::ALL
        .into_iter()
        .zip(1..)
        .map(|(state, files)| (state, Count { files, bytes: files * 10 }))
        .collect();
    assert_eq!(ledger.state_counts().await.unwrap(), expected);
}

pub(crate) async fn counts_outcomes_and_reasons(place: &dyn Place) {
    let ledger = place.open().await;
    let other = begin(&*ledger).await;
    done(&*ledger, other, vec![Change::Noted(note("x", Outcome::Skipped, "fifo", Some(1)))]).await;
    let run = begin(&*ledger).await;
    assert_eq!(ledger.outcome_counts(run).await.unwrap(), BTreeMap::new());
    assert_eq!(ledger.reason_counts(run).await.unwrap(), []);
    let lines = [
        ("a", Outcome::Skipped, "fifo", None),
        ("b", Outcome::Skipped, "socket", Some(3)),
        ("c", Outcome::Skipped, "socket", Some(4)),
        ("d", Outcome::Failed, "timeout", Some(100)),
        ("e", Outcome::Failed, "fifo", Some(1)),
        ("f", Outcome::Failed, "timeout", Some(100)),
        ("g", Outcome::Failed, "timeout", Some(100)),
    ];
    let noted =
        lines.map(|(subject, outcome, reason, size)| Change::Noted(note(subject, outcome, reason, size)));
    done(&*ledger, run, noted.into()).await;
    let counts = ledger.outcome_counts(run).await.unwrap();
    let expected =
        [(Outcome::Skipped, Count { files: 3, bytes: 7 }), (Outcome::Failed, Count { files: 4, bytes: 301 })];
    assert_eq!(counts, expected.into());
    let reasons = ledger.reason_counts(run).await.unwrap();
    let expected = [
        (Outcome::Failed, "timeout".to_owned(), 3),
        (Outcome::Skipped, "socket".to_owned(), 2),
        (Outcome::Failed, "fifo".to_owned(), 1),
        (Outcome::Skipped, "fifo".to_owned(), 1),
    ];
    assert_eq!(reasons, expected);
}

pub(crate) async fn tells_the_history_of_a_subject_oldest_first(place: &dyn Place) {
    let ledger = place.open().await;
    let mut expected = Vec::new();
    for outcome in [Outcome::Failed, Outcome::Copied, Outcome::Gone] {
        let run = begin(&*ledger).await;
        let record = note("a", outcome, "why", None);
        done(
            &*ledger,
            run,
            vec![Change::Noted(record.clone()), Change::Noted(note("b", Outcome::Skipped, "", None))],
        )
        .await;
        expected.push((run, record));
        begin(&*ledger).await;
    }
    assert_eq!(ledger.history("a").await.unwrap(), expected);
    assert_eq!(ledger.history("c").await.unwrap(), []);
}

pub(crate) async fn keeps_attempts_apart_from_outcomes(place: &dyn Place) {
    let ledger = place.open().await;
    let tried = |number, reason: &str| Change::Tried {
        id: id("a"),
        number,
        reason: reason.into(),
        detail: format!("{reason} in full"),
    };
    let mut expected = Vec::new();
    for _ in 0..2 {
        let run = begin(&*ledger).await;
        // Also of a file that has no row yet.
        done(&*ledger, run, vec![tried(1, "timeout"), tried(2, "throttled")]).await;
        expected.extend([(run, 1, "timeout"), (run, 2, "throttled")]);
        assert_eq!(journal(&*ledger, run).await, []);
    }
    let attempts = ledger.attempts(&id("a")).await.unwrap();
    let told: Vec<_> = attempts.iter().map(|one| (one.run, one.number, one.reason.as_str())).collect();
    assert_eq!(told, expected);
    assert_eq!(attempts[0].detail, "timeout in full");
    assert_eq!(ledger.attempts(&id("b")).await.unwrap(), []);
    assert_eq!(ledger.file(&id("a")).await.unwrap(), None);
}

pub(crate) async fn keeps_the_course_of_a_run_until_it_ends(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    assert_eq!(ledger.course(run).await.unwrap(), None);
    let mut course = Course::default();
    course.settings.insert("concurrency".into(), "8".into());
    ledger.note_course(run, course.clone()).await.unwrap();
    course.timeline.push(Point { ms: 250, read: 1, sent: u64::MAX, done: 3 });
    course.slowest.push(Slow { id: "\u{1b}\n".into(), size: 1, micros: 2 });
    ledger.note_course(run, course.clone()).await.unwrap();
    ledger.finish_run(run, RunEnd::Complete, Tally::default(), true).await.unwrap();
    ledger.note_course(run, Course::default()).await.unwrap_err();
    assert_eq!(ledger.course(run).await.unwrap(), Some(course));
}

pub(crate) async fn keeps_the_first_proof_of_each_run(place: &dyn Place) {
    let ledger = place.open().await;
    assert_eq!(ledger.proof(None).await.unwrap(), None);
    let (first, second) = (begin(&*ledger).await, begin(&*ledger).await);
    let [one, two] = [Digest::of(b"1"), Digest::of(b"2")];
    assert_eq!(ledger.note_proof(first, None, one).await.unwrap(), Recorded::Done);
    assert_eq!(ledger.note_proof(second, Some(one), two).await.unwrap(), Recorded::Done);
    assert_eq!(ledger.note_proof(first, Some(two), two).await.unwrap(), Recorded::Stale);
    let latest = ledger.proof(None).await.unwrap().unwrap();
    assert_eq!((latest.run, latest.previous, latest.head), (second, Some(one), two));
    let kept = ledger.proof(Some(first)).await.unwrap().unwrap();
    assert_eq!((kept.run, kept.previous, kept.head), (first, None, one));
    assert_eq!(ledger.proof(Some(RunId(9))).await.unwrap(), None);
}

pub(crate) async fn keeps_odd_names_and_extreme_values(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let long = "é".repeat(512);
    for name in ODD_NAMES.into_iter().chain([long.as_str()]) {
        let version = version("v\u{1}'\"; DROP TABLE files --");
        let size = i64::MAX as u64;
        done(&*ledger, run, vec![Change::Intend { id: id(name), size, source_version: version.clone() }])
            .await;
        let started = SystemTime::UNIX_EPOCH - Duration::from_nanos(1);
        let begun = UploadTicket::new(id(name), "u\u{1}\n", u64::from(u32::MAX) + 1, started);
        done(&*ledger, run, vec![Change::UploadBegun { ticket: begun.clone() }]).await;
        let record = file(&*ledger, name).await;
        assert_eq!((record.size, record.source_version, record.ticket), (size, version, Some(begun)));
        assert_eq!(record.id.as_str(), name);
    }
    // More than an engine can hold is refused, never cut.
    let change = Change::Intend { id: id("big"), size: u64::MAX, source_version: version("v") };
    if ledger.record(run, vec![change]).await.is_ok() {
        assert_eq!(file(&*ledger, "big").await.size, u64::MAX);
    } else {
        assert_eq!(ledger.file(&id("big")).await.unwrap(), None);
    }
}

pub(crate) async fn candidates_are_yielded_in_byte_order_until_they_are_cleared(place: &dyn Place) {
    let ledger = place.open().await;
    let candidate = |text: &str, size, version: Option<&str>| Candidate {
        id: id(text),
        size,
        version: version.map(Version::new),
        excluded: size % 2 == 1,
    };
    let found = async |ledger: &dyn Ledger| ledger.candidates().try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(found(&*ledger).await, []);
    ledger.add_candidates(vec![]).await.unwrap();
    let names = ["z", "a/b", "a", "a.b", "é"];
    let some = names.map(|name| candidate(name, name.len() as u64, (name != "a").then_some("v1")));
    ledger.add_candidates(some.to_vec()).await.unwrap();
    let many: Vec<_> = (0..2500).map(|number| candidate(&format!("m/{number:04}"), number, None)).collect();
    ledger.add_candidates(many.clone()).await.unwrap();
    ledger.add_candidates(vec![candidate("z", 9, Some("v2"))]).await.unwrap();
    let mut expected = many;
    expected.extend(some[1..].iter().cloned().chain([candidate("z", 9, Some("v2"))]));
    expected.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(found(&*ledger).await, expected);
    drop(ledger);
    let ledger = place.open().await;
    assert_eq!(found(&*ledger).await, expected);
    ledger.clear_candidates().await.unwrap();
    assert_eq!(found(&*ledger).await, []);
}

pub(crate) async fn the_place_of_the_source_is_the_last_that_was_set(place: &dyn Place) {
    let ledger = place.open().await;
    let binding = ledger.binding().clone();
    assert_eq!(ledger.source_place().await.unwrap(), None);
    for place in ["file system 1", "file system 2"] {
        ledger.set_source_place(place).await.unwrap();
        assert_eq!(ledger.source_place().await.unwrap().as_deref(), Some(place));
    }
    drop(ledger);
    let ledger = place.open().await;
    assert_eq!(ledger.source_place().await.unwrap().as_deref(), Some("file system 2"));
    assert_eq!(*ledger.binding(), binding);
}

pub(crate) async fn the_capabilities_of_the_target_are_the_last_that_were_set(place: &dyn Place) {
    let ledger = place.open().await;
    assert_eq!(ledger.target_capabilities().await.unwrap(), None);
    let mut found = Capabilities::default();
    ledger.set_target_capabilities(&found).await.unwrap();
    assert_eq!(ledger.target_capabilities().await.unwrap(), Some(found.clone()));
    (found.conditional_create, found.max_size) = (true, Some(5 << 40));
    ledger.set_target_capabilities(&found).await.unwrap();
    drop(ledger);
    assert_eq!(place.open().await.target_capabilities().await.unwrap(), Some(found));
}

pub(crate) async fn everything_recorded_is_there_when_opened_again(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for state in State::ALL {
        bring_to(&*ledger, run, state.as_str(), state).await;
    }
    done(&*ledger, run, vec![intend("o"), begun("o", "u1"), begun("o", "u2"), stored("o", 1, "t")]).await;
    ledger.checkpoint(run, Tally { planned: 6, ..Tally::default() }, Some(id("x"))).await.unwrap();
    let before = dump(&*ledger).await;
    let binding = ledger.binding().clone();
    drop(ledger);
    let ledger = place.open().await;
    assert_eq!(dump(&*ledger).await, before);
    assert_eq!(*ledger.binding(), binding);
    assert!(!ledger.location().is_empty());
}

pub(crate) async fn calls_at_the_same_time_are_each_answered(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    let callers = (0..16).map(|caller| {
        let ledger = Arc::clone(&ledger);
        tokio::spawn(async move {
            for n in 0..50 {
                let text = format!("{caller}/{n}");
                done(&*ledger, run, vec![intend(&text)]).await;
                done(&*ledger, run, vec![publish(&text, Verified::Backend)]).await;
                assert_eq!(
                    file(&*ledger, &text).await.state,
                    State::Verified,
                    "seen by whoever was answered"
                );
            }
        })
    });
    for caller in futures::future::join_all(callers).await {
        caller.unwrap();
    }
    assert_eq!(ledger.outcome_counts(run).await.unwrap()[&Outcome::Copied].files, 800);
}

pub(crate) async fn a_dropped_call_harms_nobody(place: &dyn Place) {
    let ledger = place.open().await;
    let run = begin(&*ledger).await;
    for n in 0..50 {
        let name = format!("dropped/{n}");
        let mut call = Box::pin(ledger.record(run, vec![intend(&name)]));
        let _ = futures::poll!(&mut call);
        drop(call);
        drop(Box::pin(ledger.file(&id(&name))));
        done(&*ledger, run, vec![intend(&format!("kept/{n}"))]).await;
    }
    let kept = files(&*ledger, FileFilter { after: Some(id("j")), ..FileFilter::default() }).await;
    assert_eq!(kept.len(), 50);
}
