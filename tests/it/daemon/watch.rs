//! Changes of the source, as they happen.

use std::fs;

use super::hall::{Stage, job};
use crate::support::{assert_same, bytes, count, stored};

/// Created, changed, replaced, moved and removed: each is seen by itself, and at the end everything is there.
#[test]
fn what_changes_is_copied_and_what_is_plain_is_copied_alone() {
    let stage = Stage::new(&job("files", "watch = true\ndebounce = \"1s\""));
    stage.desk.write("source/a", "a");
    stage.desk.write("source/sub/b", "b");
    let hall = stage.start();
    let view = hall.until("files", "it looks at everything first", |view| view["last"]["result"] == "ok");
    assert_eq!(
        (&view["watch"]["state"], &view["due"]["why"]),
        (&"on".into(), &"reconcile".into()),
        "{view:#}"
    );
    let verified = |files: u64| {
        hall.until("files", "it is copied", move |view| {
            view["coverage"]["verified"]["files"] == files
                && view["run"].is_null()
                && view["watch"]["changes"] == false
        })
    };
    verified(2);

    hall.desk().write("source/sub/new", bytes(3, 100_000));
    verified(3);
    let run = hall.latest_run("files");
    assert_eq!((count(&run["sums"]["planned"]), count(&run["sums"]["copied"])), (1, 1), "{run:#}");

    // Replaced by a rename, as editors do.
    hall.desk().write("source/a.swp", "changed");
    fs::rename(hall.desk().source("a.swp"), hall.desk().source("a")).unwrap();
    hall.until("files", "it is replaced", |_| hall.stored().get("a").is_some_and(|entry| entry.size == 7));

    // A tree that is filled while its directories are not watched yet.
    for index in 0..20 {
        hall.desk().write(&format!("source/deep/{index}/x/y"), [index]);
    }
    verified(23);
    assert_same("target", &hall.stored(), &stored(&hall.desk().path("source")));

    fs::remove_file(hall.desk().source("sub/new")).unwrap();
    let view =
        hall.until("files", "it is known as gone", |view| view["coverage"]["states"]["gone"]["files"] == 1);
    assert_eq!(view["coverage"]["verified"]["files"], 22);
    assert!(hall.stored().contains_key("sub/new"), "a copy deletes nothing");
    hall.stop().1.exits(0);
}

/// Reading is no change: a run must not set off the next.
#[test]
fn a_run_does_not_follow_itself() {
    let stage = Stage::new(&job("files", "watch = true\ndebounce = \"1s\""));
    for index in 0..50 {
        stage.desk.write(&format!("source/{index}"), bytes(index, 3_000));
    }
    let hall = stage.start();
    hall.until("files", "it has run", |view| view["last"]["result"] == "ok");
    hall.run("files");
    std::thread::sleep(std::time::Duration::from_secs(3));
    let view = hall.job("files");
    assert_eq!((&view["watch"]["changes"], hall.runs("files").len()), (&false.into(), 2), "{view:#}");
}

/// A restart is a hole in the watch, as short as an upgrade or as long as a night.
#[test]
fn what_changed_while_nobody_watched_is_copied_after_the_restart() {
    let stage = Stage::new(&job("files", "watch = true"));
    stage.desk.write("source/a", "a");
    let hall = stage.start();
    hall.until("files", "it has run", |view| view["last"]["result"] == "ok");
    let (stage, ran) = hall.stop();
    ran.exits(0);
    stage.desk.write("source/b", "b");
    let hall = stage.start();
    hall.until("files", "it is copied", |view| view["coverage"]["verified"]["files"] == 2);
    assert_same("target", &hall.stored(), &stored(&hall.desk().path("source")));
}
