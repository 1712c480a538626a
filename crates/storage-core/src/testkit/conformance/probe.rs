//! Promises of [`FileStorage::probe`](crate::storage::FileStorage::probe).

use std::time::Duration;

use futures::future::join_all;

use super::Fixture;
use super::support::{all, data, get, left_out, ok, put, same};

const DEADLINE: Duration = Duration::from_secs(30);

/// A storage that works says so, as often as it is asked, and nothing of it can be seen.
pub async fn succeeds_and_leaves_nothing(fixture: &Fixture) {
    for _ in 0..3 {
        ok(fixture.storage().probe(DEADLINE).await);
    }
    assert_eq!(all(fixture.storage()).await, [""; 0]);
    if let Some(resumable) = fixture.resumable() {
        assert_eq!(ok(resumable.stale(Duration::ZERO).await), []);
    }
}

/// Probes of several instances do not meet, and do not touch files.
pub async fn is_silent_beside_other_work(fixture: &Fixture) {
    put(fixture.storage(), "a", &data(1_000, 1)).await;
    let probes = (0..8).map(|number| {
        let storage = if number % 2 == 0 { fixture.storage() } else { fixture.another() };
        storage.probe(DEADLINE)
    });
    for result in join_all(probes).await {
        ok(result);
    }
    same(&get(fixture.storage(), "a").await, &data(1_000, 1));
    assert_eq!(all(fixture.storage()).await, ["a"]);
}

/// A storage opened for reading only probes by reading.
pub async fn read_only_succeeds(fixture: &Fixture) {
    let Some(storage) = &fixture.read_only else {
        return left_out("the fixture has no opening for reading only");
    };
    ok(storage.probe(DEADLINE).await);
    assert_eq!(all(fixture.storage()).await, [""; 0]);
}
