//! What was measured, as medians and as a table.

use std::fmt::Write as _;
use std::time::Duration;

use super::measure::Cost;
use super::server::Requests;
use super::tools::{Scenario, Who};

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) cost: Cost,
    /// Processor time of the server meanwhile.
    pub(crate) server: Duration,
    pub(crate) requests: Option<Requests>,
}

/// All runs of one who takes part, over the same files.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) server: &'static str,
    pub(crate) scenario: &'static str,
    pub(crate) set: &'static str,
    pub(crate) who: Who,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) samples: Vec<Sample>,
    /// Bytes that came from a disk when nothing was in the page cache.
    pub(crate) disk: Option<u64>,
    /// Why there is no figure.
    pub(crate) failure: Option<String>,
}

const MIB: f64 = 1_048_576.0;

impl Row {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            count if count % 2 == 1 => values.get(middle).copied(),
            _ => Some((values[middle - 1] + values[middle]) / 2.0),
        }
    }

    pub(crate) fn wall(&self) -> Option<f64> {
        self.median(|sample| sample.cost.wall.as_secs_f64())
    }

    pub(crate) fn cpu(&self) -> Option<f64> {
        self.median(|sample| sample.cost.cpu.as_secs_f64())
    }

    fn server_cpu(&self) -> Option<f64> {
        self.median(|sample| sample.server.as_secs_f64())
    }

    /// Most memory in any run, in MiB.
    pub(crate) fn peak(&self) -> Option<f64> {
        self.samples.iter().map(|sample| float(sample.cost.peak) / MIB).reduce(f64::max)
    }

    pub(crate) fn objects_per_second(&self) -> Option<f64> {
        Some(float(self.files) / self.wall()?)
    }

    fn mib_per_second(&self) -> Option<f64> {
        Some(float(self.bytes) / MIB / self.wall()?)
    }

    /// Microseconds of processor time.
    pub(crate) fn cpu_per_object(&self) -> Option<f64> {
        Some(self.cpu()? * 1e6 / float(self.files.max(1)))
    }

    /// Milliseconds of processor time.
    pub(crate) fn cpu_per_mib(&self) -> Option<f64> {
        (self.bytes > 0).then_some(())?;
        Some(self.cpu()? * 1e3 / (float(self.bytes) / MIB))
    }

    fn requests_per_object(&self) -> Option<f64> {
        let total = |sample: &Sample| sample.requests.as_ref().map_or(f64::NAN, |all| float(all.total));
        self.median(total).filter(|total| total.is_finite()).map(|total| total / float(self.files.max(1)))
    }

    /// `HEAD` and `LIST` requests, of all runs the most.
    pub(crate) fn heads_and_lists(&self) -> Option<(u64, u64)> {
        let requests = || self.samples.iter().filter_map(|sample| sample.requests.as_ref());
        Some((requests().map(|all| all.heads).max()?, requests().map(|all| all.lists).max()?))
    }

    /// Bytes asked for with `read`, per byte of the files.
    pub(crate) fn read(&self) -> Option<f64> {
        (self.bytes > 0).then_some(())?;
        Some(self.median(|sample| float(sample.cost.read))? / float(self.bytes))
    }

    /// Bytes that came from the disk, per byte of the files; nothing on a tmpfs.
    pub(crate) fn disk_read(&self) -> Option<f64> {
        self.disk.filter(|disk| *disk > 0 && self.bytes > 0).map(|disk| float(disk) / float(self.bytes))
    }

    /// Between the fastest and the slowest run, as a share of the median.
    fn spread(&self) -> Option<f64> {
        let walls = || self.samples.iter().map(|sample| sample.cost.wall.as_secs_f64());
        Some((walls().reduce(f64::max)? - walls().reduce(f64::min)?) / self.wall()?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Returns the row, where it has figures.
pub(crate) fn find<'a>(
    rows: &'a [Row],
    server: &str,
    scenario: Scenario,
    set: &str,
    who: Who,
) -> Option<&'a Row> {
    rows.iter().find(|row| {
        row.server == server
            && row.scenario == scenario.name()
            && row.set == set
            && row.who == who
            && row.failure.is_none()
            && !row.samples.is_empty()
    })
}

const COLUMNS: &[&str] = &[
    "",
    "objects/s",
    "MiB/s",
    "wall s",
    "CPU s",
    "CPU us/object",
    "CPU ms/MiB",
    "wall, x migrator",
    "CPU, x migrator",
    "peak MiB",
    "requests/object",
    "read/source",
    "disk/source",
    "server CPU s",
    "runs",
    "spread",
];

