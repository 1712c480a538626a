//! The command line: commands, options, and the words of `--help`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use storage_core::checksum::Digest;

use crate::config::sse::{KeySource, Sse};
use crate::config::{check_concurrency, check_part_size};
use crate::order::Order;
use crate::quantity::{Since, parse_age, parse_size};
use crate::report::proof::parse_hash;
use crate::rules::Given;
use crate::safeguard::Limit;
use crate::subset::Subset;
use crate::throttle::Bandwidth;

const ABOUT: &str = "Moves files between storages: verified, resumable, reported";

const LONG_ABOUT: &str = "\
Moves files between storages: verified, resumable, reported.

A file counts as migrated only after the target's stored bytes were checked against the SHA-256 that was \
computed from the source while it was sent. What was done is kept in a ledger, so a run that was stopped, \
killed or cut off is continued by the same command, and a run over an unchanged tree sends nothing. Nothing is \
ever deleted unless that is asked for by `sync --delete` or `copy --remove-source`, and then it goes to a quarantine \
first.";

const AFTER: &str = "\
Storages (SOURCE and TARGET):
  DIR                  a directory; ./NAME is always one
  s3://BUCKET[/PREFIX] a bucket of any S3-compatible server, or what
                       lies beneath a prefix
  NAME[:PREFIX]        a storage of the configuration file
  embedded:DIR         the project's own S3 server in front of a
                       directory, in this process

Use `migrator help COMMAND` for everything a command can do, and
`migrator --help` for exit codes, environment and files.";

const AFTER_LONG: &str = "\
Storages (SOURCE and TARGET):
  DIR                   A directory. ./NAME is always one, whatever
                        the configuration file names.
  s3://BUCKET[/PREFIX]  A bucket of any S3-compatible server, or what
                        lies beneath a prefix. The server's address,
                        the region and the credentials come from the
                        AWS environment.
  NAME[:PREFIX]         A storage of the configuration file.
  embedded:DIR          The project's own S3 server in front of a
                        directory, in this process: real S3 requests
                        without a server. A TARGET is made when it is
                        missing.

Exit codes:
  0    Done, and everything is as it should be.
  1    Internal error.
  2    The command line is wrong.
  3    Configuration or environment: the file, credentials, a bucket,
       a directory, the ledger, the way to a server.
  4    The run ended; some files failed. Running it again tries them
       again.
  5    The audit ended; the target is not what it should be. What is
       only in the target is told and is no mismatch.
  6    Refused by a safeguard: the ledger is in use or belongs to
       another pair of storages, the target lies inside the source; of
       a sync, the source is empty or elsewhere, or too much would be
       deleted.
  130  Interrupted. Running it again continues.

Environment:
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
  AWS_PROFILE, AWS_REGION, ...
                        Credentials and region, as all AWS tools read
                        them. They are never taken from the command
                        line, which every user of the machine can
                        read.
  AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL
                        The server, where it is not Amazon's.
  MIGRATOR_LOG          What is logged (info, storage_core=debug,
                        ...); overrules -v and -q.
  MIGRATOR_TOKEN_FILE, MIGRATOR_TOKEN
                        The daemon's token, instead of the
                        configuration file's token_file.
  STATE_DIRECTORY, XDG_STATE_HOME
                        Where ledgers are kept; default
                        ~/.local/state.
  XDG_CONFIG_HOME       Where the configuration file is looked for;
                        default ~/.config.
  NO_COLOR              No colours, when set.

