//! What a store can do, found by trying, with objects of the storage's own that are deleted again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, CopyMode, CopyOptions, Error as StoreError, GetOptions,
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, UpdateVersion,
};
use tokio::runtime::Handle;

use super::attributes::KEY;
use super::error::convert;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::RESERVED_SEGMENT;

/// Age from which a canary is removed that a killed process left: longer than any probe takes.
const LEFT_OVER: Duration = Duration::from_secs(60 * 60);

const CANARY: &[u8] = b"canary";

/// What was found. Default: nothing, for stores that may not be tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Media type and metadata come back as they were given.
    pub(super) attributes: bool,
    /// [`PutMode::Create`] creates once.
    pub(super) create: bool,
    /// [`PutMode::Update`] compares the ETag.
    pub(super) replaces_by_tag: bool,
    /// [`PutMode::Update`] compares a version that only the store tells.
    pub(super) replaces_by_version: bool,
    /// Copies take the attributes along.
    pub(super) copies: bool,
    /// [`CopyMode::Create`] creates once.
    pub(super) copies_if_absent: bool,
    /// `a` and `a/b` can both exist.
    pub(super) nested: bool,
}

impl Facts {
    pub(super) fn replaces(&self) -> bool {
        self.replaces_by_tag || self.replaces_by_version
    }
}

/// An object of the storage's own that is gone when this is.
struct Canary {
    store: Arc<dyn ObjectStore>,
    path: Option<Path>,
}

impl Canary {
    fn new(store: &Arc<dyn ObjectStore>) -> Result<Self> {
        Self::at(store, format!("{}/{}", directory(), uuid::Uuid::new_v4().simple()))
    }

    fn at(store: &Arc<dyn ObjectStore>, path: String) -> Result<Self> {
        let path = Path::parse(path)
            .map_err(|error| Error::new(ErrorKind::Other, Op::Probe).with_message(error.to_string()))?;
        Ok(Self { store: Arc::clone(store), path: Some(path) })
    }

    fn path(&self) -> &Path {
        const ROOT: &Path = &Path::ROOT;
        self.path.as_ref().unwrap_or(ROOT)
    }

    async fn put(&self, mode: PutMode, attributes: Attributes) -> Result<PutResult, StoreError> {
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        self.store.put_opts(self.path(), PutPayload::from_static(CANARY), options).await
    }

