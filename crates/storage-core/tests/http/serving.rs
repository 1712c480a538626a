//! What the router alone promises.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use std::sync::Arc;
use storage_core::error::{ErrorKind, Op};
use storage_core::http::{ServeConfig, router};
use storage_core::presign::{SigningKey, UrlSigner};
use storage_core::storage::{
    Access, FileStorage, FileStorageExt, PresignRequest, PresignedUrl, UploadOptions,
};
use storage_core::testkit::flaky::{Fault, FlakyStorage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Answer, Pieces, chunked, get, open as open_url, perform, send, whole};
use crate::{Served, data, id, listen, open, serve};

const MINUTE: Duration = Duration::from_secs(60);

impl Served {
    async fn url(&self, name: &str, request: PresignRequest) -> PresignedUrl {
        self.storage.presigned_url(&id(name), request).await.unwrap()
    }

    async fn assert_missing(&self, name: &str) {
        let kind = self.storage.metadata(&id(name)).await.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::NotFound), "{name}");
        self.assert_clean();
    }
}

/// So many bytes in pieces of 10,000, then what follows.
fn pieces(count: usize, then: Option<std::io::Error>) -> Pieces {
    let bytes = stream::iter((0..count).map(|_| Ok(data(10_000))));
    let end = stream::iter(then.map(|error| Err(error.into())));
    Box::pin(bytes.chain(end))
}

async fn put_pieces(url: &PresignedUrl, pieces: Pieces) -> Answer {
    send("PUT", &url.url, &[], chunked(pieces)).await.unwrap()
}

#[tokio::test]
async fn a_body_longer_than_signed_is_cut_off_and_not_stored() {
    let served = Served::start().await;
    let url = served.url("a", PresignRequest::put(MINUTE).with_content_length(50_000)).await;
    // In chunks nothing is announced: only counting shows it.
    for count in [6, 200] {
        assert_eq!(put_pieces(&url, pieces(count, None)).await.status, 413, "{count}");
        served.assert_missing("a").await;
    }
    let answer = send("PUT", &url.url, &[], whole(data(50_001))).await.unwrap();
    assert_eq!(answer.status, 413);
    served.assert_missing("a").await;
    assert_eq!(put_pieces(&url, pieces(5, None)).await.status, 200);
    assert_eq!(served.storage.metadata(&id("a")).await.unwrap().size, 50_000);
    // What is there stays.
    assert_eq!(put_pieces(&url, pieces(6, None)).await.status, 413);
    assert_eq!(served.storage.metadata(&id("a")).await.unwrap().size, 50_000);
    served.assert_clean();
}

#[tokio::test]
async fn a_body_shorter_than_signed_is_not_stored() {
    let served = Served::start().await;
    let url = served.url("a", PresignRequest::put(MINUTE).with_content_length(50_000)).await;
    for count in [0, 4] {
        assert_eq!(put_pieces(&url, pieces(count, None)).await.status, 400, "{count}");
        served.assert_missing("a").await;
    }
    let answer = send("PUT", &url.url, &[], whole(data(49_999))).await.unwrap();
    assert_eq!(answer.status, 400);
    served.assert_missing("a").await;
}

