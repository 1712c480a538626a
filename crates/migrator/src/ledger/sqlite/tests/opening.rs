//! What opening makes of what it finds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use rusqlite::Connection;
use tempfile::TempDir;

use super::super::connection::{self, Kind};
use super::super::{OpenMode, SqliteLedger, rows, sql};
use super::binding;
use crate::course::Course;
use crate::item::State;
use crate::ledger::conformance::{done, dump, id, intend, publish};
use crate::ledger::{Binding, FileFilter, Ledger, LedgerError, RunId, RunKind};
use storage_core::storage::Verified;

async fn open(path: &Path, mode: OpenMode) -> Result<SqliteLedger, LedgerError> {
    SqliteLedger::open(path, &binding(), mode).await
}

/// A closed ledger with `files` verified files.
async fn closed_ledger(directory: &TempDir, files: usize) -> PathBuf {
    let path = directory.path().join("ledger.db");
    let ledger = open(&path, OpenMode::Create).await.unwrap();
    let run = ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    for n in 0..files {
        let text = format!("some/where/{n:06}");
        done(&ledger, run, vec![intend(&text), publish(&text, Verified::Backend)]).await;
    }
    path
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Opens in every way and expects each to say that the ledger is corrupt, for a reason, and to leave it alone.
async fn assert_corrupt(path: &Path, reason: &str) {
    let before = fs::read(path).unwrap();
    for mode in [Some(OpenMode::Create), Some(OpenMode::Existing), None] {
        let result = match mode {
            Some(mode) => open(path, mode).await,
            None => SqliteLedger::open_read_only(path).await,
        };
        match result {
            Err(LedgerError::Corrupt { reason: found, location }) => {
                assert!(found.contains(reason), "{mode:?}: {found}");
                assert_eq!(location, path.display().to_string());
            }
            other => panic!("{mode:?}: {other:?}"),
        }
        assert_eq!(fs::read(path).unwrap(), before, "{mode:?}");
    }
}

#[tokio::test]
async fn a_missing_ledger_is_made_only_by_create() {
    let directory = TempDir::new().unwrap();
    for path in [directory.path().join("ledger.db"), directory.path().join("no/such/ledger.db")] {
        assert!(matches!(open(&path, OpenMode::Existing).await, Err(LedgerError::Missing { .. })));
        let result = SqliteLedger::open_read_only(&path).await;
        assert!(matches!(result, Err(LedgerError::Missing { .. })));
        assert_eq!(names(directory.path()), [""; 0], "looking makes nothing");
    }
    let path = directory.path().join("new/new/ledger.db");
    drop(open(&path, OpenMode::Create).await.unwrap());
    drop(open(&path, OpenMode::Existing).await.unwrap());
}

#[tokio::test]
async fn file_names_are_readable_by_the_owner_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    let ledger = open(&path, OpenMode::Create).await.unwrap();
    ledger.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    ledger.state_counts().await.unwrap();
    let open_names = names(directory.path());
    assert_eq!(open_names, ["ledger.db", "ledger.db-shm", "ledger.db-wal", "ledger.db.lock"]);
    for name in open_names {
        let mode = fs::metadata(directory.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_clean_close_leaves_one_file_and_a_free_lock() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 10).await;
    assert_eq!(names(directory.path()), ["ledger.db", "ledger.db.lock"]);
    let lock = fs::metadata(directory.path().join("ledger.db.lock")).unwrap();
    assert_eq!(lock.len(), 0, "the last holder's name is not left to mislead");
    drop(open(&path, OpenMode::Existing).await.unwrap());
}

#[tokio::test]
async fn writes_are_synced_at_each_commit() {
    // Killing a process shows nothing of this; only a power cut would.
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 1).await;
    let connection = connection::open_writer(&path).unwrap();
    connection::prepare_writer(&connection).unwrap();
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!((mode.as_str(), synchronous), ("wal", 2));
}

#[tokio::test]
async fn garbage_is_no_ledger_and_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    for garbage in [b"x".to_vec(), b"not a database, not at all".repeat(1000), vec![0; 100_000]] {
        fs::write(&path, garbage).unwrap();
        assert_corrupt(&path, "not a database").await;
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let result = open(&path, OpenMode::Create).await;
    assert!(
        matches!(&result, Err(LedgerError::Corrupt { reason, .. }) if reason.contains("regular")),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_truncated_ledger_is_corrupt() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 300).await;
    let whole = fs::read(&path).unwrap();
    for length in [50, 99, 100, 4096, 5000, 8192, whole.len() / 2, whole.len() - 4096] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_corrupt(&path, "").await;
    }
}

