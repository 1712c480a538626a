//! Names that get into each other's way: a file above a file, and names that some file systems take for one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufWriter, Read as _, Seek as _, Write as _};

use icu_normalizer::ComposingNormalizerBorrowed;
use serde::{Deserialize, Serialize};
use storage_core::id::FileId;

/// Files that may have files beneath them: `a` and `a/b` cannot both be in a directory. Asked for ids in ascending
/// order; holds only those that a later id may lie beneath.
#[derive(Clone, Debug, Default)]
pub struct Nesting(Vec<FileId>);

impl Nesting {
    /// Returns the file that stands where this one needs a directory; where there is none, the file itself may stand in
    /// the way of later ones.
    pub fn above(&mut self, id: &FileId) -> Option<FileId> {
        let text = id.as_str();
        self.0.retain(|above| {
            // `a`, then `a-b`, and only then `a/b`.
            let children = above.as_str().bytes().chain([b'/']);
            children.ge(text.bytes().take(above.as_str().len() + 1))
        });
        if let Some(above) = self.over(id) {
            return Some(above.clone());
        }
        self.0.push(id.clone());
        None
    }

    /// Returns the file that stands where this one needs a directory, and notes nothing.
    pub fn over(&self, id: &FileId) -> Option<&FileId> {
        let beneath = |above: &FileId| {
            id.as_str().strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        self.0.iter().find(|above| beneath(above))
    }
}

/// What a file system takes for the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folding {
    /// `a` and `A`.
    pub case: bool,
    /// The Unicode forms NFC and NFD of one text.
    pub unicode: bool,
}

impl Folding {
    /// Tells whether any two names are one.
    pub const fn any(self) -> bool {
        self.case || self.unicode
    }
}

/// In what two names differ that people, and some file systems, take for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In the Unicode form only.
    Unicode,
    /// In the case of letters, and perhaps in the form as well.
    Case,
}

impl Kind {
    /// Tells whether the file system takes names that differ in this for one.
    pub const fn is_one_name(self, folding: Folding) -> bool {
        match self {
            Self::Unicode => folding.unicode,
            Self::Case => folding.case,
        }
    }
}

/// Names that differ in their case or Unicode form only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Twins {
    /// In what.
    pub kind: Kind,
    /// The names, in ascending order.
    pub names: Vec<FileId>,
}

/// Names that a target takes for one, each with another of its group. Memory is these names.
#[derive(Clone, Debug, Default)]
pub struct Clashes(BTreeMap<FileId, FileId>);

impl Clashes {
    /// Takes the groups that are one name to the target.
    pub fn of(twins: &[Twins], folding: Folding) -> Self {
        let groups = twins.iter().filter(|twins| twins.kind.is_one_name(folding));
        let pairs = groups.flat_map(|twins| {
            let other = |name: &FileId| twins.names.iter().find(|other| *other != name).cloned();
            twins.names.iter().filter_map(move |name| Some((name.clone(), other(name)?)))
        });
        Self(pairs.collect())
    }

    /// Returns another name that is the same to the target, where there is one.
    pub fn other(&self, id: &FileId) -> Option<&FileId> {
        self.0.get(id)
    }
}

/// Temporary files among which the names are spread: one at a time is looked at in memory.
const BUCKETS: usize = 64;

/// Finds names that are alike. Takes any number of them: 8 bytes of disk each, and a 64th of that in memory.
///
/// The first time round, all names are [`add`](Self::add)ed; [`suspects`](Self::suspects) then tells which of them to look
/// at again.
pub struct Search {
    hash: RandomState,
    buckets: Vec<BufWriter<File>>,
}

impl Search {
    /// Begins a search.
    ///
    /// # Errors
    /// The system has no place for temporary files.
    pub fn new() -> io::Result<Self> {
        let buckets = (0..BUCKETS).map(|_| Ok(BufWriter::with_capacity(4096, tempfile::tempfile()?)));
        Ok(Self { hash: RandomState::new(), buckets: buckets.collect::<io::Result<_>>()? })
    }

