//! What the tool says and answers when it cannot do what it was asked: kind -> message, hints, exit code. Pure.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, and everything is as it should be |
//! | 1 | internal error: a bug, or an answer that makes no sense |
//! | 2 | usage: the command line is wrong |
//! | 3 | configuration or environment: the file, credentials, a bucket, a directory, the ledger, the way to a server |
//! | 4 | the run ended; some files failed |
//! | 5 | the audit ended; the target is not what it should be |
//! | 6 | refused by a safeguard: the ledger is in use or belongs to another pair, the target lies inside the source, the source is suddenly empty |
//! | 130 | interrupted; the same command continues |

use std::error::Error as StdError;
use std::fmt;

use storage_core::error::{Error as StorageError, ErrorKind};

use crate::config::ConfigError;
use crate::engine::{EngineError, Removal};
use crate::filter::FilterError;
use crate::ledger::LedgerError;
use crate::report::{ReportError, Verdict};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done, and everything is as it should be.
    Ok,
    /// A bug, or an answer that makes no sense.
    Internal,
    /// The command line is wrong.
    Usage,
    /// Configuration or environment.
    Config,
    /// Some files failed.
    SomeFailed,
    /// An audit found the target wrong.
    Mismatch,
    /// Refused by a safeguard.
    Refused,
    /// Interrupted by a signal.
    Interrupted,
}

impl Exit {
    /// Returns the process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::SomeFailed => 4,
            Self::Mismatch => 5,
            Self::Refused => 6,
            // 128 + SIGINT, as shells have it.
            Self::Interrupted => 130,
        }
    }
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            // Asked for by name: what was to be done was done, and the report says what was not.
            Verdict::Clean | Verdict::Unverified | Verdict::Running => Self::Ok,
            Verdict::SomeFailed => Self::SomeFailed,
            Verdict::Mismatch => Self::Mismatch,
            Verdict::Refused => Self::Refused,
            Verdict::Interrupted => Self::Interrupted,
            // Why is known only to the run itself, and it told then.
            Verdict::Aborted => Self::Internal,
        }
    }
}

/// Which of the two storages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is read.
    Source,
    /// The one that is written.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Why the tool gives up, what to do about it, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// Lower-case; names the thing.
    pub message: String,
    /// Next steps, the likeliest first.
    pub hints: Vec<String>,
    /// What lies beneath, outermost first, where it says more.
    pub causes: Vec<String>,
}

