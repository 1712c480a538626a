//! A report as a page for people: one file that loads nothing and runs nothing. Pure.
//!
//! The page is made by maud, which escapes every text by itself and is checked when it is compiled; what would drive
//! the reader's eye (control characters, marks that turn the direction of writing) is shown by its number instead. The
//! content security policy allows the one style sheet, by its hash, and nothing else.

use std::time::Duration;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use storage_core::checksum::Digest;
use storage_core::id::FileId;

use crate::course::{Course, Point};
use crate::ledger::{Count, OutcomeRecord, RunEnd, RunKind};
use crate::quantity::{show_duration, show_name, show_size, show_subject, show_text};
use crate::quarantine;
use crate::report::advice::next_step;
use crate::report::files::Proven;
use crate::report::survey::{Removal, Survey};
use crate::report::text;
use crate::report::{MAX_PROBLEMS, Report, Sums, Verdict};

use self::chart::{Series, as_float, bar, shares, sum, top};
use self::figures::{brief, byte_rate, clock, clock_of, files, grouped, percent, span};

mod chart;
mod figures;

const STYLE: &str = include_str!("html/style.css");

/// Returns what the page may load: its own style, by its hash.
pub fn policy() -> String {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'",
        Digest::of(STYLE.as_bytes()).to_base64()
    )
}

/// Makes the page; without a proof, that of a report of which nothing else was written.
pub fn page(report: &Report, survey: &Survey, proof: Option<&Proven>) -> String {
    let run = &report.run;
    let title = format!("{} run {}: {}", kind(run.kind), run.id, verdict(report.result).0);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                meta name="robots" content="noindex";
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (header(report))
                    (tiles(report))
                    (problems(report))
                    (throughput(report))
                    div.two { (outcomes(report)) (coverage(report, survey)) }
                    (reasons(report))
                    (removals(report, survey))
                    (withheld(report))
                    div.two { (sizes(survey)) (slowest(&report.course)) }
                    div.two { (about(report, proof)) (settings(report)) }
                }
                footer {
                    @if proof.is_some() {
                        p { "Beside this page: files.csv has every file, report.json the numbers for programs, SHA256SUMS the \
                             checksums for " code { "sha256sum -c" } ", proof.jsonl the chain of hashes that " code { "migrator proof" } " checks." }
                    } @else {
                        p { "Every file, checksums and the proof: " code { "migrator report --ledger " (show_text(&report.ledger)) " --run " (run.id) " --report DIR" } " writes them." }
                    }
                    p { "migrator " (show_text(&run.program)) ", run " (run.id) ". This page loads nothing and runs nothing." }
                }
            }
        }
    };
    page.into_string()
}

const fn kind(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Copy => "Copy",
        RunKind::Verify => "Verify",
        RunKind::Sync => "Sync",
    }
}

/// Short and in one sentence, and the class that colours it.
const fn verdict(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Clean => ("complete", "good"),
        Verdict::SomeFailed => ("some files failed", "bad"),
        Verdict::Refused => ("nothing deleted", "warn"),
        Verdict::Mismatch => ("the target is not what it should be", "bad"),
        Verdict::Unverified => ("complete, not verified", "warn"),
        Verdict::Interrupted => ("interrupted", "warn"),
        Verdict::Aborted => ("broke off", "bad"),
        Verdict::Running => ("not ended", "warn"),
    }
}

