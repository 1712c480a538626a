//! What a file system knows of a file and an object has no field for: mode, owner, modification time, extended
//! attributes, and symbolic links and directories, which are no files at all. Pure; [`directory`], `tree` and `posix` read and
//! write them.
//!
//! They travel with the file as one tag, [`TAG`], so that every storage that keeps tags keeps them. docs/preserve.md
//! has its form.

use std::collections::BTreeMap;
use std::fmt;

use storage_core::metadata::Tags;

pub mod directory;
mod posix;
pub mod preparation;
mod tree;

pub(crate) use self::posix::{entries, link_version};

/// The last segment of the object that stands for a directory.
pub const MARKER: &str = ".storage-directory";

/// The tag that holds the attributes.
pub const TAG: &str = "posix";

/// Where the storage keeps what it knows of a file itself.
const OWN_XATTRS: &[u8] = b"user.storage.";

/// Tells whether an extended attribute of this name is kept. Others decide what a file may do (`security.capability`,
/// access control lists) and are not to be had from whoever can write to a bucket.
fn is_kept_xattr(name: &[u8]) -> bool {
    name.strip_prefix(b"user.").is_some_and(|own| !own.is_empty() && !own.contains(&0))
        && !name.starts_with(OWN_XATTRS)
}

/// What an object stands for that is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special<'a> {
    /// A directory.
    Directory,
    /// A symbolic link, and what it says.
    Link(&'a [u8]),
}

impl fmt::Display for Special<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::Link(_) => "a symbolic link",
        })
    }
}

/// Which attributes are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Preserve {
    /// Permission bits, set-user-id, set-group-id and sticky bit.
    pub mode: bool,
    /// Numbers of user and group.
    pub owner: bool,
    /// Modification time, to the nanosecond.
    pub mtime: bool,
    /// Extended attributes whose names begin with `user.`, less this project's own.
    pub xattrs: bool,
    /// Symbolic links, as objects without bytes.
    pub symlinks: bool,
    /// Directories, as objects without bytes.
    pub directories: bool,
}

impl Preserve {
    /// Tells whether anything is kept.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl fmt::Display for Preserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.mode, "mode"),
            (self.owner, "owner"),
            (self.mtime, "mtime"),
            (self.xattrs, "xattrs"),
            (self.symlinks, "symlinks"),
            (self.directories, "directories"),
        ];
        let kept: Vec<_> = all.into_iter().filter(|(kept, _)| *kept).map(|(_, name)| name).collect();
        f.write_str(&kept.join(","))
    }
}

/// The attributes of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits and the three above them.
    pub mode: Option<u32>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Seconds since the epoch and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// What a symbolic link says; the object then has no bytes.
    pub link: Option<Vec<u8>>,
    /// Whether the object stands for a directory, and has no bytes.
    pub directory: bool,
    /// Values by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    /// Returns what a file's tag [`TAG`] says of it.
    pub fn of(tags: &Tags) -> Option<Self> {
        tags.get(TAG).and_then(|text| Self::parse(text))
    }

    /// Tells what they are of that is no file.
    pub fn special(&self) -> Option<Special<'_>> {
        if self.directory {
            return Some(Special::Directory);
        }
        self.link.as_deref().map(Special::Link)
    }

    /// Writes them as the tag's value: `type=directory;mode=644;owner=0:0;mtime=1.000000002;link=HEX;x.HEX=HEX`, as far as they are
    /// there, in this order.
    pub fn to_text(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.directory.then(|| "type=directory".to_owned()));
        parts.extend(self.mode.map(|mode| format!("mode={mode:o}")));
        parts.extend(self.owner.map(|(user, group)| format!("owner={user}:{group}")));
        parts.extend(self.mtime.map(|(seconds, nanoseconds)| format!("mtime={seconds}.{nanoseconds:09}")));
        parts.extend(self.link.as_ref().map(|link| format!("link={}", hex::encode(link))));
        let xattrs = self.xattrs.iter();
        parts.extend(xattrs.map(|(name, value)| format!("x.{}={}", hex::encode(name), hex::encode(value))));
        parts.join(";")
    }

    /// Reads a tag's value. Nothing where it is none: a part that is not understood is not guessed at.
    pub fn parse(text: &str) -> Option<Self> {
        let mut found = Self::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=')?;
            match name {
                "mode" => {
                    found.mode = Some(u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777)?)
                }
                "owner" => {
                    let (user, group) = value.split_once(':')?;
                    found.owner = Some((user.parse().ok()?, group.parse().ok()?));
                }
                "mtime" => {
                    let (seconds, nanoseconds) = value.split_once('.')?;
                    let nanoseconds = nanoseconds.parse().ok().filter(|_| nanoseconds.len() == 9)?;
                    found.mtime = Some((seconds.parse().ok()?, nanoseconds));
                }
                "type" if value == "directory" => found.directory = true,
                "link" => found.link = Some(hex::decode(value).ok()?),
                _ => {
                    let name =
                        hex::decode(name.strip_prefix("x.")?).ok().filter(|name| is_kept_xattr(name))?;
                    found.xattrs.insert(name, hex::decode(value).ok()?);
                }
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            mode in proptest::option::of(0u32..=0o7777),
            owner in proptest::option::of(any::<(u32, u32)>()),
            mtime in proptest::option::of((any::<i64>(), 0u32..1_000_000_000)),
            link in proptest::option::of(any::<Vec<u8>>()),
            directory: bool,
            xattrs in proptest::collection::btree_map("user\\.[a-z]{1,9}", any::<Vec<u8>>(), 0..4),
        ) {
            let xattrs = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            let attributes = Attributes { mode, owner, mtime, link, directory, xattrs };
            prop_assert_eq!(Attributes::parse(&attributes.to_text()), Some(attributes));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Attributes::parse(&text);
        }
    }

    #[test]
    fn only_extended_attributes_of_users_are_taken() {
        for name in [
            "security.capability",
            "system.posix_acl_access",
            "trusted.a",
            "user.",
            "user.storage.attributes",
            "user.a\0",
        ] {
            let text = format!("x.{}=00", hex::encode(name));
            assert_eq!(Attributes::parse(&text), None, "{name}");
        }
        assert!(Attributes::parse(&format!("x.{}=00", hex::encode("user.a"))).is_some());
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let mut attributes = Attributes {
            mode: Some(0o4755),
            owner: Some((1000, 100)),
            mtime: Some((-1, 5)),
            link: Some(b"../a".to_vec()),
            ..Attributes::default()
        };
        attributes.xattrs.insert(b"user.a".to_vec(), b"\0".to_vec());
        assert_eq!(
            attributes.to_text(),
            "mode=4755;owner=1000:100;mtime=-1.000000005;link=2e2e2f61;x.757365722e61=00"
        );
        let directory = Attributes { directory: true, mode: Some(0o755), ..Attributes::default() };
        assert_eq!(directory.to_text(), "type=directory;mode=755");
        for text in
            ["type=file", "mode=9", "mode=10000", "owner=1", "mtime=1.5", "link=x", "y=1", "mode", "x.=00"]
        {
            assert_eq!(Attributes::parse(text), None, "{text}");
        }
    }
}
