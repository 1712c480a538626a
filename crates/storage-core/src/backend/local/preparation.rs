//! What else a caller wants of a file, set while nobody sees it yet.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};

use super::error::failed;
use crate::error::{Op, Result};
use crate::metadata::Tags;

/// Is handed every file that has all its bytes, before it appears under its name: by an upload, an upload in parts, or a
/// copy. So nobody ever sees the file without what is set here, a failure publishes nothing, and what is set later by
/// name could be set on a file that somebody put there in between.
pub trait Preparation: Send + Sync {
    /// Sets extended attributes and times, and takes out of the tags what is not to be kept as one. It may be called
    /// again for a file whose publication failed.
    ///
    /// # Errors
    /// The file is not published.
    fn prepare(&self, file: &File, tags: &mut Tags) -> Result<Permissions>;
}

/// Who may do what with a file. It is set last, as it may take the right away to set anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// User and group; nothing leaves those of the process.
    pub owner: Option<(u32, u32)>,
    /// Permission bits and the three above them; nothing is what the umask leaves of 0666.
    pub mode: Option<u32>,
}

/// A [`Preparation`] in a configuration; equal to itself and its clones only.
#[derive(Clone)]
pub(super) struct Preparer(pub(super) Arc<dyn Preparation>);

impl fmt::Debug for Preparer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preparer").finish_non_exhaustive()
    }
}

impl PartialEq for Preparer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Preparer {}

impl Permissions {
    /// Sets them, the owner first: a change of owner takes set-user-id away.
    pub(super) fn set(self, file: &File, default_mode: Mode, op: Op) -> Result<()> {
        if let Some((user, group)) = self.owner {
            let stat = rustix::fs::fstat(file).map_err(|errno| failed(op, errno))?;
            // Who may not change owners may still keep them.
            if (stat.st_uid, stat.st_gid) != (user, group) {
                let changed = fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
                changed.map_err(|errno| {
                    failed(op, errno).with_message(format!("the owner cannot be made {user}:{group}"))
                })?;
            }
        }
        let mode = self.mode.map_or(default_mode, Mode::from_raw_mode);
        fchmod(file, mode).map_err(|errno| failed(op, errno))
    }
}
