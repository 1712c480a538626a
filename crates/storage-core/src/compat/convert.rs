//! Our words in those of the crate `object_store`, and back.

use std::fmt;
use std::time::SystemTime;

use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, Error as StoreError, ObjectMeta, PutResult, Result, TagSet,
    UpdateVersion,
};

use crate::error::{Error, ErrorKind};
use crate::id::FileId;
use crate::metadata::{FileMetadata, Version};
use crate::storage::{Receipt, UploadOptions};

/// Who failed, in errors that have no kind of their own.
pub(super) const STORE: &str = "FileStorage";

/// Converts an error about `location`.
pub(super) fn failed(location: &Path) -> impl Fn(Error) -> StoreError + Send + 'static {
    let location = location.to_string();
    move |error| {
        let path = error.id().map_or_else(|| location.clone(), ToString::to_string);
        match error.kind() {
            ErrorKind::NotFound => StoreError::NotFound { path, source: error.into() },
            ErrorKind::AlreadyExists => StoreError::AlreadyExists { path, source: error.into() },
            ErrorKind::VersionMismatch => StoreError::Precondition { path, source: error.into() },
            ErrorKind::Denied => StoreError::PermissionDenied { path, source: error.into() },
            ErrorKind::Unauthenticated => StoreError::Unauthenticated { path, source: error.into() },
            ErrorKind::Unsupported => StoreError::NotImplemented {
                operation: error.to_string(),
                implementer: error.storage().unwrap_or(STORE).to_owned(),
            },
            _ => StoreError::Generic { store: STORE, source: error.into() },
        }
    }
}

pub(super) fn not_implemented(implementer: &impl fmt::Display, operation: &str) -> StoreError {
    StoreError::NotImplemented { operation: operation.to_owned(), implementer: implementer.to_string() }
}

pub(super) fn invalid(text: &str, error: impl fmt::Display) -> StoreError {
    StoreError::Generic { store: STORE, source: format!("\"{}\": {error}", text.escape_debug()).into() }
}

pub(super) fn file_id(location: &Path) -> Result<FileId> {
    FileId::parse(location.as_ref()).map_err(|error| invalid(location.as_ref(), error))
}

/// Returns the path that is this id, byte for byte.
pub(super) fn path_of(id: &FileId) -> Result<Path> {
    Ok(Path::parse(id.as_str())?)
}

/// A storage that tells no time is said to be from 1970.
pub(super) fn meta_of(location: &Path, metadata: &FileMetadata) -> ObjectMeta {
    ObjectMeta {
        location: location.clone(),
        last_modified: metadata.modified.unwrap_or(SystemTime::UNIX_EPOCH).into(),
        size: metadata.size,
        e_tag: metadata.version.as_ref().map(ToString::to_string),
        version: None,
    }
}

pub(super) fn put_result(receipt: Receipt) -> PutResult {
    PutResult {
        e_tag: receipt.metadata.version.as_ref().map(ToString::to_string),
        version: None,
        extensions: Default::default(),
    }
}

pub(super) fn version_of(update: UpdateVersion) -> Result<Version> {
    let e_tag = update.e_tag.ok_or_else(|| StoreError::Generic {
        store: STORE,
        source: "an update needs the ETag of what it replaces".into(),
    })?;
    Ok(Version::new(e_tag))
}

/// Takes the attributes that a storage has a place for, and refuses the others.
pub(super) fn upload_options(
    implementer: &impl fmt::Display,
    attributes: &Attributes,
    tags: &TagSet,
) -> Result<UploadOptions> {
    if !tags.is_empty() {
        return Err(not_implemented(implementer, "writing object tags, other than as metadata"));
    }
    let mut options = UploadOptions::default();
    for (attribute, value) in attributes {
        match attribute {
            Attribute::ContentType => options.content_type = Some(value.to_string()),
            Attribute::Metadata(key) => {
                options.tags.insert(key.to_string(), value.to_string());
            }
            other => return Err(not_implemented(implementer, &format!("writing the attribute {other:?}"))),
        }
    }
    Ok(options)
}

pub(super) fn attributes_of(metadata: &FileMetadata) -> Attributes {
    let mut attributes = Attributes::new();
    if let Some(content_type) = &metadata.content_type {
        attributes.insert(Attribute::ContentType, AttributeValue::from(content_type.clone()));
    }
    for (key, value) in &metadata.tags {
        attributes.insert(Attribute::Metadata(key.clone().into()), AttributeValue::from(value.clone()));
    }
    attributes
}
