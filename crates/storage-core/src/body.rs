//! Bodies: bytes that can be read again, from any offset.
//!
//! A retry, a fallback and a resumed upload each open the same [`Body`] anew. A one-shot stream is spooled
//! once, by [`Body::spool`], before it becomes one.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::checksum::{Digest, Hasher};
use crate::error::{Error, ErrorKind, Op, Result};
use crate::metadata::Version;

/// Bytes in order, in pieces of any size; an error ends it.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Bytes read from a file at a time: large enough that the hop to a blocking thread is noise, small enough
/// that many streams stay small.
pub const READ_CHUNK: usize = 256 * 1024;

/// Where a [`Body`] gets its bytes.
#[async_trait]
pub trait BodySource: fmt::Debug + Send + Sync + 'static {
    /// Returns the number of bytes; it never changes.
    fn size(&self) -> u64;

    /// Opens the bytes of `range`, which lies within `0..size()`. Every call gives the same bytes, or an error
    /// of kind [`SourceChanged`](ErrorKind::SourceChanged) before or instead of a clean end.
    async fn open(&self, range: Range<u64>) -> Result<ByteStream>;

    /// Returns the bytes where they are in memory already, to spare a copy.
    fn in_memory(&self) -> Option<&Bytes>;
}

/// Replayable bytes of known size. A clone is a reference count.
#[derive(Clone, Debug)]
pub struct Body {
    source: Arc<dyn BodySource>,
    digest: Option<Digest>,
}

impl Body {
    /// Takes bytes that are in memory.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::from_source(Memory(bytes.into()))
    }

    /// Takes an open regular file, from its first byte to its present end, whatever the descriptor's offset.
    ///
    /// The bytes are read through this descriptor only: a `rename` over the path does no harm. Where size,
    /// modification or change time differ at the end of a read from what they are now, the read ends in
    /// [`ErrorKind::SourceChanged`].
    ///
    /// # Errors
    /// When the file's metadata cannot be read.
    pub fn from_file(file: File) -> Result<Self> {
        let identity = Identity::of(&file).map_err(read_error)?;
        Ok(Self::from_source(OpenFile { file: Arc::new(file), identity }))
    }

    /// Opens a regular file; see [`from_file`](Self::from_file).
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        blocking(move || {
            let file = File::open(&path)
                .map_err(|error| read_error(error).with_subject(path.display().to_string()))?;
            Self::from_file(file)
        })
        .await
    }

    /// Takes any source.
    pub fn from_source(source: impl BodySource) -> Self {
        Self { source: Arc::new(source), digest: None }
    }

    /// Reads a one-shot stream to its end: into memory up to `memory_limit` bytes, beyond that into an
    /// unnamed temporary file in `directory` (default: the system's).
    ///
    /// # Errors
    /// Those of the stream, and those of the temporary file.
    pub async fn spool<S>(mut stream: S, memory_limit: usize, directory: Option<&Path>) -> Result<Self>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        let mut memory = BytesMut::new();
        while let Some(piece) = stream.try_next().await? {
            if memory.len() + piece.len() > memory_limit {
                return Self::spool_to_file(memory.freeze(), piece, stream, directory).await;
            }
            memory.extend_from_slice(&piece);
        }
        Ok(Self::from_bytes(memory))
    }

    async fn spool_to_file<S>(
        head: Bytes,
        piece: Bytes,
        mut stream: S,
        directory: Option<&Path>,
    ) -> Result<Self>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
        let write = |mut file: File, piece: Bytes| {
            blocking(move || file.write_all(&piece).map(|()| file).map_err(read_error))
        };
        let file = blocking(move || tempfile::tempfile_in(directory).map_err(read_error)).await?;
        let mut file = write(file, head).await?;
        file = write(file, piece).await?;
        while let Some(piece) = stream.try_next().await? {
            file = write(file, piece).await?;
        }
        blocking(move || {
            file.rewind().map_err(read_error)?;
            Self::from_file(file)
        })
        .await
    }

    /// Says the SHA-256 of the bytes, which the caller has computed from these very bytes in memory: a storage that
    /// needs it need not hash them again.
    ///
    /// Not for what is only expected of the bytes, which is an option of the upload and is compared.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Returns the SHA-256 of the bytes where it is known already.
    pub fn known_digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns the number of bytes.
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    /// Opens all bytes.
    ///
    /// # Errors
    /// Those of the source.
    pub async fn open(&self) -> Result<ByteStream> {
        self.source.open(0..self.size()).await
    }

    /// Opens the bytes of `range`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the range does not lie within the body; those of the source.
    pub async fn open_range(&self, range: Range<u64>) -> Result<ByteStream> {
        if range.start > range.end || range.end > self.size() {
            return Err(Error::new(ErrorKind::InvalidInput, Op::ReadBody)
                .with_message(format!("range {range:?} of a body of {} bytes", self.size())));
        }
        self.source.open(range).await
    }

    /// Reads the bytes of `range` into memory.
    ///
    /// # Errors
    /// Those of [`open_range`](Self::open_range) and of the stream.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        if let (Some(bytes), true) = (self.in_memory(), range.start <= range.end && range.end <= self.size())
        {
            // Both ends lie within a buffer in memory, so they fit a usize.
            return Ok(bytes.slice(range.start as usize..range.end as usize));
        }
        collect(self.open_range(range).await?).await
    }

    /// Returns the bytes where they are in memory already.
    pub fn in_memory(&self) -> Option<&Bytes> {
        self.source.in_memory()
    }

    /// Returns the SHA-256 of all bytes, which are read where it is not known.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and of the stream.
    pub async fn digest(&self) -> Result<Digest> {
        if let Some(known) = self.digest {
            return Ok(known);
        }
        let mut stream = self.open().await?;
        let mut hasher = Hasher::new();
        while let Some(piece) = stream.try_next().await? {
            hasher.update(&piece);
        }
        Ok(hasher.finish())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::from_bytes(bytes)
    }
}

