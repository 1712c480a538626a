//! The way back: a tree that was migrated, lost and restored is what it was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::process::geteuid;

use crate::support::{Desk, Migrator, Remote, Report, bytes};

/// Everything that is to come back, by path.
fn inventory(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name == ".storage" {
                continue;
            }
            let what = if stat.is_dir() {
                left.push(path.clone());
                format!("{:o} {}:{} {:?}", stat.mode(), stat.uid(), stat.gid(), note(&path))
            } else if stat.is_symlink() {
                format!("-> {:?} {}:{}", fs::read_link(&path).unwrap(), stat.uid(), stat.gid())
            } else {
                let sum = storage_core::checksum::Digest::of(&fs::read(&path).unwrap());
                format!("{:o} {}:{} {sum} {:?}", stat.mode(), stat.uid(), stat.gid(), note(&path))
            };
            found.insert(name, format!("{what} {}.{:09}", stat.mtime(), stat.mtime_nsec()));
        }
    }
    found
}

fn note(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    getxattr(path, "user.note", &mut value[..]).map(|length| value[..length].to_vec()).ok()
}

/// Directories that have no file, and modes and times of their own; the last two among files that sort around what stands
/// for a directory. The first has a file and takes no other.
const DIRECTORIES: [(&str, u32); 6] = [
    ("closed", 0o555),
    ("hollow", 0o750),
    ("deep/hollow/er", 0o2775),
    ("deep/+", 0o700),
    ("deep/.a", 0o1777),
    ("é dir", 0o511),
];

/// Files, links and directories of [`plant`].
const PLANTED: u64 = 17 + 9;

/// Makes files of every kind that can come back.
fn plant(desk: &Desk) {
    let names = [
        "a",
        "deep/er/-rf",
        "new\nline",
        "é",
        "e\u{301}",
        " sp ",
        "percent %41+",
        "\"q\"\\",
        "x;y=z",
        "empty",
    ];
    for (number, name) in names.iter().enumerate() {
        let size = if *name == "empty" { 0 } else { 1_000 * number + 1 };
        let path = desk.write(&format!("source/{name}"), bytes(number as u8, size));
        let modes = [0o600, 0o644, 0o755, 0o444, 0o640, 0o4755, 0o2711, 0o1700, 0o604, 0o666];
        if geteuid().is_root() {
            chown(&path, Some(1_000 + number as u32), Some(2_000)).unwrap();
        }
        if number % 2 == 0
            && let Err(error) =
                setxattr(&path, "user.note", format!("{name}\0").as_bytes(), XattrFlags::empty())
        {
            test_rig::skip::unable(&format!("no extended attributes here: {error}"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(modes[number])).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + number as u64, 123_456_789);
        fs::File::open(&path).unwrap().set_modified(modified).unwrap();
    }
    desk.write("source/large", bytes(99, 12 << 20));
    for (name, to) in
        [("link", "a"), ("deep/dangling", "../no\nwhere"), ("loop", "loop"), ("abroad", "/etc/passwd")]
    {
        symlink(OsStr::from_bytes(to.as_bytes()), desk.source(name)).unwrap();
        if geteuid().is_root() {
            lchown(desk.source(name), Some(77), Some(88)).unwrap();
        }
    }
    for (name, _) in DIRECTORIES {
        fs::create_dir_all(desk.source(name)).unwrap();
    }
    desk.write("source/closed/inside", "inside");
    desk.write("source/deep/!first", "sorts before");
    // Deepest first, as what is made in a directory changes its time.
    let directories = DIRECTORIES.into_iter().chain([
        ("deep/hollow", 0o755),
        ("deep/er", 0o500),
        ("deep", 0o711),
        ("", 0o755),
    ]);
    for (number, (name, mode)) in directories.enumerate() {
        let path = desk.source(name);
        if number % 2 == 0 {
            setxattr(&path, "user.note", format!("{name}/").as_bytes(), XattrFlags::empty()).ok();
        }
        let directory = fs::File::open(&path).unwrap();
        if geteuid().is_root() {
            chown(&path, Some(3_000 + number as u32), Some(4_000)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_100_000_000 + number as u64, 987_654_321);
        directory.set_modified(modified).unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
}

/// Migrates, loses and restores.
fn there_and_back(desk: &Desk, target: &str, run: impl Fn(Migrator) -> Migrator) {
    plant(desk);
    let before = inventory(&desk.path("source"));
    // All but the root.
    assert_eq!(before.len() as u64, PLANTED);
    let keep = ["--preserve", "all", "--part-size", "5MiB", "--report", "report"];
    let there = [&["copy", "source", target], &keep[..]].concat();
    let ran = run(desk.migrator(&there)).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), PLANTED + 1, "{ran}");
    let again = run(desk.migrator(&there)).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("unchanged"), PLANTED + 1, "{again}");
    let audit = ["verify", "source", target, "--preserve", "all", "--read-back"];
    run(desk.migrator(audit)).run().exits(0);

    // What is lost, and where it comes back to.
    fs::rename(desk.path("source"), desk.path("lost")).unwrap();
    let back = [&["restore", target, "source"], &keep[..]].concat();
    let ran = run(desk.migrator(&back)).run().exits(0);
    assert_eq!(inventory(&desk.path("source")), before, "{ran}");
    let ran = run(desk.migrator(&back)).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("unchanged"), PLANTED + 1, "{ran}");
    rsync_finds_no_difference(desk);
    // As the target of the way back it is what the ledger says, too.
    run(desk.migrator(["verify", target, "source", "--preserve", "all"])).run().exits(0);
}

