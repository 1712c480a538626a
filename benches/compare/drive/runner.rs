//! Runs the scenarios and keeps the figures.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use test_rig::S3Endpoint;

use super::measure::{self, Cost};
use super::rows::{Row, Sample};
use super::server::{Server, Sums};
use super::tools::{Job, Kit, Scenario, Who};
use super::{Options, same_trees};
use crate::sets::{Made, Set};

/// Runs of `migrator --version`, and copies of one file.
const STARTS: usize = 20;

/// So many copies are removed only when all runs have ended.
const MANY: u64 = 5_000;

/// What the name of a run's directory begins with.
const RUN: &str = "run-";

/// The bucket of what was there before, with the times of files as rclone has them.
const PEERS_BUCKET: &str = "peers";

pub(crate) struct Runner<'a> {
    pub(crate) kit: Kit,
    pub(crate) rows: Vec<Row>,
    /// Processor time of `migrator --version`, in ms.
    pub(crate) version_cpu: Option<f64>,
    options: &'a Options,
    limit: Duration,
    /// On the file system of the sets.
    work: TempDir,
    /// On that of the ledgers.
    ledgers: TempDir,
    numbers: u32,
}

/// Which row a run belongs to.
#[derive(Clone, Copy)]
struct Turn<'a> {
    server: &'static str,
    scenario: Scenario,
    set: &'static str,
    who: Who,
    made: &'a Made,
    /// A run that only warms up, over files that are not in the page cache.
    warm_up: bool,
}

/// Writes a line about what is being done.
pub(crate) fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "compare: {line}");
}

impl<'a> Runner<'a> {
    pub(crate) fn new(kit: Kit, options: &'a Options, work: &Path, ledgers: &Path) -> Result<Self> {
        let directory = |parent: &Path| {
            sweep(parent);
            tempfile::Builder::new().prefix(&format!("{RUN}{}-", std::process::id())).tempdir_in(parent)
        };
        Ok(Self {
            kit,
            rows: Vec::new(),
            version_cpu: None,
            options,
            limit: super::limit(options),
            work: directory(work)?,
            ledgers: directory(ledgers)?,
            numbers: 0,
        })
    }

    /// Returns who takes part, of those who can. A quick run leaves out what starts slowly, unless it is asked for.
    fn lineup(&self, lineup: &[Who]) -> Vec<Who> {
        let (peers, quick) = (&self.options.peers, self.options.quick);
        let named = |who: Who| peers.iter().any(|peer| who.label().contains(peer.as_str()));
        let all = |who: Who| peers.is_empty() && !(quick && who.is_slow());
        lineup.iter().copied().filter(|who| !who.is_peer() || named(*who) || all(*who)).collect()
    }

    /// Returns a path that nobody has used.
    fn fresh(&mut self, parent: &Path, name: &str) -> PathBuf {
        self.numbers += 1;
        parent.join(format!("{name}-{}", self.numbers))
    }

    fn fresh_ledger(&mut self) -> PathBuf {
        let parent = self.ledgers.path().to_owned();
        self.fresh(&parent, "ledger")
    }

