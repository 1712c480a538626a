//! Who may import whom, in all crates of the workspace: imports run downward, in no circle, and name the module
//! that owns the item.
//!
//! The tables are the rule, `ARCHITECTURE.md` shows them as a picture. A new module needs a row; a row that has to
//! grow upward is a design to think about again. Code under `#[cfg(test)]` may look where it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module, with everything beneath it that has no row of its own, and what it may import: modules, or single
/// items by their whole path.
type Row = (&'static str, &'static [&'static str]);

const WAIST: &[&str] = &["body", "checksum", "error", "id", "metadata", "storage"];

const TWIN_SHA256: &[Row] = &[("block", &[])];

const STORAGE_CORE: &[Row] = &[
    ("error", &["id"]),
    ("id", &[]),
    ("checksum", &["error", "id"]),
    ("metadata", &["checksum", "id"]),
    ("body", &["checksum", "error", "metadata"]),
    ("storage", &["body", "checksum", "error", "id", "metadata"]),
    // Words and examples.
    ("guide", &[]),
    ("disposition", &[]),
    ("preparation", &["error", "metadata"]),
    ("presign", &["error", "id", "storage"]),
    ("backend", &[]),
    ("backend::local", &["preparation", "presign", "body", "checksum", "error", "id", "metadata", "storage"]),
    ("backend::memory", WAIST),
    ("backend::object_store", WAIST),
    ("backend::s3", &["disposition", "body", "checksum", "error", "id", "metadata", "storage"]),
    // Serves any storage; it knows none.
    ("http", &["disposition", "presign", "body", "checksum", "error", "id", "metadata", "storage"]),
    ("layer", WAIST),
    (
        "layer::cache",
        &["layer", "layer::metered::names", "body", "checksum", "error", "id", "metadata", "storage"],
    ),
    ("layer::breaker", &["error"]),
    (
        "layer::fallback",
        &[
            "layer",
            "layer::breaker",
            "layer::metered::names",
            "layer::queue",
            "layer::timeout",
            "body",
            "checksum",
            "error",
            "id",
            "metadata",
            "storage",
        ],
    ),
    (
        "layer::limit",
        &[
            "layer",
            "layer::metered::names",
            "layer::queue",
            "body",
            "checksum",
            "error",
            "id",
            "metadata",
            "storage",
        ],
    ),
    ("layer::metered", &["layer", "body", "checksum", "error", "id", "metadata", "storage"]),
    ("layer::metered::names", &[]),
    ("layer::queue", &[]),
    (
        "layer::retry",
        &["layer", "layer::metered::names", "body", "checksum", "error", "id", "metadata", "storage"],
    ),
    ("layer::timeout", &["layer", "layer::queue", "body", "checksum", "error", "id", "metadata", "storage"]),
    ("compat", WAIST),
    ("testkit", WAIST),
    (
        "stack",
        &[
            "backend::local",
            "backend::memory",
            "backend::s3",
            "layer::cache",
            "layer::fallback",
            "layer::limit",
            "layer::metered",
            "layer::retry",
            "layer::timeout",
            "error",
            "storage",
        ],
    ),
];

const S3_SERVER: &[Row] = &[
    ("error", &[]),
    ("etag", &[]),
    ("hook", &[]),
    ("checksum", &[]),
    ("attributes", &["error"]),
    ("condition", &["error", "etag"]),
    ("keys", &["error"]),
    ("refuse", &["error"]),
    ("part_tag", &["checksum", "error", "etag"]),
    ("upload_id", &["error"]),
    ("listing", &["error", "keys"]),
    ("config", &["hook"]),
    ("receive", &["checksum", "config", "error"]),
    (
        "gateway",
        &[
            "attributes",
            "checksum",
            "condition",
            "config",
            "error",
            "etag",
            "keys",
            "listing",
            "part_tag",
            "receive",
            "refuse",
            "upload_id",
        ],
    ),
    ("http", &["checksum", "error", "hook", "receive"]),
    ("server", &["config", "gateway", "http"]),
];

const MIGRATOR: &[Row] = &[
    ("item", &[]),
    ("quantity", &[]),
    ("course", &[]),
    ("subset", &[]),
    ("ledger", &["course", "item", "subset"]),
    ("ledger::conformance", &["course", "item", "ledger", "subset"]),
    ("ledger::sqlite", &["course", "item", "ledger", "subset"]),
    ("ledger::postgres", &["course", "item", "ledger", "subset"]),
    ("collide", &[]),
    ("quarantine", &["ledger"]),
    ("safeguard", &["ledger"]),
    ("filter", &["filter::glob", "subset"]),
    ("filter::glob", &[]),
    ("rules", &["filter::glob"]),
    ("order", &[]),
    ("scan", &["filter", "quarantine"]),
    ("plan", &["collide", "item", "ledger", "scan"]),
    // What happens is told in the words of the book: outcomes, kinds of run.
    ("progress", &["course", "ledger"]),
    // A layer of the program's own, over whatever is in a directory.
    ("preserve", &[]),
    // A directory's symbolic links have a version where they are kept as files.
    ("retire", &["preserve", "quarantine"]),
    ("throttle", &["quantity"]),
    ("lanes", &[]),
    // Siblings: neither knows the other, nor the ledger.
    ("transfer", &["lanes", "preserve", "progress", "rules", "throttle"]),
    ("verify", &["progress", "throttle"]),
    (
        "engine",
        &[
            "collide",
            "course",
            "filter",
            "item",
            "lanes",
            "ledger",
            "metrics::names",
            "order",
            "plan",
            "preserve",
            "progress",
            "quarantine",
            "retire",
            "rules",
            "safeguard",
            "scan",
            "throttle",
            "transfer",
            "verify",
        ],
    ),
    ("metrics", &["metrics::names", "progress"]),
    ("metrics::names", &[]),
    ("report", &["course", "item", "ledger", "quantity", "quarantine"]),
    ("config", &["daemon::schedule", "quantity", "rules", "throttle"]),
    ("failure", &["config", "engine", "filter", "ledger", "report"]),
    // What a run is, it does not know: that is composed by the command line.
    (
        "daemon",
        &["daemon::schedule", "failure", "item", "ledger", "metrics", "metrics::names", "progress", "report"],
    ),
    ("daemon::schedule", &["quantity"]),
    ("web", &["daemon", "failure", "item", "ledger", "metrics", "metrics::names", "report"]),
    (
        "cli",
        &[
            "collide",
            "config",
            "course",
            "daemon",
            "daemon::schedule",
            "engine",
            "failure",
            "filter",
            "item",
            "ledger",
            "ledger::postgres",
            "ledger::sqlite",
            "metrics",
            "order",
            "plan",
            "preserve",
            "progress",
            "quantity",
            "report",
            "retire",
            "rules",
            "safeguard",
            "scan",
            "subset",
            "throttle",
            "transfer",
            "verify",
            "web",
        ],
    ),
];

struct Krate {
    name: &'static str,
    rows: &'static [Row],
    /// Who may name concrete storages and layers, and which. Everyone else sees the trait.
    composes: &'static [(&'static str, &'static str)],
}

const CRATES: &[Krate] = &[
    Krate { name: "storage-core", rows: STORAGE_CORE, composes: &[] },
    // Both ends of the protocol write attributes alike.
    Krate {
        name: "s3-server",
        rows: S3_SERVER,
        composes: &[("attributes", "storage_core::backend::s3::attributes")],
    },
    Krate { name: "twin-sha256", rows: TWIN_SHA256, composes: &[] },
    Krate {
        name: "migrator",
        rows: MIGRATOR,
        // Metrics of layers are described beside the program's own.
        composes: &[("cli", "storage_core::"), ("metrics", "storage_core::layer::metered::names")],
    },
];

/// Blanks out comments, strings and characters, so that what is left is code.
fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let (mut out, mut at) = (String::with_capacity(source.len()), 0);
    let rest = |at: usize| &source[at..];
    while at < bytes.len() {
        let skip = if rest(at).starts_with("//") {
            rest(at).find('\n').unwrap_or(bytes.len() - at)
        } else if rest(at).starts_with("/*") {
            rest(at).find("*/").map_or(bytes.len() - at, |end| end + 2)
        } else if rest(at).starts_with("r\"") || rest(at).starts_with("r#") && raw_hashes(rest(at)) > 0 {
            let hashes = raw_hashes(rest(at));
            let close = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest(at + open).find(&close).map_or(bytes.len() - at, |end| open + end + close.len())
        } else if bytes[at] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end + 1 - at
        } else if rest(at).starts_with("'\"'") || rest(at).starts_with("b'\"'") {
            3 + usize::from(bytes[at] == b'b')
        } else {
            0
        };
        if skip > 0 {
            let end = (at + skip).min(bytes.len());
            out.extend(rest(at)[..end - at].chars().filter(|character| *character == '\n'));
            out.push(' ');
            at = end;
        } else {
            let character = rest(at).chars().next().expect("within the text");
            out.push(character);
            at += character.len_utf8();
        }
    }
    out
}