Files:
  $STATE_DIRECTORY/*.sqlite, else ~/.local/state/migrator/*.sqlite
                        Ledgers, one per pair of storages.
  ~/.config/migrator/config.toml, /etc/migrator/config.toml
                        Configuration; the first that exists is read.

Signals:
  SIGINT and SIGTERM stop a run in order: nothing new is begun, what
  is in flight is given up, the ledger is closed; at most 10 seconds.
  A second signal stops at once. Either way nothing that was reported
  is lost.

Examples:
  migrator plan /srv/files s3://archive
  migrator copy /srv/files s3://archive --report report
  migrator sync /srv/files s3://archive --delete --dry-run
  migrator sync /srv/files s3://archive --delete
  migrator verify /srv/files s3://archive --read-back
  migrator copy s3://archive /srv/files.restored --preserve all";

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
    ///
    /// `restore` is the same command, for the way back: `migrator restore s3://bucket /srv/files`.
    #[command(visible_alias = "restore")]
    Copy(CopyCommand),
    /// Copy as `copy` does, and with --delete remove from the target what the source no longer has
    ///
    /// Files are removed only after a run in which every entry of the source and of the target was seen and no copy
    /// failed: an incomplete view never deletes, whatever the options. Then these safeguards must agree, each of
    /// which an option can overrule; until it does, nothing is deleted and the exit code is 6: the source is not
    /// empty (--allow-empty-source), it is on the file system that it was on before (--allow-other-filesystem), and
    /// not more files go than --max-delete.
    ///
    /// Right before it is removed, every single file is looked for in the source once more, and the target must
    /// still have the version that was listed. What is removed is first moved to `.quarantine/until-TIME-run-N/` in
    /// the target, where it stays for --quarantine-days; `migrator cleanup` deletes what has stayed that long. To get
    /// a file back, copy it from there. Files in quarantine are no files to copy, sync and verify.
    ///
    /// What lies where the source now has a symbolic link is kept, as what is behind the link was not seen.
    Sync(Sync),
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
    /// Check the proof of a run, or a chain of them
    ///
    /// Reads proof.jsonl of a report and checks every line: the chain of hashes, the order, the totals. The first
    /// broken line is named, and the exit code is 5. Needs no ledger and no storage. docs/proof.md has the format.
    Proof(Proof),
    /// Tell everything the ledger knows of one file: every attempt, who verified it, what comes next
    #[command(
        override_usage = "migrator explain [OPTIONS] SOURCE TARGET ID\n       migrator explain [OPTIONS] \
                                --ledger PATH ID"
    )]
    Explain(Explain),
    /// Discard multipart uploads in the target that nobody will finish, and what has been in quarantine long enough
    ///
    /// Uploads: those that were begun for files of this ledger and that no copy will go on with, and those of its files
    /// that are older than --older-than. S3 servers keep, and bill, the parts of such uploads until somebody
    /// discards them. Uploads of files that the ledger does not know stay.
    ///
    /// Files in quarantine: those whose time is over, as their names say (`.quarantine/until-TIME-run-N/`), whichever
    /// run put them there. Those that `copy --remove-source` moved away from the source (`.storage/quarantine/` there):
    /// likewise, and only where the target still has the copy that was verified. All other files stay.
    Cleanup(Cleanup),
    /// Run the jobs of the configuration file when they are due, and serve a dashboard
    ///
    /// Each [job.NAME] of the configuration file is a copy, a sync, a verify or a cleanup with a schedule; copies and syncs
    /// may follow changes of their source. A run does exactly what the command of that name does, with the same ledger.
    /// What failed is tried again, alone, after a wait that doubles; what was missed while the daemon was not there is run
    /// once. What a sync or --remove-source puts in quarantine stays there until a cleanup.
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
    /// Where files are read: DIR, s3://BUCKET[/PREFIX], NAME[:PREFIX] or embedded:DIR. Never written to,
    /// unless by `copy --remove-source`
    pub source: OsString,
    /// Where files are copied to: as SOURCE
    pub target: OsString,
    /// Ledger of this pair of storages
    ///
    /// Default: a file in $STATE_DIRECTORY, else in $XDG_STATE_HOME/migrator, else in ~/.local/state/migrator,
    /// named after source and target. Must not lie inside the source or the target.
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,
    /// How a server stores.
    #[command(flatten)]
    pub storing: Storing,
}

/// How a server stores.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "S3 servers")]
pub struct Storing {
    /// Storage class of everything that is written to TARGET, in the server's words: STANDARD_IA, GLACIER_IR
    ///
    /// A server that stores as something else is refused before a file moves. What was copied before stays as it is.
    #[arg(long, value_name = "CLASS")]
    pub storage_class: Option<String>,
    /// Who encrypts what is written to TARGET: s3 (keys of the server's), kms or kms:KEY-ID
    ///
    /// By default as the bucket's settings have it. A server that does not encrypt so is refused before a file moves.
    #[arg(long, value_name = "HOW", conflicts_with = "customer_key")]
    pub sse: Option<Sse>,
    /// Where the key is that TARGET encrypts with (SSE-C): a file, or env:NAME for an environment variable
    ///
    /// The key has 32 bytes, as they are or in base64 or hexadecimal (`openssl rand -base64 32`). It goes along with
    /// every request and the server forgets it: who loses it has lost the files. verify, sync and the way back need
    /// it as well.
    #[arg(long, value_name = "FILE|env:NAME")]
    pub customer_key: Option<KeySource>,
    /// Where the key is that SOURCE is encrypted with (SSE-C), as for --customer-key
    #[arg(long, value_name = "FILE|env:NAME")]
    pub source_customer_key: Option<KeySource>,
    /// Send customer keys also to another machine without TLS, where everybody in between can read them
    #[arg(long)]
    pub customer_key_over_http: bool,
}

/// Which files.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which files")]
pub struct Which {
    /// Take only files that match (repeatable)
    ///
    /// Patterns are as in rclone: `*` any characters but `/`, `**` any characters, `?` one character, `[a-z]` one of
    /// them, `{a,b}` either, `{{..}}` a regular expression, `\x` the character itself. With a `/` in front a pattern
    /// holds from the top of the source, else from any `/` on; `dir/` is everything beneath. *.jpg, /photos/,
    /// thumbs/**, *.{tmp,bak}
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Leave out files that match (repeatable); overrules --include
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Add a rule: `+ PATTERN` takes, `- PATTERN` leaves out; the first that matches decides (repeatable)
    ///
    /// Comes after --exclude and --include. What no rule matches is taken, unless there is an --include.
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    pub filter: Vec<String>,
    /// Read rules from a file, one a line; `!` forgets those before it, `#` and `;` begin comments (repeatable)
    #[arg(long, value_name = "FILE")]
    pub filter_from: Vec<PathBuf>,
    /// Take only files that are named in a file, one a line, from the top of the source (repeatable)
    ///
    /// The names are held in memory.
    #[arg(long, value_name = "FILE")]
    pub files_from: Vec<PathBuf>,
    /// Take only files of at least this size: 4096, 10KiB, 1G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub min_size: Option<u64>,
    /// Take only files of at most this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,
    /// Take only files that were last changed at least so long ago, or before a time: 90m, 1h30m, 7d, 2026-11-01
    ///
    /// An age is numbers with s, m, h, d, w, M (30 days) or y (365 days). A time is as in RFC 3339,
    /// 2026-11-01T08:00:00Z; without a zone it is the machine's, and a date alone is its midnight.
    #[arg(long, value_name = "AGE|TIME", value_parser = Since::from_str)]
    pub min_age: Option<Since>,
    /// Take only files that were last changed at most so long ago, or since a time
    #[arg(long, value_name = "AGE|TIME", value_parser = Since::from_str)]
    pub max_age: Option<Since>,
}

/// How fast.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How fast")]
pub struct Pace {
    /// Requests at a time, 1 to 256 [default: 8; 32 into a directory]
    ///
    /// Memory is about this times the part size. By default it is that of 8 parts into a directory as well: there
    /// the 32 are small files, which wait together for one sync of the disk.
    #[arg(long, value_name = "N", value_parser = concurrency)]
    pub concurrency: Option<NonZeroU32>,
    /// Bytes per second at most: 10MiB/s, or a timetable: "08:00,10MiB/s 20:00,off" [default: no limit]
    ///
    /// An entry holds until the next, in the machine's local time, also over midnight. With a day in front it is there
    /// on that day only: "Mon-08:00,1MiB Fri-18:00,off". A run that goes on obeys each change.
    #[arg(long, value_name = "RATE", value_parser = Bandwidth::from_str)]
    pub bandwidth: Option<Bandwidth>,
}

/// `plan`
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// The two storages.
    #[command(flatten)]
    pub pair: Pair,
    /// What the copy is to be told to keep (comma-separated): with symlinks, links are files to it
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub preserve: Vec<Kept>,
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
    /// Say what would be done, file by file, and do nothing
    ///
    /// Nothing is written to the source, the target, their quarantines and the ledger; where there is no ledger none is
    /// made. Source and target are listed, and what would be copied, replaced, moved away and removed is named: the
    /// first 20 of each, all of them with --json. A safeguard that would refuse is named, with the option that would
    /// allow it, and the exit code is what the run itself would end with. What shows only when a file is read or
    /// written (one that cannot be opened, a full disk) is not foretold.
    #[arg(short = 'n', long, conflicts_with = "report")]
    pub dry_run: bool,
    /// Write report.html, report.json, files.csv, SHA256SUMS and proof.jsonl into this directory after the run
    ///
    /// `sha256sum -c SHA256SUMS`, run inside a source directory, checks every file that is migrated. The
    /// directory is made when it is missing; it must not lie inside the source or the target.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Keep what a file system knows of a file besides its bytes (comma-separated)
    ///
    /// From a directory it is read and travels with the object; into a directory it is set on the file. Owner needs the
    /// right to change owners. With symlinks, symbolic links become objects without bytes and links again, and with
    /// directories, directories objects named DIR/.storage-directory. One of the two storages must be a directory; the
    /// same choice belongs on the way there and on the way back. docs/preserve.md has the form, and what does not fit an
    /// object.
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub preserve: Vec<Kept>,
    /// What becomes of a file whose extended attributes do not fit an object (2 KiB with everything else)
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = PreserveXattrs::Fail)]
    pub preserve_xattrs: PreserveXattrs,
    /// Give files a content type whose names match, instead of the source's: *.md=text/markdown (repeatable)
    ///
    /// Patterns are as in --include; a `=` in one is written `\=`. Of several that match, the first decides. What the
    /// configuration file has as `[[rules]]` comes after these options. Files that are unchanged stay as they are.
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = Given::parse_content_type, help_heading = "Attributes")]
    pub content_type: Vec<Given>,
    /// Give every file this tag beside its own (repeatable)
    ///
    /// For tags by name, the configuration file has `[[rules]]`.
    #[arg(long, value_name = "KEY=VALUE", value_parser = Given::parse_tag, help_heading = "Attributes")]
    pub tag: Vec<Given>,
    /// Give every object this user metadata, x-amz-meta-NAME (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = Given::parse_metadata, help_heading = "Attributes")]
    pub metadata: Vec<Given>,
    /// In which order files are copied: name, size (the smallest first), "size,desc", newest or oldest
    ///
    /// By name copying begins at once. In every other order the source is listed whole first, and what waits for its
    /// turn waits in temporary files ($TMPDIR), not in memory.
    #[arg(long, value_name = "ORDER", value_parser = Order::from_str, default_value_t = Order::Name,
          help_heading = "How fast")]
    pub order: Order,
    /// Which bytes are compared
    ///
    /// A target that refuses wrong bytes has compared them in any case.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = VerifyMode::Transferred)]
    pub verify: VerifyMode,
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

/// `copy`, as a command of its own: a sync moves nothing away.
#[derive(Debug, clap::Args)]
pub struct CopyCommand {
    /// What it has in common with a sync.
    #[command(flatten)]
    pub copy: Copy,
    /// Move files away from the source once they are in the target
    ///
    /// After the copy, each file that the ledger holds as verified is looked at again on both sides: the source's must be
    /// the very version that was copied; the target's the one that was verified, by its own checksum, else every byte is
    /// read back (with --verify all, always). Then it is moved to `.storage/quarantine/` in the source, by a rename.
    /// What fails any of this stays, and is reported as failed (exit 4). `migrator cleanup` deletes what has been in
    /// quarantine for --quarantine-days, and of that only what the target still has. Until then a file comes back by
    /// moving it to where it was. SOURCE must be a directory; empty directories stay.
    ///
    /// The ledger remembers: no later `sync --delete` removes the copies, and `verify` audits them.
    #[arg(long, help_heading = "Removal of sources")]
    pub remove_source: bool,
    /// Keep files of the source in quarantine for so many days [default: 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500),
          requires = "remove_source", help_heading = "Removal of sources")]
    pub quarantine_days: Option<u32>,
}

/// What becomes of extended attributes that do not fit an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PreserveXattrs {
    /// The file fails, and says why: nothing is dropped
    Fail,
    /// The largest attributes are left behind until the rest fits, each told as a warning; the file is copied
    SkipTooLarge,
}

/// What is kept of a file besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kept {
    /// Permission bits, set-user-id, set-group-id, sticky
    Mode,
    /// User and group, by number
    Owner,
    /// Modification time, to the nanosecond
    Mtime,
    /// Extended attributes user.*
    Xattrs,
    /// Symbolic links themselves
    Symlinks,
    /// Directories, also empty ones, with those of the above that are chosen
    Directories,
    /// All of these
    All,
}

/// Which bytes a copy compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyMode {
    /// Those of every file that the run transfers
    Transferred,
    /// As transferred; and after the run every byte of the target is read and compared, as `verify --read-back` does:
    /// a run and a report of its own, in the directory `verify` of --report
    All,
    /// None that have to be read back for it: such files are reported as unverified, and the next copy compares them
    None,
}

/// `sync`
#[derive(Debug, clap::Args)]
pub struct Sync {
    /// As `copy`.
    #[command(flatten)]
    pub copy: Copy,
    /// Remove from the target what is only there
    #[arg(long, help_heading = "Deletion")]
    pub delete: bool,
    /// Remove at most so many files, or so many percent of those in the target [default: 10% or 1000, whichever is
    /// more]
    ///
    /// Where more would have to go, none goes.
    #[arg(long, value_name = "N|P%", value_parser = Limit::from_str, requires = "delete", help_heading = "Deletion")]
    pub max_delete: Option<Limit>,
    /// Keep removed files in quarantine for so many days; 0: delete them at once [default: 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=36_500), requires = "delete",
          help_heading = "Deletion")]
    pub quarantine_days: Option<u32>,
    /// Remove also what the filter leaves out, although the source may have it
    ///
    /// Without this, a file that is left out is never removed.
    #[arg(long, requires = "delete", help_heading = "Deletion")]
    pub delete_excluded: bool,
    /// Accept a source on another file system than before
    ///
    /// Without this such a source is refused: rather than moved it is not mounted. Of an S3 source, the endpoint and
    /// the bucket are part of what the ledger is about.
    #[arg(long, requires = "delete", help_heading = "Deletion")]
    pub allow_other_filesystem: bool,
}

/// `verify`
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The two storages.
    #[command(flatten)]
    pub pair: Pair,
    /// What the copy was told to keep (comma-separated): with symlinks, links are audited as well
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub preserve: Vec<Kept>,
    /// Read every byte of the target
    ///
    /// By default the target's checksums are believed where it has been shown that it refuses wrong bytes, and a
    /// copy that was not written since it was compared counts as it was then; what neither proves is told as
    /// unverified. Only reading finds bits that flipped on the disk.
    #[arg(long)]
    pub read_back: bool,
    /// Read every byte of the source as well
    ///
    /// Finds sources that rotted on their disk, where neither size nor times tell it. Such a file is told as outdated,
    /// and nothing is repaired from it.
    #[arg(long)]
    pub read_source: bool,
    /// Audit a part of the files only: N/T is the N-th of T parts
    ///
    /// A file's part follows from its name alone (SHA-256 of the name, modulo T), so T runs with N from 1 to T cover
    /// everything, whatever comes and goes in between.
    #[arg(long, value_name = "N/T")]
    pub subset: Option<Subset>,
    /// Write report.html, report.json, files.csv, SHA256SUMS and proof.jsonl into this directory after the run
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
    /// Write report.html, report.json, files.csv, SHA256SUMS and proof.jsonl into this directory
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// `proof`
#[derive(Debug, clap::Args)]
pub struct Proof {
    /// Files that were written as proof.jsonl, in the order of their runs; each must name the one before
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The head that the last one must have, from wherever it was kept
    #[arg(long, value_name = "HASH", value_parser = head)]
    pub head: Option<Digest>,
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
    /// Say what would be deleted from quarantine, and do nothing
    ///
    /// Nothing is written. Uploads are not looked at. Of the source's quarantine, what would be deleted is what is due:
    /// that its copy in the target is proven is looked at by the cleanup itself.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

fn head(text: &str) -> Result<Digest, String> {
    parse_hash(text).ok_or_else(|| "expected a SHA-256: 64 lower-case hexadecimal digits".to_owned())
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    /// It is not wrapped by anybody: what is wider breaks in the middle of words on a narrow terminal.
    #[test]
    fn what_follows_the_options_is_narrow() {
        for line in AFTER.lines().chain(AFTER_LONG.lines()) {
            assert!(line.chars().count() <= 70, "{line:?}");
        }
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
