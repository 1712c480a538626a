//! The comparison: who runs when, against what, and whether what came out is right.

mod machine;
mod measure;
mod report;
mod rows;
mod runner;
mod server;
mod targets;
mod tools;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use test_rig::scratch::Scratch;

use self::rows::tables;
use self::runner::Runner;
use self::server::Server;
use self::tools::{Concurrency, Kit, Who};
use crate::sets::{Made, Set};

/// The migrator's own concurrency.
const CONCURRENCY: u32 = 8;

/// What is compared with what.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Data sets [default: all]
    #[arg(long, value_name = "SET", value_delimiter = ',', value_parser = Set::parse)]
    sets: Vec<Set>,
    /// Servers [default: all]
    #[arg(long, value_name = "SERVER", value_delimiter = ',', value_enum)]
    target: Vec<Target>,
    /// Parts of the comparison; `upload` has the unchanged second run with it [default: all]
    #[arg(long, value_name = "PART", value_delimiter = ',', value_enum)]
    parts: Vec<Part>,
    /// Take only peers whose name holds this (repeatable); the migrator and the floors always take part
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    peers: Vec<String>,
    /// Runs of each, after one that only warms up; S2, L and Garage get fewer
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    /// A few files, once, for correctness alone
    #[arg(long, conflicts_with_all = ["sets", "target", "parts", "rounds"])]
    quick: bool,
    /// Where data sets are kept and copies are restored [default: storage-bench in the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where ledgers are: a disk, or figures are of no durable ledger [default: as --dir]
    #[arg(long, value_name = "DIR")]
    ledgers: Option<PathBuf>,
    /// A real tree instead of the made set `mixed`
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// The program [default: migrator beside this one]
    #[arg(long, value_name = "FILE")]
    migrator: Option<PathBuf>,
    /// How long one run may take, in seconds
    #[arg(long, value_name = "S", default_value_t = 180)]
    limit: u64,
    /// Write the results into this file
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// How the programs were built, for the results
    #[arg(long, value_name = "TEXT", default_value = "not told")]
    build: String,
    #[command(flatten)]
    concurrency: Concurrency,
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The one that keeps nothing: what is measured is the client.
    Sink,
    /// A real one.
    Garage,
}

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Upload,
    Restore,
    Verify,
    /// Over 200,000 files.
    Unchanged,
    StartUp,
}

impl Options {
    fn sets(&self) -> &[Set] {
        if self.sets.is_empty() { &Set::ALL } else { &self.sets }
    }

    fn has(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn on(&self, target: Target) -> bool {
        self.target.is_empty() || self.target.contains(&target)
    }

    fn directory(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| env::temp_dir().join("storage-bench"))
    }

    /// Runs of one set: fewer of what takes long.
    fn rounds(&self, set: Set) -> u32 {
        match set {
            Set::S | Set::M => self.rounds,
            Set::S2 => self.rounds / 3,
            _ => self.rounds / 2,
        }
        .max(1)
    }

    fn make(&self, set: Set) -> Result<Made> {
        match (&self.tree, set) {
            (Some(tree), Set::Mixed) => Made::of_tree(tree),
            _ => {
                runner::note(format_args!("making the set {}", set.name()));
                set.make(&self.directory())
            }
        }
    }
}