fn sentence(report: &Report) -> String {
    let sums = &report.sums;
    let planned = files(sums.planned.files);
    match report.result {
        Verdict::Clean if report.run.kind == RunKind::Verify => {
            format!("{planned} compared: source, ledger and target agree.")
        }
        Verdict::Clean if sums.skipped.files > 0 => format!(
            "{planned} planned: everything that is a file is in the target, and its bytes were compared. {} left alone.",
            files(sums.skipped.files)
        ),
        Verdict::Clean => format!("{planned} planned: all are in the target, and their bytes were compared."),
        Verdict::Refused => format!(
            "{planned} planned and in the target. A safeguard kept {} that are in the target only: nothing was deleted.",
            files(report.candidates)
        ),
        Verdict::SomeFailed if sums.not_deleted.files > 0 && sums.failed.files == 0 => format!(
            "{} that are in the target only could not be removed; the next `sync --delete` tries again.",
            files(sums.not_deleted.files)
        ),
        Verdict::SomeFailed if sums.failed.files == 0 => {
            "A part of the source could not be seen, so nothing is said of it.".to_owned()
        }
        Verdict::SomeFailed => format!(
            "{} of {planned} did not arrive. The same command tries them again and sends nothing else.",
            grouped(sums.failed.files)
        ),
        Verdict::Mismatch => {
            let findings = [sums.missing, sums.different, sums.unverified, sums.outdated];
            let found = findings.iter().map(|count| count.files).sum();
            format!("{} of {planned} are not in the target as they should be.", grouped(found))
        }
        Verdict::Unverified => format!(
            "{} of {planned} are in the target and NOT verified: nobody has compared their bytes, as `--verify none` asked.",
            grouped(sums.unverified.files)
        ),
        Verdict::Interrupted => {
            "It was asked to stop; the same command continues where it stopped.".to_owned()
        }
        Verdict::Aborted => "It could not go on; the same command continues where it stopped.".to_owned(),
        Verdict::Running => "It goes on, or was killed: the numbers are those noted last.".to_owned(),
    }
}

fn header(report: &Report) -> Markup {
    let run = &report.run;
    let (result, class) = verdict(report.result);
    html! {
        header {
            div.head {
                h1 { (kind(run.kind)) " run " (run.id) }
                span class={ "badge " (class) } { (result) }
            }
            dl.pair {
                dt { "from" } dd { bdi.name { (show_text(&report.pair.source)) } }
                dt { "to" } dd { bdi.name { (show_text(&report.pair.target)) } }
            }
            p.mute {
                (time(run.started))
                @if let Some(finished) = run.finished { " to " (time(finished)) }
                @if let Some(took) = took(report) { " · " (show_duration(took)) }
            }
            p.verdict { (words(&sentence(report))) }
        }
    }
}

fn tiles(report: &Report) -> Markup {
    let (sums, audit) = (&report.sums, report.run.kind == RunKind::Verify);
    let moved = if audit { report.work.bytes_read } else { report.work.bytes_sent };
    let rate = took(report).map(|took| as_float(moved) / took.as_secs_f64().max(0.001));
    let mut counts = vec![("planned", sums.planned)];
    if audit {
        counts.extend([
            ("matched", sums.unchanged),
            ("missing", sums.missing),
            ("different", sums.different),
        ]);
        counts.extend([("unverified", sums.unverified), ("outdated", sums.outdated)]);
    } else {
        counts.extend([("copied", sums.copied), ("unchanged", sums.unchanged)]);
        if sums.unverified.files > 0 {
            counts.push(("not compared", sums.unverified));
        }
    }
    counts.extend([("skipped", sums.skipped), ("failed", sums.failed)]);
    if report.run.kind == RunKind::Sync {
        counts.extend([("quarantined", sums.quarantined), ("deleted", sums.deleted)]);
    }
    if sums.unfinished.files > 0 {
        counts.push(("unfinished", sums.unfinished));
    }
    let is_bad = |what: &str| {
        ["failed", "missing", "different", "unverified", "outdated", "not compared"].contains(&what)
    };
    html! {
        ul.tiles {
            @for (what, count) in counts {
                li.is-bad[is_bad(what) && count.files > 0] {
                    span.what { (what) }
                    span.many { (grouped(count.files)) }
                    span.more { @if count.bytes > 0 { (show_size(count.bytes)) } @else { "\u{a0}" } }
                }
            }
            li {
                span.what { @if audit { "read" } @else { "sent" } }
                span.many { (show_size(moved)) }
                span.more { @if let Some(rate) = rate { (byte_rate(rate)) " on average" } @else { "\u{a0}" } }
            }
        }
    }
}

