//! What every command starts from: configuration, places, the ledger's path, opened storages.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3_server::{RunningServer, Server, ServerConfig};
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::backend::s3::S3Config;
use storage_core::error::{Error, ErrorKind, Op};
use storage_core::id::FileId;
use storage_core::layer::limit::{Bound, LimitConfig};
use storage_core::stack::{self, BackendConfig, LayersConfig, StackConfig};
use storage_core::storage::{Access, Capabilities, FileStorage};

use crate::cli::args;
use crate::cli::args::Kept;
use crate::cli::endpoint::Endpoint;
use crate::cli::output::Output;
use crate::cli::place::{AwsEnv, Place, check_apart, ledger_name, resolve_missing};
use crate::cli::plan::{of_pair, temporary};
use crate::cli::storing::{encryption, stored};
use crate::config::env::Env;
use crate::config::{Config, Settings};
use crate::failure::{Exit, Failure, Side};
use crate::filter::{self, Criteria, Filter, FilterError};
use crate::ledger::sqlite::{OpenMode, SqliteLedger};
use crate::ledger::{Binding, Ledger, LedgerError, RunEnd};
use crate::preserve::Preserve;
use crate::preserve::directory::{Notice, PreservingDirectory, TooLarge};
use crate::preserve::preparation::preparation;
use crate::quantity::show_name;
use crate::retire::directory::DirectoryAttic;

/// What every command starts from.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// Standard output and standard error.
    pub output: Output,
    /// Options of every command.
    pub global: args::Global,
    /// What the environment says.
    pub env: Env,
    /// What the configuration file says.
    pub config: Config,
}

/// Source, target and ledger of a migration.
#[derive(Clone, Debug)]
pub(super) struct Migration {
    /// Where files are read.
    pub source: Place,
    /// Where files are copied to.
    pub target: Place,
    /// The ledger.
    pub ledger: PathBuf,
}

impl Migration {
    /// Returns the texts that the ledger knows the two places by.
    pub(super) fn binding(&self) -> Binding {
        Binding { source: self.source.binding(), target: self.target.binding() }
    }
}

/// A storage, and the server behind it where there is one.
#[derive(Debug)]
pub(super) struct Opened {
    /// With its layers.
    pub storage: Arc<dyn FileStorage>,
    /// How many requests it may be sent at a time, where that follows what it can take.
    pub bound: Option<Bound>,
    server: Option<RunningServer>,
}

impl Opened {
    /// Reads and writes the attributes of the files of a directory as well, where that is asked for.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub(super) fn preserving(self, place: &Place, side: Side, what: Preserve) -> Result<Self, Failure> {
        self.preserving_what_fits(place, side, what, None)
    }

    /// As [`preserving`](Self::preserving), and leaves behind what an object cannot carry, telling `notice`.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub(super) fn preserving_what_fits(
        mut self,
        place: &Place,
        side: Side,
        what: Preserve,
        notice: Option<Notice>,
    ) -> Result<Self, Failure> {
        if let Place::Directory { path, .. } = place
            && what.any()
        {
            let wrapped = PreservingDirectory::new(self.storage, path, what);
            let mut wrapped = wrapped.map_err(|error| Failure::storage(side, &error))?;
            if let Some(notice) = notice {
                wrapped = wrapped.with_too_large(TooLarge::Skip(MOST_ATTRIBUTES), notice);
            }
            self.storage = Arc::new(wrapped);
        }
        Ok(self)
    }

    /// Stops the server behind the storage.
    pub(super) async fn close(self) {
        drop(self.storage);
        if let Some(server) = self.server {
            server.shutdown().await;
        }
    }
}

