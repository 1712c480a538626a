//! The conformance suite over moto, but for what moto itself does wrong.

use storage_core::testkit::conformance::CASES;

use crate::common::fixture_on_moto;

/// Cases that fail on moto 5.2 whatever a client does, and why.
const FAULTS: &[(&str, &str)] = &[
    ("ids::are_kept_byte_for_byte", "a key with a newline is 404"),
    ("list::does_not_show_what_is_not_published", "a listing beside a writer is 500 now and then"),
    ("presign::get_can_be_performed_by_anyone", "signatures are not checked"),
    ("races::many_writers_leave_one_whole_file", "concurrent writers of one key get 500"),
    ("races::readers_see_old_or_new", "a reader beside a writer of its key gets 500 now and then"),
    ("resumable::a_part_that_was_put_again_replaces_itself", "ListParts answers another root element"),
    ("resumable::abandoned_is_no_such_upload", "UploadPart to an unknown upload is 500"),
    ("resumable::finish_again_after_a_replacement_is_not", "CompleteMultipartUpload again is 500"),
    ("resumable::goes_on_from_another_process", "ListParts answers another root element"),
    ("resumable::lists_the_parts_it_holds", "ListParts answers another root element"),
    ("resumable::stale_finds_open_uploads_by_age", "all uploads were initiated in 2010"),
];

async fn group(name: &str) {
    let mut ran = 0;
    for case in CASES.iter().filter(|case| case.name.split("::").next() == Some(name)) {
        if let Some((case, why)) = FAULTS.iter().find(|(fault, _)| *fault == case.name) {
            test_rig::skip::unable(&format!("{case} on moto: {why}"));
            continue;
        }
        eprintln!("{}", case.name);
        (case.run)(fixture_on_moto().await).await;
        ran += 1;
    }
    assert!(ran > 0, "no case in {name}");
}

macro_rules! groups {
    ($($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                group(stringify!($name)).await;
            }
        )*

        #[test]
        fn no_group_is_forgotten() {
            let groups = [$(stringify!($name)),*];
            for case in CASES {
                assert!(case.name.split("::").next().is_some_and(|name| groups.contains(&name)), "{}", case.name);
            }
            for (fault, _) in FAULTS {
                assert!(CASES.iter().any(|case| case.name == *fault), "{fault}");
            }
        }
    };
}

groups!(upload download metadata delete list copy ids races presign probe resumable);
