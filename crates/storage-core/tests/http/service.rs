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
use storage_core::presign::{SigningKey, UrlSigner};
use storage_core::stack::{self, BackendConfig, LayersConfig, StackConfig, layered};
use storage_core::storage::{FileStorage, FileStorageExt, UploadOptions};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::{chunked, get, send, whole};
use crate::{data, id, listen, serve};

#[path = "../../examples/axum_service.rs"]
#[expect(dead_code, reason = "its `main` is called by nobody here")]
mod axum_service;
#[path = "../../examples/local_to_s3.rs"]
#[expect(dead_code, reason = "its `main` is called by nobody here")]
mod local_to_s3;

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
    let _running = serve(listener, axum_service::app(storage, Some(signer)));
    takes_and_gives_files(&format!("http://{address}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_axum_service_on_s3() {
    let server = Server::bind(embedded(), ([127, 0, 0, 1], 0).into()).await.unwrap().spawn();
    let storage = Arc::new(on_embedded(server.endpoint()).await);
    let storage = layered(storage, &LayersConfig::default()).unwrap();
    let (listener, address) = listen().await;
    let _running = serve(listener, axum_service::app(storage, None));
    takes_and_gives_files(&format!("http://{address}")).await;
    server.shutdown().await;
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
    axum::serve(listener, axum_service::app(storage, None)).await.unwrap();
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
