//! What a server can do, found by requests that must fail or must show.

use std::sync::Arc;

use aws_sdk_s3::Client;
use bytes::Bytes;

use super::canary::{CANARY, Canary};
use super::config::S3Config;
use super::encryption::{Encryption, Storing};
use super::error::Request;
use super::facts::version;
use super::multipart::Complete;
use super::{Inner, RESERVED};
use crate::checksum::{CompositeDigest, Digest};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, MAX_ID_BYTES};
use crate::metadata::Version;
use crate::storage::{Access, Capabilities, PartLimits, PartNumber, PartReceipt, Precondition};

/// A version that nothing has.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";

/// What the requests depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// `If-None-Match: *` on PUT and on completing a multipart upload.
    pub(super) create: bool,
    /// `If-Match` on PUT and on completing a multipart upload.
    pub(super) replace: bool,
    /// `If-Match` on DELETE.
    pub(super) delete: bool,
    /// Both on `CopyObject`; where not, a conditional copy goes through this machine.
    pub(super) copy: bool,
    /// A PUT with a wrong SHA-256 is refused.
    pub(super) put_sha256: bool,
    /// A part with a wrong SHA-256 is refused.
    pub(super) part_sha256: bool,
    /// The composite of a multipart upload is told.
    pub(super) composite: bool,
    /// The checksum headers are taken.
    pub(super) sends_checksums: bool,
    /// An object `x` is kept next to `x/y`.
    pub(super) nested: bool,
}

impl Features {
    /// What holds while nothing is known: nothing but what is S3 itself, and the headers are sent to find out.
    pub(super) const UNPROBED: Self = Self {
        create: false,
        replace: false,
        delete: false,
        copy: false,
        put_sha256: false,
        part_sha256: false,
        composite: false,
        sends_checksums: true,
        nested: true,
    };

    pub(super) fn from_capabilities(capabilities: &Capabilities) -> Self {
        Self {
            create: capabilities.conditional_create,
            replace: capabilities.conditional_replace,
            delete: capabilities.conditional_delete,
            // Not told by the capabilities; the way around is always right.
            copy: false,
            put_sha256: capabilities.verifies_sha256,
            part_sha256: capabilities.verifies_sha256,
            composite: capabilities.composite_sha256,
            sends_checksums: capabilities.verifies_sha256 || capabilities.composite_sha256,
            nested: capabilities.nested_ids,
        }
    }

    pub(super) fn capabilities(&self, config: &S3Config) -> Capabilities {
        let read_only = config.access == Access::ReadOnly;
        let prefix = config.key_prefix().len();
        let customer = matches!(config.encryption, Encryption::Customer(_));
        Capabilities {
            conditional_create: self.create,
            conditional_replace: self.replace,
            conditional_delete: self.delete,
            verifies_sha256: self.put_sha256 && self.part_sha256,
            composite_sha256: self.composite,
            tags: true,
            // Whoever has the URL would need the key as well.
            presigned_get: !customer,
            presigned_put: !read_only && !customer,
            resumable: true,
            nested_ids: self.nested,
            read_only,
            max_segment_bytes: None,
            max_id_bytes: (prefix > 0).then(|| u32::try_from(MAX_ID_BYTES - prefix).unwrap_or(0)),
            max_size: Some(PartLimits::S3.max_size),
        }
    }

    /// Asks the server, several questions at once.
    pub(super) async fn probe(inner: &Arc<Inner>) -> Result<Self> {
        // First and alone: where it fails the other canaries would say the same in other words.
        stored_as_asked(inner).await?;
        let (single, put_sha256, copy, (), nested, multi) = futures::try_join!(
            conditions_of_single(inner),
            checksum_of_single(inner),
            conditions_of_copy(inner),
            object_tags(inner),
            nested_names(inner),
            multipart(inner),
        )?;
        let features = Self {
            create: single.create && multi.create,
            replace: single.replace && multi.replace,
            delete: single.delete,
            copy,
            put_sha256,
            part_sha256: multi.part_sha256,
            composite: multi.composite,
            sends_checksums: true,
            nested,
        };
        tracing::debug!(storage = %inner.config.name, ?features, "probed");
        Ok(features)
    }
}

/// Reads the answer to a request that must fail with `kind`. An outage is no answer.
fn failed_with<T>(answer: Result<T>, kind: ErrorKind) -> Result<bool> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if error.is_outage() => Err(error),
        Err(error) => Ok(error.kind() == kind),
    }
}

/// Reads the answer to a request with wrong bytes, whichever of its checksums the server looks at.
fn refused<T>(answer: Result<T>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if error.is_outage() => Err(error),
        Err(error) => Ok(matches!(
            error.kind(),
            ErrorKind::Integrity | ErrorKind::InvalidInput | ErrorKind::Unauthenticated | ErrorKind::Denied
        )),
    }
}

fn succeeded<T>(answer: Result<T>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.is_outage() => Err(error),
        Err(_) => Ok(false),
    }
}

