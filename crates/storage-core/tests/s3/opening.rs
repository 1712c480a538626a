//! Opening a storage: what is found out, and what is said when it cannot be.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use storage_core::backend::s3::{S3Config, S3Storage};
use storage_core::error::{Error, ErrorKind};
use storage_core::storage::{
    Access, DownloadOptions, FileStorage, FileStorageExt, Precondition, PresignRequest, UploadOptions,
};
use test_rig::{Fault, Proxy, S3Endpoint, ServerKind, shared};
use tracing_subscriber::fmt::MakeWriter;

use crate::common::{config, connect, everywhere, id, key_prefix, raw_client};

async fn refused(config: S3Config) -> Error {
    S3Storage::connect(config).await.expect_err("nothing could be opened")
}

/// A port on which nobody listens.
fn dead_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_200_to_an_ignored_condition_is_no_capability() {
    for (server, _, storage) in everywhere().await {
        let found = storage.capabilities();
        eprintln!("{:?}: {found:#?}", server.kind);
        assert!(found.tags && found.resumable && found.nested_ids);
        match server.kind {
            ServerKind::Garage => {
                assert!(!found.conditional_create && !found.conditional_replace && !found.conditional_delete);
                assert!(found.verifies_sha256 && found.composite_sha256);
            }
            ServerKind::Moto => {
                assert!(found.conditional_create && found.conditional_delete);
                // A PUT honours it, completing an upload does not.
                assert!(!found.conditional_replace);
                assert!(!found.verifies_sha256, "moto takes wrong checksums");
                assert!(found.composite_sha256);
            }
        }
    }
}

/// Whoever opens a storage often and writes seldom need not ask each time; but a server that was replaced must not be
/// taken for the one that was there before.
#[tokio::test]
async fn what_is_remembered_costs_nothing_and_is_asked_before_the_first_write() {
    for (server, config, storage) in everywhere().await {
        storage.upload_bytes(&id("there"), "x".into()).await.unwrap();
        let found = storage.capabilities();
        let mut wrong = found.clone();
        wrong.conditional_create = !found.conditional_create;
        wrong.conditional_replace = !found.conditional_replace;
        wrong.verifies_sha256 = !found.verifies_sha256;
        let proxy = Proxy::start(server.address()).unwrap();
        let mut config = config.with_remembered(wrong.clone());
        config.endpoints = vec![server.via(proxy.address()).endpoint];
        let storage = connect(&config).await;
        assert_eq!(storage.capabilities(), wrong);
        assert_eq!(proxy.counts().connections, 0, "{:?}", server.kind);
        assert_eq!(storage.metadata(&id("there")).await.unwrap().size, 1);
        assert_eq!(storage.capabilities(), wrong, "reading asks for nothing");

        let absent = UploadOptions::default().with_when(Precondition::Absent);
        let refused = storage.upload(&id("there"), Bytes::from("y").into(), absent).await.unwrap_err();
        let due = if found.conditional_create { ErrorKind::AlreadyExists } else { ErrorKind::Unsupported };
        assert_eq!(refused.kind(), due, "{refused:?}");
        assert_eq!(storage.capabilities(), found, "{:?}", server.kind);
        assert_eq!(storage.download_bytes(&id("there")).await.unwrap(), "x");
    }
}

/// A server that is out when it is first asked is asked again by the next write.
#[tokio::test]
async fn what_could_not_be_asked_is_asked_by_the_next_write() {
    for (server, config, storage) in everywhere().await {
        let proxy = Proxy::start(server.address()).unwrap();
        let mut config = config.with_remembered(storage.capabilities());
        config.endpoints = vec![server.via(proxy.address()).endpoint];
        let storage = connect(&config).await;
        proxy.set(Fault::Refuse);
        let error = storage.upload_bytes(&id("f"), "x".into()).await.unwrap_err();
        assert!(error.is_outage() && error.id() == Some(&id("f")), "{error:?}");
        proxy.set(Fault::Pass);
        storage.upload_bytes(&id("f"), "x".into()).await.unwrap();
        assert_eq!(storage.download_bytes(&id("f")).await.unwrap(), "x");
    }
}

async fn left_behind(server: &S3Endpoint, config: &S3Config) -> usize {
    let client = raw_client(server);
    let prefix = key_prefix(config);
    let objects = client
        .list_objects_v2()
        .bucket(&server.bucket)
        .prefix(&prefix)
        .send()
        .await
        .unwrap()
        .contents()
        .len();
    let uploads =
        client.list_multipart_uploads().bucket(&server.bucket).prefix(&prefix).send().await.unwrap();
    objects + uploads.uploads().len()
}

#[tokio::test]
async fn probing_leaves_nothing_behind() {
    for (server, config, storage) in everywhere().await {
        storage.probe(Duration::from_secs(10)).await.unwrap();
        assert_eq!(left_behind(&server, &config).await, 0, "{:?}", server.kind);
    }
}

#[tokio::test]
async fn probing_that_is_dropped_leaves_nothing_behind() {
    let Some(server) = shared::garage() else { return };
    for wait in [0, 5, 10, 20, 40, 80] {
        let config = config(&server);
        let task = tokio::spawn(S3Storage::connect(config.clone()));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        task.abort();
        let _ = task.await;
        // Requests that were on their way may land now; the clean-up follows them.
        let mut left = usize::MAX;
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            left = left_behind(&server, &config).await;
            if left == 0 {
                break;
            }
        }
        assert_eq!(left, 0, "dropped after {wait} ms");
    }
}

