//! A report as a reader on a terminal sees it. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use crate::course::Named;
use crate::ledger::{Count, RunKind, Withheld};
use crate::quantity::{show_count, show_duration, show_name, show_size, show_subject, show_text};
use crate::report::{Report, Verdict};

/// Problems that are named; the rest is counted.
const NAMED: usize = 10;

/// Writes the summary, ending in a newline. Names are escaped.
pub fn human(report: &Report) -> String {
    let mut text = String::new();
    let run = &report.run;
    let kind = run.kind.as_str();
    let result = match report.result {
        Verdict::Clean => "complete",
        Verdict::SomeFailed => "complete, some files failed",
        Verdict::Refused => "complete but for the deletion, which a safeguard refused",
        Verdict::Mismatch => "complete, the target is not what it should be",
        Verdict::Unverified => "complete, and the bytes of some files were compared by nobody",
        Verdict::Interrupted => "interrupted, the same command continues",
        Verdict::Aborted => "broke off, the same command continues",
        Verdict::Running => "not ended",
    };
    let took = run.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let took = took.map(|took| format!(" ({})", show_duration(took))).unwrap_or_default();
    line(&mut text, format_args!("{kind} run {}: {result}{took}", run.id));
    line(&mut text, format_args!("  from  {}", show_text(&report.pair.source)));
    line(&mut text, format_args!("  to    {}", show_text(&report.pair.target)));
    line(&mut text, format_args!(""));

    let sums = &report.sums;
    let unchanged = if run.kind == RunKind::Verify { "matched" } else { "unchanged" };
    count(&mut text, "planned", sums.planned, true);
    count(&mut text, "copied", sums.copied, run.kind != RunKind::Verify);
    count(&mut text, unchanged, sums.unchanged, true);
    count(&mut text, "skipped", sums.skipped, true);
    count(&mut text, "failed", sums.failed, true);
    let audit = run.kind == RunKind::Verify;
    count(&mut text, "missing", sums.missing, audit);
    count(&mut text, "different", sums.different, audit);
    count(&mut text, "unverified", sums.unverified, audit);
    count(&mut text, "outdated", sums.outdated, audit);
    count(&mut text, "unfinished", sums.unfinished, false);
    count(&mut text, "quarantined", sums.quarantined, false);
    count(&mut text, "deleted", sums.deleted, false);
    count(&mut text, "not deleted", sums.not_deleted, false);
    let beside = [
        ("in the target only", sums.extra),
        ("gone from the source", sums.gone),
        ("in a part of the source that could not be read", sums.unseen),
        ("left out by the filter", sums.excluded),
        ("moved from the source to its quarantine", sums.source_removed),
        ("in the target only, where the source has something that is no file", sums.kept),
    ];
    for (what, sum) in beside.into_iter().filter(|(_, sum)| sum.files > 0) {
        line(&mut text, format_args!("  besides: {}, {what}", show_count(sum.files, "file")));
    }
    if sums.unverified.files > 0 {
        line(
            &mut text,
            format_args!("  `migrator verify --read-back` compares every byte of what is unverified"),
        );
    }
    if let Some(withheld) = report.withheld {
        line(&mut text, format_args!("  nothing was deleted: {}", why(withheld)));
        text.push_str(&what_stays(report.candidates, &report.course.withheld));
    }
    if !run.scan_complete && run.end.is_some() {
        line(&mut text, format_args!("  the source was not seen as a whole"));
    }

    if !report.reasons.is_empty() {
        line(&mut text, format_args!("\nreasons"));
        for reason in &report.reasons {
            let word = show_text(&reason.reason);
            line(&mut text, format_args!("  {:>9}  {}: {word}", reason.files, reason.outcome.as_str()));
        }
    }
    if !report.problems.is_empty() {
        line(&mut text, format_args!("\nproblems"));
        for problem in report.problems.iter().take(NAMED) {
            let detail = problem.detail.as_deref().unwrap_or(&problem.reason);
            let colon = if detail.is_empty() { "" } else { ": " };
            line(
                &mut text,
                format_args!(
                    "  {:<10} {}{colon}{}",
                    problem.outcome.as_str(),
                    show_subject(&problem.subject),
                    show_text(detail)
                ),
            );
        }
        if report.problems.len() > NAMED {
            line(&mut text, format_args!("  and more: files.csv of --report DIR has all of them"));
        }
    }
    let work = &report.work;
    let resumed = if work.parts_resumed > 0 {
        format!(", {} resumed", show_count(work.parts_resumed, "part"))
    } else {
        String::new()
    };
    let retries = match work.retries {
        0 => String::new(),
        1 => ", 1 retry".to_owned(),
        more => format!(", {more} retries"),
    };
    line(
        &mut text,
        format_args!(
            "\nread {}, sent {}{resumed}{retries}",
            show_size(work.bytes_read),
            show_size(work.bytes_sent)
        ),
    );
    text
}

/// Names what stays in the target as a safeguard refused to remove it: all of it is in the events of a dry run.
pub fn what_stays(candidates: u64, files: &[Named]) -> String {
    let mut text = String::new();
    if files.is_empty() {
        return text;
    }
    line(
        &mut text,
        format_args!("would have been removed from the target ({}):", show_count(candidates, "file")),
    );
    for file in files {
        line(&mut text, format_args!("  {}  {}", show_name(&file.id), show_size(file.size)));
    }
    let more = candidates.saturating_sub(files.len() as u64);
    if more > 0 {
        line(
            &mut text,
            format_args!("  and {more} more: `migrator sync --delete --dry-run --json` has all of them"),
        );
    }
    text
}

/// Says why nothing was deleted.
pub const fn why(withheld: Withheld) -> &'static str {
    match withheld {
        Withheld::CopyFailed => "files failed to be copied",
        Withheld::SourceIncomplete => "a part of the source could not be read",
        Withheld::TargetIncomplete => "a part of the target could not be read",
        Withheld::SourceEmpty => "the source is empty",
        Withheld::TooMany => "it would have been more files than the limit allows",
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn count(text: &mut String, what: &str, count: Count, always: bool) {
    if always || count.files > 0 {
        let size = if count.bytes > 0 { format!("  {:>11}", show_size(count.bytes)) } else { String::new() };
        line(text, format_args!("  {what:<11}{:>9}{size}", count.files));
    }
}
