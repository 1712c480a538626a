//! The configuration file: named storages, and defaults for options.
//!
//! ```toml
//! concurrency = 16                # requests at a time, 1 to 256
//! part_size = "32MiB"             # 5MiB to 5GiB
//! bandwidth = "50MiB/s"           # or a timetable: "08:00,10MiB/s 20:00,off", "Mon-08:00,1MiB Fri-18:00,off"
//! include = ["/photos/"]          # as in rclone
//! exclude = ["*.tmp"]
//!
//! [[rules]]                       # for each attribute the first rule decides that matches and names it
//! match = "*.md"
//! content_type = "text/markdown"
//! tags = { kind = "note" }
//! metadata = { team = "web" }     # user metadata of objects: x-amz-meta-team
//!
//! [storage.files]
//! kind = "local"
//! path = "/srv/files"             # relative paths start at the directory of this file
//!
//! [storage.minio]
//! kind = "s3"
//! bucket = "files"
//! prefix = "tenant-1"             # default: the whole bucket
//! endpoints = ["http://minio-1:9000", "http://minio-2:9000"]
//! region = "eu-central-1"
//! profile = "minio"               # of ~/.aws/config and ~/.aws/credentials
//! path_style = true
//! storage_class = "STANDARD_IA"   # default: the server's own
//! sse = "kms:alias/files"         # encryption by the server: "s3", "kms" or "kms:KEY-ID"
//!
//! [storage.vault]
//! kind = "s3"
//! bucket = "vault"
//! customer_key = "vault.key"      # a file with the key of 32 bytes (SSE-C), or "env:NAME"
//! customer_key_over_http = false  # true: send the key without TLS as well
//! ```
//!
//! [`jobs`] has the sections of the daemon.
//!
//! No key takes a secret: credentials come from where the AWS tools have them (environment, profile, role).
//! What the command line says overrules the file. A key that is not known is refused, never skipped: a
//! misspelt `exclude` would copy what was to stay.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use crate::rules::Given;
use crate::throttle::Bandwidth;

pub mod env;
pub mod jobs;
mod raw;
pub mod sse;

/// What the configuration file says.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The file, where there is one.
    pub path: Option<PathBuf>,
    /// Defaults for options.
    pub settings: Settings,
    /// Storages by name.
    pub storages: BTreeMap<String, Storage>,
    /// The daemon's own settings.
    pub daemon: jobs::Daemon,
    /// The daemon's jobs by name.
    pub jobs: BTreeMap<String, jobs::Job>,
}

/// Options of a run, each where it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Requests at a time, 1 to 256.
    pub concurrency: Option<NonZeroU32>,
    /// Bytes per part, 5 MiB to 5 GiB.
    pub part_size: Option<NonZeroU64>,
    /// Bytes per second, perhaps by the time of the week.
    pub bandwidth: Option<Bandwidth>,
    /// Patterns of files to take; empty: all.
    pub include: Vec<String>,
    /// Patterns of files to leave out.
    pub exclude: Vec<String>,
    /// What files are given whose names match.
    pub rules: Vec<Given>,
}

/// A storage that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// A directory.
    Local {
        /// The directory, absolute unless the file's own path is not.
        path: PathBuf,
        /// Whether an upload is acknowledged before the disk has it; default: no.
        relaxed: bool,
    },
    /// A bucket of an S3-compatible server.
    S3(S3),
}

/// A bucket of an S3-compatible server. Holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct S3 {
    /// The bucket.
    pub bucket: String,
    /// What all ids lie beneath, without `/` at either end; empty: the whole bucket.
    pub prefix: String,
    /// Endpoints of one cluster, tried in order; empty: as the AWS environment says.
    pub endpoints: Vec<String>,
    /// Default: as the AWS environment says.
    pub region: Option<String>,
    /// Profile of the AWS configuration files; default: as the AWS environment says.
    pub profile: Option<String>,
    /// Bucket in the path instead of in the host name; default: yes with an endpoint, no without.
    pub path_style: Option<bool>,
    /// Storage class of what is written; default: the server's own.
    pub storage_class: Option<String>,
    /// Who encrypts what is written; default: as the bucket has it.
    pub sse: Option<sse::Sse>,
    /// Send a customer's key also to another machine without TLS; default: no.
    pub customer_key_over_http: bool,
}