    /// Adds a name.
    ///
    /// # Errors
    /// A temporary file cannot be written.
    pub fn add(&mut self, id: &FileId) -> io::Result<()> {
        let hash = self.hash.hash_one(fold(id.as_str()));
        let bucket = usize::try_from(hash % BUCKETS as u64).unwrap_or(0);
        match self.buckets.get_mut(bucket) {
            Some(bucket) => bucket.write_all(&hash.to_le_bytes()),
            None => Ok(()),
        }
    }

    /// Ends the first round.
    ///
    /// # Errors
    /// A temporary file cannot be read.
    pub fn suspects(self) -> io::Result<Suspects> {
        let mut twice = BTreeSet::new();
        for bucket in self.buckets {
            let mut file = bucket.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let mut hashes: Vec<u64> =
                bytes.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
            hashes.sort_unstable();
            twice.extend(hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
        }
        Ok(Suspects { hash: self.hash, twice, groups: BTreeMap::new() })
    }
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").finish_non_exhaustive()
    }
}

/// The second round of a [`Search`]: memory is the names that are alike.
#[derive(Debug)]
pub struct Suspects {
    hash: RandomState,
    twice: BTreeSet<u64>,
    groups: BTreeMap<String, BTreeSet<FileId>>,
}

impl Suspects {
    /// Tells whether a second round has anything to find.
    pub fn is_empty(&self) -> bool {
        self.twice.is_empty()
    }

    /// Looks at a name again.
    pub fn look(&mut self, id: &FileId) {
        let folded = fold(id.as_str());
        if self.twice.contains(&self.hash.hash_one(&folded)) {
            self.groups.entry(folded).or_default().insert(id.clone());
        }
    }

    /// Returns what was found, in order.
    pub fn twins(self) -> Vec<Twins> {
        let mut found = Vec::new();
        for names in self.groups.into_values().filter(|names| names.len() > 1) {
            let forms: BTreeSet<String> = names.iter().map(|name| compose(name.as_str())).collect();
            let kind = if forms.len() == 1 { Kind::Unicode } else { Kind::Case };
            found.push(Twins { kind, names: names.into_iter().collect() });
        }
        found
    }
}

/// One text for all names that are alike.
fn fold(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    // Lower case may be another sequence of marks again.
    compose(&compose(name).to_lowercase())
}

fn compose(name: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc().normalize(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> FileId {
        FileId::parse(text).unwrap()
    }

    #[test]
    fn a_file_above_a_file_is_found_whatever_sorts_between() {
        let mut names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "b", "b/c/d", "c/d", "ca", "z", "z/", "zz"]
            .map(|name| name.trim_end_matches('/'));
        names.sort_unstable();
        let mut nesting = Nesting::default();
        let found: Vec<_> =
            names.iter().filter_map(|name| Some(format!("{name} < {}", nesting.above(&id(name))?))).collect();
        assert_eq!(found, ["a/b < a", "a/b/c < a", "b/c/d < b"]);
    }

    #[test]
    fn no_more_is_held_than_may_matter() {
        let mut nesting = Nesting::default();
        for number in 0..10_000 {
            assert_eq!(nesting.above(&id(&format!("d/{number:05}"))), None);
            assert!(nesting.0.len() < 4, "{}", nesting.0.len());
        }
    }

    fn twins(names: &[&str]) -> Vec<(Kind, Vec<String>)> {
        let mut search = Search::new().unwrap();
        names.iter().for_each(|name| search.add(&id(name)).unwrap());
        let mut suspects = search.suspects().unwrap();
        names.iter().for_each(|name| suspects.look(&id(name)));
        let twins = suspects.twins().into_iter();
        twins.map(|twins| (twins.kind, twins.names.iter().map(ToString::to_string).collect())).collect()
    }

    #[test]
    fn names_that_are_alike_are_found_however_far_apart() {
        let mut names: Vec<String> = (0..3000).map(|number| format!("file-{number}")).collect();
        names.extend(
            ["README", "readme", "Dir/x", "dir/x", "dir/y", "caf\u{e9}", "cafe\u{301}", "CAFE\u{301}s"]
                .map(str::to_owned),
        );
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            twins(&names),
            [
                (Kind::Unicode, owned(&["cafe\u{301}", "caf\u{e9}"])),
                (Kind::Case, owned(&["Dir/x", "dir/x"])),
                (Kind::Case, owned(&["README", "readme"])),
            ]
        );
        assert_eq!(twins(&["a", "b", "A/b"]), []);
    }
}
