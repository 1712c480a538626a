//! What a sync may take for left over where another ledger, or an older copy of this one, knows what was moved away.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::{furnished, remove, run};
use crate::support::{Desk, Ran, assert_same, stored};

fn sync(desk: &Desk, more: &[&str]) -> Ran {
    let line =
        ["sync", "source", "embedded:target", "--delete", "--allow-empty-source", "--max-delete", "100%"];
    run(desk, &[&line, more].concat()).run()
}

/// Restored from a backup, it has moved files away before, and not all that were.
#[test]
fn a_ledger_that_is_older_than_the_last_removal_deletes_nothing() {
    let (desk, files) = furnished();
    remove(&desk).args(["--include", "/a", "--ledger", "ledger.sqlite"]).run().exits(0);
    run(&desk, &["copy", "source", "embedded:target", "--ledger", "ledger.sqlite"]).run().exits(0);
    fs::copy(desk.path("ledger.sqlite"), desk.path("older.sqlite")).unwrap();
    remove(&desk).args(["--ledger", "ledger.sqlite"]).run().exits(0);
    let ran = sync(&desk, &["--ledger", "older.sqlite"]).refuses(6, &["moved away", "--ledger"]);
    assert_same(&format!("target\n{ran}"), &stored(&desk.path("target")), &files);
    // Not even once it has moved something itself.
    desk.write("source/b", "b");
    remove(&desk).args(["--ledger", "older.sqlite"]).run().exits(0);
    for ledger in ["older.sqlite", "ledger.sqlite"] {
        sync(&desk, &["--ledger", ledger]).refuses(6, &["moved away", "--ledger"]);
    }
    let mut target = stored(&desk.path("target"));
    target.remove("b");
    assert_same("target", &target, &files);
}

/// What cannot be looked at is not what is not there.
#[test]
fn a_quarantine_that_may_not_be_read_is_not_taken_for_none() {
    let (desk, files) = furnished();
    remove(&desk).run().exits(0);
    desk.give_to_nobody();
    let home = desk.path("source/.storage/quarantine");
    fs::set_permissions(&home, Permissions::from_mode(0o000)).unwrap();
    let line = ["sync", "source", "embedded:target", "--delete", "--ledger", "fresh.sqlite"];
    let more = ["--allow-empty-source", "--max-delete", "100%"];
    let ran = run(&desk, &[&line[..], &more].concat()).by_nobody().run();
    fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    assert_ne!(ran.status.code(), Some(0), "{ran}");
    assert!(ran.stderr.contains("quarantine"), "{ran}");
    assert_same(&format!("target\n{ran}"), &stored(&desk.path("target")), &files);
}

/// The same target by another name is another pair, with a ledger of its own.
#[test]
fn what_was_moved_away_for_another_name_of_the_target_is_not_left_over() {
    let (desk, files) = furnished();
    remove(&desk).run().exits(0);
    let more = ["--delete", "--allow-empty-source", "--max-delete", "100%"];
    let ran = run(&desk, &[&["sync", "source", "target"][..], &more].concat()).run();
    let ran = ran.refuses(6, &["moved away", "embedded:", ".storage/quarantine/"]);
    assert_same(&format!("target\n{ran}"), &stored(&desk.path("target")), &files);
    // With its own name it goes on.
    sync(&desk, &[]).exits(0);
    assert_same("target", &stored(&desk.path("target")), &files);
}
