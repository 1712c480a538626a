//! Names that have broken copiers: byte-exact in the target, or listed with the reason.

use test_rig::{Manifest, Tree};

use crate::support::{Desk, Remote, Report, assert_same};

/// Keys that were encoded, normalised or trimmed on their way are other files, or none.
#[test]
fn odd_names_arrive_byte_for_byte() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let tree = Tree::new(&desk.path("source"), 1).unwrap().odd_names("").unwrap().finish();
    let copy = desk.migrator(["copy", "source", &remote.url(), "--report", "report"]).at(&remote.endpoint);
    copy.run().exits(0);
    assert_same("Garage, seen by boto3", &remote.files(), &tree.keys());
    let report = Report::read(&desk.path("report"));
    assert_eq!(report.sum("copied"), tree.files.len() as u64);
    assert_eq!(Manifest::read(&desk.path("source")).unwrap(), tree, "the source was changed");
}
