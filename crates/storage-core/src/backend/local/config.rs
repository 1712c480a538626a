//! How a [`LocalStorage`](super::LocalStorage) is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::preparation::Preparer;
use crate::error::Result;
use crate::preparation::Preparation;
use crate::presign::{PresignConfig, UrlSigner};
use crate::storage::Access;

/// When an upload is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// After the file, its directory entry and every new directory above it were handed to the disk (`fsync`):
    /// an acknowledged file survives a power cut.
    #[default]
    Durable,
    /// Without any `fsync`. Everything else stays: readers still see whole files only. What is given up: after a
    /// power cut, files acknowledged in the last half minute or so may be gone, empty or zero-filled, and a
    /// replaced file may be back in its old version. For scratch data and tests.
    Relaxed,
}

/// What a [`LocalStorage`](super::LocalStorage) is opened with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The directory. A relative path is resolved once, at opening.
    pub root: PathBuf,
    /// Name for errors, spans and metrics; default: `local`.
    #[serde(default = "default_name")]
    pub name: String,
    /// Default: [`Durability::Durable`].
    #[serde(default)]
    pub durability: Durability,
    /// Default: [`Access::ReadWrite`].
    #[serde(default)]
    pub access: Access,
    /// Creates a missing root, with its parents; default: no, as a missing root is most often a file system
    /// that was not mounted.
    #[serde(default)]
    pub create_root: bool,
    /// Age from which temporary files are removed at opening where the file system has no locks (`flock`) that
    /// tell whether their writer is alive; default: 24 h, longer than any single upload is expected to go without
    /// writing a byte. Elsewhere those of dead writers are removed whatever their age.
    #[serde(default = "default_temp_age", with = "jiff::fmt::serde::unsigned_duration::required")]
    pub temp_age: Duration,
    /// Where presigned URLs lead and which keys sign them. Default: none, the storage has no URLs.
    #[serde(default)]
    pub presign: Option<PresignConfig>,
    #[serde(skip)]
    signer: Option<UrlSigner>,
    #[serde(skip)]
    pub(super) preparer: Option<Preparer>,
}

fn default_name() -> String {
    "local".to_owned()
}

fn default_temp_age() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

impl LocalConfig {
    /// Takes the directory, and the default of everything else.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            name: default_name(),
            durability: Durability::default(),
            access: Access::default(),
            create_root: false,
            temp_age: default_temp_age(),
            presign: None,
            signer: None,
            preparer: None,
        }
    }

    /// Sets the name for errors, spans and metrics.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets when an upload is acknowledged.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets what the storage is opened for.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Has a missing root created.
    #[must_use]
    pub fn with_create_root(mut self) -> Self {
        self.create_root = true;
        self
    }

    /// Sets the age from which temporary files are removed whose writers cannot be asked.
    #[must_use]
    pub fn with_temp_age(mut self, age: Duration) -> Self {
        self.temp_age = age;
        self
    }

    /// Sets where presigned URLs lead and which files hold the keys.
    #[must_use]
    pub fn with_presign(mut self, presign: PresignConfig) -> Self {
        self.presign = Some(presign);
        self
    }

    /// Takes a signer that is made already, in place of [`presign`](Self::presign): for keys that are in no file.
    #[must_use]
    pub fn with_signer(mut self, signer: UrlSigner) -> Self {
        self.signer = Some(signer);
        self
    }

    /// Has every file prepared before it appears under its name.
    #[must_use]
    pub fn with_preparation(mut self, preparation: Arc<dyn Preparation>) -> Self {
        self.preparer = Some(Preparer(preparation));
        self
    }

    /// Returns what the storage will sign URLs with, reading the key files where it comes from them: the router
    /// that serves the URLs is given the same.
    ///
    /// # Errors
    /// Those of [`PresignConfig::signer`].
    pub fn signer(&self) -> Result<Option<UrlSigner>> {
        match &self.signer {
            Some(signer) => Ok(Some(signer.clone())),
            None => self.presign.as_ref().map(PresignConfig::signer).transpose(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_configuration_and_refuses_a_misspelt_key() {
        let config: LocalConfig = serde_json::from_str(
            r#"{"root": "/srv/files", "durability": "relaxed", "access": "read-only", "temp_age": "2 hours",
                "presign": {"base_url": "https://files.example.org", "key_file": "/run/secrets/files"}}"#,
        )
        .unwrap();
        let presign = PresignConfig::new("https://files.example.org", "/run/secrets/files");
        let expected = LocalConfig::new("/srv/files")
            .with_durability(Durability::Relaxed)
            .with_access(Access::ReadOnly)
            .with_temp_age(Duration::from_secs(7200))
            .with_presign(presign);
        assert_eq!(config, expected);
        assert!(serde_json::from_str::<LocalConfig>(r#"{"root": "/x", "durabilty": "relaxed"}"#).is_err());
        assert_eq!(serde_json::from_str::<LocalConfig>(r#"{"root": "/x"}"#).unwrap(), LocalConfig::new("/x"));
    }
}
