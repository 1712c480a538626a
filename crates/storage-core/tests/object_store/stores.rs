//! Stores of the crate `object_store` as storages: all promises, but for those that a store leaves no room for,
//! each with its reason.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutOptions};
use storage_core::backend::object_store::{ListOrder, ObjectStoreConfig, ObjectStoreStorage};
use storage_core::error::{Effect, ErrorKind};
use storage_core::id::{FileId, Prefix};
use storage_core::storage::{
    Access, FileStorage, FileStorageExt, ListOptions, Precondition, UploadOptions, Verified,
};
use storage_core::testkit::conformance::{CASES, Fixture};
use tempfile::TempDir;

const PART: usize = 5 << 20;

fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap()
}

fn config() -> ObjectStoreConfig {
    ObjectStoreConfig::default().with_part_size(PART)
}

async fn open(store: &Arc<dyn ObjectStore>, config: ObjectStoreConfig) -> ObjectStoreStorage {
    ObjectStoreStorage::open(Arc::clone(store), config).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A storage on an empty store, with a second and a read-only opening.
async fn fixture(store: Arc<dyn ObjectStore>, config: ObjectStoreConfig) -> Fixture {
    let read_only = config.clone().with_access(Access::ReadOnly);
    Fixture::new(Arc::new(open(&store, config.clone()).await))
        .with_another(Arc::new(open(&store, config).await))
        .with_read_only(Arc::new(open(&store, read_only).await))
        .with_many(1_001)
}

/// Changes a byte of an object and keeps its attributes, as a broken disk would.
async fn corrupt(store: &dyn ObjectStore, path: &Path) {
    let got = store.get_opts(path, GetOptions::new()).await.unwrap();
    let attributes = got.attributes.clone();
    let mut bytes = got.bytes().await.unwrap().to_vec();
    bytes[0] ^= 1;
    let options = PutOptions { attributes, ..PutOptions::default() };
    store.put_opts(path, bytes.into(), options).await.unwrap();
}

async fn in_memory(order: ListOrder) -> Fixture {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let broken = Arc::clone(&store);
    let runtime = tokio::runtime::Handle::current();
    fixture(store, config().with_order(order)).await.with_corruption(move |id| {
        let path = Path::parse(id.as_str()).unwrap();
        tokio::task::block_in_place(|| runtime.block_on(corrupt(&*broken, &path)));
    })
}

async fn in_memory_as_a_stream() -> Fixture {
    in_memory(ListOrder::Ascending).await
}

async fn in_memory_as_a_walk() -> Fixture {
    in_memory(ListOrder::Unknown).await
}

async fn on_a_directory() -> Fixture {
    let root = TempDir::new().unwrap();
    let store = LocalFileSystem::new_with_prefix(root.path()).unwrap().with_automatic_cleanup(true);
    fixture(Arc::new(store), config())
        .await
        .without_corruption("a directory keeps no attributes, and so no digest to compare with")
        .with_many(300)
        .with_guard(root)
}

const CONTROLS: (&str, &str) =
    ("ids::are_kept_byte_for_byte", "paths take no control characters; see `ids_with_control_characters`");

/// Cases that no use of a store in memory can pass, and why.
const NOT_IN_MEMORY: &[(&str, &str)] = &[CONTROLS];

const NO_ATTRIBUTES: &str = "a directory keeps no attributes; see `a_directory_refuses_what_it_cannot_keep`";

/// Cases that no use of `LocalFileSystem` can pass, and why.
const NOT_ON_A_DIRECTORY: &[(&str, &str)] = &[
    CONTROLS,
    ("copy::copies_a_large_file", NO_ATTRIBUTES),
    ("copy::copies_bytes_and_attributes", NO_ATTRIBUTES),
    ("copy::leaves_the_source", NO_ATTRIBUTES),
    ("copy::onto_itself_changes_attributes", NO_ATTRIBUTES),
    ("copy::replaces_given_attributes", NO_ATTRIBUTES),
    ("copy::replaces_the_target", NO_ATTRIBUTES),
    ("delete::lets_the_id_be_used_again", NO_ATTRIBUTES),
    ("download::range_carries_the_metadata_of_the_whole", NO_ATTRIBUTES),
    ("download::reports_the_whole_range_and_the_metadata", NO_ATTRIBUTES),
    ("metadata::content_type_is_guessed_from_the_file_name", NO_ATTRIBUTES),
    ("metadata::is_the_same_in_receipt_and_download", NO_ATTRIBUTES),
    ("metadata::keeps_created_before_1970", NO_ATTRIBUTES),
    ("metadata::keeps_created_to_the_nanosecond", NO_ATTRIBUTES),
    ("metadata::keeps_every_attribute", NO_ATTRIBUTES),
    ("metadata::keeps_names_of_every_script", NO_ATTRIBUTES),
    ("metadata::keeps_the_digest_that_was_given", NO_ATTRIBUTES),
    ("metadata::large_files_keep_every_attribute", NO_ATTRIBUTES),
    ("races::many_writers_leave_one_whole_file", NO_ATTRIBUTES),
    ("upload::replaces_bytes_and_attributes", NO_ATTRIBUTES),
];

async fn group<W: Future<Output = Fixture>>(name: &str, left_out: &[(&str, &str)], fixture: impl Fn() -> W) {
    for (case, _) in left_out {
        assert!(CASES.iter().any(|other| other.name == *case), "{case}");
    }
    let mut ran = 0;
    for case in CASES.iter().filter(|case| case.name.split("::").next() == Some(name)) {
        if let Some((_, why)) = left_out.iter().find(|(other, _)| *other == case.name) {
            eprintln!("LEFT OUT: {}: {why}", case.name);
            let passed = tokio::spawn((case.run)(fixture().await)).await.is_ok();
            assert!(!passed, "{} passes: it need not be left out", case.name);
            continue;
        }
        eprintln!("{}", case.name);
        (case.run)(fixture().await).await;
        ran += 1;
    }
    assert!(ran > 0, "no case in {name}");
}

macro_rules! groups {
    ($module:ident, $fixture:ident, $left_out:ident: $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::group(stringify!($name), super::$left_out, super::$fixture).await;
                }
            )*

            #[test]
            fn no_group_is_forgotten() {
                let groups = [$(stringify!($name)),*];
                for case in super::CASES {
                    let group = case.name.split("::").next().unwrap();
                    assert!(groups.contains(&group), "{}", case.name);
                }
            }
        }
    };
}

