//! What a child process cost.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use wait4::Wait4 as _;

/// What one run cost, its children included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Most memory resident at a time. Never less than this process has when it starts the child.
    pub(crate) peak: u64,
    /// Bytes that were asked for with `read` and its kin, from the page cache too; Go reads sockets with it as well.
    pub(crate) read: u64,
    /// Bytes that came from a disk.
    pub(crate) disk: u64,
}

/// Runs a command to its end. Its output is thrown away, but for the words of one that fails.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than `limit`.
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<Cost> {
    let mut words = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(words.try_clone()?);
    let program = command.get_program().to_owned();
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let pid = Pid::from_child(&child);
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let late = watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        // Not reaped before this thread has ended, so the id is still its own.
        late && kill_process(pid, Signal::KILL).is_ok()
    });
    let waited = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let wall = start.elapsed();
    let (read, disk) = io(child.id());
    drop(ended);
    let late = watchdog.join().unwrap_or(false);
    let used = child.wait4()?;
    waited.context("cannot wait for a child")?;
    if late {
        bail!("took longer than {} s", limit.as_secs());
    }
    if !used.status.success() {
        bail!("{}: {}", used.status, last_words(&mut words));
    }
    let cpu = used.rusage.utime + used.rusage.stime;
    Ok(Cost { wall, cpu, peak: used.rusage.maxrss, read, disk })
}

/// Returns `rchar` and `read_bytes` of a process that has ended and is not reaped.
fn io(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    (field("rchar"), field("read_bytes"))
}

/// Returns the user and system time that a running process has used so far, in steps of 10 ms.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, which may hold anything, ends with the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Returns the last line that says something, and not too much of it.
fn last_words(words: &mut File) -> String {
    let mut text = Vec::new();
    let read = words.seek(SeekFrom::Start(0)).and_then(|_| words.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    match (read, line) {
        (Ok(_), Some(line)) => line.chars().take(200).collect(),
        _ => "said nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_child_and_its_children_are_measured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![1; 3 << 20]).unwrap();
        let cost = run(shell(&format!("cat '{0}' '{0}' >/dev/null; true", path.display())), LIMIT).unwrap();
        assert!((6 << 20..7 << 20).contains(&cost.read), "{cost:?}");
        assert!(cost.peak > 64 << 10 && cost.wall > Duration::ZERO, "{cost:?}");
        let busy = run(shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"), LIMIT).unwrap();
        assert!(busy.cpu > Duration::ZERO);
    }

    #[test]
    fn a_child_that_fails_says_why_and_one_that_hangs_ends() {
        let error = run(shell("echo first >&2; echo it broke >&2; exit 3"), LIMIT).unwrap_err().to_string();
        assert!(error.contains('3') && error.ends_with("it broke"), "{error}");
        let error = run(shell("exec sleep 600"), Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("longer"), "{error}");
        assert!(run(Command::new("/no/such/program"), LIMIT).is_err());
    }

    #[test]
    fn our_own_time_is_found() {
        let mut sum = 0_u64;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(60) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_of(std::process::id()) >= Duration::from_millis(10));
        assert_eq!(cpu_of(u32::MAX), Duration::ZERO);
    }
}