impl Failure {
    /// Makes a failure without hints.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new(), causes: Vec::new() }
    }

    /// Makes a failure that is a bug of the tool.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message).with_hint("this is a bug: please report it with the lines above")
    }

    /// Adds a next step.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    fn with_causes_of(mut self, error: &dyn StdError) -> Self {
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !self.message.contains(&text) && self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Makes a failure of a storage that cannot be used.
    pub fn storage(side: Side, error: &StorageError) -> Self {
        let (exit, hint) = storage_kind(side, error.kind());
        let named = error.storage() == Some(&side.to_string());
        let message = if named { error.to_string() } else { format!("{side}: {error}") };
        let failure = Self::new(exit, message).with_causes_of(error);
        match hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

fn storage_kind(side: Side, kind: ErrorKind) -> (Exit, Option<&'static str>) {
    let (exit, hint) = match (kind, side) {
        (ErrorKind::Unauthenticated, _) => (
            Exit::Config,
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile; and that the machine's clock is right",
        ),
        (ErrorKind::Denied, Side::Source) => (
            Exit::Config,
            "the source must be readable: check the directory's owner and mode, or the key's permissions (list, read)",
        ),
        (ErrorKind::Denied, Side::Target) => (
            Exit::Config,
            "the target must be writable: check the directory's owner and mode, or the key's permissions \
             (list, read, write, multipart uploads)",
        ),
        (ErrorKind::Misconfigured, _) => (
            Exit::Config,
            "check the bucket's name, the region and the endpoint: AWS_REGION, AWS_ENDPOINT_URL",
        ),
        (ErrorKind::NotFound, _) => (Exit::Config, "check the name of the bucket or directory"),
        (ErrorKind::NotAFile | ErrorKind::InvalidInput | ErrorKind::Conflict, _) => {
            (Exit::Config, "check the address of the storage and its section in the configuration file")
        }
        (ErrorKind::Unsupported, _) => {
            (Exit::Config, "the storage cannot do this; `migrator plan` tells what it can")
        }
        (ErrorKind::Unavailable | ErrorKind::Timeout, _) => (
            Exit::Config,
            "check that the server is up and the endpoint is right (AWS_ENDPOINT_URL, or `endpoints` in the \
             configuration file); the same command continues where this one stopped",
        ),
        (ErrorKind::Throttled, _) => (
            Exit::Config,
            "lower --concurrency or set --bandwidth; the same command continues where this one stopped",
        ),
        (ErrorKind::StorageFull, _) => {
            (Exit::Config, "make room; the same command continues where this one stopped")
        }
        _ => return (Exit::Internal, None),
    };
    (exit, Some(hint))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let (exit, hint) = match &error {
            LedgerError::Locked { .. } => (
                Exit::Refused,
                "wait until the other run has ended, or stop it: two runs must not share a ledger",
            ),
            LedgerError::OtherPair { .. } => (
                Exit::Refused,
                "a ledger is about one source and one target: name another with --ledger, or leave --ledger out",
            ),
            LedgerError::Newer { .. } => (Exit::Config, "use the release that wrote it, or a later one"),
            LedgerError::Missing { .. } => {
                (Exit::Config, "`migrator copy` makes it; or name the one it made with --ledger")
            }
            LedgerError::Corrupt { .. } => (
                Exit::Config,
                "if this file is no ledger, name another with --ledger; if it was one, restore it, or move it \
                 away: the next copy then compares everything anew",
            ),
            LedgerError::ReadOnly { .. } => {
                (Exit::Config, "check the owner and mode of the file and its directory, or use --ledger")
            }
            LedgerError::Full { .. } => {
                (Exit::Config, "make room; the same command continues where this one stopped")
            }
            _ => (Exit::Config, "check the disk that the ledger is on, or use --ledger"),
        };
        Self::new(exit, error.to_string()).with_hint(hint).with_causes_of(&error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Source(error) => Self::storage(Side::Source, &error),
            EngineError::Target(error) => Self::storage(Side::Target, &error),
            EngineError::Ledger(error) => error.into(),
            EngineError::EmptySource { files, ref removal } => {
                let then = match removal {
                    None => "what is in the target stays".to_owned(),
                    Some(removal) => emptied(files, removal),
                };
                Self::new(Exit::Refused, error.to_string()).with_hint(format!(
                    "check that the source is mounted and is the right one; if it is really empty now, say so with \
                     --allow-empty-source: {then}"
                ))
            }
            EngineError::NothingThere => Self::new(Exit::Refused, error.to_string()).with_hint(
                "check the name of the bucket and the prefix: one that is not right looks the same; if there is really \
                 nothing in it yet, say so with --allow-empty-source",
            ),
            EngineError::Refused(refusal) => {
                Self::new(Exit::Refused, refusal.to_string()).with_hint(refusal.hint())
            }
            EngineError::Threads(error) => Self::new(
                Exit::Internal,
                format!("cannot start the threads of the run: {error}"),
            )
            .with_hint(
                "raise the limits on processes and open files (ulimit -u, ulimit -n), or lower --concurrency",
            ),
            EngineError::Internal(reason) => Self::internal(reason),
        }
    }
}

