//! Attributes of a file where its file system keeps no extended attributes: a file of their own.
//!
//! A sidecar is named after id, size and modification time of the file it describes, so every version has its
//! own. It is written and synced before that version is published and the old version's is removed after it:
//! a crash between the two leaves an orphan that describes nothing, and never a file with another's attributes.

use std::fs::File;
use std::io::{Read, Write};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, futimens, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, unwritable};
use super::config::Durability;
use super::error::failed;
use super::root::{Root, modified_parts};
use crate::checksum::Digest;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;

/// As stored, in JSON.
#[derive(Serialize, Deserialize)]
struct Content {
    id: FileId,
    attributes: Attributes,
}

/// A sidecar that was written for a file not published yet; removed when dropped, unless kept.
#[derive(Debug)]
pub(super) struct Sidecar {
    directory: File,
    name: String,
    kept: bool,
}

impl Sidecar {
    /// Writes the attributes of `file`. Where its size and time are those of a sidecar that exists (two versions
    /// within one tick of the clock), the file's time is moved on until they are its own.
    pub(super) fn create(
        root: &Root,
        id: &FileId,
        attributes: &mut Attributes,
        file: &File,
        op: Op,
    ) -> Result<Self> {
        let directory = root.private(op)?.attributes.try_clone().map_err(|error| failed(op, error))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Doubled each time, up to two seconds: the coarsest clock of a file system (FAT).
        for shift in 0..32 {
            let stat = rustix::fs::fstat(file).map_err(|errno| failed(op, errno))?;
            let name = name(id, &stat);
            match openat(&directory, &name, flags, Mode::from_raw_mode(0o666)) {
                Ok(sidecar) => {
                    attributes.bind(&stat);
                    let guard = Self { directory, name, kept: false };
                    guard.write(root, id, attributes, sidecar.into(), op)?;
                    return Ok(guard);
                }
                Err(Errno::EXIST) => move_on(file, &stat, 1 << shift).map_err(|errno| failed(op, errno))?,
                Err(errno) => return Err(failed(op, errno)),
            }
        }
        Err(Error::new(ErrorKind::Other, op)
            .with_message("no modification time is left for the file's attributes"))
    }

    fn write(&self, root: &Root, id: &FileId, attributes: &Attributes, mut file: File, op: Op) -> Result<()> {
        let content = Content { id: id.clone(), attributes: attributes.clone() };
        let json = serde_json::to_vec(&content).map_err(|error| unwritable(op, error))?;
        let mut written = file.write_all(&json);
        if root.durability == Durability::Durable {
            written = written.and_then(|()| file.sync_all()).and_then(|()| self.directory.sync_all());
        }
        written.map_err(|error| failed(op, error))
    }

    /// Keeps it: the file it describes is published.
    pub(super) fn keep(mut self) -> String {
        self.kept = true;
        std::mem::take(&mut self.name)
    }

    /// Reads the sidecar of an open file.
    pub(super) fn load(root: &Root, id: &FileId, stat: &Stat, op: Op) -> Result<Option<Attributes>> {
        let Some(directory) = root.sidecars() else { return Ok(None) };
        let content = match read(directory, &name(id, stat)) {
            Ok(content) => content,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(op, errno)),
        };
        Ok(content
            .filter(|content| content.id == *id && content.attributes.describe(stat))
            .map(|content| content.attributes))
    }

    /// Removes the sidecar of a version that is gone; `except` is the name of one to keep.
    pub(super) fn remove(root: &Root, id: &FileId, gone: &Stat, except: Option<&str>) {
        let Some(directory) = root.sidecars() else { return };
        let name = name(id, gone);
        if except != Some(&name) {
            // One that cannot be removed is an orphan, which the janitor finds.
            let _ = unlinkat(directory, &name, AtFlags::empty());
        }
    }

    /// Tells whether the sidecar of this name describes a file that is there.
    pub(super) fn is_of_a_file(root: &Root, directory: &File, sidecar: &str) -> Result<bool, Errno> {
        let Some(content) = read(directory, sidecar)? else { return Ok(false) };
        let id = content.id;
        let parent = match root.parent(&id) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        match rustix::fs::statat(parent, id.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(name(&id, &stat) == sidecar),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if !self.kept {
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

fn name(id: &FileId, stat: &Stat) -> String {
    let (seconds, nanos) = modified_parts(stat);
    format!("{}-{:x}-{seconds:x}.{nanos:x}", Digest::of(id.as_str().as_bytes()), stat.st_size)
}

/// Reads a sidecar; nothing where it is none (cut short by a crash before its file was published).
fn read(directory: &File, name: &str) -> Result<Option<Content>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut json = Vec::new();
    File::from(openat(directory, name, flags, Mode::empty())?)
        .read_to_end(&mut json)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(serde_json::from_slice(&json).ok())
}

fn move_on(file: &File, stat: &Stat, by: i64) -> Result<(), Errno> {
    let (seconds, nanos) = modified_parts(stat);
    let nanos = nanos + by;
    let modified =
        Timespec { tv_sec: seconds + nanos / 1_000_000_000, tv_nsec: (nanos % 1_000_000_000) as _ };
    futimens(file, &Timestamps { last_access: modified, last_modification: modified })
}

#[cfg(test)]
mod tests {
    use super::super::config::LocalConfig;
    use super::super::staged::Temp;
    use super::*;

    #[test]
    fn a_new_version_of_the_same_size_and_time_leaves_the_old_one_its_sidecar() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(&LocalConfig::new(directory.path())).unwrap();
        let id = FileId::parse("a").unwrap();
        let staged = || Temp::create(&root.private(Op::Upload).unwrap().tmp, Op::Upload).unwrap();
        let create = |name: &str, file: &File| {
            let mut attributes = Attributes { file_name: Some(name.to_owned()), ..Attributes::default() };
            Sidecar::create(&root, &id, &mut attributes, file, Op::Upload).unwrap()
        };
        let load = |file: &File| {
            let stat = rustix::fs::fstat(file).unwrap();
            Sidecar::load(&root, &id, &stat, Op::Metadata).unwrap().and_then(|known| known.file_name)
        };
        let (old, new) = (staged(), staged());
        let time = std::time::SystemTime::now();
        old.file.set_modified(time).unwrap();
        new.file.set_modified(time).unwrap();
        create("old", &old.file).keep();
        let sidecar = create("new", &new.file);
        assert_eq!((load(&old.file).as_deref(), load(&new.file).as_deref()), (Some("old"), Some("new")));
        // The new version is not published after all.
        drop(sidecar);
        assert_eq!((load(&old.file).as_deref(), load(&new.file)), (Some("old"), None));
    }
}