    async fn remove(mut self) -> Result<(), StoreError> {
        match self.path.take() {
            Some(path) => ignore_missing(self.store.delete(&path).await),
            None => Ok(()),
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        if let (Some(path), Ok(runtime)) = (self.path.take(), Handle::try_current()) {
            let store = Arc::clone(&self.store);
            runtime.spawn(async move {
                if let Err(error) = ignore_missing(store.delete(&path).await) {
                    tracing::warn!(%path, %error, "a canary stays behind");
                }
            });
        }
    }
}

fn ignore_missing(result: Result<(), StoreError>) -> Result<(), StoreError> {
    match result {
        Err(StoreError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn directory() -> String {
    format!("{RESERVED_SEGMENT}/canary")
}

fn failed(error: StoreError) -> Error {
    convert(Op::Probe, error)
}

fn given() -> Attributes {
    Attributes::from_iter([
        (Attribute::ContentType, AttributeValue::from("text/x-canary; charset=utf-8")),
        (Attribute::Metadata(KEY.into()), AttributeValue::from("name=a+%25b&tag.k=v")),
    ])
}

async fn keeps(canary: &Canary) -> bool {
    let got = canary.store.get_opts(canary.path(), GetOptions::new().with_head(true)).await;
    got.is_ok_and(|got| given().iter().all(|(key, value)| got.attributes.get(key) == Some(value)))
}

/// Finds out what the store can do. Only a refusal where one is due counts: a 200 proves nothing.
pub(super) async fn try_out(store: &Arc<dyn ObjectStore>) -> Result<Facts> {
    sweep(store).await;
    let mut facts = Facts::default();
    let canary = Canary::new(store)?;
    facts.attributes = canary.put(PutMode::Overwrite, given()).await.is_ok() && keeps(&canary).await;
    let plain = || if facts.attributes { given() } else { Attributes::new() };
    let first = canary.put(PutMode::Overwrite, plain()).await.map_err(failed)?;

    let exists = matches!(canary.put(PutMode::Create, plain()).await, Err(StoreError::AlreadyExists { .. }));
    let fresh = Canary::new(store)?;
    facts.create = exists && fresh.put(PutMode::Create, plain()).await.is_ok();
    facts.replaces_by_tag = replaces(&canary, &first, false, &plain()).await;
    if !facts.replaces_by_tag {
        let now = canary.put(PutMode::Overwrite, plain()).await.map_err(failed)?;
        facts.replaces_by_version = now.version.is_some() && replaces(&canary, &now, true, &plain()).await;
    }

    let copy = Canary::new(store)?;
    let copying = |mode| store.copy_opts(canary.path(), copy.path(), CopyOptions::new().with_mode(mode));
    facts.copies = copying(CopyMode::Overwrite).await.is_ok() && (!facts.attributes || keeps(&copy).await);
    let exists = matches!(copying(CopyMode::Create).await, Err(StoreError::AlreadyExists { .. }));
    let again = Canary::new(store)?;
    let options = CopyOptions::new().with_mode(CopyMode::Create);
    facts.copies_if_absent =
        facts.copies && exists && store.copy_opts(canary.path(), again.path(), options).await.is_ok();

    let beneath = Canary::at(store, format!("{}/beneath", canary.path()))?;
    facts.nested = beneath.put(PutMode::Overwrite, plain()).await.is_ok()
        && store.head(beneath.path()).await.is_ok()
        && store.head(canary.path()).await.is_ok();
    if facts.nested {
        beneath.remove().await.map_err(failed)?;
    } else {
        // There is nothing, and to delete it is an error where its directory is a file.
        let mut beneath = beneath;
        beneath.path = None;
    }
    for canary in [canary, fresh, copy, again] {
        canary.remove().await.map_err(failed)?;
    }
    Ok(facts)
}

/// Tells whether an update of the version that is stored succeeds, and one of the version before is refused.
async fn replaces(canary: &Canary, stored: &PutResult, by_version: bool, attributes: &Attributes) -> bool {
    let update = |result: &PutResult| {
        PutMode::Update(UpdateVersion {
            e_tag: result.e_tag.clone(),
            version: result.version.clone().filter(|_| by_version),
        })
    };
    if stored.e_tag.is_none() || canary.put(update(stored), attributes.clone()).await.is_err() {
        return false;
    }
    matches!(
        canary.put(update(stored), attributes.clone()).await,
        Err(StoreError::Precondition { .. } | StoreError::NotFound { .. })
    )
}

/// Removes the canaries of processes that were killed.
async fn sweep(store: &Arc<dyn ObjectStore>) {
    let Ok(directory) = Path::parse(directory()) else { return };
    let mut listing = store.list(Some(&directory));
    while let Ok(Some(meta)) = listing.try_next().await {
        let modified = SystemTime::from(meta.last_modified);
        if modified.elapsed().is_ok_and(|age| age >= LEFT_OVER)
            && let Err(error) = ignore_missing(store.delete(&meta.location).await)
        {
            tracing::warn!(path = %meta.location, %error, "a canary stays behind");
        }
    }
}

/// Writes, reads back and deletes a canary.
pub(super) async fn canary(store: &Arc<dyn ObjectStore>) -> Result<()> {
    let canary = Canary::new(store)?;
    canary.put(PutMode::Overwrite, Attributes::new()).await.map_err(failed)?;
    let bytes = store.get(canary.path()).await.map_err(failed)?.bytes().await.map_err(failed)?;
    if bytes != CANARY {
        return Err(Error::new(ErrorKind::Integrity, Op::Probe).with_message("the canary came back changed"));
    }
    canary.remove().await.map_err(failed)
}

/// Asks for a canary that is not there.
pub(super) async fn read(store: &Arc<dyn ObjectStore>) -> Result<()> {
    let mut canary = Canary::new(store)?;
    let result = store.head(canary.path()).await;
    canary.path = None;
    match result {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}
