//! Storage classes and encryption: done as asked, or refused when the storage is opened. Garage has customers' keys and
//! ignores the rest; moto has the rest and ignores customers' keys. Both answer 200 to what they ignore.

use std::sync::Arc;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{CustomerKey, Encryption, S3Config, S3Storage};
use storage_core::body::Body;
use storage_core::checksum::Digest;
use storage_core::error::{Error, ErrorKind};
use storage_core::storage::{
    Access, ByteRange, DownloadOptions, FileStorage, FileStorageExt, PresignRequest, UploadOptions, Verified,
};
use storage_core::testkit::conformance::Fixture;
use test_rig::{S3Endpoint, shared};

use crate::common::{PART, config, connect, data, id, key_prefix, raw_client};
use crate::opening::captured;

const KEY: [u8; 32] = *b"\x00\xffa customer's own key, 32 by\xe9t\n";

fn with_key(config: S3Config) -> S3Config {
    config.with_encryption(Encryption::Customer(CustomerKey::new(&KEY)))
}

async fn refused(config: S3Config) -> Error {
    S3Storage::connect(config).await.expect_err("nothing could be opened")
}

async fn head(server: &S3Endpoint, config: &S3Config, name: &str) -> HeadObjectOutput {
    let key = format!("{}{name}", key_prefix(config));
    raw_client(server).head_object().bucket(&server.bucket).key(key).send().await.unwrap()
}

/// A file that goes in one request, one in parts, and a copy of each.
async fn store(storage: &S3Storage) {
    for (name, size) in [("small", 1_000), ("large", 2 * PART as usize + 1)] {
        let bytes = data(size, 1);
        let receipt =
            storage.upload(&id(name), Body::from_bytes(bytes), UploadOptions::default()).await.unwrap();
        assert_eq!(receipt.metadata.size, size as u64);
        let to = id(&format!("{name}.copy"));
        storage.copy(&id(name), &to, UploadOptions::default()).await.unwrap();
    }
}

const STORED: [&str; 4] = ["small", "large", "small.copy", "large.copy"];

