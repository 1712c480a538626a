//! File systems of a test's own: small, without extended attributes, or without power when the test wants.
//!
//! Mounting needs root. Where that, or a loop device, is not to be had, the test is reported as skipped.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::scratch::Scratch;
use crate::{skip, tools};

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
    // Dropped after the unmounting.
    scratch: Scratch,
}

impl Mount {
    /// Mounts a file system in memory of this size, such as `1m`. Nothing, and the test is reported as skipped,
    /// where that cannot be done.
    pub fn tmpfs(size: &str) -> Option<Self> {
        Self::reported(Self::new("tmpfs", "none", &format!("size={size},mode=0755")))
    }

    /// Mounts a file system in memory that has no extended attributes. Nothing, and the test is reported as
    /// skipped, where that cannot be done.
    pub fn ramfs() -> Option<Self> {
        Self::reported(Self::new("ramfs", "none", "mode=0755"))
    }

    fn new(kind: &str, device: &str, options: &str) -> Result<Self> {
        let scratch = Scratch::new("mount")?;
        let directory = scratch.join("mounted");
        fs::create_dir(&directory)?;
        // Made before: an unmounting that finds nothing does no harm.
        let mount = Self { directory, scratch };
        run(Command::new("mount").args(["-t", kind, "-o", options, device]).arg(&mount.directory))?;
        Ok(mount)
    }

    fn reported(mounted: Result<Self>) -> Option<Self> {
        mounted.inspect_err(|error| skip::unable(&format!("cannot mount: {error:#}"))).ok()
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Mounts it again with other options, such as `ro` or `size=8m`.
    ///
    /// # Errors
    /// What `mount` says.
    pub fn remount(&self, options: &str) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.directory))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if unmount(&self.directory).is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.directory));
        }
    }
}

/// The file systems that an [`Image`] can have. Both survive a power cut as far as they were synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, with its journal.
    Ext4,
    /// XFS.
    Xfs,
}

impl FileSystem {
    const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The file is sparse. XFS refuses less than 300 MB.
    const fn size(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 320 << 20,
        }
    }
}

/// A file system in a file, which can lose its power.
#[derive(Debug)]
pub struct Image {
    mount: Mount,
    file: PathBuf,
    kind: FileSystem,
}

impl Image {
    /// Makes and mounts one. Nothing, and the test is reported as skipped, where that cannot be done.
    ///
    /// # Panics
    /// When a program is missing although all tests must run ([`skip::REQUIRED`]).
    pub fn new(kind: FileSystem) -> Option<Self> {
        Self::with(kind, kind.size(), &[])
    }

    /// Makes and mounts one of this size in bytes, with further arguments for `mkfs`. Otherwise as
    /// [`new`](Self::new).
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with(kind: FileSystem, size: u64, arguments: &[&str]) -> Option<Self> {
        let mkfs = tools::require(&format!("mkfs.{}", kind.name()))?;
        Self::make(kind, &mkfs, size, arguments)
            .inspect_err(|error| skip::unable(&format!("cannot mount an image: {error:#}")))
            .ok()
    }

    fn make(kind: FileSystem, mkfs: &Path, size: u64, arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::new("image")?;
        let (directory, file) = (scratch.join("mounted"), scratch.join("image"));
        fs::create_dir(&directory)?;
        fs::File::create(&file)?.set_len(size)?;
        let mut command = Command::new(mkfs);
        command.arg("-q").args(arguments);
        if kind == FileSystem::Ext4 {
            command.arg("-F");
        }
        run(command.arg(&file))?;
        let image = Self { mount: Mount { directory, scratch }, file, kind };
        image.mount()?;
        Ok(image)
    }

    fn mount(&self) -> Result<()> {
        let mut command = Command::new("mount");
        run(command.args(["-t", self.kind.name(), "-o", "loop"]).arg(&self.file).arg(self.path()))
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Returns a directory outside of it, which keeps what a power cut must not touch.
    pub fn outside(&self) -> &Path {
        self.mount.scratch.path()
    }

    /// Prepares a power cut, so that it takes no time when it comes. Nothing, and the test is reported as skipped,
    /// where Python is missing: it is the one program at hand that makes the system call.
    ///
    /// # Panics
    /// As [`new`](Self::new), and when it cannot be prepared.
    pub fn power(&self) -> Option<Power> {
        let python = tools::require("python3")?;
        Some(Power::new(&python, self.path()).expect("a power cut can be prepared"))
    }

    /// Restarts after a power cut: what is there afterwards is what was on the disk. Every process that used it
    /// must have ended.
    ///
    /// # Errors
    /// When it cannot be unmounted or mounted.
    pub fn restart(&self) -> Result<()> {
        unmount(self.path())?;
        self.mount()
    }
}

/// A power cut that is ready.
#[derive(Debug)]
pub struct Power {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// `FS_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, which XFS knows by the same numbers: whatever is not on the
/// disk yet never gets there.
const CUT: &str = "\
import fcntl, os, struct, sys
place = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
if sys.stdin.readline():
    fcntl.ioctl(place, 0x8004587D, struct.pack('I', 2))
    print('cut', flush=True)
";

impl Power {
    fn new(python: &Path, place: &Path) -> io::Result<Self> {
        let mut child = Command::new(python)
            .args(["-c", CUT])
            .arg(place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let output = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut power = Self { child, input, output };
        power.answer("ready\n")?;
        Ok(power)
    }

    fn answer(&mut self, expected: &str) -> io::Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line == expected {
            return Ok(());
        }
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            io::Read::read_to_string(&mut pipe, &mut stderr)?;
        }
        Err(io::Error::other(format!("no power cut: {line}{stderr}")))
    }

    /// Cuts the power. What the storage acknowledges from now on does not count: an fsync that is under way when
    /// the journal is shut down may answer success.
    ///
    /// # Errors
    /// When the kernel cannot shut a file system down.
    pub fn cut(mut self) -> io::Result<()> {
        self.input.write_all(b"now\n")?;
        self.answer("cut\n")
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Unmounts; a process that was killed just now may hold on for a moment.
fn unmount(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match run(Command::new("umount").arg(directory)) {
            Err(error) if error.to_string().contains("busy") && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Unmounts what a killed test left mounted beneath `directory`.
pub(crate) fn unmount_beneath(directory: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return };
    // The fifth field is the mount point; names of scratch directories need no escapes.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for point in points.filter(|point| point.starts_with(directory)) {
        let _ = run(Command::new("umount").arg("-l").arg(point));
    }
}

#[cfg(test)]
mod heavy {
    use super::*;

    #[test]
    fn what_was_not_synced_is_gone_after_a_power_cut_and_the_rest_is_not() {
        for kind in [FileSystem::Ext4, FileSystem::Xfs] {
            let Some(image) = Image::new(kind) else { return };
            let synced = fs::File::create(image.path().join("synced")).unwrap();
            synced.sync_all().unwrap();
            fs::File::open(image.path()).unwrap().sync_all().unwrap();
            drop(synced);
            let Some(power) = image.power() else { return };
            fs::write(image.path().join("not"), "x").unwrap();
            power.cut().unwrap();
            image.restart().unwrap();
            assert!(image.path().join("synced").exists());
            assert!(!image.path().join("not").exists(), "{kind:?}");
        }
    }

    #[test]
    fn a_mount_ends_with_its_owner() {
        let Some(mount) = Mount::tmpfs("1m") else { return };
        let path = mount.path().to_owned();
        assert!(fs::write(path.join("large"), vec![0; 2 << 20]).is_err());
        drop(mount);
        assert!(!path.exists());
    }
}
