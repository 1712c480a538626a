//! Changes in a source directory, by inotify.
//!
//! What is told is a hint: the queue of events may overflow, a directory may be filled before it is watched, a file may
//! be changed through a mapping. So a run that looks at everything follows whatever is not the plain change of a file,
//! and the periodic one of [`schedule`](super::schedule) stands behind all.

use std::path::Path;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use storage_core::id::FileId;

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A file was written, made, replaced or removed.
    File(FileId),
    /// More than can be told file by file.
    Everything,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub(super) struct Watching {
    _watcher: RecommendedWatcher,
}

/// Watches everything beneath `root`; `tell` is called from another thread and must be quick.
///
/// # Errors
/// Why not, and what to do, in words.
pub(super) fn watch(root: &Path, tell: impl Fn(Seen) + Send + 'static) -> Result<Watching, String> {
    let root = root.to_owned();
    let beneath = root.clone();
    let handler = move |event: notify::Result<Event>| match event {
        Ok(event) => seen(&event, &beneath).into_iter().for_each(&tell),
        Err(error) => {
            tracing::warn!(%error, "a change in the source may have been missed: all of it is looked at");
            tell(Seen::Everything);
        }
    };
    let failed = |error: notify::Error| match error.kind {
        notify::ErrorKind::MaxFilesWatch => "the system's limit of watches is reached: raise \
             fs.inotify.max_user_watches (sysctl) above the number of directories in the source"
            .to_owned(),
        _ => format!("the source cannot be watched: {error}"),
    };
    let config = Config::default().with_follow_symlinks(false);
    let mut watcher = RecommendedWatcher::new(handler, config).map_err(failed)?;
    watcher.watch(&root, RecursiveMode::Recursive).map_err(failed)?;
    Ok(Watching { _watcher: watcher })
}

fn seen(event: &Event, root: &Path) -> Vec<Seen> {
    if event.need_rescan() {
        return vec![Seen::Everything];
    }
    let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    event
        .paths
        .iter()
        .filter_map(|path| {
            let directory = match event.kind {
                // Reading changes nothing: runs do it all the time.
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
                EventKind::Access(_) => return None,
                EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder) => true,
                EventKind::Create(CreateKind::File)
                | EventKind::Remove(RemoveKind::File)
                | EventKind::Modify(ModifyKind::Data(_)) => false,
                _ => is_directory(path),
            };
            let path = path.strip_prefix(root).ok()?;
            if path.starts_with(".storage") {
                return None;
            }
            // What has no id is told by the run that lists it.
            let id = path.to_str().and_then(|path| FileId::parse(path).ok());
            Some(id.filter(|_| !directory).map_or(Seen::Everything, Seen::File))
        })
        .collect()
}