/// Reads a stream to its end into memory.
///
/// # Errors
/// Those of the stream.
pub async fn collect(mut stream: ByteStream) -> Result<Bytes> {
    let Some(first) = stream.try_next().await? else { return Ok(Bytes::new()) };
    let Some(second) = stream.try_next().await? else { return Ok(first) };
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(piece) = stream.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// Holds each piece back until the next one came or the body ended well.
///
/// For whoever announces the length before the bytes, as HTTP does. That the bytes are not those that were stored
/// shows at their end, and behind the announced length an error would reach nobody: this way the last piece is missing,
/// and the client sees a body that broke off.
pub fn held_back(body: ByteStream) -> ByteStream {
    stream::try_unfold((body.fuse(), None), |(mut body, mut held)| async move {
        loop {
            let next = body.try_next().await?;
            let ended = next.is_none();
            match std::mem::replace(&mut held, next) {
                None if !ended => {}
                piece => return Ok(piece.map(|piece| (piece, (body, held)))),
            }
        }
    })
    .boxed()
}

struct Memory(Bytes);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.0.len())
    }
}

#[async_trait]
impl BodySource for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn open(&self, range: Range<u64>) -> Result<ByteStream> {
        let bytes = self.0.slice(range.start as usize..range.end as usize);
        if bytes.is_empty() {
            return Ok(stream::empty().boxed());
        }
        Ok(stream::once(std::future::ready(Ok(bytes))).boxed())
    }

    fn in_memory(&self) -> Option<&Bytes> {
        Some(&self.0)
    }
}

/// What must be equal at both ends of a read for the bytes to be one version of a local file.
///
/// Size and modification time alone miss a rewrite that restores the time; the change time cannot be set back
/// (`stat(2)`, `utimensat(2)`), and device and inode tell a file that was renamed into place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Asks the open descriptor.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn of(file: &File) -> std::io::Result<Self> {
        Ok(Self::from_metadata(&file.metadata()?))
    }

    /// Takes what `stat(2)` answered.
    pub fn from_metadata(metadata: &std::fs::Metadata) -> Self {
        Self::from_parts(
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
        )
    }

    /// Takes the fields of a `stat` that did not come from the standard library; times are seconds and
    /// nanoseconds.
    pub fn from_parts(device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64)) -> Self {
        Self { device, inode, size, modified, changed }
    }

    /// Asks whether the open file is still the version that had this identity.
    ///
    /// A file that was meanwhile replaced by `rename` or deleted is: taking its last name away sets the change
    /// time (`unlink(2)`), so of a file without a name everything but the change time is compared.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn holds(&self, file: &File) -> std::io::Result<bool> {
        let metadata = file.metadata()?;
        let mut now = Self::from_metadata(&metadata);
        if metadata.nlink() == 0 {
            now.changed = self.changed;
        }
        Ok(now == *self)
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the token by which a local storage tells versions apart.
    pub fn version(&self) -> Version {
        Version::new(format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            self.device,
            self.inode,
            self.size,
            self.modified.0,
            self.modified.1,
            self.changed.0,
            self.changed.1
        ))
    }
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    identity: Identity,
}

#[async_trait]
impl BodySource for OpenFile {
    fn size(&self) -> u64 {
        self.identity.size
    }

    async fn open(&self, range: Range<u64>) -> Result<ByteStream> {
        Ok(read_file(Arc::clone(&self.file), self.identity, range))
    }

    fn in_memory(&self) -> Option<&Bytes> {
        None
    }
}

/// Streams the bytes of `range` of an open file, and ends in [`ErrorKind::SourceChanged`] where its identity no
/// longer [holds](Identity::holds) after the last byte. A file that shrank ends the same way, at once.
pub fn read_file(file: Arc<File>, identity: Identity, range: Range<u64>) -> ByteStream {
    stream::try_unfold(Some(range), move |rest| {
        let file = Arc::clone(&file);
        async move {
            let Some(rest) = rest else { return Ok(None) };
            blocking(move || read_chunk(&file, identity, rest)).await
        }
    })
    .boxed()
}

