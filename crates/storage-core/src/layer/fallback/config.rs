//! How a fallback is set up: what the secondary is, and what each operation does on a miss and in an outage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::super::breaker::BreakerConfig;
use super::super::timeout::TimeoutConfig;
use crate::error::{Error, ErrorKind, Op, Result};

/// How a [`FallbackStorage`](super::FallbackStorage) is set up.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FallbackConfig {
    /// The file of the journal; its directory must exist, on a disk that survives the service. SQLite keeps two
    /// more files beside it, and the lock is a third.
    pub journal: PathBuf,
    /// The directory in which a file of more than 8 MiB lies, without a name, while it is brought from one side to the
    /// other: it needs room for the largest, and for each that is copied or promoted at the same time. Default: that
    /// of the journal, as the system's is in memory on many machines.
    #[serde(default)]
    pub spool: Option<PathBuf>,
    /// Name for errors, spans and metrics. Default: `fallback`.
    #[serde(default = "default_name")]
    pub name: String,
    /// Default: [`Role::Spare`].
    #[serde(default)]
    pub role: Role,
    /// Of `download`, `metadata` and the source of `copy`.
    #[serde(default)]
    pub read: ReadPolicy,
    /// Of `upload` and `copy`. Default: [`OnOutage::Secondary`].
    #[serde(default)]
    pub write: OnOutage,
    /// Of `delete`; the secondary's part is a tombstone. Default: [`OnOutage::Secondary`].
    #[serde(default)]
    pub delete: OnOutage,
    /// Of `list`.
    #[serde(default)]
    pub list: ListPolicy,
    /// Of both sides, each with a breaker of its own.
    #[serde(default)]
    pub breaker: BreakerConfig,
    /// The longest that one call to a side may take, whatever is around that side: a side that hangs is an
    /// outage. Default: that of the timeout layer. It ends the repetitions of a retry layer within the side too. Its
    /// clock stands still while the call waits for a permit of the side's own limit: load is no outage.
    #[serde(default)]
    pub deadline: TimeoutConfig,
    /// Most ids that may await their healing; a degraded write or deletion beyond is refused with
    /// [`StorageFull`](ErrorKind::StorageFull). A replica that is out never makes a write fail: its rows count, and
    /// are not refused. Default 1,000,000: the journal's index is in memory, about 500
    /// bytes each.
    #[serde(default = "default_max_journalled")]
    pub max_journalled: usize,
    /// What of an id that this process had not seen before the outage is taken to have been there before: what the
    /// primary stored this much earlier, by its own clock, than it was last seen to have stored anything. A younger
    /// file may be another writer's: it is kept, and the conflict is told. Default 5 min: longer than one request
    /// takes, whose file may have the time of its beginning, and further than the clocks of a cluster's machines are
    /// apart. Less finds fewer conflicts where there are none, and may overwrite where there is one. A primary whose
    /// clock is further ahead of this machine's proves nothing by it.
    #[serde(default = "default_clock_margin", with = "jiff::fmt::serde::unsigned_duration::required")]
    pub clock_margin: Duration,
    /// How often the background task looks whether there is something to heal, and whether a primary that is out
    /// has come back. Default 1 s.
    #[serde(default = "default_heal_every", with = "jiff::fmt::serde::unsigned_duration::required")]
    pub heal_every: Duration,
}

fn default_name() -> String {
    "fallback".to_owned()
}

fn default_max_journalled() -> usize {
    1_000_000
}

fn default_clock_margin() -> Duration {
    Duration::from_secs(300)
}

fn default_heal_every() -> Duration {
    Duration::from_secs(1)
}

/// What the secondary is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It holds what was written while the primary was out, until that is healed and no URL of it works any more, and
    /// nothing else. Healthy operations cost nothing. In an outage of the primary, what was written before cannot be
    /// read.
    #[default]
    Spare,
    /// It holds every file that the primary holds, and the journal names each exception: every write goes to both,
    /// and costs two commits of the journal. In an outage of the primary everything can be read. Whoever gives a
    /// secondary this role has filled it before (the migrator's `copy` does).
    Replica,
}

/// What is done when the primary is out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnOutage {
    /// The operation fails with the primary's error.
    Fail,
    /// The secondary is asked.
    #[default]
    Secondary,
}

/// What is done when the primary answers that there is no such file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMiss {
    /// That is the answer.
    #[default]
    Fail,
    /// The secondary's file is the answer, where it has one.
    Secondary,
    /// The same, and before a download the file is copied to the primary, if it is still absent there. `metadata` alone
    /// copies nothing.
    Promote,
}

