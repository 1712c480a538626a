//! Bad input: a message that names the thing, a hint, an exit code, and nothing half-written.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rusqlite::Connection;

use crate::support::{Desk, Migrator, Ran, Remote, bytes, stored};

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("source/a", "a");
    desk.write("source/sub/b", "b");
    desk
}

/// Asserts that a refused command has left nothing: no ledger, no target, no file anywhere that was not there.
#[track_caller]
fn leaves_nothing(desk: &Desk, command: Migrator, code: i32, words: &[&str]) -> Ran {
    let list = || {
        let mut found = Vec::new();
        walk(&desk.path(""), &mut found);
        found.retain(|path| !path.contains("/stdout-") && !path.contains("/stderr-"));
        found
    };
    let before = list();
    let ran = command.run().refuses(code, words);
    assert_eq!(list(), before, "{ran}");
    ran
}

fn walk(path: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() && !path.is_symlink() {
            walk(&path, found);
        }
    }
    found.sort();
}

#[test]
fn a_source_that_is_no_directory_is_refused() {
    let desk = desk();
    for (source, words) in
        [("nowhere", "nowhere does not exist"), ("source/a", "is not a directory"), ("", "names no storage")]
    {
        let code = if source.is_empty() { 2 } else { 3 };
        for command in ["copy", "plan", "verify"] {
            leaves_nothing(&desk, desk.migrator([command, source, "target"]), code, &["source", words]);
        }
    }
    leaves_nothing(&desk, desk.migrator(["copy", "source", "source/a"]), 3, &["target", "not a directory"]);
}

#[test]
fn a_source_that_cannot_be_read_is_refused() {
    let desk = desk();
    desk.give_to_nobody();
    for mode in [0o000, 0o111, 0o444] {
        fs::set_permissions(desk.path("source"), Permissions::from_mode(mode)).unwrap();
        let copy = desk.migrator(["copy", "source", "target"]).by_nobody();
        copy.run().refuses(3, &["source", "denied", "owner and mode"]);
        assert!(stored_or_none(&desk, "target").is_empty());
        fs::set_permissions(desk.path("source"), Permissions::from_mode(0o755)).unwrap();
    }
}

fn stored_or_none(desk: &Desk, name: &str) -> Vec<String> {
    let path = desk.path(name);
    if path.exists() { stored(&path).into_keys().collect() } else { Vec::new() }
}

