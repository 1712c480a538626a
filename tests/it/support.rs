//! What the tests run the program with: a place of its own for each test, the program as a user starts it, and
//! judges of what it did that share no code with it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use test_rig::process::{DeathSignal, command, spawn};
use test_rig::tree::Entry;
use test_rig::{Manifest, S3Endpoint, skip, tools, unique_prefix};

/// Files by name: what a source, a target or a report says there is.
pub(crate) type Files = BTreeMap<String, Entry>;

/// The user and group `nobody`, for whom file modes hold.
const NOBODY: u32 = 65534;

/// How long a run may take before the test fails: far longer than any does.
const LIMIT: Duration = Duration::from_secs(100);

/// The variables that the machine may set and that must not change what a test sees.
const KEPT: [&str; 1] = ["PATH"];

/// A directory of its own for one test: HOME, state, and whatever the test puts there.
#[derive(Debug)]
pub(crate) struct Desk {
    root: PathBuf,
    _dir: TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("migrator-it-").tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["home", "state", "source"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        Self { root, _dir: dir }
    }

    /// Returns a path beneath the desk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    /// Returns a path beneath `source`.
    pub(crate) fn source(&self, name: &str) -> PathBuf {
        self.path("source").join(name)
    }

    /// Writes a file beneath the desk, with the directories above it.
    pub(crate) fn write(&self, name: &str, data: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, data).unwrap();
        path
    }

    /// Makes the program with these arguments, in the desk, with nothing of the machine's environment.
    pub(crate) fn migrator<I>(&self, arguments: I) -> Migrator
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        Migrator {
            root: self.root.clone(),
            arguments: arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect(),
            variables: Vec::new(),
            nobody: false,
            under: None,
        }
        .env("HOME", self.path("home"))
        .env("XDG_STATE_HOME", self.path("state"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    }

    /// Gives everything on the desk to `nobody`, so that [`Migrator::by_nobody`] can work here.
    pub(crate) fn give_to_nobody(&self) {
        fn give(path: &Path) {
            std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            if path.is_dir() && !path.is_symlink() {
                for entry in fs::read_dir(path).unwrap() {
                    give(&entry.unwrap().path());
                }
            }
        }
        if geteuid().is_root() {
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755)).unwrap();
            chown(&self.root, Some(NOBODY), Some(NOBODY)).unwrap();
            give(&self.root);
        }
    }

    /// Returns the one ledger that the state directory holds.
    pub(crate) fn ledger(&self) -> PathBuf {
        let ledgers: Vec<_> = fs::read_dir(self.path("state/migrator"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension() == Some(OsStr::new("sqlite")))
            .collect();
        assert_eq!(ledgers.len(), 1, "{ledgers:?}");
        ledgers[0].clone()
    }
}

/// The program, about to be started.
#[derive(Clone, Debug)]
pub(crate) struct Migrator {
    root: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    nobody: bool,
    under: Option<test_rig::Strace>,
}

impl Migrator {
    /// Adds arguments.
    pub(crate) fn args<I>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable; the last value counts.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Lets it find a server, and the right to use it.
    pub(crate) fn at(mut self, endpoint: &S3Endpoint) -> Self {
        for (name, value) in endpoint.env() {
            self = self.env(name, value);
        }
        self
    }

    /// Runs it as `nobody`, for whom file modes hold; where the tests are not root's, as whoever runs them. See
    /// [`Desk::give_to_nobody`].
    pub(crate) fn by_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Runs it under strace. A signal then goes to strace, and so does the process id.
    pub(crate) fn under(mut self, strace: test_rig::Strace) -> Self {
        self.under = Some(strace);
        self
    }

