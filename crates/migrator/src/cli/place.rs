//! Where a storage is: the same place is the same text, and two places are apart or one lies in the other.

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::cli::endpoint::Endpoint;
use crate::collide::Folding;
use crate::config::{self, Config, Storage, check_endpoint};
use crate::failure::{Exit, Failure, Side};
use crate::ledger::Binding;
use crate::quantity::show_name;

/// Where a storage is, with everything resolved that has more than one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory: absolute, no symbolic link in it.
    Directory {
        /// Where.
        path: PathBuf,
        /// Whether an upload is acknowledged before the disk has it.
        relaxed: bool,
    },
    /// The project's own S3 server in front of a directory: absolute, no symbolic link in it.
    Embedded {
        /// Where.
        path: PathBuf,
    },
    /// A bucket, or what lies beneath a prefix. Endpoints of the environment are filled in.
    S3(config::S3),
}

/// `FS_CASEFOLD_FL` (`linux/fs.h`).
const CASEFOLD: u32 = 0x4000_0000;

/// `HFSPLUS_SUPER_MAGIC` (`statfs(2)`).
const HFS_PLUS: i64 = 0x482b;

/// File systems that fold case unless they were told otherwise: vfat, exFAT, HFS+, CIFS, SMB2 (`linux/magic.h`).
const FOLDING_CASE: [i64; 5] = [0x4d44, 0x2011_bab0, HFS_PLUS, 0xff53_4d42, 0xfe53_4d42];

/// The AWS variables that say which server is meant.
#[derive(Clone, Debug, Default)]
pub struct AwsEnv {
    /// `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`, unless `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` is `true`.
    pub endpoint: Option<String>,
    /// `AWS_PROFILE`
    pub profile: Option<String>,
}

impl AwsEnv {
    /// Reads them by `get`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let ignored =
            get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let endpoint = get("AWS_ENDPOINT_URL_S3").or_else(|| get("AWS_ENDPOINT_URL"));
        Self { endpoint: endpoint.filter(|_| !ignored), profile: get("AWS_PROFILE") }
    }

    /// Reads them from the process.
    pub fn of_process() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }
}

impl Place {
    /// Resolves what was named on the command line.
    ///
    /// A source that is a directory, also one behind `embedded:`, must exist; a target need not.
    ///
    /// # Errors
    /// There is no such directory, it is a file, or it cannot be looked at; the endpoint is no URL.
    pub fn of(endpoint: Endpoint, side: Side, config: &Config, aws: &AwsEnv) -> Result<Self, Failure> {
        match endpoint {
            Endpoint::Directory(path) => {
                Ok(Self::Directory { path: resolve_directory(&path, side)?, relaxed: false })
            }
            Endpoint::Embedded(path) => Ok(Self::Embedded { path: resolve_directory(&path, side)? }),
            Endpoint::S3 { bucket, prefix } => {
                Self::s3(config::S3 { bucket, prefix, ..config::S3::default() }, aws)
            }
            Endpoint::Named { name, prefix } => match config.storages.get(&name) {
                Some(Storage::Local { path, relaxed }) => {
                    let path = if prefix.is_empty() { path.clone() } else { path.join(prefix) };
                    Ok(Self::Directory { path: resolve_directory(&path, side)?, relaxed: *relaxed })
                }
                Some(Storage::S3(s3)) => {
                    let mut s3 = s3.clone();
                    s3.prefix = match (s3.prefix.as_str(), prefix.as_str()) {
                        (own, "") => own.to_owned(),
                        ("", more) => more.to_owned(),
                        (own, more) => format!("{own}/{more}"),
                    };
                    Self::s3(s3, aws)
                }
                None => Err(Failure::internal(format!("the storage {name:?} was configured a moment ago"))),
            },
        }
    }

    fn s3(mut s3: config::S3, aws: &AwsEnv) -> Result<Self, Failure> {
        if s3.endpoints.is_empty()
            && let Some(endpoint) = &aws.endpoint
        {
            check_endpoint(endpoint).map_err(|message| {
                Failure::new(Exit::Config, format!("AWS_ENDPOINT_URL: {message}"))
                    .with_hint("write it as in http://127.0.0.1:9000")
            })?;
            s3.endpoints.push(endpoint.clone());
        }
        if s3.endpoints.is_empty() && s3.profile.is_none() {
            s3.profile.clone_from(&aws.profile);
        }
        Ok(Self::S3(s3))
    }