/// Failures and findings: what, which, why, and what to do.
fn problems(report: &Report) -> Markup {
    let sums = &report.sums;
    let all: u64 = [
        sums.failed,
        sums.missing,
        sums.different,
        sums.unverified,
        sums.outdated,
        sums.extra,
        sums.unseen,
        sums.not_deleted,
    ]
    .iter()
    .map(|count| count.files)
    .sum();
    html! {
        @if !report.problems.is_empty() {
            section.alarm aria-labelledby="problems" {
                h2 #problems { "What needs somebody (" (grouped(all)) ")" }
                ul.list { @for problem in &report.problems { (self::problem(problem)) } }
                @if report.problems.len() >= MAX_PROBLEMS && all > report.problems.len() as u64 {
                    p.mute { "These are the first " (report.problems.len()) "; files.csv has all of them." }
                }
            }
        }
    }
}

fn problem(problem: &OutcomeRecord) -> Markup {
    let class = match problem.outcome.as_str() {
        "extra" | "unverified" | "outdated" => "badge warn",
        _ => "badge bad",
    };
    let detail = problem.detail.as_deref().unwrap_or(&problem.reason);
    html! {
        li {
            span class=(class) { (problem.outcome.as_str()) }
            bdi.name { (show_subject(&problem.subject)) }
            @if let Some(size) = problem.size { span.mute { " " (show_size(size)) } }
            @if !detail.is_empty() { p { bdi { (show_text(detail)) } } }
            @if let Some(next) = next_step(problem.outcome, &problem.reason) { p.next.mute { (words(next)) } }
        }
    }
}

fn throughput(report: &Report) -> Markup {
    let timeline = &report.course.timeline;
    let audit = report.run.kind == RunKind::Verify;
    let total = sum(timeline.iter().map(|point| point.ms));
    if timeline.is_empty() || total <= 0.0 {
        return html! {
            section aria-labelledby="throughput" {
                h2 #throughput { "Over time" }
                p.mute { "Nothing was noted while it ran: it was too short, or an earlier release ran it." }
            }
        };
    }
    let bytes = |point: &Point| if audit { point.read } else { point.sent };
    let (class, what) = if audit { ("read", "Read") } else { ("sent", "Sent") };
    html! {
        section aria-labelledby="throughput" {
            h2 #throughput { "Over time" }
            (over_time(timeline, class, what, bytes, 1024.0, byte_rate))
            (over_time(timeline, "done", "Entries dealt with", |point| point.done, 1000.0, |rate| format!("{}/s", brief(rate))))
        }
    }
}

fn over_time(
    timeline: &[Point],
    class: &str,
    what: &str,
    amount: impl Fn(&Point) -> u64,
    thousand: f64,
    show: impl Fn(f64) -> String,
) -> Markup {
    let per_second = |point: &Point| as_float(amount(point)) * 1000.0 / as_float(point.ms.max(1));
    let total = sum(timeline.iter().map(|point| point.ms));
    let mean = sum(timeline.iter().map(&amount)) * 1000.0 / total;
    let values: Vec<f64> = timeline.iter().map(per_second).collect();
    let peak = values.iter().copied().fold(0.0, f64::max);
    let unit = thousand.powf((peak.max(1.0).ln() / thousand.ln()).floor().max(0.0));
    let top = top(peak, unit);
    let mut elapsed = 0;
    let titles = timeline.iter().zip(&values).map(|(point, value)| {
        let from = elapsed;
        elapsed += point.ms;
        format!("{} to {}: {}", clock(from), clock(elapsed), show(*value))
    });
    let titles = titles.collect();
    let label = format!("{what} over {}: {} on average, at most {}", clock_of(total), show(mean), show(peak));
    let series = Series { class, label, values, top, titles };
    html! {
        figure {
            figcaption {
                strong { (what) }
                span.mute { (show(mean)) " on average (dashed), at most " (show(peak)) }
            }
            div.frame {
                div.axis-y aria-hidden="true" { span { (show(top)) } span { (show(top / 2.0)) } span { "0" } }
                (series.draw(timeline, mean))
                div.axis-x aria-hidden="true" {
                    span { "0" } span { (clock_of(total / 2.0)) } span { (clock_of(total)) }
                }
            }
        }
    }
}