/// A directory that a later run puts a file into has the time that it is to have.
fn there_and_back_again(desk: &Desk, target: &str) {
    let keep = ["--preserve", "all", "--part-size", "5MiB", "--report", "report"];
    let back = [&["restore", target, "source"], &keep[..]].concat();
    desk.write("lost/deep/new", "new");
    let modified = SystemTime::UNIX_EPOCH + Duration::new(1_200_000_000, 5);
    fs::File::open(desk.path("lost/deep")).unwrap().set_modified(modified).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    desk.migrator([&["copy", "lost", target], &keep[..]].concat()).run().exits(0);
    desk.migrator(&back).run().exits(0);
    rsync_finds_no_difference(desk);
}

/// The second judge shares no code with the first: bytes, modes, owners, times, links and extended attributes, of
/// directories as well, and nothing more or less.
fn rsync_finds_no_difference(desk: &Desk) {
    let rsync = Command::new("rsync")
        .args(["-aXcni", "--delete", "--exclude=/.storage", "--filter=-x user.storage.*", "lost/", "source/"])
        .current_dir(desk.path(""))
        .output();
    match rsync {
        Ok(output) => assert!(output.status.success() && output.stdout.is_empty(), "{output:?}"),
        Err(error) => test_rig::skip::unable(&format!("rsync, the second judge, is not here: {error}")),
    }
}

