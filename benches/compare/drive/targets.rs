//! What the project wants to reach, beside what a run has shown.

use std::fmt::Write as _;

use super::rows::{Row, find};
use super::tools::{Scenario, Who};

const PEERS: [Who; 5] = [Who::S5cmd, Who::RcloneTuned, Who::Rclone, Who::S3sync, Who::Aws];

/// Peak memory for small files, in MiB.
const SMALL_PEAK: f64 = 64.0;
/// The migrator's own part size, in MiB.
const PART: u32 = 16;

/// A figure, and the bound that it shall keep.
struct Line {
    what: String,
    target: String,
    value: Option<f64>,
    bound: f64,
    /// The figure shall be at least the bound, not at most.
    least: bool,
    shown: Option<String>,
}

/// What the rows cannot tell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra {
    /// Requests at a time, of the migrator.
    pub(crate) concurrency: u32,
    /// Processor time of `migrator --version`, in ms.
    pub(crate) version_cpu: Option<f64>,
    /// Wall time of a copy of one file, in ms.
    pub(crate) one_file: Option<f64>,
}

/// Writes the table of targets.
pub(crate) fn table(rows: &[Row], extra: Extra) -> String {
    let mut text = "| what | target | measured | |\n|---|---|---:|---|\n".to_owned();
    for line in lines(rows, extra) {
        let met = line.value.map(|value| if line.least { value >= line.bound } else { value <= line.bound });
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "not measured",
        };
        let value = line.shown.or_else(|| line.value.map(|value| format!("{value:.2}"))).unwrap_or_default();
        let _ = writeln!(text, "| {} | {} | {value} | {verdict} |", line.what, line.target);
    }
    text
}

