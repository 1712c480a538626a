//! The promises of the waist: with both sides up, all of them; in an outage of the primary, those that can be kept
//! then, and the others are named here.

use std::collections::BTreeSet;
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

/// Cases that cannot pass, and why.
type LeftOut = (&'static str, &'static [&'static str]);

/// What nobody keeps in an outage of the primary.
const NEED_THE_PRIMARY: LeftOut = (
    "parts are the primary's: in its outage these calls fail with the outage",
    &[
        "ids::reserved_are_refused",
        "list::does_not_show_what_is_not_published",
        "probe::succeeds_and_leaves_nothing",
        "resumable::a_part_that_was_put_again_replaces_itself",
        "resumable::abandoned_is_no_such_upload",
        "resumable::abandoned_twice_is_fine",
        "resumable::composite_is_that_of_the_parts",
        "resumable::finish_absent_creates_and_refuses_to_replace",
        "resumable::finish_again_after_a_replacement_is_not",
        "resumable::finish_again_is_success",
        "resumable::finish_version_replaces_that_version_only",
        "resumable::goes_on_from_another_process",
        "resumable::keeps_every_attribute",
        "resumable::keeps_what_was_there_until_finish",
        "resumable::lists_the_parts_it_holds",
        "resumable::publishes_the_parts_as_one_file",
        "resumable::refuses_a_part_that_does_not_have_its_digest",
        "resumable::refuses_part_sizes_out_of_range",
        "resumable::refuses_tags_it_cannot_keep",
        "resumable::refuses_to_finish_with_a_part_missing",
        "resumable::refuses_to_finish_with_a_part_replaced_since",
        "resumable::refuses_to_finish_without_parts",
        "resumable::shows_nothing_before_finish",
        "resumable::stale_finds_open_uploads_by_age",
        "resumable::stale_forgets_what_ended",
        "resumable::takes_an_empty_file",
        "resumable::takes_one_short_part",
        "resumable::takes_parts_at_the_same_time",
        "resumable::takes_parts_in_any_order",
        "resumable::two_uploads_of_one_id_do_not_mix",
    ],
);

/// What a spare cannot say: that an id which the journal does not name is not on the primary.
const ASK_FOR_WHAT_IS_NOT_THERE: LeftOut = (
    "of an id that the journal does not name, a spare tells the outage and not \"not found\"",
    &[
        "copy::leaves_the_source",
        "copy::missing_source_is_not_found",
        "copy::refuses_bytes_that_do_not_have_the_given_digest",
        "delete::leaves_what_lies_beneath",
        "delete::nothing_to_delete_is_false",
        "download::beneath_a_file_is_not_found",
        "download::missing_is_not_found",
        "metadata::beneath_a_file_is_not_found",
        "metadata::missing_is_not_found",
        "upload::dropped_large_publishes_nothing",
        "upload::dropped_publishes_nothing",
        "upload::publishes_nothing_when_the_body_changes",
        "upload::publishes_nothing_when_the_body_ends_early",
        "upload::publishes_nothing_when_the_body_fails",
        "upload::publishes_nothing_when_the_body_is_too_long",
        "upload::refuses_a_large_body_that_does_not_have_the_given_digest",
        "upload::refuses_an_empty_tag_key",
        "upload::refuses_bytes_that_do_not_have_the_given_digest",
    ],
);

const NEED_ABSENT: LeftOut = (
    "a spare cannot tell whether an id is free, and refuses `Absent` with the outage",
    &[
        "copy::absent_creates_and_refuses_to_replace",
        "races::one_copy_wins",
        "races::one_creator_wins",
        "upload::absent_creates",
    ],
);

const LIST: LeftOut = (
    "a spare's listing ends in the outage, as it is not complete",
    &[
        "delete::leaves_siblings",
        "delete::lets_a_directory_become_a_file",
        "delete::removes_the_file",
        "ids::are_kept_byte_for_byte",
        "ids::close_to_reserved_are_ordinary",
        "ids::differ_by_every_byte",
        "ids::longer_than_the_storage_takes_are_refused",
        "ids::nested_or_in_conflict",
        "ids::of_the_greatest_length",
        "list::agrees_with_metadata",
        "list::all_of_a_prefix",
        "list::ended_has_nothing_more",
        "list::goes_on_where_it_broke_off",
        "list::in_byte_order",
        "list::may_be_dropped_half_way",
        "list::more_than_a_page",
        "list::nothing",
        "list::prefix_that_ends_within_a_segment",
        "list::prefix_that_is_an_id",
        "list::prefix_that_matches_nothing",
        "list::random_ids_as_a_sorted_set",
        "list::start_after_an_id",
        "list::start_after_an_id_that_is_not_there",
        "list::start_after_before_the_prefix",
        "list::start_after_the_prefix_yields_nothing",
        "list::what_stays_is_listed_once_while_others_come_and_go",
        "metadata::version_stays_while_nothing_changes",
        "probe::is_silent_beside_other_work",
        "races::many_writers_leave_one_whole_file",
        "upload::dropped_keeps_what_was_there",
        "upload::gives_back_an_empty_file",
        "upload::replaces_bytes_and_attributes",
    ],
);

/// How long a case may take; on an idle machine each is a matter of seconds.
const LONGEST: Duration = Duration::from_secs(60);

/// Runs every case in an outage: those that fail must be those that are left out, no more and no fewer.
async fn all_but(role: Role, left_out: &[LeftOut]) {
    let mut failed = BTreeSet::new();
    for case in CASES {
        // Not on a worker of the runtime, which readers without a pause keep for themselves.
        let run = AssertUnwindSafe((case.run)(fixture(role, true).await)).catch_unwind();
        // A case that fails in one of its tasks may leave the others waiting for it.
        if !matches!(tokio::time::timeout(LONGEST, run).await, Ok(Ok(()))) {
            failed.insert(case.name);
        }
    }
    let mut expected = BTreeSet::new();
    for (reason, names) in left_out {
        eprintln!("LEFT OUT: {reason}: {}", names.join(", "));
        expected.extend(names.iter().copied());
    }
    let broken: Vec<_> = failed.difference(&expected).collect();
    let kept: Vec<_> = expected.difference(&failed).collect();
    assert!(broken.is_empty() && kept.is_empty(), "broken {broken:?}, left out without need {kept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_keeps_the_promises_in_an_outage() {
    all_but(Role::Replica, &[NEED_THE_PRIMARY]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_keeps_the_promises_in_an_outage() {
    all_but(Role::Spare, &[NEED_THE_PRIMARY, ASK_FOR_WHAT_IS_NOT_THERE, NEED_ABSENT, LIST]).await;
}
