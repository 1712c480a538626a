//! The promises of the waist: with both sides up, all of them; in an outage of the primary, those that can be kept
//! then, and the others are named here.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use storage_core::layer::fallback::config::Role;
use storage_core::testkit::conformance::{CASES, Fixture};

use crate::Rig;

async fn fixture(role: Role, outage: bool) -> Fixture {
    let rig = Rig::new(role);
    let (main, spare) = rig.inside.clone();
    let storage = rig.open().await;
    rig.primary.set_outage(outage);
    Fixture::new(Arc::new(storage)).with_guard(rig).with_corruption(move |id| {
        let broken = if outage { spare.corrupt(id) } else { main.corrupt(id) };
        assert!(broken, "{id} has no byte to flip");
    })
}

async fn a_spare() -> Fixture {
    fixture(Role::Spare, false).await
}

async fn a_replica() -> Fixture {
    fixture(Role::Replica, false).await
}

storage_core::conformance!(with_a_spare, a_spare);
storage_core::conformance!(with_a_replica, a_replica);

/// What a replica cannot keep in an outage.
const NOT_BY_A_REPLICA: &[(&str, &str)] = &[];

/// What a spare cannot keep in an outage.
const NOT_BY_A_SPARE: &[(&str, &str)] = &[];

/// How long a case may take; on an idle machine each is a matter of seconds.
const LONGEST: Duration = Duration::from_secs(60);

/// Runs every case in an outage: those that fail must be those that are named, no more and no fewer.
async fn all_but(role: Role, named: &[(&str, &str)]) {
    let mut failed = Vec::new();
    for case in CASES {
        // Not on a worker of the runtime, which readers without a pause keep for themselves.
        let run = AssertUnwindSafe((case.run)(fixture(role, true).await)).catch_unwind();
        // A case that fails in one of its tasks may leave the others waiting for it.
        if !matches!(tokio::time::timeout(LONGEST, run).await, Ok(Ok(()))) {
            failed.push(case.name);
        }
    }
    named.iter().for_each(|(name, reason)| eprintln!("LEFT OUT: {name}: {reason}"));
    let named: Vec<_> = named.iter().map(|(name, _)| *name).collect();
    assert_eq!(failed, named, "what cannot be kept in an outage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_keeps_the_promises_in_an_outage() {
    all_but(Role::Replica, NOT_BY_A_REPLICA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_keeps_the_promises_in_an_outage() {
    all_but(Role::Spare, NOT_BY_A_SPARE).await;
}
