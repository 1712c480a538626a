//! What SOURCE and TARGET on the command line mean. Pure.
//!
//! In this order:
//!
//! 1. `/...`, `./...`, `../...`, `.` and `..` are directories, whatever the configuration says.
//! 2. `s3://BUCKET[/PREFIX]` is a bucket, or what lies beneath a prefix of it. `s3://b/p` and `s3://b/p/` are the
//!    same. Nothing is decoded: `%20` in a prefix is these three characters.
//! 3. `embedded:DIR` is the project's own S3 server in front of a directory.
//! 4. Any other `SCHEME://` is refused.
//! 5. `NAME` and `NAME:PREFIX` are a storage of the configuration file, if it has one of this name.
//! 6. `WORD:...` with a word that could be a storage's name is refused: it is a misspelt name far more often
//!    than a directory, which can be written `./WORD:...`.
//! 7. Everything else is a directory.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use storage_core::id::FileId;

use crate::config::is_storage_name;

/// What SOURCE or TARGET names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A directory, as written.
    Directory(PathBuf),
    /// What lies beneath a prefix of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// Without `/` at either end; empty: the whole bucket.
        prefix: String,
    },
    /// A storage of the configuration file.
    Named {
        /// Its name.
        name: String,
        /// Beneath the storage's own prefix, without `/` at either end; empty: all of it.
        prefix: String,
    },
    /// The project's own S3 server in front of a directory, in this process.
    Embedded(PathBuf),
}

/// Why a text is no [`Endpoint`]. Its message never repeats credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError {
    /// What is wrong, lower-case.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EndpointError {}

fn wrong<T>(message: impl Into<String>, hint: &'static str) -> Result<T, EndpointError> {
    Err(EndpointError { message: message.into(), hint })
}

impl Endpoint {
    /// Understands `text`; `configured` tells whether the configuration file has a storage of a name.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn parse(text: &OsStr, configured: impl Fn(&str) -> bool) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return wrong("an empty text names no storage", "write a directory or s3://BUCKET/PREFIX");
        }
        // What is not UTF-8 can only be a directory.
        let Some(plain) = text.to_str() else { return Ok(Self::Directory(text.into())) };
        if plain.starts_with('/')
            || plain.starts_with("./")
            || plain.starts_with("../")
            || plain == "."
            || plain == ".."
        {
            return Ok(Self::Directory(text.into()));
        }
        if let Some(rest) = strip_scheme(plain, "s3") {
            return Self::parse_s3(rest);
        }
        if let Some(directory) = plain.strip_prefix("embedded:") {
            if directory.is_empty() {
                return wrong("embedded: needs a directory", "write embedded:DIR");
            }
            return Ok(Self::Embedded(directory.into()));
        }
        if let Some((scheme, rest)) = plain.split_once("://")
            && is_storage_name(scheme)
        {
            // Not shown as written: a URL of another tool may hold a password.
            let _ = rest;
            return wrong(
                format!("{scheme:?} is no kind of storage"),
                "storages are a directory, s3://BUCKET/PREFIX, embedded:DIR or a name of the configuration \
                 file; an S3 server's address goes into AWS_ENDPOINT_URL or the configuration file",
            );
        }
        let (name, prefix) = match plain.split_once(':') {
            Some((name, prefix)) => (name, Some(prefix)),
            None => (plain, None),
        };
        if is_storage_name(name) {
            if configured(name) {
                let prefix = checked_prefix(prefix.unwrap_or_default())?;
                return Ok(Self::Named { name: name.to_owned(), prefix });
            }
            if prefix.is_some() {
                return wrong(
                    format!("no storage named {name:?} is configured"),
                    "add it to the configuration file (see --config), or write ./NAME:... for a directory",
                );
            }
        }
        Ok(Self::Directory(text.into()))
    }

    fn parse_s3(rest: &str) -> Result<Self, EndpointError> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') || bucket.contains(':') {
            return wrong(
                "an s3:// address takes a bucket, no credentials and no host",
                "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, the server's \
                 address from AWS_ENDPOINT_URL: never from the command line, which every user of the machine \
                 can read",
            );
        }
        if bucket.is_empty() {
            return wrong("s3:// needs a bucket", "write s3://BUCKET/PREFIX");
        }
        if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
            return wrong(
                format!("{bucket:?} is no name of a bucket"),
                "a bucket's name has letters, digits, `.`, `-` and `_`",
            );
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: checked_prefix(prefix)? })
    }
}

