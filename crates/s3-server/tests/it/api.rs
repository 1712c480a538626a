//! The protocol, request by request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3_server::{Limits, ServerConfig};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::id::FileId;
use storage_core::storage::{FileStorage, FileStorageExt as _};

use crate::support::{BUCKET, MIB, Payload, Request, exchange, memory, start};

fn get(key: &str) -> Request {
    Request::new("GET", key)
}

fn put(key: &str, body: &str) -> Request {
    Request::new("PUT", key).body(body)
}

/// Checksums of `hello`, in base64.
const SUMS: [(&str, &str); 5] = [
    ("x-amz-checksum-crc32", "NhCmhg=="),
    ("x-amz-checksum-crc32c", "mnG7TA=="),
    ("x-amz-checksum-crc64nvme", "M3eFcAZSQlc="),
    ("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00="),
    ("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
];

#[tokio::test]
async fn a_declared_checksum_is_checked_and_told_again() {
    let (server, _) = memory().await;
    for (name, value) in SUMS {
        let answer = put("a", "hello").header(name, value).send(&server).await.expect(200);
        assert_eq!(answer.headers[name], value);
        let trailer = put("a", "hello").payload(Payload::Trailer(name, value));
        let answer = trailer.send(&server).await.expect(200);
        assert_eq!(answer.headers[name], value);
        assert_eq!(answer.headers["x-amz-checksum-type"], "FULL_OBJECT");
    }
    assert_eq!(get("a").send(&server).await.expect(200).text(), "hello");
}

#[tokio::test]
async fn a_wrong_checksum_publishes_nothing() {
    let (server, storage) = memory().await;
    for (name, value) in SUMS {
        put("a", "hullo").header(name, value).send(&server).await.refused(400, "BadDigest");
        let trailer = put("a", "hullo").payload(Payload::Trailer(name, value));
        trailer.send(&server).await.refused(400, "BadDigest");
        put("a", "hello").header(name, "AAAA").send(&server).await.refused(400, "InvalidRequest");
    }
    let md5 = put("a", "hullo").header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==");
    md5.send(&server).await.refused(400, "BadDigest");
    put("a", "hello").header("content-md5", "no").send(&server).await.refused(400, "InvalidDigest");
    let attribute = put("a", "hullo").header("x-amz-meta-sha256", "00".repeat(32));
    attribute.send(&server).await.refused(400, "BadDigest");
    assert!(!storage.exists(&FileId::parse("a").unwrap()).await.unwrap());
    let md5 = put("a", "hello").header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==");
    md5.send(&server).await.expect(200);
}

#[tokio::test]
async fn an_announced_trailer_that_does_not_come_is_missed() {
    let (server, storage) = memory().await;
    let request = put("a", "hello").payload(Payload::MissingTrailer("x-amz-checksum-crc32"));
    request.send(&server).await.refused(400, "InvalidRequest");
    assert!(!storage.exists(&FileId::parse("a").unwrap()).await.unwrap());
}

#[tokio::test]
async fn a_payload_changed_after_signing_is_refused() {
    let (server, storage) = memory().await;
    let answer = put("a", "hello").tampered("hullo").send(&server).await;
    answer.refused(400, "XAmzContentSHA256Mismatch");
    let answer = put("b", "hello").announced(50).send(&server).await;
    answer.refused(400, "IncompleteBody");
    for id in ["a", "b"] {
        assert!(!storage.exists(&FileId::parse(id).unwrap()).await.unwrap());
    }
}

#[tokio::test]
async fn who_does_not_sign_is_not_let_in() {
    let (server, _) = memory().await;
    put("a", "hello").send(&server).await.expect(200);
    let answer = get("a").try_send(&server, "not the secret").await.unwrap();
    answer.refused(403, "SignatureDoesNotMatch");
    get("a").anonymous(&server).await.refused(403, "AccessDenied");
    put("a", "x").anonymous(&server).await.refused(403, "AccessDenied");
    let old = get("a").header("authorization", "AWS AKID:c2ln").anonymous(&server).await;
    old.refused(400, "InvalidRequest");
    put("b", "hello").payload(Payload::Unsigned).send(&server).await.expect(200);
}

#[tokio::test]
async fn a_presigned_url_is_a_permission_until_it_expires() {
    let (server, _) = memory().await;
    put("dir/ä b", "hello").send(&server).await.expect(200);
    let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
    let fetch = async |method: &str, url: String, body: &str| {
        exchange(&server, method, &url, &BTreeMap::new(), body.as_bytes(), None).await.unwrap()
    };
    let url = get("dir/ä b")
        .query("response-content-disposition", "attachment; filename=\"x\"")
        .query("response-content-type", "text/x-y")
        .presign(&server, now, minute);
    let answer = fetch("GET", url.clone(), "").await.expect(200);
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.headers["content-disposition"], "attachment; filename=\"x\"");
    assert_eq!(answer.headers["content-type"], "text/x-y");
    fetch("GET", url.replace("x-y", "x-z"), "").await.refused(403, "SignatureDoesNotMatch");
    fetch("PUT", url, "x").await.refused(403, "SignatureDoesNotMatch");
    let late = get("dir/ä b").presign(&server, now - 2 * minute, minute);
    fetch("GET", late, "").await.refused(403, "AccessDenied");
    let write = Request::new("PUT", "new").presign(&server, now, minute);
    fetch("PUT", write, "written").await.expect(200);
    assert_eq!(get("new").send(&server).await.expect(200).text(), "written");
    // A client that moves an option into the query would see it dropped.
    let hidden = Request::new("PUT", "new").query("x-amz-acl", "public-read").presign(&server, now, minute);
    fetch("PUT", hidden, "x").await.refused(501, "NotImplemented");
}

