//! Objects that are there from the start: the files of a directory.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{HeaderName, HeaderValue};
use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::Sink;
use super::store::{Facts, Object, now};
use crate::floor::walk;

/// Reads each file once and makes it an object whose ETag is its MD5, and which has its SHA-256 as checksum and in the
/// migrator's metadata: so each client verifies what it downloads, by whichever of them it knows.
///
/// # Errors
/// When a file cannot be read, or its name is no key.
pub(super) fn register(sink: &Sink, directory: &Path, bucket: &str, mtimes: bool) -> Result<()> {
    let mut names = Vec::new();
    walk::files(directory, |name, _| {
        names.push(name.to_owned());
        Ok(())
    })?;
    let next = Mutex::new(names.into_iter());
    let work = || -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let Some(name) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return Ok(());
            };
            let object = object(&directory.join(&name), &mut buffer, mtimes)?;
            let Some(name) = name.to_str() else { bail!("{} is no key", name.display()) };
            sink.store.put(&format!("{bucket}/{name}"), object, |_| true);
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..thread::available_parallelism().map_or(1, usize::from)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread that hashes ended early"),
        })
    })
}

fn object(path: &Path, buffer: &mut [u8], mtimes: bool) -> Result<Object> {
    let context = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let (mut md5, mut sha256, mut size) = (Md5::new(), Sha256::new(), 0);
    loop {
        let read = file.read(buffer).with_context(context)?;
        if read == 0 {
            break;
        }
        md5.update(&buffer[..read]);
        sha256.update(&buffer[..read]);
        size += read as u64;
    }
    let sha256 = sha256.finalize();
    let mut facts = Facts {
        content_type: Some(HeaderValue::from_static("application/octet-stream")),
        headers: vec![(
            HeaderName::from_static("x-amz-meta-sha256"),
            HeaderValue::from_str(&hex::encode(sha256))?,
        )],
        checksum: Some((
            HeaderName::from_static("x-amz-checksum-sha256"),
            HeaderValue::from_str(&BASE64.encode(sha256))?,
        )),
    };
    if mtimes {
        let since = file.metadata()?.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        let time = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
        let name = HeaderName::from_static("x-amz-meta-mtime");
        facts.headers.push((name, HeaderValue::from_str(&time)?));
    }
    let etag = format!("\"{}\"", hex::encode(md5.finalize()));
    Ok(Object { size, etag, modified: now(), facts, checksum_type: "FULL_OBJECT", bytes: None })
}
