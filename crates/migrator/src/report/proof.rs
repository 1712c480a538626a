//! A proof of a run: one line per file, each chained to the one before by SHA-256. `docs/proof.md` has the format.
//!
//! A line is a JSON object without blanks whose last member is `hash`: the SHA-256 of the hash of the line before (64
//! zeros before the first) and of the line itself up to `,"hash"`. Whoever changes, adds, drops or moves a line has to
//! make every later hash anew; the last one, the *head*, is named by the proof of the next run and can be kept
//! anywhere.

use std::io::{self, BufRead, Read as _, Write};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage_core::checksum::{Digest, Hasher};
use storage_core::storage::Verified;

use crate::ledger::{Count, RunEnd, RunId, RunKind};
use crate::report::Report;
use crate::report::rows::Row;

/// Version of the format.
pub const VERSION: u32 = 1;

/// Longest line that is read: a name has at most 1,024 bytes, of which JSON makes six times as many.
const LONGEST: u64 = 64 << 10;

/// What stands between a line and its hash.
const SEAL: &str = ",\"hash\":\"";

/// The first line: what is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    v: u32,
    line: HeaderWord,
    /// Number of the run in its ledger.
    pub run: RunId,
    /// What it did.
    pub kind: RunKind,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How it ended.
    pub end: Option<RunEnd>,
    /// Whether the source was seen as a whole.
    pub scan_complete: bool,
    /// The source.
    pub source: String,
    /// The target.
    pub target: String,
    /// Version of the program.
    pub program: String,
    /// Head of the proof before it.
    pub previous: Option<Digest>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLine {
    line: FileWord,
    n: u64,
    id: String,
    size: Option<u64>,
    sha256: Option<Digest>,
    outcome: String,
    verified: Option<Verified>,
    by: Option<By>,
    run: RunId,
    at: Timestamp,
}

/// The last line: what it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    line: FooterWord,
    entries: Count,
    verified: Count,
    last: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeaderWord {
    Header,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileWord {
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FooterWord {
    Footer,
}

/// Who compared the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Target,
    Migrator,
}

/// A proof that is being written.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    chain: String,
    entries: Count,
    verified: Count,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(out: W, report: &Report, previous: Option<Digest>) -> io::Result<Self> {
        let run = &report.run;
        let mut writer = Self { out, chain: start(), entries: Count::default(), verified: Count::default() };
        writer.line(&Header {
            v: VERSION,
            line: HeaderWord::Header,
            run: run.id,
            kind: run.kind,
            started: run.started,
            finished: run.finished,
            end: run.end,
            scan_complete: run.scan_complete,
            source: report.pair.source.clone(),
            target: report.pair.target.clone(),
            program: run.program.clone(),
            previous,
        })?;
        Ok(writer)
    }

    /// Writes the line of a file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn file(&mut self, row: &Row) -> io::Result<()> {
        let verified = row.verified.filter(|verified| *verified != Verified::No && row.fate.is_good());
        let size = row.size.unwrap_or(0);
        self.entries.add(size);
        if verified.is_some() {
            self.verified.add(size);
        }
        self.line(&FileLine {
            line: FileWord::File,
            n: self.entries.files,
            id: row.subject.clone(),
            size: row.size,
            sha256: row.digest,
            outcome: row.fate.as_str().to_owned(),
            verified,
            by: by(verified),
            run: row.run,
            at: row.at,
        })
    }

    /// Writes the footer; returns the head, and where it was written to.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> io::Result<(Digest, W)> {
        let last = parse_hash(&self.chain).ok_or_else(|| io::Error::other("a hash that is none"))?;
        let footer =
            Footer { line: FooterWord::Footer, entries: self.entries, verified: self.verified, last };
        self.line(&footer)?;
        let head = parse_hash(&self.chain).ok_or_else(|| io::Error::other("a hash that is none"))?;
        Ok((head, self.out))
    }

    fn line<T: Serialize>(&mut self, line: &T) -> io::Result<()> {
        let body = body(line)?;
        self.chain = link(&self.chain, &body).to_string();
        writeln!(self.out, "{body}{SEAL}{}\"}}", self.chain)
    }
}

const fn by(verified: Option<Verified>) -> Option<By> {
    match verified {
        Some(Verified::Backend) => Some(By::Target),
        Some(Verified::ReadBack) => Some(By::Migrator),
        Some(Verified::No) | None => None,
    }
}

fn start() -> String {
    "0".repeat(64)
}

/// Writes a line without its end, which its hash comes before.
fn body<T: Serialize>(line: &T) -> io::Result<String> {
    let mut text = serde_json::to_string(line)?;
    text.pop();
    Ok(text)
}

