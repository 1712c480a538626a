//! The services of `examples/`, with real clients.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use s3_server::{Server, ServerConfig};
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::checksum::Digest;
use storage_core::error::{ErrorKind, Op};
use storage_core::presign::{SigningKey, UrlSigner};
use storage_core::stack::{self, BackendConfig, LayersConfig, StackConfig, layered};
use storage_core::storage::{FileStorage, FileStorageExt, UploadOptions};
use storage_core::testkit::flaky::{Fault, FlakyStorage};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{chunked, get, send, whole};
use crate::{data, id, listen, serve};

#[path = "../../examples/axum_service.rs"]
#[expect(dead_code, reason = "its `main` is called by nobody here")]
mod axum_service;
#[path = "../../examples/local_to_s3.rs"]
#[expect(dead_code, reason = "its `main` is called by nobody here")]
mod local_to_s3;

/// Greatest upload.
const LIMIT: u64 = 32 << 20;

fn embedded() -> ServerConfig {
    ServerConfig::new()
        .with_bucket("files", Arc::new(MemoryStorage::new()))
        .with_credentials("AKIDEMBEDDED", "a-secret-of-the-embedded-server")
}

async fn on_embedded(endpoint: String) -> S3Storage {
    let config = S3Config::new("files")
        .with_endpoint(endpoint)
        .with_static_credentials("AKIDEMBEDDED", "a-secret-of-the-embedded-server");
    S3Storage::connect(config).await.unwrap()
}

