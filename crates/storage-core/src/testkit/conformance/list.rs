//! Promises of [`FileStorage::list`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::Fixture;
use super::support::{all, data, id, names, nothing_more, ok, prefix, put, put_all};
use crate::id::{FileId, Prefix};
use crate::storage::{FileStorage, ListOptions, Precondition, UploadOptions};

fn after(text: &str) -> ListOptions {
    ListOptions::default().with_start_after(id(text))
}

/// An empty storage lists nothing, and says so by ending.
pub async fn nothing(fixture: &Fixture) {
    assert_eq!(all(fixture.storage()).await, [""; 0]);
    assert_eq!(names(fixture.storage(), "a/", ListOptions::default()).await, [""; 0]);
}

/// Bytes decide, also around `/` (0x2f), which a directory walk gets wrong.
pub async fn in_byte_order(fixture: &Fixture) {
    let storage = fixture.storage();
    let mut due =
        vec!["A", "a-b", "a-b/x", "a.b", "a/b", "a/b.c", "a0", "aa/b", "b", "é", "\u{ffff}", "\u{10000}"];
    due.retain(|name| *name != "a-b" || storage.capabilities().nested_ids);
    if storage.capabilities().nested_ids {
        due.push("a");
    }
    put_all(storage, due.iter().rev().copied()).await;
    due.sort_unstable();
    assert_eq!(all(storage).await, due);
}

const TREE: [&str; 8] = ["a/1", "a/2", "a/b/1", "a/b/2", "a/c", "ab/1", "b/1", "c"];

/// A prefix that ends at a `/` is a directory.
pub async fn all_of_a_prefix(fixture: &Fixture) {
    put_all(fixture.storage(), TREE).await;
    let list = |under| names(fixture.storage(), under, ListOptions::default());
    assert_eq!(list("a/").await, ["a/1", "a/2", "a/b/1", "a/b/2", "a/c"]);
    assert_eq!(list("a/b/").await, ["a/b/1", "a/b/2"]);
    assert_eq!(list("").await, TREE);
}

/// A prefix may end anywhere.
pub async fn prefix_that_ends_within_a_segment(fixture: &Fixture) {
    put_all(fixture.storage(), TREE).await;
    let list = |under| names(fixture.storage(), under, ListOptions::default());
    assert_eq!(list("a").await, TREE[..6]);
    assert_eq!(list("ab").await, ["ab/1"]);
    assert_eq!(list("a/b").await, ["a/b/1", "a/b/2"]);
}

/// A file is listed under its whole name, and those that go on from it.
pub async fn prefix_that_is_an_id(fixture: &Fixture) {
    put_all(fixture.storage(), ["x/one", "x/one.bak", "x/on"]).await;
    assert_eq!(names(fixture.storage(), "x/one", ListOptions::default()).await, ["x/one", "x/one.bak"]);
}

/// Nothing matches: an empty listing, no error.
pub async fn prefix_that_matches_nothing(fixture: &Fixture) {
    put_all(fixture.storage(), TREE).await;
    for under in ["zzz", "a/zzz/", "c/", "a/1/", "A"] {
        assert_eq!(names(fixture.storage(), under, ListOptions::default()).await, [""; 0], "{under}");
    }
}

/// Behind, not at.
pub async fn start_after_an_id(fixture: &Fixture) {
    put_all(fixture.storage(), TREE).await;
    for (count, start) in TREE.iter().enumerate() {
        assert_eq!(names(fixture.storage(), "", after(start)).await, TREE[count + 1..], "after {start}");
    }
    assert_eq!(names(fixture.storage(), "a/", after("a/b/1")).await, ["a/b/2", "a/c"]);
}

/// The place in the order counts, not the file.
pub async fn start_after_an_id_that_is_not_there(fixture: &Fixture) {
    put_all(fixture.storage(), TREE).await;
    assert_eq!(names(fixture.storage(), "", after("a/b")).await, TREE[2..]);
    assert_eq!(names(fixture.storage(), "", after("a/b/11")).await, TREE[3..]);
    assert_eq!(names(fixture.storage(), "", after("a-")).await, TREE);
    assert_eq!(names(fixture.storage(), "a/", after("a/b0")).await, ["a/c"]);
}

