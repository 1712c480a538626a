//! Which files of a storage a run is about: names as rclone's filters have them, sizes and ages. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use storage_core::id::FileId;
use storage_core::metadata::FileMetadata;

use self::glob::Glob;
use crate::subset::Subset;

pub mod glob;

/// Which files a run is about; the default is all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    criteria: Option<Arc<Criteria>>,
    subset: Option<Subset>,
}

/// What a [`Filter`] is made of; the default leaves nothing out.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Criteria {
    /// In order: the first rule that matches a name decides; a name that none matches is taken.
    pub rules: Vec<Rule>,
    /// Only these.
    pub files: Option<BTreeSet<FileId>>,
    /// Bytes at least.
    pub min_size: Option<u64>,
    /// Bytes at most.
    pub max_size: Option<u64>,
    /// Only files that were last changed at this time or before it.
    pub changed_before: Option<SystemTime>,
    /// Only files that were last changed at this time or after it.
    pub changed_after: Option<SystemTime>,
}

/// Why a file is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Excluded {
    /// It is in another part of all files than the one that is looked at.
    Subset,
    /// By a pattern.
    Pattern,
    /// It is not in the list of files.
    NotListed,
    /// Fewer bytes than the least.
    TooSmall,
    /// More bytes than the most.
    TooLarge,
    /// Changed too recently.
    TooYoung,
    /// Changed too long ago.
    TooOld,
}

impl Excluded {
    /// Returns a stable word, fit for a report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subset => "subset",
            Self::Pattern => "pattern",
            Self::NotListed => "files_from",
            Self::TooSmall => "min_size",
            Self::TooLarge => "max_size",
            Self::TooYoung => "min_age",
            Self::TooOld => "max_age",
        }
    }
}

impl Filter {
    /// Makes a filter.
    pub fn new(criteria: Criteria) -> Self {
        Self { criteria: Some(Arc::new(criteria)), subset: None }
    }

    /// Narrows a run to a part of all files; what the criteria say holds besides.
    #[must_use]
    pub fn with_subset(mut self, subset: Option<Subset>) -> Self {
        self.subset = subset;
        self
    }

    /// Returns the part of all files that a run is about; nothing: all.
    pub fn subset(&self) -> Option<Subset> {
        self.subset
    }

    /// Tells whether a file is in the part that a run is about, whatever the criteria say.
    pub fn in_subset(&self, id: &FileId) -> bool {
        self.subset.is_none_or(|subset| subset.takes(id))
    }

    /// Says why a file of the source is left out; nothing where the run is about it.
    ///
    /// A file whose time is not known is neither too young nor too old.
    pub fn excludes(&self, file: &FileMetadata) -> Option<Excluded> {
        if !self.in_subset(&file.id) {
            return Some(Excluded::Subset);
        }
        let criteria = self.criteria.as_ref()?;
        let not = |allowed: bool, why| (!allowed).then_some(why);
        criteria.by_name(&file.id).or_else(|| criteria.by_size(file.size)).or_else(|| {
            let changed = file.modified?;
            not(criteria.changed_before.is_none_or(|latest| changed <= latest), Excluded::TooYoung).or_else(
                || not(criteria.changed_after.is_none_or(|earliest| changed >= earliest), Excluded::TooOld),
            )
        })
    }

    /// Tells whether a run is about a file that is in the target only.
    ///
    /// Its name and size are what they were in the source. How old it was there is not known: where ages matter, a run
    /// is about no such file.
    pub fn takes_of_target(&self, file: &FileMetadata) -> bool {
        if !self.in_subset(&file.id) {
            return false;
        }
        let Some(criteria) = &self.criteria else { return true };
        let ageless = criteria.changed_before.is_none() && criteria.changed_after.is_none();
        ageless && criteria.by_name(&file.id).or_else(|| criteria.by_size(file.size)).is_none()
    }
}

impl Criteria {
    fn by_name(&self, id: &FileId) -> Option<Excluded> {
        if self.files.as_ref().is_some_and(|files| !files.contains(id)) {
            return Some(Excluded::NotListed);
        }
        let rule = self.rules.iter().find(|rule| rule.glob.matches(id.as_str()))?;
        (!rule.include).then_some(Excluded::Pattern)
    }

    fn by_size(&self, size: u64) -> Option<Excluded> {
        if self.min_size.is_some_and(|least| size < least) {
            return Some(Excluded::TooSmall);
        }
        self.max_size.is_some_and(|most| size > most).then_some(Excluded::TooLarge)
    }
}

/// Takes or leaves out what matches a pattern.
#[derive(Clone, Debug)]
pub struct Rule {
    include: bool,
    glob: Glob,
}

impl Rule {
    /// Makes a rule that takes what matches.
    ///
    /// # Errors
    /// The pattern cannot be understood.
    pub fn include(pattern: &str) -> Result<Self, FilterError> {
        Self::new(true, pattern)
    }

    /// Makes a rule that leaves out what matches.
    ///
    /// # Errors
    /// The pattern cannot be understood.
    pub fn exclude(pattern: &str) -> Result<Self, FilterError> {
        Self::new(false, pattern)
    }

    fn new(include: bool, pattern: &str) -> Result<Self, FilterError> {
        let glob = Glob::parse(pattern)
            .map_err(|reason| FilterError { pattern: pattern.to_owned(), reason: reason.to_owned() })?;
        Ok(Self { include, glob })
    }
}

impl FromStr for Rule {
    type Err = FilterError;