groups!(memory_as_a_stream, in_memory_as_a_stream, NOT_IN_MEMORY:
    upload download metadata delete list copy ids races presign probe resumable);
groups!(memory_as_a_walk, in_memory_as_a_walk, NOT_IN_MEMORY:
    upload download metadata delete list copy ids races presign probe resumable);
groups!(a_directory, on_a_directory, NOT_ON_A_DIRECTORY:
    upload download metadata delete list copy ids races presign probe resumable);

async fn memory() -> (Arc<dyn ObjectStore>, ObjectStoreStorage) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = open(&store, config().with_order(ListOrder::Ascending)).await;
    (store, storage)
}

async fn directory() -> (TempDir, ObjectStoreStorage) {
    let root = TempDir::new().unwrap();
    let store = LocalFileSystem::new_with_prefix(root.path()).unwrap().with_automatic_cleanup(true);
    let storage = open(&(Arc::new(store) as Arc<dyn ObjectStore>), config()).await;
    (root, storage)
}

/// What a store can do is what was seen, not what its type promises.
#[tokio::test]
async fn capabilities_are_found_by_trying() {
    let (_, storage) = memory().await;
    let found = storage.capabilities();
    eprintln!("memory: {found:#?}");
    assert!(found.conditional_create && found.conditional_replace && found.tags && found.nested_ids);
    assert!(!found.conditional_delete && !found.verifies_sha256 && !found.resumable && !found.presigned_get);
    let (root, storage) = directory().await;
    let found = storage.capabilities();
    eprintln!("directory: {found:#?}");
    assert!(found.conditional_create);
    assert!(!found.conditional_replace && !found.tags && !found.nested_ids);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "what it was tried with is left");
}