/// Writes a table for each set and scenario.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut done: Vec<(&str, &str, &str)> = Vec::new();
    for row in rows {
        let key = (row.server, row.scenario, row.set);
        if done.contains(&key) {
            continue;
        }
        done.push(key);
        let same: Vec<&Row> = rows.iter().filter(|row| (row.server, row.scenario, row.set) == key).collect();
        let _ = write!(text, "\n### {}, {}, {}\n\n|", row.set, row.scenario, row.server);
        for column in COLUMNS {
            let _ = write!(text, " {column} |");
        }
        text.push_str("\n|---|");
        text.push_str(&"---:|".repeat(COLUMNS.len() - 1));
        text.push('\n');
        let reference = same.iter().find(|row| row.who == Who::Migrator && row.failure.is_none());
        for row in &same {
            line(&mut text, row, reference.copied());
        }
    }
    text
}

fn line(text: &mut String, row: &Row, reference: Option<&Row>) {
    let label = row.who.label();
    if let Some(failure) = &row.failure {
        let _ = writeln!(text, "| {label} | failed: {} |", failure.replace(['|', '\n'], " "));
        return;
    }
    let sample = match reference {
        Some(reference) if reference.files != row.files => format!(" ({} files)", row.files),
        _ => String::new(),
    };
    let ratio = |of: fn(&Row) -> Option<f64>| {
        let per = |row: &Row| Some(of(row)? / float(row.files.max(1)));
        Some(per(row)? / per(reference?)?)
    };
    let cells = [
        number(row.objects_per_second(), 0),
        number(row.mib_per_second(), 1),
        number(row.wall(), 3),
        number(row.cpu(), 3),
        number(row.cpu_per_object(), 1),
        number(row.cpu_per_mib(), 2),
        number(ratio(Row::wall), 2),
        number(ratio(Row::cpu), 2),
        number(row.peak(), 0),
        number(row.requests_per_object(), 2),
        number(row.read(), 2),
        number(row.disk_read(), 2),
        number(row.server_cpu().filter(|_| !row.who.is_local()), 2),
        row.samples.len().to_string(),
        row.spread().map(|spread| format!("{:.0} %", spread * 100.0)).unwrap_or_default(),
    ];
    let _ = writeln!(text, "| {label}{sample} | {} |", cells.join(" | "));
}

fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.digits$}"),
        _ => String::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(who: Who, walls: &[u64]) -> Row {
        let sample = |wall: &u64| Sample {
            cost: Cost {
                wall: Duration::from_secs(*wall),
                cpu: Duration::from_secs(2 * wall),
                peak: 32 << 20,
                read: 4 << 20,
                disk: 0,
            },
            server: Duration::from_secs(1),
            requests: Some(Requests { total: 200, heads: 0, lists: 0 }),
        };
        Row {
            server: "sink",
            scenario: Scenario::Upload.name(),
            set: "S",
            who,
            files: 100,
            bytes: 2 << 20,
            samples: walls.iter().map(sample).collect(),
            disk: Some(2 << 20),
            failure: None,
        }
    }

    #[test]
    fn figures_are_medians_and_ratios() {
        let migrator = row(Who::Migrator, &[9, 1, 2]);
        assert_eq!(migrator.wall(), Some(2.0));
        assert_eq!(row(Who::Migrator, &[1, 2, 4, 9]).wall(), Some(3.0));
        assert_eq!(migrator.objects_per_second(), Some(50.0));
        assert_eq!(migrator.cpu_per_object(), Some(40_000.0));
        assert_eq!(migrator.cpu_per_mib(), Some(2_000.0));
        assert_eq!(migrator.read(), Some(2.0));
        assert_eq!(migrator.disk_read(), Some(1.0));
        let mut broken = row(Who::Rclone, &[]);
        broken.failure = Some("it | broke".to_owned());
        let text = tables(&[migrator, row(Who::S5cmd, &[8, 8, 8]), broken]);
        assert!(text.contains("### S, upload, sink"), "{text}");
        assert!(
            text.contains("| s5cmd | 12 | 0.2 | 8.000 | 16.000 | 160000.0 | 8000.00 | 4.00 | 4.00 |"),
            "{text}"
        );
        assert!(text.contains("| rclone | failed: it   broke |"), "{text}");
    }
}
