//! The programs that are compared, and their command lines.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Args;
use test_rig::{S3Endpoint, tools};

use super::server::bucket_url;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// All files, into an empty bucket.
    Upload,
    /// The same once more: there is nothing to do.
    Unchanged,
    /// All objects, into an empty directory.
    Restore,
    /// Whether the bucket holds what the directory does.
    Verify,
}

impl Scenario {
    pub(crate) const ALL: [Self; 4] = [Self::Upload, Self::Unchanged, Self::Restore, Self::Verify];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Unchanged => "unchanged",
            Self::Restore => "restore",
            Self::Verify => "verify",
        }
    }
}

/// One who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Migrator,
    MigratorReadBack,
    MigratorRelaxed,
    Bare,
    Stat,
    Read,
    ReadTwice,
    S5cmd,
    S5cmdChecked,
    Rclone,
    RcloneTuned,
    RcloneSize,
    RcloneDownload,
    S3sync,
    Aws,
}

/// How many requests at a time. The defaults are the best that was found with `compare tune` on two cores.
#[derive(Clone, Debug, Args)]
pub(crate) struct Concurrency {
    /// `--concurrency` of the migrator [default: its own]
    #[arg(long, value_name = "N")]
    pub(crate) migrator_concurrency: Option<u32>,
    /// Connections of the bare client
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) bare_connections: u32,
    /// `--numworkers` of s5cmd (its own default is 256)
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) s5cmd_workers: u32,
    /// `--transfers` and `--checkers` of the tuned rclone (its own defaults are 4 and 8)
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) rclone_transfers: u32,
    /// `--worker-size` of s3sync (its own default is 16)
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) s3sync_workers: u32,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Kit {
    pub(crate) migrator: PathBuf,
    own: PathBuf,
    s5cmd: Option<PathBuf>,
    rclone: Option<PathBuf>,
    s3sync: Option<PathBuf>,
    aws: Option<PathBuf>,
    home: PathBuf,
    pub(crate) concurrency: Concurrency,
}

/// What a command works on.
pub(crate) struct Job<'a> {
    /// The files.
    pub(crate) source: &'a Path,
    pub(crate) endpoint: &'a S3Endpoint,
    /// The ledger of the pair.
    pub(crate) ledger: &'a Path,
    /// Where objects are restored.
    pub(crate) restored: &'a Path,
}

impl Who {
    /// Returns all who can take part, in the order of their turns.
    pub(crate) fn lineup(scenario: Scenario) -> &'static [Self] {
        match scenario {
            Scenario::Upload => &[
                Self::Migrator,
                Self::Bare,
                Self::S5cmd,
                Self::RcloneTuned,
                Self::Rclone,
                Self::S3sync,
                Self::Aws,
                Self::Stat,
                Self::Read,
                Self::ReadTwice,
            ],
            Scenario::Unchanged => &[
                Self::Migrator,
                Self::Stat,
                Self::S5cmd,
                Self::RcloneSize,
                Self::RcloneTuned,
                Self::Rclone,
                Self::S3sync,
                Self::Aws,
            ],
            Scenario::Restore => &[
                Self::Migrator,
                Self::MigratorRelaxed,
                Self::S5cmd,
                Self::S5cmdChecked,
                Self::RcloneTuned,
                Self::Rclone,
                Self::S3sync,
                Self::Aws,
            ],
            Scenario::Verify => {
                &[Self::Migrator, Self::MigratorReadBack, Self::RcloneSize, Self::RcloneDownload, Self::Read]
            }
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Migrator => "migrator",
            Self::MigratorReadBack => "migrator, reading back",
            Self::MigratorRelaxed => "migrator, not syncing",
            Self::Bare => "floor: bare client",
            Self::Stat => "floor: walk + stat",
            Self::Read => "floor: read + SHA-256",
            Self::ReadTwice => "floor: read + two SHA-256",
            Self::S5cmd => "s5cmd",
            Self::S5cmdChecked => "s5cmd, then SHA-256 of the copies",
            Self::Rclone => "rclone",
            Self::RcloneTuned => "rclone, tuned",
            Self::RcloneSize => "rclone, sizes only",
            Self::RcloneDownload => "rclone, downloading",
            Self::S3sync => "s3sync",
            Self::Aws => "aws",
        }
    }

    /// Tells whether it is no program that copies.
    pub(crate) fn is_floor(self) -> bool {
        matches!(self, Self::Stat | Self::Read | Self::ReadTwice | Self::Bare)
    }

    /// Tells whether it does without a server.
    pub(crate) fn is_local(self) -> bool {
        matches!(self, Self::Stat | Self::Read | Self::ReadTwice)
    }

    /// Tells whether it would take a minute where others take seconds: it gets a sample, once.
    pub(crate) fn is_slow(self) -> bool {
        self == Self::Aws
    }

    pub(crate) fn is_peer(self) -> bool {
        !self.is_floor() && !matches!(self, Self::Migrator | Self::MigratorReadBack | Self::MigratorRelaxed)
    }
}