/// Who restores need not be root: a directory that takes no file from its owner still takes those that are its own.
#[test]
fn a_directory_that_may_not_be_written_to_comes_back_with_its_files() {
    let desk = Desk::new();
    for name in ["closed/a", "closed/b", "closed/beneath/c", "closed/beneath/deeper/d"] {
        desk.write(&format!("source/{name}"), name);
    }
    fs::create_dir(desk.source("closed/hollow")).unwrap();
    desk.give_to_nobody();
    for name in ["closed/beneath/deeper", "closed/beneath", "closed/hollow", "closed"] {
        fs::set_permissions(desk.source(name), fs::Permissions::from_mode(0o555)).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(desk.source(name)).unwrap().set_modified(modified).unwrap();
    }
    let before = inventory(&desk.path("source"));
    let keep = ["--preserve", "all"];
    desk.migrator([&["copy", "source", "embedded:bucket"], &keep[..]].concat()).by_nobody().run().exits(0);
    let ran = desk.migrator([&["restore", "embedded:bucket", "back"], &keep[..]].concat()).by_nobody().run();
    let ran = ran.exits(0);
    assert_eq!(inventory(&desk.path("back")), before, "{ran}");
    // So that the desk can be removed.
    for root in ["source", "back"] {
        for name in ["closed", "closed/beneath", "closed/beneath/deeper", "closed/hollow"] {
            fs::set_permissions(desk.path(root).join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

/// A directory is a file to a sync, but its own object cannot be put into the quarantine.
#[test]
fn a_sync_removes_directories_with_their_files_and_keeps_empty_ones() {
    let desk = Desk::new();
    for name in ["gone/a", "kept/b", "stays"] {
        desk.write(&format!("source/{name}"), name);
    }
    let line = ["sync", "source", "target", "--delete", "--preserve", "all", "--quarantine-days", "0"];
    desk.migrator(line).run().exits(0);
    fs::remove_dir_all(desk.source("gone")).unwrap();
    fs::remove_file(desk.source("kept/b")).unwrap();
    let ran = desk.migrator(line).run().exits(0);
    assert!(!desk.path("target/gone").exists(), "{ran}");
    assert!(desk.path("target/kept").is_dir() && !desk.path("target/kept/b").exists(), "{ran}");
    let ran = desk.migrator(line).run().exits(0);
    assert!(desk.path("target/kept").is_dir(), "{ran}");
    let times = |root: &str| desk.path(root).join("kept").metadata().unwrap().modified().unwrap();
    assert_eq!(times("source"), times("target"), "{ran}");
}

/// A real file of the name would come back as a directory's attributes, or not at all.
#[test]
fn a_file_that_has_the_name_of_a_directorys_object_is_refused() {
    let desk = Desk::new();
    desk.write("source/d/.storage-directory", "a file");
    desk.write("source/d/other", "other");
    let line = ["copy", "source", "embedded:bucket", "--preserve", "directories", "--report", "report"];
    let ran = desk.migrator(line).run().exits(4);
    assert!(ran.stdout.contains("stands for a directory"), "{ran}");
    assert_eq!(Report::read(&desk.path("report")).sum("failed"), 1, "{ran}");
    assert!(desk.path("bucket/d/other").exists(), "{ran}");
    desk.migrator(["copy", "source", "embedded:plain"]).run().exits(0);
}

#[test]
fn a_tree_that_was_lost_comes_back_from_the_embedded_server_as_it_was() {
    let desk = Desk::new();
    there_and_back(&desk, "embedded:bucket", |run| run);
    // Garage's versions follow from the bytes, and do not tell that a directory's attributes changed.
    there_and_back_again(&desk, "embedded:bucket");
}

#[test]
fn a_tree_that_was_lost_comes_back_from_garage_as_it_was() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    there_and_back(&desk, &remote.url(), |run| run.at(&remote.endpoint));
}

/// P6: an attribute that an object cannot carry is not dropped; its file fails, and says why.
#[test]
fn attributes_that_do_not_fit_an_object_fail_their_file_alone() {
    let desk = Desk::new();
    for name in ["fits", "heavy"] {
        desk.write(&format!("source/{name}"), name);
    }
    if let Err(error) = setxattr(desk.source("heavy"), "user.note", &[b'x'; 1_500], XattrFlags::empty()) {
        return test_rig::skip::unable(&format!("no extended attributes here: {error}"));
    }
    let line = ["copy", "source", "embedded:bucket", "--preserve", "mode,xattrs", "--report", "report"];
    let ran = desk.migrator(line).run().exits(4);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("failed")), (1, 1), "{ran}");
    assert_eq!(report.row("heavy").unwrap()["outcome"], "failed", "{ran}");
    assert!(!desk.path("bucket/heavy").exists());
}

/// One attribute of one file must not keep a migration from its end.
#[test]
fn attributes_that_do_not_fit_can_be_left_behind_with_a_warning() {
    let desk = Desk::new();
    desk.write("source/heavy", "heavy");
    let set = |name: &str, size: usize| {
        setxattr(desk.source("heavy"), name, &vec![b'x'; size][..], XattrFlags::empty())
    };
    if let Err(error) = set("user.huge", 1_500).and_then(|()| set("user.light", 20)) {
        return test_rig::skip::unable(&format!("no extended attributes here: {error}"));
    }
    let line = ["copy", "source", "embedded:bucket", "--preserve", "xattrs,mtime"];
    desk.migrator(line).run().exits(4);
    let ran = desk.migrator(line).args(["--preserve-xattrs", "skip-too-large"]).run().exits(0);
    let told =
        "heavy: its extended attribute user.huge of 1500 bytes does not fit an object and is left behind";
    assert!(ran.stderr.contains(told), "{ran}");
    desk.migrator(["restore", "embedded:bucket", "back", "--preserve", "xattrs,mtime"]).run().exits(0);
    let mut value = [0; 32];
    assert_eq!(getxattr(desk.path("back/heavy"), "user.light", &mut value[..]).unwrap(), 20);
    assert!(getxattr(desk.path("back/heavy"), "user.huge", &mut value[..]).is_err());
    // Into a directory it fits.
    let line = ["copy", "source", "plain", "--preserve", "xattrs", "--preserve-xattrs", "skip-too-large"];
    desk.migrator(line).run().exits(0);
    assert!(getxattr(desk.path("plain/heavy"), "user.huge", &mut [0; 2_000][..]).is_ok());
}

/// Without a word nothing is kept, and a link stays a thing that is skipped.
#[test]
fn nothing_is_kept_that_was_not_asked_for() {
    let desk = Desk::new();
    desk.write("source/a", "a");
    symlink("a", desk.source("link")).unwrap();
    desk.migrator(["copy", "source", "embedded:bucket", "--report", "report"]).run().exits(0);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("skipped")), (1, 1));
    let refused = desk.migrator(["copy", "embedded:bucket", "embedded:other", "--preserve", "mode"]).run();
    refused.refuses(2, &["neither storage is a directory"]);
}