    /// Returns the text that a ledger knows this place by.
    ///
    /// Two storages of one server that are reached by different endpoints are different texts: only whoever
    /// runs them knows better, and can say so by naming the endpoints in the same order.
    pub fn binding(&self) -> String {
        match self {
            Self::Directory { path, .. } => format!("dir:{}", show_path(path)),
            Self::Embedded { path } => format!("embedded:{}", show_path(path)),
            Self::S3(s3) => {
                let mut text = format!("s3://{}", s3.bucket);
                if !s3.prefix.is_empty() {
                    text.push('/');
                    text.push_str(&show_name(&s3.prefix));
                }
                // Writing to a String cannot fail.
                let _ = match (s3.endpoints.as_slice(), &s3.profile) {
                    ([], None) => write!(text, " at the default endpoint"),
                    // A profile may name an endpoint of its own.
                    ([], Some(profile)) => write!(text, " at the endpoint of profile {}", show_name(profile)),
                    (endpoints, _) => write!(text, " at {}", normal_endpoints(endpoints).join(", ")),
                };
                text
            }
        }
    }

    /// Returns which file system a directory is on: equal as long as the same one is mounted there. Nothing where the
    /// place is no directory, or the system does not tell.
    ///
    /// File systems that have an id of their own keep it across mounts and restarts; of others, as NFS, the device number
    /// is all there is.
    pub fn file_system(&self) -> Option<String> {
        let path = self.directory()?;
        let id = rustix::fs::statvfs(path).ok()?.f_fsid;
        if id != 0 {
            return Some(format!("file system {id:x}"));
        }
        let device = rustix::fs::stat(path).ok()?.st_dev;
        Some(format!("device {device:x}"))
    }

    /// Says which directory the place is, and where the file system that it is on is mounted.
    pub fn where_mounted(&self) -> Option<String> {
        let path = self.directory()?;
        let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
        let own = device(path)?;
        let mounted = path.ancestors().take_while(|above| device(above) == Some(own)).last()?;
        Some(format!("{}, mounted at {},", show_path(path), show_path(mounted)))
    }

    /// Returns which names the place takes for one. A directory that is not there yet will be as the one above it;
    /// objects are kept apart by every byte.
    pub fn folding(&self) -> Folding {
        let Self::Directory { path, .. } = self else { return Folding::default() };
        let Some(directory) = path.ancestors().find_map(|path| std::fs::File::open(path).ok()) else {
            return Folding::default();
        };
        let kind = rustix::fs::fstatfs(&directory).map_or(0, |stat| stat.f_type);
        // Directories of ext4 and f2fs may fold, each for itself; what is made in one does too.
        let folds = rustix::fs::ioctl_getflags(&directory).is_ok_and(|flags| flags.bits() & CASEFOLD != 0);
        Folding { case: folds || FOLDING_CASE.contains(&kind), unicode: folds || kind == HFS_PLUS }
    }

    /// Returns the directory, where the place is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory { path, .. } | Self::Embedded { path } => Some(path),
            Self::S3(_) => None,
        }
    }
}

fn normal_endpoints(endpoints: &[String]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_ascii_lowercase()).collect()
}

