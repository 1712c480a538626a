//! Networks that lose, cut and change.

use std::num::NonZeroU32;

use storage_core::backend::s3::S3Storage;
use storage_core::checksum::Digest;
use storage_core::error::{Effect, ErrorKind, Retry};
use storage_core::storage::{
    DownloadOptions, FileStorage, FileStorageExt, FinishOptions, PartReceipt, ResumableUpload, UploadOptions,
    UploadTicket,
};
use test_rig::{Fault, Proxy, Way, shared};

use crate::common::{PART, connect, data, everywhere, id};

/// The same place by the direct way and through a proxy.
async fn garage() -> Option<(S3Storage, S3Storage, Proxy)> {
    let server = shared::garage()?;
    let proxy = Proxy::start(server.address()).unwrap();
    let direct = crate::common::config(&server);
    let mut damaged = direct.clone();
    damaged.endpoints = vec![format!("http://{}", proxy.address())];
    Some((connect(&direct).await, connect(&damaged).await, proxy))
}

async fn begun(storage: &S3Storage, name: &str, seed: u64) -> (UploadTicket, Vec<PartReceipt>) {
    let ticket = storage.begin(&id(name), PART, UploadOptions::default()).await.unwrap();
    let mut parts = Vec::new();
    for (number, size) in [(1, PART as usize), (2, 100)] {
        let bytes = data(size, seed + number);
        let number = NonZeroU32::new(number as u32).unwrap();
        parts.push(storage.put_part(&ticket, number, bytes.clone(), Digest::of(&bytes)).await.unwrap());
    }
    (ticket, parts)
}

/// MinIO's client and object_store report a failure here although the file is published.
#[tokio::test(flavor = "multi_thread")]
async fn a_finish_whose_answer_was_lost_is_found_to_have_succeeded() {
    let Some((direct, damaged, proxy)) = garage().await else { return };
    let (ticket, parts) = begun(&direct, "f", 1).await;
    proxy.set_times(Fault::LoseAnswer, 1);
    let error = damaged.finish(&ticket, &parts, FinishOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
    let receipt = damaged.finish(&ticket, &parts, FinishOptions::default()).await.unwrap();
    assert_eq!(receipt.metadata.size, PART + 100);
    assert_eq!(receipt.metadata, direct.metadata(&id("f")).await.unwrap());
    // Another file under the id is not this upload's success.
    direct.upload_bytes(&id("f"), "other".into()).await.unwrap();
    let error = direct.finish(&ticket, &parts, FinishOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchUpload);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_cut_off_is_sent_again_from_its_buffer() {
    let Some((direct, damaged, proxy)) = garage().await else { return };
    let bytes = data(3 * PART as usize, 7);
    proxy.set_times(Fault::ResetAfter { way: Way::Request, bytes: 2 << 20 }, 2);
    let receipt = damaged.upload_bytes(&id("f"), bytes.clone()).await.unwrap();
    assert_eq!(receipt.digest, Some(Digest::of(&bytes)));
    assert_eq!(proxy.counts().faults, 2);
    assert_eq!(direct.download_bytes(&id("f")).await.unwrap(), bytes);
    assert!(direct.stale(std::time::Duration::ZERO).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_put_leaves_the_effect_open() {
    let Some((direct, damaged, proxy)) = garage().await else { return };
    proxy.set_times(Fault::LoseAnswer, 1);
    let error = damaged.upload_bytes(&id("f"), "x".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
    assert_eq!(error.retry(), Retry::Now);
    assert!(direct.exists(&id("f")).await.unwrap());
    proxy.set(Fault::Refuse);
    // The connections that were open are reset, and who knows what passed; then there is none any more.
    let mut error = damaged.upload_bytes(&id("g"), "x".into()).await.unwrap_err();
    for _ in 0..20 {
        if error.effect() == Effect::None {
            break;
        }
        error = damaged.upload_bytes(&id("g"), "x".into()).await.unwrap_err();
    }
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_on_the_way_up_is_refused() {
    let Some((direct, damaged, proxy)) = garage().await else { return };
    proxy.set_times(Fault::FlipBit { way: Way::Request, offset: 500_000 }, 1);
    let error = damaged.upload_bytes(&id("f"), data(1 << 20, 8)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
    assert_eq!(proxy.counts().faults, 1);
    assert!(!direct.exists(&id("f")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_on_the_way_down_is_seen_whole_or_in_parts() {
    let Some((direct, damaged, proxy)) = garage().await else { return };
    for (name, size) in [("small", 1 << 20), ("large", 2 * PART as usize + 1)] {
        direct.upload_bytes(&id(name), data(size, 9)).await.unwrap();
        proxy.set_times(Fault::FlipBit { way: Way::Answer, offset: 500_000 }, 1);
        let error = damaged.download_bytes(&id(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{name}: {error:?}");
        assert_eq!(damaged.download_bytes(&id(name)).await.unwrap(), data(size, 9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_an_outage_and_no_end() {
    let Some((direct, damaged, proxy)) = garage().await else { return };
    direct.upload_bytes(&id("f"), data(1 << 20, 10)).await.unwrap();
    for fault in [
        Fault::CloseAfter { way: Way::Answer, bytes: 300_000 },
        Fault::ResetAfter { way: Way::Answer, bytes: 300_000 },
    ] {
        proxy.set_times(fault, 1);
        let error = damaged.download_bytes(&id("f")).await.unwrap_err();
        assert!(error.is_outage(), "{fault:?}: {error:?}");
        assert_eq!(error.id(), Some(&id("f")));
    }
}

/// The receipt of a failed download must not be that of a good one: a stored digest is compared to the end.
#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_that_changed_are_seen() {
    for (server, config, storage) in everywhere().await {
        storage.upload_bytes(&id("f"), data(1_000, 11)).await.unwrap();
        let key = format!("{}f", crate::common::key_prefix(&config));
        crate::common::corrupt(&crate::common::raw_client(&server), &server.bucket, &key).await;
        let download = storage.download(&id("f"), DownloadOptions::default()).await.unwrap();
        assert_eq!(download.bytes().await.unwrap_err().kind(), ErrorKind::Integrity, "{:?}", server.kind);
    }
}
