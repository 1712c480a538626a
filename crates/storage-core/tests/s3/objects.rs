//! What other tools wrote, what a browser gets, and what does not fit.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use storage_core::checksum::Digest;
use storage_core::error::ErrorKind;
use storage_core::storage::{FileStorage, FileStorageExt, PresignRequest, UploadOptions, Verified};
use test_rig::ServerKind;

use crate::common::{PART, data, everywhere, id, key_prefix, put_raw, raw_client};

#[tokio::test]
async fn another_tools_metadata_is_read_and_survives_a_copy() {
    for (server, config, storage) in everywhere().await {
        let client = raw_client(&server);
        let metadata = HashMap::from([("mtime".to_owned(), "1700000000.5".to_owned())]);
        let key = format!("{}a", key_prefix(&config));
        let kind = Some("text/x-foreign".to_owned());
        put_raw(&client, &server.bucket, &key, b"x".to_vec(), Some(metadata.clone()), kind).await;
        let read = storage.metadata(&id("a")).await.unwrap();
        assert_eq!(read.tags["x-amz-meta-mtime"], "1700000000.5");
        assert_eq!(read.content_type.as_deref(), Some("text/x-foreign"));
        storage.copy(&id("a"), &id("b"), UploadOptions::default().with_file_name("n")).await.unwrap();
        let key = format!("{}b", key_prefix(&config));
        let head = client.head_object().bucket(&server.bucket).key(key).send().await.unwrap();
        let metadata = head.metadata().unwrap();
        assert_eq!(metadata["mtime"], "1700000000.5");
        assert_eq!(metadata["file-name"], "n");
    }
}

#[tokio::test]
async fn attributes_beyond_two_kilobytes_are_refused_and_the_error_says_so() {
    for (_, _, storage) in everywhere().await {
        let fits = UploadOptions::default().with_tag("k", "v".repeat(1_500));
        storage.upload(&id("a"), data(10, 1).into(), fits).await.unwrap();
        let long = UploadOptions::default().with_tag("k", "v".repeat(2_100));
        for size in [10, PART as usize + 1] {
            let error = storage.upload(&id("b"), data(size, 1).into(), long.clone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("2048"), "{error}");
        }
        assert!(!storage.exists(&id("b")).await.unwrap());
    }
}

#[tokio::test]
async fn the_receipt_says_who_verified() {
    for (server, _, storage) in everywhere().await {
        for size in [0, 10, PART as usize, 2 * PART as usize + 1] {
            let bytes = data(size, 2);
            let receipt = storage.upload_bytes(&id("a"), bytes.clone()).await.unwrap();
            assert_eq!(receipt.digest, Some(Digest::of(&bytes)));
            let due = match server.kind {
                ServerKind::Garage => Verified::Backend,
                ServerKind::Moto => Verified::No,
            };
            assert_eq!(receipt.verified, due, "{:?} {size}", server.kind);
        }
    }
}

/// A digest that the caller knows serves as checksum without being computed again, so the server must be one
/// that compares; where it does not, we do.
#[tokio::test]
async fn a_wrong_digest_is_refused_by_the_server_or_by_us() {
    for (_, _, storage) in everywhere().await {
        let options = UploadOptions::default().with_digest(Digest::of(b"other"));
        let error = storage.upload(&id("a"), data(1_000, 3).into(), options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(!storage.exists(&id("a")).await.unwrap());
    }
}

/// Sends a GET by hand and returns the head of the answer.
fn head_of(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {authority}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split("\r\n\r\n").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_saves_a_presigned_file_under_its_name() {
    for (server, _, storage) in everywhere().await {
        storage.upload_bytes(&id("a b+c%.txt"), "hello".into()).await.unwrap();
        let request = PresignRequest::get(Duration::from_secs(60)).with_save_as("Größe \"1\".txt");
        let url = storage.presigned_url(&id("a b+c%.txt"), request).await.unwrap();
        let head = head_of(&url.url);
        assert!(
            head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200"),
            "{:?}: {head}",
            server.kind
        );
        let due = "attachment; filename=\"Gr__e _1_.txt\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%221%22.txt";
        assert!(head.contains(due), "{:?}: {head}", server.kind);
    }
}

#[tokio::test]
async fn a_presigned_put_binds_type_and_length() {
    let Some(server) = test_rig::shared::garage() else { return };
    let storage = crate::common::connect(&crate::common::config(&server)).await;
    let request =
        PresignRequest::put(Duration::from_secs(60)).with_content_type("text/x-bound").with_content_length(5);
    let url = storage.presigned_url(&id("p"), request).await.unwrap();
    let path = url.url.split_once(&server.address().to_string()).unwrap().1.to_owned();
    let put = |kind: &'static str, body: &'static [u8]| {
        let (address, path) = (server.address(), path.clone());
        tokio::task::spawn_blocking(move || {
            test_rig::http::request(address, "PUT", &path, &[("Content-Type", kind)], body).unwrap().status
        })
    };
    assert_eq!(put("text/x-other", b"hello").await.unwrap(), 403);
    assert_eq!(put("text/x-bound", b"too long").await.unwrap(), 403);
    assert_eq!(put("text/x-bound", b"hello").await.unwrap(), 200);
    assert_eq!(storage.download_bytes(&id("p")).await.unwrap(), "hello");
    assert_eq!(storage.metadata(&id("p")).await.unwrap().content_type.as_deref(), Some("text/x-bound"));
}