pub(crate) async fn fixture_with_a_key() -> Fixture {
    let Some(server) = shared::garage() else {
        // The skip has been reported; the case needs something to pass on.
        return Fixture::new(Arc::new(MemoryStorage::new()));
    };
    let config = with_key(config(&server));
    let storage = connect(&config).await;
    let another = S3Storage::with_capabilities(config.clone(), &storage.capabilities()).await.unwrap();
    let read_only = connect(&config.clone().with_access(Access::ReadOnly)).await;
    Fixture::new(Arc::new(storage))
        .with_another(Arc::new(another))
        .with_read_only(Arc::new(read_only))
        .without_empty_parts()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_customer_key_nothing_can_be_read() {
    let Some(server) = shared::garage() else { return };
    let config = config(&server);
    let storage = connect(&with_key(config.clone())).await;
    assert!(!storage.capabilities().presigned_get && !storage.capabilities().presigned_put);
    store(&storage).await;
    let other = config.clone().with_encryption(Encryption::Customer(CustomerKey::new(&[7; 32])));
    for name in STORED {
        let file = storage.metadata(&id(name)).await.unwrap();
        let bytes = storage.download_bytes(&id(name)).await.unwrap();
        assert_eq!(bytes, data(file.size as usize, 1), "{name}");
        let range = DownloadOptions::default().with_range(ByteRange::Between(3, 9));
        assert_eq!(
            storage.download(&id(name), range).await.unwrap().bytes().await.unwrap(),
            bytes[3..9],
            "{name}"
        );
        let key = format!("{}{name}", key_prefix(&config));
        let bare = raw_client(&server).get_object().bucket(&server.bucket).key(key).send().await;
        assert!(bare.is_err(), "{name} is given away without the key");
        for wrong in [&config, &other] {
            let wrong = connect(&wrong.clone().with_access(Access::ReadOnly)).await;
            let error = wrong.download(&id(name), DownloadOptions::default()).await.unwrap_err();
            assert!(!matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Integrity), "{name}: {error}");
            let error = wrong.metadata(&id(name)).await.unwrap_err();
            assert!(error.to_string().contains("customer key"), "{name}: no next step in {error}");
        }
    }
    let asked = PresignRequest::get(std::time::Duration::from_secs(60));
    let error = storage.presigned_url(&id("small"), asked).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// The digest is of the bytes and not of what is stored: an encrypted upload is verified as any other.
#[tokio::test]
async fn an_encrypted_upload_is_verified_by_the_server_as_any_other() {
    let Some(server) = shared::garage() else { return };
    let storage = connect(&with_key(config(&server))).await;
    assert!(storage.capabilities().verifies_sha256);
    let bytes = data(70_000, 2);
    let options = UploadOptions::default().with_digest(Digest::of(&bytes));
    let receipt = storage.upload(&id("a"), Body::from_bytes(bytes.clone()), options).await.unwrap();
    assert_eq!((receipt.verified, receipt.digest), (Verified::Backend, Some(Digest::of(&bytes))));
    let wrong = UploadOptions::default().with_digest(Digest::of(b"other"));
    let error = storage.upload(&id("b"), Body::from_bytes(bytes), wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
}

#[tokio::test]
async fn what_a_server_ignores_with_a_200_fails_the_opening() {
    if let Some(garage) = shared::garage() {
        for (config, word) in [
            (config(&garage).with_storage_class("STANDARD_IA"), "STANDARD_IA"),
            (config(&garage).with_encryption(Encryption::Server), "SSE-S3"),
            (config(&garage).with_encryption(Encryption::Kms(None)), "SSE-KMS"),
        ] {
            let error = refused(config).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        // What it has anyway.
        connect(&config(&garage).with_storage_class("STANDARD")).await;
    }
    if let Some(moto) = shared::moto() {
        let error = refused(with_key(config(&moto))).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("SSE-C"), "{error}");
        let error = refused(config(&moto).with_storage_class("NO_SUCH_CLASS")).await;
        assert!(error.to_string().contains("torage class"), "{error}");
    }
}

/// A storage that was opened by what another one found out asks no canary: each answer is looked at.
#[tokio::test]
async fn what_a_server_ignores_fails_the_upload_where_nobody_probed() {
    let Some(garage) = shared::garage() else { return };
    let config = config(&garage);
    let capabilities = connect(&config).await.capabilities();
    let config = config.with_encryption(Encryption::Server);
    let storage = S3Storage::with_capabilities(config, &capabilities).await.unwrap();
    for size in [10, PART as usize + 1] {
        let body = Body::from_bytes(data(size, 3));
        let error = storage.upload(&id("a"), body, UploadOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{size}: {error}");
    }
    assert!(storage.upload_bytes(&id("b"), "x".into()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn class_and_encryption_reach_every_way_of_storing() {
    let Some(moto) = shared::moto() else { return };
    for (class, encryption, told, key) in [
        ("STANDARD_IA", Encryption::Server, "AES256", None),
        ("GLACIER_IR", Encryption::Kms(Some("1234-abcd".to_owned())), "aws:kms", Some("1234-abcd")),
        ("STANDARD", Encryption::Kms(None), "aws:kms", None),
    ] {
        let config = config(&moto).with_storage_class(class).with_encryption(encryption);
        let storage = connect(&config).await;
        store(&storage).await;
        for name in STORED {
            let head = head(&moto, &config, name).await;
            let stored = head.storage_class().map_or("STANDARD", |class| class.as_str());
            assert_eq!(stored, class, "{name}");
            assert_eq!(head.server_side_encryption().map(|found| found.as_str()), Some(told), "{name}");
            if let Some(key) = key {
                assert!(head.ssekms_key_id().is_some_and(|found| found.ends_with(key)), "{name}: {head:?}");
            }
        }
    }
}

/// Canaries have no class: those of archives are billed for months.
#[tokio::test]
async fn a_class_is_given_to_one_canary_only_and_none_stays() {
    let Some(moto) = shared::moto() else { return };
    let config = config(&moto).with_storage_class("GLACIER");
    let storage = connect(&config).await;
    storage.probe(std::time::Duration::from_secs(10)).await.unwrap();
    let listed = raw_client(&moto)
        .list_objects_v2()
        .bucket(&moto.bucket)
        .prefix(key_prefix(&config))
        .send()
        .await
        .unwrap();
    assert!(listed.contents().is_empty(), "{listed:?}");
}

/// The SDK and its signer write all headers to the log at their finest level.
#[tokio::test]
async fn no_customer_key_is_logged_even_at_trace() {
    let Some(server) = shared::garage() else { return };
    let config = with_key(config(&server));
    let (mut seen, ()) = captured(Box::pin(async {
        let storage = connect(&config).await;
        store(&storage).await;
        for name in STORED {
            storage.metadata(&id(name)).await.unwrap();
            storage.download_bytes(&id(name)).await.unwrap();
        }
    }))
    .await;
    assert!(seen.contains("TRACE"), "nothing was captured");
    let wrong = config
        .clone()
        .with_encryption(Encryption::Customer(CustomerKey::new(&[7; 32])))
        .with_access(Access::ReadOnly);
    let error = connect(&wrong).await.download_bytes(&id("small")).await.unwrap_err();
    seen.push_str(&format!("{config:?} {error} {error:?} {:?}", connect(&config).await));
    for secret in [BASE64.encode(KEY), hex::encode(KEY), String::from_utf8_lossy(&KEY[2..27]).into_owned()] {
        assert!(!seen.contains(&secret), "the key was logged");
    }
}
