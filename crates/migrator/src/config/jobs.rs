//! What the daemon reads of the configuration file.
//!
//! ```toml
//! [daemon]
//! listen = "127.0.0.1:9180"               # the default; port 0 takes a free one
//! token_file = "/etc/migrator/token"      # who may start, stop and retry; without it, nobody
//! allow_remote = false                    # true: listen may be reachable from other machines
//! hosts = ["backup.example:8443"]         # names under which a proxy serves it
//! timezone = "Europe/Berlin"              # of schedules; default: the system's
//!
//! [job.photos]
//! source = "files:photos"                 # as on the command line
//! target = "minio:photos"
//! mode = "copy"                           # copy, sync, verify or cleanup
//! options = ["--exclude", "*.tmp"]        # of that command, exactly as it takes them
//! schedule = "15 3 * * *"                 # or hourly, daily, ..., or "every 15m"
//! jitter = "10m"                          # up to so much later, so that many machines do not come at once
//! catch_up = true                         # the default: what downtime missed is run once, afterwards
//! watch = true                            # run when the source (a directory) changes; default: false
//! debounce = "2s"                         # wait until nothing more changes
//! reconcile = "1d"                        # of a job that watches: look at everything at least so often
//! retry = "1m"                            # wait before what failed is tried again; doubles, up to 1h
//! retries = 6                             # in a row
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::daemon::schedule::Times;

/// The daemon's own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Daemon {
    /// Where it listens; default `127.0.0.1:9180`.
    pub listen: SocketAddr,
    /// File whose first line is the token of those who may give orders.
    pub token_file: Option<PathBuf>,
    /// Whether it may listen where other machines reach it; default: no.
    pub allow_remote: bool,
    /// Further values of `Host` (with the port, where one is written) that are answered.
    pub hosts: Vec<String>,
    /// Time zone of schedules; default: the system's.
    pub timezone: Option<String>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9180)),
            token_file: None,
            allow_remote: false,
            hosts: Vec::new(),
            timezone: None,
        }
    }
}

/// What a job does: the command of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `migrator copy`
    Copy,
    /// `migrator sync`
    Sync,
    /// `migrator verify`
    Verify,
    /// `migrator cleanup`
    Cleanup,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Copy, Self::Sync, Self::Verify, Self::Cleanup];

    /// Returns the name of the command.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Sync => "sync",
            Self::Verify => "verify",
            Self::Cleanup => "cleanup",
        }
    }

    /// Tells whether a run can be about some files only: then what failed or changed is dealt with alone.
    pub const fn is_partial(self) -> bool {
        matches!(self, Self::Copy)
    }
}

/// A job of the daemon.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Job {
    /// As SOURCE on the command line.
    pub source: String,
    /// As TARGET on the command line.
    pub target: String,
    /// What it does.
    pub mode: Mode,
    /// Options of that command, word by word.
    pub options: Vec<String>,
    /// When it runs.
    pub times: Times,
    /// Whether what downtime missed is run afterwards, once; default: yes.
    pub catch_up: bool,
    /// Whether it runs when the source changes; default: no.
    pub watch: bool,
    /// Line of its section, from 1, for messages.
    pub line: usize,
}
