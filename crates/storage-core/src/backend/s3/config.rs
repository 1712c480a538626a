//! What an S3 storage is told.

use std::fmt;

use serde::Deserialize;

use super::encryption::{Encryption, is_private};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, MAX_ID_BYTES};
use crate::storage::{Access, Capabilities, PartLimits};

/// Parts, and bodies up to which one PUT will do: of 5 MiB to 64 MiB the client cost per byte is the same, and
/// 10,000 parts of this size are 156 GiB; beyond that parts grow.
const DEFAULT_PART_SIZE: u64 = 16 << 20;

/// Four parts in flight fill a gigabit link at 130 ms of latency, and hold 64 MiB.
const DEFAULT_PARTS_IN_FLIGHT: usize = 4;

const DEFAULT_NAME: &str = "s3";

/// How to reach a bucket, or a part of it, on any S3-compatible server.
///
/// Credentials come from the usual chain of AWS tools (environment, profile, web identity, container, instance),
/// or from [`with_static_credentials`](Self::with_static_credentials); a configuration file holds none.
///
/// ```
/// use storage_core::backend::s3::S3Config;
/// let config = S3Config::new("photos").with_endpoint("https://minio.example:9000").with_prefix("originals");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket, which exists.
    pub bucket: String,
    /// What every key begins with, before a `/` and the id. Default: empty, the key is the id.
    #[serde(default)]
    pub prefix: String,
    /// URLs of the server, or of several nodes of one cluster: when one refuses connections or answers 503, the
    /// next is asked. Plain http where the URL says so. Default: none, which is Amazon's endpoint of the region.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Default: that of the environment or the profile, else `us-east-1`, which most servers take.
    #[serde(default)]
    pub region: Option<String>,
    /// Profile in the shared configuration files. Default: that of the environment.
    #[serde(default)]
    pub profile: Option<String>,
    /// The bucket stands in the path of the URL and not in its host name. Default: true when an endpoint is
    /// given, as a wildcard in DNS is rare outside of Amazon.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// The name that errors and metrics know this storage by. Default: `s3`.
    #[serde(default = "default_name")]
    pub name: String,
    /// Default: reading and writing.
    #[serde(default)]
    pub access: Access,
    /// Size in bytes of a part; a body up to it is sent in one PUT, from memory. 5 MiB to 5 GiB; default: 16 MiB.
    #[serde(default = "default_part_size")]
    pub part_size: u64,
    /// Parts in flight of all uploads of this storage together, which bounds their memory to as many part
    /// sizes. Default: 4.
    #[serde(default = "default_parts_in_flight")]
    pub parts_in_flight: usize,
    /// Store tags as S3's own object tags, for lifecycle rules and policies that look at them: 10 of them, and
    /// one more request per [`metadata`](crate::storage::FileStorage::metadata). Default: false, tags are user
    /// metadata.
    #[serde(default)]
    pub object_tags: bool,
    /// What [`capabilities`](crate::storage::FileStorage::capabilities) said when this storage was last open; nothing
    /// is asked of the server then before the first operation that writes. Default: nothing, it is asked at once.
    ///
    /// For those who open a storage often and write seldom. What was remembered is never relied on for a write: the
    /// answers take its place first, whatever they are. Storages opened for reading only take no notice.
    #[serde(skip)]
    pub remembered: Option<Box<Capabilities>>,
    /// Storage class of everything that is written, in the server's words: `STANDARD_IA`, `GLACIER_IR`. A server
    /// that stores as something else fails the opening. Default: the server's own.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// Who encrypts what is written. A server that does not as it is told fails the opening. Default: as the bucket's
    /// settings have it.
    #[serde(default)]
    pub encryption: Encryption,
    /// Send a customer's key also to another machine without TLS, where everybody in between can read it. Default:
    /// false, that is refused.
    #[serde(default)]
    pub customer_key_over_http: bool,
    #[serde(skip)]
    pub(super) credentials: Option<StaticCredentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct StaticCredentials {
    pub(super) access_key: String,
    pub(super) secret: String,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

fn default_name() -> String {
    DEFAULT_NAME.to_owned()
}

fn default_part_size() -> u64 {
    DEFAULT_PART_SIZE
}

fn default_parts_in_flight() -> usize {
    DEFAULT_PARTS_IN_FLIGHT
}

impl S3Config {
    /// Names the bucket; everything else has its default.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoints: Vec::new(),
            region: None,
            profile: None,
            path_style: None,
            name: default_name(),
            access: Access::default(),
            part_size: DEFAULT_PART_SIZE,
            parts_in_flight: DEFAULT_PARTS_IN_FLIGHT,
            object_tags: false,
            remembered: None,
            storage_class: None,
            encryption: Encryption::default(),
            customer_key_over_http: false,
            credentials: None,
        }
    }

    /// Sets what every key begins with.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Adds the URL of a server, or of one more node of the cluster.
    #[must_use]
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoints.push(url.into());
        self
    }

    /// Sets the region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the profile in the shared configuration files.
    #[must_use]
    pub fn with_profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Sets whether the bucket stands in the path.
    #[must_use]
    pub fn with_path_style(mut self, path_style: bool) -> Self {
        self.path_style = Some(path_style);
        self
    }

    /// Sets the name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what the storage is opened for.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Sets the size of parts in bytes.
    #[must_use]
    pub fn with_part_size(mut self, part_size: u64) -> Self {
        self.part_size = part_size;
        self
    }

    /// Sets the number of parts in flight.
    #[must_use]
    pub fn with_parts_in_flight(mut self, parts_in_flight: usize) -> Self {
        self.parts_in_flight = parts_in_flight;
        self
    }

    /// Sets whether tags are S3's own object tags.
    #[must_use]
    pub fn with_object_tags(mut self, object_tags: bool) -> Self {
        self.object_tags = object_tags;
        self
    }

    /// Sets what the storage was found capable of.
    #[must_use]
    pub fn with_remembered(mut self, capabilities: Capabilities) -> Self {
        self.remembered = Some(Box::new(capabilities));
        self
    }

    /// Sets the storage class of everything that is written.
    #[must_use]
    pub fn with_storage_class(mut self, class: impl Into<String>) -> Self {
        self.storage_class = Some(class.into());
        self
    }

    /// Sets who encrypts what is written. With a customer's key, only what was written with the same one can be read.
    #[must_use]
    pub fn with_encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = encryption;
        self
    }

    /// Sends a customer's key also to another machine without TLS.
    #[must_use]
    pub fn with_customer_key_over_http(mut self) -> Self {
        self.customer_key_over_http = true;
        self
    }

    /// Uses these credentials instead of the usual chain: for embedding and for tests.
    #[must_use]
    pub fn with_static_credentials(
        mut self,
        access_key: impl Into<String>,
        secret: impl Into<String>,
    ) -> Self {
        self.credentials = Some(StaticCredentials { access_key: access_key.into(), secret: secret.into() });
        self
    }

    /// Returns what stands before the id in a key: nothing, or the prefix and a `/`.
    pub(super) fn key_prefix(&self) -> String {
        match self.prefix.trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }

    pub(super) fn uses_path_style(&self) -> bool {
        self.path_style.unwrap_or(!self.endpoints.is_empty())
    }

    /// Checks what can be checked without the server.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |message: String| {
            Err(Error::new(ErrorKind::Misconfigured, Op::Open).with_storage(&self.name).with_message(message))
        };
        if self.bucket.is_empty() {
            return wrong("the bucket has no name".into());
        }
        let prefix = self.prefix.strip_suffix('/').unwrap_or(&self.prefix);
        if !prefix.is_empty() {
            if let Err(error) = FileId::parse(prefix) {
                return wrong(format!("prefix \"{}\": {error}", prefix.escape_debug()));
            }
            if prefix.len() + 2 > MAX_ID_BYTES {
                return wrong(format!("the prefix leaves no room for an id: {} bytes", prefix.len()));
            }
        }
        for endpoint in &self.endpoints {
            let valid = url::Url::parse(endpoint).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
            });
            if !valid {
                // Not shown: it may hold a password.
                return wrong(
                    "an endpoint is no URL of the form `https://host:port`, without user, password and query"
                        .into(),
                );
            }
        }
        if matches!(self.encryption, Encryption::Customer(_)) && !self.customer_key_over_http {
            let open = |url: &String| url::Url::parse(url).is_ok_and(|url| !is_private(&url));
            if let Some(endpoint) = self.endpoints.iter().find(|url| open(url)) {
                return wrong(format!(
                    "a customer key would go to {endpoint} without TLS, where everybody in between can read it: use \
                     https, or allow it explicitly"
                ));
            }
        }
        if self.storage_class.as_deref().is_some_and(|class| !is_word(class)) {
            return wrong(
                "a storage class has capital letters, digits and `_` only, as in STANDARD_IA".into(),
            );
        }
        if let Encryption::Kms(Some(key)) = &self.encryption
            && (key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return wrong("the id of a KMS key is empty, or holds white space".into());
        }
        let limits = PartLimits::S3;
        if self.part_size < limits.min_part_size || self.part_size > limits.max_part_size {
            return wrong(format!(
                "part_size {} is not within {} and {} bytes",
                self.part_size, limits.min_part_size, limits.max_part_size
            ));
        }
        if self.parts_in_flight == 0 {
            return wrong("parts_in_flight is 0".into());
        }
        Ok(())
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::s3::encryption::CustomerKey;

    #[test]
    fn a_secret_is_neither_shown_nor_read_from_a_file() {
        let config = S3Config::new("b").with_static_credentials("AKIDEXAMPLE", "s3cret");
        let shown = format!("{config:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("AKIDEXAMPLE"), "{shown}");
        assert!(serde_json::from_str::<S3Config>(r#"{"bucket":"b","credentials":{}}"#).is_err());
        assert!(serde_json::from_str::<S3Config>(r#"{"bucket":"b","prefx":"x"}"#).is_err());
        assert_eq!(serde_json::from_str::<S3Config>(r#"{"bucket":"b"}"#).unwrap(), S3Config::new("b"));
    }

    #[test]
    fn what_cannot_work_is_refused_before_the_first_request() {
        let ok = S3Config::new("b").with_prefix("a/b/").with_endpoint("http://[::1]:9000");
        ok.check().unwrap();
        assert_eq!(ok.key_prefix(), "a/b/");
        assert!(ok.uses_path_style() && !S3Config::new("b").uses_path_style());
        let with_key = |url: &str| {
            let key = CustomerKey::new(&[7; 32]);
            S3Config::new("b").with_endpoint(url).with_encryption(Encryption::Customer(key))
        };
        with_key("http://127.0.0.1:9000").check().unwrap();
        with_key("https://minio").with_storage_class("STANDARD_IA").check().unwrap();
        with_key("http://minio").with_customer_key_over_http().check().unwrap();
        for config in [
            S3Config::new(""),
            S3Config::new("b").with_prefix("a//b"),
            S3Config::new("b").with_prefix("/a"),
            S3Config::new("b").with_prefix("a//"),
            S3Config::new("b").with_prefix("x".repeat(1023)),
            S3Config::new("b").with_endpoint("host:9000"),
            S3Config::new("b").with_endpoint("ftp://host"),
            S3Config::new("b").with_part_size(1),
            S3Config::new("b").with_parts_in_flight(0),
            S3Config::new("b").with_storage_class("standard ia"),
            S3Config::new("b").with_encryption(Encryption::Kms(Some("a b".into()))),
            with_key("http://minio:9000"),
            with_key("http://127.0.0.1:9000").with_endpoint("http://10.0.0.2:9000"),
        ] {
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::Misconfigured, "{config:?}");
        }
        let error = S3Config::new("b").with_endpoint("http://u:s3cret@h").check().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
}
