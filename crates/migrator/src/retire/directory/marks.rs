//! Which runs have moved files of a directory away: each ledger's last one has a mark in the place of its pair.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{BENEATH, HOME, create_directory, open_directory};
use crate::preserve::entries;
use crate::quarantine::Mark;
use crate::retire::Moves;

/// No pair's names are longer.
const MOST_WORDS: usize = 16 << 10;

/// Makes a mark durable, and then takes away those that it replaces.
pub(super) fn mark(
    root: &OwnedFd,
    home: &str,
    words: &str,
    mark: Mark,
    replaced: &[Mark],
) -> Result<(), Errno> {
    let place = create_directory(root, home)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&place, mark.name(), flags, Mode::from_raw_mode(0o600))?;
    let mut left = words.as_bytes();
    while !left.is_empty() {
        let written = rustix::io::write(&file, left)?;
        left = left.get(written..).unwrap_or_default();
    }
    rustix::fs::fsync(&file)?;
    rustix::fs::fsync(&place)?;
    // A kill may have come between the making of a directory and its sync.
    for (end, _) in home.rmatch_indices('/') {
        rustix::fs::fsync(open_directory(root, &home[..end])?)?;
    }
    rustix::fs::fsync(root)?;
    for old in replaced.iter().filter(|old| **old != mark) {
        match rustix::fs::unlinkat(&place, old.name(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Finds the places of all pairs, and the marks in them.
pub(super) fn moves(root: &OwnedFd, home: &str) -> Result<Vec<Moves>, Errno> {
    let quarantine = match open_directory(root, HOME) {
        Ok(quarantine) => quarantine,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::new();
    for (pair, kind) in entries(&quarantine)? {
        if kind != FileType::Directory {
            continue;
        }
        let directory = rustix::fs::openat2(&quarantine, &pair, super::DIRECTORY, Mode::empty(), BENEATH)?;
        let place = format!("{HOME}/{}", pair.to_string_lossy());
        let mut moves = Moves { own: place == home, place, pair: None, marks: Vec::new() };
        for (name, kind) in entries(&directory)? {
            let mark = name.to_str().filter(|_| kind == FileType::RegularFile).and_then(Mark::parse);
            if let Some(mark) = mark {
                moves.pair = moves.pair.or_else(|| words(&directory, mark));
                moves.marks.push(mark);
            }
        }
        moves.marks.sort_unstable();
        found.push(moves);
    }
    found.sort_unstable_by(|one, other| one.place.cmp(&other.place));
    Ok(found)
}

/// Reads the names of the pair, which only help whoever looks for its ledger.
fn words(directory: &OwnedFd, mark: Mark) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(directory, mark.name(), flags, Mode::empty(), BENEATH).ok()?;
    let mut words = vec![0; MOST_WORDS];
    let read = rustix::io::read(&file, &mut words[..]).ok()?;
    words.truncate(read);
    String::from_utf8(words).ok().filter(|words| !words.is_empty())
}