/// The mode, the owner and the note of a file.
fn kept_of(path: &Path) -> (u32, u32, Option<Vec<u8>>) {
    let stat = path.symlink_metadata().unwrap();
    (stat.mode() & 0o7777, stat.uid(), note(path))
}

/// Whoever can write to a bucket must not decide what a restored file may do: `security.capability` is a program with the
/// rights of root.
#[test]
fn no_extended_attribute_comes_back_that_is_not_of_users() {
    let desk = Desk::new();
    for (name, xattr) in
        [("capable", "security.capability"), ("forged", "user.storage.attributes"), ("fine", "user.note")]
    {
        desk.write(&format!("source/{name}"), name);
        let text = format!("mode=755;x.{}=61", hex::encode(xattr));
        let rule = format!("posix={text}");
        desk.migrator(["copy", "source", "embedded:bucket", "--include", name, "--tag", &rule])
            .run()
            .exits(0);
    }
    let line = ["restore", "embedded:bucket", "back", "--preserve", "xattrs", "--report", "report"];
    let ran = desk.migrator(line).run().exits(4);
    assert!(ran.stdout.contains("does not hold attributes of a file"), "{ran}");
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), 1, "{ran}");
    assert_eq!(note(&desk.path("back/fine")), Some(b"a".to_vec()), "{ran}");
    assert!(!desk.path("back/capable").exists() && !desk.path("back/forged").exists(), "{ran}");
}

/// A program with the rights of its owner becomes one with the rights of whoever restores it.
#[test]
fn set_user_id_comes_back_with_its_owner_only() {
    let desk = Desk::new();
    desk.write("source/program", "program");
    fs::set_permissions(desk.source("program"), fs::Permissions::from_mode(0o4755)).unwrap();
    desk.migrator(["copy", "source", "embedded:bucket", "--preserve", "mode,owner"]).run().exits(0);
    for (what, expected) in [("mode", 0o755), ("mode,owner", 0o4755)] {
        let back = format!("back-{expected:o}");
        desk.migrator(["restore", "embedded:bucket", &back, "--preserve", what]).run().exits(0);
        assert_eq!(kept_of(&desk.path(&back).join("program")).0, expected, "{what}");
    }
}