/// Reads a range that is no longer than [`READ_CHUNK`] at once, on a thread that may block. Like [`read_file`], fails
/// where the identity does not hold after the last byte.
pub fn read_whole(file: &File, identity: Identity, range: Range<u64>) -> Result<Bytes> {
    Ok(read_chunk(file, identity, range)?.map_or_else(Bytes::new, |(bytes, _)| bytes))
}

/// Reads the next chunk of `rest`; the chunk that completes it is handed out only after the identity held.
fn read_chunk(
    file: &File,
    identity: Identity,
    rest: Range<u64>,
) -> Result<Option<(Bytes, Option<Range<u64>>)>> {
    let length = usize::try_from(rest.end - rest.start).map_or(READ_CHUNK, |left| left.min(READ_CHUNK));
    let mut buffer = BytesMut::zeroed(length);
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut buffer[filled..], rest.start + filled as u64) {
            Ok(0) => return Err(changed("it became shorter")),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error)),
        }
    }
    let rest = rest.start + length as u64..rest.end;
    if rest.is_empty() {
        if !identity.holds(file).map_err(read_error)? {
            return Err(changed("its size, modification or change time differ from those at the start"));
        }
        return Ok((length > 0).then(|| (buffer.freeze(), None)));
    }
    Ok(Some((buffer.freeze(), Some(rest))))
}

fn changed(how: &str) -> Error {
    Error::new(ErrorKind::SourceChanged, Op::ReadBody).with_message(how)
}

fn read_error(error: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Other,
    };
    Error::new(kind, Op::ReadBody).with_message(error.to_string()).with_source(error)
}

/// Runs blocking file work on tokio's pool for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Other, Op::ReadBody)
            .with_message("the reading thread ended early")
            .with_source(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn the_last_piece_waits_for_a_clean_end() {
        let pieces = |end: Option<Error>| {
            let pieces = ["a", "b", "c"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
            held_back(stream::iter(pieces.into_iter().chain(end.map(Err))).boxed())
        };
        assert_eq!(collect(pieces(None)).await.unwrap(), "abc");
        let mut broken = pieces(Some(Error::new(ErrorKind::Integrity, Op::Download)));
        assert_eq!(broken.try_next().await.unwrap().unwrap(), "a");
        assert_eq!(broken.try_next().await.unwrap().unwrap(), "b");
        assert_eq!(broken.try_next().await.unwrap_err().kind(), ErrorKind::Integrity);
        assert!(broken.next().await.is_none());
        assert_eq!(collect(held_back(stream::empty().boxed())).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_spooled_stream_can_be_read_again_from_memory_and_from_file() {
        for limit in [0, 3, 100] {
            let pieces = stream::iter([Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))]);
            let body = Body::spool(pieces, limit, None).await.unwrap();
            assert_eq!(body.size(), 6);
            for _ in 0..2 {
                assert_eq!(body.read(0..6).await.unwrap(), "abcdef");
                assert_eq!(body.read(2..5).await.unwrap(), "cde");
                assert_eq!(body.read(6..6).await.unwrap(), "");
            }
            assert_eq!(body.read(5..7).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[tokio::test]
    async fn a_file_that_shrinks_under_the_reader_is_an_error_and_not_an_endless_loop() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 3 * READ_CHUNK]).unwrap();
        let body = Body::from_path(file.path()).await.unwrap();
        let mut stream = body.open().await.unwrap();
        stream.try_next().await.unwrap();
        file.as_file().set_len(10).unwrap();
        let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged);
    }

    #[tokio::test]
    async fn a_file_rewritten_under_the_reader_with_its_old_time_never_ends_cleanly() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 3 * READ_CHUNK]).unwrap();
        let old = file.as_file().metadata().unwrap().modified().unwrap();
        let body = Body::from_path(file.path()).await.unwrap();
        let mut stream = body.open().await.unwrap();
        stream.try_next().await.unwrap();
        // The clock behind ctime ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        file.as_file().write_all_at(&[8; 10], 5).unwrap();
        file.as_file().set_modified(old).unwrap();
        let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged);
    }

    #[tokio::test]
    async fn a_file_replaced_or_deleted_under_the_reader_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a"), directory.path().join("b"));
        for replace in [true, false] {
            std::fs::write(&path, vec![7; 3 * READ_CHUNK]).unwrap();
            std::fs::write(&other, b"new").unwrap();
            let body = Body::from_path(&path).await.unwrap();
            let mut stream = body.open().await.unwrap();
            stream.try_next().await.unwrap();
            // The clock behind ctime ticks every few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            if replace {
                std::fs::rename(&other, &path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
            let rest = stream.try_fold(0, |sum, piece| async move { Ok(sum + piece.len()) }).await;
            assert_eq!(rest.unwrap(), 2 * READ_CHUNK);
        }
    }

    #[tokio::test]
    async fn an_empty_file_reads_as_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let body = Body::from_path(file.path()).await.unwrap();
        assert_eq!(body.size(), 0);
        assert_eq!(body.read(0..0).await.unwrap(), "");
        assert_eq!(body.digest().await.unwrap(), Digest::of(b""));
    }
}