/// Writes a path so that no two are the same text: bytes that are not UTF-8 as `\xHH`.
fn show_path(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&show_name(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn resolve_directory(path: &Path, side: Side) -> Result<PathBuf, Failure> {
    let shown = show_path(path);
    let resolved = match std::fs::canonicalize(path) {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == io::ErrorKind::NotFound && side == Side::Target => {
            return resolve_missing(path)
                .map_err(|error| Failure::new(Exit::Config, format!("{side} {shown}: {error}")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::Config, format!("{side} {shown} does not exist")).with_hint(
                "check the path, and that the file system is mounted; a bucket is written s3://BUCKET/PREFIX",
            ));
        }
        Err(error) => {
            return Err(Failure::new(Exit::Config, format!("{side} {shown} cannot be looked at: {error}"))
                .with_hint("check the owner and mode of the directories above it"));
        }
    };
    let metadata = std::fs::metadata(&resolved)
        .map_err(|error| Failure::new(Exit::Config, format!("{side} {shown}: {error}")))?;
    if !metadata.is_dir() {
        return Err(Failure::new(Exit::Config, format!("{side} {shown} is not a directory"))
            .with_hint("name the directory, and choose files with --include"));
    }
    Ok(resolved)
}

/// Resolves a path whose last parts are not there: symbolic links in what is there are followed.
pub fn resolve_missing(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut there = path.as_path();
    loop {
        match std::fs::canonicalize(there) {
            Ok(mut resolved) => {
                resolved.extend(missing.into_iter().rev());
                return Ok(resolved);
            }
            // A link to nothing would be followed by whoever creates the path later, to who knows where.
            Err(_) if there.is_symlink() => {
                return Err(io::Error::other(format!("{} is a link to nothing", show_path(there))));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match there.components().next_back() {
                    Some(Component::Normal(name)) => missing.push(name.to_owned()),
                    _ => return Err(io::Error::other("`..` behind a directory that does not exist")),
                }
                there = there.parent().ok_or(error)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Refuses pairs that would copy into themselves, and a ledger or report that would be copied along.
///
/// All paths are resolved.
///
/// # Errors
/// What lies in what.
pub fn check_apart(
    source: &Place,
    target: &Place,
    ledger: Option<&Path>,
    report: Option<&Path>,
) -> Result<(), Failure> {
    let refuse = |message: String, hint: &str| Err(Failure::new(Exit::Refused, message).with_hint(hint));
    let choose = "choose two places of which neither lies in the other";
    let one_in_the_other = match (source, target) {
        (Place::S3(source), Place::S3(target)) => s3_relation(source, target),
        _ => match (source.directory(), target.directory()) {
            (Some(source), Some(target)) => relation(source, target),
            _ => Relation::Apart,
        },
    };
    let (from, to) = (source.binding(), target.binding());
    match one_in_the_other {
        Relation::Same => return refuse(format!("source and target are the same place: {from}"), choose),
        Relation::Above => {
            return refuse(format!("the target {to} lies inside the source {from}"), choose);
        }
        Relation::Beneath => {
            return refuse(format!("the source {from} lies inside the target {to}"), choose);
        }
        Relation::Apart => {}
    }
    for (what, option, path) in [("ledger", "--ledger PATH", ledger), ("report", "--report DIR", report)] {
        for (side, place) in [(Side::Source, source), (Side::Target, target)] {
            if let (Some(path), Some(directory)) = (path, place.directory())
                && matches!(relation(directory, path), Relation::Same | Relation::Above)
            {
                return refuse(
                    format!("the {what} {} lies inside the {side} {}", show_path(path), show_path(directory)),
                    &format!("put it elsewhere with {option}: it would become one of the files"),
                );
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Same,
    /// The first holds the second.
    Above,
    /// The second holds the first.
    Beneath,
    Apart,
}

fn relation(one: &Path, other: &Path) -> Relation {
    match (other.starts_with(one), one.starts_with(other)) {
        (true, true) => Relation::Same,
        (true, false) => Relation::Above,
        (false, true) => Relation::Beneath,
        (false, false) => Relation::Apart,
    }
}

/// Buckets of one name on servers with no endpoint in common are taken for two.
fn s3_relation(one: &config::S3, other: &config::S3) -> Relation {
    let (ours, theirs) = (normal_endpoints(&one.endpoints), normal_endpoints(&other.endpoints));
    let one_server = ours.is_empty() && theirs.is_empty() || ours.iter().any(|url| theirs.contains(url));
    if one.bucket != other.bucket || !one_server {
        return Relation::Apart;
    }
    // A prefix ends at a slash of the key, as a directory does.
    relation(&Path::new("/").join(&one.prefix), &Path::new("/").join(&other.prefix))
}

/// Returns the file name of the ledger of a pair: readable, and with a hash that tells similar pairs apart.
pub fn ledger_name(binding: &Binding) -> String {
    let mut hasher = Sha256::new();
    // A separator that neither text can hold: both have their control characters escaped.
    hasher.update(binding.source.as_bytes());
    hasher.update([0]);
    hasher.update(binding.target.as_bytes());
    let hash = hex::encode(&hasher.finalize()[..4]);
    format!("{}--{}-{hash}.sqlite", slug(&binding.source), slug(&binding.target))
}

/// Keeps what is readable of a place's text, and of that the end, which tells most.
fn slug(text: &str) -> String {
    let text = text.split(" at ").next().unwrap_or(text);
    let mut slug = String::new();
    for char in text.chars() {
        if char.is_ascii_alphanumeric() || matches!(char, '.' | '_') {
            slug.push(char.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_matches(['-', '.']);
    let start = slug.len().saturating_sub(40);
    // Only ASCII is left.
    slug[start..].trim_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &str) -> Place {
        Place::Directory { path: path.into(), relaxed: false }
    }

    fn s3(bucket: &str, prefix: &str, endpoint: Option<&str>) -> Place {
        Place::S3(config::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoints: endpoint.into_iter().map(str::to_owned).collect(),
            ..config::S3::default()
        })
    }

    fn refused(source: &Place, target: &Place) -> Option<String> {
        check_apart(source, target, None, None).err().map(|failure| {
            assert_eq!(failure.exit, Exit::Refused);
            failure.message
        })
    }

    #[test]
    fn a_copy_into_itself_is_refused() {
        let embedded = Place::Embedded { path: "/srv/a/b".into() };
        assert!(refused(&directory("/srv/a"), &directory("/srv/a")).unwrap().contains("same place"));
        assert!(
            refused(&directory("/srv/a"), &directory("/srv/a/b"))
                .unwrap()
                .contains("target dir:/srv/a/b lies inside")
        );
        assert!(
            refused(&directory("/srv/a/b"), &directory("/srv/a"))
                .unwrap()
                .contains("source dir:/srv/a/b lies inside")
        );
        assert!(refused(&directory("/srv/a"), &embedded).is_some());
        assert!(refused(&embedded, &directory("/srv/a/b")).is_some());
        assert_eq!(refused(&directory("/srv/a"), &directory("/srv/ab")), None);
        assert_eq!(refused(&directory("/srv/a"), &s3("srv", "a", None)), None);
    }

    #[test]
    fn prefixes_of_one_bucket_are_told_apart_at_their_slashes() {
        let at = Some("http://h:9000");
        assert!(refused(&s3("b", "", at), &s3("b", "p", Some("http://H:9000/"))).is_some());
        assert!(refused(&s3("b", "p", None), &s3("b", "p", None)).unwrap().contains("same place"));
        assert_eq!(refused(&s3("b", "p", at), &s3("b", "pq", at)), None);
        assert_eq!(refused(&s3("b", "p", at), &s3("b", "p", Some("http://other:9000"))), None);
        assert_eq!(refused(&s3("b", "p", at), &s3("c", "p", at)), None);
    }

    #[test]
    fn the_ledger_and_the_report_are_not_migrated() {
        let (source, target) = (directory("/srv/a"), Place::Embedded { path: "/srv/b".into() });
        let check = |ledger: &str, report: Option<&str>| {
            check_apart(&source, &target, Some(Path::new(ledger)), report.map(Path::new)).err()
        };
        assert!(
            check("/srv/a/l.sqlite", None)
                .unwrap()
                .message
                .contains("ledger /srv/a/l.sqlite lies inside the source")
        );
        assert!(check("/srv/b/x/l.sqlite", None).unwrap().message.contains("inside the target"));
        assert!(check("/l.sqlite", Some("/srv/a")).unwrap().message.contains("report"));
        assert_eq!(check("/srv/l.sqlite", Some("/srv/report")), None);
    }

    #[test]
    fn one_place_is_one_text_whatever_it_is_called() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        let of = |path: &str, side| {
            let endpoint = Endpoint::Directory(root.join(path));
            Place::of(endpoint, side, &Config::default(), &AwsEnv::default()).map(|place| place.binding())
        };
        let real = format!("dir:{}/real", root.display());
        for path in ["real", "link", "real/.", "link/../real"] {
            assert_eq!(of(path, Side::Source).unwrap(), real, "{path}");
        }
        assert_eq!(of("link/new/deep", Side::Target).unwrap(), format!("{real}/new/deep"));
        assert!(of("absent", Side::Source).unwrap_err().message.contains("does not exist"));
        std::fs::write(root.join("file"), "").unwrap();
        assert!(of("file", Side::Source).unwrap_err().message.contains("not a directory"));
        std::os::unix::fs::symlink(root.join("nowhere"), root.join("dangling")).unwrap();
        assert!(of("dangling", Side::Target).unwrap_err().message.contains("link to nothing"));
    }

    #[test]
    fn the_endpoint_of_the_environment_is_part_of_the_place() {
        let aws = |pairs: &'static [(&str, &str)]| {
            AwsEnv::read(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let of = |aws: &AwsEnv| {
            let endpoint = Endpoint::S3 { bucket: "b".into(), prefix: "p".into() };
            Place::of(endpoint, Side::Target, &Config::default(), aws).map(|place| place.binding())
        };
        assert_eq!(of(&AwsEnv::default()).unwrap(), "s3://b/p at the default endpoint");
        let both = aws(&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_S3", "http://B:9000/")]);
        assert_eq!(of(&both).unwrap(), "s3://b/p at http://b:9000");
        let ignored =
            aws(&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")]);
        assert_eq!(of(&ignored).unwrap(), "s3://b/p at the default endpoint");
        let secret = of(&aws(&[("AWS_ENDPOINT_URL", "http://key:hunter2@a")])).unwrap_err();
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(
            of(&aws(&[("AWS_PROFILE", "minio")])).unwrap(),
            "s3://b/p at the endpoint of profile minio"
        );
    }

    #[test]
    fn ledger_names_are_readable_and_never_shared() {
        let name = |source: &str, target: &str| {
            ledger_name(&Binding { source: source.to_owned(), target: target.to_owned() })
        };
        let one = name("dir:/srv/files", "s3://archive/2024 at http://h:9000");
        assert!(one.starts_with("dir-srv-files--s3-archive-2024-") && one.ends_with(".sqlite"), "{one}");
        assert_ne!(one, name("dir:/srv/files", "s3://archive/2024 at http://other:9000"));
        assert_ne!(name("dir:/a", "dir:/b"), name("dir:/b", "dir:/a"));
        let long = name(&format!("dir:/{}", "é/..".repeat(400)), "dir:/\u{202e}");
        assert!(long.len() < 120 && long.is_ascii() && !long.contains('/'), "{long}");
    }
}
