//! What goes wrong on purpose, and what must not be hidden when it goes wrong by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use s3_server::{Answer, Limits, RequestInfo, ServerConfig, Verdict};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::id::FileId;
use storage_core::storage::FileStorageExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{BUCKET, MIB, Request, memory, start};

async fn exists(storage: &MemoryStorage, id: &str) -> bool {
    storage.exists(&FileId::parse(id).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_hook_has_requests_go_wrong_before_and_after() {
    let storage = MemoryStorage::new();
    let hook = |request: &RequestInfo| {
        if request.operation() != "PutObject" {
            return Verdict::Serve;
        }
        match request.key().as_deref() {
            Some("throttled") => Verdict::Answer(Answer::error(503, "SlowDown")),
            Some("never") => Verdict::CloseBefore,
            Some("lost") => Verdict::CloseAfter,
            Some("lie") => Verdict::AnswerAfter(Answer::error(200, "InternalError")),
            _ => Verdict::Serve,
        }
    };
    let config = ServerConfig::new()
        .with_bucket(BUCKET, Arc::new(storage.clone()))
        .with_random_credentials()
        .with_hook(Arc::new(hook));
    let server = start(config).await;
    let put = |key: &'static str| Request::new("PUT", key).body(vec![1; MIB]);
    put("throttled").send(&server).await.refused(503, "SlowDown");
    assert!(!exists(&storage, "throttled").await);
    assert!(put("never").try_send(&server, server.secret_key()).await.is_none());
    assert!(!exists(&storage, "never").await);
    assert!(put("lost").try_send(&server, server.secret_key()).await.is_none());
    assert!(exists(&storage, "lost").await);
    put("lie").send(&server).await.refused(200, "InternalError");
    assert!(exists(&storage, "lie").await);
    put("plain").send(&server).await.expect(200);
}

#[tokio::test]
async fn a_hook_cuts_an_answer_short() {
    let storage = MemoryStorage::new();
    let gets = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&gets);
    let hook = move |request: &RequestInfo| match request.operation() {
        "GetObject" if seen.fetch_add(1, Ordering::Relaxed) == 0 => Verdict::CutAfter(100),
        _ => Verdict::Serve,
    };
    let config = ServerConfig::new()
        .with_bucket(BUCKET, Arc::new(storage.clone()))
        .with_random_credentials()
        .with_hook(Arc::new(hook));
    let server = start(config).await;
    Request::new("PUT", "a").body(vec![1; MIB]).send(&server).await.expect(200);
    assert!(Request::new("GET", "a").try_send(&server, server.secret_key()).await.is_none());
    assert_eq!(Request::new("GET", "a").send(&server).await.expect(200).body.len(), MIB);
    assert_eq!(gets.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn corrupt_bytes_never_look_like_a_whole_file() {
    let (server, storage) = memory().await;
    for (key, size) in [("small", 10), ("large", 3 * MIB)] {
        Request::new("PUT", key).body(vec![1; size]).send(&server).await.expect(200);
        assert!(storage.corrupt(&FileId::parse(key).unwrap()));
        assert!(Request::new("GET", key).try_send(&server, server.secret_key()).await.is_none(), "{key}");
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_listed_is_no_gap() {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(LocalConfig::new(directory.path())).await.unwrap();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(storage)).with_random_credentials();
    let server = start(config).await;
    Request::new("PUT", "a").body("x").send(&server).await.expect(200);
    Request::new("GET", "").send(&server).await.expect(200);
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"bad\xff");
    std::fs::write(directory.path().join(name), "x").unwrap();
    Request::new("GET", "").send(&server).await.refused(500, "InternalError");
}

#[tokio::test]
async fn a_silent_client_does_not_hold_the_server() {
    let limits = Limits::default().with_idle(Duration::from_millis(200));
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(MemoryStorage::new())).with_limits(limits);
    let server = start(config).await;
    let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let head = format!("PUT /{BUCKET}/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("RequestTimeout"), "{answer}");
}

#[tokio::test]
async fn a_request_under_way_ends_before_the_server_does() {
    let storage = MemoryStorage::new();
    let (entered, mut entry) = tokio::sync::mpsc::channel(1);
    struct Slow(tokio::sync::mpsc::Sender<()>);
    #[async_trait::async_trait]
    impl s3_server::RequestHook for Slow {
        async fn decide(&self, _: &RequestInfo) -> Verdict {
            let _ = self.0.send(()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            Verdict::Serve
        }
    }
    let config = ServerConfig::new()
        .with_bucket(BUCKET, Arc::new(storage.clone()))
        .with_random_credentials()
        .with_hook(Arc::new(Slow(entered)));
    let server = start(config).await;
    let address = server.local_addr();
    let request = Request::new("PUT", "a").body("x");
    let (answer, ()) = tokio::join!(request.send(&server), async {
        entry.recv().await;
    });
    answer.expect(200);
    server.shutdown().await;
    assert!(exists(&storage, "a").await);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let (server, _) = memory().await;
    let address = server.local_addr();
    let mut open = tokio::net::TcpStream::connect(address).await.unwrap();
    drop(server);
    let mut byte = [0];
    assert!(matches!(open.read(&mut byte).await, Ok(0) | Err(_)));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// botocore carries the status of an answer that came instead of `100 Continue` over to the next request of the
/// same connection, and waits for that one's end until it times out.
#[tokio::test]
async fn an_empty_body_that_waits_to_be_asked_for_ends_its_connection() {
    let (server, _) = memory().await;
    let request = |key: &str| Request::new("PUT", key).header("expect", "100-continue");
    let mut answer = request("empty").keep_alive().send(&server).await.expect(200);
    assert_eq!(answer.headers.remove("connection").as_deref(), Some("close"));
}
