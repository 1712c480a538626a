//! The attributes of a file, set by the storage that it is written to before it appears.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use storage_core::error::{Error, ErrorKind, Op, Result};
use storage_core::metadata::Tags;
use storage_core::preparation::{Permissions, Preparation};

use super::posix::{Refused, mode_of_file, set_times, set_xattrs};
use super::{Attributes, Preserve, TAG};

/// Returns what a directory is to be opened with whose files are written with their attributes.
pub fn preparation(what: Preserve) -> Arc<dyn Preparation> {
    Arc::new(FromTag { what })
}

/// Reads the attributes that came with a file.
pub(super) fn attributes_in(text: &str) -> Result<Attributes> {
    Attributes::parse(text).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, Op::Upload)
            .with_message(format!("the tag {TAG:?} does not hold attributes of a file: {text:?}"))
    })
}

#[derive(Debug)]
struct FromTag {
    what: Preserve,
}

impl Preparation for FromTag {
    fn prepare(&self, file: &File, tags: &mut Tags) -> Result<Permissions> {
        let Some(text) = tags.remove(TAG) else { return Ok(Permissions::default()) };
        let attributes = attributes_in(&text)?;
        let what = self.what;
        let set = set_xattrs(file.as_fd(), &attributes, what)
            .and_then(|()| Ok(set_times(file.as_fd(), &attributes, what)?));
        set.map_err(|refused: Refused| {
            Error::new(refused.kind(), Op::Upload)
                .with_message(format!("its attributes cannot be set: {refused}"))
                .with_source(refused)
        })?;
        let owner = attributes.owner.filter(|_| what.owner);
        Ok(Permissions { owner, mode: mode_of_file(&attributes, what) })
    }
}