#[tokio::test]
async fn a_url_without_a_length_takes_as_much_as_the_service_does() {
    let served = Served::with(ServeConfig::default().with_max_upload(30_000)).await;
    let url = served.url("a", PresignRequest::put(MINUTE)).await;
    assert_eq!(put_pieces(&url, pieces(4, None)).await.status, 413);
    assert_eq!(send("PUT", &url.url, &[], whole(data(30_001))).await.unwrap().status, 413);
    served.assert_missing("a").await;
    assert_eq!(put_pieces(&url, pieces(3, None)).await.status, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let served = Served::with(ServeConfig::default().with_memory(1000)).await;
    let url = served.url("a", PresignRequest::put(MINUTE)).await;
    let target = url.url.split_once(&served.server.address.to_string()).unwrap().1.to_owned();
    for framing in ["content-length: 900000\r\n\r\n", "transfer-encoding: chunked\r\n\r\nDBBA0\r\n"] {
        let mut stream = TcpStream::connect(served.server.address).await.unwrap();
        stream.write_all(format!("PUT {target} HTTP/1.1\r\nhost: x\r\n{framing}").as_bytes()).await.unwrap();
        stream.write_all(&data(400_000)).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // The router may answer that the body ended early, or not at all.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
        served.assert_missing("a").await;
    }
    let broken = std::io::Error::other("the client gave up");
    let sent = send("PUT", &url.url, &[], chunked(pieces(40, Some(broken)))).await;
    assert!(sent.is_err() || sent.unwrap().status == 400);
    served.assert_missing("a").await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_not_waited_for() {
    let served = Served::with(ServeConfig::default().with_idle(Duration::from_millis(200))).await;
    let url = served.url("a", PresignRequest::put(MINUTE)).await;
    let hanging: Pieces = Box::pin(pieces(2, None).chain(stream::pending()));
    assert_eq!(put_pieces(&url, hanging).await.status, 408);
    served.assert_missing("a").await;
}

#[tokio::test]
async fn every_answer_keeps_the_browser_from_running_it() {
    let served = Served::start().await;
    served.storage.upload_bytes(&id("x.html"), "<script>".into()).await.unwrap();
    served.storage.upload_bytes(&id("x.pdf"), "%PDF".into()).await.unwrap();
    let url = |name, inline| {
        let request = PresignRequest::get(MINUTE);
        served.url(name, if inline { request.with_inline() } else { request })
    };
    let missing = url("missing", false).await.url;
    for answer in [
        get(&url("x.html", false).await.url, &[]).await,
        get(&url("x.html", true).await.url, &[]).await,
        get(&url("x.pdf", false).await.url, &[]).await,
        get(&missing, &[]).await,
        get(&format!("{missing}0"), &[]).await,
        perform(&served.url("new", PresignRequest::put(MINUTE)).await, &[], "x").await,
    ] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{answer:?}");
        assert_eq!(answer.header("content-security-policy"), "sandbox", "{answer:?}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{answer:?}");
        assert!(answer.header("cache-control").contains("private"), "{answer:?}");
    }
    // The viewers of browsers do not work in a sandbox.
    let answer = get(&url("x.pdf", true).await.url, &[]).await;
    assert_eq!(
        (answer.header("content-security-policy"), answer.header("x-content-type-options")),
        ("", "nosniff")
    );
    assert_eq!(
        (answer.header("content-disposition"), answer.header("content-type")),
        ("inline", "application/pdf")
    );
}

#[tokio::test]
async fn head_tells_what_get_would() {
    let served = Served::start().await;
    let options = UploadOptions::default().with_content_type("a/b");
    served.storage.upload(&id("a"), data(1000).into(), options).await.unwrap();
    let url = served.url("a", PresignRequest::get(MINUTE)).await.url;
    let got = get(&url, &[]).await;
    // Ranges are for GET alone.
    let head = send("HEAD", &url, &[("range", "bytes=0-1")], whole("")).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in
        ["content-length", "content-type", "etag", "last-modified", "accept-ranges", "content-disposition"]
    {
        assert!(!got.header(name).is_empty(), "{name}");
        assert_eq!(got.header(name), head.header(name), "{name}");
    }
    let etag = got.header("etag");
    assert_eq!(send("HEAD", &url, &[("if-none-match", etag)], whole("")).await.unwrap().status, 304);
    assert!(!etag.contains('-'), "an entity tag that tells of the disk: {etag}");
}

#[tokio::test]
async fn a_range_is_of_the_version_that_the_client_has() {
    let served = Served::start().await;
    served.storage.upload_bytes(&id("a"), data(1000)).await.unwrap();
    let url = served.url("a", PresignRequest::get(MINUTE)).await.url;
    let etag = get(&url, &[]).await.header("etag").to_owned();
    let range = ("range", "bytes=10-19");
    let answer = get(&url, &[range, ("if-range", &etag)]).await;
    assert_eq!((answer.status, &answer.body), (206, &data(1000).slice(10..20)));
    served.storage.upload_bytes(&id("a"), data(2000)).await.unwrap();
    let answer = get(&url, &[range, ("if-range", &etag)]).await;
    assert_eq!((answer.status, answer.body.len()), (200, 2000));
    let answer = get(&url, &[("range", "bytes=0-1,5-6")]).await;
    assert_eq!((answer.status, answer.body.len()), (200, 2000));
    let answer = get(&url, &[("range", "bytes=2000-")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */2000"));
}

#[tokio::test]
async fn preconditions_hold_for_writing() {
    let served = Served::start().await;
    let url = served.url("a", PresignRequest::put(MINUTE)).await;
    let create = [("if-none-match", "*")];
    assert_eq!(perform(&url, &[("if-match", "*")], "0").await.status, 412);
    let answer = perform(&url, &create, "1").await;
    assert_eq!(answer.status, 201);
    let etag = answer.header("etag").to_owned();
    assert_eq!(perform(&url, &create, "2").await.status, 412);
    let answer = perform(&url, &[("if-match", &etag)], "3").await;
    assert_eq!(answer.status, 200);
    assert_ne!(answer.header("etag"), etag);
    assert_eq!(perform(&url, &[("if-match", &etag)], "4").await.status, 412);
    assert_eq!(perform(&url, &[("if-none-match", &etag)], "5").await.status, 200);
    assert_eq!(served.storage.download_bytes(&id("a")).await.unwrap(), "5");
}

#[tokio::test]
async fn what_would_be_stored_wrongly_is_refused() {
    let served = Served::start().await;
    let url = served.url("a", PresignRequest::put(MINUTE).with_content_type("text/plain")).await;
    for (name, value, status) in [("content-encoding", "gzip", 415), ("content-range", "bytes 0-1/2", 400)] {
        assert_eq!(perform(&url, &[(name, value)], "ab").await.status, status, "{name}");
    }
    for other in ["text/plain; charset=utf-8", "TEXT/PLAIN", "text/html"] {
        let answer = send("PUT", &url.url, &[("content-type", other)], whole("ab")).await.unwrap();
        assert_eq!(answer.status, 415, "{other}");
    }
    served.assert_missing("a").await;
}

/// An answer that differed would tell which of them was nearly right.
#[tokio::test]
async fn whatever_is_wrong_with_a_url_the_answer_is_one() {
    let served = Served::start().await;
    served.storage.upload_bytes(&id("a"), data(10)).await.unwrap();
    let signer = &served.signer;
    let good = signer.sign(&id("a"), &PresignRequest::get(MINUTE), SystemTime::now()).unwrap().url;
    let expired = SystemTime::now() - 2 * MINUTE;
    let expired = signer.sign(&id("a"), &PresignRequest::get(MINUTE), expired).unwrap().url;
    let base = signer.base_url();
    let stranger = UrlSigner::new(base, SigningKey::new([9; 32]).unwrap()).unwrap();
    let stranger = stranger.sign(&id("a"), &PresignRequest::get(MINUTE), SystemTime::now()).unwrap().url;
    let missing = good.replacen("/a?", "/missing?", 1);
    let (_, query) = good.split_once('?').unwrap();
    let mut answers = Vec::new();
    for url in [
        expired,
        stranger,
        missing,
        format!("{good}0"),
        format!("{base}/a"),
        format!("{base}/a?"),
        format!("{base}/%61?{query}"),
        format!("{base}/./a?{query}").replace("/./", "/%2e/"),
        format!("{base}/..%2f..%2fetc/passwd?{query}"),
        format!("{base}/x/%2e%2e/a?{query}"),
        format!("{base}//a?{query}"),
        format!("{base}/%00?{query}"),
        format!("{base}/%ff?{query}"),
    ] {
        let mut answer = get(&url, &[]).await;
        assert_eq!(answer.status, 403, "{url}");
        answer.headers.remove("date");
        answers.push((answer.headers, answer.body));
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
    assert_eq!(answers[0].1, "forbidden\n");
    assert_eq!(get(&good, &[]).await.status, 200);
}

#[tokio::test]
async fn other_methods_are_told_which_there_are() {
    let served = Served::start().await;
    let url = served.url("a", PresignRequest::get(MINUTE)).await.url;
    for method in ["POST", "DELETE", "OPTIONS", "PATCH"] {
        let answer = send(method, &url, &[], whole("")).await.unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, PUT"), "{method}");
    }
}

/// Even with a signature, which only who has the key can make.
#[tokio::test]
async fn the_storage_s_own_files_are_not_served() {
    let served = Served::start().await;
    let own = id(".storage/tmp/x");
    for request in [PresignRequest::get(MINUTE), PresignRequest::put(MINUTE)] {
        let url = served.signer.sign(&own, &request, SystemTime::now()).unwrap();
        assert_eq!(perform(&url, &[], "").await.status, 400);
    }
    served.assert_clean();
}

#[tokio::test]
async fn a_failure_is_told_by_its_status_and_nothing_else() {
    let served = Served::start().await;
    served.storage.upload_bytes(&id("a"), data(10)).await.unwrap();
    let url = served.url("a/b", PresignRequest::put(MINUTE)).await;
    let answer = perform(&url, &[], "x").await;
    assert_eq!((answer.status, &*answer.body), (409, b"conflict\n".as_slice()));

    let (listener, address) = listen().await;
    let signer = UrlSigner::new(&format!("http://{address}"), SigningKey::new([1; 32]).unwrap()).unwrap();
    let flaky = Arc::new(FlakyStorage::new(Arc::new(served.storage.clone())));
    let _server = serve(listener, router(flaky.clone(), signer.clone(), ServeConfig::default()));
    let url = signer.sign(&id("a"), &PresignRequest::get(MINUTE), SystemTime::now()).unwrap();
    for (kind, status, text) in [
        (ErrorKind::Unavailable, 503, "service unavailable\n"),
        (ErrorKind::Throttled, 503, "service unavailable\n"),
        (ErrorKind::Timeout, 504, "gateway timeout\n"),
        (ErrorKind::Unauthenticated, 500, "internal server error\n"),
        (ErrorKind::Misconfigured, 500, "internal server error\n"),
        (ErrorKind::Other, 500, "internal server error\n"),
        (ErrorKind::StorageFull, 507, "insufficient storage\n"),
        (ErrorKind::NotAFile, 404, "not found\n"),
        (ErrorKind::Denied, 403, "forbidden\n"),
    ] {
        flaky.fail_next(Op::Download, Fault::Before(kind));
        let answer = perform(&url, &[], "").await;
        assert_eq!((answer.status, answer.body), (status, Bytes::from(text)), "{kind}");
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503, "{kind}");
    }
    assert_eq!(perform(&url, &[], "").await.status, 200);

    let read_only = open(served.root.path(), &signer, Access::ReadOnly).await;
    let (listener, address) = listen().await;
    let signer = UrlSigner::new(&format!("http://{address}"), SigningKey::new([1; 32]).unwrap()).unwrap();
    let _server = serve(listener, router(Arc::new(read_only), signer.clone(), ServeConfig::default()));
    let url = signer.sign(&id("b"), &PresignRequest::put(MINUTE), SystemTime::now()).unwrap();
    assert_eq!(perform(&url, &[], "x").await.status, 403);
}

/// A client that got every byte and a clean end has the file.
#[tokio::test]
async fn a_file_that_rotted_never_ends_cleanly() {
    let served = Served::start().await;
    served.storage.upload_bytes(&id("a"), data(3 << 20)).await.unwrap();
    let path = served.root.path().join("a");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 1 << 20).unwrap();
    file.set_modified(modified).unwrap();
    let url = served.url("a", PresignRequest::get(MINUTE)).await.url;
    let answer = open_url("GET", &url, &[], whole("")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
}

/// Bodies pass in pieces both ways: of a slow reader's file, little is read ahead.
#[tokio::test]
async fn a_slow_client_holds_little_of_a_large_file() {
    let served = Served::with(ServeConfig::default().with_memory(1000)).await;
    let size = 64 << 20;
    let put = served.url("large", PresignRequest::put(MINUTE).with_content_length(size)).await;
    let before = resident();
    let answer =
        put_pieces(&put, Box::pin(stream::iter((0..64).map(|_| Ok(Bytes::from(vec![7; 1 << 20])))))).await;
    assert_eq!(answer.status, 200);
    let url = served.url("large", PresignRequest::get(MINUTE)).await.url;
    let mut body = open_url("GET", &url, &[], whole("")).await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().into_data().unwrap().len() as u64;
        assert!(resident() < before + (24 << 20), "{} MiB more than before", (resident() - before) >> 20);
    }
    assert_eq!(received, size);
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
