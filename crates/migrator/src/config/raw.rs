//! From TOML to [`Config`]: every value with its line, every key asked for by name, the rest refused.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use storage_core::id::FileId;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::sse::{KeySource, Sse};
use crate::config::{
    Config, ConfigError, S3, Settings, Storage, check_concurrency, check_endpoint, check_part_size,
    is_storage_name,
};
use crate::quantity::parse_size;
use crate::rules::{Given, Rules};

mod jobs;

const TOP: [&str; 9] =
    ["concurrency", "part_size", "bandwidth", "include", "exclude", "rules", "storage", "daemon", "job"];
const RULE: [&str; 4] = ["match", "content_type", "tags", "metadata"];
const LOCAL: [&str; 3] = ["kind", "path", "durability"];
const S3_KEYS: [&str; 11] = [
    "kind",
    "bucket",
    "prefix",
    "endpoints",
    "region",
    "profile",
    "path_style",
    "storage_class",
    "sse",
    "customer_key",
    "customer_key_over_http",
];
const KINDS: [&str; 2] = ["local", "s3"];

/// Words in keys of other tools that hold a secret.
const SECRETS: [&str; 5] = ["secret", "access_key", "password", "token", "credential"];

type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let file = File { text, path };
    let root = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        file.wrong(span, error.message().lines().next().unwrap_or("is no TOML").to_owned())
    })?;
    let table = Table { file, table: root.get_ref(), span: 0..0, name: String::new() };
    table.only(&TOP)?;
    let settings = Settings {
        concurrency: table.checked("concurrency", |value| {
            let number =
                value.as_integer().and_then(|integer| integer.as_str().replace('_', "").parse().ok());
            check_concurrency(number.ok_or("expected a whole number")?)
        })?,
        part_size: table.checked("part_size", |value| {
            let text = value.as_str().ok_or("expected a size in quotes, as in \"16MiB\"")?;
            check_part_size(parse_size(text).map_err(|error| error.to_string())?)
        })?,
        bandwidth: table.checked("bandwidth", |value| {
            value.as_str().ok_or("expected a rate in quotes, as in \"10MiB/s\"")?.parse()
        })?,
        include: table.texts("include")?,
        exclude: table.texts("exclude")?,
        rules: rules(&table)?,
    };
    let mut storages = BTreeMap::new();
    if let Some(section) = table.table("storage")? {
        for (key, value) in section.table {
            let name: &str = key.get_ref();
            if !is_storage_name(name) {
                let message = format!("a storage's name has letters, digits, `_` and `-` only, not {name:?}");
                return Err(file.wrong(key.span(), message));
            }
            let entry = section.below(name, key.span(), value)?;
            storages.insert(name.to_owned(), storage(&entry)?);
        }
    }
    Ok(Config {
        path: Some(path.to_owned()),
        settings,
        storages,
        daemon: jobs::daemon(&table)?,
        jobs: jobs::jobs(&table)?,
    })
}

fn rules(root: &Table<'_, '_>) -> Result<Vec<Given>, ConfigError> {
    let Some(value) = root.get("rules") else { return Ok(Vec::new()) };
    let array = value
        .get_ref()
        .as_array()
        .ok_or_else(|| root.wrong("rules", "expected sections [[rules]], each with its own `match`"))?;
    let rule = |value| {
        let table = root.below("rules", Spanned::span(value), value)?;
        table.only(&RULE)?;
        let given = Given {
            pattern: table.required("match")?,
            content_type: table.text("content_type")?,
            tags: table.words("tags")?,
            metadata: table.words("metadata")?,
        };
        Rules::new(std::slice::from_ref(&given))
            .map_err(|error| table.file.wrong(table.span.clone(), error.to_string()))?;
        Ok(given)
    };
    array.iter().map(rule).collect()
}