/// What only its owner may read is at no moment there for others: where the owner cannot be set nothing appears.
#[test]
fn a_private_file_whose_owner_cannot_be_set_does_not_appear() {
    if !geteuid().is_root() {
        return test_rig::skip::unable("only root can give a file to somebody else");
    }
    let desk = Desk::new();
    desk.write("source/secret", "secret");
    fs::set_permissions(desk.source("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    desk.migrator(["copy", "source", "embedded:bucket", "--preserve", "mode,owner"]).run().exits(0);
    desk.give_to_nobody();
    let line = ["restore", "embedded:bucket", "back", "--preserve", "mode,owner", "--report", "report"];
    let ran = desk.migrator(line).by_nobody().run().exits(4);
    assert!(ran.stdout.contains("the owner cannot be made 0:0"), "{ran}");
    assert!(!desk.path("back/secret").exists(), "{ran}");
}

/// The attributes are on the file before the storage's own are bound to its time: they stay those of these bytes.
#[test]
fn what_the_storage_knows_of_a_file_survives_the_time_that_is_set() {
    let desk = Desk::new();
    desk.write("source/a.bin", "a");
    desk.write("source/large", bytes(7, 6 << 20));
    let line = ["--preserve", "mode,mtime", "--part-size", "5MiB"];
    let tag = ["--content-type", "*=image/x-test"];
    desk.migrator([&["copy", "source", "embedded:bucket"], &tag[..], &line[..]].concat()).run().exits(0);
    desk.migrator([&["restore", "embedded:bucket", "back"], &line[..]].concat()).run().exits(0);
    for name in ["a.bin", "large"] {
        let mut value = [0; 4096];
        let length =
            getxattr(desk.path("back").join(name), "user.storage.attributes", &mut value[..]).unwrap();
        let own: serde_json::Value = serde_json::from_slice(&value[..length]).unwrap();
        let stat = desk.path("back").join(name).metadata().unwrap();
        assert_eq!(own["modified"][0], stat.mtime(), "{own}");
        assert_eq!(own["modified"][1], stat.mtime_nsec(), "{own}");
        assert_eq!(own["content_type"], "image/x-test", "{own}");
        assert!(own["digest"].is_string() && own["tags"].is_null(), "{own}");
    }
}

/// Links are removed, put away and replaced like files.
#[test]
fn a_sync_replaces_and_removes_links_and_puts_them_away_as_they_are() {
    let desk = Desk::new();
    desk.write("source/stays", "stays");
    for name in ["gone", "deep/gone", "becomes-a-file", "changes"] {
        fs::create_dir_all(desk.source("deep")).unwrap();
        symlink("/old/place", desk.source(name)).unwrap();
    }
    desk.write("source/becomes-a-link", "a file");
    let private = desk.write("source/secret", "secret");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    setxattr(&private, "user.note", b"note", XattrFlags::empty()).unwrap();
    let line = [
        "sync",
        "source",
        "target",
        "--delete",
        "--max-delete",
        "9",
        "--preserve",
        "all",
        "--report",
        "report",
    ];
    desk.migrator(line).run().exits(0);
    for name in ["gone", "deep/gone", "becomes-a-file", "changes", "becomes-a-link", "secret"] {
        fs::remove_file(desk.source(name)).unwrap();
    }
    fs::remove_dir(desk.source("deep")).unwrap();
    desk.write("source/becomes-a-file", "a file now");
    symlink("stays", desk.source("becomes-a-link")).unwrap();
    symlink("/new/place", desk.source("changes")).unwrap();
    let ran = desk.migrator(line).run().exits(0);
    assert_eq!(fs::read(desk.path("target/becomes-a-file")).unwrap(), b"a file now", "{ran}");
    assert_eq!(fs::read_link(desk.path("target/becomes-a-link")).unwrap(), Path::new("stays"), "{ran}");
    assert_eq!(fs::read_link(desk.path("target/changes")).unwrap(), Path::new("/new/place"), "{ran}");
    for name in ["gone", "deep", "secret"] {
        assert!(desk.path("target").join(name).symlink_metadata().is_err(), "{name}: {ran}");
    }
    let drawer = fs::read_dir(desk.path("target/.quarantine")).unwrap().next().unwrap().unwrap().path();
    for name in ["gone", "deep/gone"] {
        assert_eq!(fs::read_link(drawer.join(name)).unwrap(), Path::new("/old/place"), "{ran}");
    }
    assert_eq!(kept_of(&drawer.join("secret")), (0o600, geteuid().as_raw(), Some(b"note".to_vec())), "{ran}");
    let ran = desk.migrator(line).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), 0, "{ran}");
    // Their time comes as that of files.
    let expired = desk.path("target/.quarantine/until-20200101T000000.000000000Z-run-1");
    fs::rename(&drawer, &expired).unwrap();
    let ran = desk.migrator(["cleanup", "source", "target"]).run().exits(0);
    assert!(!expired.exists(), "{ran}");
}