/// A start before the prefix leaves nothing out.
pub async fn start_after_before_the_prefix(fixture: &Fixture) {
    put_all(fixture.storage(), TREE).await;
    assert_eq!(names(fixture.storage(), "a/b/", after("a/1")).await, ["a/b/1", "a/b/2"]);
    assert_eq!(names(fixture.storage(), "b/", after("A")).await, ["b/1"]);
}

/// A start behind the prefix leaves nothing.
pub async fn start_after_the_prefix_yields_nothing(fixture: &Fixture) {
    put_all(fixture.storage(), TREE).await;
    assert_eq!(names(fixture.storage(), "a/", after("b")).await, [""; 0]);
    assert_eq!(names(fixture.storage(), "", after("c")).await, [""; 0]);
}

/// Size, time and version are those of `metadata`.
pub async fn agrees_with_metadata(fixture: &Fixture) {
    let storage = fixture.storage();
    for (name, size) in [("a/empty", 0), ("a/small", 1_000), ("large", fixture.large + 1)] {
        ok(storage.upload(&id(name), data(size, 1).into(), UploadOptions::default()).await);
    }
    let listed: Vec<_> =
        ok(storage.list(&Prefix::all(), ListOptions::default()).try_collect::<Vec<_>>().await);
    assert_eq!(listed.len(), 3);
    // HTTP dates have seconds, listings may have more (RFC 9110 section 5.6.7).
    let seconds = |time: Option<SystemTime>| {
        time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|age| age.as_secs())
    };
    for file in listed {
        let metadata = ok(storage.metadata(&file.id).await);
        assert_eq!(file.size, metadata.size, "{}", file.id);
        assert_eq!(file.version, metadata.version, "{}", file.id);
        assert!(file.version.is_some());
        assert!(seconds(file.modified).is_some());
        assert_eq!(seconds(file.modified), seconds(metadata.modified), "{}", file.id);
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("d{}/{number:05}", number % 7)).collect()
}

/// Pages are joined without a gap and without an overlap.
pub async fn more_than_a_page(fixture: &Fixture) {
    let mut due = numbered(fixture.many);
    put_all(fixture.storage(), due.iter().map(String::as_str)).await;
    due.sort_unstable();
    assert_eq!(all(fixture.storage()).await, due);
    due.retain(|name| name.starts_with("d3/"));
    assert_eq!(names(fixture.storage(), "d3/", ListOptions::default()).await, due);
}

/// Several listings of a few files each make one.
pub async fn goes_on_where_it_broke_off(fixture: &Fixture) {
    let storage = fixture.storage();
    let mut due = numbered(40);
    put_all(storage, due.iter().map(String::as_str)).await;
    due.sort_unstable();
    let mut seen: Vec<FileId> = Vec::new();
    loop {
        let options = ListOptions { start_after: seen.last().cloned(), ..ListOptions::default() };
        let some: Vec<_> = ok(storage.list(&Prefix::all(), options).take(7).try_collect::<Vec<_>>().await);
        if some.is_empty() {
            break;
        }
        seen.extend(some.into_iter().map(|file| file.id));
    }
    let seen: Vec<_> = seen.iter().map(FileId::as_str).collect();
    assert_eq!(seen, due);
}

/// Whatever the ids, prefix and start: the answer is that of a sorted set.
#[expect(clippy::print_stderr, reason = "the seed, for whoever repeats a failure")]
pub async fn random_ids_as_a_sorted_set(fixture: &Fixture) {
    let storage = fixture.storage();
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let text = |random: &mut StdRng, length: usize| -> String {
        (0..length).filter_map(|_| ['a', 'b', '-', '.', '/', '/', '0', '~', 'é'].choose(random)).collect()
    };
    let nested = storage.capabilities().nested_ids;
    let mut model: BTreeSet<String> = BTreeSet::new();
    while model.len() < 60 {
        let length = random.random_range(1..8);
        let Ok(candidate) = FileId::parse(text(&mut random, length)) else { continue };
        let candidate = candidate.to_string();
        let conflicts = |other: &String| {
            other.starts_with(&format!("{candidate}/")) || candidate.starts_with(&format!("{other}/"))
        };
        if nested || !model.iter().any(conflicts) {
            model.insert(candidate);
        }
    }
    put_all(storage, model.iter().map(String::as_str)).await;
    for _ in 0..40 {
        let length = random.random_range(0..4);
        let Ok(under) = Prefix::parse(text(&mut random, length)) else { continue };
        let length = random.random_range(1..5);
        let start = FileId::parse(text(&mut random, length)).ok().filter(|_| random.random());
        let due: Vec<&String> = model
            .iter()
            .filter(|name| name.starts_with(under.as_str()))
            .filter(|name| start.as_ref().is_none_or(|start| name.as_str() > start.as_str()))
            .collect();
        let options = ListOptions { start_after: start.clone(), ..ListOptions::default() };
        let listed = names(storage, under.as_str(), options).await;
        assert_eq!(listed.iter().collect::<Vec<_>>(), due, "under {under:?} after {start:?} (seed {seed})");
    }
}