    /// Starts it. It is killed when the handle is dropped, and when this process ends.
    pub(crate) fn start(self) -> Running {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_migrator"));
        let mut command = match (&self.under, self.nobody && geteuid().is_root()) {
            (Some(strace), _) => strace.command(&program),
            (None, false) => command(&program, DeathSignal::Kill),
            (None, true) => {
                let mut setpriv = Command::new(tools::find("setpriv").expect("util-linux is installed"));
                setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
                setpriv.arg(reachable(&program, &self.root));
                setpriv
            }
        };
        let output = |name: &str| {
            tempfile::Builder::new().prefix(name).tempfile_in(&self.root).unwrap().keep().unwrap()
        };
        let ((stdout, out), (stderr, err)) = (output("stdout-"), output("stderr-"));
        command.env_clear().envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(&self.arguments).current_dir(&self.root);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let line = self.arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let child = spawn(command).expect("the program starts");
        Running { child, line, out, err, started: Instant::now(), ended: false }
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Ran {
        self.start().wait()
    }
}

/// Returns the program at a path that `nobody` can reach: build directories may be closed to others.
fn reachable(program: &Path, root: &Path) -> PathBuf {
    let setpriv = tools::find("setpriv").expect("util-linux is installed");
    let mut probe = Command::new(setpriv);
    probe.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program).arg("--version");
    if probe.output().is_ok_and(|output| output.status.success()) {
        return program.to_owned();
    }
    let copy = root.join("migrator-for-nobody");
    if !copy.exists() {
        fs::copy(program, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}

/// The program while it runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    line: String,
    out: PathBuf,
    err: PathBuf,
    started: Instant,
    ended: bool,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Returns what it has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Returns what it has written to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        read(&self.out)
    }

    /// Returns whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Returns whether it has this file open.
    pub(crate) fn has_open(&self, path: &Path) -> bool {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", self.pid())) else { return false };
        open.filter_map(Result::ok)
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path))
    }

    /// Waits until `holds`, and says so when it ended or a minute went by before that.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(!self.has_ended(), "ended before {what}: {}\n{}", self.line, self.stderr());
            assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within a minute: {}", self.line);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> Ran {
        self.wait_at_most(LIMIT)
    }

    /// Waits so long for its end.
    pub(crate) fn wait_at_most(mut self, limit: Duration) -> Ran {
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if asked.elapsed() > limit {
                let (out, err) = (self.stdout(), self.stderr());
                panic!("has not ended after {limit:?}: migrator {}\n{out}\n{err}", self.line);
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.ended = true;
        let (stdout, stderr) = (self.stdout(), self.stderr());
        Ran { status, stdout, stderr, line: self.line.clone(), took: self.started.elapsed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // An error means that it has ended already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).expect("the program writes UTF-8")
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    line: String,
    pub(crate) took: Duration,
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        assert_eq!(self.status.signal(), None, "{self}");
        self
    }

    /// Asserts that it refused: the exit code, words of the message, a hint, nothing on standard output, and no
    /// trace of a panic.
    #[track_caller]
    pub(crate) fn refuses(self, code: i32, words: &[&str]) -> Self {
        let ran = self.exits(code);
        for word in words {
            assert!(ran.stderr.contains(word), "no {word:?}\n{ran}");
        }
        assert!(ran.stderr.contains("hint: "), "no hint\n{ran}");
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        assert_eq!(ran.stdout, "", "{ran}");
        ran
    }

    /// Returns the events that `--json` wrote.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let parsed = self.stdout.lines().map(serde_json::from_str);
        parsed.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("no JSON: {error}\n{self}"))
    }

    /// Returns the last event of a run with `--json`.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last = self.events().pop().unwrap_or_else(|| panic!("no event\n{self}"));
        assert_eq!(last["event"], "summary", "{self}");
        last
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr, line, took } = self;
        write!(f, "$ migrator {line}\n{status} after {took:.1?}\n--- stdout\n{stdout}--- stderr\n{stderr}---")
    }
}

/// A prefix of a bucket that no other test has, looked at through boto3, which shares no code with the program.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) endpoint: S3Endpoint,
    /// Ends with `/`.
    pub(crate) prefix: String,
}

