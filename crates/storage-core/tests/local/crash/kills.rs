//! Kills at the n-th call of a kind, for every call that changes something and every n until a session gets through.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::process::Command;

use storage_core::backend::local::{LocalConfig, LocalStorage};
use test_rig::{Strace, strace};

use super::model::Verdict;
use super::session::{AHEAD, COMMON, Prepared};

/// Everything that changes a file, a name or a lock. Those that a session does not use cost nothing.
pub(super) const CALLS: &[&str] = &[
    "openat",
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "fsetxattr",
    "fchmod",
    "ftruncate",
    "flock",
    "utimensat",
];

/// Returns the calls of a session by the thread that works on the disk: their numbers, by kind.
pub(super) async fn calls(
    prepare: impl Fn(Strace) -> Strace,
) -> Option<BTreeMap<&'static str, RangeInclusive<u32>>> {
    let prepared = Prepared::new().await;
    let log = prepared.outside().join("log");
    let strace = prepare(Strace::new(&log)?.trace(CALLS));
    let (status, story) = prepared.start(strace.command(std::env::current_exe().unwrap())).ended();
    assert!(status.success() && story.errors().count() == 0, "{:?}", story.lines);
    let log = std::fs::read_to_string(log).unwrap();
    let mut threads: BTreeMap<&str, BTreeMap<&'static str, u32>> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        if let Some(name) = CALLS.iter().find(|name| call.trim_start().starts_with(&format!("{name}("))) {
            *threads.entry(thread).or_default().entry(name).or_default() += 1;
        }
    }
    let worker = threads.into_values().max_by_key(|calls| calls.get("fsync").copied()).unwrap();
    let first = |name: &str| 1 + if COMMON.contains(&name) { AHEAD } else { 0 };
    Some(worker.into_iter().map(|(name, count)| (name, first(name)..=count)).collect())
}

#[expect(clippy::print_stdout, reason = "shows what the sweep was worth")]
async fn sweep(what: &str, prepare: impl Fn(Strace) -> Strace) {
    let Some(calls) = calls(&prepare).await else { return };
    let (mut kills, mut sum) = (0, Verdict::default());
    for (call, numbers) in calls {
        for when in numbers {
            let mut prepared = Prepared::new().await;
            let Some(strace) = Strace::new("/dev/null") else { return };
            let command: Command =
                prepare(strace).kill_at(call, when).command(std::env::current_exe().unwrap());
            let (status, story) = prepared.start(command).ended();
            let at = format!("{what}, killed at {call} #{when}");
            assert!(strace::was_killed(status) || status.success(), "{at}: {status}");
            kills += u32::from(strace::was_killed(status));
            let errors: Vec<_> = story.errors().collect();
            assert!(errors.is_empty(), "{at}: {errors:?}");
            sum.acknowledged += story.acknowledged();
            prepared.model.take(&story);
            let root = prepared.root().to_owned();
            let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
            sum.add(prepared.model.compare(&root, &storage, &at).await);
        }
    }
    println!("{what}: {kills} kills, {sum}");
    assert_eq!(sum.faults(), 0, "{what}: {sum}");
    assert!(kills > 100, "{kills}");
}

#[tokio::test]
async fn a_kill_at_any_system_call_loses_and_tears_nothing() {
    sweep("extended attributes", |strace| strace).await;
}

#[tokio::test]
async fn a_kill_at_any_system_call_leaves_no_file_with_another_s_sidecar() {
    sweep("sidecars", |strace| strace.fail_at("fsetxattr", "EOPNOTSUPP", "1+")).await;
}
