//! DeleteObject and DeleteObjects.

use futures::stream::{self, StreamExt as _};
use s3s::dto::{self, *};
use s3s::{S3Error, S3ErrorCode, S3Response, S3Result};
use storage_core::error::ErrorKind;
use storage_core::storage::{FileStorage, Precondition};

use crate::gateway::Gateway;
use crate::{condition, error, keys};

/// Most keys of a batch ("DeleteObjects", Amazon S3 API Reference).
const MAX_KEYS: usize = 1000;

/// Keys of a batch that are deleted at a time.
const AT_ONCE: usize = 16;

impl Gateway {
    pub(super) async fn delete_one(
        &self,
        input: DeleteObjectInput,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
            return Err(error::not_implemented("deleting on the condition of a time or a size"));
        }
        let storage = self.bucket(&input.bucket)?;
        delete(&**storage, &input.key, input.if_match.as_ref()).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    pub(super) async fn delete_many(
        &self,
        input: DeleteObjectsInput,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let storage = self.bucket(&input.bucket)?;
        let Delete { objects, quiet } = input.delete;
        if objects.is_empty() || objects.len() > MAX_KEYS {
            let message = format!("a batch has 1 to {MAX_KEYS} keys, this one has {}", objects.len());
            return Err(S3Error::with_message(S3ErrorCode::MalformedXML, message));
        }
        let results: Vec<(String, S3Result<()>)> = stream::iter(objects)
            .map(|object| async move {
                let result = delete_listed(&**storage, &object).await;
                (object.key, result)
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut output = DeleteObjectsOutput::default();
        let (deleted, errors) =
            (output.deleted.get_or_insert_default(), output.errors.get_or_insert_default());
        for (key, result) in results {
            match result {
                Ok(()) if quiet == Some(true) => {}
                Ok(()) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
                Err(failed) => errors.push(dto::Error {
                    code: Some(failed.code().as_str().to_owned()),
                    key: Some(key),
                    message: failed.message().map(str::to_owned),
                    version_id: None,
                }),
            }
        }
        Ok(S3Response::new(output))
    }
}

async fn delete_listed(storage: &dyn FileStorage, object: &ObjectIdentifier) -> S3Result<()> {
    if object.version_id.as_deref().is_some_and(|version| version != "null") {
        return Err(error::not_implemented("a version id"));
    }
    if object.size.is_some() || object.last_modified_time.is_some() {
        return Err(error::not_implemented("deleting on the condition of a time or a size"));
    }
    let condition = object.e_tag.clone().map(ETagCondition::ETag);
    delete(storage, &object.key, condition.as_ref()).await
}

/// Deletes a file; one that is not there is deleted already, unless a condition says that it is.
async fn delete(storage: &dyn FileStorage, key: &str, if_match: Option<&ETagCondition>) -> S3Result<()> {
    let id = match keys::id_of(key) {
        Ok(id) => id,
        // A directory marker, which cannot have been stored.
        Err(_) if key.strip_suffix('/').is_some_and(|name| keys::id_of(name).is_ok()) => return Ok(()),
        Err(error) => return Err(error),
    };
    if if_match.is_some() && !storage.capabilities().conditional_delete {
        return Err(error::not_implemented("If-Match on this storage"));
    }
    let when = match if_match {
        None => Precondition::None,
        Some(_) => condition::for_version(storage, &id, if_match).await?,
    };
    let conditional = when != Precondition::None;
    match storage.delete(&id, when).await {
        Ok(false) if conditional => Err(condition::failed()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && !conditional => Ok(()),
        Err(error) => Err(error::outbound(error)),
    }
}
