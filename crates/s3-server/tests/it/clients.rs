//! The clients that people use: awscli, s5cmd and rclone, over a tree with odd names and a large file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use s3_server::{RunningServer, ServerConfig};
use storage_core::backend::local::{LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::storage::FileStorage;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{BUCKET, MIB, start};

struct Client {
    tool: PathBuf,
    server: RunningServer,
    home: TempDir,
    _root: TempDir,
}

impl Client {
    /// Starts a server over memory, or over a directory, and a client that knows it.
    async fn new(tool: &str, local: bool) -> Option<Self> {
        let tool = test_rig::tools::require(tool)?;
        let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let storage: Arc<dyn FileStorage> = if local {
            Arc::new(LocalStorage::open(LocalConfig::new(root.path())).await.unwrap())
        } else {
            Arc::new(MemoryStorage::new())
        };
        let config = ServerConfig::new().with_bucket(BUCKET, storage).with_random_credentials();
        Some(Self { tool, server: start(config).await, home, _root: root })
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(self.server.secret_key(), arguments).await
    }

    async fn run_with(&self, secret: &str, arguments: &[&str]) -> Output {
        Command::new(&self.tool)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONUTF8", "1")
            .env("AWS_ACCESS_KEY_ID", self.server.access_key())
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_REGION", self.server.region())
            .env("AWS_DEFAULT_REGION", self.server.region())
            .env("AWS_ENDPOINT_URL", self.server.endpoint())
            .env("S3_ENDPOINT_URL", self.server.endpoint())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("RCLONE_CONFIG_R_TYPE", "s3")
            .env("RCLONE_CONFIG_R_PROVIDER", "Other")
            .env("RCLONE_CONFIG_R_ENV_AUTH", "true")
            .env("RCLONE_CONFIG_R_ENDPOINT", self.server.endpoint())
            .env("RCLONE_CONFIG_R_CHUNK_SIZE", "5M")
            .env("RCLONE_CONFIG_R_UPLOAD_CUTOFF", "6M")
            .env("RCLONE_RETRIES", "1")
            .output()
            .await
            .unwrap()
    }

    #[track_caller]
    fn check(output: Output) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    async fn ok(&self, arguments: &[&str]) -> String {
        Self::check(self.run(arguments).await)
    }
}

/// Names that every one of the clients can carry, and a file that each sends in parts.
fn tree() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, size) in [
        ("plain.txt", 10),
        ("empty", 0),
        ("sp ace/a+b %41 é.txt", 100),
        ("deep/er/and/deeper/x", 1),
        ("quote'\"&<>;=?#", 20),
        ("-dash", 3),
        ("日本/ü", 5),
        ("large", 17 * MIB + 123),
    ] {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..size).map(|at| (at / 7 + at % 251) as u8).collect();
        std::fs::write(path, bytes).unwrap();
    }
    directory
}

fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[track_caller]
fn same(left: &Path, right: &Path) {
    let (left, right) = (contents(left), contents(right));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right));
    assert!(left == right, "contents differ");
}

