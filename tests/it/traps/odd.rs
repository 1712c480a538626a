//! Entries that are no plain files: they hang other tools, or become rubbish in the target.

use std::fs;
use std::os::unix::fs::symlink;

use test_rig::Tree;

use crate::support::{Desk, Report, assert_same, entry, stored};

/// A dangling link aborts the listing of some tools; a circle is followed for ever; a fifo is waited for.
#[test]
fn links_fifos_and_sockets_are_skipped_with_a_reason_and_never_opened() {
    let desk = Desk::new();
    let tree = Tree::new(desk.path("source"), 3).unwrap().file("plain", 10).unwrap();
    let tree = tree.symlinks("links").unwrap().special("special").unwrap().finish();
    let ran = desk.migrator(["copy", "source", "embedded:target", "--report", "report"]).run().exits(0);
    assert_same("target", &stored(&desk.path("target")), &tree.keys());
    let report = Report::read(&desk.path("report"));
    assert_eq!(report.sum("skipped"), tree.foreign.len() as u64);
    assert_eq!(report.sum("planned"), (tree.files.len() + tree.foreign.len()) as u64);
    for (path, kind) in &tree.foreign {
        let path = std::str::from_utf8(path).unwrap();
        let row = report.row(path).unwrap_or_else(|| panic!("no row of {path}\n{ran}"));
        assert_eq!(row["outcome"], "skipped", "{row:?}");
        let named = row["reason"].replace(' ', "_").replace("symbolic_link", "symlink");
        assert!(named.contains(kind), "{kind}: {row:?}");
    }
    // The same command again: nothing new, and they are told again.
    let again = desk.migrator(["copy", "source", "embedded:target", "--json"]).run().exits(0).summary();
    assert_eq!(again["sums"]["skipped"]["files"], tree.foreign.len() as u64);
    assert_eq!(again["sums"]["unchanged"]["files"], tree.files.len() as u64);
}

/// One inode with two names is two files to an object storage, and both have the content.
#[test]
fn hard_links_are_both_copied() {
    let desk = Desk::new();
    let tree = Tree::new(desk.path("source"), 4).unwrap().file("a/one", 70_000).unwrap();
    let tree = tree.hard_link("a/one", "b/two").unwrap().finish();
    desk.migrator(["copy", "source", "target"]).run().exits(0);
    assert_same("target", &stored(&desk.path("target")), &tree.keys());
}

/// A hole reads as zeros: in one request, and in parts.
#[test]
fn a_sparse_file_arrives_with_its_zeros() {
    let desk = Desk::new();
    let tree = Tree::new(desk.path("source"), 5).unwrap().sparse("small", 3 << 20).unwrap();
    let tree = tree.sparse("large", 23 << 20).unwrap().sparse("hole", 1).unwrap().finish();
    desk.migrator(["copy", "source", "embedded:target", "--part-size", "5MiB"]).run().exits(0);
    assert_same("target", &stored(&desk.path("target")), &tree.keys());
}

/// An empty tree and an empty file are not the same nothing.
#[test]
fn an_empty_source_and_an_empty_file_are_copied_as_they_are() {
    let desk = Desk::new();
    let copy = desk.migrator(["copy", "source", "embedded:target", "--report", "report"]);
    copy.clone().run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("planned"), 0);
    desk.write("source/empty", "");
    copy.run().exits(0);
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), 1);
    assert_eq!(stored(&desk.path("target"))["empty"].size, 0);
}

/// The row of the file that was must not stand beside the line of what it is now: the sums would not add up.
#[test]
fn a_copied_file_that_became_a_link_or_a_fifo_is_told_once() {
    let desk = Desk::new();
    for name in ["fifo", "link", "plain"] {
        desk.write(&format!("source/{name}"), name);
    }
    let copy = desk.migrator(["copy", "source", "embedded:target", "--report", "report"]);
    copy.clone().run().exits(0);
    fs::remove_file(desk.source("fifo")).unwrap();
    fs::remove_file(desk.source("link")).unwrap();
    symlink("/etc/hostname", desk.source("link")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, desk.source("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for _ in 0..2 {
        copy.clone().run().exits(0);
        let report = Report::read(&desk.path("report"));
        assert_eq!((report.sum("skipped"), report.sum("unchanged")), (2, 1));
        assert_eq!(stored(&desk.path("target"))["link"], entry(b"link"), "nothing is deleted or replaced");
    }
    let verify = desk.migrator(["verify", "source", "embedded:target", "--json"]).run().exits(0).summary();
    assert_eq!(
        (&verify["sums"]["skipped"]["files"], &verify["sums"]["unchanged"]["files"]),
        (&2.into(), &1.into())
    );
    // A file again: copied again.
    fs::remove_file(desk.source("link")).unwrap();
    desk.write("source/link", "new");
    copy.run().exits(0);
    assert_eq!(stored(&desk.path("target"))["link"], entry(b"new"));
}
