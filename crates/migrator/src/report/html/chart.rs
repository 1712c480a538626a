//! Charts as SVG: shapes only. Every word and number stands beside them as text, which scales, wraps and is read out.

use maud::{Markup, html};

use crate::course::Point;

/// Width of every chart in its own units; the page stretches it.
const WIDTH: f64 = 1000.0;

/// Height of a chart over time in its own units.
const HEIGHT: f64 = 200.0;

/// A bar that is divided into shares, each with its class and its amount.
pub(super) fn shares(label: &str, shares: &[(&str, u64)]) -> Markup {
    let total = sum(shares.iter().map(|(_, amount)| *amount)).max(1.0);
    let mut bars = Vec::new();
    let mut from = 0.0f64;
    for (class, amount) in shares.iter().filter(|(_, amount)| *amount > 0) {
        // A single failure among millions is still to be seen.
        let width = (as_float(*amount) / total * WIDTH).max(4.0);
        bars.push((class, from.min(WIDTH - 4.0), width));
        from += width;
    }
    html! {
        svg.shares role="img" aria-label=(label) viewBox="0 0 1000 24" preserveAspectRatio="none" {
            @for (class, from, width) in bars {
                rect class=(class) x=(coordinate(from)) y="0" width=(coordinate(width)) height="24" {}
            }
        }
    }
}

/// A bar in a cell of a table; its number stands beside it.
pub(super) fn bar(class: &str, amount: u64, greatest: u64) -> Markup {
    let width = as_float(amount) / as_float(greatest.max(1)) * 100.0;
    let width = if amount > 0 { width.max(1.0) } else { 0.0 };
    html! {
        svg.bar aria-hidden="true" viewBox="0 0 100 10" preserveAspectRatio="none" {
            rect.track x="0" y="0" width="100" height="10" {}
            rect class=(class) x="0" y="0" width=(coordinate(width)) height="10" {}
        }
    }
}

/// A quantity over the time of a run.
pub(super) struct Series<'a> {
    /// Its class.
    pub class: &'a str,
    /// What it is, for those who do not see it.
    pub label: String,
    /// Its value per second in each stretch.
    pub values: Vec<f64>,
    /// The top of the chart.
    pub top: f64,
    /// What a stretch says when it is pointed at.
    pub titles: Vec<String>,
}

impl Series<'_> {
    /// Draws the area under the quantity, and its mean.
    pub(super) fn draw(&self, timeline: &[Point], mean: f64) -> Markup {
        let total = sum(timeline.iter().map(|point| point.ms)).max(1.0);
        let height = |value: f64| HEIGHT - (value / self.top * HEIGHT).clamp(0.0, HEIGHT);
        let (mut line, mut at, mut stretches) = (String::new(), 0.0, Vec::new());
        for (point, value) in timeline.iter().zip(&self.values) {
            let width = as_float(point.ms) / total * WIDTH;
            // A step: the value is that of the whole stretch, and nothing is known of its inside.
            let y = coordinate(height(*value));
            let word = if line.is_empty() { 'M' } else { 'L' };
            line.push_str(&format!("{word}{} {y}L{} {y}", coordinate(at), coordinate(at + width)));
            stretches.push((at, width));
            at += width;
        }
        let area = format!("M0 {HEIGHT}{}L{WIDTH} {HEIGHT}Z", line.replacen('M', "L", 1));
        html! {
            svg.plot role="img" aria-label=(self.label) viewBox="0 0 1000 200" preserveAspectRatio="none" {
                @for y in [0, 50, 100, 150, 200] {
                    line.grid x1="0" x2="1000" y1=(y) y2=(y) {}
                }
                path class={ "area " (self.class) } d=(area) {}
                path class={ "line " (self.class) } d=(line) {}
                line.mean x1="0" x2="1000" y1=(coordinate(height(mean))) y2=(coordinate(height(mean))) {}
                @for ((at, width), title) in stretches.iter().zip(&self.titles) {
                    rect.stretch x=(coordinate(*at)) y="0" width=(coordinate(*width)) height="200" { title { (title) } }
                }
            }
        }
    }
}

/// Returns a round number not below `value`, for the top of a chart; `unit` is what its digits are counted in.
pub(super) fn top(value: f64, unit: f64) -> f64 {
    let value = value / unit;
    if value <= 0.0 {
        return unit;
    }
    let magnitude = 10f64.powf(value.log10().floor());
    let rounds = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let round = rounds.into_iter().find(|round| round * magnitude >= value).unwrap_or(10.0);
    round * magnitude * unit
}

/// Writes a coordinate: a tenth of a unit is less than a pixel.
fn coordinate(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Adds up.
pub(super) fn sum(numbers: impl Iterator<Item = u64>) -> f64 {
    as_float(numbers.fold(0, u64::saturating_add))
}

/// For shapes and rates, which need no more than six digits.
#[expect(clippy::cast_precision_loss, reason = "a chart shows no more")]
pub(super) const fn as_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tops_are_round_and_not_below() {
        for (value, unit, expected) in [
            (0.0, 1.0, 1.0),
            (7.0, 1.0, 8.0),
            (95.0, 1.0, 100.0),
            (120.0, 1.0, 150.0),
            (1024.0 * 33.0, 1024.0, 1024.0 * 40.0),
        ] {
            assert!((top(value, unit) - expected).abs() < 1e-6, "{value}: {}", top(value, unit));
        }
    }

    #[test]
    fn a_chart_has_only_numbers() {
        let timeline = [Point { ms: 0, ..Point::default() }, Point { ms: 0, ..Point::default() }];
        let series = Series {
            class: "sent",
            label: "x".into(),
            values: vec![0.0, f64::MAX],
            top: 1.0,
            titles: vec![String::new(); 2],
        };
        let drawn = series.draw(&timeline, 0.0).into_string()
            + &shares("x", &[("a", 0), ("b", u64::MAX), ("c", 1)]).into_string();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }
}
