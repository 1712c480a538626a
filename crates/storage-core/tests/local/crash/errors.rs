//! One system call of a session fails: the error is told as what it is, what it says of its effect is true, nothing
//! is left behind, and the next attempt succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::checksum::Digest;
use storage_core::error::Effect;
use storage_core::storage::{FinishOptions, Precondition, ResumableUpload, UploadOptions};
use tempfile::TempDir;
use test_rig::{Strace, skip};

use super::super::{bytes, id, own};
use super::kills::calls;
use super::lines::{Happened, Line, Story, Told};
use super::model::Verdict;
use super::session::Prepared;

/// An error that a call can give.
struct Fault {
    errno: &'static str,
    /// What the caller is told.
    kind: &'static str,
    calls: &'static [&'static str],
}

const EIO: Fault = Fault {
    errno: "EIO",
    kind: "other",
    calls: &[
        "openat",
        "write",
        "pwrite64",
        "fsync",
        "fdatasync",
        "renameat",
        "renameat2",
        "unlinkat",
        "mkdirat",
        "fsetxattr",
        "fchmod",
        "flock",
    ],
};

/// What publishes a new file where the file system knows no rename that replaces nothing.
const EIO_OF_LINK: Fault = Fault { errno: "EIO", kind: "other", calls: &["linkat"] };

const ENOSPC: Fault = Fault {
    errno: "ENOSPC",
    kind: "storage_full",
    calls: &[
        "openat",
        "write",
        "pwrite64",
        "fsync",
        "fdatasync",
        "renameat",
        "renameat2",
        "mkdirat",
        "fsetxattr",
    ],
};

/// What was told of faults, by call.
type Tally = BTreeMap<String, (u32, u32)>;

/// Fails each call of a session once.
#[expect(clippy::print_stdout, reason = "shows what the sweep was worth")]
async fn sweep(what: &str, fault: &Fault, prepare: impl Fn(Strace) -> Strace) {
    let Some(calls) = calls(&prepare).await else { return };
    let (mut sum, mut tally) = (Verdict::default(), Tally::new());
    for call in fault.calls {
        for when in calls.get(call).cloned().into_iter().flatten() {
            let at = format!("{what}, {call} #{when} fails with {}", fault.errno);
            let Some((told, verdict)) = fail(fault, call, when, &prepare, &at).await else { return };
            let (tried, heard) = tally.entry(format!("{call} {}", fault.errno)).or_default();
            *tried += 1;
            *heard += u32::from(told);
            sum.add(verdict);
        }
    }
    println!("{what}: told of tried: {tally:?}; {sum}");
    assert_eq!(sum.faults(), 0, "{what}: {sum}");
    let met = tally.keys().filter_map(|call| call.split_once(' ')).map(|(call, _)| call);
    assert_eq!(
        met.collect::<BTreeSet<_>>(),
        fault.calls.iter().copied().collect(),
        "{what}: a call never failed"
    );
    for (call, (tried, told)) in tally {
        match call.split_once(' ').unwrap() {
            // Of bytes, names and directories nothing is passed over.
            (
                "write" | "pwrite64" | "fdatasync" | "renameat" | "renameat2" | "linkat" | "mkdirat"
                | "fchmod",
                _,
            ) => {
                assert_eq!(tried, told, "{call}")
            }
            // The last one of a finish, which only makes sure that its parts do not come back.
            ("fsync", _) => assert_eq!(tried, told + 1, "{call}"),
            // Without room for them, attributes go to a sidecar.
            ("fsetxattr", "ENOSPC") => assert_eq!(told, 0, "{call}"),
            _ => {}
        }
    }
}

async fn fail(
    fault: &Fault,
    call: &str,
    when: u32,
    prepare: impl Fn(Strace) -> Strace,
    at: &str,
) -> Option<(bool, Verdict)> {
    let mut prepared = Prepared::new().await;
    let log = prepared.outside().join("log");
    let strace = Strace::new(&log)?.trace(&["fsync", "renameat", "renameat2"]).paths_shown();
    let strace = prepare(strace).fail_at(call, fault.errno, &when.to_string());
    let (status, story) = prepared.start(strace.command(std::env::current_exe().unwrap())).ended();
    assert!(status.success(), "{at}: {status}");
    let errors = check_errors(&story, fault.kind, at);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("(INJECTED)"), "{at}: no such call");
    check_syncs(&log, at);
    let root = prepared.root().to_owned();
    // Before anybody opens it again. What could not be removed is the janitor's.
    if call != "unlinkat" {
        assert_eq!(own(&root, "tmp"), Vec::<String>::new(), "{at}: left in tmp");
        if call != "openat" || errors > 0 {
            assert_eq!(own(&root, "uploads").len(), 1, "{at}: left in uploads");
        }
        assert_eq!(empty_directories(&root), Vec::<String>::new(), "{at}");
    }
    prepared.model.take(&story);
    let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
    let mut verdict = Verdict { acknowledged: story.acknowledged(), ..Verdict::default() };
    if errors == 0 {
        // A finish that could not remove its parts has finished all the same; they are found as an open upload.
        for left in
            storage.stale(Duration::ZERO).await.unwrap().iter().filter(|left| left.id == id("in/parts"))
        {
            assert!(["openat", "unlinkat"].contains(&call), "{at}: left in uploads");
            storage.abandon(left).await.unwrap();
        }
    }
    verdict.add(prepared.model.compare(&root, &storage, at).await);
    Some((errors > 0, verdict))
}