/// `list`: `[key, size, sha256]` of every object. `classes`: `[key, storage class]`. `uploads`: `[key, upload id, parts]` of every open upload.
const JUDGE: &str = r#"
import boto3, hashlib, json, os, sys
from botocore.config import Config
what, bucket, prefix = sys.argv[1:4]
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}))
def pages(call, **kwargs):
    return s3.get_paginator(call).paginate(Bucket=bucket, Prefix=prefix, **kwargs)
if what == "list":
    for page in pages("list_objects_v2"):
        for found in page.get("Contents", []):
            body = s3.get_object(Bucket=bucket, Key=found["Key"])["Body"]
            hasher = hashlib.sha256()
            for piece in body.iter_chunks(1 << 20):
                hasher.update(piece)
            print(json.dumps([found["Key"][len(prefix):], found["Size"], hasher.hexdigest()]))
elif what == "classes":
    for page in pages("list_objects_v2"):
        for found in page.get("Contents", []):
            print(json.dumps([found["Key"][len(prefix):], found.get("StorageClass", "STANDARD")]))
elif what == "uploads":
    for page in pages("list_multipart_uploads"):
        for found in page.get("Uploads", []):
            parts = s3.list_parts(Bucket=bucket, Key=found["Key"], UploadId=found["UploadId"])
            count = len(parts.get("Parts", []))
            print(json.dumps([found["Key"][len(prefix):], found["UploadId"], count]))
elif what == "put":
    s3.put_object(Bucket=bucket, Key=prefix + sys.argv[4], Body=sys.stdin.buffer.read())
elif what == "delete":
    s3.delete_object(Bucket=bucket, Key=prefix + sys.argv[4])
"#;

/// An upload in parts that nobody has finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenUpload {
    pub(crate) key: String,
    pub(crate) upload: String,
    pub(crate) parts: u64,
}

impl Remote {
    /// Takes a fresh prefix in the server's bucket.
    pub(crate) fn new(endpoint: &S3Endpoint) -> Self {
        Self { endpoint: endpoint.clone(), prefix: unique_prefix() }
    }

    /// Takes a fresh prefix in Garage's bucket; nothing, and the test is reported as skipped, where that or the
    /// judge is not installed.
    pub(crate) fn garage() -> Option<Self> {
        judge()?;
        Some(Self::new(&test_rig::garage()?))
    }

    /// As [`garage`](Self::garage), in moto's.
    pub(crate) fn moto() -> Option<Self> {
        judge()?;
        Some(Self::new(&test_rig::moto()?))
    }

    /// Returns the address as the program takes it.
    pub(crate) fn url(&self) -> String {
        format!("s3://{}/{}", self.endpoint.bucket, self.prefix.trim_end_matches('/'))
    }

    /// Reads every object beneath the prefix.
    pub(crate) fn files(&self) -> Files {
        self.lines("list", &[], b"")
            .into_iter()
            .map(|line| {
                let size = line[1].as_u64().unwrap();
                (text(&line[0]), Entry { size, sha256: text(&line[2]) })
            })
            .collect()
    }

    /// Returns the storage class of every object beneath the prefix.
    pub(crate) fn classes(&self) -> BTreeMap<String, String> {
        self.lines("classes", &[], b"").into_iter().map(|line| (text(&line[0]), text(&line[1]))).collect()
    }

    /// Lists the open uploads beneath the prefix.
    pub(crate) fn uploads(&self) -> Vec<OpenUpload> {
        let lines = self.lines("uploads", &[], b"");
        let upload = |line: Value| OpenUpload {
            key: text(&line[0]),
            upload: text(&line[1]),
            parts: line[2].as_u64().unwrap(),
        };
        lines.into_iter().map(upload).collect()
    }

    /// Stores an object.
    pub(crate) fn put(&self, key: &str, data: &[u8]) {
        self.lines("put", &[key], data);
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, key: &str) {
        self.lines("delete", &[key], b"");
    }

