//! Has files prepared that are about to be published.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};

use super::error::failed;
use crate::error::{Op, Result};
use crate::preparation::{Permissions, Preparation};

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

/// Sets owner and mode, the owner first: a change of owner takes set-user-id away.
pub(super) fn set(permissions: Permissions, file: &File, default_mode: Mode, op: Op) -> Result<()> {
    let Permissions { owner, mode } = permissions;
    if let Some((user, group)) = owner {
        let stat = rustix::fs::fstat(file).map_err(|errno| failed(op, errno))?;
        // Who may not change owners may still keep them.
        if (stat.st_uid, stat.st_gid) != (user, group) {
            let changed = fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            changed.map_err(|errno| {
                failed(op, errno).with_message(format!("the owner cannot be made {user}:{group}"))
            })?;
        }
    }
    let mode = mode.map_or(default_mode, Mode::from_raw_mode);
    fchmod(file, mode).map_err(|errno| failed(op, errno))
}
