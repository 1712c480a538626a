use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use storage_core::error::{Error, ErrorKind};
use storage_core::storage::FileStorageExt;

use super::*;

/// Makes the files that can be next to each other, and returns their ids in order.
fn make(root: &Path, names: &[String]) -> Vec<String> {
    let mut made = BTreeSet::new();
    for name in names {
        let path = root.join(name);
        if path.exists() || std::fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        if std::fs::write(&path, name).is_ok() {
            made.insert(name.clone());
        }
    }
    made.into_iter().collect()
}

async fn listed(storage: &LocalStorage, prefix: &str, after: Option<&str>) -> Vec<String> {
    let mut options = ListOptions::default();
    options.start_after = after.map(id);
    let prefix = Prefix::parse(prefix).unwrap();
    storage.list(&prefix, options).map_ok(|file| file.id.to_string()).try_collect().await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_listing_is_in_byte_order_of_ids_and_complete(
        names in prop::collection::vec("(a|b|a-|a\\.|a0|é|\u{10ffff}|A)(/(a|a-b|a\\.b|a0|é)){0,3}", 0..40),
        prefix in "(a|b|é)?(/a)?(/|-|0)?",
        after in prop::option::of("(a|b|a-|a0|é)(/(a|a-b|a0|z)){0,2}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (root, storage) = storage().await;
            let all = make(root.path(), &names);
            prop_assert_eq!(&ids(&storage).await, &all);
            let Ok(parsed) = Prefix::parse(prefix.as_str()) else { return Ok(()) };
            let expected: Vec<_> = all
                .into_iter()
                .filter(|name| parsed.matches(&id(name)))
                .filter(|name| after.as_ref().is_none_or(|after| name > after))
                .collect();
            prop_assert_eq!(listed(&storage, &prefix, after.as_deref()).await, expected);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_directory_sorts_as_its_name_with_a_slash() {
    let (root, storage) = storage().await;
    let names = ["a!", "a-b", "a.b", "a/b", "a0", "ab/c", "b"].map(str::to_owned);
    assert_eq!(make(root.path(), &names), names);
    assert_eq!(ids(&storage).await, names);
    assert_eq!(listed(&storage, "a", Some("a-b")).await, names[2..6]);
    assert_eq!(listed(&storage, "a/", None).await, ["a/b"]);
    assert_eq!(listed(&storage, "a/", Some("a/b")).await, Vec::<String>::new());
    assert_eq!(listed(&storage, "", Some("a/b")).await, names[4..]);
    assert_eq!(listed(&storage, "b/", None).await, Vec::<String>::new());
    assert_eq!(listed(&storage, "nothing/here", None).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_listing_tells_what_metadata_tells() {
    let (_root, storage) = storage().await;
    storage.upload_bytes(&id("d/a"), bytes("abc")).await.unwrap();
    let listed = list(&storage).await.remove(0);
    let metadata = storage.metadata(&id("d/a")).await.unwrap();
    assert_eq!(
        (listed.size, listed.modified, listed.version),
        (metadata.size, metadata.modified, metadata.version)
    );
}

#[tokio::test]
async fn many_files_and_many_levels_are_listed_once_each() {
    let (root, storage) = storage().await;
    // Some more than a batch, and many more levels than descriptors are held.
    let mut names: Vec<_> = (0..1_500).map(|number| format!("many/{number:05}")).collect();
    let mut path = "deep".to_owned();
    for level in 0..100 {
        path.push_str("/d");
        names.push(format!("{path}/a{level}"));
        names.push(format!("{path}/z{level}"));
    }
    let expected = make(root.path(), &names);
    assert_eq!(expected.len(), names.len());
    assert_eq!(ids(&storage).await, expected);
}

#[tokio::test]
async fn a_listing_that_is_not_read_to_its_end_is_no_harm() {
    let (root, storage) = storage().await;
    let names: Vec<_> = (0..2_000).map(|number| format!("{number:05}")).collect();
    make(root.path(), &names);
    for count in [0, 1, 600] {
        let some: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).take(count).collect().await;
        assert_eq!(some.len(), count);
    }
}

#[tokio::test]
async fn a_name_that_is_no_id_is_reported_and_hides_no_other() {
    let (root, storage) = storage().await;
    make(root.path(), &["a".to_owned(), "z".to_owned()]);
    let path = |name: &[u8]| root.path().join(std::ffi::OsStr::from_bytes(name));
    std::fs::write(path(b"b\xff"), "x").unwrap();
    std::fs::create_dir(path(b"c\xfe")).unwrap();
    std::fs::write(path(b"c\xfe/d"), "x").unwrap();
    let mut long = root.path().to_owned();
    for _ in 0..4 {
        long.push("e".repeat(250));
    }
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("f".repeat(250)), "x").unwrap();

    let items: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).collect().await;
    let names: Vec<_> = items.iter().flatten().map(|file| file.id.as_str()).collect();
    assert_eq!(names, ["a", "z"]);
    let errors: Vec<&Error> = items.iter().filter_map(|item| item.as_ref().err()).collect();
    let told: Vec<_> = errors.iter().map(|error| (error.kind(), error.message().unwrap())).collect();
    let invalid = ErrorKind::InvalidInput;
    assert_eq!(told, [(invalid, "name_not_utf8"), (invalid, "name_not_utf8"), (invalid, "name_too_long")]);
    assert_eq!(errors[0].subject(), Some("b\\xff"));
    assert_eq!(errors[1].subject(), Some("c\\xfe"));
    assert!(errors[2].subject().unwrap().ends_with("fff"));
}

#[tokio::test]
async fn what_is_no_file_is_left_out_or_reported_by_name() {
    let (root, storage) = storage().await;
    make(root.path(), &["a".to_owned(), "d/file".to_owned()]);
    symlink("a", root.path().join("d/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("e")).unwrap();
    let directory = std::fs::File::open(root.path()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(&directory, "f", rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(ids(&storage).await, ["a", "d/file"]);
    let items: Vec<_> =
        storage.list(&Prefix::all(), ListOptions::default().with_report_foreign()).collect().await;
    let told: Vec<_> = items
        .iter()
        .map(|item| match item {
            Ok(file) => (file.id.as_str(), "file"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotAFile);
                (error.id().unwrap().as_str(), error.message().unwrap())
            }
        })
        .collect();
    let expected =
        [("a", "file"), ("d/file", "file"), ("d/link", "symbolic link"), ("e", "socket"), ("f", "fifo")];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_directory_that_vanishes_during_the_walk_is_no_error() {
    let (root, storage) = storage().await;
    let mut names: Vec<_> = (0..1_100).map(|number| format!("a/{number:05}")).collect();
    names.push("z/late".to_owned());
    make(root.path(), &names);
    let mut listing = storage.list(&Prefix::all(), ListOptions::default());
    listing.try_next().await.unwrap().unwrap();
    std::fs::remove_dir_all(root.path().join("a")).unwrap();
    std::fs::remove_dir_all(root.path().join("z")).unwrap();
    // Those read ahead may still come; nothing fails.
    let rest: Vec<_> = listing.try_collect().await.unwrap();
    assert!(rest.len() < 1_100);
}
