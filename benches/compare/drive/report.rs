//! The results, as a page.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::rows::{find, tables};
use super::runner::Runner;
use super::targets::{self, Extra};
use super::tools::{Scenario, Who};
use super::{CONCURRENCY, Options, machine};
use crate::sets::Set;

/// Writes machine, versions, command lines, tables and targets.
pub(super) fn write(options: &Options, runner: &Runner<'_>, facts: &[String]) -> String {
    let rows = &runner.rows;
    let kit = &runner.kit;
    let mut text = "# Results\n\nWritten by `benches/compare/run`; a run replaces it.\n\n".to_owned();
    let date = Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
    let commit = machine::commit().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let _ = writeln!(text, "- {date}{commit}, built with {}", options.build);
    for fact in facts {
        let _ = writeln!(text, "- {fact}");
    }
    for (name, version) in kit.versions() {
        let version = version.unwrap_or_else(|| "not installed: left out".to_owned());
        let _ = writeln!(text, "- {name}: {version}");
    }
    text.push_str("\nSets: ");
    let used =
        Set::ALL.into_iter().chain([Set::Quick]).filter(|set| rows.iter().any(|row| row.set == set.name()));
    let sets: Vec<String> = used
        .map(|set| match (&options.tree, set) {
            (Some(tree), Set::Mixed) => format!("mixed is {}", tree.display()),
            _ => format!("{} is {}", set.name(), set.about()),
        })
        .collect();
    let _ = writeln!(text, "{}.", sets.join("; "));
    text.push_str(NOTES);
    if !options.quick {
        let extra = Extra {
            concurrency: options.concurrency.migrator_concurrency.unwrap_or(CONCURRENCY),
            version_cpu: runner.version_cpu,
            one_file: find(rows, "sink", Scenario::Upload, "one file", Who::Migrator)
                .and_then(|row| Some(row.wall()? * 1e3)),
        };
        let _ = write!(text, "\n## Targets\n\n{}", targets::table(rows, extra));
    }
    let _ = write!(text, "\n## Figures\n{}", tables(rows));
    text.push_str("\n## Command lines\n\n");
    for scenario in Scenario::ALL {
        for who in Who::lineup(scenario) {
            let ran = rows.iter().any(|row| row.scenario == scenario.name() && row.who == *who);
            if let Some(line) = kit.shown(*who, scenario).filter(|_| ran) {
                let _ = writeln!(text, "- {}, {}: `{line}`", scenario.name(), who.label());
            }
        }
    }
    text
}

const NOTES: &str = "
How to read it: figures are medians of the runs; those who take part run in turn, so that what else the machine does
hits all alike. CPU is user and system time of the program and its children. The sink shares the processors with the
client, checks no signature and no SHA-256 but those of the migrator's canaries, and its ETags are no MD5, so that
rclone is spared the comparison. Garage syncs nothing. *read/source* counts what was asked for with `read`, from the page
cache too (Go reads sockets that way, so it says nothing of a download); *disk/source* is of one run more, with nothing in
the page cache, and empty on a tmpfs. After each upload the server's own listing is compared with the set, and each
restored tree with its source byte by byte: a run that is wrong has no figure. The migrator verifies every file and keeps
a durable ledger; it syncs every file that it restores, which nobody else does, so that a second line has it restore into
a storage whose durability is `relaxed`, verified all the same. s5cmd verifies no download: its second
line adds the reading and hashing that the others do. aws gets a part of the small sets, once. Peak memory is never
below the few MiB of the driver that starts the program.
";