fn storage(table: &Table<'_, '_>) -> Result<Storage, ConfigError> {
    match table.required("kind")?.as_str() {
        "local" => {
            table.only(&LOCAL)?;
            let path = PathBuf::from(table.required("path")?);
            let base = table.file.path.parent().unwrap_or(Path::new(""));
            let relaxed = table.checked("durability", |value| match value.as_str() {
                Some("durable") => Ok(false),
                Some("relaxed") => Ok(true),
                _ => Err("expected \"durable\" or \"relaxed\"".to_owned()),
            })?;
            Ok(Storage::Local { path: base.join(path), relaxed: relaxed.unwrap_or(false) })
        }
        "s3" => {
            table.only(&S3_KEYS)?;
            let prefix = table.checked("prefix", |value| {
                let text = value.as_str().ok_or("expected a text in quotes")?;
                let text = text.strip_suffix('/').unwrap_or(text);
                match text {
                    "" => Ok(String::new()),
                    _ => FileId::parse(text).map(|id| id.to_string()).map_err(|error| error.to_string()),
                }
            })?;
            let endpoints = table.texts("endpoints")?;
            for endpoint in &endpoints {
                check_endpoint(endpoint).map_err(|message| {
                    table.wrong("endpoints", message).with_hint(
                        "credentials come from the AWS environment variables or the storage's `profile`",
                    )
                })?;
            }
            let (sse, customer_key_over_http) = sse(table)?;
            Ok(Storage::S3(S3 {
                bucket: table.required("bucket")?,
                prefix: prefix.unwrap_or_default(),
                endpoints,
                region: table.text("region")?,
                profile: table.text("profile")?,
                path_style: table.checked("path_style", |value| {
                    value.as_bool().ok_or("expected true or false".to_owned())
                })?,
                storage_class: table.text("storage_class")?,
                sse,
                customer_key_over_http,
            }))
        }
        other => {
            let error = table.wrong("kind", format!("{other:?} is no kind of storage"));
            Err(match nearest(other, &KINDS) {
                Some(kind) => error.with_hint(format!("did you mean {kind:?}?")),
                None => error.with_hint("the kinds are \"local\" and \"s3\""),
            })
        }
    }
}

/// Reads who encrypts, and whether a key may go without TLS.
fn sse(table: &Table<'_, '_>) -> Result<(Option<Sse>, bool), ConfigError> {
    let sse = table.checked("sse", |value| value.as_str().unwrap_or_default().parse::<Sse>())?;
    let key =
        table.checked("customer_key", |value| value.as_str().unwrap_or_default().parse::<KeySource>())?;
    if sse.is_some() && key.is_some() {
        return Err(table
            .wrong("customer_key", "stands beside sse, which is another key")
            .with_hint("leave out one"));
    }
    let base = table.file.path.parent().unwrap_or(Path::new(""));
    let over_http = table.checked("customer_key_over_http", |value| {
        value.as_bool().ok_or("expected true or false".to_owned())
    })?;
    let customer = key.map(|key| Sse::Customer(key.beneath(base)));
    Ok((sse.or(customer), over_http.unwrap_or(false)))
}

/// Returns the known word that `word` most likely was to be.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(word, known), *known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

impl ConfigError {
    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[derive(Clone, Copy)]
struct File<'a> {
    text: &'a str,
    path: &'a Path,
}