/// Changes beside a listing do not disturb the rest of it.
pub async fn what_stays_is_listed_once_while_others_come_and_go(fixture: &Fixture) {
    let storage = fixture.storage();
    let stay: Vec<_> = (0..60).map(|number| format!("{number:03}-stays")).collect();
    let go: Vec<_> = (0..60).map(|number| format!("{number:03}-goes")).collect();
    put_all(storage, stay.iter().chain(&go).map(String::as_str)).await;
    let mut listing = storage.list(&Prefix::all(), ListOptions::default());
    let mut seen = Vec::new();
    while let Some(file) = listing.next().await {
        let name = ok(file).id.to_string();
        if name.ends_with("stays") {
            seen.push(name);
        }
        if let Some(gone) = go.get(seen.len()) {
            ok(storage.delete(&id(gone), Precondition::None).await);
            put(storage, &format!("{gone}-comes"), &data(10, 1)).await;
        }
    }
    assert_eq!(seen, stay);
}

/// No temporary file, no open upload, no canary.
pub async fn does_not_show_what_is_not_published(fixture: &Fixture) {
    let storage = fixture.storage();
    put(storage, "a", &data(10, 1)).await;
    let ticket = match fixture.resumable() {
        Some(resumable) => {
            let part_size = resumable.limits().min_part_size.max(64 << 10);
            Some((resumable, ok(resumable.begin(&id("b"), part_size, UploadOptions::default()).await)))
        }
        None => None,
    };
    let large = data(fixture.large + 1, 2);
    let (_, probed, listed) =
        tokio::join!(put(storage, "z", &large), storage.probe(Duration::from_secs(30)), async {
            let mut views = Vec::new();
            for _ in 0..10 {
                views.push(all(storage).await);
                tokio::task::yield_now().await;
            }
            views
        });
    ok(probed);
    for view in listed {
        assert!(view == ["a"] || view == ["a", "z"], "{view:?}");
    }
    assert_eq!(all(storage).await, ["a", "z"]);
    if let Some((resumable, ticket)) = ticket {
        ok(resumable.abandon(&ticket).await);
    }
}

/// Whoever asks again after the end is told that there is nothing more, and does not panic.
pub async fn ended_has_nothing_more(fixture: &Fixture) {
    let storage: &Arc<dyn FileStorage> = fixture.storage();
    put_all(storage, TREE).await;
    let all = ListOptions::default();
    for (under, options, due) in
        [("nothing", all.clone(), 0), ("", all.clone(), TREE.len()), ("a/", all, 5), ("", after("b"), 2)]
    {
        let mut listing = storage.list(&prefix(under), options);
        let mut listed = 0;
        while ok(listing.try_next().await).is_some() {
            listed += 1;
        }
        assert_eq!(listed, due, "{under:?}");
        // What is written meanwhile belongs to no listing that has ended.
        put(storage, "z", &data(1, 1)).await;
        nothing_more(&mut listing).await;
        ok(storage.delete(&id("z"), Precondition::None).await);
    }
}

/// Nobody has to read a listing to its end.
pub async fn may_be_dropped_half_way(fixture: &Fixture) {
    let storage: &Arc<dyn FileStorage> = fixture.storage();
    let due = numbered(50);
    put_all(storage, due.iter().map(String::as_str)).await;
    for count in [0, 1, 10] {
        let some: Vec<_> = storage.list(&prefix("d"), ListOptions::default()).take(count).collect().await;
        assert_eq!(some.len(), count);
    }
    assert_eq!(all(storage).await.len(), 50);
}
