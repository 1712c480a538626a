//! The command line: commands, options, and the words of `--help`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::config::{check_concurrency, check_part_size};
use crate::quantity::{parse_age, parse_rate, parse_size};

const ABOUT: &str = "Moves files between storages: verified, resumable, reported";

const LONG_ABOUT: &str = "\
Moves files between storages: verified, resumable, reported.

A file counts as migrated only after the target's stored bytes were checked against the SHA-256 that was \
computed from the source while it was sent. What was done is kept in a ledger, so a run that was stopped, \
killed or cut off is continued by the same command, and a run over an unchanged tree sends nothing. Nothing is \
ever deleted from the source or the target.";

const AFTER: &str = "\
Storages (SOURCE and TARGET):
  DIR                  a directory; ./NAME is always one
  s3://BUCKET[/PREFIX] a bucket of any S3-compatible server, or what lies beneath a prefix
  NAME[:PREFIX]        a storage of the configuration file
  embedded:DIR         the project's own S3 server in front of a directory, in this process

Use `migrator help COMMAND` for everything a command can do, and `migrator --help` for exit codes, environment \
and files.";

const AFTER_LONG: &str = "\
Storages (SOURCE and TARGET):
  DIR                   A directory. ./NAME is always one, whatever the configuration file names.
  s3://BUCKET[/PREFIX]  A bucket of any S3-compatible server, or what lies beneath a prefix. The server's
                        address, the region and the credentials come from the AWS environment.
  NAME[:PREFIX]         A storage of the configuration file.
  embedded:DIR          The project's own S3 server in front of a directory, in this process: real S3
                        requests without a server. DIR is made when it is missing.

Exit codes:
  0    Done, and everything is as it should be.
  1    Internal error.
  2    The command line is wrong.
  3    Configuration or environment: the file, credentials, a bucket, a directory, the ledger, the way to a
       server.
  4    The run ended; some files failed. Running it again tries them again.
  5    The audit ended; the target is not what it should be. What is only in the target is told and is no
       mismatch.
  6    Refused by a safeguard: the ledger is in use or belongs to another pair of storages, the target lies
       inside the source.
  130  Interrupted. Running it again continues.

Environment:
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION, ...
                        Credentials and region, as all AWS tools read them. They are never taken from the
                        command line, which every user of the machine can read.
  AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL
                        The server, where it is not Amazon's.
  MIGRATOR_LOG          What is logged (info, storage_core=debug, ...); overrules -v and -q.
  MIGRATOR_TOKEN_FILE, MIGRATOR_TOKEN
                        The daemon's token, instead of the configuration file's token_file.
  STATE_DIRECTORY, XDG_STATE_HOME
                        Where ledgers are kept; default ~/.local/state.
  XDG_CONFIG_HOME       Where the configuration file is looked for; default ~/.config.
  NO_COLOR              No colours, when set.

