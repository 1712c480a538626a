//! Objects of the storage's own, by which it finds out what a server can do.
//!
//! Each has a key of its own beneath `.storage/probe/` and is deleted whatever happens, also when the future is
//! dropped. A process that is killed deletes nothing: the key therefore names its owner, and when it was made by the
//! owner's clock, and whoever opens the storage removes what owners left that are no more, or have forgotten.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use tokio::runtime::Handle;

use super::error::Request;
use super::facts::time;
use super::list::decode_key;
use super::object::Headers;
use super::{Inner, RESERVED};
use crate::checksum::Digest;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::FileId;
use crate::storage::{Precondition, UploadOptions};

pub(super) const CANARY: &[u8] = b"canary";

/// Age from which a canary is removed whoever its owner is, longer than any probe takes: the owner may be on another
/// machine, or was before this one started anew, or could not remove it because the server was out. Of a process that
/// lives here it is told by the name, and not by the server, whose clock may be hours off: an opening would remove its own
/// canaries while it looks at them.
const OLD: Duration = Duration::from_secs(60 * 60);

/// An object of the storage's own that is gone when this is.
pub(super) struct Canary {
    inner: Arc<Inner>,
    pub(super) key: String,
    pub(super) upload: Option<String>,
    stored: bool,
}

impl Canary {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        let owner = Owner::of(std::process::id()).unwrap_or_default();
        let key = format!("{}{}", directory(inner), name(&owner, SystemTime::now()));
        Self { inner: Arc::clone(inner), key, upload: None, stored: true }
    }

    /// One whose key continues that of another.
    pub(super) fn beneath(other: &Self) -> Self {
        let key = format!("{}/beneath", other.key);
        Self { inner: Arc::clone(&other.inner), key, upload: None, stored: true }
    }

    pub(super) fn headers(&self, part_size: Option<u64>) -> Result<Headers> {
        let id = FileId::parse(RESERVED)
            .map_err(|error| Error::new(ErrorKind::Other, Op::Open).with_message(error.to_string()))?;
        let mut headers = self.inner.headers(&id, &UploadOptions::default(), None, part_size, Op::Open)?;
        headers.storing = Arc::new(headers.storing.without_class());
        Ok(headers)
    }

    pub(super) async fn put(&self, when: &Precondition) -> Result<Option<String>> {
        let digest = Digest::of(CANARY);
        let bytes = Bytes::from_static(CANARY);
        self.inner.put_object(Op::Open, &self.key, bytes, digest, digest, &self.headers(None)?, when).await
    }

    async fn clean(inner: Arc<Inner>, key: String, upload: Option<String>, stored: bool) {
        if let Some(upload) = upload {
            // Gone when it was completed.
            let _ = inner.abort(Op::Open, &key, &upload).await;
        }
        if stored && let Err(error) = inner.delete_key(Op::Open, &key, &Precondition::None).await {
            tracing::warn!(storage = %inner.config.name, key, %error, "a canary stays behind");
        }
    }

    pub(super) async fn remove(mut self) {
        Self::clean(Arc::clone(&self.inner), self.key.clone(), self.upload.clone(), self.stored).await;
        self.stored = false;
        self.upload = None;
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        if !self.stored && self.upload.is_none() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let key = std::mem::take(&mut self.key);
            runtime.spawn(Self::clean(Arc::clone(&self.inner), key, self.upload.take(), self.stored));
        }
    }
}

/// The process that made a canary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owner {
    /// One start of one machine, as seen from one set of process ids.
    machine: String,
    pid: u32,
    /// When the process started, in the kernel's ticks: process ids are used again.
    started: u64,
}