/// Says what a sync would do to a target whose source is accepted as empty.
fn emptied(files: u64, removal: &Removal) -> String {
    let fate = match removal.quarantine.is_zero() {
        true => "deleted at once",
        false => "moved to its quarantine",
    };
    format!(
        "then ALL files of the target that the run is about are {fate}, unless they are more than --max-delete \
         (of {files} files: {})",
        removal.limit.of(files)
    )
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Self::new(Exit::Config, error.to_string());
        match error.hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Self {
        Self::new(Exit::Usage, error.to_string())
            .with_hint("patterns are as in rclone: *.tmp, /cache/, thumbs/**, *.{jpg,png}; \\ before a character that is meant itself")
    }
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Ledger(error) => error.into(),
            ReportError::NoRun { .. } => Self::new(Exit::Config, error.to_string()).with_hint(
                "`migrator copy` and `migrator verify` make runs; `migrator status` names the latest",
            ),
            ReportError::Io { .. } => Self::new(Exit::Config, error.to_string())
                .with_hint(
                    "the run itself is in the ledger: `migrator report --report DIR` writes its report again",
                )
                .with_causes_of(&error),
            ReportError::Sums { .. } | ReportError::Rows { .. } => Self::internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use storage_core::error::Op;

    use super::*;
    use crate::ledger::Binding;

    fn location() -> String {
        "/l.sqlite".to_owned()
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [
            Exit::Ok,
            Exit::Internal,
            Exit::Usage,
            Exit::Config,
            Exit::SomeFailed,
            Exit::Mismatch,
            Exit::Refused,
            Exit::Interrupted,
        ]
        .map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 130]);
    }

    #[test]
    fn what_the_user_can_mend_is_no_internal_error_and_has_a_hint() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Denied,
            ErrorKind::Unauthenticated,
            ErrorKind::InvalidInput,
            ErrorKind::Unsupported,
            ErrorKind::StorageFull,
            ErrorKind::Unavailable,
            ErrorKind::Timeout,
            ErrorKind::Throttled,
            ErrorKind::Misconfigured,
        ] {
            for side in [Side::Source, Side::Target] {
                let failure = Failure::storage(side, &StorageError::new(kind, Op::Open).with_storage("s3"));
                assert_eq!((failure.exit, failure.hints.len()), (Exit::Config, 1), "{kind:?}");
                assert!(failure.message.starts_with(&format!("{side}: open on s3: ")), "{failure}");
            }
        }
        for kind in [ErrorKind::Integrity, ErrorKind::Other] {
            let failure = Failure::storage(Side::Source, &StorageError::new(kind, Op::List));
            assert_eq!(failure.exit, Exit::Internal, "{kind:?}");
        }
    }

    #[test]
    fn the_side_is_named_once() {
        let error = StorageError::new(ErrorKind::Unavailable, Op::Open).with_storage("target");
        assert_eq!(Failure::storage(Side::Target, &error).message, "open on target: unavailable");
    }

    #[test]
    fn a_safeguard_of_the_ledger_is_a_refusal_and_its_damage_is_not() {
        let binding = |source: &str| Binding { source: source.to_owned(), target: "t".to_owned() };
        let locked = LedgerError::Locked { location: location(), holder: "host, pid 7".to_owned() };
        let other = LedgerError::OtherPair { location: location(), found: binding("a"), asked: binding("b") };
        let corrupt = LedgerError::Corrupt { location: location(), reason: "not a database".to_owned() };
        let missing = LedgerError::Missing { location: location() };
        for (error, exit) in [
            (locked, Exit::Refused),
            (other, Exit::Refused),
            (corrupt, Exit::Config),
            (missing, Exit::Config),
            (LedgerError::Full { location: location() }, Exit::Config),
            (LedgerError::Newer { location: location(), found: 9, supported: 1 }, Exit::Config),
        ] {
            let failure = Failure::from(EngineError::from(error));
            assert_eq!(failure.exit, exit, "{failure}");
            assert!(failure.message.contains("/l.sqlite") && failure.hints.len() == 1, "{failure:?}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let io = std::io::Error::other("connection refused");
        let error = StorageError::new(ErrorKind::Unavailable, Op::List).with_source(io);
        let failure = Failure::storage(Side::Target, &error);
        assert_eq!(failure.causes, ["connection refused"]);
        let said = StorageError::new(ErrorKind::Unavailable, Op::List)
            .with_message("connection refused")
            .with_source(std::io::Error::other("connection refused"));
        assert!(Failure::storage(Side::Target, &said).causes.is_empty());
    }

    #[test]
    fn verdicts_become_exit_codes() {
        for (verdict, code) in [
            (Verdict::Clean, 0),
            (Verdict::Unverified, 0),
            (Verdict::SomeFailed, 4),
            (Verdict::Mismatch, 5),
            (Verdict::Interrupted, 130),
            (Verdict::Aborted, 1),
        ] {
            assert_eq!(Exit::from(verdict).code(), code);
        }
    }
}