Files:
  $STATE_DIRECTORY/*.sqlite, else ~/.local/state/migrator/*.sqlite
                        Ledgers, one per pair of storages.
  ~/.config/migrator/config.toml, /etc/migrator/config.toml
                        Configuration; the first that exists is read.

Signals:
  SIGINT and SIGTERM stop a run in order: nothing new is begun, what is in flight is given up, the ledger is
  closed; at most 10 seconds. A second signal stops at once. Either way nothing that was reported is lost.

Examples:
  migrator plan /srv/files s3://archive
  migrator copy /srv/files s3://archive --report report
  migrator verify /srv/files s3://archive --read-back
  migrator copy s3://archive /srv/files.restored";

/// What was asked for.
#[derive(Debug, Parser)]
#[command(
    name = "migrator",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER,
    after_long_help = AFTER_LONG,
    max_term_width = 100,
    disable_help_subcommand = false
)]
pub struct Args {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Configuration file (TOML): named storages, defaults for options
    ///
    /// Default: the first that exists of $XDG_CONFIG_HOME/migrator/config.toml and /etc/migrator/config.toml. A
    /// key that is not known is refused. What the command line says overrules the file.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Write JSON to standard output, one event per line, instead of a text
    ///
    /// Every line has "v": 1 and "event"; the last event of a run is "summary". Nothing else is written to
    /// standard output; messages for people go to standard error as always. docs/json-events.md has all events.
    #[arg(long, global = true)]
    pub json: bool,

    /// Show no progress
    ///
    /// By default there are bars on a terminal, and elsewhere one line every 5 seconds, on standard error.
    #[arg(long, global = true)]
    pub no_progress: bool,

    /// How log lines on standard error look
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log more: -v what is done, -vv every step
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Log errors only, and show no progress and no notices
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what a copy would do, and change nothing
    ///
    /// Reads the source and, where there is one, the ledger, and counts what would be copied, what needs
    /// nothing, and what cannot be copied and why. Changes no file and no ledger; to find out what an S3 target
    /// can do it writes small objects under `.storage/probe` there, and removes them.
    Plan(Plan),
    /// Copy what is new or changed, and verify every copied file
    ///
    /// Compares the source with the ledger, so that an unchanged file costs no request, and copies the rest.
    /// Each file is verified: by the target where it has been shown that it refuses wrong bytes, else by
    /// reading the copy back. Files that fail are reported and do not stop the others. The same command
    /// continues a run that was stopped, from the part where it stopped.
    Copy(Copy),
    /// Compare source, ledger and target
    ///
    /// Looks at every file in all three and names what is missing, different, outdated, unverified (nothing
    /// proves its bytes), or in the target only. Changes no file in the source and the target. What is missing or
    /// different is copied again by the next copy.
    Verify(Verify),
    /// Show where a migration stands: the latest run, files by state, what is left
    Status(Lookup),
    /// Show the report of a run, or write it into a directory
    Report(Report),
    /// Tell everything the ledger knows of one file
    #[command(
        override_usage = "migrator explain [OPTIONS] SOURCE TARGET ID\n       migrator explain [OPTIONS] \
                                --ledger PATH ID"
    )]
    Explain(Explain),
    /// Discard multipart uploads in the target that nobody will finish
    ///
    /// Those that were begun for files of this ledger and that no copy will go on with, and those of its files
    /// that are older than --older-than. S3 servers keep, and bill, the parts of such uploads until somebody
    /// discards them. Uploads of files that the ledger does not know stay, and so do all files.
    Cleanup(Cleanup),
    /// Run the jobs of the configuration file when they are due, and serve a dashboard
    ///
    /// Each [job.NAME] of the configuration file is a copy or a verify with a schedule, and may follow changes of
    /// its source. A run does exactly what the command of that name does, with the same ledger. What failed is tried
    /// again, alone, after a wait that doubles; what was missed while the daemon was not there is run once.
    ///
    /// The dashboard, an API (/api/v1/openapi.json), /metrics, /healthz and /readyz are served on the loopback
    /// interface. Who starts, stops or retries needs the token: the first line of the file that `token_file` or
    /// MIGRATOR_TOKEN_FILE names, or MIGRATOR_TOKEN.
    ///
    /// SIGHUP reads the configuration again, and keeps the old one where it is wrong; SIGTERM ends the daemon
    /// within 10 seconds. A service manager is told (sd_notify): ready, reloading, stopping, alive.
    Daemon(Daemon),
    /// Write the completions of a shell to standard output
    #[command(hide = true)]
    Completions(Completions),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(Man),
}

/// The two storages.
#[derive(Debug, clap::Args)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the comments are the words of --help, brackets and all")]
pub struct Pair {
    /// Where files are read: DIR, s3://BUCKET[/PREFIX], NAME[:PREFIX] or embedded:DIR. Never written to
    pub source: OsString,
    /// Where files are copied to: as SOURCE
    pub target: OsString,
    /// Ledger of this pair of storages
    ///
    /// Default: a file in $STATE_DIRECTORY, else in $XDG_STATE_HOME/migrator, else in ~/.local/state/migrator,
    /// named after source and target. Must not lie inside the source or the target.
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,
}

/// Which files.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which files")]
pub struct Which {
    /// Take only files that match (repeatable)
    ///
    /// Patterns are as in .gitignore, from the top of the source: *.jpg, /photos/, **/2024/**, !keep.jpg.
    /// Within the patterns, a later one overrules an earlier one.
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Leave out files that match (repeatable); overrules --include
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
}

/// How fast.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How fast")]
pub struct Pace {
    /// Requests at a time, 1 to 256 [default: 8]
    ///
    /// Memory is about this times the part size.
    #[arg(long, value_name = "N", value_parser = concurrency)]
    pub concurrency: Option<NonZeroU32>,
    /// Bytes per second at most, as in 10MiB/s [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub bandwidth: Option<NonZeroU64>,
}

/// `plan`
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// The two storages.
    #[command(flatten)]
    pub pair: Pair,
    /// Name at most so many entries that would be skipped or would fail
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub list: usize,
    /// Which files.
    #[command(flatten)]
    pub which: Which,
}

/// `copy`
#[derive(Debug, clap::Args)]
pub struct Copy {
    /// The two storages.
    #[command(flatten)]
    pub pair: Pair,
    /// Write report.json, files.csv and SHA256SUMS into this directory after the run
    ///
    /// `sha256sum -c SHA256SUMS`, run inside a source directory, checks every file that is migrated. The
    /// directory is made when it is missing; it must not lie inside the source or the target.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Accept a source without any entry, although the ledger holds files of it
    ///
    /// Without this such a source is refused: rather than empty it is not mounted.
    #[arg(long)]
    pub allow_empty_source: bool,
    /// Which files.
    #[command(flatten)]
    pub which: Which,
    /// How fast.
    #[command(flatten)]
    pub pace: Pace,
    /// Bytes per part, 5MiB to 5GiB [default: 16MiB]
    ///
    /// A file up to this size is sent in one request. Grows by itself where a file would have more than 10,000
    /// parts.
    #[arg(long, value_name = "SIZE", value_parser = part_size, help_heading = "How fast")]
    pub part_size: Option<NonZeroU64>,
}

/// `verify`
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The two storages.
    #[command(flatten)]
    pub pair: Pair,
    /// Read every byte of the target
    ///
    /// By default the target's checksums are believed where it has been shown that it refuses wrong bytes, and a
    /// copy that was not written since it was compared counts as it was then; what neither proves is told as
    /// unverified. Only reading finds bits that flipped on the disk.
    #[arg(long)]
    pub read_back: bool,
    /// Write report.json, files.csv and SHA256SUMS into this directory after the run
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Accept a source without any entry, although the ledger holds files of it
    ///
    /// Without this such a source is refused: rather than empty it is not mounted.
    #[arg(long)]
    pub allow_empty_source: bool,
    /// Which files.
    #[command(flatten)]
    pub which: Which,
    /// How fast.
    #[command(flatten)]
    pub pace: Pace,
}

/// Whose ledger.
#[derive(Debug, clap::Args)]
pub struct Lookup {
    /// Source of the migration; not needed with --ledger
    #[arg(required_unless_present = "ledger", requires = "target")]
    pub source: Option<OsString>,
    /// Target of the migration; not needed with --ledger
    #[arg(required_unless_present = "ledger")]
    pub target: Option<OsString>,
    /// The ledger, instead of the pair whose ledger it is
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,
}

/// `report`
#[derive(Debug, clap::Args)]
pub struct Report {
    /// Whose ledger.
    #[command(flatten)]
    pub lookup: Lookup,
    /// Run to report [default: the latest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub run: Option<i64>,
    /// Write report.json, files.csv and SHA256SUMS into this directory
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// `explain`
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The two storages and the file's path beneath the source; with --ledger the path alone
    #[arg(value_name = "SOURCE TARGET ID", num_args = 1..=3, required = true)]
    pub words: Vec<OsString>,
    /// The ledger, instead of the pair whose ledger it is
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,
}

/// `cleanup`
#[derive(Debug, clap::Args)]
pub struct Cleanup {
    /// The two storages.
    #[command(flatten)]
    pub pair: Pair,
    /// Discard also uploads that could be gone on with, from this age on: 90m, 36h or 7d
    ///
    /// A copy then sends those files from their first part.
    #[arg(long, value_name = "AGE", value_parser = parse_age, default_value = "7d")]
    pub older_than: Duration,
}

/// `daemon`
#[derive(Debug, clap::Args)]
pub struct Daemon {
    /// Where to listen, instead of where the configuration file says [default: 127.0.0.1:9180]
    ///
    /// Port 0 takes a free one; what it is is told on standard output.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Listen where other machines can reach it
    ///
    /// Everything but the empty page and /healthz then needs the token, and TLS is a proxy's affair.
    #[arg(long)]
    pub allow_remote: bool,
    /// Check the configuration file and its jobs, and end
    #[arg(long)]
    pub check: bool,
}

/// `completions`
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `man`
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Where to write; it must exist
    pub directory: PathBuf,
}

fn concurrency(text: &str) -> Result<NonZeroU32, String> {
    check_concurrency(text.parse().map_err(|_| "expected a whole number".to_owned())?)
}

fn part_size(text: &str) -> Result<NonZeroU64, String> {
    check_part_size(parse_size(text).map_err(|error| error.to_string())?)
}

fn bandwidth(text: &str) -> Result<NonZeroU64, String> {
    let rate = parse_rate(text).map_err(|error| error.to_string())?;
    NonZeroU64::new(rate).ok_or_else(|| "expected more than 0".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_ledger_stands_in_for_the_pair() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("migrator status --ledger x").is_ok());
        assert!(parse("migrator status a b").is_ok());
        assert!(parse("migrator status a b --ledger x").is_ok());
        assert!(parse("migrator status a").is_err());
        assert!(parse("migrator status").is_err());
        assert!(parse("migrator report --ledger x --run 0").is_err());
        assert!(parse("migrator copy a b -q -v").is_err());
    }
}