/// What a client sees is the same on either storage.
async fn takes_and_gives_files(base: &str) {
    let large = data(20 << 20);
    let pieces: Vec<_> = large.chunks(100_000).map(Bytes::copy_from_slice).map(Ok).collect();
    for (name, body, bytes) in [
        ("small.txt", whole("abc"), Bytes::from("abc")),
        ("empty", whole(""), Bytes::new()),
        ("%C3%BC%20+%25.pdf", whole(data(70_000)), data(70_000)),
        ("large.bin", chunked(Box::pin(stream::iter(pieces))), large),
    ] {
        let url = format!("{base}/files/{name}");
        let answer = send("POST", &url, &[("content-type", "text/x-of-mine")], body).await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(told["size"], bytes.len(), "{told}");
        assert_eq!(told["sha256"], Digest::of(&bytes).to_string(), "{told}");
        let (directory, _) = told["id"].as_str().unwrap().split_once('/').unwrap();
        let path = format!("{directory}/{name}");
        let answer = get(&format!("{base}/files/{path}"), &[]).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/x-of-mine"));
        assert!(answer.header("content-disposition").starts_with("attachment; filename="), "{answer:?}");
        assert!(answer.body == bytes, "{name}");
        // The link works without the service's own routes.
        let answer = get(&format!("{base}/links/{path}"), &[]).await;
        let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let answer = get(told["url"].as_str().unwrap(), &[("range", "bytes=1-1")]).await;
        assert_eq!(answer.status, if bytes.is_empty() { 416 } else { 206 }, "{answer:?}");
    }
    for (path, status) in [("files/none", 404), ("files/a/../b", 400), ("links/%2e%2e/b", 400)] {
        assert_eq!(get(&format!("{base}/{path}"), &[]).await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_axum_service_on_a_directory() {
    let root = TempDir::new().unwrap();
    let (listener, address) = listen().await;
    let signer =
        UrlSigner::new(&format!("http://{address}/shared"), SigningKey::new([1; 32]).unwrap()).unwrap();
    let local =
        LocalConfig::new(root.path()).with_durability(Durability::Relaxed).with_signer(signer.clone());
    let storage = stack::build(StackConfig::new(BackendConfig::Local(local))).await.unwrap();
    let _running = serve(listener, axum_service::app(storage, Some(signer), LIMIT));
    takes_and_gives_files(&format!("http://{address}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_axum_service_on_s3() {
    let server = Server::bind(embedded(), ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    let storage = Arc::new(on_embedded(server.endpoint()).await);
    let storage = layered(storage, &LayersConfig::default()).unwrap();
    let (listener, address) = listen().await;
    let _running = serve(listener, axum_service::app(storage, None, LIMIT));
    takes_and_gives_files(&format!("http://{address}")).await;
    server.shutdown().await;
}

/// What a client is told of what went wrong, on every route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_has_a_status_that_tells_whose_turn_it_is() {
    let memory = MemoryStorage::new();
    memory.upload_bytes(&id("a"), Bytes::from("abc")).await.unwrap();
    let storage = FlakyStorage::new(Arc::new(memory));
    let (listener, address) = listen().await;
    let _running = serve(listener, axum_service::app(Arc::new(storage.clone()), None, LIMIT));
    let base = format!("http://{address}");
    let upload = async || send("POST", &format!("{base}/files/x"), &[], whole("abc")).await.unwrap();
    for (kind, status) in [
        (ErrorKind::StorageFull, 507),
        (ErrorKind::Denied, 403),
        (ErrorKind::AlreadyExists, 412),
        (ErrorKind::VersionMismatch, 412),
        (ErrorKind::Conflict, 409),
        (ErrorKind::TooLarge, 413),
        (ErrorKind::InvalidInput, 400),
        (ErrorKind::Unsupported, 501),
        (ErrorKind::Unavailable, 503),
        (ErrorKind::Throttled, 503),
        (ErrorKind::Timeout, 504),
        (ErrorKind::Unauthenticated, 500),
        (ErrorKind::Integrity, 500),
        (ErrorKind::Other, 500),
    ] {
        storage.fail_next(Op::Upload, Fault::Before(kind));
        let answer = upload().await;
        assert_eq!(answer.status, status, "{kind:?}: {answer:?}");
        assert_eq!(answer.header("retry-after"), if status == 503 { "1" } else { "" }, "{kind:?}");
        // What the storage says of itself is for the log.
        let inside = !matches!(status, 400 | 413);
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.trim().is_empty(), "{kind:?}: {answer:?}");
        assert!(!inside || !text.contains("on purpose"), "{kind:?}: {answer:?}");
    }
    let patience = Fault::RetryAfter(ErrorKind::Throttled, Duration::from_millis(6_500));
    storage.fail_next(Op::Upload, patience);
    assert_eq!(upload().await.header("retry-after"), "7");
    for (kind, status) in
        [(ErrorKind::Unavailable, 503), (ErrorKind::Throttled, 503), (ErrorKind::Denied, 403)]
    {
        storage.fail_next(Op::Download, Fault::Before(kind));
        let answer = get(&format!("{base}/files/a"), &[]).await;
        assert_eq!(answer.status, status, "{kind:?}: {answer:?}");
        assert_eq!(answer.header("retry-after"), if status == 503 { "1" } else { "" }, "{kind:?}");
        storage.fail_next(Op::Presign, Fault::Before(kind));
        assert_eq!(get(&format!("{base}/links/a"), &[]).await.status, status, "{kind:?}");
    }
    for (path, headers, status, text) in [
        ("files/none", [("accept", "*/*")], 404, "not found"),
        ("files/a", [("if-match", "\"another\"")], 412, "precondition failed"),
        ("files/a/%2e%2e/b", [("accept", "*/*")], 400, "must not hold a `.` or `..` segment"),
        ("files/a//b", [("accept", "*/*")], 400, "must not hold an empty segment"),
        ("files/.storage/canary", [("accept", "*/*")], 403, "keeps this id for itself"),
        ("links/.storage/canary", [("accept", "*/*")], 403, "keeps this id for itself"),
    ] {
        let answer = get(&format!("{base}/{path}"), &headers).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(String::from_utf8_lossy(&answer.body).contains(text), "{path}: {answer:?}");
    }
    let before = storage.calls(Op::Upload);
    let answer = send("POST", &format!("{base}/files/a/b"), &[], whole("abc")).await.unwrap();
    assert_eq!((answer.status, storage.calls(Op::Upload)), (400, before), "{answer:?}");
}

/// A client that does not end is not read to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_too_large_is_refused_and_not_read_on() {
    const SMALL: u64 = 1 << 20;
    let storage = FlakyStorage::new(Arc::new(MemoryStorage::new()));
    let (listener, address) = listen().await;
    let _running = serve(listener, axum_service::app(Arc::new(storage.clone()), None, SMALL));
    let url = format!("http://{address}/files/x");
    let exactly = send("POST", &url, &[], whole(data(SMALL as usize))).await.unwrap();
    assert_eq!(exactly.status, 201, "{exactly:?}");

    // It says so before it sends anything.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /files/x HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", SMALL + 1);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = stream.read_exact(&mut answer);
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("it waits for the body").unwrap();
    assert_eq!(answer, *b"HTTP/1.1 413");

    // It never says how much it is.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST /files/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[7; 0x10000], b"\r\n"].concat();
    for _ in 0..SMALL / 0x10000 {
        stream.write_all(&chunk).await.unwrap();
    }
    // One byte more, and no end.
    stream.write_all(b"1\r\nx\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The connection ends as well: nobody waits for the rest, which does not come.
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("it is read on").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    assert!(
        answer.ends_with(b"an upload has at most 1048576 bytes\n"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(storage.calls(Op::Upload), 1);
}

const DRAINS: &str = "AXUM_SERVICE_DRAINS";

/// Not a test of its own: what the next one starts as a process of its own.
#[expect(clippy::print_stdout, reason = "tells where it listens")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_serves_until_it_is_told_to_end() {
    if std::env::var_os(DRAINS).is_none() {
        return;
    }
    let (listener, address) = listen().await;
    println!("listening on {address}");
    axum_service::serve(listener, axum_service::app(Arc::new(MemoryStorage::new()), None, LIMIT))
        .await
        .unwrap();
    println!("drained");
}

/// A deployment sends SIGTERM: an upload that has begun is stored, and nobody new is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_request_that_has_begun_come_to_its_end() {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "service::child_serves_until_it_is_told_to_end", "--nocapture"])
        .env(DRAINS, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines
        .find_map(|line| line.split_once("listening on ").map(|(_, address)| address.to_owned()))
        .unwrap();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = "POST /files/x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // It reads the body, so the request has begun.
    let mut line = [0; 25];
    stream.read_exact(&mut line).await.unwrap();
    assert!(line.starts_with(b"HTTP/1.1 100"));
    stream.write_all(b"abc").await.unwrap();
    let kill = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(kill.success());
    while TcpStream::connect(&address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stream.write_all(b"def").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(answer.contains(&Digest::of(b"abcdef").to_string()), "{answer}");
    assert!(lines.any(|line| line.contains("drained")));
    assert!(server.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_copied_to_s3_with_its_attributes() {
    let root = TempDir::new().unwrap();
    let local = LocalConfig::new(root.path()).with_durability(Durability::Relaxed);
    let local = LocalStorage::open(local).await.unwrap();
    let options = UploadOptions::default().with_file_name("Größe.pdf").with_tag("year", "2025");
    local.upload(&id("a/b"), data(100).into(), options).await.unwrap();
    local.upload_bytes(&id("large"), data(20 << 20)).await.unwrap();
    let server = Server::bind(embedded(), ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    let s3 = on_embedded(server.endpoint()).await;
    assert_eq!(local_to_s3::copy_all(&local, &s3).await.unwrap(), 2);
    for name in ["a/b", "large"] {
        let (one, other) = (local.metadata(&id(name)).await.unwrap(), s3.metadata(&id(name)).await.unwrap());
        assert_eq!(
            (one.content_type, one.file_name, one.tags),
            (other.content_type, other.file_name, other.tags)
        );
        assert_eq!(
            local.download_bytes(&id(name)).await.unwrap(),
            s3.download_bytes(&id(name)).await.unwrap()
        );
    }
    server.shutdown().await;
}

const ROOT: &str = "AXUM_SERVICE_ROOT";
const CLIENTS: usize = 1000;
const ROUNDS: usize = 10;
const SIZE: usize = 16 << 10;

/// Not a test: what the next one starts as a process of its own.
#[expect(clippy::print_stdout, reason = "tells where it listens")]
#[ignore = "is started by the bench"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_of_the_bench() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let storage = stack::build(StackConfig::new(BackendConfig::Local(LocalConfig::new(root)))).await.unwrap();
    let (listener, address) = listen().await;
    println!("listening on {address}");
    axum::serve(listener, axum_service::app(storage, None, LIMIT)).await.unwrap();
}

/// `cargo nextest run --release -p storage-core --features http -E 'test(a_thousand_clients)' --run-ignored only
/// --no-capture`
#[expect(clippy::print_stderr, reason = "a bench tells its figures")]
#[ignore = "a bench"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_at_a_time() {
    let root = TempDir::new().unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "service::server_of_the_bench", "--ignored", "--nocapture"])
        .env(ROOT, root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let address = BufReader::new(server.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().split_once("listening on ").map(|(_, address)| address.to_owned()))
        .unwrap();
    let began = Instant::now();
    let clients: Vec<_> =
        (0..CLIENTS).map(|client| tokio::spawn(client_of(address.clone(), client))).collect();
    let (mut uploads, mut downloads, mut errors) = (Vec::new(), Vec::new(), 0);
    for client in clients {
        let (up, down, failed) = client.await.unwrap();
        uploads.extend(up);
        downloads.extend(down);
        errors += failed;
    }
    let took = began.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let requests = uploads.len() + downloads.len();
    eprintln!(
        "{CLIENTS} clients, {requests} requests of {SIZE} bytes in {took:?}: {:.0}/s",
        requests as f64 / took.as_secs_f64()
    );
    for (name, mut times) in [("upload (durable)", uploads), ("download", downloads)] {
        times.sort();
        eprintln!("{name}: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    }
    eprintln!("errors {errors}; server {peak}");
    assert_eq!((errors, requests), (0, 2 * CLIENTS * ROUNDS));
}

/// Uploads and reads back, over one connection.
async fn client_of(address: String, client: usize) -> (Vec<Duration>, Vec<Duration>, usize) {
    let stream = TcpStream::connect(&address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (mut uploads, mut downloads, mut errors) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let bytes = data(SIZE + client).slice(client..);
        let mut ask = async |method: &str, path: String, body: Bytes| {
            let request = Request::builder().method(method).uri(path).header("host", &address);
            let began = Instant::now();
            let answer = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (head.status.as_u16(), body, began.elapsed())
        };
        let (status, told, took) = ask("POST", format!("/files/{client}.bin"), bytes.clone()).await;
        errors += usize::from(status != 201);
        uploads.push(took);
        let Ok(told) = serde_json::from_slice::<serde_json::Value>(&told) else { continue };
        let path = format!("/files/{}", told["id"].as_str().unwrap_or_default());
        let (status, body, took) = ask("GET", path, Bytes::new()).await;
        errors += usize::from(status != 200 || body != bytes);
        downloads.push(took);
    }
    (uploads, downloads, errors)
}
