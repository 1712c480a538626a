//! Connections: how they are opened, what they are told, and what makes a database a ledger.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, named_params};

use super::failure::Failure;
use super::rows::nanoseconds;
use super::{place, sql};
use crate::ledger::Binding;

/// `MIGL`: marks a database as a ledger (`PRAGMA application_id`).
const APPLICATION: i32 = 0x4D49_474C;

/// How long a statement waits for a lock. Nobody but the writer of one process writes, so only a foreign tool
/// makes it wait.
const BUSY: Duration = Duration::from_secs(5);

/// Cached statements per connection: more than there are.
const STATEMENTS: usize = 64;

/// How a connection sees the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Together with a writer that may be there.
    Live,
    /// As a file that nobody changes: on a medium that cannot be written, where SQLite cannot make the shared
    /// index that a live view needs.
    Frozen,
}

/// What a database turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing in it: just made, or a creation that was broken off.
    Blank,
    /// A ledger of this schema version.
    Ledger(u32),
}

/// Opens a connection that reads and writes an existing file. It is not told anything yet: see [`inspect`] and
/// [`prepare_writer`].
pub(super) fn open_writer(path: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    set_up(Connection::open_with_flags(path, flags)?)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path, view: View) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    set_up(match view {
        View::Live => Connection::open_with_flags(path, flags)?,
        View::Frozen => {
            let mut uri = "file://".to_owned();
            for byte in path.as_os_str().as_bytes() {
                // Writing into a string cannot fail.
                let _ = match byte {
                    b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                        write!(uri, "{}", char::from(*byte))
                    }
                    _ => write!(uri, "%{byte:02X}"),
                };
            }
            uri.push_str("?immutable=1");
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
        }
    })
}

fn set_up(connection: Connection) -> Result<Connection, Failure> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Finds out what the database is, reading its first page only.
pub(super) fn inspect(connection: &Connection) -> Result<Kind, Failure> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let blank: bool =
        connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let found = connection.path().map_or(Ok(place::Found::Empty), |path| place::look(Path::new(path)))?;
    if pages == 0 && found == place::Found::File {
        // SQLite takes a file that is too short for its header as one that is still empty.
        return Err(Failure::Corrupt("file is not a database".to_owned()));
    }
    let supported = newest();
    match (application, version) {
        (0, 0) if blank => Ok(Kind::Blank),
        (APPLICATION, found) if found > supported => Err(Failure::Newer { found, supported }),
        (APPLICATION, version) if version > 0 && !blank => Ok(Kind::Ledger(version)),
        (APPLICATION, _) => Err(Failure::Corrupt("its tables are missing".to_owned())),
        _ => Err(Failure::Corrupt("it is a database of another program".to_owned())),
    }
}

/// The schema version of this release.
pub(super) fn newest() -> u32 {
    // A dozen migrations at most: the count fits.
    sql::MIGRATIONS.len() as u32
}

/// Tells the connection to write durably.
///
/// WAL with `synchronous=FULL` is the one pair that loses nothing in a power cut: WAL with NORMAL does not sync
/// a commit, and DELETE with FULL does not sync the directory after it.
pub(super) fn prepare_writer(connection: &Connection) -> Result<(), Failure> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Failure::Other(format!("the file system allows journal mode {mode} only, not wal")));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // In pages of 4 KiB: a checkpoint per 16 MiB keeps its syncs rare beside those of the commits.
    connection.pragma_update(None, "wal_autocheckpoint", 4096)?;
    // In bytes: after a burst, the log's file shrinks back to this.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(())
}

/// Applies the migrations that the database lacks, all or none, and binds a new ledger to its pair.
pub(super) fn migrate(
    connection: &mut Connection,
    migrations: &[&str],
    kind: Kind,
    binding: &Binding,
) -> Result<(), Failure> {
    let applied = match kind {
        Kind::Blank => 0,
        Kind::Ledger(version) => version as usize,
    };
    if applied >= migrations.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in &migrations[applied..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    if kind == Kind::Blank {
        transaction.execute(
            sql::BINDING_INSERT,
            named_params! {
                ":source": binding.source,
                ":target": binding.target,
                ":at": nanoseconds(Timestamp::now()),
            },
        )?;
    }
    Ok(transaction.commit()?)
}

/// Reads the pair that the ledger is about.
pub(super) fn read_binding(connection: &Connection) -> Result<Binding, Failure> {
    connection
        .query_row(sql::BINDING, [], |row| {
            Ok(Binding { source: row.get("source")?, target: row.get("target")? })
        })
        .optional()?
        .ok_or_else(|| Failure::Corrupt("it does not say which storages it is about".to_owned()))
}

/// Opens a reader of an existing ledger that no process of ours need be writing.
pub(super) fn open_read_only(path: &Path) -> Result<(Connection, View), Failure> {
    let live = open_reader(path, View::Live).and_then(|connection| Ok((inspect(&connection)?, connection)));
    let (kind, connection, view) = match live {
        Ok((kind, connection)) => (kind, connection, View::Live),
        Err(Failure::ReadOnly(reason)) => {
            if place::look(&place::beside(path, "-wal"))? == place::Found::File {
                return Err(Failure::Other(format!(
                    "{reason}; a crash left its log, which must be put back by a process that may write"
                )));
            }
            // A clean close leaves no log: the file is all there is, and is read as it stands.
            let connection = open_reader(path, View::Frozen).map_err(unreadable)?;
            (inspect(&connection).map_err(unreadable)?, connection, View::Frozen)
        }
        Err(failure) => return Err(failure),
    };
    readable(kind).map(|()| (connection, view))
}

/// Opens a reader that makes nothing beside the ledger. Where no log is left of a crash, it must be looked at afterwards
/// whether somebody has written meanwhile ([`place::Stamp`]): what was read is then nothing.
pub(super) fn open_unchanging(path: &Path) -> Result<(Connection, View), Failure> {
    if place::look(&place::beside(path, "-wal"))? == place::Found::File {
        return open_read_only(path);
    }
    let connection = open_reader(path, View::Frozen).map_err(unreadable)?;
    readable(inspect(&connection).map_err(unreadable)?)?;
    Ok((connection, View::Frozen))
}

fn readable(kind: Kind) -> Result<(), Failure> {
    match kind {
        Kind::Ledger(version) if version == newest() => Ok(()),
        Kind::Ledger(version) => Err(Failure::Other(format!(
            "it has schema version {version}; a run of this release brings it to version {}",
            newest()
        ))),
        Kind::Blank => Err(Failure::Corrupt("its tables are missing".to_owned())),
    }
}

/// A reader that is refused does not want to hear that it cannot write.
fn unreadable(failure: Failure) -> Failure {
    match failure {
        Failure::ReadOnly(reason) => Failure::Other(reason),
        failure => failure,
    }
}