    fn lines(&self, what: &str, rest: &[&str], input: &[u8]) -> Vec<Value> {
        let mut stdin = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut stdin, input).unwrap();
        std::io::Seek::rewind(&mut stdin).unwrap();
        let mut python = Command::new(judge().expect("looked for before"));
        python.args(["-c", JUDGE, what, &self.endpoint.bucket, &self.prefix]).args(rest);
        let output = python.envs(self.endpoint.env()).stdin(stdin).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "boto3 cannot {what}: {error}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Finds a Python with boto3; where there is none, the test is reported as skipped.
pub(crate) fn judge() -> Option<PathBuf> {
    let python = tools::cache_dir().join("venv/bin/python3");
    if python.exists() {
        return Some(python);
    }
    skip::missing("boto3");
    None
}

/// Reads a directory that a storage keeps: its own `.storage` directory is left out, and names are UTF-8.
pub(crate) fn stored(directory: &Path) -> Files {
    let files = Manifest::read(directory).unwrap().files.into_iter();
    files
        .map(|(path, entry)| (String::from_utf8(path).unwrap(), entry))
        .filter(|(path, _)| !path.starts_with(".storage/"))
        .collect()
}

/// Returns what a directory's storage has of files that are being written.
pub(crate) fn staged(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory.join(".storage/tmp")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Returns the entry of one file with these bytes.
pub(crate) fn entry(data: &[u8]) -> Entry {
    use sha2::Digest as _;
    Entry { size: data.len() as u64, sha256: hex::encode(sha2::Sha256::digest(data)) }
}

/// Asserts that two sets of files are the same, and names what differs instead of printing thousands.
#[track_caller]
pub(crate) fn assert_same(what: &str, found: &Files, expected: &Files) {
    let missing: Vec<_> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
    let extra: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
    let differ = |name: &&String| found.get(*name).is_some_and(|entry| *entry != expected[*name]);
    let different: Vec<_> = expected.keys().filter(differ).collect();
    assert!(
        missing.is_empty() && extra.is_empty() && different.is_empty(),
        "{what}: missing {missing:?}\nextra {extra:?}\ndifferent {different:?}"
    );
}

/// A report directory: `report.json`, the rows of `files.csv`, and `SHA256SUMS`.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) json: Value,
    pub(crate) rows: Vec<BTreeMap<String, String>>,
    pub(crate) sums: String,
}

impl Report {
    /// Reads it, and asserts what must hold of every report of a run that ended: the sums add up, and the rows
    /// say the same as the sums.
    #[track_caller]
    pub(crate) fn read(directory: &Path) -> Self {
        let json: Value = serde_json::from_slice(&fs::read(directory.join("report.json")).unwrap()).unwrap();
        let mut csv = csv::Reader::from_path(directory.join("files.csv")).unwrap();
        let rows: Vec<BTreeMap<String, String>> = csv.deserialize().map(Result::unwrap).collect();
        let report = Self { json, rows, sums: read(&directory.join("SHA256SUMS")) };
        let terms =
            ["copied", "unchanged", "skipped", "failed", "missing", "different", "unverified", "outdated"];
        let sum: u64 = terms.iter().map(|name| report.sum(name)).sum();
        assert_eq!(report.sum("planned"), sum, "the sums do not add up: {:#}", report.json["sums"]);
        for name in terms {
            let rows = report.rows.iter().filter(|row| row["outcome"] == name).count() as u64;
            if name != "unchanged" {
                assert_eq!(report.sum(name), rows, "{name}: report.json and files.csv differ");
            }
        }
        report
    }

    /// Returns how many files a sum counts.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str) -> u64 {
        count(&self.json["sums"][name])
    }

    /// Returns the row of an entry.
    pub(crate) fn row(&self, id: &str) -> Option<&BTreeMap<String, String>> {
        self.rows.iter().find(|row| row["id"] == id)
    }
}

/// Returns the number of files that a sum of a report stands for.
#[track_caller]
pub(crate) fn count(sum: &Value) -> u64 {
    sum["files"].as_u64().or_else(|| sum.as_u64()).unwrap_or_else(|| panic!("no count: {sum}"))
}

/// Returns `size` bytes that no other seed makes.
pub(crate) fn bytes(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(size).collect()
}
