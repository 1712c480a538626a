//! `verify`, `cleanup` and the empty source, from outside.

use std::os::unix::fs::FileExt;

use rustix::process::Signal;

use crate::support::{Desk, Remote, Report, bytes, stored};

/// A bit that flips at rest changes no size, no time and no checksum that was stored: only reading finds it.
#[test]
fn a_flipped_bit_in_a_stored_object_is_found_by_reading_and_repaired_by_the_next_copy() {
    let desk = Desk::new();
    for name in ["a", "b/c", "large"] {
        desk.write(&format!("source/{name}"), bytes(1, if name == "large" { 12 << 20 } else { 5000 }));
    }
    let pair = ["source", "embedded:bucket", "--report", "report"];
    desk.migrator([&["copy", "--part-size", "5MiB"], &pair[..]].concat()).run().exits(0);
    for name in ["b/c", "large"] {
        let file = std::fs::OpenOptions::new().write(true).open(desk.path("bucket").join(name)).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let original = std::fs::read(desk.path("bucket").join(name)).unwrap()[4321];
        file.write_all_at(&[original ^ 1], 4321).unwrap();
        file.set_modified(modified).unwrap();
    }
    let ran = desk.migrator([&["verify", "--read-back"], &pair[..]].concat()).run().exits(5);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("unchanged"), report.sum("different")), (1, 2), "{ran}");
    for name in ["b/c", "large"] {
        assert_eq!(report.row(name).unwrap()["outcome"], "different", "{ran}");
    }
    desk.migrator([&["copy", "--part-size", "5MiB"], &pair[..]].concat()).run().exits(0);
    desk.migrator([&["verify", "--read-back"], &pair[..]].concat()).run().exits(0);
    assert_eq!(stored(&desk.path("bucket")), stored(&desk.path("source")));
}

/// A source that is not mounted looks like an empty one.
#[test]
fn an_empty_source_is_refused_and_nothing_is_taken_for_gone() {
    let desk = Desk::new();
    desk.write("source/a", "abc");
    desk.migrator(["copy", "source", "target"]).run().exits(0);
    std::fs::rename(desk.path("source"), desk.path("elsewhere")).unwrap();
    std::fs::create_dir(desk.path("source")).unwrap();
    for command in ["copy", "verify"] {
        desk.migrator([command, "source", "target"]).run().refuses(6, &["empty", "--allow-empty-source"]);
    }
    assert!(desk.path("target/a").exists());
    desk.migrator(["copy", "source", "target", "--allow-empty-source"]).run().exits(0);
    assert!(desk.path("target/a").exists(), "a copy deletes nothing");
}

/// Nobody goes on with the upload of a file that is gone, and its parts are billed.
#[test]
fn cleanup_discards_the_uploads_of_this_ledger_and_no_others() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    desk.write("source/large", bytes(1, 40 << 20));
    let line = ["copy", "source", &remote.url(), "--part-size", "5MiB", "--bandwidth", "10MiB/s"];
    let mut run = desk.migrator(line).at(&remote.endpoint).start();
    run.until("an upload is open", |_| !remote.uploads().is_empty());
    run.signal(Signal::KILL);
    run.wait();
    assert_eq!(remote.uploads().len(), 1);
    // The source is retired: its ledger still knows the upload.
    std::fs::rename(desk.path("source"), desk.path("elsewhere")).unwrap();
    let cleanup = || desk.migrator(["cleanup", "source", &remote.url()]).at(&remote.endpoint);
    cleanup().run().exits(0);
    assert_eq!(remote.uploads().len(), 1, "a copy could go on with it");
    cleanup().args(["--older-than", "0s"]).run().exits(0);
    assert_eq!(remote.uploads().len(), 0);
}