/// What became of the planned entries; the terms of the sum.
fn outcomes(report: &Report) -> Markup {
    let Sums { planned, copied, unchanged, skipped, failed, .. } = report.sums;
    let Sums { missing, different, unverified, outdated, unfinished, .. } = report.sums;
    let audit = report.run.kind == RunKind::Verify;
    let terms = [
        ("copied", "f-copied", copied),
        (if audit { "matched" } else { "unchanged" }, "f-unchanged", unchanged),
        ("skipped", "f-skipped", skipped),
        ("failed", "f-failed", failed),
        ("missing", "f-failed", missing),
        ("different", "f-failed", different),
        (if audit { "unverified" } else { "not compared" }, "f-warn", unverified),
        ("outdated", "f-warn", outdated),
        ("unfinished", "f-none", unfinished),
    ];
    let beside = [
        ("in the target only", report.sums.extra),
        ("gone from the source", report.sums.gone),
        ("moved from the source to its quarantine", report.sums.source_removed),
        ("in a part that could not be read", report.sums.unseen),
        ("left out by the filter", report.sums.excluded),
    ];
    let used: Vec<_> = terms.into_iter().filter(|(_, _, count)| count.files > 0).collect();
    let amounts: Vec<_> = used.iter().map(|(_, class, count)| (*class, count.files)).collect();
    html! {
        section aria-labelledby="outcomes" {
            h2 #outcomes { "What became of it" }
            (shares("Outcomes of the planned entries, by their number", &amounts))
            (counts(used.iter().map(|(what, class, count)| (*what, Some(*class), *count)).collect(), planned.files))
            @if beside.iter().any(|(_, count)| count.files > 0) {
                p.mute { "Besides, and not planned:" }
                (counts(beside.into_iter().filter(|(_, count)| count.files > 0).map(|(what, count)| (what, None, count)).collect(), 0))
            }
        }
    }
}

/// Rows of counts; with a whole, each with its share of it.
fn counts(rows: Vec<(&str, Option<&str>, Count)>, whole: u64) -> Markup {
    html! {
        table {
            thead { tr { th scope="col" { "Outcome" } th.n scope="col" { "Number" } th.n scope="col" { "Share" } th.n scope="col" { "Bytes" } } }
            tbody {
                @for (what, class, count) in rows {
                    tr {
                        th scope="row" { @if let Some(class) = class { (key(class)) } (what) }
                        td.n { (grouped(count.files)) }
                        td.n { (percent(count.files, whole)) }
                        td.n { (show_size(count.bytes)) }
                    }
                }
            }
        }
    }
}

/// The colour that a word stands for in the chart above.
fn key(class: &str) -> Markup {
    html! {
        svg.key aria-hidden="true" viewBox="0 0 1 1" { rect class=(class) width="1" height="1" {} }
    }
}

fn coverage(report: &Report, survey: &Survey) -> Markup {
    let coverage = &survey.coverage;
    let rows = [
        ("by reading every byte back", "f-read", coverage.read_back),
        ("by the target, which refuses wrong bytes", "f-backend", coverage.backend),
        ("by nobody", "f-warn", coverage.unverified),
    ];
    let whole: u64 = rows.iter().map(|(_, _, count)| count.files).sum();
    let proven = whole - coverage.unverified.files;
    let amounts: Vec<_> = rows.iter().map(|(_, class, count)| (*class, count.files)).collect();
    html! {
        section aria-labelledby="coverage" {
            h2 #coverage { "Who compared the bytes" }
            (shares("Files by who compared the target's bytes with the source's", &amounts))
            (counts(rows.into_iter().map(|(what, class, count)| (what, Some(class), count)).collect(), whole))
            p.mute {
                @if whole == 0 { "No file was planned." }
                @else { (percent(proven, whole)) " of the files of this run are proven by their SHA-256." }
                @if report.run.kind == RunKind::Copy && coverage.unverified.files == 0 && whole > 0 {
                    " " (words("`migrator verify --read-back` proves it again, whenever you like."))
                }
            }
        }
    }
}