impl Context {
    /// Finds out what SOURCE and TARGET are and where their ledger is, and refuses what is not safe.
    ///
    /// # Errors
    /// An address that means nothing, a missing source, a place inside another.
    pub(super) fn migration(
        &self,
        pair: &args::Pair,
        report: Option<&Path>,
    ) -> Result<(Migration, Option<PathBuf>), Failure> {
        let source = stored(self.place(&pair.source, Side::Source)?, Side::Source, &pair.storing)?;
        let target = stored(self.place(&pair.target, Side::Target)?, Side::Target, &pair.storing)?;
        let ledger = match &pair.ledger {
            Some(path) => resolved(path, "ledger")?,
            None => self.default_ledger(&source, &target)?,
        };
        let report = report.map(|path| resolved(path, "report")).transpose()?;
        check_apart(&source, &target, Some(&ledger), report.as_deref())?;
        Ok((Migration { source, target, ledger }, report))
    }

    /// Finds the ledger and the target of a command that has no use for the source: it may be gone.
    ///
    /// # Errors
    /// As for [`migration`](Self::migration).
    pub(super) fn without_source(&self, pair: &args::Pair) -> Result<Migration, Failure> {
        let source = stored(self.place(&pair.source, Side::Target)?, Side::Source, &pair.storing)?;
        let target = stored(self.place(&pair.target, Side::Target)?, Side::Target, &pair.storing)?;
        let ledger = match &pair.ledger {
            Some(path) => resolved(path, "ledger")?,
            None => self.default_ledger(&source, &target)?,
        };
        Ok(Migration { source, target, ledger })
    }

    /// Finds the ledger that a command looks at.
    ///
    /// # Errors
    /// As for [`migration`](Self::migration).
    pub(super) fn ledger_path(
        &self,
        source: Option<&OsStr>,
        target: Option<&OsStr>,
        ledger: Option<&Path>,
    ) -> Result<PathBuf, Failure> {
        if let Some(path) = ledger {
            return resolved(path, "ledger");
        }
        match (source, target) {
            (Some(source), Some(target)) => {
                // The source of an old migration may be gone: its ledger still tells.
                let source = self.place(source, Side::Target)?;
                let target = self.place(target, Side::Target)?;
                self.default_ledger(&source, &target)
            }
            _ => Err(Failure::new(Exit::Usage, "neither SOURCE and TARGET nor --ledger")
                .with_hint("name the migration by both its storages, or by its ledger")),
        }
    }

