//! The storage in memory keeps every promise: it is the yardstick, and the proof that the suite can be passed.

use std::sync::Arc;

use storage_core::backend::memory::MemoryStorage;
use storage_core::testkit::conformance::Fixture;

async fn memory() -> Fixture {
    let storage = MemoryStorage::new();
    let broken = storage.clone();
    Fixture::new(Arc::new(storage.clone()))
        .with_another(Arc::new(storage.clone()))
        .with_read_only(Arc::new(storage.read_only()))
        .with_corruption(move |id| assert!(broken.corrupt(id), "{id} has no byte to flip"))
        .with_many(2_500)
}

storage_core::conformance!(conformance, memory);
