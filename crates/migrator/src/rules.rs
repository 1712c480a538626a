//! Rules for attributes: what files are given on their way whose names match. Pure.
//!
//! For each attribute the first rule decides that matches the file and names the attribute; what no rule names is the
//! source's. So a rule for all files, put last, fills what the others leave open. Rules are for what is copied from now
//! on: a file that is unchanged stays as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use storage_core::id::FileId;
use storage_core::storage::{Capabilities, UploadOptions};

use crate::filter::glob::Glob;

/// What the key of a tag begins with that stands for user metadata of an object, under the name behind it.
const METADATA: &str = "x-amz-meta-";

/// Names of user metadata that the library keeps attributes in.
const RESERVED: [&str; 4] = ["file-name", "created", "sha256", "part-size"];

/// What such names begin with.
const RESERVED_PREFIXES: [&str; 2] = ["tag-", "tagx-"];

/// What files are given that match a pattern, as it is written in options and in the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// As in filters.
    pub pattern: String,
    /// Instead of the source's.
    pub content_type: Option<String>,
    /// Beside the source's; of one key, instead of it.
    pub tags: BTreeMap<String, String>,
    /// User metadata of objects, by its name without `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
}

/// What is wrong with a rule, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError(String);

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RuleError {}

impl Given {
    /// Reads `GLOB=TYPE`. A `=` in the pattern is written `\=`.
    ///
    /// # Errors
    /// There is no `=`, or one side of it is wrong.
    pub fn parse_content_type(text: &str) -> Result<Self, RuleError> {
        let mut escaped = false;
        let at = text.char_indices().find_map(|(at, char)| {
            let here = char == '=' && !escaped;
            escaped = char == '\\' && !escaped;
            here.then_some(at)
        });
        let (pattern, kind) = at
            .and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?)))
            .ok_or_else(|| RuleError("expected PATTERN=TYPE, as in *.md=text/markdown".to_owned()))?;
        let given =
            Self { pattern: pattern.to_owned(), content_type: Some(kind.to_owned()), ..Self::default() };
        Rule::new(&given).map(|_| given)
    }

    /// Reads `KEY=VALUE`, which all files are given as a tag.
    ///
    /// # Errors
    /// There is no `=`, or the key is empty.
    pub fn parse_tag(text: &str) -> Result<Self, RuleError> {
        let tags = pair(text)?;
        let given = Self { pattern: "**".to_owned(), tags, ..Self::default() };
        Rule::new(&given).map(|_| given)
    }

    /// Reads `NAME=VALUE`, which all files are given as user metadata.
    ///
    /// # Errors
    /// There is no `=`, or the name cannot be that of a header.
    pub fn parse_metadata(text: &str) -> Result<Self, RuleError> {
        let metadata = pair(text)?;
        let given = Self { pattern: "**".to_owned(), metadata, ..Self::default() };
        Rule::new(&given).map(|_| given)
    }
}

fn pair(text: &str) -> Result<BTreeMap<String, String>, RuleError> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| RuleError("expected KEY=VALUE, as in team=archive".to_owned()))?;
    Ok(BTreeMap::from([(key.to_owned(), value.to_owned())]))
}

/// A rule that has been understood.
#[derive(Clone, Debug)]
struct Rule {
    pattern: String,
    glob: Glob,
    content_type: Option<String>,
    /// With those that stand for user metadata.
    tags: BTreeMap<String, String>,
}

impl Rule {
    fn new(given: &Given) -> Result<Self, RuleError> {
        let wrong = |message: String| Err(RuleError(message));
        let glob = Glob::parse(&given.pattern).map_err(|reason| {
            RuleError(format!("cannot understand the pattern {:?}: {reason}", given.pattern))
        })?;
        if let Some(kind) = &given.content_type
            && !is_content_type(kind)
        {
            return wrong(format!("{kind:?} is no content type: write it as in text/plain"));
        }
        for key in given.tags.keys() {
            if key.is_empty() {
                return wrong("a tag has an empty key".to_owned());
            }
            if key.starts_with(METADATA) {
                return wrong(format!(
                    "the tag {key:?} is user metadata: give it as metadata, without {METADATA}"
                ));
            }
        }
        let mut tags = given.tags.clone();
        for (name, value) in &given.metadata {
            let good =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
            if name.is_empty() || !name.bytes().all(good) {
                return wrong(format!(
                    "{name:?} is no name of user metadata: it has small letters, digits, `-`, `_` and `.` only"
                ));
            }
            let reserved = RESERVED.contains(&name.as_str())
                || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if reserved {
                return wrong(format!("user metadata of the name {name:?} holds what a file came with"));
            }
            tags.insert(format!("{METADATA}{name}"), value.clone());
        }
        if given.content_type.is_none() && tags.is_empty() {
            return wrong(format!("the rule for {:?} gives nothing", given.pattern));
        }
        Ok(Self { pattern: given.pattern.clone(), glob, content_type: given.content_type.clone(), tags })
    }
}