    /// Opens the ledger that a command looks at, without locking or changing it.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(super) async fn look_up(
        &self,
        source: Option<&OsStr>,
        target: Option<&OsStr>,
        ledger: Option<&Path>,
    ) -> Result<SqliteLedger, Failure> {
        let path = self.ledger_path(source, target, ledger)?;
        Ok(SqliteLedger::open_read_only(&path).await?)
    }

    /// Opens the ledger of a pair for a command that foretells a run: nothing of it is changed, and where there is none, an
    /// empty one in a temporary directory stands in, which goes with it.
    ///
    /// # Errors
    /// As for a run: it is in use, belongs to another pair, or cannot be read.
    pub(super) async fn open_ledger_to_foretell(
        &self,
        migration: &Migration,
    ) -> Result<(SqliteLedger, Option<tempfile::TempDir>), Failure> {
        match SqliteLedger::open_unchanging(&migration.ledger).await {
            Ok(ledger) => return Ok((of_pair(ledger, migration)?, None)),
            Err(LedgerError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let directory = temporary()?;
        let path = directory.path().join("ledger.sqlite");
        let ledger = SqliteLedger::open(&path, &migration.binding(), OpenMode::Create).await?;
        Ok((ledger, Some(directory)))
    }

    /// Opens the ledger of a run, and locks it.
    ///
    /// # Errors
    /// It is in use, belongs to another pair, or cannot be opened.
    pub(super) async fn open_ledger(
        &self,
        migration: &Migration,
        mode: OpenMode,
    ) -> Result<SqliteLedger, Failure> {
        Ok(SqliteLedger::open(&migration.ledger, &migration.binding(), mode).await?)
    }

    /// Opens a storage with its layers.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) async fn open(&self, place: &Place, side: Side, access: Access) -> Result<Opened, Failure> {
        self.open_place(place, side, access, None, None, None)
            .await
            .map_err(|error| Failure::storage(side, &error))
    }

    /// Opens a target to write to. A server is sent at most `at_most` requests at a time, and fewer while it says that
    /// it is too many. What the ledger remembers of it is asked again by the first write, so that a run with nothing to
    /// do asks for nothing; unless the last run was cut off, which may have left something to be cleared away. A directory
    /// sets what is `kept` of files as they appear in it.
    ///
    /// # Errors
    /// It cannot be used; the ledger cannot be read.
    pub(super) async fn open_target(
        &self,
        place: &Place,
        ledger: &dyn Ledger,
        at_most: NonZeroU32,
        kept: Preserve,
    ) -> Result<Opened, Failure> {
        let last = ledger.run(None).await?;
        let clean =
            last.is_some_and(|run| run.end == Some(RunEnd::Complete)) && ledger.orphans().await?.is_empty();
        let remembered = if clean { ledger.target_capabilities().await? } else { None };
        let opened = self
            .open_place(place, Side::Target, Access::ReadWrite, remembered, Some(at_most), Some(kept))
            .await;
        opened.map_err(|error| Failure::storage(Side::Target, &error))
    }

    /// Opens a target that is looked at only, and finds out what it can do.
    ///
    /// Whether a server refuses wrong bytes is known only after it was sent some, so it is opened as for writing:
    /// the probes leave nothing behind. A caller who may not write learns less, and reads back instead.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) async fn open_to_ask(&self, place: &Place) -> Result<Opened, Failure> {
        if matches!(place, Place::S3(_) | Place::Embedded { .. }) {
            match self.open_place(place, Side::Target, Access::ReadWrite, None, None, None).await {
                Err(error) if error.kind() == ErrorKind::Denied => {
                    tracing::warn!(%error, "what the target can do is not known: it may not be written to");
                }
                other => return other.map_err(|error| Failure::storage(Side::Target, &error)),
            }
        }
        self.open(place, Side::Target, Access::ReadOnly).await
    }

    async fn open_place(
        &self,
        place: &Place,
        side: Side,
        access: Access,
        remembered: Option<Capabilities>,
        at_most: Option<NonZeroU32>,
        kept: Option<Preserve>,
    ) -> Result<Opened, Error> {
        let name = side.to_string();
        match place {
            Place::Directory { path, relaxed } => {
                let mut config = LocalConfig::new(path).with_name(name).with_access(access);
                if *relaxed {
                    config = config.with_durability(Durability::Relaxed);
                }
                if access == Access::ReadWrite {
                    config = config.with_create_root();
                }
                if let Some(kept) = kept.filter(|kept| kept.any()) {
                    config = config.with_preparation(preparation(kept));
                }
                let mut layers = self.layers();
                // The first file of a directory comes when all its names are read and sorted, which for millions
                // of them on a cold disk takes minutes.
                layers.timeout = layers.timeout.with_stall(LISTING_STALL);
                let config = StackConfig::new(BackendConfig::Local(config)).with_layers(layers);
                Ok(Opened { storage: stack::build(config).await?, bound: None, server: None })
            }
            Place::S3(s3) => {
                let mut config =
                    S3Config::new(&s3.bucket).with_prefix(&s3.prefix).with_name(name).with_access(access);
                for endpoint in &s3.endpoints {
                    config = config.with_endpoint(endpoint);
                }
                if let Some(remembered) = remembered {
                    config = config.with_remembered(remembered);
                }
                if let Some(region) = &s3.region {
                    config = config.with_region(region);
                }
                if let Some(profile) = &s3.profile {
                    config = config.with_profile(profile);
                }
                if let Some(path_style) = s3.path_style {
                    config = config.with_path_style(path_style);
                }
                if let Some(class) = &s3.storage_class {
                    config = config.with_storage_class(class);
                }
                if let Some(sse) = &s3.sse {
                    config = config.with_encryption(encryption(sse)?);
                }
                if s3.customer_key_over_http {
                    config = config.with_customer_key_over_http();
                }
                let (storage, bound) = self.build(BackendConfig::S3(config), at_most).await?;
                Ok(Opened { storage, bound, server: None })
            }
            Place::Embedded { path } => {
                let mut config = LocalConfig::new(path).with_name("embedded").with_access(access);
                if access == Access::ReadWrite {
                    config = config.with_create_root();
                }
                let behind = Arc::new(LocalStorage::open(config).await?);
                let config =
                    ServerConfig::new().with_bucket(EMBEDDED_BUCKET, behind).with_random_credentials();
                let server = Server::bind(config, ([127, 0, 0, 1], 0).into()).await.map_err(|error| {
                    Error::new(ErrorKind::Unavailable, Op::Open)
                        .with_storage("embedded")
                        .with_message("the embedded server cannot listen on the loopback interface")
                        .with_source(error)
                })?;
                let server = server.spawn();
                let mut config = S3Config::new(EMBEDDED_BUCKET)
                    .with_name(name)
                    .with_access(access)
                    .with_endpoint(server.endpoint())
                    .with_region(server.region())
                    .with_static_credentials(server.access_key(), server.secret_key());
                if let Some(remembered) = remembered {
                    config = config.with_remembered(remembered);
                }
                let (storage, bound) = self.build(BackendConfig::S3(config), at_most).await?;
                Ok(Opened { storage, bound, server: Some(server) })
            }
        }
    }

    async fn build(
        &self,
        backend: BackendConfig,
        at_most: Option<NonZeroU32>,
    ) -> Result<(Arc<dyn FileStorage>, Option<Bound>), Error> {
        let mut layers = self.layers();
        if let Some(at_most) = at_most {
            layers.limit = LimitConfig::default().with_concurrency(at_most).with_adaptive(true);
        }
        let config = StackConfig::new(backend).with_layers(layers);
        let (storage, bound) = stack::build_with_bound(config).await?;
        Ok((storage, bound.filter(|_| at_most.is_some())))
    }

    fn layers(&self) -> LayersConfig {
        let mut layers = LayersConfig::default();
        // The engine bounds what is in flight; this bound is never the narrower one.
        layers.limit = LimitConfig::default().with_concurrency(LAYER_CONCURRENCY);
        layers
    }

    /// Returns the options of a run: the command line's, else the configuration file's.
    pub(super) fn settings(&self, pace: Option<&args::Pace>, which: &args::Which) -> Settings {
        let mut settings = self.config.settings.clone();
        if let Some(pace) = pace {
            settings.concurrency = pace.concurrency.or(settings.concurrency);
            settings.bandwidth = pace.bandwidth.clone().or(settings.bandwidth);
        }
        if !which.include.is_empty() {
            settings.include.clone_from(&which.include);
        }
        if !which.exclude.is_empty() {
            settings.exclude.clone_from(&which.exclude);
        }
        settings
    }

    fn place(&self, text: &OsStr, side: Side) -> Result<Place, Failure> {
        let endpoint = Endpoint::parse(text, |name| self.config.storages.contains_key(name))
            .map_err(|error| Failure::new(Exit::Usage, format!("{side}: {error}")).with_hint(error.hint))?;
        Place::of(endpoint, side, &self.config, &AwsEnv::of_process())
    }

    fn default_ledger(&self, source: &Place, target: &Place) -> Result<PathBuf, Failure> {
        let binding = Binding { source: source.binding(), target: target.binding() };
        let directory = self.env.ledger_directory().ok_or_else(|| {
            Failure::new(Exit::Config, "there is no place for the ledger: HOME is not set")
                .with_hint("name one with --ledger PATH, or set STATE_DIRECTORY")
        })?;
        resolved(&directory.join(ledger_name(&binding)), "ledger")
    }
}

