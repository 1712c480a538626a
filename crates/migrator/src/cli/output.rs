//! Everything that is written to standard output and standard error, so that no two of bars, log lines and
//! messages garble each other. Whatever is shown here has had its control characters escaped.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use crate::failure::Failure;
use crate::progress::Event;
use crate::quantity::show_text;

/// Version of the JSON events; grows when a field changes its meaning or goes.
pub(super) const EVENTS_VERSION: u32 = 1;

/// A handle on standard output and standard error. A clone shares them.
#[derive(Clone, Debug)]
pub(super) struct Output {
    bars: MultiProgress,
    json: bool,
    quiet: bool,
    /// Whether nothing is written at all.
    muted: bool,
    /// Held while a line is written, so that lines of several threads do not mix.
    lines: Arc<Mutex<()>>,
}

#[derive(Serialize)]
struct Line<'b, B> {
    v: u32,
    event: &'b str,
    #[serde(flatten)]
    body: &'b B,
}

#[derive(Serialize)]
struct RunLine<'e> {
    v: u32,
    #[serde(flatten)]
    event: &'e Event<'e>,
}

#[derive(Serialize)]
struct ErrorBody<'f> {
    message: &'f str,
    causes: &'f [String],
    hints: &'f [String],
    exit_code: u8,
}

impl Output {
    /// Makes the handle; with `json`, standard output takes events only.
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        Self { bars, json, quiet, muted: false, lines: Arc::default() }
    }

    /// Returns a handle that writes nothing: for runs whose numbers and outcomes are told elsewhere.
    pub(super) fn muted(&self) -> Self {
        Self { muted: true, json: false, quiet: true, ..self.clone() }
    }

    /// Returns whether somebody may be looking at standard error.
    pub(super) fn is_terminal(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Returns where bars are drawn.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes a text to standard output, unless that takes events only.
    pub(super) fn text(&self, text: &str) {
        if !self.json {
            self.out(text.as_bytes());
        }
    }

    /// Writes an event to standard output, if that takes events.
    pub(super) fn event(&self, event: &str, body: &impl Serialize) {
        if self.json {
            self.json_line(&Line { v: EVENTS_VERSION, event, body });
        }
    }

    /// Writes something that happened in a run to standard output, if that takes events.
    pub(super) fn run_event(&self, event: &Event<'_>) {
        if self.json {
            self.json_line(&RunLine { v: EVENTS_VERSION, event });
        }
    }

    /// Writes one line to standard error, unless notices are not wanted.
    pub(super) fn note(&self, line: &str) {
        if !self.quiet {
            self.err(format!("{}\n", show_text(line)).as_bytes());
        }
    }

    /// Tells a failure: to people on standard error, and as an event where events are wanted.
    pub(super) fn failure(&self, failure: &Failure) {
        let mut text = format!("error: {}\n", show_text(&failure.message));
        for cause in &failure.causes {
            text.push_str(&format!("  caused by: {}\n", show_text(cause)));
        }
        for hint in &failure.hints {
            text.push_str(&format!("hint: {}\n", show_text(hint)));
        }
        self.err(text.as_bytes());
        let Failure { message, causes, hints, exit } = failure;
        self.event("error", &ErrorBody { message, causes, hints, exit_code: exit.code() });
    }

    /// Writes bytes to standard error as they are; for lines that are escaped already.
    pub(super) fn err(&self, bytes: &[u8]) {
        if self.muted {
            return;
        }
        let _one = self.one_line();
        // There is nowhere to tell that standard error is gone.
        self.bars.suspend(|| drop(io::stderr().lock().write_all(bytes)));
    }

    fn json_line(&self, line: &impl Serialize) {
        match serde_json::to_vec(line) {
            Ok(mut bytes) => {
                bytes.push(b'\n');
                self.out(&bytes);
            }
            Err(error) => self.note(&format!("an event cannot be written: {error}")),
        }
    }

    fn out(&self, bytes: &[u8]) {
        if self.muted {
            return;
        }
        let _one = self.one_line();
        // A reader that has gone away (`| head`) has seen enough; the exit code tells the rest.
        self.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            drop(stdout.write_all(bytes).and_then(|()| stdout.flush()));
        });
    }

    fn one_line(&self) -> MutexGuard<'_, ()> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Outcome;

    #[test]
    fn an_event_is_one_line_with_its_version_first() {
        let event = Event::File { subject: "a\nb", outcome: Outcome::Copied, reason: "", size: Some(3) };
        let line = serde_json::to_string(&RunLine { v: 1, event: &event }).unwrap();
        assert_eq!(line, r#"{"v":1,"event":"file","subject":"a\nb","outcome":"copied","size":3}"#);
    }
}
