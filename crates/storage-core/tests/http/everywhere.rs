//! One test body, several storages: whoever gets a URL need not know what is behind it.

use std::sync::Arc;
use std::time::Duration;

use s3_server::{Server, ServerConfig};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::error::ErrorKind;
use storage_core::stack::{LayersConfig, layered};
use storage_core::storage::{FileStorage, FileStorageExt, PresignRequest, PresignedUrl};
use test_rig::{S3Endpoint, shared};

use crate::client::{Answer, get, perform, send, whole};
use crate::{Served, data, id};

const MINUTE: Duration = Duration::from_secs(60);

/// What is behind the URLs.
struct Behind {
    storage: Arc<dyn FileStorage>,
    /// moto takes every signature and never forgets a URL.
    checks_signatures: bool,
}

impl Behind {
    async fn url(&self, name: &str, request: PresignRequest) -> PresignedUrl {
        self.storage.presigned_url(&id(name), request).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn get_url(&self, name: &str) -> String {
        self.url(name, PresignRequest::get(MINUTE)).await.url
    }

    async fn assert_missing(&self, name: &str) {
        let kind = self.storage.metadata(&id(name)).await.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::NotFound), "{name}");
    }
}

#[track_caller]
fn assert_refused(answer: &Answer, what: &str) {
    assert!((400..500).contains(&answer.status), "{what}: {} {:?}", answer.status, answer.body);
}

async fn keeps_the_promises_of_a_url(behind: Behind) {
    writes_what_was_signed(&behind).await;
    reads_whole_files(&behind).await;
    reads_ranges(&behind).await;
    honours_conditions(&behind).await;
    says_how_a_browser_takes_it(&behind).await;
    if behind.checks_signatures {
        refuses_everything_else(&behind).await;
    }
}

async fn writes_what_was_signed(behind: &Behind) {
    let bytes = data(70_000);
    let bound = || {
        PresignRequest::put(MINUTE)
            .with_content_type("text/csv; charset=utf-8")
            .with_content_length(bytes.len() as u64)
    };
    let answer = perform(&behind.url("d/ü +%&=.csv", bound()).await, &[], bytes.clone()).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert!(!answer.header("etag").is_empty(), "{answer:?}");
    assert_eq!(behind.storage.download_bytes(&id("d/ü +%&=.csv")).await.unwrap(), bytes);
    let metadata = behind.storage.metadata(&id("d/ü +%&=.csv")).await.unwrap();
    assert_eq!(metadata.content_type.as_deref(), Some("text/csv; charset=utf-8"));

    // Whatever the URL allows beside the id is free.
    let free = behind.url("free", PresignRequest::put(MINUTE)).await;
    let answer = perform(&free, &[("content-type", "image/png")], "abc").await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert_eq!(
        behind.storage.metadata(&id("free")).await.unwrap().content_type.as_deref(),
        Some("image/png")
    );

    // A URL is good for more than once, and replaces whole files.
    let large = data(9 << 20);
    let answer = perform(&free, &[("content-type", "a/b")], large.clone()).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert_eq!(behind.storage.download_bytes(&id("free")).await.unwrap(), large);

    if behind.checks_signatures {
        let url = behind.url("other-type", bound()).await.url;
        let answer = send("PUT", &url, &[("content-type", "text/html")], whole(bytes.clone())).await.unwrap();
        assert_refused(&answer, "another type");
        let answer = send("PUT", &url, &[], whole(bytes.clone())).await.unwrap();
        assert_refused(&answer, "no type");
        for length in [bytes.len() - 1, bytes.len() + 1, 0] {
            let typed = [("content-type", "text/csv; charset=utf-8")];
            let answer = send("PUT", &url, &typed, whole(data(length))).await.unwrap();
            assert_refused(&answer, "another length");
        }
        behind.assert_missing("other-type").await;
    }
}

async fn reads_whole_files(behind: &Behind) {
    for (name, size) in [("empty", 0), ("d/ö ~'()*!;,:@&=+$?#[].txt", 10_000), ("large", 9 << 20)] {
        behind.storage.upload_bytes(&id(name), data(size)).await.unwrap();
        let answer = get(&behind.get_url(name).await, &[]).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert_eq!(answer.header("content-length"), size.to_string());
        assert!(answer.body == data(size), "{name}");
    }
    let answer = get(&behind.get_url("missing").await, &[]).await;
    if behind.checks_signatures {
        assert_eq!(answer.status, 404, "{answer:?}");
    } else {
        // moto answers 403 where the URL says how a browser is to take the file.
        assert_refused(&answer, "a missing file");
    }
}

async fn reads_ranges(behind: &Behind) {
    let bytes = data(10_000);
    behind.storage.upload_bytes(&id("ranges"), bytes.clone()).await.unwrap();
    let url = behind.get_url("ranges").await;
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9999", 0, 10_000),
        ("bytes=100-199", 100, 200),
        ("bytes=9999-", 9_999, 10_000),
        ("bytes=5000-99999", 5_000, 10_000),
        ("bytes=-1", 9_999, 10_000),
        ("bytes=-300", 9_700, 10_000),
        ("bytes=-20000", 0, 10_000),
    ] {
        let answer = get(&url, &[("range", range)]).await;
        assert_eq!(answer.status, 206, "{range}: {answer:?}");
        assert_eq!(answer.header("content-range"), format!("bytes {from}-{}/10000", to - 1), "{range}");
        assert_eq!(answer.header("content-length"), (to - from).to_string(), "{range}");
        assert!(answer.body == bytes[from..to], "{range}");
    }
    let answer = get(&url, &[("range", "bytes=10000-")]).await;
    assert_eq!(answer.status, 416, "{answer:?}");
}