fn wrong_version() -> Precondition {
    Precondition::Version(Version::new(NO_VERSION))
}

struct Conditions {
    create: bool,
    replace: bool,
    delete: bool,
}

async fn conditions_of_single(inner: &Arc<Inner>) -> Result<Conditions> {
    let canary = Canary::new(inner);
    // The caller may write at all: the one answer that must be good.
    canary.put(&Precondition::None).await?;
    let wrong = wrong_version();
    let (again, other) = futures::future::join(canary.put(&Precondition::Absent), canary.put(&wrong)).await;
    let mut create = failed_with(again, ErrorKind::AlreadyExists)?;
    let mut replace = failed_with(other, ErrorKind::VersionMismatch)?;
    let stored = async || {
        let etag = inner.head(&canary.key, Op::Open).await?.e_tag;
        Ok::<_, Error>(Precondition::Version(version(etag.as_deref().unwrap_or_default())))
    };
    if replace {
        replace = succeeded(canary.put(&stored().await?).await)?;
    }
    let answer = inner.delete_key(Op::Open, &canary.key, &wrong).await;
    let mut delete = failed_with(answer, ErrorKind::VersionMismatch)?;
    if delete {
        delete = succeeded(inner.delete_key(Op::Open, &canary.key, &stored().await?).await)?;
    }
    if create {
        // A server that refuses the header always would have passed so far.
        inner.delete_key(Op::Open, &canary.key, &Precondition::None).await?;
        create = succeeded(canary.put(&Precondition::Absent).await)?;
    }
    canary.remove().await;
    Ok(Conditions { create, replace, delete })
}

/// Both the signature and the header name other bytes: a server that looks at either refuses.
async fn checksum_of_single(inner: &Arc<Inner>) -> Result<bool> {
    let canary = Canary::new(inner);
    let wrong = Digest::of(b"other bytes");
    let headers = canary.headers(None)?;
    let bytes = Bytes::from_static(CANARY);
    let none = Precondition::None;
    let answer = inner.put_object(Op::Open, &canary.key, bytes, wrong, wrong, &headers, &none).await;
    let refused = refused(answer)?;
    canary.remove().await;
    Ok(refused)
}

async fn conditions_of_copy(inner: &Arc<Inner>) -> Result<bool> {
    let canary = Canary::new(inner);
    canary.put(&Precondition::None).await?;
    let headers = canary.headers(Some(1))?;
    let absent = Precondition::Absent;
    let wrong = wrong_version();
    let copy = |when| inner.copy_object(Op::Open, &canary.key, &canary.key, None, Some(&headers), when);
    let both = failed_with(copy(&absent).await, ErrorKind::AlreadyExists)?
        && failed_with(copy(&wrong).await, ErrorKind::VersionMismatch)?;
    canary.remove().await;
    Ok(both)
}

/// A server that keeps objects as files refuses the second name, or loses the first: both must show.
async fn nested_names(inner: &Arc<Inner>) -> Result<bool> {
    let above = Canary::new(inner);
    above.put(&Precondition::None).await?;
    let beneath = Canary::beneath(&above);
    let mut nested = match beneath.put(&Precondition::None).await {
        Ok(_) => true,
        Err(error) if error.is_outage() => {
            // Some call it an error of their own. An outage concerns the other name as well.
            above.put(&Precondition::None).await?;
            false
        }
        Err(_) => false,
    };
    for key in [&above.key, &beneath.key] {
        nested = nested && !failed_with(inner.head(key, Op::Open).await, ErrorKind::NotFound)?;
    }
    beneath.remove().await;
    above.remove().await;
    Ok(nested)
}

/// Stores a canary as all objects shall be stored, and looks at what became of it.
async fn stored_as_asked(inner: &Arc<Inner>) -> Result<()> {
    if *inner.storing == Storing::default() {
        return Ok(());
    }
    let canary = Canary::new(inner);
    let mut headers = canary.headers(None)?;
    headers.storing = Arc::clone(&inner.storing);
    let digest = Digest::of(CANARY);
    let (bytes, none) = (Bytes::from_static(CANARY), Precondition::None);
    let asked = async {
        inner.put_object(Op::Open, &canary.key, bytes, digest, digest, &headers, &none).await?;
        let head = inner.head(&canary.key, Op::Open).await?;
        let class = head.storage_class().map(|class| class.as_str());
        inner.storing.check_class(class, Op::Open).map_err(|error| inner.ours(error))?;
        // What the answers say of a customer's key proves nothing: without it the object must not be had.
        if inner.storing.customer().is_some() {
            let request = Request::read(Op::Open);
            let bare =
                |client: Client| client.head_object().bucket(&inner.config.bucket).key(&canary.key).send();
            if succeeded(inner.clients.call(request, bare).await)? {
                return Err(inner.fail(ErrorKind::Unsupported, Op::Open).with_message(
                    "the server gives away without the customer key (SSE-C) what was stored with it",
                ));
            }
        }
        Ok(())
    };
    let result = asked.await;
    canary.remove().await;
    result
}

