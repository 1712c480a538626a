//! Showing a run while it goes on: bars on a terminal, a line every few seconds elsewhere, events for programs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::args::Global;
use crate::cli::output::Output;
use crate::progress::meter::{Meter, Pace, moved};
use crate::progress::{Event, Progress, Snapshot};
use crate::quantity::{show_duration, show_name, show_size, show_subject, show_text};
use crate::report::is_problem;

/// Failed files that are named while the run goes on; the report has all of them.
const MAX_NAMED: u64 = 50;

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Two bars on a terminal.
    Bars,
    /// A line every 5 seconds.
    Lines,
    /// A `progress` event every second.
    Events,
    /// Not at all.
    Nothing,
}

impl Style {
    /// Chooses the style.
    pub(super) fn of(global: &Global, terminal: bool) -> Self {
        match (global.json, global.no_progress || global.quiet, terminal) {
            (true, true, _) | (false, true, _) => Self::Nothing,
            (true, false, _) => Self::Events,
            (false, false, true) => Self::Bars,
            (false, false, false) => Self::Lines,
        }
    }

    const fn period(self) -> Duration {
        match self {
            Self::Bars => Duration::from_millis(200),
            Self::Lines | Self::Nothing => Duration::from_secs(5),
            Self::Events => Duration::from_secs(1),
        }
    }
}

/// Makes the numbers of a run, whose events go to `output`.
pub(super) fn progress(output: Output) -> Progress {
    let named = AtomicU64::new(0);
    Progress::with_sink(move |event| {
        output.run_event(event);
        match event {
            Event::File { subject, outcome, reason, .. } if is_problem(*outcome) => {
                let before = named.fetch_add(1, Ordering::Relaxed);
                if before < MAX_NAMED {
                    let reason =
                        if reason.is_empty() { String::new() } else { format!(": {}", show_text(reason)) };
                    output.note(&format!("{}: {}{reason}", outcome.as_str(), show_subject(subject)));
                } else if before == MAX_NAMED {
                    output.note("more files follow that are not named here: the report has all of them");
                }
            }
            Event::Retry { subject, attempt, detail } => {
                tracing::info!(file = %show_name(subject), attempt, detail = %show_text(detail), "tried again");
            }
            Event::Notice { message } => output.note(message),
            _ => {}
        }
    })
}

/// A run that is being shown.
#[derive(Debug)]
pub(super) struct Watch {
    over: CancellationToken,
    task: JoinHandle<()>,
}

impl Watch {
    /// Shows the numbers until [`finish`](Self::finish).
    pub(super) fn start(output: &Output, progress: &Progress, style: Style) -> Self {
        let over = CancellationToken::new();
        let task = tokio::spawn(show(output.clone(), progress.clone(), style, over.clone()));
        Self { over, task }
    }

    /// Shows the last numbers and takes the bars away.
    pub(super) async fn finish(self) {
        self.over.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the progress was not shown to its end");
        }
    }
}

#[derive(Serialize)]
struct ProgressBody<'s> {
    elapsed_seconds: f64,
    bytes_per_second: Option<u64>,
    eta_seconds: Option<u64>,
    #[serde(flatten)]
    numbers: &'s Snapshot,
}

async fn show(output: Output, progress: Progress, style: Style, over: CancellationToken) {
    if style == Style::Nothing {
        return;
    }
    let bars = (style == Style::Bars).then(|| Bars::new(&output));
    let began = Instant::now();
    let mut meter = Meter::default();
    let mut ticks = tokio::time::interval(style.period());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once, when there is nothing to show.
    ticks.tick().await;
    loop {
        let last = tokio::select! {
            () = over.cancelled() => true,
            _ = ticks.tick() => false,
        };
        let numbers = progress.snapshot();
        let pace = meter.measure(began.elapsed(), &numbers);
        match (style, &bars) {
            (Style::Bars, Some(bars)) => bars.show(&numbers, &pace),
            (Style::Events, _) => {
                output.event(
                    "progress",
                    &ProgressBody {
                        elapsed_seconds: began.elapsed().as_secs_f64(),
                        bytes_per_second: pace.rate,
                        eta_seconds: pace.left.map(|left| left.as_secs()),
                        numbers: &numbers,
                    },
                );
            }
            // The summary follows: a last line would say the same.
            (Style::Lines, _) if !last => output.note(&line(began.elapsed(), &numbers, &pace)),
            _ => {}
        }
        if last {
            break;
        }
    }
    if let Some(bars) = bars {
        bars.clear();
    }
}

struct Bars {
    files: ProgressBar,
    bytes: ProgressBar,
}

impl Bars {
    fn new(output: &Output) -> Self {
        let style = |name: &str| {
            ProgressStyle::with_template(&format!("{name} [{{bar:28}}] {{msg}}"))
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ")
        };
        let bar = |name| output.bars().add(ProgressBar::new(0)).with_style(style(name));
        Self { files: bar("files"), bytes: bar("bytes") }
    }

    fn show(&self, numbers: &Snapshot, pace: &Pace) {
        let [files, bytes] = messages(numbers, pace);
        self.files.set_length(numbers.planned.max(1));
        self.files.set_position(numbers.done);
        self.files.set_message(files);
        self.bytes.set_length(numbers.planned_bytes.max(1));
        self.bytes.set_position(moved(numbers));
        self.bytes.set_message(bytes);
    }

    fn clear(&self) {
        self.files.finish_and_clear();
        self.bytes.finish_and_clear();
    }
}

fn messages(numbers: &Snapshot, pace: &Pace) -> [String; 2] {
    // While the scan goes on, the totals grow.
    let more = if numbers.scan_done == 0 { "+" } else { "" };
    let mut files = format!("{}/{}{more}", numbers.done, numbers.planned);
    for (number, word) in [
        (numbers.unchanged, "unchanged"),
        (numbers.skipped, "skipped"),
        (numbers.failed, "failed"),
        (numbers.retries, "tried again"),
        (numbers.active, "in work"),
    ] {
        if number > 0 {
            files.push_str(&format!(", {number} {word}"));
        }
    }
    if numbers.held_to > 0 {
        files.push_str(&format!(", the target is held to {} at a time", numbers.held_to));
    }
    let mut bytes = format!("{}/{}{more}", show_size(moved(numbers)), show_size(numbers.planned_bytes));
    if let Some(rate) = pace.rate {
        bytes.push_str(&format!(", {}/s", show_size(rate)));
    }
    if let Some(left) = pace.left {
        bytes.push_str(&format!(", {} left", show_duration(left)));
    }
    [files, bytes]
}

fn line(elapsed: Duration, numbers: &Snapshot, pace: &Pace) -> String {
    let [files, bytes] = messages(numbers, pace);
    format!("{}: files {files}; {bytes}", show_duration(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_everything_in_one_line() {
        let progress = Progress::new();
        for _ in 0..3 {
            progress.planned(1 << 20);
        }
        progress.unchanged(1 << 20);
        progress.outcome("a\nb", crate::ledger::Outcome::Failed, "denied", Some(1 << 20));
        let text =
            line(Duration::from_secs(65), &progress.snapshot(), &Pace { rate: Some(2048), left: None });
        assert_eq!(text, "1m 05s: files 2/3+, 1 unchanged, 1 failed; 2.0 MiB/3.0 MiB+, 2.0 KiB/s");
    }
}
