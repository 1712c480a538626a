//! Who encrypts objects in a bucket. Nothing here is a secret: of a customer's key it is known where it is, and it is read
//! when the storage is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Who encrypts what is written to a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    /// The server, with keys of its own (SSE-S3).
    Server,
    /// The server, with a key of its key management service (SSE-KMS): the named one, or the account's own.
    Kms(Option<String>),
    /// The server, with a key that is sent along and that it forgets (SSE-C).
    Customer(KeySource),
}

impl FromStr for Sse {
    type Err = String;

    /// Reads `s3`, `kms` and `kms:KEY`. A customer's key has an option of its own.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "s3" => Ok(Self::Server),
            None if text == "kms" => Ok(Self::Kms(None)),
            Some(("kms", key)) if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self::Kms(Some(key.to_owned())))
            }
            // Not shown: it may be a key.
            _ => Err("expected s3, kms or kms:KEY-ID".to_owned()),
        }
    }
}

impl fmt::Display for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("s3"),
            Self::Kms(None) => f.write_str("kms"),
            Self::Kms(Some(key)) => write!(f, "kms:{key}"),
            Self::Customer(_) => f.write_str("customer key"),
        }
    }
}

/// Where a customer's key is. Never shown: whoever takes the option for the key itself writes the key here.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Variable(String),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "a file",
            Self::Variable(_) => "a variable",
        })
    }
}

impl FromStr for KeySource {
    type Err = String;

    /// Reads `env:NAME`, or the path of a file.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("env:") {
            // Any name: a refusal by the command line's parser would repeat it.
            Some(name) => Ok(Self::Variable(name.to_owned())),
            None if text.is_empty() => Err("expected a file, or env:NAME".to_owned()),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl KeySource {
    /// Makes a relative path start at a directory.
    #[must_use]
    pub fn beneath(self, base: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(base.join(path)),
            variable @ Self::Variable(_) => variable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_taken_for_its_place_is_not_repeated() {
        let key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let source: KeySource = key.parse().unwrap();
        let variable: KeySource = format!("env:{key}=").parse().unwrap();
        let shown =
            format!("{source:?} {variable:?} {:?} {:?}", Sse::Customer(source.clone()), key.parse::<Sse>());
        assert!(!shown.contains("0123456789"), "{shown}");
        assert_eq!(source.beneath(Path::new("/etc")), KeySource::File(Path::new("/etc").join(key)));
    }

    #[test]
    fn the_words_are_understood_or_refused() {
        assert_eq!("s3".parse::<Sse>().unwrap().to_string(), "s3");
        assert_eq!("kms:alias/a".parse::<Sse>(), Ok(Sse::Kms(Some("alias/a".to_owned()))));
        for text in ["", "S3", "kms:", "kms:a b", "customer", "aes"] {
            assert!(text.parse::<Sse>().is_err(), "{text}");
        }
        assert!("".parse::<KeySource>().is_err());
    }
}
