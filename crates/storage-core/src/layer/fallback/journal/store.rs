//! The tables: how the database is opened and what each change does to it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OpenFlags, Row, named_params};

use super::super::entry::{Base, Clash, Entry, Intent, Stored, Trace, What, nanoseconds, time};
use super::{Binding, Change, Failure, sql};
use crate::checksum::Digest;
use crate::id::FileId;
use crate::metadata::{Tags, Version};

/// `FALJ`: marks a database as a journal (`PRAGMA application_id`).
const APPLICATION: i32 = 0x4641_4C4A;

/// How long a statement waits for a lock. Nobody but this process uses the file, so only a foreign tool makes it
/// wait.
const BUSY: Duration = Duration::from_secs(2);

/// Opens the database, brings it to the newest schema and checks whose it is.
pub(super) fn open(path: &Path, binding: &Binding) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = version as usize;
    let blank: bool =
        connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    match (application, blank) {
        (0, true) | (APPLICATION, false) => {}
        _ => return Err(Failure::Place("it is a database of another program".to_owned())),
    }
    if version > sql::MIGRATIONS.len() {
        return Err(Failure::Place(format!(
            "it has schema version {version}, a later release wrote it; this one knows {}",
            sql::MIGRATIONS.len()
        )));
    }
    write_durably(&connection)?;
    migrate(&mut connection, version, binding)?;
    let found = read_binding(&connection)?;
    if (&found.primary, &found.secondary) != (&binding.primary, &binding.secondary) {
        return Err(Failure::Place(format!(
            "it is about the storages {:?} and {:?}, not {:?} and {:?}",
            found.primary, found.secondary, binding.primary, binding.secondary
        )));
    }
    if found != *binding {
        bind(&connection, binding)?;
    }
    Ok(connection)
}

/// WAL with `synchronous=FULL` is the one pair that loses nothing in a power cut: WAL with NORMAL does not sync a
/// commit, and DELETE with FULL does not sync the directory after it.
fn write_durably(connection: &Connection) -> Result<(), Failure> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Failure::Place(format!("the file system allows journal mode {mode} only, not wal")));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // In bytes: after a burst, the log's file shrinks back to this.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(())
}

fn migrate(connection: &mut Connection, applied: usize, binding: &Binding) -> Result<(), Failure> {
    if applied == sql::MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for migration in &sql::MIGRATIONS[applied..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", sql::MIGRATIONS.len() as i64)?;
    if applied == 0 {
        bind(&transaction, binding)?;
    }
    Ok(transaction.commit()?)
}

fn bind(connection: &Connection, binding: &Binding) -> Result<(), Failure> {
    connection.execute(
        sql::BIND,
        named_params! {
            ":primary": binding.primary,
            ":secondary": binding.secondary,
            ":primary_can": json(&binding.can.0)?,
            ":secondary_can": json(&binding.can.1)?,
        },
    )?;
    Ok(())
}

fn read_binding(connection: &Connection) -> Result<Binding, Failure> {
    let (primary, secondary, can): (_, _, (String, String)) =
        connection.query_row(sql::BINDING, [], |row| {
            let can = (row.get("primary_can")?, row.get("secondary_can")?);
            Ok((row.get("primary_name")?, row.get("secondary")?, can))
        })?;
    Ok(Binding { primary, secondary, can: (read_json(&can.0)?, read_json(&can.1)?) })
}

/// Reads whom the journal is about, without a change to it.
pub(super) fn look(path: &Path) -> Result<Binding, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    read_binding(&connection)
}

/// Reads how far the primary's clock was seen to have come.
pub(super) fn clock(connection: &Connection) -> Result<Option<SystemTime>, Failure> {
    let clock: Option<i64> = connection.query_row(sql::CLOCK, [], |row| row.get("clock"))?;
    Ok(clock.map(time))
}