fn reasons(report: &Report) -> Markup {
    html! {
        @if !report.reasons.is_empty() {
            section aria-labelledby="reasons" {
                h2 #reasons { "Reasons" }
                table {
                    thead { tr { th scope="col" { "Outcome" } th scope="col" { "Reason" } th.n scope="col" { "Number" } th scope="col" { "What to do" } } }
                    tbody {
                        @for reason in &report.reasons {
                            tr {
                                td { (reason.outcome.as_str()) }
                                th scope="row" { (show_text(&reason.reason).replace('_', " ")) }
                                td.n { (grouped(reason.files)) }
                                td.mute { (words(next_step(reason.outcome, &reason.reason).unwrap_or(""))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn removals(report: &Report, survey: &Survey) -> Markup {
    let sums = &report.sums;
    let all = sums.quarantined.files + sums.deleted.files + sums.not_deleted.files;
    let until = |detail: &str| FileId::parse(detail).ok().and_then(|place| quarantine::expiry(&place));
    html! {
        @if !survey.removals.is_empty() {
            section aria-labelledby="removed" {
                h2 #removed { "Removed from the target" }
                table {
                    thead { tr { th scope="col" { "File" } th scope="col" { "Outcome" } th scope="col" { "Where it is now" } th scope="col" { "Stays until" } } }
                    tbody {
                        @for Removal { subject, outcome, detail } in &survey.removals {
                            tr {
                                th scope="row" { bdi.name { (show_name(subject)) } }
                                td { (outcome.as_str().replace('_', " ")) }
                                td { @if let Some(detail) = detail { bdi.name { (show_name(detail)) } } }
                                td { @if let Some(until) = detail.as_deref().and_then(until) { (time(until)) } }
                            }
                        }
                    }
                }
                @if all > survey.removals.len() as u64 {
                    p.mute { "The first " (survey.removals.len()) " of " (grouped(all)) "; files.csv has all of them." }
                }
            }
        }
    }
}

/// What a safeguard kept in the target.
fn withheld(report: &Report) -> Markup {
    let files = &report.course.withheld;
    html! {
        @if let Some(why) = report.withheld && !files.is_empty() {
            section aria-labelledby="withheld" {
                h2 #withheld { "Not removed from the target" }
                p.mute {
                    (self::files(report.candidates)) " in the target only would have been removed. Nothing was: " (text::why(why)) "."
                }
                table {
                    thead { tr { th scope="col" { "File" } th.n scope="col" { "Size" } } }
                    tbody {
                        @for file in files {
                            tr { th scope="row" { bdi.name { (show_name(&file.id)) } } td.n { (show_size(file.size)) } }
                        }
                    }
                }
                @if report.candidates > files.len() as u64 {
                    p.mute { "The first " (files.len()) " of " (grouped(report.candidates)) "; " (words("`migrator sync --delete --dry-run --json` names all of them.")) }
                }
            }
        }
    }
}

fn sizes(survey: &Survey) -> Markup {
    let classes = &survey.sizes;
    let first = classes.iter().position(|class| class.files > 0).unwrap_or(0);
    let last = classes.iter().rposition(|class| class.files > 0);
    let most = classes.iter().map(|class| class.files).max().unwrap_or(0);
    let greatest = classes.iter().map(|class| class.bytes).max().unwrap_or(0);
    let name = |index: usize| match (classes.get(index), classes.get(index + 1)) {
        (Some(class), _) if class.from == 0 => "empty".to_owned(),
        (Some(_), Some(next)) => format!("under {}", show_size(next.from).replace(".0 ", " ")),
        (Some(class), None) => format!("{} and more", show_size(class.from).replace(".0 ", " ")),
        _ => String::new(),
    };
    html! {
        section aria-labelledby="sizes" {
            h2 #sizes { "Sizes" }
            @match last {
                None => p.mute { "No file was planned." },
                Some(last) => table {
                    thead { tr {
                        th scope="col" { "Size" } th.n scope="col" { "Files" } th scope="col" { span.vh { "Share of files" } }
                        th.n scope="col" { "Bytes" } th scope="col" { span.vh { "Share of bytes" } }
                    } }
                    tbody {
                        @for (index, class) in classes.iter().enumerate().take(last + 1).skip(first) {
                            tr {
                                th.w scope="row" { (name(index)) }
                                td.n { (grouped(class.files)) }
                                td.b { (bar("f-skipped", class.files, most)) }
                                td.n { (show_size(class.bytes)) }
                                td.b { (bar("f-copied", class.bytes, greatest)) }
                            }
                        }
                    }
                },
            }
        }
    }
}

fn slowest(course: &Course) -> Markup {
    let most = course.slowest.first().map_or(0, |slow| slow.micros);
    html! {
        section aria-labelledby="slowest" {
            h2 #slowest { "Slowest files" }
            @if course.slowest.is_empty() { p.mute { "Nothing was noted." } }
            @else {
                table {
                    thead { tr { th scope="col" { "File" } th.n scope="col" { "Size" } th.n scope="col" { "Took" } } }
                    tbody {
                        @for slow in &course.slowest {
                            tr {
                                th scope="row" { bdi.name { (show_name(&slow.id)) } (bar("f-read", slow.micros, most)) }
                                td.n { (show_size(slow.size)) }
                                td.n { (span(slow.micros)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn about(report: &Report, proof: Option<&Proven>) -> Markup {
    let (run, work) = (&report.run, &report.work);
    let ended = match run.end {
        Some(RunEnd::Complete) => "complete",
        Some(RunEnd::Interrupted) => "interrupted",
        Some(RunEnd::Aborted) => "broke off",
        None => "not ended",
    };
    let states: Vec<_> =
        report.states.iter().map(|(state, count)| format!("{} {state}", grouped(count.files))).collect();
    html! {
        section aria-labelledby="about" {
            h2 #about { "The run" }
            table.facts { tbody {
                (fact("began", time(run.started)))
                (fact("ended", html! { @if let Some(finished) = run.finished { (time(finished)) ", " } (ended) }))
                (fact("source seen", html! { @if run.scan_complete { "as a whole" } @else { "not as a whole" } }))
                (fact("read", html! { (show_size(work.bytes_read)) }))
                (fact("sent", html! { (show_size(work.bytes_sent)) }))
                (fact("parts", html! { (grouped(work.parts_sent)) " sent, " (grouped(work.parts_resumed)) " resumed" }))
                (fact("retries", html! { (grouped(work.retries)) }))
                (fact("ledger", html! { bdi.name { (show_text(&report.ledger)) } }))
                (fact("its files now", html! { (states.join(", ")) }))
                @if let Some(proof) = proof {
                    (fact("proof", html! { span.hash { (proof.head) } }))
                    (fact("proof before it", html! {
                        @match proof.previous { Some(previous) => span.hash { (previous) }, None => "none" }
                    }))
                }
                (fact("program", html! { "migrator " (show_text(&run.program)) }))
            } }
        }
    }
}

fn settings(report: &Report) -> Markup {
    let settings = &report.course.settings;
    html! {
        section aria-labelledby="settings" {
            h2 #settings { "Settings" }
            @if settings.is_empty() { p.mute { "Nothing was noted." } }
            @else {
                table.facts { tbody {
                    @for (name, value) in settings { (fact(&show_text(name), html! { bdi { (show_text(value)) } })) }
                } }
            }
        }
    }
}

/// Writes a text in which commands stand between backticks.
fn words(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn fact(name: &str, value: Markup) -> Markup {
    html! { tr { th scope="row" { (name) } td { (value) } } }
}

fn took(report: &Report) -> Option<Duration> {
    report.run.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d %H:%M:%S UTC")) } }
}

#[cfg(test)]
mod tests;
