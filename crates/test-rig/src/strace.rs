//! Runs a program under `strace`, which kills it at a chosen system call or makes the call fail.
//!
//! `when` counts per thread: a program under test should make the call from one thread only.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::tools;

/// A program that is to run under strace.
#[derive(Clone, Debug)]
pub struct Strace {
    strace: PathBuf,
    output: PathBuf,
    trace: Vec<String>,
    inject: Vec<String>,
    paths: Vec<PathBuf>,
    shows_paths: bool,
}

impl Strace {
    /// Prepares a run whose trace goes to `output`. Nothing, and the test is reported as skipped, where strace is
    /// not installed.
    ///
    /// # Panics
    /// When strace is missing although all tests must run ([`skip::REQUIRED`](crate::skip::REQUIRED)).
    pub fn new(output: impl Into<PathBuf>) -> Option<Self> {
        let strace = tools::require("strace")?;
        Some(Self {
            strace,
            output: output.into(),
            trace: Vec::new(),
            inject: Vec::new(),
            paths: Vec::new(),
            shows_paths: false,
        })
    }

    /// Writes these calls into the trace. Default: those that are injected, else all.
    #[must_use]
    pub fn trace(mut self, calls: &[&str]) -> Self {
        self.trace.extend(calls.iter().map(|call| (*call).to_owned()));
        self
    }

    /// Kills the program on its `when`-th `call`, counted from 1. The call itself is not made.
    #[must_use]
    pub fn kill_at(self, call: &str, when: u32) -> Self {
        self.inject(call, &format!("signal=KILL:when={when}"))
    }

    /// Makes the `when`-th `call` fail with `errno`, such as `EIO`; `1+` means all of them.
    #[must_use]
    pub fn fail_at(self, call: &str, errno: &str, when: &str) -> Self {
        self.inject(call, &format!("error={errno}:when={when}"))
    }

    /// Adds an expression in strace's own words, such as `delay_enter=200000`.
    #[must_use]
    pub fn inject(mut self, call: &str, expression: &str) -> Self {
        self.trace.push(call.to_owned());
        self.inject.push(format!("inject={call}:{expression}"));
        self
    }

    /// Traces and injects only where a call is about this path.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// Writes the path of every descriptor into the trace.
    #[must_use]
    pub fn paths_shown(mut self) -> Self {
        self.shows_paths = true;
        self
    }

    /// Returns the command that runs `program`; its arguments, environment and output are for the caller to set.
    /// strace ends as the program does: killed, if the program was killed (see [`was_killed`]).
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(&self.strace);
        command.args(["-f", "-qq", "-o"]).arg(&self.output);
        if self.shows_paths {
            command.arg("-y");
        }
        if !self.trace.is_empty() {
            command.arg("-e").arg(format!("trace={}", self.trace.join(",")));
        }
        for path in &self.paths {
            command.arg("-P").arg(path);
        }
        for inject in &self.inject {
            command.arg("-e").arg(OsString::from(inject));
        }
        command.arg("--").arg(program.as_ref());
        command
    }
}

/// Tells whether the program was killed, as opposed to having ended by itself before the chosen call came.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9) || status.code() == Some(128 + 9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_program_dies_before_the_chosen_call_and_only_there() {
        let dir = tempfile::tempdir().unwrap();
        let Some(strace) = Strace::new(dir.path().join("trace")) else { return };
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "x").unwrap();
        let calls = "?rename,?renameat,?renameat2";

        let status =
            strace.clone().kill_at(calls, 1).command("/bin/mv").arg(&from).arg(&to).status().unwrap();
        assert!(was_killed(status), "{status}");
        assert!(from.exists() && !to.exists(), "killed before the rename");

        let status = strace.kill_at(calls, 99).command("/bin/mv").arg(&from).arg(&to).status().unwrap();
        assert!(status.success() && !was_killed(status), "{status}");
        assert!(to.exists());
        assert!(fs::read_to_string(dir.path().join("trace")).unwrap().contains("rename"));
    }

    #[test]
    fn a_call_fails_with_the_chosen_error() {
        let dir = tempfile::tempdir().unwrap();
        let Some(strace) = Strace::new(dir.path().join("trace")) else { return };
        let strace = strace.fail_at("?mkdir,?mkdirat", "ENOSPC", "1+");
        let output = strace.command("/bin/mkdir").arg(dir.path().join("new")).output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
    }
}
