//! Files in another order than the source lists them, and what they are given on their way.

use std::sync::Mutex;

use migrator::order::Order;
use migrator::progress::{Event, Progress};
use migrator::rules::{Given, Rules};
use storage_core::body::Body;

use super::*;

/// Copies one file at a time in an order, and returns the order in which they arrived.
async fn arrivals(bench: &mut Bench, order: &str, options: CopyOptions) -> (RunRecord, Vec<String>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    bench.job.progress = Progress::with_sink(move |event| {
        if let Event::File { subject, outcome: Outcome::Copied, .. } = event {
            sink.lock().unwrap().push((*subject).to_owned());
        }
    });
    let mut options = options;
    options.order = order.parse().unwrap();
    let run = bench.copy_with(&options).await;
    let seen = seen.lock().unwrap().clone();
    (run, seen)
}

fn one_at_a_time() -> CopyOptions {
    let mut options = options();
    options.concurrency = NonZeroU32::MIN;
    options
}

#[tokio::test]
async fn files_arrive_in_the_order_that_was_asked_for() {
    for (order, expected) in [
        ("name", ["c", "dir/b", "e", "large", "z"]),
        ("size", ["z", "c", "e", "dir/b", "large"]),
        ("size,desc", ["large", "dir/b", "c", "e", "z"]),
        ("oldest", ["large", "z", "c", "e", "dir/b"]),
        ("newest", ["dir/b", "e", "c", "z", "large"]),
    ] {
        let mut bench = bench().await;
        for (name, size) in [("large", 6 << 20), ("z", 0), ("c", 50), ("e", 50), ("dir/b", 1000)] {
            bench.put(name, bytes(size, size as usize)).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (run, seen) = arrivals(&mut bench, order, one_at_a_time()).await;
        assert_eq!(seen, expected, "{order}");
        assert_sums(&*bench.ledger, &run).await;
        bench.assert_equal().await;
        let (again, seen) = arrivals(&mut bench, order, one_at_a_time()).await;
        assert_eq!((again.tally.unchanged, seen.len()), (5, 0), "{order}");
    }
}

/// What is put off is what it was: changed, failed and half-sent files are dealt with as without an order.
#[tokio::test]
async fn what_earlier_runs_left_is_gone_on_with_in_order() {
    let mut bench = bench().await;
    bench.put("large", bytes(1, 21 << 20)).await;
    bench.put("same", bytes(2, 10)).await;
    bench.put("old", bytes(3, 10)).await;
    bench.flaky.fail_next(Op::PutPart, Fault::Broken(u64::MAX));
    bench.flaky.fail_next(Op::PutPart, Fault::Before(ErrorKind::Denied));
    bench.copy_with(&once()).await;
    bench.put("old", bytes(4, 3_000)).await;
    bench.put("new", bytes(5, 5)).await;
    let (run, seen) = arrivals(&mut bench, "size,desc", one_at_a_time()).await;
    assert_eq!(seen, ["large", "old", "new"]);
    assert!(run.tally.parts_resumed >= 1, "{:?}", run.tally);
    assert_eq!(run.tally.unchanged, 1);
    assert_sums(&*bench.ledger, &run).await;
    bench.assert_equal().await;
}

/// Those whose turn does not come are unfinished: the sums say so, and the next run copies them.
#[tokio::test]
async fn a_stop_leaves_the_rest_unfinished_and_the_next_run_copies_it() {
    let mut bench = bench().await;
    for number in 0..600 {
        bench.put(&format!("f{number:03}"), bytes(number, 10 + number as usize)).await;
    }
    // Known to the ledger, and changed since: they must not pass for unchanged.
    bench.copy().await;
    for number in 0..600 {
        bench.put(&format!("f{number:03}"), bytes(number + 1, 10 + number as usize)).await;
    }
    let stop = CancellationToken::new();
    let first = stop.clone();
    bench.job.stop = stop;
    // What is told of a file comes after its row, by when all may be done.
    bench.flaky.before_next(Op::Upload, move || first.cancel());
    let mut largest = options();
    largest.order = Order::Largest;
    let run = bench.copy_with(&largest).await;
    assert_eq!(run.end, Some(RunEnd::Interrupted));
    let directory = TempDir::new().unwrap();
    report::files::write(&*bench.ledger, Some(run.id), directory.path()).await.unwrap();
    let sums = report::Report::of(&*bench.ledger, Some(run.id)).await.unwrap().sums;
    let copied = sums.copied.files;
    assert!(copied > 0 && copied < 600, "{sums:?}");
    assert_eq!(sums.unchanged.files, 0);
    assert_eq!(copied + sums.failed.files + sums.unfinished.files, 600, "{sums:?}");

    bench.job.stop = CancellationToken::new();
    let (run, seen) = arrivals(&mut bench, "size,desc", options()).await;
    assert_eq!(seen.len() as u64 + copied, 600);
    assert_sums(&*bench.ledger, &run).await;
    bench.assert_equal().await;
}

#[tokio::test]
async fn rules_give_attributes_and_leave_the_others() {
    let bench = bench().await;
    let own =
        UploadOptions::default().with_content_type("text/plain").with_tag("own", "1").with_tag("kind", "x");
    for (name, size) in [("a.md", 10), ("b.bin", 10), ("large.md", 12 << 20)] {
        let body = Body::from_bytes(bytes(1, size));
        bench.source.upload(&id(name), body, own.clone()).await.unwrap();
    }
    let mut options = options();
    options.rules = Rules::new(&[
        Given::parse_content_type("*.md=text/markdown").unwrap(),
        Given::parse_content_type("a*=text/x-never").unwrap(),
        Given::parse_tag("kind=all").unwrap(),
        Given::parse_metadata("team=web").unwrap(),
    ])
    .unwrap();
    bench.copy_with(&options).await;
    for (name, kind) in [("a.md", "text/markdown"), ("b.bin", "text/plain"), ("large.md", "text/markdown")] {
        let there = bench.target.metadata(&id(name)).await.unwrap();
        assert_eq!(there.content_type.as_deref(), Some(kind), "{name}");
        let tags: Vec<_> = there.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(tags, ["kind=all", "own=1", "x-amz-meta-team=web"], "{name}");
    }
    // What is given is no version of the file: with other rules nothing is sent again.
    options.rules = Rules::default();
    let run = bench.copy_with(&options).await;
    assert_eq!(run.tally.unchanged, 3);
}
