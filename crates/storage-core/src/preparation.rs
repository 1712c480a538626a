//! What else a caller wants of a file in a directory, set while nobody sees it yet.

use std::fs::File;

use crate::error::Result;
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