impl Owner {
    /// Returns the process of this machine that has this id now; nothing where there is none, or no telling.
    fn of(pid: u32) -> Option<Self> {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let processes = fs::read_link("/proc/self/ns/pid").ok()?;
        let digest = Digest::of(&[&boot, processes.as_os_str().as_encoded_bytes()].concat()).to_string();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, which may hold anything, ends with the last parenthesis.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { machine: digest.get(..16)?.to_owned(), pid, started })
    }

    fn name(&self) -> String {
        format!("{}-{}-{}", self.machine, self.pid, self.started)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut words = name.split('-');
        let (machine, pid, started) = (words.next()?, words.next()?, words.next()?);
        Some(Self { machine: machine.to_owned(), pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    /// Tells whether the process is no more; nothing where only age can tell.
    fn is_gone(&self) -> Option<bool> {
        let here = Self::of(std::process::id())?;
        (here.machine == self.machine).then(|| Self::of(self.pid).as_ref() != Some(self))
    }
}

/// Names a canary that is made now.
fn name(owner: &Owner, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{}-{now}-{}", owner.name(), uuid::Uuid::new_v4().simple())
}

/// Reads when a canary was made.
fn made(name: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(name.split('-').nth(3)?.parse().ok()?))
}

/// Tells whether a canary may go, of which the server says `since` when it is there.
fn is_left_over(name: &str, since: Option<SystemTime>) -> bool {
    let since = match Owner::parse(name).and_then(|owner| owner.is_gone()) {
        Some(true) => return true,
        Some(false) => made(name),
        None => since,
    };
    since.and_then(|since| since.elapsed().ok()).is_some_and(|age| age >= OLD)
}

fn directory(inner: &Inner) -> String {
    format!("{}{RESERVED}/probe/", inner.key_prefix)
}

/// Removes the canaries, and uploads under their keys, of processes that were killed.
///
/// A page at a time: what is beyond it has the next opening. What fails is logged: nothing depends on it.
pub(super) async fn sweep(inner: &Arc<Inner>) {
    let (objects, uploads) = futures::join!(sweep_objects(inner), sweep_uploads(inner));
    for result in [objects, uploads] {
        match result {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(storage = %inner.config.name, count, "removed canaries of killed processes");
            }
            Err(error) => tracing::debug!(storage = %inner.config.name, %error, "canaries cannot be swept"),
        }
    }
}

async fn sweep_objects(inner: &Arc<Inner>) -> Result<u64> {
    let directory = directory(inner);
    let page = inner
        .clients
        .call(Request::read(Op::Open), |client| {
            client
                .list_objects_v2()
                .bucket(&inner.config.bucket)
                .prefix(&directory)
                .encoding_type(EncodingType::Url)
                .send()
        })
        .await?;
    let encoded = page.encoding_type == Some(EncodingType::Url);
    let mut count = 0;
    for object in page.contents() {
        let Some(key) = object.key().map(|key| decode_key(key, encoded)) else { continue };
        let Some(name) = key.strip_prefix(&directory) else { continue };
        if is_left_over(name, object.last_modified.and_then(time)) {
            inner.delete_key(Op::Open, &key, &Precondition::None).await?;
            count += 1;
        }
    }
    Ok(count)
}

async fn sweep_uploads(inner: &Arc<Inner>) -> Result<u64> {
    let directory = directory(inner);
    let page = inner
        .clients
        .call(Request::read(Op::Open), |client| {
            client
                .list_multipart_uploads()
                .bucket(&inner.config.bucket)
                .prefix(&directory)
                .encoding_type(EncodingType::Url)
                .send()
        })
        .await?;
    let encoded = page.encoding_type == Some(EncodingType::Url);
    let mut count = 0;
    for upload in page.uploads() {
        let Some(key) = upload.key().map(|key| decode_key(key, encoded)) else { continue };
        let (Some(name), Some(upload_id)) = (key.strip_prefix(&directory), upload.upload_id()) else {
            continue;
        };
        if is_left_over(name, upload.initiated.and_then(time)) {
            inner.abort(Op::Open, &key, upload_id).await?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_canary_outlives_neither_its_process_nor_the_hour() {
        let own = Owner::of(std::process::id()).unwrap();
        let name = |owner: &Owner| name(owner, SystemTime::now());
        let ago = |age| Some(SystemTime::now() - age);
        let old = ago(2 * OLD);
        assert!(!is_left_over(&name(&own), ago(Duration::ZERO)), "its process is alive");
        assert!(!is_left_over(&name(&own), old), "the server's clock is its own");
        let forgotten = super::name(&own, SystemTime::now() - 2 * OLD);
        let now = ago(Duration::ZERO);
        assert!(is_left_over(&forgotten, now), "no probe takes an hour: the server was out when it ended");
        let of_an_earlier_release = format!("{}-{}", own.name(), uuid::Uuid::new_v4().simple());
        assert!(!is_left_over(&of_an_earlier_release, old));

        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let other = Owner::of(child.id()).unwrap();
        assert!(!is_left_over(&name(&other), ago(Duration::ZERO)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_left_over(&name(&other), ago(Duration::ZERO)));

        let reused = Owner { started: own.started - 1, ..own.clone() };
        assert!(is_left_over(&name(&reused), ago(Duration::ZERO)), "an earlier process of this id");
        let elsewhere = Owner { machine: "0123456789abcdef".to_owned(), ..own };
        for name in [name(&elsewhere), name(&Owner::default()), "something".to_owned()] {
            assert!(!is_left_over(&name, ago(Duration::ZERO)));
            assert!(is_left_over(&name, old));
            assert!(!is_left_over(&name, None));
        }
    }
}
