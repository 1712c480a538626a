//! What a child says, one line of JSON each, on its standard output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use storage_core::error::{Effect, Error, Retry};
use storage_core::storage::UploadTicket;

use super::model::{Part, Stored};

/// What an operation changes, if it takes place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    /// An upload, copy or deletion.
    File { id: String, after: Option<Stored> },
    /// The begin of an upload in parts, by a number of the child's own.
    Begin { upload: u64, id: String },
    /// A part of it.
    Put { upload: u64, number: u32, part: Part },
    /// Its end.
    Finish { upload: u64, id: String, after: Stored },
    /// Its other end.
    Abandon { upload: u64 },
    /// Nothing that is seen: a sweep, a probe.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Line {
    /// The storage is open.
    Ready,
    /// Said before the operation begins. Operations on one file, or on one upload, follow one another.
    Start { operation: u64, change: Change },
    /// Acknowledged.
    Done { operation: u64, ticket: Option<UploadTicket> },
    /// Answered with an error.
    Failed { operation: u64, error: Told },
}

/// What a caller can tell of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) kind: String,
    pub(super) effect: Happened,
    pub(super) passes: bool,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Happened {
    No,
    Yes,
    Unknown,
}

impl Told {
    pub(super) fn of(error: &Error) -> Self {
        Self {
            kind: error.kind().as_str().to_owned(),
            effect: match error.effect() {
                Effect::None => Happened::No,
                Effect::Applied => Happened::Yes,
                Effect::Unknown => Happened::Unknown,
            },
            passes: error.retry() != Retry::Never,
            message: error.to_string(),
        }
    }
}

/// Says a line. A line is written whole; a child that nobody listens to ends.
pub(super) fn say(line: &Line) {
    // The test harness may have begun a line of its own.
    let text = format!("\n{}\n", serde_json::to_string(line).unwrap());
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// A child that is working; killed when dropped.
pub(super) struct Working {
    child: Child,
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<Line>>,
    more: Condvar,
}

/// What was heard of a child.
pub(super) struct Story {
    pub(super) lines: Vec<Line>,
    /// So many of them were heard before the end: what they acknowledge counts.
    pub(super) certain: usize,
}

impl Working {
    /// Starts a child in a process group of its own, which strace and what it traces are ended by.
    pub(super) fn start(mut command: Command) -> Self {
        use std::os::unix::process::CommandExt;
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let heard = Arc::new(Heard::default());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                for line in lines.map_while(Result::ok) {
                    // The test harness speaks as well; a line that a kill cut short was not said.
                    if let Ok(line) = serde_json::from_str(&line) {
                        heard.lines.lock().unwrap().push(line);
                        heard.more.notify_all();
                    }
                }
            }
        });
        Self { child, heard, reader: Some(reader) }
    }

    /// Waits until so many operations were acknowledged.
    pub(super) fn wait_for(&self, acknowledged: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut lines = self.heard.lines.lock().unwrap();
        loop {
            if lines.iter().any(|line| matches!(line, Line::Ready)) && done(&lines) >= acknowledged {
                return;
            }
            assert!(Instant::now() < deadline, "the child stands still after {:?}", lines.last());
            lines = self.heard.more.wait_timeout(lines, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// Does `cut`, then kills the child: acknowledged is what was heard before.
    pub(super) fn cut(mut self, cut: impl FnOnce()) -> Story {
        let certain = {
            // Held meanwhile: nothing that is said during the cut counts.
            let lines = self.heard.lines.lock().unwrap();
            cut();
            lines.len()
        };
        self.kill();
        Story { lines: self.all(), certain }
    }

    /// Kills the child as kill -9 does: whatever it has said counts, and may be waiting in the pipe.
    pub(super) fn killed(mut self) -> Story {
        self.kill();
        self.whole()
    }

    /// Waits for its end.
    pub(super) fn ended(mut self) -> (ExitStatus, Story) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.whole());
            }
            // Dropping kills it.
            assert!(Instant::now() < deadline, "the child stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn whole(&mut self) -> Story {
        let lines = self.all();
        Story { certain: lines.len(), lines }
    }

    fn all(&mut self) -> Vec<Line> {
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut self.heard.lines.lock().unwrap())
    }

    fn kill(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        self.child.wait().unwrap();
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.kill();
        }
    }
}

fn done(lines: &[Line]) -> usize {
    lines.iter().filter(|line| matches!(line, Line::Done { .. })).count()
}

impl Story {
    /// Number of operations whose acknowledgement counts.
    pub(super) fn acknowledged(&self) -> usize {
        done(&self.lines[..self.certain])
    }

    /// The errors that count.
    pub(super) fn errors(&self) -> impl Iterator<Item = &Told> {
        self.lines[..self.certain].iter().filter_map(|line| match line {
            Line::Failed { error, .. } => Some(error),
            _ => None,
        })
    }
}