    fn row(&mut self, turn: Turn<'_>) -> &mut Row {
        let same = |row: &Row| {
            row.server == turn.server
                && row.scenario == turn.scenario.name()
                && row.set == turn.set
                && row.who == turn.who
        };
        let index = self.rows.iter().position(same).unwrap_or_else(|| {
            self.rows.push(Row {
                server: turn.server,
                scenario: turn.scenario.name(),
                set: turn.set,
                who: turn.who,
                files: turn.made.files,
                bytes: turn.made.bytes,
                samples: Vec::new(),
                disk: None,
                failure: None,
            });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    /// Runs one, checks what came out, and keeps the figure. A failure is kept as well, and is the end of this row.
    /// Returns whether all went well; nothing where it is not installed.
    fn take(
        &mut self,
        turn: Turn<'_>,
        mut server: Option<&mut Server>,
        job: &Job<'_>,
        check: impl FnOnce(Option<&Server>) -> Result<()>,
    ) -> Result<Option<bool>> {
        let Some(command) = self.kit.command(turn.who, turn.scenario, job) else { return Ok(None) };
        if turn.warm_up {
            turn.made.evict()?;
        }
        if let Some(server) = &server {
            server.reset_counts()?;
        }
        let before = server.as_mut().map(|server| server.cpu()).unwrap_or_default();
        let result = measure::run(command, self.limit);
        let after = server.as_mut().map(|server| server.cpu()).unwrap_or_default();
        let server = server.map(|server| &*server);
        let requests = match server {
            Some(server) => server.requests()?,
            None => None,
        };
        let result = result.and_then(|cost| check(server).map(|()| cost));
        let what = format!("{} {} {}: {}", turn.set, turn.scenario.name(), turn.server, turn.who.label());
        let row = self.row(turn);
        let good = result.is_ok();
        match result {
            Ok(cost) => {
                let Cost { wall, cpu, .. } = cost;
                note(format_args!("{what}: {:.2} s, CPU {:.2} s", wall.as_secs_f64(), cpu.as_secs_f64()));
                if turn.warm_up {
                    row.disk = Some(cost.disk);
                } else {
                    row.samples.push(Sample { cost, server: after.saturating_sub(before), requests });
                }
            }
            Err(error) => {
                note(format_args!("{what}: failed: {error:#}"));
                row.failure = Some(format!("{error:#}"));
            }
        }
        Ok(Some(good))
    }

    fn has_failed(&self, turn: Turn<'_>) -> bool {
        self.rows.iter().any(|row| {
            row.server == turn.server
                && row.scenario == turn.scenario.name()
                && row.set == turn.set
                && row.who == turn.who
                && row.failure.is_some()
        })
    }

    /// Uploads, and once more, all in turn.
    ///
    /// # Errors
    /// When the server is gone, or a disk is full: not when one that takes part fails.
    pub(crate) fn upload(&mut self, server: &mut Server, set: Set, made: &Made, rounds: u32) -> Result<()> {
        self.upload_of(server, set, made, rounds, Who::lineup(Scenario::Upload))
    }

    /// As [`upload`](Self::upload), for some.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn upload_of(
        &mut self,
        server: &mut Server,
        set: Set,
        made: &Made,
        rounds: u32,
        lineup: &[Who],
    ) -> Result<()> {
        let sample = made.sample()?;
        let restored = self.work.path().join("nothing");
        for round in 0..=rounds {
            for who in self.lineup(lineup) {
                // Floors of the machine are the same whatever the server.
                let idle = who.is_local() && server.name() != "sink";
                let warm_up = round == 0;
                if idle || (who.is_slow() && (round != 1 || server.name() != "sink")) {
                    continue;
                }
                // A quick run warms nothing up, and leaves nothing out.
                if self.options.quick && warm_up {
                    continue;
                }
                let made = if who.is_slow() && !self.options.quick { &sample } else { made };
                let scenario = Scenario::Upload;
                let turn = Turn { server: server.name(), scenario, set: set.name(), who, made, warm_up };
                if self.has_failed(turn) {
                    continue;
                }
                let source = &made.directory;
                let ledger = self.fresh_ledger();
                if who.is_local() {
                    let endpoint = server.endpoint().clone();
                    let job = Job { source, endpoint: &endpoint, ledger: &ledger, restored: &restored };
                    self.take(turn, None, &job, |_| Ok(()))?;
                    continue;
                }
                server.empty()?;
                let endpoint = server.endpoint().clone();
                let job = Job { source, endpoint: &endpoint, ledger: &ledger, restored: &restored };
                let all_there = |server: Option<&Server>| arrived(server, made);
                if self.take(turn, Some(server), &job, all_there)? != Some(true) || who.is_floor() {
                    continue;
                }
                let mut again = vec![who];
                again.extend((who == Who::RcloneTuned).then_some(Who::RcloneSize));
                for who in again {
                    let turn = Turn { scenario: Scenario::Unchanged, who, warm_up: false, ..turn };
                    if !warm_up && !self.has_failed(turn) {
                        self.take(turn, Some(server), &job, all_there)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Downloads what the sink has from the start, all in turn, and compares each copy with the source.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub(crate) fn restore(&mut self, set: Set, made: &Made, rounds: u32) -> Result<()> {
        note(format_args!("hashing the set {} for the sink", set.name()));
        let sample = made.sample()?;
        let mut whole = Server::sink(&[], Some(("--serve", &made.directory)))?;
        let mut part = match made.files == sample.files {
            true => None,
            false => Some(Server::sink(&[], Some(("--serve", &sample.directory)))?),
        };
        for round in 0..=rounds {
            for who in self.lineup(Who::lineup(Scenario::Restore)) {
                let warm_up = round == 0;
                if (self.options.quick && warm_up) || (who.is_slow() && round != 1) {
                    continue;
                }
                let (server, made) = match &mut part {
                    Some(part) if who.is_slow() => (part, &sample),
                    _ => (&mut whole, made),
                };
                let scenario = Scenario::Restore;
                // Everything is in the page cache: the sink has hashed it.
                let turn =
                    Turn { server: server.name(), scenario, set: set.name(), who, made, warm_up: false };
                if self.has_failed(turn) {
                    continue;
                }
                let parent = self.work.path().to_owned();
                let restored = self.fresh(&parent, "copies");
                fs::create_dir(&restored)?;
                let ledger = self.fresh_ledger();
                let endpoint = server.endpoint().clone();
                let job = Job {
                    source: &made.directory,
                    endpoint: &endpoint,
                    ledger: &ledger,
                    restored: &restored,
                };
                let taken =
                    self.take(turn, Some(server), &job, |_| same_trees(&made.directory, &restored))?;
                if warm_up && taken == Some(true) {
                    self.row(turn).samples.pop();
                }
                // ext4 without a journal gives no inode away that was deleted in the last minutes, and looks at each of
                // them for every new file: whoever comes after a removal of many would pay for it.
                if made.files < MANY {
                    fs::remove_dir_all(&restored)?;
                }
            }
        }
        Ok(())
    }

    /// Has the migrator upload once, and then all compare.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub(crate) fn verify(&mut self, set: Set, made: &Made, rounds: u32) -> Result<()> {
        let mut server = Server::sink(&[], Some(("--contents", &made.directory)))?;
        let endpoint = server.endpoint().clone();
        let ledger = self.fresh_ledger();
        let restored = self.work.path().join("nothing");
        let job = Job { source: &made.directory, endpoint: &endpoint, ledger: &ledger, restored: &restored };
        let command = self.kit.command(Who::Migrator, Scenario::Upload, &job).context("no migrator")?;
        measure::run(command, self.limit).context("the upload that was to be verified")?;
        arrived(Some(&server), made)?;
        for _ in 0..rounds {
            for who in self.lineup(Who::lineup(Scenario::Verify)) {
                let (scenario, set) = (Scenario::Verify, set.name());
                let turn = Turn { server: server.name(), scenario, set, who, made, warm_up: false };
                if !self.has_failed(turn) {
                    let server = (!who.is_local()).then_some(&mut server);
                    self.take(turn, server, &job, |_| Ok(()))?;
                }
            }
        }
        Ok(())
    }

    /// Compares 200,000 files that nobody has touched with what was copied before.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub(crate) fn unchanged(&mut self, made: &Made, rounds: u32) -> Result<()> {
        let arguments = ["--bucket", PEERS_BUCKET, "--mtimes"];
        let mut server = Server::sink(&arguments, Some(("--serve", &made.directory)))?;
        let endpoint = server.endpoint().clone();
        let mut peers = endpoint.clone();
        PEERS_BUCKET.clone_into(&mut peers.bucket);
        let ledger = self.fresh_ledger();
        let restored = self.work.path().join("nothing");
        let job = |endpoint| Job { source: &made.directory, endpoint, ledger: &ledger, restored: &restored };
        let command = self.kit.command(Who::Migrator, Scenario::Upload, &job(&endpoint));
        note(format_args!("copying the set U once"));
        measure::run(command.context("no migrator")?, 4 * self.limit)
            .context("the first copy of the set U")?;
        arrived(Some(&server), made)?;
        for round in 0..rounds {
            for who in self.lineup(Who::lineup(Scenario::Unchanged)) {
                // Some minutes, for no target.
                if who.is_slow() || who == Who::S3sync || (round > 1 && who.is_peer()) {
                    continue;
                }
                let scenario = Scenario::Unchanged;
                let turn =
                    Turn { server: server.name(), scenario, set: Set::U.name(), who, made, warm_up: false };
                if self.has_failed(turn) {
                    continue;
                }
                let endpoint: &S3Endpoint = if who.is_peer() { &peers } else { &endpoint };
                let server = (!who.is_local()).then_some(&mut server);
                self.take(turn, server, &job(endpoint), |_| Ok(()))?;
            }
        }
        Ok(())
    }

    /// What a start costs: of the migrator alone, and of a copy of one file.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub(crate) fn start_up(&mut self) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            let mut command = self.kit.bare_command(&self.kit.migrator);
            command.arg("--version");
            times.push(measure::run(command, self.limit)?.cpu.as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        self.version_cpu = times.get(STARTS / 2).copied();
        let source = self.work.path().join("one");
        fs::create_dir_all(&source)?;
        fs::write(source.join("file"), [1; 4096])?;
        let made = Made::of_tree(&source)?;
        let mut server = Server::sink(&[], None)?;
        let restored = self.work.path().join("nothing");
        for _ in 0..STARTS {
            for who in self.lineup(&[Who::Migrator, Who::Bare, Who::S5cmd, Who::RcloneTuned]) {
                let scenario = Scenario::Upload;
                let turn = Turn {
                    server: server.name(),
                    scenario,
                    set: "one file",
                    who,
                    made: &made,
                    warm_up: false,
                };
                if self.has_failed(turn) {
                    continue;
                }
                server.empty()?;
                let endpoint = server.endpoint().clone();
                let ledger = self.fresh_ledger();
                let job = Job { source: &source, endpoint: &endpoint, ledger: &ledger, restored: &restored };
                self.take(turn, Some(&mut server), &job, |server| arrived(server, &made))?;
            }
        }
        Ok(())
    }

    /// Everything once over a few files, against a sink that compares every byte.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub(crate) fn quick(&mut self) -> Result<()> {
        let root = self.work.path().to_owned();
        let made = Set::Quick.make(&root)?;
        let mut server = Server::sink(&["--check-sha256", "all", "--md5-etags"], None)?;
        self.upload(&mut server, Set::Quick, &made, 1)?;
        self.restore(Set::Quick, &made, 1)?;
        self.verify(Set::Quick, &made, 1)
    }
}

/// Removes what runs left that were killed: their directories are named after their processes.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(RUN)?.split_once('-'));
        let pid = owner.and_then(|(pid, _)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // What cannot be removed stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Checks that all files are there: a run that leaves some out has no figure.
fn arrived(server: Option<&Server>, made: &Made) -> Result<()> {
    let found = server.context("no server")?.sums()?;
    let wanted = Sums { count: made.files, bytes: made.bytes };
    ensure!(
        found == wanted,
        "{} objects of {} bytes arrived, not {} of {}",
        found.count,
        found.bytes,
        wanted.count,
        wanted.bytes
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let ours = format!("run-{}-x", std::process::id());
        for name in ["run-4294967295-x", ours.as_str(), "run-x", "S"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        sweep(parent.path());
        let left = |name: &str| parent.path().join(name).exists();
        assert!(!left("run-4294967295-x") && left(&ours) && left("run-x") && left("S"));
    }
}