/// `type/subtype` and perhaps parameters (RFC 9110 section 8.3.1).
fn is_content_type(text: &str) -> bool {
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let essence = text.split(';').next().unwrap_or(text).trim_end();
    let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    printable && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

impl fmt::Display for Rules {
    /// Names what is given to which files: `*.md: content-type, team`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, rule) in self.0.iter().enumerate() {
            let kind = rule.content_type.as_ref().map(|_| "content-type");
            let words: Vec<&str> = kind.into_iter().chain(rule.tags.keys().map(String::as_str)).collect();
            let gap = if number > 0 { "; " } else { "" };
            write!(f, "{gap}{}: {}", rule.pattern, words.join(", "))?;
        }
        Ok(())
    }
}

/// Rules in their order; the default gives nothing. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Rules(Arc<[Rule]>);

impl Rules {
    /// Understands rules.
    ///
    /// # Errors
    /// The first that cannot be understood.
    pub fn new(given: &[Given]) -> Result<Self, RuleError> {
        given.iter().map(Rule::new).collect::<Result<_, _>>().map(Self)
    }

    /// Tells whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that a target keeps what files are given.
    ///
    /// # Errors
    /// Files are given tags or user metadata, and the target keeps none.
    pub fn check(&self, target: &Capabilities) -> Result<(), RuleError> {
        match self.0.iter().find(|rule| !rule.tags.is_empty()) {
            Some(rule) if !target.tags => Err(RuleError(format!(
                "the target keeps neither tags nor user metadata, which {:?} is given: leave them out",
                rule.pattern
            ))),
            _ => Ok(()),
        }
    }

    /// Tells whether any file may be given tags or metadata.
    pub fn have_tags(&self) -> bool {
        self.0.iter().any(|rule| !rule.tags.is_empty())
    }