fn lines(rows: &[Row], extra: Extra) -> Vec<Line> {
    let sink = |scenario, set: &str, who| find(rows, "sink", scenario, set, who);
    let up = |set: &str, who| sink(Scenario::Upload, set, who);
    let over =
        |one: Option<&Row>, other: Option<&Row>, of: fn(&Row) -> Option<f64>| Some(of(one?)? / of(other?)?);
    let most = |what: &str, target: String, value, bound| Line {
        what: what.to_owned(),
        target,
        value,
        bound,
        least: false,
        shown: None,
    };
    let least =
        |what: &str, target: String, value, bound| Line { least: true, ..most(what, target, value, bound) };
    let fastest = |server: &str, set: &str| {
        let peers = PEERS.iter().filter_map(|who| find(rows, server, Scenario::Upload, set, *who));
        peers.max_by(|one, other| {
            let of = |row: &Row| row.objects_per_second().unwrap_or(0.0);
            of(one).total_cmp(&of(other))
        })
    };

    let mut all = Vec::new();
    let (s, l) = (up("S", Who::Migrator), up("L", Who::Migrator));
    for who in [Who::S5cmd, Who::RcloneTuned] {
        let value = over(s, up("S", who), Row::cpu_per_object);
        all.push(most("S, sink: CPU per object", format!("at most 0.25 x {}", who.label()), value, 0.25));
    }
    let value = over(s, up("S", Who::Bare), Row::cpu_per_object);
    all.push(most("S, sink: CPU per object", "at most 2.5 x the bare client".to_owned(), value, 2.5));
    let value = over(s, up("S", Who::S5cmd), Row::objects_per_second);
    all.push(least("S, sink: objects per second", "at least 4 x s5cmd".to_owned(), value, 4.0));
    for who in [Who::S5cmd, Who::RcloneTuned] {
        let value = over(l, up("L", who), Row::cpu_per_mib);
        all.push(most("L, sink: CPU per MiB", format!("at most 0.5 x {}", who.label()), value, 0.5));
    }
    let value = over(l, up("L", Who::ReadTwice), Row::cpu_per_mib);
    all.push(most("L, sink: CPU per MiB", "at most 1.3 x (read + two SHA-256)".to_owned(), value, 1.3));
    let value = over(up("M", Who::Migrator), fastest("sink", "M"), Row::objects_per_second);
    all.push(least("M, sink: objects per second", "at least 2 x the fastest peer".to_owned(), value, 2.0));
    for set in ["S", "S2", "M", "L", "mixed"] {
        let ours = find(rows, "Garage", Scenario::Upload, set, Who::Migrator);
        let peer = fastest("Garage", set);
        let value = over(ours, peer, Row::objects_per_second);
        let name = peer.map_or("the fastest peer", |row| row.who.label());
        let what = format!("{set}, Garage: objects per second");
        all.push(least(&what, format!("at least 1 x the fastest peer ({name})"), value, 1.0));
    }
    for set in ["S", "S2", "M", "L", "mixed"] {
        let row = up(set, Who::Migrator);
        // A file lies in whole pages, which are read whoever reads it. What is not a file of the source is the program,
        // its ledger and /proc: it shows with small sets.
        let pages = over(row, up(set, Who::Read), |row| row.disk_read());
        let value = pages.or_else(|| row.and_then(Row::read));
        all.push(most(&format!("{set}: bytes read"), "1.0 x the source, in pages".to_owned(), value, 1.05));
    }
    let idle = |who| sink(Scenario::Unchanged, "U", who);
    let ours = idle(Who::Migrator);
    let value = over(ours, idle(Who::Stat), Row::wall);
    all.push(most("U, unchanged: wall", "at most 2 x walk + stat".to_owned(), value, 2.0));
    let requests = ours.and_then(Row::heads_and_lists);
    let sum = requests.and_then(|(heads, lists)| u32::try_from(heads + lists).ok()).map(f64::from);
    let shown = requests.map(|(heads, lists)| format!("{heads} HEAD, {lists} LIST"));
    let line = most("U, unchanged: requests", "0 HEAD, 0 LIST".to_owned(), sum, 0.0);
    all.push(Line { shown, ..line });
    let value = over(idle(Who::Rclone), ours, Row::wall);
    all.push(least("U, unchanged: wall", "at least 10 x faster than rclone sync".to_owned(), value, 10.0));
    let value = over(idle(Who::RcloneSize), ours, Row::wall);
    all.push(least("U, unchanged: wall", "faster than rclone --size-only".to_owned(), value, 1.0));
    for set in ["S", "L"] {
        let back = |who| sink(Scenario::Restore, set, who);
        for (what, ours) in [("restore", Who::Migrator), ("restore without syncs", Who::MigratorRelaxed)] {
            for who in [Who::Rclone, Who::RcloneTuned, Who::S5cmdChecked] {
                let value = over(back(who), back(ours), Row::wall);
                let (what, target) =
                    (format!("{set}, {what}: wall"), format!("at least 2 x {}", who.label()));
                all.push(least(&what, target, value, 2.0));
            }
        }
    }
    for set in ["S", "S2"] {
        let value = up(set, Who::Migrator).and_then(Row::peak);
        all.push(most(&format!("{set}: peak MiB"), format!("at most {SMALL_PEAK:.0}"), value, SMALL_PEAK));
    }
    let bound = f64::from(extra.concurrency * PART) + SMALL_PEAK;
    let target = format!("at most {} x {PART} + {SMALL_PEAK:.0}", extra.concurrency);
    all.push(most("L: peak MiB", target, l.and_then(Row::peak), bound));
    all.push(most("`migrator --version`: CPU ms", "under 20".to_owned(), extra.version_cpu, 20.0));
    all.push(most("a copy of one file: wall ms", "under 100".to_owned(), extra.one_file, 100.0));
    all
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;

    #[test]
    fn a_target_is_met_or_not_or_not_measured() {
        let rows = [row(Who::Migrator, &[2]), row(Who::S5cmd, &[10]), row(Who::Bare, &[1])];
        let extra = Extra { concurrency: 8, version_cpu: Some(30.0), one_file: None };
        let text = table(&rows, extra);
        for line in [
            "| S, sink: CPU per object | at most 0.25 x s5cmd | 0.20 | met |",
            "| S, sink: objects per second | at least 4 x s5cmd | 5.00 | met |",
            "| S, sink: CPU per object | at most 2.5 x the bare client | 2.00 | met |",
            "| L: peak MiB | at most 8 x 16 + 64 |  | not measured |",
            "| `migrator --version`: CPU ms | under 20 | 30.00 | **not met** |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