/// Returns the filter of a run; ages count from now.
///
/// # Errors
/// A pattern cannot be understood; a file of patterns cannot be read.
pub(super) fn filter(settings: &Settings, which: &args::Which) -> Result<Filter, Failure> {
    let mut rules = which.filter.iter().map(|rule| rule.parse()).collect::<Result<Vec<_>, FilterError>>()?;
    for path in &which.filter_from {
        rules.extend(filter::rules_of_file(&read(path)?)?);
    }
    let mut files = None::<BTreeSet<FileId>>;
    for path in &which.files_from {
        files.get_or_insert_default().append(&mut filter::files_of_file(&read(path)?)?);
    }
    let now = SystemTime::now();
    Ok(Filter::new(Criteria {
        rules: filter::rules(&settings.include, &settings.exclude, rules)?,
        files,
        min_size: which.min_size,
        max_size: which.max_size,
        changed_before: which.min_age.and_then(|since| since.at(now)),
        changed_after: which.max_age.and_then(|since| since.at(now)),
    }))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let shown = show_name(&path.to_string_lossy());
        Failure::new(Exit::Config, format!("the filter file {shown} cannot be read: {error}"))
            .with_hint("it is UTF-8 text, one rule or name a line")
    })
}

/// Returns what the report shows of the settings besides what the engine is told in numbers.
pub(super) fn shown(settings: &Settings) -> BTreeMap<String, String> {
    let patterns = [("include", &settings.include), ("exclude", &settings.exclude)];
    let given = patterns.into_iter().filter(|(_, patterns)| !patterns.is_empty());
    given.map(|(name, patterns)| (name.to_owned(), patterns.join(" "))).collect()
}