/// A path of that crate takes no control characters, and other ways to make one rewrite the name.
#[tokio::test]
async fn ids_with_control_characters_are_refused_and_all_others_kept() {
    let (memory_store, memory) = memory().await;
    let (_root, directory) = directory().await;
    for storage in [&memory, &directory] {
        for name in ["new\nline", "tab\there", "\u{7f}", "a/\u{1}"] {
            let refused = storage.upload_bytes(&id(name), "x".into()).await.unwrap_err();
            assert_eq!((refused.kind(), refused.effect()), (ErrorKind::InvalidInput, Effect::None));
            assert_eq!(storage.metadata(&id(name)).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        let odd = [
            " leading",
            "trailing ",
            "a b/c d",
            "plus+sign",
            "per%cent",
            "%2F",
            "%",
            "ques?tion",
            "ha#sh",
            "am&per=sand",
            "quote'\"",
            "<angle>",
            "back\\slash",
            "co:lon",
            "st*ar",
            "pi|pe",
            "{br}[ack]",
            "^`~",
            "--",
            ".hidden",
            "...",
            "a..b",
            "日本語",
            "🦀",
            "\u{200b}zero",
            "e\u{301}",
            "é",
            "\u{85}",
        ];
        for name in odd {
            storage.upload_bytes(&id(name), name.into()).await.unwrap_or_else(|error| panic!("{error}"));
        }
        let mut due = odd.to_vec();
        due.sort_unstable();
        let listed: Vec<_> =
            storage.list(&Prefix::all(), ListOptions::default()).try_collect().await.unwrap();
        let listed: Vec<_> = listed.iter().map(|file| file.id.as_str()).collect();
        assert_eq!(listed, due);
        for name in odd {
            assert_eq!(storage.download_bytes(&id(name)).await.unwrap(), name);
            storage.copy(&id(name), &id(&format!("copies/{name}")), UploadOptions::default()).await.unwrap();
            assert_eq!(storage.download_bytes(&id(&format!("copies/{name}"))).await.unwrap(), name);
        }
    }
    // Seen from outside, the key is the id.
    assert!(memory_store.head(&Path::parse("per%cent").unwrap()).await.is_ok());
}

/// An attribute that is dropped in silence is missed when the file is needed.
#[tokio::test]
async fn a_directory_refuses_what_it_cannot_keep() {
    let (_root, storage) = directory().await;
    let options = UploadOptions::default;
    for options in [
        options().with_content_type("text/x-other"),
        options().with_file_name("a name"),
        options().with_created(std::time::SystemTime::UNIX_EPOCH),
        options().with_tag("k", "v"),
        options().with_when(Precondition::Version(storage_core::Version::new("\"1\""))),
    ] {
        let upload = storage.upload(&id("a.txt"), Bytes::from("abc").into(), options.clone()).await;
        assert_eq!(upload.unwrap_err().kind(), ErrorKind::Unsupported, "{options:?}");
        assert!(!storage.exists(&id("a.txt")).await.unwrap(), "{options:?}");
    }
    let options = options().with_content_type("text/plain").with_digest(storage_core::Digest::of(b"abc"));
    let receipt = storage.upload(&id("a.txt"), Bytes::from("abc").into(), options).await.unwrap();
    assert_eq!(receipt.metadata.content_type.as_deref(), Some("text/plain"), "what it has anyway");
    assert_eq!((receipt.verified, receipt.metadata.digest), (Verified::No, None));
    let mut stored = storage.metadata(&id("a.txt")).await.unwrap();
    assert!(stored.modified.take().is_some());
    assert_eq!(stored, receipt.metadata);
}

/// Parts know no precondition: what would have to be held in memory beyond the limit is refused.
#[tokio::test]
async fn a_conditional_upload_beyond_its_limit_is_refused() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = open(&store, config().with_max_conditional(PART as u64)).await;
    let absent = UploadOptions::default().with_when(Precondition::Absent);
    let body = Bytes::from(vec![1; PART + 1]);
    let error = storage.upload(&id("a"), body.clone().into(), absent).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None));
    let receipt = storage.upload_bytes(&id("a"), body.clone()).await.unwrap();
    assert_eq!(receipt.digest, Some(storage_core::Digest::of(&body)));
    assert_eq!(storage.metadata(&id("a")).await.unwrap().digest, receipt.digest, "known before its parts");
}

/// Whoever says that a store lists in order and is wrong is told, and shown nothing out of order.
#[tokio::test]
async fn a_store_that_is_said_to_list_in_order_and_does_not_is_found_out() {
    let root = TempDir::new().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(root.path()).unwrap());
    let storage = open(&store, config().with_order(ListOrder::Ascending)).await;
    let walk = open(&store, config()).await;
    let names: Vec<_> = (0..200).map(|number| format!("d{}/{}", number % 20, number * 7919 % 1000)).collect();
    for name in &names {
        storage.upload_bytes(&id(name), "x".into()).await.unwrap();
    }
    let mut due = names.clone();
    due.sort_unstable();
    let listed: Vec<_> = walk.list(&Prefix::all(), ListOptions::default()).try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|file| file.id.to_string()).collect::<Vec<_>>(), due);
    let items: Vec<_> = storage.list(&Prefix::all(), ListOptions::default()).collect().await;
    let ids: Vec<_> = items.iter().map_while(|item| item.as_ref().ok()).map(|file| &file.id).collect();
    assert!(ids.is_sorted());
    match items.last().unwrap() {
        Err(error) => assert_eq!((error.kind(), error.id()), (ErrorKind::Misconfigured, None)),
        Ok(_) => eprintln!("LEFT OUT: this file system happens to list in order"),
    }
}

/// Attributes that others gave an object stay with it.
#[tokio::test]
async fn a_copy_keeps_the_attributes_of_others() {
    use object_store::{Attribute, Attributes};
    let (store, storage) = memory().await;
    let attributes = Attributes::from_iter([
        (Attribute::CacheControl, "no-store"),
        (Attribute::ContentType, "text/x-theirs"),
        (Attribute::Metadata("theirs".into()), "kept"),
    ]);
    let options = PutOptions { attributes, ..PutOptions::default() };
    store.put_opts(&Path::parse("a").unwrap(), "abc".into(), options).await.unwrap();
    let changed = UploadOptions::default().with_file_name("new name");
    for (to, options) in [("b", UploadOptions::default()), ("c", changed)] {
        storage.copy(&id("a"), &id(to), options).await.unwrap();
        let got = store.get(&Path::parse(to).unwrap()).await.unwrap().attributes;
        assert_eq!(got.get(&Attribute::CacheControl).map(|value| &**value), Some("no-store"));
        assert_eq!(got.get(&Attribute::Metadata("theirs".into())).map(|value| &**value), Some("kept"));
        let metadata = storage.metadata(&id(to)).await.unwrap();
        assert_eq!(metadata.content_type.as_deref(), Some("text/x-theirs"));
    }
}