#[test]
fn a_target_that_cannot_be_written_is_refused() {
    let desk = desk();
    fs::create_dir(desk.path("target")).unwrap();
    desk.give_to_nobody();
    fs::set_permissions(desk.path("target"), Permissions::from_mode(0o555)).unwrap();
    for target in ["target", "embedded:target", "target/deeper"] {
        let copy = desk.migrator(["copy", "source", target]).by_nobody();
        copy.run().refuses(3, &["target", "denied", "owner and mode"]);
        assert_eq!(fs::read_dir(desk.path("target")).unwrap().count(), 0);
    }
    fs::set_permissions(desk.path("target"), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_missing_bucket_is_named() {
    let Some(remote) = Remote::garage() else { return };
    let desk = desk();
    for line in
        [["copy", "source", "s3://no-such-bucket-here/p"], ["copy", "s3://no-such-bucket-here", "target"]]
    {
        let ran = desk.migrator(line).at(&remote.endpoint).run();
        ran.refuses(3, &["bucket", "no-such-bucket-here"]);
        assert!(stored_or_none(&desk, "target").is_empty());
    }
}

#[test]
fn a_wrong_secret_is_told_as_such() {
    let Some(remote) = Remote::garage() else { return };
    let desk = desk();
    let wrong = "0123456789abcdef".repeat(4);
    let copy = desk.migrator(["copy", "source", &remote.url()]).at(&remote.endpoint);
    let ran = copy.clone().env("AWS_SECRET_ACCESS_KEY", &wrong).run().refuses(3, &["AWS_SECRET_ACCESS_KEY"]);
    assert!(!ran.stderr.contains(&wrong), "{ran}");
    copy.clone()
        .env("AWS_ACCESS_KEY_ID", "GKffffffffffffffffffffffff")
        .run()
        .refuses(3, &["AWS_ACCESS_KEY_ID"]);
    copy.clone().env("AWS_REGION", "mars-1").run().refuses(3, &["AWS_REGION"]);
    assert!(remote.files().is_empty());
    // Right after all: what was refused stands in nobody's way.
    copy.run().exits(0);
}

#[test]
fn no_credentials_at_all_are_told_without_a_long_wait() {
    let Some(remote) = Remote::garage() else { return };
    let desk = desk();
    let copy = desk.migrator(["copy", "source", &remote.url()]);
    let copy = copy.env("AWS_ENDPOINT_URL", &remote.endpoint.endpoint).env("AWS_REGION", "garage");
    copy.run().refuses(3, &["credentials", "AWS_ACCESS_KEY_ID"]);
}

#[test]
fn a_server_out_of_reach_is_named() {
    let Some(remote) = Remote::garage() else { return };
    let desk = desk();
    // Bound and closed again: nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for line in [
        ["copy", "source", &remote.url()],
        ["plan", "source", &remote.url()],
        ["copy", &remote.url(), "target"],
    ] {
        let ran = desk.migrator(line).at(&remote.endpoint.via(closed)).run();
        ran.refuses(3, &[&closed.port().to_string(), "AWS_ENDPOINT_URL"]);
    }
}

#[test]
fn places_inside_each_other_are_refused() {
    let desk = desk();
    desk.write("target/old", "old");
    symlink(desk.path("source"), desk.path("alias")).unwrap();
    for (source, target, words) in [
        ("source", "source/sub", "lies inside the source"),
        ("source", "source/new/deep", "lies inside the source"),
        ("source/sub", "source", "lies inside the target"),
        ("source", "source", "same place"),
        ("source", "./source/../source", "same place"),
        ("source", "alias", "same place"),
        ("source", "alias/new", "lies inside the source"),
        ("source", "embedded:source", "same place"),
        ("source", "embedded:source/x", "lies inside the source"),
        ("source", "embedded:alias/x", "lies inside the source"),
        ("embedded:target", "target", "same place"),
        ("s3://bucket/p", "s3://bucket/p/", "same place"),
        ("s3://bucket/p", "s3://bucket/p/deeper", "lies inside the source"),
        ("s3://bucket/p/deeper", "s3://bucket", "lies inside the target"),
    ] {
        for command in ["copy", "plan", "verify"] {
            leaves_nothing(&desk, desk.migrator([command, source, target]), 6, &[words]);
        }
    }
    for option in
        [["--ledger", "source/ledger"], ["--report", "source/report"], ["--ledger", "target/ledger"]]
    {
        let copy = desk.migrator(["copy", "source", "target"]).args(option);
        leaves_nothing(&desk, copy, 6, &["lies inside", option[0]]);
    }
}

#[test]
fn usage_that_would_do_harm_is_refused_before_anything_happens() {
    let desk = desk();
    let secret = "s3://AKIAX:hunter2hunter2@bucket/p";
    let ran = leaves_nothing(&desk, desk.migrator(["copy", "source", secret]), 2, &["credentials"]);
    assert!(!ran.stderr.contains("hunter2"), "{ran}");
    for (option, value) in [("--part-size", "1MiB"), ("--part-size", "-1"), ("--bandwidth", "0")] {
        let ran = desk.migrator(["copy", "source", "target", &format!("{option}={value}")]).run().exits(2);
        assert!(ran.stderr.contains(option) && ran.stdout.is_empty(), "{ran}");
    }
    assert!(!desk.path("target").exists() && !desk.path("state/migrator").exists());
}

#[test]
fn a_misspelt_key_of_the_configuration_is_named_with_the_nearest() {
    let desk = desk();
    desk.write("c.toml", "concurrency = 4\npart_sise = \"8MiB\"\n");
    let copy = || desk.migrator(["copy", "source", "target"]);
    leaves_nothing(
        &desk,
        copy().args(["--config", "c.toml"]),
        3,
        &["c.toml:2", "part_sise", "\"part_size\""],
    );
    leaves_nothing(&desk, copy().args(["--config", "missing.toml"]), 3, &["missing.toml"]);
    desk.write("c.toml", [0xff, 0xfe]);
    leaves_nothing(&desk, copy().args(["--config", "c.toml"]), 3, &["c.toml", "UTF-8"]);
    desk.write("c.toml", "part_size = \"1MiB\"\n");
    let ran = copy().args(["--config", "c.toml"]).run().exits(3);
    assert!(ran.stderr.contains("c.toml:1: part_size") && ran.stderr.contains("5 MiB"), "{ran}");
    // Also where nobody named it: the user's own file.
    desk.write("home/.config/migrator/config.toml", "concurency = 4\n");
    leaves_nothing(&desk, copy(), 3, &["config.toml:1", "\"concurrency\""]);
}

/// Makes a ledger of `source` and `target`, and returns the command that uses it.
fn with_ledger(desk: &Desk) -> Migrator {
    let copy = desk.migrator(["copy", "source", "embedded:target", "--ledger", "ledger.sqlite"]);
    copy.clone().run().exits(0);
    desk.write("source/new", "new");
    copy
}

#[test]
fn a_ledger_of_another_pair_is_refused() {
    let desk = desk();
    with_ledger(&desk);
    desk.write("other/x", "x");
    for (source, target) in
        [("other", "embedded:target"), ("source", "embedded:elsewhere"), ("source", "target2")]
    {
        for command in ["copy", "verify", "plan"] {
            let command = desk.migrator([command, source, target, "--ledger", "ledger.sqlite"]);
            let ran = command.run().refuses(6, &["ledger.sqlite", "another with --ledger"]);
            assert!(ran.stderr.contains(&format!("dir:{}", desk.path("source").display())), "{ran}");
        }
    }
    assert!(!desk.path("elsewhere").exists() && !desk.path("target2").exists());
    assert!(!stored(&desk.path("target")).contains_key("x"));
}

#[test]
fn a_ledger_of_a_newer_version_is_left_alone() {
    let desk = desk();
    let copy = with_ledger(&desk);
    let ledger = Connection::open(desk.path("ledger.sqlite")).unwrap();
    ledger.pragma_update(None, "user_version", 4711).unwrap();
    drop(ledger);
    let before = fs::read(desk.path("ledger.sqlite")).unwrap();
    copy.run().refuses(3, &["ledger.sqlite", "4711", "release"]);
    desk.migrator(["status", "--ledger", "ledger.sqlite"]).run().refuses(3, &["4711"]);
    assert_eq!(fs::read(desk.path("ledger.sqlite")).unwrap(), before);
    assert!(!stored(&desk.path("target")).contains_key("new"));
}

#[test]
fn a_file_that_is_no_ledger_is_left_alone() {
    let desk = desk();
    let garbage = bytes(3, 20_000);
    for (name, data) in [("garbage", garbage.clone()), ("text", b"my only copy of a poem\n".to_vec())] {
        let path = desk.write(name, &data);
        for command in ["copy", "plan", "verify"] {
            let command = desk.migrator([command, "source", "embedded:target", "--ledger", name]);
            command.run().refuses(3, &[name, "no ledger"]);
        }
        desk.migrator(["status", "--ledger", name]).run().refuses(3, &[name]);
        assert_eq!(fs::read(&path).unwrap(), data);
    }
    // Another program's database.
    let other = Connection::open(desk.path("other.sqlite")).unwrap();
    other.execute_batch("CREATE TABLE poem (line TEXT); INSERT INTO poem VALUES ('one')").unwrap();
    drop(other);
    let before = fs::read(desk.path("other.sqlite")).unwrap();
    let copy = desk.migrator(["copy", "source", "embedded:target", "--ledger", "other.sqlite"]);
    copy.run().refuses(3, &["other.sqlite"]);
    assert_eq!(fs::read(desk.path("other.sqlite")).unwrap(), before);
    assert!(stored_or_none(&desk, "target").is_empty());
    desk.migrator(["copy", "source", "embedded:target", "--ledger", "sub"]).run().exits(0);
    desk.migrator(["copy", "source", "embedded:target", "--ledger", "home"]).run().refuses(3, &["home"]);
}

#[test]
fn a_damaged_ledger_is_told_and_not_made_anew() {
    let desk = desk();
    let copy = with_ledger(&desk);
    let path = desk.path("ledger.sqlite");
    let sound = fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    damaged[100..4096].fill(0xaa);
    let mut cut = sound.clone();
    cut.truncate(sound.len() / 2 + 17);
    for data in [damaged, cut] {
        fs::write(&path, &data).unwrap();
        copy.clone().run().refuses(3, &["ledger.sqlite"]);
        assert!(fs::metadata(&path).unwrap().len() > 0, "a damaged ledger was replaced by an empty one");
        assert!(!stored(&desk.path("target")).contains_key("new"));
    }
    fs::write(&path, sound).unwrap();
    copy.run().exits(0);
}

#[test]
fn a_ledger_that_cannot_be_written_is_refused() {
    let desk = desk();
    let copy = with_ledger(&desk).by_nobody();
    desk.give_to_nobody();
    fs::create_dir(desk.path("closed")).unwrap();
    for name in ["ledger.sqlite", "ledger.sqlite.lock"] {
        if desk.path(name).exists() {
            fs::set_permissions(desk.path(name), Permissions::from_mode(0o444)).unwrap();
        }
    }
    copy.run().refuses(3, &["ledger.sqlite", "owner and mode"]);
    // A directory that nobody may write into: `closed` is the tests' own.
    fs::set_permissions(desk.path("closed"), Permissions::from_mode(0o555)).unwrap();
    let copy =
        desk.migrator(["copy", "source", "embedded:target", "--ledger", "closed/l.sqlite"]).by_nobody();
    copy.run().refuses(3, &["closed", "owner and mode"]);
    assert!(!stored(&desk.path("target")).contains_key("new"));
    let status = desk.migrator(["status", "--ledger", "ledger.sqlite"]).by_nobody();
    status.run().exits(0);
}

#[test]
fn what_has_no_ledger_yet_says_how_to_get_one() {
    let desk = desk();
    for command in ["status", "report", "verify", "cleanup"] {
        let command = desk.migrator([command, "source", "target"]);
        leaves_nothing(&desk, command, 3, &["no ledger", "migrator copy"]);
    }
}

/// Hours of copying must not end in a report that could never have been written.
#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_is_copied() {
    let desk = desk();
    desk.write("file", "a file, no directory");
    for report in ["file", "file/deeper"] {
        let copy = desk.migrator(["copy", "source", "embedded:target", "--report", report]);
        copy.run().refuses(3, &["report", "file"]);
        assert!(stored_or_none(&desk, "target").is_empty(), "copied before it was refused");
    }
}