/// What is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong, lower-case.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Understands the text of a configuration file; `path` is where it is, for messages and relative paths.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        raw::parse(text, path)
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            path: path.to_owned(),
            line: None,
            message: format!("cannot be read: {error}"),
            hint: Some("a configuration file is UTF-8 text that the user who runs this may read".to_owned()),
        })?;
        Self::parse(&text, path)
    }

    /// Reads the file that was named, else the first of the usual places that exists, else nothing.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn find(named: Option<&Path>, env: &env::Env) -> Result<Self, ConfigError> {
        if let Some(path) = named {
            return Self::load(path);
        }
        for path in env.config_candidates() {
            match std::fs::symlink_metadata(&path) {
                Ok(_) => return Self::load(&path),
                // A file that is there and cannot be looked at is an error of `load`; one that is not, is none.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Self::load(&path);
                }
                Err(_) => {}
            }
        }
        Ok(Self::default())
    }
}

/// Checks a number of requests at a time.
///
/// # Errors
/// What is wrong, in words.
pub fn check_concurrency(value: u64) -> Result<NonZeroU32, String> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value <= 256)
        .and_then(NonZeroU32::new)
        .ok_or_else(|| format!("{value} is not between 1 and 256"))
}

/// Checks a part size against the limits of S3 ("Amazon S3 multipart upload limits", Amazon S3 User Guide).
///
/// # Errors
/// What is wrong, in words.
pub fn check_part_size(bytes: u64) -> Result<NonZeroU64, String> {
    match NonZeroU64::new(bytes) {
        Some(size) if (5 << 20..=5 << 30).contains(&bytes) => Ok(size),
        _ => Err(format!("{bytes} bytes is not between 5 MiB and 5 GiB, the least and greatest part of S3")),
    }
}

/// Checks an S3 endpoint: `http` or `https`, a host, and no credentials.
///
/// # Errors
/// What is wrong, in words that do not repeat the text: it may hold a secret.
pub fn check_endpoint(url: &str) -> Result<(), String> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
        .ok_or("an endpoint begins with http:// or https://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    if authority.contains('@') {
        return Err("an endpoint must not hold credentials".to_owned());
    }
    if authority.is_empty() {
        return Err("an endpoint needs a host".to_owned());
    }
    Ok(())
}

/// Checks the name of a storage: letters, digits, `_` and `-`, so that it is told from a path and a URL.
pub fn is_storage_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_with_credentials_is_refused_without_showing_them() {
        let error = check_endpoint("https://key:s3cret@host/").unwrap_err();
        assert!(error.contains("credentials") && !error.contains("s3cret"), "{error}");
        assert!(check_endpoint("http://127.0.0.1:9000").is_ok());
        assert!(check_endpoint("https://host/path@x").is_ok());
        assert!(check_endpoint("host:9000").is_err());
        assert!(check_endpoint("http:///x").is_err());
    }

    #[test]
    fn limits_of_options() {
        assert!(check_concurrency(0).is_err() && check_concurrency(257).is_err());
        assert_eq!(check_concurrency(256).unwrap().get(), 256);
        assert!(check_part_size((5 << 20) - 1).is_err() && check_part_size((5 << 30) + 1).is_err());
        assert!(check_part_size(5 << 20).is_ok() && check_part_size(5 << 30).is_ok());
    }

    #[test]
    fn no_file_is_no_error_and_a_named_one_must_exist() {
        let home = tempfile::tempdir().unwrap();
        let env = env::Env { config_home: Some(home.path().to_owned()), ..env::Env::default() };
        if !Path::new(env::SYSTEM_CONFIG).exists() {
            assert_eq!(Config::find(None, &env).unwrap(), Config::default());
        }
        let named = home.path().join("absent.toml");
        let error = Config::find(Some(&named), &env).unwrap_err();
        assert!(error.to_string().contains("absent.toml"), "{error}");
        std::fs::create_dir(home.path().join("migrator")).unwrap();
        std::fs::write(home.path().join("migrator/config.toml"), "concurrency = 3").unwrap();
        assert_eq!(Config::find(None, &env).unwrap().settings.concurrency.unwrap().get(), 3);
    }
}