#[tokio::test]
async fn a_wrong_secret_is_unauthenticated_and_not_denied() {
    let Some(server) = shared::garage() else { return };
    let wrong = config(&server).with_static_credentials(&server.access_key, "0".repeat(64));
    assert_eq!(refused(wrong).await.kind(), ErrorKind::Unauthenticated);
    let unknown = config(&server).with_static_credentials("GK000000000000000000000000", "0".repeat(64));
    assert_eq!(refused(unknown).await.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_missing_bucket_is_named_and_not_a_missing_file() {
    for (server, config, _) in everywhere().await {
        let mut config = config;
        config.bucket = "no-such-bucket".into();
        let error = refused(config).await;
        // Garage does not tell who may not know.
        assert!(
            matches!(error.kind(), ErrorKind::Misconfigured | ErrorKind::Denied),
            "{:?}: {error}",
            server.kind
        );
        assert!(error.to_string().contains("no-such-bucket"), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_region_is_misconfigured() {
    let Some(server) = shared::garage() else { return };
    let error = refused(config(&server).with_region("eu-nowhere-9")).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("region"), "{error}");
}

#[tokio::test]
async fn an_unreachable_endpoint_is_named() {
    let endpoint = dead_endpoint();
    let config =
        S3Config::new("b").with_endpoint(&endpoint).with_region("r").with_static_credentials("a", "b");
    let error = refused(config).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&endpoint), "{error}");
}

#[tokio::test]
async fn reading_only_writes_nothing_to_find_out() {
    for (server, config, writable) in everywhere().await {
        writable.upload_bytes(&id("a"), "x".into()).await.unwrap();
        let storage = connect(&config.clone().with_access(Access::ReadOnly)).await;
        storage.probe(Duration::from_secs(10)).await.unwrap();
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "x");
        assert_eq!(left_behind(&server, &config).await, 1);
    }
}

#[tokio::test]
async fn a_node_that_is_down_is_passed_over() {
    for (server, config, _) in everywhere().await {
        let proxy = Proxy::start(server.address()).unwrap();
        let mut config = config;
        config.endpoints =
            vec![dead_endpoint(), format!("http://{}", proxy.address()), server.endpoint.clone()];
        let storage = connect(&config).await;
        storage.upload_bytes(&id("a"), "1".into()).await.unwrap();
        assert!(proxy.counts().connections > 0, "the second endpoint was not used");
        // The node that answered so far goes away.
        proxy.set(Fault::Refuse);
        storage.upload_bytes(&id("b"), "2".into()).await.unwrap();
        assert_eq!(storage.download_bytes(&id("a")).await.unwrap(), "1");
        let passed = proxy.counts().connections;
        assert_eq!(storage.download_bytes(&id("b")).await.unwrap(), "2");
        assert_eq!(proxy.counts().connections, passed, "it sticks to the node that answered");
    }
}

#[tokio::test]
async fn object_tags_are_kept_or_refused() {
    for (server, config, _) in everywhere().await {
        let config = config.with_object_tags(true);
        if server.kind == ServerKind::Garage {
            assert_eq!(refused(config).await.kind(), ErrorKind::Unsupported);
            continue;
        }
        let storage = connect(&config).await;
        let options = UploadOptions::default()
            .with_tag("a b", "c +d=e/")
            .with_tag("x-amz-meta-mtime", "1.5")
            .with_file_name("n");
        let written = storage.upload(&id("t"), Bytes::from("x").into(), options.clone()).await.unwrap();
        let read = storage.metadata(&id("t")).await.unwrap();
        assert_eq!(read.tags, options.tags);
        assert_eq!(written.metadata.tags, options.tags);
        storage.copy(&id("t"), &id("u"), UploadOptions::default().with_file_name("m")).await.unwrap();
        assert_eq!(storage.metadata(&id("u")).await.unwrap().tags, options.tags);
        let key = format!("{}t", key_prefix(&config));
        let raw =
            raw_client(&server).get_object_tagging().bucket(&server.bucket).key(key).send().await.unwrap();
        assert_eq!(raw.tag_set().len(), 1);
        assert_eq!((raw.tag_set()[0].key(), raw.tag_set()[0].value()), ("a b", "c +d=e/"));
    }
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Does `work` with everything logged, and returns the log.
pub(crate) async fn captured<T>(work: impl Future<Output = T>) -> (String, T) {
    let log = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let done = work.await;
    drop(guard);
    let seen = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    (seen, done)
}

/// Two libraries had a CVE for this: a secret in a retry's log line, and in the Debug of the credentials.
#[tokio::test]
async fn no_secret_is_logged_even_at_trace() {
    let Some(server) = shared::garage() else { return };
    let mut config = config(&server);
    config.endpoints.insert(0, dead_endpoint());
    let (mut seen, (storage, url, error)) = captured(Box::pin(async {
        let storage = connect(&config).await;
        storage.upload_bytes(&id("a"), "x".into()).await.unwrap();
        storage.download(&id("a"), DownloadOptions::default()).await.unwrap().bytes().await.unwrap();
        let asked = PresignRequest::get(Duration::from_secs(60));
        let url = storage.presigned_url(&id("a"), asked).await.unwrap();
        let secret = format!("{}0", server.secret_key);
        let wrong = config.clone().with_static_credentials(&server.access_key, secret);
        (storage, url, refused(wrong).await)
    }))
    .await;
    assert!(seen.contains("TRACE"), "nothing was captured");
    seen.push_str(&format!("{config:?} {storage:?} {error} {error:?} {url:?}"));
    assert!(!seen.contains(&server.secret_key), "the secret was logged");
    let signature = url.url.split("X-Amz-Signature=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    assert!(!format!("{error:?} {url:?}").contains(&signature));
    assert!(!format!("{error} {error:?}").contains("Signature="), "{error:?}");
}