/// Real file systems that are really full.
mod heavy {
    use std::path::PathBuf;
    use std::process::Command;

    use rustix::process::geteuid;
    use test_rig::skip;

    use super::*;
    use crate::support::{assert_same, entry};

    /// A small file system, unmounted when dropped.
    struct Small(PathBuf);

    impl Small {
        fn mount(path: PathBuf, size: &str) -> Option<Self> {
            if !geteuid().is_root() {
                skip::unable("only root may mount a file system");
                return None;
            }
            fs::create_dir(&path).unwrap();
            let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], &path);
            if !mounted {
                skip::unable("this machine mounts no tmpfs");
            }
            mounted.then_some(Self(path))
        }

        fn grow(&self, size: &str) {
            assert!(mount(&["-o", &format!("remount,size={size}")], &self.0));
        }
    }

    fn mount(arguments: &[&str], path: &Path) -> bool {
        Command::new("mount").args(arguments).arg(path).status().unwrap().success()
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }

    /// The ledger cannot say what it did: the run stops, says so, and goes on when there is room.
    #[test]
    fn a_full_disk_under_the_ledger_stops_the_run_in_order() {
        let desk = Desk::new();
        let Some(small) = Small::mount(desk.path("small"), "400k") else { return };
        for number in 0..1500 {
            desk.write(&format!("source/{}/{number:0>200}", number % 7), number.to_string());
        }
        let copy = desk.migrator(["copy", "source", "target", "--ledger", "small/ledger.sqlite"]);
        let ran = copy.clone().run().exits(3);
        assert!(ran.stderr.contains("full") && ran.stderr.contains("make room"), "{ran}");
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        small.grow("64m");
        copy.run().exits(0);
        let expected = (0..1500)
            .map(|number| (format!("{}/{number:0>200}", number % 7), entry(number.to_string().as_bytes())))
            .collect();
        assert_same("target", &stored(&desk.path("target")), &expected);
    }

    /// Every further file would fail alike: the run stops, nothing is half there, and the next one goes on.
    #[test]
    fn a_full_target_stops_the_run_in_order() {
        for target in ["small/target", "embedded:small/target"] {
            let desk = Desk::new();
            let Some(small) = Small::mount(desk.path("small"), "3m") else { return };
            for number in 0..8 {
                desk.write(&format!("source/{number}"), bytes(number, 1 << 20));
            }
            let copy = desk.migrator(["copy", "source", target]);
            let ran = copy.clone().run().exits(3);
            assert!(ran.stderr.contains("target") && ran.stderr.contains("make room"), "{ran}");
            let directory = desk.path(target.trim_start_matches("embedded:"));
            for (name, found) in stored(&directory) {
                assert_eq!(found, entry(&bytes(name.parse().unwrap(), 1 << 20)), "{name} is half there");
            }
            small.grow("64m");
            copy.run().exits(0);
            assert_eq!(stored(&directory).len(), 8);
        }
    }
}

/// A restore from a name that is not right was complete, with nothing.
#[test]
fn a_source_that_nobody_has_ever_seen_is_refused() {
    let desk = Desk::new();
    let ran = desk.migrator(["restore", "embedded:typo", "back"]).run();
    ran.refuses(3, &["typo", "does not exist"]);
    assert!(!desk.path("typo").exists());
    let Some(remote) = Remote::garage() else { return };
    let restore = desk.migrator(["restore", &format!("{}/typo", remote.url()), "back"]).at(&remote.endpoint);
    restore.clone().run().refuses(6, &["the source has nothing", "--allow-empty-source"]);
    restore.args(["--allow-empty-source"]).run().exits(0);
}