/// Counts the `#` of a raw string that begins here; 0 where it is none (`r#type`).
fn raw_hashes(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    if text[1 + hashes..].starts_with('"') { hashes } else { 0 }
}

/// Leaves out macros, whose paths are those of the place where they are used.
fn without_macros(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("macro_rules!") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        rest = rest.find("\n}").map_or("", |end| &rest[end + 2..]);
    }
    out + rest
}

/// Leaves out test modules: they are the last thing in their file.
fn without_tests(code: &str) -> &str {
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let rest = code[from + found + "#[cfg(test)]".len()..].trim_start();
        if rest.starts_with("mod ") && rest.find('{') < rest.find(';') {
            return &code[..from + found];
        }
        from += found + 1;
    }
    code
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Reads the paths of a use tree or an expression that begins behind `crate::` or `super::`.
fn paths(text: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let skip = rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        at += skip;
        if let Some(inner) = rest.strip_prefix('{') {
            at += 1;
            let mut inner = inner;
            loop {
                let used = paths(inner, &path, found);
                at += used;
                inner = &inner[used..];
                let closed = inner.starts_with('}');
                at += 1;
                inner = inner.get(1..).unwrap_or("");
                if closed || inner.is_empty() {
                    return at;
                }
            }
        }
        let word: String = rest.chars().take_while(|character| is_word(*character)).collect();
        if word.is_empty() {
            if rest.starts_with('*') {
                at += 1;
            }
            // A trailing comma in braces names nothing.
            if path.len() > before.len() || rest.starts_with('*') {
                found.push(path);
            }
        } else {
            at += word.len();
            let macro_call = text[at..].starts_with('!') && !text[at..].starts_with("!=");
            if macro_call {
                return at;
            }
            path.push(word);
            if text[at..].starts_with("::") && !text[at + 2..].starts_with('<') {
                at += 2;
                continue;
            }
            found.push(path);
        }
        // `as name`, generics and the rest of an expression are nobody's path.
        let end = text[at..].find([',', '}', ';', '{', '(', '<', '\n']).map_or(text.len(), |end| at + end);
        return if before.is_empty() { at } else { end };
    }
}