async fn object_tags(inner: &Arc<Inner>) -> Result<()> {
    if !inner.config.object_tags {
        return Ok(());
    }
    let canary = Canary::new(inner);
    let mut headers = canary.headers(None)?;
    headers.tagging = Some("canary=1".to_owned());
    let digest = Digest::of(CANARY);
    let bytes = Bytes::from_static(CANARY);
    let none = Precondition::None;
    let stored = inner.put_object(Op::Open, &canary.key, bytes, digest, digest, &headers, &none).await;
    let tags = match stored {
        Ok(_) => inner.object_tags(&canary.key, Op::Open).await,
        Err(error) => Err(error),
    };
    canary.remove().await;
    let kept = match tags {
        Ok(tags) => tags.get("canary").is_some_and(|value| value == "1"),
        Err(error) if error.kind() == ErrorKind::Unsupported => false,
        Err(error) => return Err(error),
    };
    if kept {
        return Ok(());
    }
    Err(inner.fail(ErrorKind::Unsupported, Op::Open).with_message(
        "the server does not keep object tags: leave `object_tags` at false, tags are user metadata then",
    ))
}

struct Multipart {
    create: bool,
    replace: bool,
    part_sha256: bool,
    composite: bool,
}

async fn multipart(inner: &Arc<Inner>) -> Result<Multipart> {
    let mut canary = Canary::new(inner);
    let part_size = PartLimits::S3.min_part_size;
    // What the completion shall not replace. Before the upload begins: Garage forgets an upload when its key is
    // written.
    canary.put(&Precondition::None).await?;
    let upload = inner.create_upload(Op::Open, &canary.key, &canary.headers(Some(part_size))?).await?;
    canary.upload = Some(upload.clone());
    let wrong = Digest::of(b"other bytes");
    let bytes = Bytes::from_static(CANARY);
    let answer = inner.send_part(Op::Open, &canary.key, &upload, PartNumber::MIN, bytes.clone(), wrong).await;
    let part_sha256 = refused(answer)?;
    let digest = Digest::of(CANARY);
    let part = inner.send_part(Op::Open, &canary.key, &upload, PartNumber::MIN, bytes, digest).await?;
    let parts = [PartReceipt::new(PartNumber::MIN, CANARY.len() as u64, Some(digest), part)];
    let complete = |when| {
        let (key, upload, parts) = (&canary.key, &upload, &parts);
        async move {
            match inner.complete(Op::Open, key, upload, parts, &when).await? {
                Complete::Done(_) => Ok(true),
                Complete::Gone => Ok(false),
            }
        }
    };
    let mut done = None;
    let mut create = false;
    let mut replace = false;
    match complete(Precondition::Absent).await {
        Ok(completed) => done = Some(completed),
        answer => create = failed_with(answer, ErrorKind::AlreadyExists)?,
    }
    if done.is_none() {
        match complete(wrong_version()).await {
            Ok(completed) => done = Some(completed),
            answer => replace = failed_with(answer, ErrorKind::VersionMismatch)?,
        }
    }
    if done.is_none() {
        done = Some(complete(Precondition::None).await?);
    }
    let composite = done == Some(true) && {
        let id = FileId::parse(RESERVED)
            .map_err(|error| Error::new(ErrorKind::Other, Op::Open).with_message(error.to_string()))?;
        let file = inner.file_of(&id, &inner.head(&canary.key, Op::Open).await?, Op::Open)?;
        file.composite == Some(CompositeDigest::of_parts(part_size, [&digest]))
    };
    canary.remove().await;
    Ok(Multipart { create, replace, part_sha256, composite })
}

/// Writes, reads back and deletes a canary; a storage opened for reading only lists.
pub(super) async fn round_trip(inner: &Arc<Inner>) -> Result<()> {
    if inner.config.access == Access::ReadOnly {
        return inner.check_bucket(Op::Probe).await;
    }
    let canary = Canary::new(inner);
    let as_probe = |error: Error| error.with_op(Op::Probe);
    canary.put(&Precondition::None).await.map_err(as_probe)?;
    let request = Request::read(Op::Probe);
    let answer = inner
        .clients
        .call(request, |client| {
            client
                .get_object()
                .bucket(&inner.config.bucket)
                .key(&canary.key)
                .set_sse_customer_algorithm(inner.storing.algorithm())
                .set_sse_customer_key(inner.storing.key())
                .set_sse_customer_key_md5(inner.storing.md5())
                .send()
        })
        .await?;
    let bytes = answer.body.collect().await.map_err(|error| {
        inner.fail(ErrorKind::Unavailable, Op::Probe).with_message("the canary broke off").with_source(error)
    })?;
    let same = bytes.into_bytes() == CANARY;
    canary.remove().await;
    if same {
        return Ok(());
    }
    Err(inner.fail(ErrorKind::Integrity, Op::Probe).with_message("the canary came back changed"))
}
