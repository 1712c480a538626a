//! What goes wrong on purpose, and what must not be hidden when it goes wrong by itself.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use s3_server::{Answer, Limits, RequestInfo, ServerConfig, Verdict};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::error::ErrorKind;
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
    for (key, size) in [("small", 10), ("middle", 64 << 10), ("large", 3 * MIB)] {
        Request::new("PUT", key).body(vec![1; size]).send(&server).await.expect(200);
        assert!(storage.corrupt(&FileId::parse(key).unwrap()));
        let answer = Request::new("GET", key).try_send(&server, server.secret_key()).await;
        if key == "large" {
            assert!(answer.is_none(), "{key}");
        } else {
            // Small enough to be compared before the answer begins.
            answer.unwrap().refused(500, "ObjectCorrupt");
        }
    }
    let config = S3Config::new(BUCKET)
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_static_credentials(server.access_key(), server.secret_key());
    let client = S3Storage::connect(config).await.unwrap();
    let error = client.download_bytes(&FileId::parse("small").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert!(client.download_bytes(&FileId::parse("large").unwrap()).await.is_err());
}

/// Reads as a client does that counts: as many bytes as were announced, unless the connection ends before. Returns both
/// numbers.
async fn counted(server: &s3_server::RunningServer, target: &str) -> (usize, usize) {
    let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", server.local_addr());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let (mut announced, mut begin) = (usize::MAX, 0);
    while answer.len() - begin < announced {
        // A reset is an end, too.
        if !matches!(stream.read_buf(&mut answer).await, Ok(1..)) {
            break;
        }
        if begin == 0
            && let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            (announced, begin) = (length.unwrap().parse().unwrap(), end + 4);
        }
    }
    (announced, answer.len() - begin)
}

/// Every byte but one is right, and all are there: only the end tells, and it must not look like one.
#[tokio::test]
async fn a_flipped_bit_on_the_disk_breaks_the_answer_off_before_its_announced_length() {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(LocalConfig::new(directory.path())).await.unwrap();
    let config = ServerConfig::new().with_bucket(BUCKET, Arc::new(storage)).with_random_credentials();
    let server = start(config).await;
    // More than is compared before the answer begins; one piece of the disk, some, and a last one of one byte.
    for size in [(64 << 10) + 1, 3 * MIB, 3 * MIB + 1] {
        Request::new("PUT", "a").body(vec![1; size]).send(&server).await.expect(200);
        for at in [0, size / 2, size - 1] {
            let flip = || {
                let path = directory.path().join("a");
                let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
                let modified = file.metadata().unwrap().modified().unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, at as u64).unwrap();
                file.write_all_at(&[byte[0] ^ 4], at as u64).unwrap();
                // As a failing disk does it: without a trace.
                file.set_modified(modified).unwrap();
            };
            flip();
            let url = Request::new("GET", "a").presign(&server, SystemTime::now(), Duration::from_secs(60));
            let (announced, came) = counted(&server, &url).await;
            // A small answer may break off with its head unsent.
            assert!(announced == size || came == 0, "{announced} announced");
            assert!(came < size, "{came} bytes of {size}, of which number {at} is wrong");
            flip();
            let answer = Request::new("GET", "a").send(&server).await.expect(200);
            assert_eq!(answer.body.len(), size);
        }
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

/// Lets requests wait until the test says so.
struct Held {
    entered: tokio::sync::mpsc::UnboundedSender<()>,
    go_on: Arc<tokio::sync::Semaphore>,
}

#[async_trait::async_trait]
impl s3_server::RequestHook for Held {
    async fn decide(&self, _: &RequestInfo) -> Verdict {
        let _ = self.entered.send(());
        let _ = self.go_on.acquire().await;
        Verdict::Serve
    }
}

/// Starts to shut down and returns once nobody is let in any more.
async fn begin_shutdown(server: s3_server::RunningServer) -> tokio::task::JoinHandle<()> {
    let address = server.local_addr();
    let shutdown = tokio::spawn(server.shutdown());
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    shutdown
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_server_ends() {
    let storage = MemoryStorage::new();
    let (entered, mut entries) = tokio::sync::mpsc::unbounded_channel();
    let go_on = Arc::new(tokio::sync::Semaphore::new(0));
    let config = ServerConfig::new()
        .with_bucket(BUCKET, Arc::new(storage.clone()))
        .with_random_credentials()
        .with_hook(Arc::new(Held { entered, go_on: Arc::clone(&go_on) }));
    let server = start(config).await;
    let url = Request::new("PUT", "a").presign(&server, SystemTime::now(), Duration::from_secs(60));
    let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let head = format!("PUT {url} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1\r\n\r\nx", server.local_addr());
    stream.write_all(head.as_bytes()).await.unwrap();
    entries.recv().await.unwrap();
    let shutdown = begin_shutdown(server).await;
    assert!(!exists(&storage, "a").await, "the request is still under way");
    go_on.close();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    shutdown.await.unwrap();
    assert!(exists(&storage, "a").await);
}

#[tokio::test]
async fn an_answer_in_flight_comes_whole_when_the_server_ends() {
    let size = 64 * MIB;
    let (server, storage) = memory().await;
    storage.upload_bytes(&FileId::parse("large").unwrap(), vec![7; size].into()).await.unwrap();
    let url = Request::new("GET", "large").presign(&server, SystemTime::now(), Duration::from_secs(60));
    let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let head = format!("GET {url} HTTP/1.1\r\nhost: {}\r\n\r\n", server.local_addr());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1];
    stream.read_exact(&mut answer).await.unwrap();
    // More than sockets hold: the rest is still the server's to send.
    let shutdown = begin_shutdown(server).await;
    assert!(!shutdown.is_finished());
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() > size, "{} of {size}", answer.len());
    shutdown.await.unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_after_the_grace_time() {
    let (entered, mut entries) = tokio::sync::mpsc::unbounded_channel();
    let go_on = Arc::new(tokio::sync::Semaphore::new(0));
    let config = ServerConfig::new()
        .with_bucket(BUCKET, Arc::new(MemoryStorage::new()))
        .with_limits(Limits::default().with_grace(Duration::from_millis(50)))
        .with_hook(Arc::new(Held { entered, go_on }));
    let server = start(config).await;
    let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let head = format!("GET /{BUCKET}/a HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    entries.recv().await.unwrap();
    server.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
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
