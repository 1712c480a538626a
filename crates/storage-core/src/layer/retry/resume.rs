//! Streams that go on where they broke off.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::Attempts;
use crate::body::ByteStream;
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::metadata::{FileMetadata, Version};
use crate::storage::{ByteRange, DownloadOptions, FileStorage, ListOptions, Precondition};

/// A body that goes on where it broke off.
pub(super) struct Resuming {
    pub(super) inner: Arc<dyn FileStorage>,
    pub(super) attempts: Attempts,
    pub(super) id: FileId,
    pub(super) version: Version,
    pub(super) body: ByteStream,
    pub(super) position: u64,
    pub(super) end: u64,
}

impl Resuming {
    /// Opens the rest.
    async fn reopen(&mut self) -> Result<ByteStream> {
        let options = DownloadOptions::default()
            .with_range(ByteRange::Between(self.position, self.end))
            .with_when(Precondition::Version(self.version.clone()));
        match self.inner.download(&self.id, options).await {
            Ok(download) => Ok(download.body),
            Err(error) if error.kind() == ErrorKind::VersionMismatch => {
                Err(Error::new(ErrorKind::SourceChanged, Op::Download)
                    .with_id(&self.id)
                    .with_storage(self.inner.name())
                    .with_message("replaced after its body broke off")
                    .with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        let mut item = self.body.next().await;
        loop {
            let error = match item {
                Some(Ok(piece)) => {
                    self.position += piece.len() as u64;
                    if !piece.is_empty() {
                        self.attempts.made = 0;
                    }
                    return Some(Ok(piece));
                }
                None if self.position < self.end => {
                    return Some(Err(Error::new(ErrorKind::Integrity, Op::Download)
                        .with_id(&self.id)
                        .with_storage(self.inner.name())
                        .with_message(format!(
                            "the stream ended {} bytes short",
                            self.end - self.position
                        ))));
                }
                None => return None,
                Some(Err(error)) => error,
            };
            if let Err(error) = self.attempts.after(error).await {
                return Some(Err(error));
            }
            if self.position == self.end {
                // Every byte is there; whether they are the right ones, the verifying stream tells.
                return None;
            }
            item = match self.reopen().await {
                Ok(body) => {
                    self.body = body;
                    self.body.next().await
                }
                Err(error) => Some(Err(error)),
            };
        }
    }

    pub(super) fn into_stream(self) -> ByteStream {
        stream::unfold(Some(self), |state| async move {
            let mut state = state?;
            let item = state.next().await?;
            let state = item.is_ok().then_some(state);
            Some((item, state))
        })
        .fuse()
        .boxed()
    }
}

/// A listing that goes on where it broke off.
pub(super) struct Relisting {
    pub(super) inner: Arc<dyn FileStorage>,
    pub(super) attempts: Attempts,
    pub(super) prefix: Prefix,
    pub(super) options: ListOptions,
    pub(super) listing: BoxStream<'static, Result<FileMetadata>>,
    /// Errors about entries since the last file, and how many of them to leave out because they were told
    /// before the listing broke off.
    pub(super) told: usize,
    pub(super) repeated: usize,
}

impl Relisting {
    async fn next(&mut self) -> Option<Result<FileMetadata>> {
        loop {
            match self.listing.next().await? {
                Ok(file) => {
                    self.options.start_after = Some(file.id.clone());
                    (self.told, self.repeated, self.attempts.made) = (0, 0, 0);
                    return Some(Ok(file));
                }
                // About one entry: the listing goes on by itself.
                Err(error) if error.id().is_some() || error.subject().is_some() => {
                    if self.repeated > 0 {
                        self.repeated -= 1;
                        continue;
                    }
                    self.told += 1;
                    return Some(Err(error));
                }
                Err(error) => {
                    if let Err(error) = self.attempts.after(error).await {
                        self.listing = stream::empty().boxed();
                        return Some(Err(error));
                    }
                    self.repeated = self.told;
                    self.listing = self.inner.list(&self.prefix, self.options.clone());
                }
            }
        }
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<FileMetadata>> {
        stream::unfold(self, |mut state| async move { state.next().await.map(|item| (item, state)) })
            .fuse()
            .boxed()
    }
}