fn link(before: &str, body: &str) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(before.as_bytes());
    hasher.update(body.as_bytes());
    hasher.finish()
}

/// Reads a hash as it is written: 64 lower-case hexadecimal digits.
pub fn parse_hash(text: &str) -> Option<Digest> {
    let lower = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.parse().ok().filter(|_| lower)
}

/// A proof that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What it is of.
    #[serde(flatten)]
    pub header: Header,
    /// Number and bytes of its entries.
    pub entries: Count,
    /// Number and bytes of those whose stored bytes were compared.
    pub compared: Count,
    /// Hash of its last line.
    pub head: Digest,
}

/// Why a proof does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line is not what it must be; it is the first.
    #[error("line {line} is broken: {why}")]
    Broken {
        /// From 1.
        line: u64,
        /// In words.
        why: String,
    },
}

/// Reads a proof and checks every line. Holds one line at a time.
///
/// # Errors
/// The first line that is broken, or that it cannot be read.
pub fn check(mut input: impl BufRead) -> Result<Checked, ProofError> {
    let mut lines = Lines { chain: start(), number: 0 };
    let header: Header = lines.next(&mut input)?.map_or_else(|| lines.broken("the file is empty"), Ok)?;
    if header.v != VERSION {
        return lines.broken(&format!("it has version {}, this release knows version {VERSION}", header.v));
    }
    let (mut entries, mut verified, mut last_id) = (Count::default(), Count::default(), String::new());
    loop {
        let before = lines.chain.clone();
        let footer = match lines.next::<Tail>(&mut input)? {
            None => {
                lines.number += 1;
                return lines.broken("it is missing: the proof was cut off before its footer");
            }
            Some(Tail::File(file)) => {
                entries.files += 1;
                if file.n != entries.files {
                    return lines.broken(&format!("it is number {}, expected {}", file.n, entries.files));
                }
                if entries.files > 1 && file.id <= last_id {
                    return lines.broken("its name does not come after the one before");
                }
                if file.by != by(file.verified) || file.verified.is_some() && file.sha256.is_none() {
                    return lines.broken("it contradicts itself");
                }
                let size = file.size.unwrap_or(0);
                entries.bytes = entries.bytes.saturating_add(size);
                if file.verified.is_some() {
                    verified.files += 1;
                    verified.bytes = verified.bytes.saturating_add(size);
                }
                last_id = file.id;
                continue;
            }
            Some(Tail::Footer(footer)) => footer,
        };
        if footer.entries != entries || footer.verified != verified || footer.last.to_string() != before {
            return lines.broken("the totals of the footer are not those of the lines");
        }
        let head = lines.chain.clone();
        let mut rest = [0];
        if input.read(&mut rest)? > 0 {
            lines.number += 1;
            return lines.broken("nothing may follow the footer");
        }
        let head = parse_hash(&head).map_or_else(|| lines.broken("its hash is none"), Ok)?;
        return Ok(Checked { header, entries, compared: verified, head });
    }
}

/// What may follow the header.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Tail {
    File(FileLine),
    Footer(Footer),
}

struct Lines {
    chain: String,
    number: u64,
}

impl Lines {
    fn next<T: DeserializeOwned + Serialize>(
        &mut self,
        input: &mut impl BufRead,
    ) -> Result<Option<T>, ProofError> {
        let mut bytes = Vec::new();
        input.take(LONGEST).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if bytes.pop() != Some(b'\n') {
            return self.broken("it has no end: the proof was cut off");
        }
        let Ok(text) = String::from_utf8(bytes) else { return self.broken("it is not UTF-8") };
        let Some((own, hash)) = text.rsplit_once(SEAL) else { return self.broken("it has no hash") };
        let Some(hash) = hash.strip_suffix("\"}").and_then(parse_hash) else {
            return self.broken("its hash is none");
        };
        if link(&self.chain, own) != hash {
            return self.broken("its hash is not that of its text and the line before");
        }
        let line: T = match serde_json::from_str(&format!("{own}}}")) {
            Ok(line) => line,
            Err(error) => return self.broken(&format!("it is not what it should be: {error}")),
        };
        if body(&line)? != own {
            return self.broken("it is not written in the one way that the format allows");
        }
        self.chain = hash.to_string();
        Ok(Some(line))
    }

    fn broken<T>(&self, why: &str) -> Result<T, ProofError> {
        Err(ProofError::Broken { line: self.number.max(1), why: why.to_owned() })
    }
}

#[cfg(test)]
mod tests;
