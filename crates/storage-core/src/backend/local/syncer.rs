//! Syncs for many writers at once.
//!
//! One `fsync` costs the same walk through the file system, and the same flush of the disk, for a file of 4 KiB as for
//! one of a gigabyte. Where many writers wait for theirs, one `syncfs(2)` of the whole file system serves them all:
//! measured on ext4 with 16 writers, a quarter of the time and a third of the processor's. It is what databases call a
//! group commit.
//!
//! Who comes alone syncs alone, at once. From [`FEW`] writers on the others queue; the first of the queue syncs for
//! all who were in it when it began, and whoever comes meanwhile waits for the next.
//!
//! # Errors
//! A `syncfs` that fails fails for the whole group, as nobody can tell whose bytes were lost; and it is the last one:
//! it has taken away an error that may have been that of a file whose writer was about to queue. From then on every
//! file is synced by itself, whose own error is still there. Kernels before 5.8 tell nothing of such errors ("syncfs",
//! Linux manual pages, section VERSIONS): there is no group there, nor on a file system of which it is not known that
//! its `syncfs` does what `fsync` does (FUSE's does nothing).

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, fstat, openat};
use rustix::io::Errno;

use super::config::Durability;
use super::root::{DIRECTORY, lock};

/// So many writers sync by themselves at the same time: fewer than this are not worth a sync of everything.
const FEW: usize = 3;

/// A sync of everything also writes what others have written, which may be much: one that takes longer than both
/// limits, in all and per member, ends the groups for a while.
const TOO_LONG: Duration = Duration::from_millis(500);
const TOO_LONG_EACH: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_secs(30);

/// Hands files and directories to the disk.
#[derive(Debug)]
pub(super) struct Syncer {
    durability: Durability,
    /// Nothing where there are no groups.
    whole: Option<Whole>,
    queue: Mutex<Queue>,
}

/// The file system of the root.
#[derive(Debug)]
struct Whole {
    /// Opened before anything was written: an error of the file system is told to those who had it open.
    file: File,
    device: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Writers who sync by themselves right now.
    alone: usize,
    /// Those who wait for the next group.
    next: Arc<Group>,
    /// A group is being synced.
    busy: bool,
    /// Nobody queues before.
    paused: Option<Pause>,
}

#[derive(Clone, Copy, Debug)]
enum Pause {
    Until(Instant),
    ForGood,
}

#[derive(Debug, Default)]
struct Group {
    state: Mutex<State>,
    /// Of members that wait, with the lock of the queue: the outcome is there, or it is their turn.
    turn: Condvar,
}

#[derive(Debug, Default)]
struct State {
    members: usize,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Synced,
    /// With this error of the system.
    Failed(i32),
    /// Too few: each syncs by itself.
    Alone,
}

impl Syncer {
    /// Makes one for the file system of `root`.
    pub(super) fn new(durability: Durability, root: &File) -> Self {
        let groups = durability == Durability::Durable && syncfs_is_fsync(root);
        // A descriptor of its own, not a duplicate: what was told through the one is not told through the other.
        let own = || -> Result<Whole, Errno> {
            let file = File::from(openat(root, ".", DIRECTORY, Mode::empty())?);
            let device = fstat(&file)?.st_dev;
            Ok(Whole { file, device })
        };
        let whole = if groups { own().ok() } else { None };
        Self { durability, whole, queue: Mutex::default() }
    }

    /// Returns when the file, or the entries of the directory, would survive a power cut; at once where the storage
    /// is not durable.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        if self.durability == Durability::Relaxed {
            return Ok(());
        }
        // What is mounted inside the root is another file system, whose sync this one's is not.
        let same = |whole: &&Whole| fstat(file).is_ok_and(|stat| stat.st_dev == whole.device);
        let Some(whole) = self.whole.as_ref().filter(same) else { return file.sync_all() };
        match self.queue_up(&whole.file) {
            Outcome::Synced => Ok(()),
            Outcome::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
            Outcome::Alone => {
                let synced = file.sync_all();
                lock(&self.queue).alone -= 1;
                synced
            }
        }
    }

    /// Waits for the outcome of a group, or for leave to sync alone, which counts until it is done.
    fn queue_up(&self, whole: &File) -> Outcome {
        let mut queue = lock(&self.queue);
        let waiting = lock(&queue.next.state).members;
        if queue.is_paused() || (!queue.busy && waiting == 0 && queue.alone < FEW) {
            queue.alone += 1;
            return Outcome::Alone;
        }
        let group = Arc::clone(&queue.next);
        lock(&group.state).members += 1;
        loop {
            let outcome = lock(&group.state).outcome;
            match outcome {
                Some(outcome) => return outcome,
                None if queue.busy => {
                    queue = group.turn.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    // The first of the group to wake leads it.
                    queue.next = Arc::default();
                    let members = lock(&group.state).members;
                    if members + queue.alone <= FEW || queue.is_paused() {
                        queue.alone += members;
                        lock(&group.state).outcome = Some(Outcome::Alone);
                    } else {
                        queue.busy = true;
                        drop(queue);
                        let began = Instant::now();
                        let synced = rustix::fs::syncfs(whole);
                        let took = began.elapsed();
                        queue = lock(&self.queue);
                        queue.busy = false;
                        let outcome = match synced {
                            Ok(()) => Outcome::Synced,
                            Err(errno) => Outcome::Failed(errno.raw_os_error()),
                        };
                        lock(&group.state).outcome = Some(outcome);
                        if synced.is_err() {
                            queue.paused = Some(Pause::ForGood);
                        } else if took > TOO_LONG
                            && took > TOO_LONG_EACH * u32::try_from(members).unwrap_or(1)
                        {
                            tracing::debug!(?took, members, "files are synced one by one for a while");
                            queue.paused = Some(Pause::Until(Instant::now() + PAUSE));
                        }
                    }
                    group.turn.notify_all();
                    queue.next.turn.notify_one();
                }
            }
        }
    }
}

impl Queue {
    fn is_paused(&self) -> bool {
        match self.paused {
            None => false,
            Some(Pause::ForGood) => true,
            Some(Pause::Until(end)) => Instant::now() < end,
        }
    }
}

/// Tells whether `syncfs` on this file system does for every file what `fsync` does for one, and tells of errors.
#[cfg(target_os = "linux")]
fn syncfs_is_fsync(root: &File) -> bool {
    /// ext2 to ext4, xfs, btrfs, f2fs, tmpfs (`linux/magic.h`).
    const KNOWN: [u64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994];
    let tells_errors = || {
        let system = rustix::system::uname();
        let mut numbers = system.release().to_str().ok()?.split(['.', '-']).map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?) >= (5, 8))
    };
    rustix::fs::fstatfs(root).is_ok_and(|system| KNOWN.contains(&(system.f_type as u64)))
        && tells_errors().unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
fn syncfs_is_fsync(_: &File) -> bool {
    false
}
