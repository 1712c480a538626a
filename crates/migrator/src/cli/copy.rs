//! `migrator copy`

use std::sync::Arc;
use std::time::Duration;

use storage_core::storage::{Access, FileStorage};

use crate::cli::args;
use crate::cli::args::{PreserveXattrs, VerifyMode};
use crate::cli::context::{Context, Migration, Opened, filter, open_attic, preserve, shown};
use crate::cli::place::Place;
use crate::cli::rehearse::{rehearse, tell_what_stays};
use crate::cli::run::{Drive, close, latest, outcome, prepare_report};
use crate::cli::storing;
use crate::cli::watch::{Style, Watch, progress};
use crate::config::Settings;
use crate::engine::{self, CopyOptions, Job, Removal, Retirement, SyncOptions, VerifyOptions};
use crate::failure::{Exit, Failure, Side};
use crate::filter::Filter;
use crate::ledger::Ledger;
use crate::ledger::sqlite::OpenMode;
use crate::preserve::Preserve;
use crate::preserve::directory::Notice;
use crate::progress::Event;
use crate::retire::directory::DirectoryAttic;
use crate::rules::{Given, Rules};

/// Copies what is new or changed.
///
/// # Errors
/// Whatever keeps the run from its end; failed files do not.
pub(super) async fn run(context: &Context, args: &args::CopyCommand, drive: Drive) -> Result<Exit, Failure> {
    check(args)?;
    let days = args.quarantine_days.unwrap_or(USUAL_DAYS);
    let stay = args.remove_source.then(|| Duration::from_secs(u64::from(days) * 24 * 3600));
    carry_out(context, &args.copy, Task::Copy(stay), drive).await
}

/// A week in which somebody misses what was moved away.
const USUAL_DAYS: u32 = 7;

/// Refuses options that contradict each other.
///
/// # Errors
/// Files are to be moved away of which nobody is to compare the bytes.
pub(super) fn check(args: &args::CopyCommand) -> Result<(), Failure> {
    if args.remove_source && args.copy.verify == VerifyMode::None {
        let message = "--remove-source moves away what was verified, and --verify none verifies nothing";
        return Err(Failure::new(Exit::Usage, message).with_hint("leave one of them out"));
    }
    Ok(())
}

/// Opens the source's quarantine.
///
/// # Errors
/// The source is no directory, or it cannot be opened.
fn attic(migration: &Migration) -> Result<DirectoryAttic, Failure> {
    let Place::Directory { path, .. } = &migration.source else {
        let message = format!(
            "--remove-source moves files of a directory to a quarantine in it, by renaming them; the source {} is none",
            migration.source.binding()
        );
        return Err(Failure::new(Exit::Usage, message)
            .with_hint("copy without it, verify, and remove the source's objects by its own tools"));
    };
    open_attic(path, migration)
}

/// What is to be done with the pair.
pub(super) enum Task {
    /// Copy, and move the source's files to a quarantine of so long, where that was asked for.
    Copy(Option<Duration>),
    /// Copy, and remove what is only in the target, where that was asked for.
    Sync(Option<Removal>),
}

/// How long the source's files stay in quarantine, where they are to be moved there, and into which.
pub(super) type Away = Option<(Arc<DirectoryAttic>, Duration)>;

/// Opens the quarantine that a task moves files of the source to.
///
/// # Errors
/// The source is no directory, or it cannot be opened.
pub(super) fn away(task: &Task, migration: &Migration) -> Result<Away, Failure> {
    match task {
        Task::Copy(Some(stay)) => Ok(Some((Arc::new(attic(migration)?), *stay))),
        _ => Ok(None),
    }
}

/// Returns how a copy is to work: as the command line says, else the configuration file, else as is usual for the target.
///
/// # Errors
/// A rule contradicts itself.
pub(super) fn options(
    args: &args::Copy,
    settings: &Settings,
    migration: &Migration,
    away: Away,
) -> Result<CopyOptions, Failure> {
    let mut options = match &migration.target {
        Place::Directory { .. } => CopyOptions::into_a_directory(),
        _ => CopyOptions::default(),
    };
    if let Some(concurrency) = settings.concurrency {
        options = options.with_concurrency(concurrency);
    }
    options.part_size = args.part_size.or(settings.part_size).unwrap_or(options.part_size);
    options.bandwidth.clone_from(&settings.bandwidth);
    options.order = args.order;
    let given: Vec<Given> = [&args.content_type, &args.tag, &args.metadata, &settings.rules]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    options.rules = Rules::new(&given).map_err(|error| {
        Failure::new(Exit::Usage, error.to_string()).with_hint("see `migrator help copy`, or [[rules]]")
    })?;
    options.allow_empty_source = args.allow_empty_source;
    options.compare = args.verify != VerifyMode::None;
    options.retirement = away.map(|(attic, quarantine)| Retirement {
        attic,
        quarantine,
        read_back: args.verify == VerifyMode::All,
    });
    Ok(options)
}