#[tokio::test]
async fn damage_inside_is_found_when_it_is_read() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 300).await;
    let mut bytes = fs::read(&path).unwrap();
    // All pages but the first, which holds header and schema.
    bytes[4096..].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    match open(&path, OpenMode::Existing).await {
        Err(error) => assert!(matches!(error, LedgerError::Corrupt { .. }), "{error:?}"),
        Ok(ledger) => {
            let result = ledger.files(FileFilter::default()).try_collect::<Vec<_>>().await;
            assert!(matches!(result, Err(LedgerError::Corrupt { .. })), "{result:?}");
        }
    }
}

#[tokio::test]
async fn a_value_that_no_release_writes_is_corrupt() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 1).await;
    Connection::open(&path).unwrap().execute("UPDATE files SET state = 'done'", []).unwrap();
    let ledger = open(&path, OpenMode::Existing).await.unwrap();
    let result = ledger.file(&id("some/where/000000")).await;
    assert!(
        matches!(&result, Err(LedgerError::Corrupt { reason, .. }) if reason.contains("done")),
        "{result:?}"
    );
    assert!(matches!(ledger.state_counts().await, Err(LedgerError::Corrupt { .. })));
}

#[tokio::test]
async fn the_database_of_another_program_is_not_taken_over() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("photos.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE files (id TEXT PRIMARY KEY)").unwrap();
    assert_corrupt(&path, "another program").await;
    Connection::open(&path).unwrap().pragma_update(None, "application_id", 7).unwrap();
    assert_corrupt(&path, "another program").await;
}

#[tokio::test]
async fn a_creation_that_was_broken_off_is_taken_up_by_create_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    let blank_page = |path: &Path| {
        Connection::open(path).unwrap().pragma_update(None, "journal_mode", "wal").unwrap();
    };
    for prepare in [&(|path: &Path| fs::write(path, b"").unwrap()) as &dyn Fn(&Path), &blank_page] {
        prepare(&path);
        assert!(matches!(open(&path, OpenMode::Existing).await, Err(LedgerError::Corrupt { .. })));
        let result = SqliteLedger::open_read_only(&path).await;
        assert!(matches!(result, Err(LedgerError::Corrupt { .. })), "{result:?}");
        drop(open(&path, OpenMode::Create).await.unwrap());
        drop(open(&path, OpenMode::Existing).await.unwrap());
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn a_newer_ledger_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 1).await;
    let newer = connection::newest() + 1;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", newer).unwrap();
    let before = fs::read(&path).unwrap();
    for result in [
        open(&path, OpenMode::Create).await,
        open(&path, OpenMode::Existing).await,
        SqliteLedger::open_read_only(&path).await,
    ] {
        match result {
            Err(LedgerError::Newer { found, supported, .. }) => {
                assert_eq!((found, supported), (newer, connection::newest()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn an_older_ledger_is_migrated_whole_or_not_at_all() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 1).await;
    let mut connection = connection::open_writer(&path).unwrap();
    let kind = connection::inspect(&connection).unwrap();
    let released = connection::newest();
    assert_eq!(kind, Kind::Ledger(released));
    let next = "ALTER TABLE files ADD COLUMN note TEXT";
    let broken = [sql::MIGRATIONS, &[next, "ALTER TABLE nothing ADD COLUMN note TEXT"]].concat();
    connection::migrate(&mut connection, &broken, kind, &binding()).unwrap_err();
    let version = |connection: &Connection| -> u32 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    assert_eq!(version(&connection), released);
    connection.prepare("SELECT note FROM files").map(drop).unwrap_err();
    let whole = &broken[..sql::MIGRATIONS.len() + 1];
    connection::migrate(&mut connection, whole, kind, &binding()).unwrap();
    assert_eq!(version(&connection), released + 1);
    let rows: i64 =
        connection.query_row("SELECT count(*) FROM files WHERE note IS NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

/// What the first release wrote is a ledger still, with everything in it.
#[tokio::test]
async fn a_ledger_of_the_first_schema_is_brought_to_this_one() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("l.sqlite");
    fs::File::create(&path).unwrap();
    let mut connection = connection::open_writer(&path).unwrap();
    connection::prepare_writer(&connection).unwrap();
    connection::migrate(&mut connection, &sql::MIGRATIONS[..1], Kind::Blank, &binding()).unwrap();
    connection
        .execute_batch(
            "INSERT INTO runs (kind, program, started, tally) VALUES ('copy', '0', 1, '{}');
             INSERT INTO files (id, state, size, source_version, attempts, run, updated)
             VALUES ('a', 'copying', 1, 'v', 1, 1, 1);",
        )
        .unwrap();
    drop(connection);
    let ledger = open(&path, OpenMode::Existing).await.unwrap();
    assert_eq!(ledger.file(&id("a")).await.unwrap().unwrap().size, 1);
    assert_eq!(ledger.course(RunId(1)).await.unwrap(), None);
    ledger.note_course(RunId(1), Course::default()).await.unwrap();
    assert_eq!(ledger.file(&id("a")).await.unwrap().unwrap().state, State::Copying);
    assert_eq!(ledger.source_place().await.unwrap(), None);
    assert_eq!(ledger.run(None).await.unwrap().unwrap().tally.candidates, 0);
}

#[tokio::test]
async fn a_ledger_of_another_pair_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 1).await;
    for other in [
        Binding { target: "s3://other".into(), ..binding() },
        Binding { source: "/srv/files/".into(), ..binding() },
        Binding { source: binding().target, target: binding().source },
    ] {
        match SqliteLedger::open(&path, &other, OpenMode::Create).await {
            Err(LedgerError::OtherPair { found, asked, .. }) => {
                assert_eq!((found, asked), (binding(), other))
            }
            result => panic!("{result:?}"),
        }
    }
    assert_eq!(*open(&path, OpenMode::Existing).await.unwrap().binding(), binding());
}

#[tokio::test]
async fn a_second_opening_is_told_who_holds_the_ledger() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    let first = open(&path, OpenMode::Create).await.unwrap();
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link] {
        match open(path, OpenMode::Create).await {
            Err(LedgerError::Locked { holder, .. }) => {
                assert!(holder.contains(&format!("process {} on ", std::process::id())), "{holder}");
            }
            result => panic!("{result:?}"),
        }
    }
    drop(first);
    open(&link, OpenMode::Create).await.unwrap();
}

