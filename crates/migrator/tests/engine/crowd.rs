//! A server that says that there are too many requests is sent fewer, and more again when it no longer does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use migrator::progress::Progress;
use s3_server::{Answer, RequestInfo, Server, ServerConfig, Verdict};
use storage_core::backend::s3::S3Config;
use storage_core::layer::limit::LimitConfig;
use storage_core::stack::{BackendConfig, LayersConfig, StackConfig, build_with_bound};

use super::*;

const CAP: NonZeroU32 = NonZeroU32::new(8).unwrap();

/// Puts from this one on are refused, so many times.
const BURST: std::ops::Range<u64> = 40..70;

const FILES: u64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_refusals_lowers_the_limit_and_it_comes_back_and_every_file_arrives() {
    let mut bench = bench().await;
    for number in 0..FILES {
        bench.put(&format!("f{number:03}"), bytes(number, 100)).await;
    }
    let puts = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&puts);
    let hook = move |request: &RequestInfo| {
        let number = match request.operation() {
            "PutObject" if request.key().is_some_and(|key| key.starts_with('f')) => {
                seen.fetch_add(1, Ordering::Relaxed)
            }
            _ => return Verdict::Serve,
        };
        if BURST.contains(&number) { Verdict::Answer(Answer::error(503, "SlowDown")) } else { Verdict::Serve }
    };
    let config = ServerConfig::new()
        .with_bucket("bucket", bench.target.clone())
        .with_random_credentials()
        .with_hook(Arc::new(hook));
    let server = Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    let config = S3Config::new("bucket")
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_static_credentials(server.access_key(), server.secret_key());
    let mut layers = LayersConfig::default();
    layers.limit = LimitConfig::default().with_concurrency(CAP).with_adaptive(true);
    layers.retry.throttled_base = Duration::from_millis(5);
    let config = StackConfig::new(BackendConfig::S3(config)).with_layers(layers);
    let (target, bound) = build_with_bound(config).await.unwrap();
    let bound = bound.unwrap();
    assert_eq!((bound.now(), bound.cap()), (CAP.get(), CAP.get()));

    let least = Arc::new(AtomicU32::new(CAP.get()));
    let (looked, limit) = (Arc::clone(&least), bound.clone());
    bench.job.target = target;
    bench.job.progress = Progress::with_sink(move |_| {
        looked.fetch_min(limit.now(), Ordering::Relaxed);
    });
    let limit = bound.clone();
    bench.job.progress.watch_limit(move || limit.now());
    let mut options = options();
    options.concurrency = CAP;
    let run = bench.copy_with(&options).await;
    assert_eq!(run.end, Some(RunEnd::Complete));
    assert_sums(&*bench.ledger, &run).await;
    bench.assert_equal().await;
    assert!(puts.load(Ordering::Relaxed) >= FILES + (BURST.end - BURST.start), "nothing was refused");
    let least = least.load(Ordering::Relaxed);
    assert!(least <= CAP.get() / 2, "the limit did not fall below {least}");
    assert_eq!(bound.now(), CAP.get(), "the limit did not come back");
    assert_eq!(bench.job.progress.snapshot().held_to, u64::from(CAP.get()));
    server.shutdown().await;
}