/// Runs the comparison, prints the tables, and writes them where asked.
///
/// # Errors
/// When the migrator is not there, or failed; in a quick run also when a peer failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let directory = options.directory();
    let ledgers = options.ledgers.clone().unwrap_or_else(|| directory.clone());
    for directory in [&directory, &ledgers] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let home = Scratch::new("bench")?;
    let kit = Kit::find(options.migrator.clone(), options.concurrency.clone(), home.path())?;
    let facts = machine::facts(&directory, &ledgers);
    let mut runner = Runner::new(kit, options, &directory, &ledgers)?;
    if options.quick {
        runner.quick()?;
    } else {
        full(options, &mut runner)?;
    }
    let text = report::write(options, &runner, &facts);
    crate::say(format_args!("{text}"));
    if let Some(path) = &options.results {
        fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failed: Vec<_> = runner
        .rows
        .iter()
        .filter(|row| row.failure.is_some() && (options.quick || !row.who.is_peer()))
        .map(|row| format!("{} ({}, {})", row.who.label(), row.set, row.scenario))
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn full(options: &Options, runner: &mut Runner<'_>) -> Result<()> {
    if options.has(Part::StartUp) && options.on(Target::Sink) {
        runner.start_up()?;
    }
    for set in options.sets().iter().filter(|set| **set != Set::U) {
        let made = options.make(*set)?;
        if options.on(Target::Sink) {
            if options.has(Part::Upload) {
                let mut server = Server::sink(&[], None)?;
                runner.upload(&mut server, *set, &made, options.rounds(*set))?;
            }
            if options.has(Part::Restore) && matches!(set, Set::S | Set::M | Set::L) {
                runner.restore(*set, &made, options.rounds(*set).div_ceil(2))?;
            }
            if options.has(Part::Verify) && matches!(set, Set::S | Set::L) {
                runner.verify(*set, &made, options.rounds(*set).div_ceil(2))?;
            }
        }
    }
    if options.sets().contains(&Set::U) && options.has(Part::Unchanged) && options.on(Target::Sink) {
        runner.unchanged(&options.make(Set::U)?, options.rounds(Set::U))?;
    }
    if options.on(Target::Garage) && options.has(Part::Upload) {
        garage(options, runner)?;
    }
    Ok(())
}

/// Small sets are sampled: the server takes some thousand requests a second.
fn garage(options: &Options, runner: &mut Runner<'_>) -> Result<()> {
    let mut server = match Server::garage() {
        Ok(server) => server,
        Err(error) => {
            runner::note(format_args!("SKIP Garage: {error:#}"));
            return Ok(());
        }
    };
    for set in options.sets().iter().filter(|set| **set != Set::U) {
        let made = options.make(*set)?;
        let made = if matches!(set, Set::S | Set::S2) { made.sample()? } else { made };
        let rounds = if *set == Set::L { 1 } else { options.rounds(*set).div_ceil(2) };
        runner.upload(&mut server, *set, &made, rounds)?;
    }
    Ok(())
}

/// Finds how many requests at a time suit each program: for the sets S and L, one run each.
///
/// # Errors
/// As those of [`run`].
pub(crate) fn tune(options: &Options) -> Result<()> {
    let directory = options.directory();
    fs::create_dir_all(&directory)?;
    let home = Scratch::new("bench")?;
    for set in [Set::S, Set::L] {
        let made = options.make(set)?;
        for number in [4, 8, 16, 32, 64, 128] {
            let concurrency = Concurrency {
                migrator_concurrency: Some(number),
                bare_connections: number,
                s5cmd_workers: number,
                rclone_transfers: number,
                s3sync_workers: number,
            };
            let kit = Kit::find(options.migrator.clone(), concurrency, home.path())?;
            let ledgers = options.ledgers.as_deref().unwrap_or(&directory);
            let mut runner = Runner::new(kit, options, &directory, ledgers)?;
            let mut server = Server::sink(&[], None)?;
            let who = [Who::Migrator, Who::Bare, Who::S5cmd, Who::RcloneTuned, Who::S3sync];
            runner.upload_of(&mut server, set, &made, 1, &who)?;
            crate::say(format_args!("\n## {number} at a time\n{}", tables(&runner.rows)));
        }
    }
    Ok(())
}

/// Returns how long one run may take.
fn limit(options: &Options) -> Duration {
    Duration::from_secs(options.limit)
}

/// Tells whether two trees have the same files with the same bytes; what the migrator keeps of its own does not count.
fn same_trees(one: &Path, other: &Path) -> Result<()> {
    use std::io::Read as _;
    let mut count = 0_u64;
    let (mut left, mut right) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    crate::floor::walk::files(one, |name, size| {
        count += 1;
        let open = |tree: &Path| {
            fs::File::open(tree.join(name))
                .with_context(|| format!("cannot open {}", tree.join(name).display()))
        };
        let (mut from, mut to) = (open(one)?, open(other)?);
        if to.metadata()?.len() != size {
            bail!("{} has another size", name.display());
        }
        loop {
            let read = from.read(&mut left)?;
            if read == 0 {
                return Ok(());
            }
            to.read_exact(&mut right[..read])?;
            if left[..read] != right[..read] {
                bail!("{} has other bytes", name.display());
            }
        }
    })?;
    let mut found = 0_u64;
    crate::floor::walk::files(other, |name, _| {
        found += u64::from(!name.starts_with(".storage"));
        Ok(())
    })?;
    if found != count {
        bail!("{found} files where there should be {count}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (root.path().join("one"), root.path().join("other"));
        for (tree, file, text) in
            [(&one, "d/a", "same"), (&other, "d/a", "same"), (&other, ".storage/tmp/x", "ours")]
        {
            let path = tree.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        same_trees(&one, &other).unwrap();
        fs::write(other.join("d/a"), "other").unwrap();
        assert!(same_trees(&one, &other).unwrap_err().to_string().contains("size"));
        fs::write(other.join("d/a"), "sane").unwrap();
        assert!(same_trees(&one, &other).unwrap_err().to_string().contains("bytes"));
        fs::write(other.join("d/a"), "same").unwrap();
        fs::write(other.join("d/b"), "more").unwrap();
        assert!(same_trees(&one, &other).is_err());
        fs::remove_file(other.join("d/b")).unwrap();
        fs::remove_file(other.join("d/a")).unwrap();
        assert!(same_trees(&one, &other).is_err());
    }
}