#[tokio::test]
async fn what_a_dead_holder_left_written_blocks_nobody() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    fs::write(directory.path().join("ledger.db.lock"), "process 1 on elsewhere, a long and stale text")
        .unwrap();
    let ledger = open(&path, OpenMode::Create).await.unwrap();
    let text = fs::read_to_string(directory.path().join("ledger.db.lock")).unwrap();
    assert!(
        text.starts_with(&format!("process {}", std::process::id())) && !text.contains("stale"),
        "{text}"
    );
    drop(ledger);
}

#[tokio::test]
async fn reading_goes_on_beside_a_writer_and_writes_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.db");
    let writer = open(&path, OpenMode::Create).await.unwrap();
    let run = writer.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    let reader = SqliteLedger::open_read_only(&path).await.unwrap();
    assert_eq!(*reader.binding(), binding());
    for n in 0..5 {
        done(&writer, run, vec![intend(&format!("{n}"))]).await;
        assert_eq!(
            reader.state_counts().await.unwrap()[&State::Copying].files,
            n + 1,
            "sees what is durable"
        );
    }
    assert_eq!(dump(&reader).await, dump(&writer).await);
    for error in [
        reader.begin_run(RunKind::Copy, "0.0.0").await.unwrap_err(),
        reader.record(run, vec![intend("x")]).await.unwrap_err(),
        reader.forget_orphan(&crate::ledger::conformance::ticket("a", "u")).await.unwrap_err(),
    ] {
        assert!(matches!(error, LedgerError::ReadOnly { .. }), "{error:?}");
    }
    drop(reader);
    done(&writer, run, vec![intend("after the reader left")]).await;
    drop(writer);
    let before = fs::read(&path).unwrap();
    let reader = SqliteLedger::open_read_only(&path).await.unwrap();
    assert_eq!(reader.state_counts().await.unwrap()[&State::Copying].files, 6);
    drop(reader);
    assert_eq!(fs::read(&path).unwrap(), before);
    open(&path, OpenMode::Existing).await.unwrap();
}

