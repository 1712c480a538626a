//! Any storage to any storage: the way back is the same command turned round.

use test_rig::Tree;

use crate::support::{Desk, Remote, Report, assert_same, stored};

/// A migration whose way back was never walked is a one-way street.
#[test]
fn what_went_to_garage_comes_back_as_it_was() {
    let Some(remote) = Remote::garage() else { return };
    let desk = Desk::new();
    let tree = Tree::new(desk.path("source"), 6).unwrap().odd_names("names").unwrap();
    let sizes = [0, 1, 4096, 65_536, (5 << 20) - 1, 5 << 20, (5 << 20) + 1, 11 << 20];
    let tree = tree.sizes("sizes", &sizes).unwrap().sparse("sparse", 12 << 20).unwrap().finish();
    let there = ["copy", "source", &remote.url(), "--part-size", "5MiB"];
    desk.migrator(there).at(&remote.endpoint).run().exits(0);
    let back = ["copy", &remote.url(), "back", "--part-size", "5MiB", "--report", "report"];
    desk.migrator(back).at(&remote.endpoint).run().exits(0);
    assert_same("what came back", &stored(&desk.path("back")), &tree.keys());
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), tree.files.len() as u64);
    // Both ledgers agree with both sides, every byte read.
    let audit = ["verify", &remote.url(), "back", "--read-back"];
    desk.migrator(audit).at(&remote.endpoint).run().exits(0);
    // And again costs nothing.
    let again = desk.migrator(back).args(["--json"]).at(&remote.endpoint).run().exits(0).summary();
    assert_eq!(again["sums"]["unchanged"]["files"], tree.files.len() as u64);
    assert_eq!(remote.uploads(), []);
}

/// Two servers at once, each with credentials of its own, which come from profiles and no command line.
#[test]
fn one_server_is_copied_to_another() {
    let (Some(from), Some(to)) = (Remote::garage(), Remote::moto()) else { return };
    let desk = Desk::new();
    // Not the oddest names: moto answers 404 to a key with a line break.
    let tree = Tree::new(desk.path("source"), 7).unwrap().file("é +%41/a b?#&.txt", 300).unwrap();
    let tree = tree.sizes("sizes", &[0, 1, 5 << 20, (5 << 20) + 1]).unwrap().finish();
    desk.migrator(["copy", "source", &from.url()]).at(&from.endpoint).run().exits(0);

    let mut profiles = String::new();
    let mut config = String::new();
    for (name, remote) in [("one", &from), ("two", &to)] {
        let server = &remote.endpoint;
        let (key, secret) = (&server.access_key, &server.secret_key);
        profiles
            .push_str(&format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"));
        config.push_str(&format!(
            "[storage.{name}]\nkind = \"s3\"\nbucket = \"{}\"\nprefix = \"{}\"\nendpoints = [\"{}\"]\n\
             region = \"{}\"\nprofile = \"{name}\"\npath_style = true\n",
            server.bucket,
            remote.prefix.trim_end_matches('/'),
            server.endpoint,
            server.region
        ));
    }
    desk.write("profiles", profiles);
    desk.write("config.toml", config);
    desk.migrator([
        "--config",
        "config.toml",
        "copy",
        "one",
        "two",
        "--part-size",
        "5MiB",
        "--report",
        "report",
    ])
    .env("AWS_SHARED_CREDENTIALS_FILE", desk.path("profiles"))
    .run()
    .exits(0);
    assert_same("moto, seen by boto3", &to.files(), &tree.keys());
    assert_eq!(Report::read(&desk.path("report")).sum("copied"), tree.files.len() as u64);
}
