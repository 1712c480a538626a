//! Numbers as the page writes them. Pure.

use std::time::Duration;

use crate::quantity::{show_duration, show_size};

use super::chart::as_float;

/// Writes a number of entries.
pub(super) fn files(number: u64) -> String {
    format!("{} {}", grouped(number), if number == 1 { "entry" } else { "entries" })
}

/// Writes a number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a share. What is not all is never shown as 100 %, and what is not nothing never as 0 %.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    let share = as_float(part) / as_float(whole) * 100.0;
    match part {
        0 => "0 %".to_owned(),
        part if part == whole => "100 %".to_owned(),
        _ if share < 0.1 => "< 0.1 %".to_owned(),
        _ if share > 99.9 => "> 99.9 %".to_owned(),
        _ => format!("{share:.1} %"),
    }
}

/// Writes bytes per second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, shown with two digits")]
pub(super) fn byte_rate(rate: f64) -> String {
    format!("{}/s", show_size(rate.max(0.0).round() as u64))
}

/// Writes a number with about three digits.
pub(super) fn brief(number: f64) -> String {
    match number {
        _ if number >= 1e6 => format!("{:.1} M", number / 1e6),
        _ if number >= 1e4 => format!("{:.0} k", number / 1e3),
        _ if number >= 1e3 => format!("{:.1} k", number / 1e3),
        _ if number >= 10.0 => format!("{number:.0}"),
        _ => format!("{number:.1}"),
    }
}

/// Writes a moment of a run.
pub(super) fn clock(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.1}s", as_float(ms) / 1000.0),
        _ => show_duration(Duration::from_millis(ms)),
    }
}

/// As [`clock`].
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a run")]
pub(super) fn clock_of(ms: f64) -> String {
    clock(ms.max(0.0) as u64)
}

/// Writes how long a file took.
pub(super) fn span(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.0} ms", as_float(micros) / 1e3),
        1_000_000..60_000_000 => format!("{:.1} s", as_float(micros) / 1e6),
        _ => show_duration(Duration::from_micros(micros)),
    }
}