async fn honours_conditions(behind: &Behind) {
    behind.storage.upload_bytes(&id("tagged"), data(10)).await.unwrap();
    let url = behind.get_url("tagged").await;
    let answer = get(&url, &[]).await;
    let etag = answer.header("etag").to_owned();
    assert!(etag.starts_with('"') && !answer.header("last-modified").is_empty(), "{answer:?}");
    for (condition, value, status) in [
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "\"x\"", 200),
        ("if-match", &etag, 200),
        ("if-match", "\"x\"", 412),
    ] {
        assert_eq!(get(&url, &[(condition, value)]).await.status, status, "{condition}: {value}");
    }
    behind.storage.upload_bytes(&id("tagged"), data(11)).await.unwrap();
    let answer = get(&url, &[("if-none-match", &etag)]).await;
    assert_eq!((answer.status, answer.body.len()), (200, 11));
}

async fn says_how_a_browser_takes_it(behind: &Behind) {
    behind.storage.upload_bytes(&id("x.html"), data(10)).await.unwrap();
    let request = || PresignRequest::get(MINUTE);
    for (request, disposition) in [
        (request(), "attachment"),
        (request().with_inline(), "inline"),
        (
            request().with_save_as("Größe \"1\".html"),
            "attachment; filename=\"Gr__e _1_.html\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%221%22.html",
        ),
        (
            request().with_save_as("a.html").with_inline(),
            "inline; filename=\"a.html\"; filename*=UTF-8''a.html",
        ),
    ] {
        let answer = get(&behind.url("x.html", request).await.url, &[]).await;
        assert_eq!(answer.header("content-disposition"), disposition);
        assert_eq!(answer.header("content-type"), "text/html");
    }
}

async fn refuses_everything_else(behind: &Behind) {
    behind.storage.upload_bytes(&id("mine"), data(10)).await.unwrap();
    behind.storage.upload_bytes(&id("mind"), data(20)).await.unwrap();
    let read = behind.url("mine", PresignRequest::get(MINUTE)).await.url;
    let write = behind.url("mine", PresignRequest::put(MINUTE)).await.url;
    assert_refused(&send("PUT", &read, &[], whole("x")).await.unwrap(), "a URL to read, written to");
    assert_refused(&send("DELETE", &read, &[], whole("")).await.unwrap(), "a URL to read, deleted");
    assert_refused(&get(&write, &[]).await, "a URL to write, read");
    assert_refused(&get(&read.replacen("mine", "mind", 1), &[]).await, "another file");
    let last = if read.ends_with('0') { "1" } else { "0" };
    assert_refused(&get(&format!("{}{last}", &read[..read.len() - 1]), &[]).await, "a forged signature");
    let (bare, _) = read.split_once('?').unwrap();
    assert_refused(&get(bare, &[]).await, "no signature");

    let short = behind.url("mine", PresignRequest::get(Duration::from_secs(1))).await.url;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_refused(&get(&short, &[]).await, "an expired URL");
    assert_eq!(behind.storage.download_bytes(&id("mine")).await.unwrap(), data(10));
}

async fn on_server(server: &S3Endpoint, checks_signatures: bool) {
    let config = S3Config::new(&server.bucket)
        .with_endpoint(&server.endpoint)
        .with_region(&server.region)
        .with_static_credentials(&server.access_key, &server.secret_key)
        .with_prefix(shared::unique_prefix());
    let storage = S3Storage::connect(config).await.unwrap_or_else(|error| panic!("{error}"));
    keeps_the_promises_of_a_url(Behind { storage: Arc::new(storage), checks_signatures }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_behind_the_router() {
    let served = Served::start().await;
    let storage = Arc::new(served.storage.clone());
    keeps_the_promises_of_a_url(Behind { storage, checks_signatures: true }).await;
    served.assert_clean();
}

/// The layers of a stack pass URLs on, and the router serves a stack as well as what is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_behind_the_router() {
    let mut served = Served::start().await;
    let stack = layered(Arc::new(served.storage.clone()), &LayersConfig::default()).unwrap();
    let address = served.server.address;
    drop(served.server);
    let listener = loop {
        // The old listener goes with its task, in a moment.
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let app = storage_core::http::router(Arc::clone(&stack), served.signer.clone(), Default::default());
    served.server = crate::serve(listener, app);
    keeps_the_promises_of_a_url(Behind { storage: stack, checks_signatures: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_server() {
    let config = ServerConfig::new()
        .with_bucket("files", Arc::new(MemoryStorage::new()))
        .with_credentials("AKIDEMBEDDED", "a-secret-of-the-embedded-server");
    let server = Server::bind(config, ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    let config = S3Config::new("files")
        .with_endpoint(server.endpoint())
        .with_static_credentials("AKIDEMBEDDED", "a-secret-of-the-embedded-server");
    let storage = Arc::new(S3Storage::connect(config).await.unwrap());
    keeps_the_promises_of_a_url(Behind { storage, checks_signatures: true }).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garage() {
    let Some(server) = test_rig::garage() else { return };
    on_server(&server, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto() {
    let Some(server) = test_rig::moto() else { return };
    on_server(&server, false).await;
}