impl Kit {
    /// Finds the programs; a peer that is not installed does not take part.
    ///
    /// # Errors
    /// When the migrator is not there.
    pub(crate) fn find(migrator: Option<PathBuf>, concurrency: Concurrency, home: &Path) -> Result<Self> {
        let own = env::current_exe()?;
        let beside = || own.with_file_name("migrator");
        let migrator = migrator.unwrap_or_else(beside);
        ensure!(
            migrator.is_file(),
            "there is no {}: build it with `cargo build -p migrator`, in the same profile, or name it with \
             --migrator",
            migrator.display()
        );
        Ok(Self {
            migrator: migrator.canonicalize()?,
            own,
            s5cmd: tools::find("s5cmd"),
            rclone: tools::find("rclone"),
            s3sync: tools::find("s3sync"),
            aws: tools::find("aws"),
            home: home.to_owned(),
            concurrency,
        })
    }

    /// Returns the programs' names with what they say of their version; nothing for one that is not installed.
    pub(crate) fn versions(&self) -> Vec<(&'static str, Option<String>)> {
        let migrator = Some(&self.migrator);
        [
            ("migrator", migrator, "--version"),
            ("s5cmd", self.s5cmd.as_ref(), "version"),
            ("rclone", self.rclone.as_ref(), "version"),
            ("s3sync", self.s3sync.as_ref(), "--version"),
            ("aws", self.aws.as_ref(), "--version"),
            ("garage", tools::find("garage").as_ref(), "--version"),
        ]
        .map(|(name, program, argument)| {
            let version = program.map(|program| {
                let output = self.bare_command(program).arg(argument).output();
                let text = output.map(|output| output.stdout).unwrap_or_default();
                let line = String::from_utf8_lossy(&text).lines().next().unwrap_or("?").trim().to_owned();
                line.split(" [").next().unwrap_or_default().to_owned()
            });
            (name, version)
        })
        .into()
    }