#[tokio::test]
async fn a_ledger_in_a_path_with_odd_characters_opens() {
    let directory = TempDir::new().unwrap();
    for name in ["a b?c#d%20", "é\n", "file:x", "-rf"] {
        let path = directory.path().join(name).join("ledger.db");
        drop(open(&path, OpenMode::Create).await.unwrap());
        let (_, view) = connection::open_read_only(&path).unwrap();
        assert_eq!(view, connection::View::Live);
        let frozen = connection::open_reader(&path, connection::View::Frozen).unwrap();
        assert_eq!(connection::read_binding(&frozen).unwrap(), binding());
    }
}

#[tokio::test]
async fn no_page_of_a_listing_reads_what_was_read_before() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 1).await;
    let connection = Connection::open(&path).unwrap();
    for statement in sql::ALL {
        connection.prepare(statement).unwrap();
    }
    // Files are read by the places of their columns.
    for statement in [sql::FILE, sql::FILES_PAGE] {
        let prepared = connection.prepare(statement).unwrap();
        assert!(prepared.column_names().eq(rows::place::NAMES), "{statement}");
    }
    for (statement, expected) in [
        (sql::FILES_PAGE, "SEARCH files USING PRIMARY KEY (id>?)"),
        (sql::OUTCOMES_PAGE, "SEARCH outcomes USING PRIMARY KEY (run=? AND subject>?)"),
        (sql::PARTS, "SEARCH parts USING PRIMARY KEY (id=?)"),
        (sql::FILE, "SEARCH files USING PRIMARY KEY (id=?)"),
    ] {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        for number in 1..=plan.parameter_count() {
            plan.raw_bind_parameter(number, rusqlite::types::Null).unwrap();
        }
        let mut steps = Vec::new();
        let mut rows = plan.raw_query();
        while let Some(row) = rows.next().unwrap() {
            steps.push(row.get::<_, String>("detail").unwrap());
        }
        assert_eq!(steps, [expected]);
    }
}

/// A rehearsal leaves nothing beside the ledger, as other readers do, and is nothing worth once somebody has written.
#[tokio::test]
async fn an_unchanging_reader_makes_nothing_and_finds_out_that_somebody_wrote() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 3).await;
    let before = (names(directory.path()), fs::read(&path).unwrap());
    let ledger = SqliteLedger::open_unchanging(&path).await.unwrap();
    assert_eq!(ledger.files(FileFilter::default()).try_collect::<Vec<_>>().await.unwrap().len(), 3);
    ledger.check_unchanged().await.unwrap();
    assert_eq!((names(directory.path()), fs::read(&path).unwrap()), before);

    let writer = open(&path, OpenMode::Existing).await.unwrap();
    writer.begin_run(RunKind::Copy, "0.0.0").await.unwrap();
    let refused = ledger.check_unchanged().await;
    assert!(matches!(refused, Err(LedgerError::Locked { .. })), "{refused:?}");
    let refused = SqliteLedger::open_unchanging(&path).await;
    assert!(matches!(refused, Err(LedgerError::Locked { .. })), "{refused:?}");
    let holder = SqliteLedger::holder(&path).await.unwrap().unwrap();
    assert!(holder.contains(&format!("process {} on ", std::process::id())), "{holder}");
    drop(writer);
    // Its log is back in the file by now.
    let refused = ledger.check_unchanged().await;
    assert!(matches!(refused, Err(LedgerError::Locked { .. })), "{refused:?}");
    assert_eq!(SqliteLedger::holder(&path).await.unwrap(), None);
    let missing = directory.path().join("none");
    assert_eq!(SqliteLedger::holder(&missing).await.unwrap(), None);
    assert!(matches!(SqliteLedger::open_unchanging(&missing).await, Err(LedgerError::Missing { .. })));
    assert!(!missing.exists());
}

/// `status` looks at the lock by having it for a moment: no run is refused for that.
#[tokio::test]
async fn a_look_at_the_lock_refuses_no_run() {
    let directory = TempDir::new().unwrap();
    let path = closed_ledger(&directory, 1).await;
    let lock = fs::File::open(path.with_extension("db.lock")).unwrap();
    lock.lock_shared().unwrap();
    let look = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(2));
        drop(lock);
    });
    open(&path, OpenMode::Existing).await.unwrap();
    look.join().unwrap();
}
