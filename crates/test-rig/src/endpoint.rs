//! Where an S3 server is, and who may talk to it.

use std::env;
use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::http;

/// Which server it is: they differ in what they keep and check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// Checks credentials, SHA-256 and part checksums; ignores preconditions of a PUT; has no tags.
    Garage,
    /// Keeps preconditions, tags and versions; checks neither credentials nor checksums.
    Moto,
}

/// The address of a bucket, with credentials. Its `Debug` hides the secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Endpoint {
    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub endpoint: String,
    /// The access key id.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// The region that requests must be signed for.
    pub region: String,
    /// A bucket that exists.
    pub bucket: String,
    /// Which server it is.
    pub kind: ServerKind,
    pub(crate) admin: Option<Admin>,
}

/// Garage's own interface.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

impl Admin {
    pub(crate) fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let authorization = format!("Bearer {}", self.token);
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let answer = http::request(self.address, "POST", path, &headers, body.to_string().as_bytes())?;
        let body = answer.ok().with_context(|| format!("garage refused {path}"))?;
        serde_json::from_slice(&body).with_context(|| format!("garage's answer to {path} is no JSON"))
    }
}

impl S3Endpoint {
    /// Returns the address of a bucket of a server that the rig did not start and that checks no credentials, as
    /// [`ServerKind::Moto`] does not.
    pub fn unchecked(endpoint: impl Into<String>, bucket: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            access_key: "any".to_owned(),
            secret_key: "any".to_owned(),
            region: "us-east-1".to_owned(),
            bucket: bucket.into(),
            kind: ServerKind::Moto,
            admin: None,
        }
    }

    /// Returns the variables by which the AWS SDKs, awscli, s5cmd and `migrator` find the server. They keep the
    /// machine's own configuration and credentials out, and the lookup of an instance role, which would wait for
    /// seconds.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", self.access_key.as_str()),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_key),
            ("AWS_REGION", &self.region),
            ("AWS_DEFAULT_REGION", &self.region),
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("S3_ENDPOINT_URL", &self.endpoint),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Returns the variables by which rclone knows the server as the remote `rig:`, so that
    /// `rclone check --download DIRECTORY rig:BUCKET` can be the judge of a run.
    pub fn rclone_env(&self) -> Vec<(String, String)> {
        [
            ("RCLONE_CONFIG", "/dev/null"),
            ("RCLONE_CONFIG_RIG_TYPE", "s3"),
            ("RCLONE_CONFIG_RIG_PROVIDER", "Other"),
            ("RCLONE_CONFIG_RIG_ENDPOINT", self.endpoint.as_str()),
            ("RCLONE_CONFIG_RIG_REGION", &self.region),
            ("RCLONE_CONFIG_RIG_ACCESS_KEY_ID", &self.access_key),
            ("RCLONE_CONFIG_RIG_SECRET_ACCESS_KEY", &self.secret_key),
            ("RCLONE_CONFIG_RIG_FORCE_PATH_STYLE", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Returns host and port: what a [`Proxy`](crate::Proxy) in front of it connects to.
    ///
    /// # Panics
    /// When `endpoint` was replaced by something that is not `http://ADDRESS:PORT`.
    pub fn address(&self) -> SocketAddr {
        let authority = self.endpoint.strip_prefix("http://").expect("the endpoint is plain http");
        authority.trim_end_matches('/').parse().expect("the endpoint is an address with a port")
    }

    /// Returns the same server behind another address, such as a proxy's.
    #[must_use]
    pub fn via(&self, address: SocketAddr) -> Self {
        Self { endpoint: format!("http://{address}"), ..self.clone() }
    }

    /// Makes a bucket that the same credentials may use, and returns its endpoint.
    ///
    /// # Errors
    /// When the server refuses, as it does when the name is taken.
    pub fn create_bucket(&self, name: &str) -> Result<Self> {
        match (self.kind, &self.admin) {
            (ServerKind::Garage, Some(admin)) => {
                let bucket = admin.call("/v2/CreateBucket", &json!({ "globalAlias": name }))?;
                let permissions = json!({ "read": true, "write": true, "owner": true });
                let allow = json!({
                    "bucketId": bucket["id"],
                    "accessKeyId": self.access_key,
                    "permissions": permissions,
                });
                admin.call("/v2/AllowBucketKey", &allow)?;
            }
            (ServerKind::Garage, None) => bail!("the address of garage's admin interface is not known"),
            (ServerKind::Moto, _) => {
                http::request(self.address(), "PUT", &format!("/{name}"), &[], b"")?.ok()?;
            }
        }
        Ok(Self { bucket: name.to_owned(), ..self.clone() })
    }

    /// Returns the variables, named after `prefix`, from which [`from_env`](Self::from_env) makes the same again
    /// in another process.
    pub fn to_env(&self, prefix: &str) -> Vec<(String, String)> {
        let mut variables = vec![
            (format!("{prefix}_ENDPOINT"), self.endpoint.clone()),
            (format!("{prefix}_ACCESS_KEY"), self.access_key.clone()),
            (format!("{prefix}_SECRET_KEY"), self.secret_key.clone()),
            (format!("{prefix}_REGION"), self.region.clone()),
            (format!("{prefix}_BUCKET"), self.bucket.clone()),
        ];
        if let Some(admin) = &self.admin {
            variables.push((format!("{prefix}_ADMIN"), admin.address.to_string()));
            variables.push((format!("{prefix}_ADMIN_TOKEN"), admin.token.clone()));
        }
        variables
    }

    /// Reads what [`to_env`](Self::to_env) wrote; nothing when `{prefix}_ENDPOINT` is not set.
    ///
    /// # Errors
    /// When only some of the variables are set.
    pub fn from_env(prefix: &str, kind: ServerKind) -> Result<Option<Self>> {
        let variable = |name: &str| env::var(format!("{prefix}_{name}"));
        let required = |name: &str| variable(name).with_context(|| format!("{prefix}_{name} is not set"));
        let Ok(endpoint) = variable("ENDPOINT") else { return Ok(None) };
        let admin = match (variable("ADMIN"), variable("ADMIN_TOKEN")) {
            (Ok(address), Ok(token)) => {
                Some(Admin { address: address.parse().context("the admin address")?, token })
            }
            _ => None,
        };
        Ok(Some(Self {
            endpoint,
            access_key: required("ACCESS_KEY")?,
            secret_key: required("SECRET_KEY")?,
            region: required("REGION")?,
            bucket: required("BUCKET")?,
            kind,
            admin,
        }))
    }
}

impl fmt::Debug for S3Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Endpoint")
            .field("endpoint", &self.endpoint)
            .field("access_key", &self.access_key)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        let endpoint = S3Endpoint {
            endpoint: "http://127.0.0.1:1".into(),
            access_key: "key".into(),
            secret_key: "s3cret".into(),
            region: "garage".into(),
            bucket: "rig".into(),
            kind: ServerKind::Garage,
            admin: Some(Admin { address: "127.0.0.1:2".parse().unwrap(), token: "t0ken".into() }),
        };
        let debug = format!("{endpoint:?}");
        assert!(!debug.contains("s3cret") && !debug.contains("t0ken"), "{debug}");
        assert_eq!(endpoint.via("127.0.0.1:9".parse().unwrap()).address().port(), 9);
    }
}