/// Returns the whole paths within the crate that the code of `module` names.
fn imports(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        if !code[..start].ends_with(|before: char| is_word(before)) {
            let mut named = Vec::new();
            paths(&code[start + "crate::".len()..], &[], &mut named);
            found.append(&mut named);
        }
    }
    let mut at = 0;
    while let Some(start) = code[at..].find("super::") {
        let start = at + start;
        let (mut end, mut base) = (start, module.to_vec());
        while code[end..].starts_with("super::") {
            end += "super::".len();
            base.pop();
        }
        let mut named = Vec::new();
        paths(&code[end..], &[], &mut named);
        found.extend(named.into_iter().map(|path| [base.clone(), path].concat()));
        at = end;
    }
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the row that a path belongs to: the longest that it begins with.
fn row_of<'a>(rows: &'a [Row], path: &[String]) -> Option<&'a Row> {
    rows.iter()
        .filter(|(name, _)| {
            let mut segments = path.iter();
            name.split("::").all(|segment| segments.next().is_some_and(|own| own == segment))
        })
        .max_by_key(|(name, _)| name.len())
}

/// Checks a crate's sources, given as module path and text, and returns what is wrong.
fn violations(krate: &Krate, sources: &[(Vec<String>, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, source) in sources {
        let code = without_macros(&code_of(source));
        let code = without_tests(&code);
        let shown = module.join("::");
        let Some((unit, allowed)) = row_of(krate.rows, module) else {
            wrong.push(format!("{shown} has no row in the table of {}", krate.name));
            continue;
        };
        for path in imports(code, module) {
            let whole = path.join("::");
            let Some((target, _)) = row_of(krate.rows, &path) else {
                wrong.push(format!("{shown} imports {whole} through the root of the crate"));
                continue;
            };
            if target == unit || target.starts_with(&format!("{unit}::")) && allowed.contains(target) {
                continue;
            }
            if !allowed.contains(target) && !allowed.iter().any(|item| whole == *item) {
                wrong.push(format!("{shown} must not import {whole}"));
            }
            edges.entry(unit).or_default().insert(target);
        }
        for part in ["backend", "layer", "stack"] {
            for (at, _) in code.match_indices(&format!("storage_core::{part}")) {
                let may = |(who, what): &(&str, &str)| who == unit && code[at..].starts_with(what);
                if !krate.composes.iter().any(may) {
                    wrong.push(format!(
                        "{shown} names storage_core::{part}, which is for the composition root"
                    ));
                }
            }
        }
    }
    wrong.extend(circle(&edges));
    wrong
}

/// Finds a circle by taking away what imports nothing that is left.
fn circle(edges: &BTreeMap<&str, BTreeSet<&str>>) -> Option<String> {
    let mut left = edges.clone();
    loop {
        let done: Vec<&str> = left
            .iter()
            .filter(|(_, targets)| !targets.iter().any(|target| left.contains_key(target)))
            .map(|(unit, _)| *unit)
            .collect();
        if done.is_empty() {
            let names: Vec<_> = left.keys().copied().collect();
            return (!names.is_empty()).then(|| format!("a circle among {}", names.join(", ")));
        }
        done.iter().for_each(|unit| {
            left.remove(unit);
        });
    }
}

fn sources(krate: &Krate) -> Vec<(Vec<String>, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate.name).join("src");
    let mut all = Vec::new();
    for file in files(&source) {
        let path = file.strip_prefix(&source).expect("beneath the folder").with_extension("");
        let module: Vec<String> =
            path.iter().map(|segment| segment.to_str().expect("UTF-8").to_owned()).collect();
        let is_root = module == ["lib"] || module == ["main"];
        if is_root || module.iter().any(|segment| segment == "tests") {
            continue;
        }
        all.push((module, fs::read_to_string(&file).expect("a source file")));
    }
    assert!(!all.is_empty(), "no sources in {}", source.display());
    all
}