/// Applies changes, and how far the clock has come where that is new, all or none; they are durable when it returns.
pub(super) fn commit(
    connection: &mut Connection,
    changes: &[Change],
    clock: Option<SystemTime>,
) -> Result<(), Failure> {
    let transaction = connection.transaction()?;
    if let Some(clock) = clock {
        let clock = nanoseconds(clock);
        transaction.prepare_cached(sql::KEEP_CLOCK)?.execute(named_params! { ":clock": clock })?;
    }
    for change in changes {
        match change {
            Change::Put(entry) => {
                put(&transaction, entry)?;
                drop_intent(&transaction, &entry.id)?;
            }
            Change::Amend(entry) => put(&transaction, entry)?,
            Change::Remove(id) => {
                transaction.prepare_cached(sql::REMOVE)?.execute(named_params! { ":id": id.as_str() })?;
            }
            Change::Intend(intent) => intend(&transaction, intent)?,
            Change::DropIntent(id) => drop_intent(&transaction, id)?,
            Change::Nothing => {}
        }
    }
    Ok(transaction.commit()?)
}

fn put(connection: &Connection, entry: &Entry) -> Result<(), Failure> {
    let (what, file) = match &entry.what {
        What::File(stored) => ("file", Some(stored)),
        What::Tombstone => ("tombstone", None),
        What::Stale => ("stale", None),
    };
    let base = Columns::of(&entry.base);
    let created = file.and_then(|file| file.created).map(split);
    connection.prepare_cached(sql::PUT)?.execute(named_params! {
        ":id": entry.id.as_str(),
        ":what": what,
        ":size": file.map(|file| signed(file.size)).transpose()?,
        ":digest": file.map(|file| file.digest.as_bytes()),
        ":content_type": file.and_then(|file| file.content_type.as_deref()),
        ":file_name": file.and_then(|file| file.file_name.as_deref()),
        ":created_secs": created.map(|(seconds, _)| seconds),
        ":created_nanos": created.map(|(_, nanoseconds)| nanoseconds),
        ":tags": file.map(|file| json(&file.tags)).transpose()?,
        ":version": file.and_then(|file| file.version.as_ref()).map(Version::as_str),
        ":base": base.kind,
        ":base_version": base.version,
        ":base_before": base.before,
        ":base_digest": base.digest,
        ":deleted": entry.deleted,
        ":ours": json(&entry.ours)?,
        ":conflict": entry.clash.as_ref().map(|clash| clash.reason.as_str()),
        ":theirs": entry.clash.as_ref().and_then(|clash| clash.theirs.as_ref()).map(Version::as_str),
        ":at": nanoseconds(entry.at),
    })?;
    Ok(())
}

fn intend(connection: &Connection, intent: &Intent) -> Result<(), Failure> {
    let base = Columns::of(&intent.base);
    connection.prepare_cached(sql::INTEND)?.execute(named_params! {
        ":id": intent.id.as_str(),
        ":size": signed(intent.size)?,
        ":digest": intent.digest.as_bytes(),
        ":base": base.kind,
        ":base_version": base.version,
        ":base_before": base.before,
        ":base_digest": base.digest,
        ":deleted": intent.deleted,
        ":ours": json(&intent.ours)?,
        ":at": nanoseconds(intent.at),
    })?;
    Ok(())
}

fn drop_intent(connection: &Connection, id: &FileId) -> Result<(), Failure> {
    connection.prepare_cached(sql::DROP_INTENT)?.execute(named_params! { ":id": id.as_str() })?;
    Ok(())
}

/// Reads all rows.
pub(super) fn load(connection: &Connection) -> Result<(Vec<Entry>, Vec<Intent>), Failure> {
    let mut statement = connection.prepare(sql::ENTRIES)?;
    let mut rows = statement.query([])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(read_entry(row)?);
    }
    let mut statement = connection.prepare(sql::INTENTS)?;
    let mut rows = statement.query([])?;
    let mut intents = Vec::new();
    while let Some(row) = rows.next()? {
        intents.push(Intent {
            id: read_id(row)?,
            size: unsigned(row.get("size")?)?,
            digest: Digest::from_bytes(row.get("digest")?),
            base: read_base(row)?,
            deleted: row.get("deleted")?,
            ours: read_json(row.get_ref("ours")?.as_str().map_err(rusqlite::Error::from)?)?,
            at: time(row.get("at")?),
        });
    }
    Ok((entries, intents))
}

