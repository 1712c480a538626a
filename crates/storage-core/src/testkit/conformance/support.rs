//! What the cases share.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Notify;

use crate::body::{BodySource, ByteStream};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::id::{FileId, Prefix};
use crate::storage::{FileStorage, FileStorageExt, ListOptions, Receipt, UploadOptions};

pub(super) fn id(text: &str) -> FileId {
    FileId::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

pub(super) fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// Makes bytes that differ from position to position and from seed to seed.
pub(super) fn data(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Unwraps, and says what was tried.
#[track_caller]
pub(super) fn ok<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}\n{error:?}"))
}

/// Asserts the kind of a failure.
#[track_caller]
pub(super) fn fails<T: Debug>(result: Result<T>, kind: ErrorKind) -> Error {
    match result {
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error}\n{error:?}");
            error
        }
        Ok(value) => panic!("should have failed with {kind:?}, answered {value:?}"),
    }
}

/// Polls a stream that has ended.
pub(super) async fn nothing_more<T: Debug>(ended: &mut BoxStream<'static, Result<T>>) {
    for _ in 0..3 {
        let more = ended.next().await;
        assert!(more.is_none(), "behind the end: {more:?}");
    }
}

/// Says what a case could not see.
#[expect(clippy::print_stderr, reason = "a skip is printed, never silent")]
pub(super) fn left_out(reason: &str) {
    eprintln!("LEFT OUT: {reason}");
}

/// Compares large contents without printing them.
#[track_caller]
pub(super) fn same(actual: &[u8], expected: &[u8]) {
    assert_eq!(actual.len(), expected.len(), "number of bytes");
    if let Some(at) = actual.iter().zip(expected).position(|(actual, expected)| actual != expected) {
        panic!("byte {at} of {} differs", expected.len());
    }
}

pub(super) async fn put(storage: &Arc<dyn FileStorage>, name: &str, bytes: &Bytes) -> Receipt {
    ok(storage.upload(&id(name), bytes.clone().into(), UploadOptions::default()).await)
}

pub(super) async fn get(storage: &Arc<dyn FileStorage>, name: &str) -> Bytes {
    ok(storage.download_bytes(&id(name)).await)
}

#[track_caller]
pub(super) fn assert_missing(result: Result<Bytes>) {
    fails(result, ErrorKind::NotFound);
}

pub(super) async fn missing(storage: &Arc<dyn FileStorage>, name: &str) {
    assert_missing(storage.download_bytes(&id(name)).await);
    fails(storage.metadata(&id(name)).await, ErrorKind::NotFound);
}

/// Lists to the end; every item must be a file.
pub(super) async fn names(storage: &Arc<dyn FileStorage>, under: &str, options: ListOptions) -> Vec<String> {
    let listing: Result<Vec<_>> =
        storage.list(&prefix(under), options).map_ok(|file| file.id.to_string()).try_collect().await;
    ok(listing)
}

pub(super) async fn all(storage: &Arc<dyn FileStorage>) -> Vec<String> {
    names(storage, "", ListOptions::default()).await
}

/// How long a server that refuses is left alone.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Uploads many files at once. What they are for is tried, not they: a server whose database is locked for a moment under
/// so many, and says so, is asked again.
pub(super) async fn put_all<'a>(storage: &Arc<dyn FileStorage>, names: impl IntoIterator<Item = &'a str>) {
    let uploads: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (storage, id) = (Arc::clone(storage), id(name));
            async move {
                for _ in 0..5 {
                    match storage.upload_bytes(&id, Bytes::from(id.to_string())).await {
                        Err(error) if error.is_outage() => tokio::time::sleep(PAUSE).await,
                        answer => return answer,
                    }
                }
                storage.upload_bytes(&id, Bytes::from(id.to_string())).await
            }
        })
        .collect();
    let results: Vec<_> = stream::iter(uploads).buffer_unordered(16).collect().await;
    results.into_iter().for_each(|result| {
        ok(result);
    });
}

/// How a [`TestBody`] ends.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// Cleanly.
    Clean,
    /// With an error of this kind.
    Error(ErrorKind),
    /// Not at all; the notification says that the reader waits.
    Never(Arc<Notify>),
}

/// A body that gives `bytes` in pieces of `piece` bytes, says that it has `size`, and then ends as told.
#[derive(Debug)]
pub(super) struct TestBody {
    pub(super) bytes: Bytes,
    pub(super) size: u64,
    pub(super) piece: usize,
    pub(super) ending: Ending,
}

impl TestBody {
    pub(super) fn new(bytes: Bytes, ending: Ending) -> Self {
        Self { size: bytes.len() as u64, bytes, piece: 64 << 10, ending }
    }
}

#[async_trait]
impl BodySource for TestBody {
    fn size(&self) -> u64 {
        self.size
    }

    async fn open(&self, range: Range<u64>) -> Result<ByteStream> {
        // A body that is too long is so at its end.
        let end = if range.end == self.size { self.bytes.len() } else { range.end as usize };
        let end = end.min(self.bytes.len());
        let bytes = self.bytes.slice((range.start as usize).min(end)..end);
        let piece = self.piece;
        let pieces = stream::iter(
            (0..bytes.len())
                .step_by(piece)
                .map(move |start| Ok(bytes.slice(start..bytes.len().min(start + piece)))),
        );
        // Parts before the end are whole whatever the ending.
        if range.end as usize <= self.bytes.len() && range.end < self.size {
            return Ok(pieces.boxed());
        }
        Ok(match self.ending.clone() {
            Ending::Clean => pieces.boxed(),
            Ending::Error(kind) => {
                let error = Error::new(kind, Op::ReadBody).with_message("the test said so");
                pieces.chain(stream::once(async { Err(error) })).boxed()
            }
            Ending::Never(waits) => pieces
                .chain(stream::once(async move {
                    waits.notify_one();
                    std::future::pending().await
                }))
                .boxed(),
        })
    }

    fn in_memory(&self) -> Option<&Bytes> {
        None
    }
}
