//! Where a file's attributes are kept: in one extended attribute, set before the file is published; in a sidecar
//! where the file system has none, or no room for these.

use std::fs::File;

use rustix::fs::{Stat, XattrFlags, fgetxattr, fgetxattr_query, fsetxattr};
use rustix::io::Errno;

use super::attributes::{Attributes, unwritable};
use super::error::failed;
use super::root::Root;
use super::sidecar::Sidecar;
use crate::error::{Op, Result};
use crate::id::FileId;

const NAME: &str = "user.storage.attributes";

/// Puts attributes on a file that is not published yet, as those of its present bytes.
pub(super) fn store(
    attributes: &mut Attributes,
    root: &Root,
    id: &FileId,
    file: &File,
    op: Op,
) -> Result<Option<Sidecar>> {
    let stat = rustix::fs::fstat(file).map_err(|errno| failed(op, errno))?;
    attributes.bind(&stat);
    let json = serde_json::to_vec(attributes).map_err(|error| unwritable(op, error))?;
    match fsetxattr(file, NAME, &json, XattrFlags::empty()) {
        Ok(()) => Ok(None),
        // Not supported; or larger than a block of ext4, the 64 KiB of xfs, the limit of the kernel.
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::DQUOT) => {
            Sidecar::create(root, id, attributes, file, op).map(Some)
        }
        Err(errno) => Err(failed(op, errno)),
    }
}

/// Reads those of an open file; nothing where it has none, as a file that was put there by other means.
pub(super) fn load(root: &Root, id: &FileId, file: &File, stat: &Stat, op: Op) -> Result<Option<Attributes>> {
    let json = match read(file) {
        Ok(json) => json,
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => return Sidecar::load(root, id, stat, op),
        Err(errno) => return Err(failed(op, errno)),
    };
    match serde_json::from_slice(&json) {
        Ok(attributes) => Ok(Some(attributes)),
        Err(error) => {
            tracing::warn!(id = id.as_str(), %error, "extended attribute {NAME} is not readable, ignored");
            Ok(None)
        }
    }
}

fn read(file: &File) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match fgetxattr(file, NAME, &mut buffer[..]) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => buffer.resize(fgetxattr_query(file, NAME)?, 0),
            Err(errno) => return Err(errno),
        }
    }
}