#[tokio::test]
async fn response_headers_are_not_chosen_by_strangers() {
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(MemoryStorage::new()));
    let server = start(config).await;
    put("a", "hello").anonymous(&server).await.expect(200);
    let chosen = get("a").query("response-content-type", "text/html");
    chosen.anonymous(&server).await.refused(400, "InvalidRequest");
    assert_eq!(get("a").anonymous(&server).await.expect(200).text(), "hello");
}

#[tokio::test]
async fn no_key_leaves_the_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(directory.path().join("secret"), "secret").unwrap();
    let storage = LocalStorage::open(LocalConfig::new(&root)).await.unwrap();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(storage)).with_random_credentials();
    let server = start(config).await;
    for key in ["../secret", "a/../../secret", "./../secret", "/secret", "a//b", "a/./b", "..", "a/.."] {
        put(key, "x").send(&server).await.refused(400, "InvalidArgument");
        get(key).send(&server).await.refused(400, "InvalidArgument");
        Request::new("DELETE", key).send(&server).await.refused(400, "InvalidArgument");
    }
    let copy = put("b", "").header("x-amz-copy-source", format!("{BUCKET}/..%2Fsecret"));
    copy.send(&server).await.refused(400, "InvalidArgument");
    assert_eq!(std::fs::read_to_string(directory.path().join("secret")).unwrap(), "secret");
    assert_eq!(get("").send(&server).await.expect(200).elements("Key"), [""; 0]);
}

#[tokio::test]
async fn a_directory_marker_is_refused_clearly_and_missed_quietly() {
    let (server, _) = memory().await;
    let answer = put("dir/", "").send(&server).await;
    assert!(answer.text().contains("empty segment"), "{}", answer.text());
    answer.refused(400, "InvalidArgument");
    get("dir/").send(&server).await.refused(404, "NoSuchKey");
    Request::new("DELETE", "dir/").send(&server).await.expect(204);
}