    /// Reads `+ PATTERN` or `- PATTERN`.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        match (text.strip_prefix("+ "), text.strip_prefix("- ")) {
            (Some(pattern), _) => Self::include(pattern.trim_start()),
            (_, Some(pattern)) => Self::exclude(pattern.trim_start()),
            _ => Err(FilterError {
                pattern: text.to_owned(),
                reason: "a rule begins with `+ ` or `- `".to_owned(),
            }),
        }
    }
}

/// Puts the rules of the options in order: what is excluded stays out, whatever includes it; where anything is
/// included, nothing else is taken.
///
/// # Errors
/// The first pattern that cannot be understood.
pub fn rules(include: &[String], exclude: &[String], rules: Vec<Rule>) -> Result<Vec<Rule>, FilterError> {
    let mut all: Vec<Rule> = exclude.iter().map(|text| Rule::exclude(text)).collect::<Result<_, _>>()?;
    for pattern in include {
        all.push(Rule::include(pattern)?);
    }
    all.extend(rules);
    if !include.is_empty() {
        all.push(Rule::exclude("**")?);
    }
    Ok(all)
}

/// Reads rules, one a line: `+ PATTERN`, `- PATTERN`, or `!`, which forgets the rules before it. Empty lines and those
/// that begin with `#` or `;` are left out.
///
/// # Errors
/// The first rule that cannot be understood.
pub fn rules_of_file(text: &str) -> Result<Vec<Rule>, FilterError> {
    let mut rules = Vec::new();
    for line in lines(text) {
        match line.trim() {
            "!" => rules.clear(),
            rule => rules.push(rule.parse()?),
        }
    }
    Ok(rules)
}

/// Reads ids, one a line, with or without a `/` in front. Empty lines and those that begin with `#` or `;` are left out.
///
/// # Errors
/// The first line that is no id.
pub fn files_of_file(text: &str) -> Result<BTreeSet<FileId>, FilterError> {
    let id = |line: &str| {
        FileId::parse(line.trim_start_matches('/'))
            .map_err(|error| FilterError { pattern: line.to_owned(), reason: error.to_string() })
    };
    lines(text).map(id).collect()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    lines.filter(|line| !line.trim().is_empty() && !line.starts_with(['#', ';']))
}

/// A pattern, rule or name that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    pattern: String,
    reason: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot understand {:?} among the filters: {}", self.pattern, self.reason)
    }
}

impl std::error::Error for FilterError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn file(id: &str, size: u64) -> FileMetadata {
        FileMetadata::new(FileId::parse(id).unwrap(), size)
    }

    fn taken<'i>(rules: Vec<Rule>, ids: &[&'i str]) -> Vec<&'i str> {
        let filter = Filter::new(Criteria { rules, ..Criteria::default() });
        ids.iter().copied().filter(|id| filter.excludes(&file(id, 1)).is_none()).collect()
    }

    #[test]
    fn what_is_excluded_stays_out_whatever_includes_it() {
        let ids = ["a.jpg", "a.txt", "d/b.jpg", "d/secret.jpg"];
        let of = |include: &[&str], exclude: &[&str]| {
            taken(rules(&owned(include), &owned(exclude), vec![]).unwrap(), &ids)
        };
        assert_eq!(of(&[], &[]), ids);
        assert_eq!(of(&["*.jpg"], &[]), ["a.jpg", "d/b.jpg", "d/secret.jpg"]);
        assert_eq!(of(&["*.jpg"], &["secret*"]), ["a.jpg", "d/b.jpg"]);
        assert_eq!(of(&[], &["d/"]), ["a.jpg", "a.txt"]);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let ids = ["a.jpg", "a.txt", "d/b.jpg", "keep/x", "d/keep/y"];
        let text = "# a comment\n; another\n\n- *.tmp\n!\n+ keep/**\r\n- *.jpg\n+ d/**\n- *\n";
        assert_eq!(taken(rules_of_file(text).unwrap(), &ids), ["keep/x", "d/keep/y"]);
        assert!(rules_of_file("*.jpg").unwrap_err().to_string().contains("`+ `"));
        assert!(rules_of_file("+ a{b").unwrap_err().to_string().contains("a{b"));
    }

    #[test]
    fn only_listed_files_are_taken() {
        let files = files_of_file("# list\n/a b\nd/ c \r\n\n").unwrap();
        let filter = Filter::new(Criteria { files: Some(files), ..Criteria::default() });
        let why = |id| filter.excludes(&file(id, 1));
        assert_eq!((why("a b"), why("d/ c "), why("x")), (None, None, Some(Excluded::NotListed)));
        assert!(!filter.takes_of_target(&file("x", 1)) && filter.takes_of_target(&file("a b", 1)));
        assert!(files_of_file("a/../b").unwrap_err().to_string().contains("a/../b"));
    }

    #[test]
    fn sizes_and_ages_have_their_ends_included() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let filter = Filter::new(Criteria {
            min_size: Some(10),
            max_size: Some(20),
            changed_after: Some(at(100)),
            changed_before: Some(at(200)),
            ..Criteria::default()
        });
        let why = |size, seconds: Option<u64>| {
            let mut file = file("a", size);
            file.modified = seconds.map(at);
            filter.excludes(&file)
        };
        assert_eq!(
            [9, 10, 20, 21].map(|size| why(size, None)),
            [Some(Excluded::TooSmall), None, None, Some(Excluded::TooLarge)]
        );
        assert_eq!(
            [99, 100, 200, 201].map(|seconds| why(10, Some(seconds))),
            [Some(Excluded::TooOld), None, None, Some(Excluded::TooYoung)]
        );
        assert!(!filter.takes_of_target(&file("a", 10)), "how old it was in the source is not known");
    }
}