async fn aws(local: bool) {
    let Some(client) = Client::new("aws", local).await else { return };
    // The first version of awscli presigns with the old signature otherwise.
    std::fs::create_dir(client.home.path().join(".aws")).unwrap();
    let config = "[default]\ns3 =\n    signature_version = s3v4\n";
    std::fs::write(client.home.path().join(".aws/config"), config).unwrap();
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let (from_path, to_path) = (from.path().to_str().unwrap(), to.path().to_str().unwrap());
    client.ok(&["s3", "sync", "--no-progress", from_path, "s3://bucket/tree"]).await;
    client.ok(&["s3", "sync", "--no-progress", "s3://bucket/tree", to_path]).await;
    same(from.path(), to.path());
    let again = client.ok(&["s3", "sync", "--no-progress", from_path, "s3://bucket/tree"]).await;
    assert_eq!(again, "", "nothing has changed");
    let listed = client.ok(&["s3", "ls", "s3://bucket/tree/"]).await;
    assert!(listed.contains("PRE deep/") && listed.contains("plain.txt"), "{listed}");
    let head =
        ["s3api", "head-object", "--bucket", BUCKET, "--key", "tree/large", "--checksum-mode", "ENABLED"];
    let head = client.ok(&head).await;
    assert!(head.contains("\"ChecksumType\": \"COMPOSITE\""), "{head}");
    let url = client.ok(&["s3", "presign", "s3://bucket/tree/plain.txt"]).await;
    let target = url.trim().strip_prefix(&client.server.endpoint()).unwrap().to_owned();
    let answer = crate::support::exchange(&client.server, "GET", &target, &BTreeMap::new(), b"", None).await;
    assert_eq!(answer.unwrap().expect(200).body, std::fs::read(from.path().join("plain.txt")).unwrap());
    client.ok(&["s3", "mv", "--no-progress", "s3://bucket/tree/large", "s3://bucket/moved"]).await;
    let refused = client.run_with("wrong", &["s3", "ls", "s3://bucket/"]).await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("SignatureDoesNotMatch"));
    client.ok(&["s3", "rm", "--recursive", "s3://bucket/"]).await;
    assert_eq!(client.ok(&["s3", "ls", "--recursive", "s3://bucket/"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn awscli_carries_a_tree_to_memory_and_back() {
    aws(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn awscli_carries_a_tree_to_disk_and_back() {
    aws(true).await;
}

async fn s5cmd(local: bool) {
    let Some(client) = Client::new("s5cmd", local).await else { return };
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let source = format!("{}/", from.path().display());
    let target = format!("{}/", to.path().display());
    client.ok(&["cp", "--part-size", "5", &source, "s3://bucket/tree/"]).await;
    client.ok(&["cp", "s3://bucket/tree/*", &target]).await;
    same(from.path(), to.path());
    let again = client.ok(&["sync", &source, "s3://bucket/tree/"]).await;
    assert_eq!(again, "", "nothing has changed");
    let listed = client.ok(&["ls", "s3://bucket/tree/"]).await;
    assert!(listed.contains("deep/") && listed.contains("plain.txt"), "{listed}");
    client.ok(&["cp", "s3://bucket/tree/large", "s3://bucket/copy"]).await;
    let refused = client.run_with("wrong", &["ls", "s3://bucket/"]).await;
    assert!(!refused.status.success());
    client.ok(&["rm", "s3://bucket/*"]).await;
    let empty = client.run(&["ls", "s3://bucket/"]).await;
    assert_eq!(String::from_utf8_lossy(&empty.stdout), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn s5cmd_carries_a_tree_to_memory_and_back() {
    s5cmd(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5cmd_carries_a_tree_to_disk_and_back() {
    s5cmd(true).await;
}

async fn rclone(local: bool) {
    let Some(client) = Client::new("rclone", local).await else { return };
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join("new\nline"), "x").unwrap();
    let (from_path, to_path) = (from.path().to_str().unwrap(), to.path().to_str().unwrap());
    client.ok(&["sync", from_path, "R:bucket/tree"]).await;
    client.ok(&["check", "--download", from_path, "R:bucket/tree"]).await;
    client.ok(&["sync", "R:bucket/tree", to_path]).await;
    same(from.path(), to.path());
    client.ok(&["check", from_path, "R:bucket/tree"]).await;
    client.ok(&["touch", "--timestamp", "2001-01-01T00:00:00", "R:bucket/tree/plain.txt"]).await;
    let listed = client.ok(&["lsl", "R:bucket/tree", "--include", "plain.txt"]).await;
    assert!(listed.contains("2001-01-01"), "{listed}");
    client.ok(&["moveto", "R:bucket/tree/large", "R:bucket/moved"]).await;
    let refused = client.run_with("wrong", &["lsf", "R:bucket"]).await;
    assert!(!refused.status.success());
    client.ok(&["delete", "R:bucket"]).await;
    assert_eq!(client.ok(&["lsf", "-R", "--files-only", "R:bucket"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_carries_a_tree_to_memory_and_back() {
    rclone(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_carries_a_tree_to_disk_and_back() {
    rclone(true).await;
}