#[tokio::test]
async fn ranges_are_those_of_rfc_9110() {
    let (server, _) = memory().await;
    put("a", "0123456789").send(&server).await.expect(200);
    for (range, bytes, told) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=0-99", "0123456789", "bytes 0-9/10"),
    ] {
        let answer = get("a").header("range", range).send(&server).await.expect(206);
        assert_eq!((answer.text().as_str(), answer.headers["content-range"].as_str()), (bytes, told));
        let head = Request::new("HEAD", "a").header("range", range).send(&server).await.expect(206);
        assert_eq!(head.headers["content-range"], told);
    }
    let answer = get("a").header("range", "bytes=10-").send(&server).await;
    assert_eq!(answer.headers["content-range"], "bytes */10");
    answer.refused(416, "InvalidRange");
}

#[tokio::test]
async fn conditions_hold_on_every_kind_of_request() {
    let (server, _) = memory().await;
    let etag = put("a", "one").header("if-none-match", "*").send(&server).await.expect(200).etag();
    assert_eq!(etag.len(), 42, "no client may take it for an MD5: {etag}");
    put("a", "two").header("if-none-match", "*").send(&server).await.refused(412, "PreconditionFailed");
    get("a").header("if-match", "\"x\"").send(&server).await.refused(412, "PreconditionFailed");
    let answer = get("a").header("if-none-match", etag.clone()).send(&server).await.expect(304);
    assert_eq!(answer.etag(), etag);
    assert!(answer.body.is_empty());
    let old = "Mon, 01 Jan 2001 00:00:00 GMT";
    get("a").header("if-unmodified-since", old).send(&server).await.refused(412, "PreconditionFailed");
    get("a").header("if-modified-since", old).send(&server).await.expect(200);
    put("a", "two").header("if-match", "\"x\"").send(&server).await.refused(412, "PreconditionFailed");
    put("b", "two").header("if-match", etag.clone()).send(&server).await.refused(404, "NoSuchKey");
    let copy = put("c", "").header("x-amz-copy-source", format!("{BUCKET}/a"));
    let other = copy.clone().header("x-amz-copy-source-if-match", "\"x\"");
    other.send(&server).await.refused(412, "PreconditionFailed");
    copy.clone().header("x-amz-copy-source-if-match", etag.clone()).send(&server).await.expect(200);
    copy.header("if-none-match", "*").send(&server).await.refused(412, "PreconditionFailed");
    let newer = put("a", "two").header("if-match", etag.clone()).send(&server).await.expect(200).etag();
    let delete = Request::new("DELETE", "a");
    delete.clone().header("if-match", etag).send(&server).await.refused(412, "PreconditionFailed");
    delete.clone().header("if-match", newer).send(&server).await.expect(204);
    delete.send(&server).await.expect(204);
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused() {
    let (server, storage) = memory().await;
    for (name, value) in [
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-storage-class", "GLACIER"),
        ("x-amz-acl", "public-read"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-website-redirect-location", "/b"),
    ] {
        put("a", "x").header(name, value).send(&server).await.refused(501, "NotImplemented");
        let create = Request::new("POST", "a").query("uploads", "").header(name, value);
        create.send(&server).await.refused(501, "NotImplemented");
    }
    assert!(!storage.exists(&FileId::parse("a").unwrap()).await.unwrap());
    let form =
        Request::new("POST", "").header("content-type", "multipart/form-data; boundary=x").body("--x--");
    form.send(&server).await.refused(501, "NotImplemented");
    Request::new("PUT", "").send(&server).await.refused(409, "BucketAlreadyOwnedByYou");
}

#[tokio::test]
async fn attributes_and_headers_travel_with_the_file_and_its_copies() {
    let (server, _) = memory().await;
    let described = put("a", "x")
        .header("content-type", "text/x-a")
        .header("cache-control", "max-age=5")
        .header("content-disposition", "inline")
        .header("x-amz-meta-mtime", "1.5");
    described.send(&server).await.expect(200);
    let copy = |to: &str| put(to, "").header("x-amz-copy-source", format!("/{BUCKET}/a"));
    copy("b").send(&server).await.expect(200);
    for key in ["a", "b"] {
        let head = Request::new("HEAD", key).send(&server).await.expect(200);
        assert_eq!(head.headers["content-type"], "text/x-a");
        assert_eq!(head.headers["cache-control"], "max-age=5");
        assert_eq!(head.headers["content-disposition"], "inline");
        assert_eq!(head.headers["x-amz-meta-mtime"], "1.5");
    }
    let replaced = copy("c").header("x-amz-metadata-directive", "REPLACE").header("x-amz-meta-n", "1");
    replaced.send(&server).await.expect(200);
    let emptied = copy("a").header("x-amz-metadata-directive", "REPLACE");
    copy("a").send(&server).await.refused(400, "InvalidRequest");
    emptied.send(&server).await.expect(200);
    let head = Request::new("HEAD", "c").send(&server).await.expect(200);
    assert_eq!(head.headers["x-amz-meta-n"], "1");
    assert!(!head.headers.contains_key("x-amz-meta-mtime"));
    let head = Request::new("HEAD", "a").send(&server).await.expect(200);
    assert!(!head.headers.contains_key("x-amz-meta-mtime") && !head.headers.contains_key("cache-control"));
}

#[tokio::test]
async fn listings_come_in_pages_with_prefixes_and_odd_names() {
    let (server, _) = memory().await;
    let keys = ["a\nb", "a&b<c>", "d/1", "d/2", "d e/1", "é+ %", "z\rz"];
    for key in keys {
        put(key, "x").send(&server).await.expect(200);
    }
    let list = || get("").query("list-type", "2");
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    list().send(&server).await.refused(400, "InvalidArgument");
    let mut names = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut page = list().query("encoding-type", "url").query("delimiter", "/").query("max-keys", "2");
        if let Some(token) = &token {
            page = page.query("continuation-token", token);
        }
        let page = page.send(&server).await.expect(200);
        let prefixes = page.elements("CommonPrefixes").into_iter();
        let prefixes = prefixes.map(|prefix| prefix.replace("<Prefix>", "").replace("</Prefix>", ""));
        let keys: Vec<String> = page.elements("Key").iter().map(|key| decode(key)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        let mut both: Vec<String> = prefixes.map(|prefix| decode(&prefix)).chain(keys).collect();
        assert!(both.len() <= 2, "{both:?}");
        both.sort();
        names.extend(both);
        token = page.element("NextContinuationToken");
        assert_eq!(page.element("IsTruncated").unwrap() == "true", token.is_some());
        if token.is_none() {
            break;
        }
    }
    assert_eq!(names, ["a\nb", "a&b<c>", "d e/", "d/", "z\rz", "é+ %"], "pages in order, nothing twice");
    let after = list().query("start-after", "d/1").query("prefix", "d").send(&server).await.expect(200);
    assert_eq!(after.elements("Key"), ["d/2"]);
    let v1 = get("").query("marker", "d/").query("delimiter", "/").query("prefix", "d").send(&server).await;
    assert_eq!(v1.expect(200).elements("Key"), [""; 0]);
    list().query("continuation-token", "?").send(&server).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn a_batch_answers_for_each_key() {
    let (server, _) = memory().await;
    for key in ["a", "b&c"] {
        put(key, "x").send(&server).await.expect(200);
    }
    let batch = |quiet: bool| {
        let keys =
            ["a", "b&amp;c", "missing", "../x"].map(|key| format!("<Object><Key>{key}</Key></Object>"));
        let body = format!("<Delete><Quiet>{quiet}</Quiet>{}</Delete>", keys.concat());
        Request::new("POST", "").query("delete", "").body(body)
    };
    let answer = batch(false).send(&server).await.expect(200);
    assert_eq!(answer.elements("Deleted").len(), 3);
    assert_eq!(answer.elements("Error").len(), 1);
    assert_eq!(answer.code(), "InvalidArgument");
    let answer = batch(true).send(&server).await.expect(200);
    assert_eq!((answer.elements("Deleted").len(), answer.elements("Error").len()), (0, 1));
    assert_eq!(get("").send(&server).await.expect(200).elements("Key"), [""; 0]);
}

#[tokio::test]
async fn a_batch_that_is_not_the_one_that_was_meant_deletes_nothing() {
    let (server, storage) = memory().await;
    put("hello", "x").send(&server).await.expect(200);
    let batch = || {
        let body = "<Delete><Object><Key>hello</Key></Object></Delete>";
        Request::new("POST", "").query("delete", "").body(body).payload(Payload::Unsigned)
    };
    for (name, value) in SUMS {
        batch().header(name, value).send(&server).await.refused(400, "BadDigest");
        batch().header(name, "AAAA").send(&server).await.refused(400, "InvalidRequest");
    }
    batch().header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==").send(&server).await.refused(400, "BadDigest");
    batch().header("content-md5", "no").send(&server).await.refused(400, "InvalidDigest");
    let chunked = batch().payload(Payload::Trailer(SUMS[0].0, SUMS[0].1));
    chunked.send(&server).await.refused(501, "NotImplemented");
    assert!(storage.exists(&FileId::parse("hello").unwrap()).await.unwrap());
    batch()
        .header("x-amz-checksum-crc32", "rd9oLg==")
        .header("content-md5", "N4uLvXfsEgB+kR8SZIjlMA==")
        .send(&server)
        .await
        .expect(200);
    assert!(!storage.exists(&FileId::parse("hello").unwrap()).await.unwrap());
}

async fn begin(server: &s3_server::RunningServer, key: &str) -> String {
    let answer = Request::new("POST", key).query("uploads", "").send(server).await.expect(200);
    answer.element("UploadId").unwrap()
}

fn part(key: &str, upload: &str, number: u32, body: Vec<u8>) -> Request {
    let request = Request::new("PUT", key).query("uploadId", upload);
    request.query("partNumber", &number.to_string()).body(body)
}

fn complete(key: &str, upload: &str, parts: &[(u32, String)]) -> Request {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    Request::new("POST", key).query("uploadId", upload).body(body)
}

#[tokio::test]
async fn a_multipart_upload_is_what_s3_says_it_is() {
    let (server, storage) = memory().await;
    let upload = begin(&server, "big").await;
    let (first, last) = (vec![1; 5 * MIB], vec![2; 1000]);
    let tail = part("big", &upload, 2, last.clone()).send(&server).await.expect(200).etag();
    let wrong = part("big", &upload, 1, first.clone()).header("x-amz-checksum-crc32", "AAAAAA==");
    wrong.send(&server).await.refused(400, "BadDigest");
    let head = part("big", &upload, 1, first.clone()).send(&server).await.expect(200).etag();
    let etags = [(1, head.clone()), (2, tail.clone())];

    part("big", &upload, 0, vec![]).send(&server).await.refused(400, "InvalidArgument");
    part("big", &upload, 10_001, vec![]).send(&server).await.refused(400, "InvalidArgument");
    part("other", &upload, 1, vec![]).send(&server).await.refused(404, "NoSuchUpload");
    let order = [(2, tail.clone()), (1, head.clone())];
    complete("big", &upload, &order).send(&server).await.refused(400, "InvalidPartOrder");
    let other = [(1, tail.clone()), (2, tail.clone())];
    complete("big", &upload, &other).send(&server).await.refused(400, "InvalidPart");
    let missing = [(1, head.clone()), (2, tail.clone()), (3, tail)];
    complete("big", &upload, &missing).send(&server).await.refused(400, "InvalidPart");
    complete("big", &upload, &[]).send(&server).await.refused(400, "MalformedXML");
    complete("small", &upload, &etags).send(&server).await.refused(404, "NoSuchUpload");

    let list = || get("big").query("uploadId", &upload).query("max-parts", "1");
    let page = list().send(&server).await.expect(200);
    assert_eq!(
        (page.elements("PartNumber"), page.element("IsTruncated")),
        (vec!["1".into()], Some("true".into()))
    );
    assert_eq!(page.elements("ChecksumSHA256").len(), 1);
    let page = list().query("part-number-marker", "1").send(&server).await.expect(200);
    assert_eq!(
        (page.elements("PartNumber"), page.element("IsTruncated")),
        (vec!["2".into()], Some("false".into()))
    );
    let page = get("").query("uploads", "").send(&server).await.expect(200);
    assert_eq!(page.element("UploadId").as_ref(), Some(&upload));

    let answer =
        complete("big", &upload, &etags).header("if-none-match", "*").send(&server).await.expect(200);
    let composite = answer.element("ChecksumSHA256").unwrap();
    assert!(composite.ends_with("-2"), "{composite}");
    let head =
        Request::new("HEAD", "big").header("x-amz-checksum-mode", "ENABLED").send(&server).await.expect(200);
    assert_eq!(head.headers["x-amz-checksum-sha256"], composite);
    assert_eq!(head.headers["x-amz-checksum-type"], "COMPOSITE");
    let second = get("big").query("partNumber", "2").send(&server).await.expect(206);
    assert_eq!((second.body, second.headers["x-amz-mp-parts-count"].as_str()), (last.clone(), "2"));
    let bytes = storage.download_bytes(&FileId::parse("big").unwrap()).await.unwrap();
    assert_eq!(bytes, [first, last].concat());
}

/// The answer to a completion was lost: the client asks again, and is told what came of it.
async fn completions_can_be_repeated(storage: Arc<dyn FileStorage>) {
    let config = ServerConfig::new().with_bucket(BUCKET, storage).with_random_credentials();
    let server = start(config).await;
    for sizes in [vec![10], vec![5 * MIB, 10], vec![5 * MIB, 5 * MIB]] {
        let upload = begin(&server, "f").await;
        let mut etags = Vec::new();
        for (number, &size) in (1..).zip(&sizes) {
            let etag =
                part("f", &upload, number, vec![number as u8; size]).send(&server).await.expect(200).etag();
            etags.push((number, etag));
        }
        let first =
            complete("f", &upload, &etags).header("if-none-match", "*").send(&server).await.expect(200);
        for condition in [None, Some("*")] {
            let mut again = complete("f", &upload, &etags);
            if let Some(condition) = condition {
                again = again.header("if-none-match", condition);
            }
            let again = again.send(&server).await.expect(200);
            assert_eq!(again.element("ETag"), first.element("ETag"), "{sizes:?}");
        }
        // Not its result: a part of another upload that has the size of the first case, and another file.
        let other = begin(&server, "other").await;
        let stranger =
            part("other", &other, 1, b"a stranger".to_vec()).send(&server).await.expect(200).etag();
        complete("f", &upload, &[(1, stranger)]).send(&server).await.refused(404, "NoSuchUpload");
        Request::new("DELETE", "other").query("uploadId", &other).send(&server).await.expect(204);
        put("f", "another").send(&server).await.expect(200);
        complete("f", &upload, &etags).send(&server).await.refused(404, "NoSuchUpload");
        Request::new("DELETE", "f").send(&server).await.expect(204);
        complete("f", &upload, &etags).send(&server).await.refused(404, "NoSuchUpload");
    }
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_can_be_repeated_in_memory() {
    completions_can_be_repeated(Arc::new(MemoryStorage::new())).await;
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_can_be_repeated_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(LocalConfig::new(directory.path())).await.unwrap();
    completions_can_be_repeated(Arc::new(storage)).await;
}

#[tokio::test]
async fn a_completion_with_another_checksum_of_a_part_publishes_nothing() {
    let (server, storage) = memory().await;
    let completed = |upload: &str, etag: &str, element: &str, value: &str| {
        let part = format!("<PartNumber>1</PartNumber><ETag>{etag}</ETag><{element}>{value}</{element}>");
        let body = format!("<CompleteMultipartUpload><Part>{part}</Part></CompleteMultipartUpload>");
        Request::new("POST", "f").query("uploadId", upload).body(body)
    };
    for (name, value) in SUMS {
        let element = name.replace("x-amz-checksum-", "Checksum");
        let element = element.to_uppercase().replace("CHECKSUM", "Checksum");
        let upload = begin(&server, "f").await;
        let bare = part("f", &upload, 1, b"hello".to_vec()).send(&server).await.expect(200).etag();
        if element != "ChecksumSHA256" {
            let unknown = completed(&upload, &bare, &element, value).send(&server).await;
            unknown.refused(501, "NotImplemented");
        }
        let told =
            part("f", &upload, 1, b"hello".to_vec()).header(name, value).send(&server).await.expect(200);
        let etag = told.etag();
        completed(&upload, &bare, &element, value).send(&server).await.refused(400, "InvalidPart");
        let zeros = value.split_at(2).1;
        let wrong = format!("AA{zeros}");
        completed(&upload, &etag, &element, &wrong).send(&server).await.refused(400, "InvalidPart");
        completed(&upload, &etag, &element, "AA").send(&server).await.refused(400, "InvalidRequest");
        assert!(!storage.exists(&FileId::parse("f").unwrap()).await.unwrap(), "{name}");
        completed(&upload, &etag, &element, value).send(&server).await.expect(200);
        completed(&upload, &etag, &element, &wrong).send(&server).await.refused(400, "InvalidPart");
        Request::new("DELETE", "f").send(&server).await.expect(204);
    }
}

#[tokio::test]
async fn a_checksum_that_would_not_be_kept_is_refused_before_the_first_part() {
    let (server, _) = memory().await;
    let create = |algorithm: Option<&str>, kind: &str| {
        let create = Request::new("POST", "f").query("uploads", "").header("x-amz-checksum-type", kind);
        match algorithm {
            Some(algorithm) => create.header("x-amz-checksum-algorithm", algorithm),
            None => create,
        }
    };
    for algorithm in ["SHA256", "SHA1"] {
        create(Some(algorithm), "FULL_OBJECT").send(&server).await.refused(400, "InvalidRequest");
    }
    create(Some("CRC64NVME"), "COMPOSITE").send(&server).await.refused(400, "InvalidRequest");
    create(None, "FULL_OBJECT").send(&server).await.refused(400, "InvalidRequest");
    for (algorithm, kind) in [
        ("CRC32", "FULL_OBJECT"),
        ("CRC32C", "FULL_OBJECT"),
        ("CRC64NVME", "FULL_OBJECT"),
        ("CRC32", "COMPOSITE"),
        ("SHA1", "COMPOSITE"),
    ] {
        create(Some(algorithm), kind).send(&server).await.refused(501, "NotImplemented");
    }
    assert_eq!(get("").query("uploads", "").send(&server).await.expect(200).elements("UploadId"), [""; 0]);
    let kept = create(Some("SHA256"), "COMPOSITE").send(&server).await.expect(200);
    assert_eq!(kept.headers["x-amz-checksum-type"], "COMPOSITE");
    let upload = kept.element("UploadId").unwrap();
    let etag = part("f", &upload, 1, b"hello".to_vec()).send(&server).await.expect(200).etag();
    let etags = [(1, etag)];
    let whole = complete("f", &upload, &etags).header("x-amz-checksum-type", "FULL_OBJECT");
    whole.send(&server).await.refused(501, "NotImplemented");
    let whole = complete("f", &upload, &etags).header("x-amz-checksum-sha256", SUMS[4].1);
    whole.send(&server).await.refused(400, "BadDigest");
    let whole = complete("f", &upload, &etags).header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==");
    whole.send(&server).await.refused(400, "BadDigest");
    complete("f", &upload, &etags).send(&server).await.expect(200);
}

#[tokio::test]
async fn a_small_part_that_is_not_the_last_is_refused() {
    let (server, _) = memory().await;
    let upload = begin(&server, "big").await;
    let mut etags = Vec::new();
    for number in [1, 2] {
        let etag = part("big", &upload, number, vec![0; 5 * MIB - 1]).send(&server).await.expect(200).etag();
        etags.push((number, etag));
    }
    complete("big", &upload, &etags).send(&server).await.refused(400, "EntityTooSmall");
    let abort = Request::new("DELETE", "big").query("uploadId", &upload);
    abort.clone().send(&server).await.expect(204);
    abort.send(&server).await.refused(404, "NoSuchUpload");
    get("big").send(&server).await.refused(404, "NoSuchKey");
    assert_eq!(get("").query("uploads", "").send(&server).await.expect(200).elements("UploadId"), [""; 0]);
}

#[tokio::test]
async fn parts_are_copied_from_ranges_and_uneven_ones_have_no_composite() {
    let (server, _) = memory().await;
    let source: Vec<u8> = (0..13 * MIB).map(|at| (at / 1000) as u8).collect();
    Request::new("PUT", "source").body(source.clone()).send(&server).await.expect(200);
    let upload = begin(&server, "copy").await;
    let mut etags = Vec::new();
    for (number, from, to) in [(1, 0, 6 * MIB), (2, 6 * MIB, 11 * MIB), (3, 11 * MIB, 13 * MIB)] {
        let copied = part("copy", &upload, number, vec![])
            .header("x-amz-copy-source", format!("{BUCKET}/source"))
            .header("x-amz-copy-source-range", format!("bytes={from}-{}", to - 1));
        let copied = copied.send(&server).await.expect(200);
        etags.push((number, copied.element("ETag").unwrap()));
    }
    let beyond = part("copy", &upload, 4, vec![])
        .header("x-amz-copy-source", format!("{BUCKET}/source"))
        .header("x-amz-copy-source-range", format!("bytes=0-{}", 13 * MIB));
    beyond.send(&server).await.refused(416, "InvalidRange");
    complete("copy", &upload, &etags).send(&server).await.expect(200);
    let copy = get("copy").header("x-amz-checksum-mode", "ENABLED").send(&server).await.expect(200);
    assert!(copy.body == source);
    assert_eq!(copy.headers["x-amz-checksum-type"], "FULL_OBJECT");
}

#[tokio::test]
async fn an_upload_outlives_the_server() {
    let storage = MemoryStorage::new();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(storage)).with_random_credentials();
    let server = start(config.clone()).await;
    let upload = begin(&server, "a").await;
    let etag = part("a", &upload, 1, b"x".to_vec()).send(&server).await.expect(200).etag();
    server.shutdown().await;
    let server = start(config).await;
    complete("a", &upload, &[(1, etag)]).send(&server).await.expect(200);
    assert_eq!(get("a").send(&server).await.expect(200).text(), "x");
}

#[tokio::test]
async fn bodies_beyond_memory_and_beyond_the_limits() {
    let storage = MemoryStorage::new();
    let limits = Limits::default()
        .with_spool_bytes(1000)
        .with_memory_bytes(2000)
        .with_max_put_bytes(100_000)
        .with_max_part_bytes(50_000);
    let config = ServerConfig::new()
        .with_bucket(BUCKET, Arc::new(storage.clone()))
        .with_random_credentials()
        .with_limits(limits);
    let server = start(config).await;
    let many = (0..20).map(|n| {
        let body = vec![n; 90_000];
        Request::new("PUT", &format!("k{n}")).body(body).send(&server)
    });
    for answer in futures::future::join_all(many).await {
        answer.expect(200);
    }
    let file = storage.metadata(&FileId::parse("k3").unwrap()).await.unwrap();
    assert_eq!(file.size, 90_000);
    let large = Request::new("PUT", "large").body(vec![0; 100_001]);
    large.send(&server).await.refused(400, "EntityTooLarge");
    let upload = begin(&server, "p").await;
    let etag = part("p", &upload, 1, vec![7; 50_000]).send(&server).await.expect(200).etag();
    part("p", &upload, 2, vec![7; 50_001]).send(&server).await.refused(400, "EntityTooLarge");
    complete("p", &upload, &[(1, etag)]).send(&server).await.expect(200);
}