/// What reads do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ReadPolicy {
    /// Default: [`OnMiss::Fail`]. Others need [`Role::Replica`], as a spare has no files of its own.
    pub miss: OnMiss,
    /// Default: [`OnOutage::Secondary`]. What is read is never older than the last acknowledged write: where the
    /// secondary may be, the read fails.
    pub outage: OnOutage,
}

impl ReadPolicy {
    /// Sets what a miss does.
    #[must_use]
    pub fn with_miss(mut self, miss: OnMiss) -> Self {
        self.miss = miss;
        self
    }

    /// Sets what an outage does.
    #[must_use]
    pub fn with_outage(mut self, outage: OnOutage) -> Self {
        self.outage = outage;
        self
    }
}

/// What listings do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ListPolicy {
    /// List files that the secondary alone has, too. Default: false. True needs [`Role::Replica`].
    pub both_sides: bool,
    /// Default: [`OnOutage::Secondary`]: a replica's listing is complete; that of a spare yields what was written
    /// since and ends in the primary's error, so that nobody takes it for complete.
    pub outage: OnOutage,
}

impl ListPolicy {
    /// Sets whether files that the secondary alone has are listed.
    #[must_use]
    pub fn with_both_sides(mut self, both_sides: bool) -> Self {
        self.both_sides = both_sides;
        self
    }

    /// Sets what an outage does.
    #[must_use]
    pub fn with_outage(mut self, outage: OnOutage) -> Self {
        self.outage = outage;
        self
    }
}

impl FallbackConfig {
    /// Takes the journal's file, and the default of everything else.
    pub fn new(journal: impl Into<PathBuf>) -> Self {
        Self {
            journal: journal.into(),
            spool: None,
            name: default_name(),
            role: Role::default(),
            read: ReadPolicy::default(),
            write: OnOutage::default(),
            delete: OnOutage::default(),
            list: ListPolicy::default(),
            breaker: BreakerConfig::default(),
            deadline: TimeoutConfig::default(),
            max_journalled: default_max_journalled(),
            clock_margin: default_clock_margin(),
            heal_every: default_heal_every(),
        }
    }

    /// Sets the directory for files on their way between the sides.
    #[must_use]
    pub fn with_spool(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spool = Some(directory.into());
        self
    }

    /// Where files are on their way between the sides.
    pub(super) fn spool_directory(&self) -> &Path {
        let beside = self.journal.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.spool.as_deref().or(beside).unwrap_or(Path::new("."))
    }

    /// Sets the name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what the secondary is.
    #[must_use]
    pub fn with_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Sets what reads do.
    #[must_use]
    pub fn with_read(mut self, read: ReadPolicy) -> Self {
        self.read = read;
        self
    }

    /// Sets what writes do in an outage.
    #[must_use]
    pub fn with_write(mut self, write: OnOutage) -> Self {
        self.write = write;
        self
    }

    /// Sets what deletions do in an outage.
    #[must_use]
    pub fn with_delete(mut self, delete: OnOutage) -> Self {
        self.delete = delete;
        self
    }

    /// Sets what listings do.
    #[must_use]
    pub fn with_list(mut self, list: ListPolicy) -> Self {
        self.list = list;
        self
    }

    /// Sets when a side is left alone.
    #[must_use]
    pub fn with_breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker = breaker;
        self
    }

    /// Sets how long a call to a side may take.
    #[must_use]
    pub fn with_deadline(mut self, deadline: TimeoutConfig) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how many ids may await their healing.
    #[must_use]
    pub fn with_max_journalled(mut self, ids: usize) -> Self {
        self.max_journalled = ids;
        self
    }

    /// Sets how much older than the primary's clock a file that was not seen must be to have been there before.
    #[must_use]
    pub fn with_clock_margin(mut self, margin: Duration) -> Self {
        self.clock_margin = margin;
        self
    }

    /// Sets how often the background task looks.
    #[must_use]
    pub fn with_heal_every(mut self, interval: Duration) -> Self {
        self.heal_every = interval;
        self
    }

    /// Tells whether files that the secondary alone has are shown, so that it may hold more than the primary.
    pub(super) fn shows_more(&self) -> bool {
        self.read.miss != OnMiss::Fail || self.list.both_sides
    }

    /// Refuses what contradicts itself.
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`].
    pub fn validate(&self) -> Result<()> {
        self.breaker.validate()?;
        self.deadline.validate()?;
        let wrong = if self.role == Role::Spare && self.shows_more() {
            "a spare has no files of its own: read.miss and list.both_sides need role = \"replica\""
        } else if self.heal_every.is_zero() {
            "heal_every is 0"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_message(format!("fallback: {wrong}")))
    }
}