    /// Gives a file what its name matches.
    pub fn apply(&self, id: &FileId, options: &mut UploadOptions) {
        let mut kind = None;
        let mut tags = BTreeMap::new();
        for rule in self.0.iter().filter(|rule| rule.glob.matches(id.as_str())) {
            kind = kind.or(rule.content_type.as_ref());
            for (key, value) in &rule.tags {
                tags.entry(key).or_insert(value);
            }
        }
        if let Some(kind) = kind {
            options.content_type = Some(kind.clone());
        }
        options.tags.extend(tags.into_iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn given(pattern: &str, kind: Option<&str>, tags: &[(&str, &str)], metadata: &[(&str, &str)]) -> Given {
        Given {
            pattern: pattern.to_owned(),
            content_type: kind.map(str::to_owned),
            tags: map(tags),
            metadata: map(metadata),
        }
    }

    fn applied(rules: &Rules, id: &str, source: UploadOptions) -> (Option<String>, BTreeMap<String, String>) {
        let mut options = source;
        rules.apply(&FileId::parse(id).unwrap(), &mut options);
        (options.content_type, options.tags)
    }

    #[test]
    fn for_each_attribute_the_first_rule_decides_that_names_it() {
        let rules = Rules::new(&[
            given("/docs/*.md", Some("text/markdown"), &[], &[]),
            given("*.md", Some("text/plain"), &[("kind", "note"), ("team", "web")], &[]),
            given("**", None, &[("kind", "any"), ("origin", "disk")], &[("mtime", "0")]),
        ])
        .unwrap();
        let source = || {
            UploadOptions::default()
                .with_content_type("application/octet-stream")
                .with_tag("kind", "the source's")
                .with_tag("own", "kept")
        };
        let own = [("own", "kept"), ("x-amz-meta-mtime", "0"), ("origin", "disk")];
        let (kind, tags) = applied(&rules, "docs/a.md", source());
        assert_eq!(kind.as_deref(), Some("text/markdown"));
        assert_eq!(tags, map(&[&own[..], &[("kind", "note"), ("team", "web")]].concat()));
        let (kind, tags) = applied(&rules, "deep/b.md", source());
        assert_eq!(kind.as_deref(), Some("text/plain"));
        assert_eq!(tags["kind"], "note");
        let (kind, tags) = applied(&rules, "c.bin", source());
        assert_eq!(kind.as_deref(), Some("application/octet-stream"));
        assert_eq!(tags, map(&[&own[..], &[("kind", "any")]].concat()));
        let nothing = applied(&Rules::default(), "a", source());
        assert_eq!((nothing.0, nothing.1), (source().content_type, source().tags));
    }

    #[test]
    fn options_are_read_as_people_write_them() {
        let rule = Given::parse_content_type("*.txt=text/plain; charset=utf-8").unwrap();
        assert_eq!(
            (rule.pattern.as_str(), rule.content_type.as_deref()),
            ("*.txt", Some("text/plain; charset=utf-8"))
        );
        let rules = Rules::new(&[Given::parse_content_type(r"a\=b=text/x").unwrap()]).unwrap();
        assert_eq!(applied(&rules, "a=b", UploadOptions::default()).0.as_deref(), Some("text/x"));
        assert_eq!(Given::parse_tag("a=b=c").unwrap().tags, map(&[("a", "b=c")]));
        assert_eq!(Given::parse_metadata("mtime=7").unwrap().metadata, map(&[("mtime", "7")]));
    }

    #[test]
    fn what_could_not_be_stored_is_refused_at_once() {
        for (text, word) in [
            ("*.md", "PATTERN=TYPE"),
            ("*.md=", "no content type"),
            ("*.md=text", "no content type"),
            ("*.md=text/pl ain", "no content type"),
            ("*.md=text/plain\nX-Evil: 1", "no content type"),
            ("*.md=text/\u{e9}", "no content type"),
            ("[=text/plain", "pattern"),
            ("=text/plain", "pattern"),
        ] {
            let error = Given::parse_content_type(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        for text in ["a", "=b", "x-amz-meta-a=b"] {
            assert!(Given::parse_tag(text).is_err(), "{text}");
        }
        for text in ["a", "=b", "A=b", "a b=c", "sha256=0", "tag-a=b", "\u{e9}=b"] {
            assert!(Given::parse_metadata(text).is_err(), "{text}");
        }
        assert!(Rules::new(&[given("**", None, &[], &[])]).is_err());
    }

    /// P6: what a target would drop is refused before a byte moves.
    #[test]
    fn a_target_without_tags_is_given_none() {
        use storage_core::backend::memory::MemoryStorage;
        use storage_core::storage::FileStorage as _;
        let mut target = MemoryStorage::new().capabilities();
        let tags =
            Rules::new(&[Given::parse_content_type("*=a/b").unwrap(), Given::parse_tag("a=b").unwrap()])
                .unwrap();
        tags.check(&target).unwrap();
        target.tags = false;
        assert!(tags.check(&target).unwrap_err().to_string().contains("leave them out"));
        Rules::new(&[Given::parse_content_type("*=a/b").unwrap()]).unwrap().check(&target).unwrap();
    }

    /// What the library keeps in user metadata is told by what it writes.
    #[test]
    fn no_name_that_the_library_uses_can_be_given() {
        use storage_core::backend::s3::attributes::{Attributes, encode};
        let all = Attributes {
            file_name: Some("f".to_owned()),
            created: Some(std::time::UNIX_EPOCH),
            tags: map(&[("plain", "1"), ("Not Plain", "2")]),
            digest: Some(storage_core::checksum::Digest::of(b"")),
            part_size: Some(1),
        };
        let encoded = encode(&all);
        assert_eq!(encoded.len(), 6);
        for name in encoded.keys() {
            assert!(Given::parse_metadata(&format!("{name}=x")).is_err(), "{name}");
        }
    }
}