/// Returns how many attempts failed: one, or, where it took effect and said so, a second one that met it.
fn check_errors(story: &Story, kind: &str, at: &str) -> usize {
    let errors: Vec<&Told> = story.errors().collect();
    match errors.as_slice() {
        [] => {}
        [error] => assert_eq!(error.kind, kind, "{at}: {error:?}"),
        [first, second] => {
            assert_eq!(first.kind, kind, "{at}: {first:?}");
            assert_ne!(first.effect, Happened::No, "{at}: {errors:?}");
            let met = matches!(second.kind.as_str(), "already_exists" | "version_mismatch");
            assert!(met, "{at}: {errors:?}");
        }
        _ => panic!("{at}: {errors:?}"),
    }
    let all = story.lines.iter().filter(|line| matches!(line, Line::Done { .. })).count();
    assert!(all >= SESSION - errors.len(), "{at}: {:?}", story.lines);
    errors.len()
}

/// Operations of a session.
const SESSION: usize = 20;

/// After a failed fsync the bytes of that file are lost, and a second fsync of the same file would say that all is
/// well: none is tried, and the file is published under no name.
fn check_syncs(log: &str, at: &str) {
    let mut failed: Vec<&str> = Vec::new();
    for line in log.lines() {
        for name in &failed {
            assert!(!line.contains(name), "{at}: after a failed fsync: {line}");
        }
        if line.contains("fsync(") && line.contains("(INJECTED)") {
            // Files that are not published yet have names of their own.
            failed.extend(line.split_once("/tmp/").and_then(|(_, name)| name.split('>').next()));
        }
    }
}

fn empty_directories(root: &Path) -> Vec<String> {
    let mut command = Command::new("find");
    command.arg(root).args(["-name", ".storage", "-prune", "-o", "-type", "d", "-empty", "-print"]);
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn an_input_output_error_is_told_and_leaves_nothing() {
    sweep("extended attributes", &EIO, |strace| strace).await;
}

#[tokio::test]
async fn an_input_output_error_is_told_where_attributes_are_in_sidecars() {
    sweep("sidecars", &EIO, |strace| strace.fail_at("fsetxattr", "EOPNOTSUPP", "1+")).await;
}

#[tokio::test]
async fn an_input_output_error_is_told_where_a_rename_cannot_but_replace() {
    sweep("links", &EIO_OF_LINK, |strace| strace.fail_at("renameat2", "EINVAL", "1+")).await;
}

#[tokio::test]
async fn a_full_disk_is_told_at_any_system_call_and_leaves_nothing() {
    sweep("extended attributes", &ENOSPC, |strace| strace).await;
}

#[tokio::test]
async fn a_full_disk_is_told_where_attributes_are_in_sidecars() {
    sweep("sidecars", &ENOSPC, |strace| strace.fail_at("fsetxattr", "EOPNOTSUPP", "1+")).await;
}

const REPEATED: &str = "CRASH_REPEATED";

/// Its first finish is answered with an error, as the directory cannot be synced; the second one knows its own
/// result.
#[test]
#[ignore = "a process that another test starts"]
fn repeated_finish() {
    let Some(root) = std::env::var_os(REPEATED) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let storage = LocalStorage::open(LocalConfig::new(root)).await.unwrap();
        let options = UploadOptions::default().with_when(Precondition::Absent);
        let ticket = storage.begin(&id("in/a"), 5, options).await.unwrap();
        let number = std::num::NonZeroU32::MIN;
        let part = storage.put_part(&ticket, number, bytes("abc"), Digest::of(b"abc")).await.unwrap();
        let parts = [part];
        let lost = storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap_err();
        assert_eq!(lost.effect(), Effect::Applied);
        storage.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    });
}

/// Else a power cut would take a file whose finish was acknowledged.
#[test]
fn a_repeated_finish_that_finds_its_result_syncs_it() {
    let (root, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let directory = root.path().canonicalize().unwrap().join("in");
    std::fs::create_dir(&directory).unwrap();
    let log = outside.path().join("log");
    let Some(strace) = Strace::new(&log) else { return };
    let strace = strace.path(&directory).fail_at("fsync", "EIO", "1");
    let mut command = strace.command(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::errors::repeated_finish", "--ignored", "--test-threads=1"]);
    let output = command.env(REPEATED, root.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = std::fs::read_to_string(log).unwrap();
    let results: Vec<bool> =
        log.lines().filter(|line| line.contains("fsync(")).map(|line| line.contains("= 0")).collect();
    assert_eq!(results, [false, true], "{log}");
}

/// With too few descriptors every operation fails, or succeeds.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "shows what the sweep was worth")]
async fn a_process_without_descriptors_is_told_so_and_loses_nothing() {
    let (mut refused, mut sum) = (0, Verdict::default());
    for descriptors in 6.. {
        let mut prepared = Prepared::new().await;
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]);
        let working = prepared.start(command_of(command));
        let (_, story) = working.ended();
        let at = format!("{descriptors} descriptors");
        for error in story.errors() {
            assert_eq!((error.kind.as_str(), error.passes), ("other", true), "{at}: {error:?}");
            refused += 1;
        }
        let root = prepared.root().to_owned();
        assert_eq!(own(&root, "tmp"), Vec::<String>::new(), "{at}");
        prepared.model.take(&story);
        let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
        sum.acknowledged += story.acknowledged();
        sum.add(prepared.model.compare(&root, &storage, &at).await);
        if story.lines.contains(&Line::Ready) && story.errors().count() == 0 {
            break;
        }
        if descriptors > 200 {
            skip::unable("the session never has enough descriptors");
            return;
        }
    }
    println!("{refused} operations refused for want of descriptors; {sum}");
    assert_eq!(sum.faults(), 0, "{sum}");
    assert!(refused > 20, "{refused}");
}

fn command_of(mut shell: Command) -> Command {
    shell.arg(std::env::current_exe().unwrap());
    shell
}