#[test]
fn imports_run_downward_in_every_crate() {
    for krate in CRATES {
        let wrong = violations(krate, &sources(krate));
        assert!(wrong.is_empty(), "{}:\n{}", krate.name, wrong.join("\n"));
    }
}

/// A table with a circle would allow one.
#[test]
fn the_tables_themselves_have_no_circle() {
    for krate in CRATES {
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (unit, allowed) in krate.rows {
            for item in *allowed {
                let path: Vec<String> = item.split("::").map(str::to_owned).collect();
                let (target, _) = row_of(krate.rows, &path).unwrap_or_else(|| panic!("{item} has no row"));
                edges.entry(unit).or_default().insert(target);
            }
        }
        assert_eq!(circle(&edges), None, "{}", krate.name);
    }
}

/// The root of the library is its table of contents.
#[test]
fn the_root_defines_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let code = code_of(&fs::read_to_string(root).unwrap());
    for word in ["fn", "struct", "enum", "trait", "impl", "const", "static", "type", "macro_rules", "union"] {
        let defines = code.split(|character| !is_word(character)).any(|own| own == word);
        assert!(!defines, "lib.rs defines something: {word}");
    }
}

/// Each rule, broken on purpose, is seen; and what only looks like an import is not.
#[test]
fn a_planted_violation_is_found() {
    let planted = |module: &str, text: &str| {
        let mut all = sources(&CRATES[0]);
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        all.push((module, text.to_owned()));
        violations(&CRATES[0], &all)
    };
    for (module, text, due) in [
        ("error::x", "use crate::storage::FileStorage;", "error::x must not import crate::storage"),
        ("backend::memory::x", "use crate::layer::retry;", "must not import layer::retry"),
        ("backend::memory::x", "use crate::{error::Error, backend::local::LocalStorage};", "backend::local"),
        ("layer::limit::x", "fn f() { crate::backend::memory::MemoryStorage::new(); }", "backend::memory"),
        ("layer::limit", "use super::retry::RetryStorage;", "must not import layer::retry"),
        ("layer::limit::x", "use super::super::super::stack;", "must not import stack"),
        ("storage::x", "use crate::{FileId, error::Error};", "imports FileId through the root"),
        ("storage::x", "use crate::FileId;", "imports FileId through the root"),
        ("novelty", "use crate::error::Error;", "has no row"),
        ("id", "use crate::checksum::Digest;", "a circle among"),
    ] {
        let wrong = planted(module, text);
        let due = due.replace("crate::", "");
        assert!(wrong.iter().any(|line| line.contains(&due)), "{module}: {text}\n{wrong:?}");
    }
    for (module, text) in [
        ("error::x", "// use crate::storage::FileStorage;\n/* crate::stack */"),
        ("error::x", "fn f() { let _ = \"crate::stack::build\"; }"),
        ("error::x", "#[cfg(test)]\nmod tests {\n use crate::storage::FileStorage;\n}"),
        ("storage::x", "use crate::{\n    error::{Error, Op},\n    id::FileId,\n};"),
        ("layer::limit::x", "use super::super::parts_of;"),
    ] {
        assert_eq!(planted(module, text), [""; 0], "{text}");
    }
}