    /// Makes a command in an environment of its own.
    pub(crate) fn bare_command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", &self.home).env("PATH", env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Returns what `who` is started as; nothing where the program is not installed.
    pub(crate) fn command(&self, who: Who, scenario: Scenario, job: &Job<'_>) -> Option<Command> {
        let mut command = self.bare_command(self.program(who)?);
        command.envs(job.endpoint.env()).envs(job.endpoint.rclone_env());
        let bucket = format!("s3://{}", job.endpoint.bucket);
        match who {
            Who::Migrator | Who::MigratorReadBack | Who::MigratorRelaxed => {
                self.migrator_line(&mut command, who, scenario, job, &bucket)
            }
            Who::Stat => drop(command.arg("walk-stat").arg(job.source)),
            Who::Read => drop(command.arg("walk-read-sha256").arg(job.source)),
            Who::ReadTwice => drop(command.args(["walk-read-sha256", "--twice"]).arg(job.source)),
            Who::Bare => {
                let connections = self.concurrency.bare_connections.to_string();
                command.args(["bare-put", "--connections", &connections]);
                command.arg(job.source).arg(bucket_url(job.endpoint));
            }
            Who::S5cmd => drop(command.args(self.s5cmd_line(scenario, job, &bucket))),
            Who::S5cmdChecked => {
                let s5cmd = self.s5cmd.as_ref()?;
                command = self.bare_command(Path::new("/bin/sh"));
                command.envs(job.endpoint.env());
                command
                    .args(["-c", r#"own=$1 copies=$2; shift 2; "$@" && "$own" walk-read-sha256 "$copies""#]);
                command.arg("sh").arg(&self.own).arg(job.restored).arg(s5cmd);
                command.args(self.s5cmd_line(scenario, job, &bucket));
            }
            Who::Rclone | Who::RcloneTuned | Who::RcloneSize | Who::RcloneDownload => {
                self.rclone_line(&mut command, who, scenario, job);
            }
            Who::S3sync => self.s3sync_line(&mut command, scenario, job, &bucket),
            Who::Aws => {
                command.args(["s3", "sync", "--only-show-errors", "--no-progress", "--no-follow-symlinks"]);
                match scenario {
                    Scenario::Restore => command.arg(&bucket).arg(job.restored),
                    _ => command.arg(job.source).arg(&bucket),
                };
            }
        }
        Some(command)
    }

    fn program(&self, who: Who) -> Option<&Path> {
        match who {
            Who::Migrator | Who::MigratorReadBack | Who::MigratorRelaxed => Some(&self.migrator),
            Who::Stat | Who::Read | Who::ReadTwice | Who::Bare => Some(&self.own),
            Who::S5cmd | Who::S5cmdChecked => self.s5cmd.as_deref(),
            Who::Rclone | Who::RcloneTuned | Who::RcloneSize | Who::RcloneDownload => self.rclone.as_deref(),
            Who::S3sync => self.s3sync.as_deref(),
            Who::Aws => self.aws.as_deref(),
        }
    }

    fn migrator_line(
        &self,
        command: &mut Command,
        who: Who,
        scenario: Scenario,
        job: &Job<'_>,
        bucket: &str,
    ) {
        match scenario {
            Scenario::Upload | Scenario::Unchanged => command.arg("copy").arg(job.source).arg(bucket),
            Scenario::Restore if who == Who::MigratorRelaxed => {
                let config = job.ledger.with_extension("toml");
                let text = format!(
                    "[storage.copies]\nkind = \"local\"\npath = {:?}\ndurability = \"relaxed\"\n",
                    job.restored
                );
                // Nothing is written to show the line; and a run without its file fails, and says so.
                if config.is_absolute() {
                    let _ = fs::write(&config, text);
                }
                command.arg("copy").arg(bucket).arg("copies").arg("--config").arg(config)
            }
            Scenario::Restore => command.arg("copy").arg(bucket).arg(job.restored),
            Scenario::Verify => command.arg("verify").arg(job.source).arg(bucket),
        };
        command.arg("--ledger").arg(job.ledger).arg("-q");
        if who == Who::MigratorReadBack {
            command.arg("--read-back");
        }
        if let Some(concurrency) = self.concurrency.migrator_concurrency {
            command.args(["--concurrency", &concurrency.to_string()]);
        }
    }

    fn s5cmd_line(&self, scenario: Scenario, job: &Job<'_>, bucket: &str) -> Vec<std::ffi::OsString> {
        let workers = self.concurrency.s5cmd_workers.to_string();
        let mut line: Vec<std::ffi::OsString> =
            ["--log", "error", "--numworkers", &workers].map(Into::into).into();
        let directory = |path: &Path| {
            let mut text = path.as_os_str().to_owned();
            text.push("/");
            text
        };
        match scenario {
            Scenario::Restore => {
                line.extend(["cp", "--concurrency", "8"].map(Into::into));
                line.extend([format!("{bucket}/*").into(), directory(job.restored)]);
            }
            Scenario::Upload => {
                line.extend(["cp", "--no-follow-symlinks", "--concurrency", "8"].map(Into::into));
                line.extend([directory(job.source), format!("{bucket}/").into()]);
            }
            _ => {
                line.extend(["sync", "--no-follow-symlinks"].map(Into::into));
                line.extend([directory(job.source), format!("{bucket}/").into()]);
            }
        }
        line
    }

    fn rclone_line(&self, command: &mut Command, who: Who, scenario: Scenario, job: &Job<'_>) {
        command.arg(match scenario {
            Scenario::Upload | Scenario::Restore => "copy",
            Scenario::Unchanged => "sync",
            Scenario::Verify => "check",
        });
        let remote = format!("rig:{}", job.endpoint.bucket);
        match scenario {
            Scenario::Restore => command.arg(remote).arg(job.restored),
            _ => command.arg(job.source).arg(remote),
        };
        command.args(["-q", "--stats", "0"]);
        if who != Who::Rclone {
            let transfers = self.concurrency.rclone_transfers.to_string();
            command.args(["--transfers", &transfers, "--checkers", &transfers, "--s3-list-version", "2"]);
        }
        match who {
            Who::RcloneTuned => {
                // No bucket is made, nothing is asked after an upload, and no file is read twice for its MD5.
                command.args(["--s3-no-check-bucket", "--s3-no-head", "--s3-disable-checksum"]);
                command.args([
                    "--s3-chunk-size",
                    "16M",
                    "--s3-upload-concurrency",
                    "8",
                    "--buffer-size",
                    "0",
                ]);
            }
            Who::RcloneSize => drop(command.arg("--size-only")),
            Who::RcloneDownload => drop(command.arg("--download")),
            _ => {}
        }
    }

    fn s3sync_line(&self, command: &mut Command, scenario: Scenario, job: &Job<'_>, bucket: &str) {
        let (side, from, to) = match scenario {
            Scenario::Restore => ("source", bucket.into(), job.restored.as_os_str().to_owned()),
            _ => ("target", job.source.as_os_str().to_owned(), bucket.into()),
        };
        command.args([&format!("--{side}-endpoint-url"), &job.endpoint.endpoint]);
        command.args([&format!("--{side}-region"), &job.endpoint.region]);
        command.arg(format!("--{side}-force-path-style"));
        // The sink's ETags are no MD5.
        command.arg("--disable-etag-verify");
        command.args(["--worker-size", &self.concurrency.s3sync_workers.to_string()]);
        command.args([from, to]);
    }

    /// Returns the line that `who` is started with, with words in place of what differs from run to run.
    pub(crate) fn shown(&self, who: Who, scenario: Scenario) -> Option<String> {
        let endpoint = S3Endpoint::unchecked("http://SERVER", "BUCKET");
        let (source, ledger, restored) = (Path::new("DIR"), Path::new("LEDGER"), Path::new("COPIES"));
        let job = Job { source, endpoint: &endpoint, ledger, restored };
        let command = self.command(who, scenario, &job)?;
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| {
                let path = Path::new(word);
                let name = if path.is_absolute() { path.file_name().unwrap_or(word) } else { word };
                let text = name.to_string_lossy();
                if text.contains([' ', '*', '"']) { format!("'{text}'") } else { text.into_owned() }
            })
            .collect();
        Some(words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_name_what_they_work_on() {
        let concurrency = Concurrency {
            migrator_concurrency: Some(4),
            bare_connections: 8,
            s5cmd_workers: 32,
            rclone_transfers: 32,
            s3sync_workers: 16,
        };
        let program = || Some(PathBuf::from("/bin/program"));
        let kit = Kit {
            migrator: "/bin/migrator".into(),
            own: "/bin/compare".into(),
            s5cmd: program(),
            rclone: program(),
            s3sync: program(),
            aws: program(),
            home: "/".into(),
            concurrency,
        };
        assert_eq!(
            kit.shown(Who::Migrator, Scenario::Restore).unwrap(),
            "migrator copy s3://BUCKET COPIES --ledger LEDGER -q --concurrency 4"
        );
        for scenario in Scenario::ALL {
            for who in Who::lineup(scenario) {
                let line = kit.shown(*who, scenario).unwrap();
                assert!(line.contains("DIR") || line.to_uppercase().contains("COPIES"), "{line}");
                assert_eq!(line.contains("BUCKET"), !who.is_local(), "{line}");
            }
        }
    }
}
