use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::storage::Access;
use storage_core::testkit::conformance::Fixture;

use super::*;

async fn local() -> Fixture {
    let (root, storage) = storage().await;
    let path = root.path().to_owned();
    let read_only = LocalConfig::new(&path).with_access(Access::ReadOnly);
    Fixture::new(Arc::new(storage))
        .with_another(Arc::new(open(&path).await))
        .with_read_only(Arc::new(LocalStorage::open(read_only).await.unwrap()))
        .with_corruption(move |id| flip(&path.join(id.as_str())))
        .with_guard(root)
}

/// Changes a byte as a failing disk does: without a trace.
fn flip(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[!byte[0]], 0).unwrap();
    file.set_modified(modified).unwrap();
}

storage_core::conformance!(a_directory_keeps_its_promises, local);
