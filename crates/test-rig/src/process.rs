//! Processes that do not outlive the one that started them.
//!
//! A handle kills its process when dropped. For the case that nobody drops it (kill -9 of the test), the process
//! is started through `setpriv --pdeathsig`, which has the kernel kill it when its parent ends. The kernel means
//! the parent *thread*: a server started by one test would end with that test's thread, so all are started by one
//! thread that lives as long as the process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::tools;

type Job = Box<dyn FnOnce() + Send>;

fn on_spawner<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("rig-spawner".to_owned())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .expect("a thread can be started");
        sender
    });
    let (answer, result) = mpsc::channel();
    let job = Box::new(move || {
        let _ = answer.send(job());
    });
    spawner.send(job).expect("the spawner lives as long as the process");
    result.recv().expect("the spawner answers each job")
}

/// The signal that a process gets when its starter ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathSignal {
    /// Ends at once: for servers.
    Kill,
    /// May end in order: for programs that have children of their own.
    Term,
}

/// Makes a command for `program` that gets `signal` when its starter ends; only [`spawn`] starts it from a thread
/// that lasts. Where there is no `setpriv` (it belongs to util-linux) the process is tied by its handle alone.
pub fn command(program: &Path, signal: DeathSignal) -> Command {
    let Some(setpriv) = tools::find("setpriv") else { return Command::new(program) };
    let mut command = Command::new(setpriv);
    command.arg("--pdeathsig").arg(match signal {
        DeathSignal::Kill => "KILL",
        DeathSignal::Term => "TERM",
    });
    command.arg("--").arg(program);
    command
}

/// Starts a command from a thread that lasts as long as this process.
///
/// # Errors
/// Those of [`Command::spawn`].
pub fn spawn(mut command: Command) -> io::Result<Child> {
    on_spawner(move || command.spawn())
}

/// A running server: killed when dropped, its output in a file.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts the server with its output in `log`, in a process group of its own, so that an interrupt typed at
    /// the terminal ends the tests before it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &'static str, mut command: Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let program = command.get_program().to_owned();
        let child = spawn(command).with_context(|| format!("cannot start {name} ({})", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// When the server ends before, or is not ready within `limit`; the end of its log is part of the message.
    pub fn wait_until(&mut self, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it was ready\n{}", self.name, self.log_tail());
            }
            if ready() {
                return Ok(());
            }
            if start.elapsed() > limit {
                bail!("{} is not ready after {limit:?}\n{}", self.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the last 40 lines that the server wrote.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("--- end of the log of {} ---\n{}\n---", self.name, tail.join("\n"))
    }

    /// Kills the server now, as a power cut would, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.kill();
    }
}

/// Returns `N` different ports of 127.0.0.1 that are free now. Somebody else may take one before it is used:
/// [`with_fresh_ports`] tries again.
///
/// # Errors
/// When the system has none.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    for _ in 0..N {
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Starts something on fresh ports, up to five times: between choosing a port and listening on it another process
/// may have taken it.
///
/// # Errors
/// Those of the last attempt.
pub fn with_fresh_ports<const N: usize, T>(start: impl Fn([u16; N]) -> Result<T>) -> Result<T> {
    let mut last = anyhow!("not tried");
    for _ in 0..5 {
        match start(free_ports()?) {
            Ok(started) => return Ok(started),
            Err(error) if format!("{error:#}").contains("ddress already in use") => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
