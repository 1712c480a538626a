//! What may not be read is reported, never taken for gone. The tests may be root's, for whom modes do not hold, so
//! the program runs as `nobody`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::support::{Desk, Report, stored};

fn chmod(desk: &Desk, name: &str, mode: u32) {
    fs::set_permissions(desk.source(name), Permissions::from_mode(mode)).unwrap();
}

/// Modes that the scratch directory's removal can cope with.
struct Readable<'d>(&'d Desk);

impl Drop for Readable<'_> {
    fn drop(&mut self) {
        for name in ["closed", "names", "shut"] {
            let _ = fs::set_permissions(self.0.source(name), Permissions::from_mode(0o755));
        }
    }
}

/// One unreadable directory made s5cmd delete 6 of 9 good objects: a view with holes says nothing about what is in
/// the holes.
#[test]
fn what_cannot_be_read_is_reported_and_not_taken_for_gone() {
    let desk = Desk::new();
    for name in ["open", "closed/a", "closed/deep/b", "names/c", "names/deep/d", "shut", "zz"] {
        desk.write(&format!("source/{name}"), name);
    }
    desk.give_to_nobody();
    let copy = desk.migrator(["copy", "source", "embedded:target", "--report", "report"]).by_nobody();
    copy.clone().run().exits(0);
    let before = stored(&desk.path("target"));
    assert_eq!(before.len(), 7);

    let _readable = Readable(&desk);
    chmod(&desk, "closed", 0o000);
    // Names can be read, what they name cannot be looked at.
    chmod(&desk, "names", 0o444);
    // Unchanged but for its mode, which its identity holds.
    chmod(&desk, "shut", 0o000);
    desk.write("source/new", "new");
    let ran = copy.clone().run().exits(4);
    let report = Report::read(&desk.path("report"));
    let failed: Vec<_> = report.rows.iter().filter(|row| row["outcome"] == "failed").collect();
    let names: Vec<_> = failed.iter().map(|row| row["id"].as_str()).collect();
    assert_eq!(names, ["closed/", "names/c", "names/deep/", "shut"], "{ran}");
    assert!(failed.iter().all(|row| row["reason"] == "denied"), "{failed:?}");
    assert_eq!((report.sum("copied"), report.sum("unchanged")), (1, 2), "{ran}");
    assert_eq!((report.sum("gone"), report.sum("unseen")), (0, 3), "{ran}");
    assert_eq!(report.json["run"]["scan_complete"], false);
    let after = stored(&desk.path("target"));
    assert!(before.iter().all(|(name, entry)| after.get(name) == Some(entry)), "{after:?}");
    for name in ["closed/", "names/c", "names/deep/", "shut"] {
        assert!(ran.stderr.contains(name), "{name}\n{ran}");
    }

    // Readable again: nothing of it needs to be sent but what had its mode changed.
    for (name, mode) in [("closed", 0o755), ("names", 0o755), ("shut", 0o644)] {
        chmod(&desk, name, mode);
    }
    copy.run().exits(0);
    let report = Report::read(&desk.path("report"));
    assert_eq!((report.sum("unchanged"), report.sum("copied"), report.sum("gone")), (7, 1, 0));
}