/// Who syncs need not be root: what leaves the source leaves a directory that takes no file, too, and one that is opened in
/// the source is open in the target.
#[test]
fn a_sync_removes_from_directories_that_may_not_be_written_to() {
    let desk = Desk::new();
    for name in ["closed/a", "closed/b", "opens/c"] {
        desk.write(&format!("source/{name}"), name);
    }
    desk.give_to_nobody();
    let set = |root: &str, name: &str, mode: u32| {
        fs::set_permissions(desk.path(root).join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["closed", "opens"] {
        set("source", name, 0o555);
    }
    let line = ["sync", "source", "target", "--delete", "--preserve", "all", "--quarantine-days", "0"];
    desk.migrator(line).by_nobody().run().exits(0);
    fs::remove_file(desk.source("closed/b")).unwrap();
    set("source", "opens", 0o755);
    let ran = desk.migrator(line).by_nobody().run().exits(0);
    assert!(!desk.path("target/closed/b").exists(), "{ran}");
    assert_eq!(kept_of(&desk.path("target/closed")).0, 0o555, "{ran}");
    assert_eq!(kept_of(&desk.path("target/opens")).0, 0o755, "{ran}");
    // As a process leaves it that was killed while it put a file there.
    set("target", "closed", 0o755);
    desk.write("source/closed/new", "new");
    desk.give_to_nobody();
    let ran = desk.migrator(line).by_nobody().run().exits(0);
    assert!(desk.path("target/closed/new").exists(), "{ran}");
    assert_eq!(kept_of(&desk.path("target/closed")).0, 0o555, "{ran}");
}

/// A directory's own extended attributes may be as large as the file system takes them.
#[test]
fn large_extended_attributes_of_a_directory_are_no_full_disk() {
    let desk = Desk::new();
    desk.write("source/d/a", "a");
    if let Err(error) = setxattr(desk.source("d"), "user.note", &[b'x'; 2_500], XattrFlags::empty()) {
        return test_rig::skip::unable(&format!("no extended attributes here: {error}"));
    }
    desk.migrator(["copy", "source", "target", "--preserve", "all"]).run().exits(0);
    assert_eq!(getxattr(desk.path("target/d"), "user.note", &mut [0; 4096][..]).unwrap(), 2_500);
}

/// Without a word, links came back as empty files and every directory had one more.
#[test]
fn what_stands_for_a_link_or_a_directory_is_never_made_an_empty_file() {
    let desk = Desk::new();
    desk.write("source/d/file", "file");
    symlink("d/file", desk.source("link")).unwrap();
    desk.migrator(["copy", "source", "embedded:bucket", "--preserve", "all"]).run().exits(0);
    let restore = desk.migrator(["restore", "embedded:bucket", "back", "--report", "report"]);
    let ran = restore.clone().run().exits(4);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("copied"), report.sum("failed")), (1, 3), "{ran}");
    assert!(ran.stdout.contains("--preserve all"), "{ran}");
    assert!(!desk.path("back/link").exists() && !desk.path("back/d/.storage-directory").exists(), "{ran}");
    restore.args(["--preserve", "all"]).run().exits(0);
    assert_eq!(fs::read_link(desk.path("back/link")).unwrap(), Path::new("d/file"));
}

/// "quarantined 3" of objects that stood for directories which the source still had.
#[test]
fn a_sync_that_does_not_see_directories_leaves_their_objects_alone() {
    let desk = Desk::new();
    desk.write("source/d/file", "file");
    let sync = desk.migrator(["sync", "source", "embedded:bucket", "--delete", "--report", "report"]);
    sync.clone().args(["--preserve", "all"]).run().exits(0);
    let ran = sync.clone().run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("quarantined"), 0, "{ran}");
    assert!(desk.path("bucket/d/.storage-directory").exists(), "{ran}");
    // A sync that sees them removes what stood for one that is gone.
    fs::remove_dir_all(desk.source("d")).unwrap();
    desk.write("source/other", "other");
    let ran = sync.args(["--preserve", "all"]).run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("quarantined"), 2, "{ran}");
}