impl File<'_> {
    fn wrong(self, span: Range<usize>, message: String) -> ConfigError {
        ConfigError { path: self.path.to_owned(), line: Some(self.line(span.start)), message, hint: None }
    }

    fn line(self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

struct Table<'a, 'i> {
    file: File<'a>,
    table: &'a DeTable<'i>,
    span: Range<usize>,
    /// Dotted, for messages; empty for the whole file.
    name: String,
}

impl<'a, 'i> Table<'a, 'i> {
    /// Refuses keys that are not `known`.
    fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        let Some(key) = self.table.keys().find(|key| !known.contains(&&**key.get_ref())) else {
            return Ok(());
        };
        let name: &str = key.get_ref();
        let place = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
        let error = self.file.wrong(key.span(), format!("unknown key {name:?}{place}"));
        let lower = name.to_ascii_lowercase().replace('-', "_");
        Err(if SECRETS.iter().any(|secret| lower.contains(secret)) {
            error.with_hint(
                "this file takes no secrets: credentials come from the AWS environment variables or a `profile`",
            )
        } else if let Some(known) = nearest(&lower, known) {
            error.with_hint(format!("did you mean {known:?}?"))
        } else {
            error.with_hint(format!("known here: {}", known.join(", ")))
        })
    }

    fn get(&self, key: &str) -> Option<Value<'a, 'i>> {
        self.table.get(key)
    }

    fn wrong(&self, key: &str, message: impl std::fmt::Display) -> ConfigError {
        let span = self.get(key).map_or(self.span.clone(), Spanned::span);
        // Several jobs may have the same key.
        let job = if self.name.starts_with("job.") { format!("[{}] ", self.name) } else { String::new() };
        self.file.wrong(span, format!("{job}{key}: {message}"))
    }

    fn checked<T>(
        &self,
        key: &str,
        check: impl FnOnce(&DeValue<'i>) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        check(value.get_ref()).map(Some).map_err(|message| self.wrong(key, message))
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.checked(key, |value| {
            value.as_str().map(str::to_owned).ok_or_else(|| "expected a text in quotes".to_owned())
        })
    }

    fn required(&self, key: &str) -> Result<String, ConfigError> {
        match self.text(key)? {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => Err(self.wrong(key, "must not be empty")),
            None => Err(self.file.wrong(self.span.clone(), format!("[{}] has no key {key:?}", self.name))),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let texts = self.checked(key, |value| {
            value
                .as_array()
                .and_then(|array| {
                    array.iter().map(|value| value.get_ref().as_str().map(str::to_owned)).collect()
                })
                .ok_or_else(|| "expected a list of texts, as in [\"a\", \"b\"]".to_owned())
        })?;
        Ok(texts.unwrap_or_default())
    }

    fn words(&self, key: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(table) = self.table(key)? else { return Ok(BTreeMap::new()) };
        let pairs = table.table.iter().map(|(name, value)| {
            let text = value.get_ref().as_str().map(str::to_owned);
            let text = text.ok_or_else(|| table.wrong(name.get_ref(), "expected a text in quotes"))?;
            Ok((name.get_ref().to_string(), text))
        });
        pairs.collect()
    }

    fn table(&self, key: &str) -> Result<Option<Table<'a, 'i>>, ConfigError> {
        self.get(key).map(|value| self.below(key, value.span(), value)).transpose()
    }

    fn below(
        &self,
        key: &str,
        span: Range<usize>,
        value: Value<'a, 'i>,
    ) -> Result<Table<'a, 'i>, ConfigError> {
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        match value.get_ref().as_table() {
            Some(table) => Ok(Table { file: self.file, table, span, name }),
            None => Err(self.file.wrong(span, format!("{key}: expected a section [{name}]"))),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Parses a configuration file that lies where packages have it.
    pub(in crate::config) fn parsed(text: &str) -> Result<Config, ConfigError> {
        parse(text, Path::new("/etc/migrator/config.toml"))
    }

    /// Returns the refusal of a configuration file, and its hint.
    pub(in crate::config) fn refused(text: &str) -> String {
        let error = parsed(text).unwrap_err();
        format!("{error} | {}", error.hint.as_deref().unwrap_or_default())
    }

    /// Returns the configuration file that the head of a source file shows.
    pub(in crate::config) fn documented(source: &str) -> String {
        source
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect()
    }

    #[test]
    fn reads_what_the_documentation_shows() {
        let config = parsed(&documented(include_str!("../config.rs"))).unwrap();
        assert_eq!(config.settings.concurrency.unwrap().get(), 16);
        assert_eq!(config.settings.part_size.unwrap().get(), 32 << 20);
        assert_eq!(config.settings.bandwidth, Some("50MiB/s".parse().unwrap()));
        assert_eq!(config.settings.exclude, ["*.tmp"]);
        assert_eq!(config.settings.rules.len(), 1);
        assert_eq!(config.settings.rules[0].metadata["team"], "web");
        assert_eq!(config.storages["files"], Storage::Local { path: "/srv/files".into(), relaxed: false });
        let Storage::S3(s3) = &config.storages["minio"] else { panic!("{config:?}") };
        assert_eq!((s3.bucket.as_str(), s3.prefix.as_str()), ("files", "tenant-1"));
        assert_eq!(s3.endpoints.len(), 2);
        assert_eq!(s3.path_style, Some(true));
        assert_eq!(s3.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!(s3.sse, Some(Sse::Kms(Some("alias/files".into()))));
        let Storage::S3(vault) = &config.storages["vault"] else { panic!("{config:?}") };
        assert_eq!(vault.sse, Some(Sse::Customer(KeySource::File("/etc/migrator/vault.key".into()))));
    }

    #[test]
    fn a_storage_has_one_key_and_the_refusal_does_not_show_it() {
        let bucket = "[storage.a]\nkind = \"s3\"\nbucket = \"b\"\n";
        assert!(refused(&format!("{bucket}sse = \"s3\"\ncustomer_key = \"k\"")).contains("another key"));
        let refusal = refused(&format!("{bucket}sse = \"hunter2\""));
        assert!(refusal.contains(":4: sse: expected s3, kms") && !refusal.contains("hunter2"), "{refusal}");
        assert!(refused(&format!("{bucket}customer_key = 7")).contains("expected a file"));
    }

    #[test]
    fn a_misspelt_key_is_refused_with_its_line_and_the_nearest_known_one() {
        assert_eq!(
            refused("concurrency = 2\n\nexlude = []\n"),
            "/etc/migrator/config.toml:3: unknown key \"exlude\" | did you mean \"exclude\"?"
        );
        assert_eq!(
            refused("[storage.a]\nkind = \"s3\"\nbuckt = \"b\"\n"),
            "/etc/migrator/config.toml:3: unknown key \"buckt\" in [storage.a] | did you mean \"bucket\"?"
        );
        assert!(refused("part-size = \"16MiB\"").contains("did you mean \"part_size\"?"));
        assert!(refused("[storage.a]\nkind = \"S3\"").contains("the kinds are"));
    }

    #[test]
    fn a_secret_in_the_file_is_refused_without_showing_it() {
        let refusal =
            refused("[storage.a]\nkind = \"s3\"\nbucket = \"b\"\nsecret_access_key = \"hunter2\"\n");
        assert!(refusal.contains("takes no secrets") && !refusal.contains("hunter2"), "{refusal}");
        let refusal =
            refused("[storage.a]\nkind = \"s3\"\nbucket = \"b\"\nendpoints = [\"http://k:hunter2@h\"]\n");
        assert!(refusal.contains(":4: endpoints:") && !refusal.contains("hunter2"), "{refusal}");
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_its_line() {
        for (text, message) in [
            ("\nconcurrency = 0", ":2: concurrency: 0 is not between 1 and 256"),
            ("concurrency = \"8\"", ":1: concurrency: expected a whole number"),
            ("part_size = \"1MiB\"", "not between 5 MiB and 5 GiB"),
            ("bandwidth = \"0\"", "would never end"),
            ("bandwidth = \"8:00,1M 8:00,2M\"", ":1: bandwidth: two entries"),
            ("include = \"*.txt\"", "expected a list"),
            ("[storage.\"a b\"]\nkind = \"local\"", "letters, digits"),
            ("[storage.a]\nkind = \"local\"", "[storage.a] has no key \"path\""),
            ("[storage.a]\npath = \"/x\"", "[storage.a] has no key \"kind\""),
            ("storage = 3", "expected a section"),
            ("[rules]\nmatch = \"*\"", "expected sections [[rules]]"),
            ("\n[[rules]]\ncontent_type = \"a/b\"", ":2: [rules] has no key \"match\""),
            ("\n[[rules]]\nmatch = \"*\"", ":2: the rule for \"*\" gives nothing"),
            ("[[rules]]\nmatch = \"*\"\ntags = { a = 7 }", ":3: a: expected a text"),
            ("[[rules]]\nmatch = \"*\"\nmetadata = { sha256 = \"0\" }", "holds what a file came with"),
            ("[storage.a]\nkind = \"s3\"\nbucket = \"b\"\nprefix = \"/p\"", ":4: prefix: an id must not"),
            ("a = = b", "/etc/migrator/config.toml:1: "),
        ] {
            let refusal = refused(text);
            assert!(refusal.contains(message), "{text}: {refusal}");
        }
    }

    #[test]
    fn relative_paths_start_at_the_file() {
        let config = parsed("[storage.a]\nkind = \"local\"\npath = \"data\"").unwrap();
        let path = "/etc/migrator/data".into();
        assert_eq!(config.storages["a"], Storage::Local { path, relaxed: false });
    }
}