fn strip_scheme<'t>(text: &'t str, scheme: &str) -> Option<&'t str> {
    let (found, rest) = text.split_once("://")?;
    found.eq_ignore_ascii_case(scheme).then_some(rest)
}

fn checked_prefix(prefix: &str) -> Result<String, EndpointError> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty()
        && let Err(error) = FileId::parse(prefix)
    {
        return wrong(
            format!("the prefix {prefix:?} cannot be the beginning of an id: {error}"),
            "write PREFIX as in photos/2024, without // and without . or .. between slashes",
        );
    }
    Ok(prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(OsStr::new(text), |name| name == "minio")
    }

    fn directory(path: &str) -> Result<Endpoint, EndpointError> {
        Ok(Endpoint::Directory(path.into()))
    }

    fn named(prefix: &str) -> Result<Endpoint, EndpointError> {
        Ok(Endpoint::Named { name: "minio".to_owned(), prefix: prefix.to_owned() })
    }

    fn s3(bucket: &str, prefix: &str) -> Result<Endpoint, EndpointError> {
        Ok(Endpoint::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    #[test]
    fn a_configured_name_wins_over_a_directory_of_that_name_but_never_over_a_path() {
        assert_eq!(parse("minio"), named(""));
        assert_eq!(parse("minio:"), named(""));
        assert_eq!(parse("minio:photos/2024/"), named("photos/2024"));
        for path in ["./minio", "./minio:photos", "/minio", "../minio", ".", "..", "minio/x", "photos", "a b"]
        {
            assert_eq!(parse(path), directory(path));
        }
    }

    #[test]
    fn a_misspelt_name_is_not_taken_for_a_directory() {
        let error = parse("mino:photos").unwrap_err();
        assert!(error.message.contains("\"mino\"") && error.hint.contains("./NAME"), "{error:?}");
    }

    #[test]
    fn one_place_is_one_address() {
        assert_eq!(parse("s3://b"), s3("b", ""));
        assert_eq!(parse("s3://b/"), s3("b", ""));
        assert_eq!(parse("S3://b/p/q"), s3("b", "p/q"));
        assert_eq!(parse("s3://b/p/q/"), s3("b", "p/q"));
        assert_eq!(parse("s3://b/p%20q r"), s3("b", "p%20q r"));
    }

    #[test]
    fn credentials_on_the_command_line_are_refused_and_not_repeated() {
        for text in ["s3://AKIAX:hunter2@bucket/p", "s3://AKIAX@bucket", "s3://host:9000/b"] {
            let error = parse(text).unwrap_err();
            assert!(error.hint.contains("AWS_SECRET_ACCESS_KEY"), "{error:?}");
            assert!(!error.message.contains("AKIAX") && !error.message.contains("hunter2"), "{error:?}");
        }
        let error = parse("https://user:hunter2@host/bucket").unwrap_err();
        assert!(!error.message.contains("hunter2") && error.hint.contains("AWS_ENDPOINT_URL"), "{error:?}");
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["", "s3://", "s3:///p", "s3://b//p", "s3://b/../p", "s3://b c/p", "embedded:", "gs://b"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("embedded:rel/dir"), Ok(Endpoint::Embedded("rel/dir".into())));
    }

    #[test]
    fn a_name_that_is_not_utf8_is_a_directory() {
        let odd = OsStr::from_bytes(b"caf\xe9");
        assert_eq!(Endpoint::parse(odd, |_| false), Ok(Endpoint::Directory(odd.into())));
    }

    proptest! {
        #[test]
        fn a_path_with_a_dot_slash_is_always_that_directory(rest in any::<String>()) {
            let text = format!("./{rest}");
            prop_assert_eq!(parse(&text), directory(&text));
        }

        #[test]
        fn no_password_is_ever_repeated(user in "[A-Za-z0-9]{1,8}", scheme in "s3|S3|https?|sftp") {
            let error = parse(&format!("{scheme}://{user}:ZZhunter2ZZ@host/b")).unwrap_err();
            let shown = format!("{error:?}");
            prop_assert!(!shown.contains("ZZhunter2ZZ"));
        }
    }
}