/// Reads the choice of `--preserve`.
///
/// # Errors
/// Neither storage is a directory, which alone has what is to be kept.
pub(super) fn preserve(kept: &[Kept], migration: &Migration) -> Result<Preserve, Failure> {
    let has = |one| kept.contains(&one) || kept.contains(&Kept::All);
    let what = Preserve {
        mode: has(Kept::Mode),
        owner: has(Kept::Owner),
        mtime: has(Kept::Mtime),
        xattrs: has(Kept::Xattrs),
        symlinks: has(Kept::Symlinks),
        directories: has(Kept::Directories),
    };
    let directory = |place: &Place| matches!(place, Place::Directory { .. });
    if what.any() && !directory(&migration.source) && !directory(&migration.target) {
        return Err(Failure::new(
            Exit::Usage,
            "--preserve has nothing to keep: neither storage is a directory",
        )
        .with_hint("between two servers, what is kept travels with the objects without --preserve"));
    }
    Ok(what)
}

/// Opens the quarantine of a source that is a directory. Makes nothing.
///
/// # Errors
/// The directory cannot be opened.
pub(super) fn open_attic(path: &Path, migration: &Migration) -> Result<DirectoryAttic, Failure> {
    let Binding { source, target } = migration.binding();
    DirectoryAttic::open(&Side::Source.to_string(), path, &source, &target)
        .map_err(|error| Failure::storage(Side::Source, &error))
}

/// Bytes that attributes may take of the 2,048 that S3 has for all user metadata: digest, creation time, part size and the
/// tag's own name take 170 at most.
const MOST_ATTRIBUTES: usize = 1850;

const EMBEDDED_BUCKET: &str = "files";

/// How long a directory may take until it yields its first name, or between two.
const LISTING_STALL: Duration = Duration::from_secs(600);

/// Twice the greatest `--concurrency`: a file may be read from its storage while something is asked of it.
const LAYER_CONCURRENCY: NonZeroU32 = NonZeroU32::new(512).unwrap();

fn resolved(path: &Path, what: &str) -> Result<PathBuf, Failure> {
    resolve_missing(path).map_err(|error| {
        let shown = show_name(&path.to_string_lossy());
        Failure::new(Exit::Config, format!("the {what} {shown} cannot be looked at: {error}"))
            .with_hint("check the owner and mode of the directories above it")
    })
}