fn read_entry(row: &Row<'_>) -> Result<Entry, Failure> {
    let what = match row.get::<_, String>("what")?.as_str() {
        "tombstone" => What::Tombstone,
        "stale" => What::Stale,
        _ => What::File(Stored {
            size: unsigned(row.get("size")?)?,
            digest: Digest::from_bytes(row.get("digest")?),
            content_type: row.get("content_type")?,
            file_name: row.get("file_name")?,
            created: match (row.get("created_secs")?, row.get("created_nanos")?) {
                (Some(seconds), Some(nanoseconds)) => joined(seconds, nanoseconds),
                _ => None,
            },
            tags: match row.get::<_, Option<String>>("tags")? {
                Some(tags) => read_json(&tags)?,
                None => Tags::new(),
            },
            version: row.get::<_, Option<String>>("version")?.map(Version::new),
        }),
    };
    let theirs = row.get::<_, Option<String>>("theirs")?.map(Version::new);
    let clash = row.get::<_, Option<String>>("conflict")?.map(|reason| Clash { reason, theirs });
    Ok(Entry {
        id: read_id(row)?,
        what,
        base: read_base(row)?,
        deleted: row.get("deleted")?,
        ours: read_json(&row.get::<_, String>("ours")?)?,
        clash,
        at: time(row.get("at")?),
    })
}

fn read_id(row: &Row<'_>) -> Result<FileId, Failure> {
    FileId::parse(row.get::<_, String>("id")?).map_err(|error| Failure::Corrupt(error.to_string()))
}

fn read_base(row: &Row<'_>) -> Result<Base, Failure> {
    let version = row.get::<_, Option<String>>("base_version")?.map(Version::new);
    Ok(match (row.get::<_, String>("base")?.as_str(), version) {
        ("absent", _) => Base::Absent,
        ("version", Some(version)) => Base::Version(version),
        _ => Base::Unseen(Trace {
            before: row.get::<_, Option<i64>>("base_before")?.map(time),
            digest: row.get::<_, Option<[u8; 32]>>("base_digest")?.map(Digest::from_bytes),
        }),
    })
}

/// A base as a row has it.
struct Columns<'a> {
    kind: &'static str,
    version: Option<&'a str>,
    before: Option<i64>,
    digest: Option<&'a [u8; 32]>,
}

impl<'a> Columns<'a> {
    fn of(base: &'a Base) -> Self {
        let none = Self { kind: "absent", version: None, before: None, digest: None };
        match base {
            Base::Absent => none,
            Base::Version(version) => Self { kind: "version", version: Some(version.as_str()), ..none },
            Base::Unseen(Trace { before, digest }) => Self {
                kind: "unknown",
                before: before.map(nanoseconds),
                digest: digest.as_ref().map(Digest::as_bytes),
                ..none
            },
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::Other(error.to_string()))
}

fn read_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Corrupt(error.to_string()))
}

fn signed(size: u64) -> Result<i64, Failure> {
    i64::try_from(size).map_err(|_| Failure::Other(format!("{size} bytes are more than a journal can say")))
}

fn unsigned(size: i64) -> Result<u64, Failure> {
    u64::try_from(size).map_err(|_| Failure::Corrupt(format!("a file of {size} bytes")))
}

/// Whole seconds since the epoch, rounded down, and the nanoseconds that are left.
fn split(at: SystemTime) -> (i64, u32) {
    let clamp = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (clamp(after.as_secs()), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => (-clamp(before.as_secs()), 0),
                nanoseconds => (-clamp(before.as_secs()) - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

fn joined(seconds: i64, nanoseconds: u32) -> Option<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    base?.checked_add(Duration::from_nanos(u64::from(nanoseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_synced_before_it_returns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        super::super::place::create(&path).unwrap();
        let binding = Binding { primary: "a".into(), secondary: "b".into(), can: Default::default() };
        let connection = open(&path, &binding).unwrap();
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        // 2 is FULL ("PRAGMA synchronous", sqlite.org).
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn times_before_and_after_1970_come_back_to_the_nanosecond() {
        for at in [(-1, 1), (-1, 999_999_999), (0, 0), (-86_400, 0), (1_700_000_000, 123_456_789)] {
            let when = joined(at.0, at.1).unwrap();
            assert_eq!(split(when), at);
            assert_eq!(time(nanoseconds(when)), when);
        }
    }
}