/// Makes the job of a copy or sync over what was opened.
///
/// # Errors
/// The source's quarantine cannot be looked at.
pub(super) fn job(
    migration: &Migration,
    [source, target]: [&Opened; 2],
    ledger: Arc<dyn Ledger>,
    filter: Filter,
    kept: Preserve,
) -> Result<Job, Failure> {
    let mut job = Job::new(Arc::clone(&source.storage), Arc::clone(&target.storage), ledger);
    job.filter = filter;
    // Asked of what was opened: nothing can be mounted there meanwhile without the storage noticing.
    job.source_place = migration.source.file_system();
    job.source_path = migration.source.where_mounted();
    if let Place::Directory { path, .. } = &migration.source {
        job.moved_away = Some(Arc::new(open_attic(path, migration)?));
    }
    job.source_shows_by_files = matches!(migration.source, Place::S3(_));
    job.only_files = matches!(migration.target, Place::Directory { .. }) && !kept.any();
    job.directories = kept.directories;
    job.folding = migration.target.folding();
    Ok(job)
}

/// Carries out a copy or a sync, from the opening of the pair to the report.
///
/// # Errors
/// Whatever keeps the run from its end; failed files do not.
pub(super) async fn carry_out(
    context: &Context,
    args: &args::Copy,
    task: Task,
    drive: Drive,
) -> Result<Exit, Failure> {
    if args.dry_run {
        return Box::pin(rehearse(context, args, task)).await;
    }
    let settings = context.settings(Some(&args.pace), &args.which);
    let filter = filter(&settings, &args.which)?;
    let (migration, report) = context.migration(&args.pair, args.report.as_deref())?;
    let away = away(&task, &migration)?;
    // The lock first: nobody else changes the target from here on.
    let ledger = Arc::new(context.open_ledger(&migration, OpenMode::Create).await?);
    let kept = preserve(&args.preserve, &migration)?;
    prepare_report(report.as_deref())?;
    let source = context.open(&migration.source, Side::Source, Access::ReadOnly).await?;
    // Into a directory everything fits.
    let skip = args.preserve_xattrs == PreserveXattrs::SkipTooLarge
        && !matches!(migration.target, Place::Directory { .. });
    let notice = skip.then(|| {
        let progress = drive.progress.clone();
        Notice::new(move |message| progress.tell(&Event::Notice { message }))
    });
    let source = source.preserving_what_fits(&migration.source, Side::Source, kept, notice)?;
    let options = options(args, &settings, &migration, away)?;
    if matches!(migration.target, Place::Directory { .. })
        && (kept.symlinks || kept.directories)
        && options.rules.have_tags()
    {
        // P6: what is not kept is said.
        let message =
            "tags and metadata of rules are not kept for symbolic links and directories in a directory";
        drive.progress.tell(&Event::Notice { message });
    }
    let target = context.open_target(&migration.target, &*ledger, options.concurrency, kept).await?;
    let server = Arc::clone(&target.storage);
    let target = target.preserving(&migration.target, Side::Target, kept)?;
    let mut job = job(&migration, [&source, &target], ledger, filter, kept)?;
    job.progress = drive.progress;
    if let Some(bound) = target.bound.clone() {
        job.progress.watch_limit(move || if bound.now() < bound.cap() { bound.now() } else { 0 });
    }
    job.settings = shown(&settings);
    job.settings.extend(storing::shown(&migration.target));
    job.settings.extend(kept.any().then(|| ("preserve".to_owned(), kept.to_string())));
    job.stop = drive.stop;
    job.only = drive.only;

    let before = latest(&*job.ledger).await;
    let style = Style::of(&context.global, context.output.is_terminal());
    let watch = Watch::start(&context.output, &job.progress, style);
    let ended = match task {
        Task::Copy(_) => engine::copy(&job, &options).await,
        Task::Sync(removal) => {
            let mut sync = SyncOptions::default();
            (sync.copy, sync.removal) = (options, removal);
            let ended = engine::sync(&job, &sync).await;
            if let (Err(error), Some(removal)) = (&ended, &sync.removal) {
                tell_what_stays(context, &job, removal, error).await;
            }
            ended
        }
    };
    watch.finish().await;
    remember(&*job.ledger, &*server).await;
    let mut exit = outcome(context, &*job.ledger, before, ended, report.as_deref()).await;
    if let (Ok(copied @ (Exit::Ok | Exit::SomeFailed)), VerifyMode::All) = (&exit, args.verify)
        && job.only.is_none()
    {
        let copied = *copied;
        let audit = VerifyOptions {
            read_back: true,
            concurrency: settings.concurrency,
            bandwidth: settings.bandwidth,
            allow_empty_source: args.allow_empty_source,
            ..VerifyOptions::default()
        };
        job.progress = progress(context.output.clone());
        let before = latest(&*job.ledger).await;
        let watch = Watch::start(&context.output, &job.progress, style);
        let ended = engine::verify(&job, &audit).await;
        watch.finish().await;
        let directory = report.map(|directory| directory.join("verify"));
        let audited = outcome(context, &*job.ledger, before, ended, directory.as_deref()).await;
        // A file that failed is missing to the audit as well: what is wrong with the target is said first.
        exit = audited.map(|audited| if audited == Exit::Ok { copied } else { audited });
    }
    close(job, [source, target]).await;
    exit
}

/// Keeps what the target was found capable of, for the next time it is opened.
async fn remember(ledger: &dyn Ledger, target: &dyn FileStorage) {
    let found = target.capabilities();
    let kept = async {
        match ledger.target_capabilities().await? {
            Some(known) if known == found => Ok(()),
            _ => ledger.set_target_capabilities(&found).await,
        }
    };
    if let Err(error) = kept.await {
        tracing::warn!(%error, "what the target can do is not remembered");
    }
}
